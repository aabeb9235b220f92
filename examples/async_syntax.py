"""await, async for, async with and asynchronous generators, each as small as it gets.

For a newcomer to read and run: python examples/async_syntax.py
Needs nothing but aioxide, and never touches the network.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from time import perf_counter

import aioxide as asyncio


async def fetch(page: str) -> str:
    """Stands for anything that waits: a request, a query, a file."""
    await asyncio.sleep(0.03)
    return f"<{page}>"


async def one_after_the_other() -> list[str]:
    return [await fetch("one"), await fetch("two"), await fetch("three")]


async def all_at_once() -> list[str]:
    return await asyncio.gather(fetch("one"), fetch("two"), fetch("three"))


async def awaiting() -> None:
    """Three waits of 30 ms take 90 ms in a row, and 30 ms side by side: three times faster."""
    for way in (one_after_the_other, all_at_once):
        began = perf_counter()
        pages = await way()
        milliseconds = (perf_counter() - began) * 1000
        print(f"{way.__name__.replace('_', ' ')}: {' '.join(pages)} in {milliseconds:.0f} ms")


class Countdown:
    """An asynchronous iterator by hand: `__anext__` may wait before each item."""

    def __init__(self, start: int) -> None:
        self.left = start

    def __aiter__(self) -> "Countdown":
        return self

    async def __anext__(self) -> int:
        if self.left == 0:
            raise StopAsyncIteration
        await asyncio.sleep(0.005)
        self.left -= 1
        return self.left + 1


async def iterating() -> None:
    async for number in Countdown(3):
        print(f"  {number}")
    print("lift-off after", [number async for number in Countdown(5) if number % 2])


class Door:
    """An asynchronous context manager by hand: both ends may wait."""

    async def __aenter__(self) -> "Door":
        await asyncio.sleep(0.005)
        print("  the door is open")
        return self

    async def __aexit__(self, *exception_details) -> None:
        await asyncio.sleep(0.005)
        print("  the door is closed")


@asynccontextmanager
async def lamp() -> AsyncIterator[str]:
    """The same in one function: what stands before `yield` opens, what stands after it closes."""
    print("  the lamp is on")
    try:
        yield "lamp"
    finally:
        print("  the lamp is off")


async def managing() -> None:
    try:
        async with Door(), lamp():
            print("  inside, something breaks")
            raise ValueError("a vase")
    except ValueError as error:
        print(f"everything was closed before we heard of it: {error}")


async def readings(sensor: str) -> AsyncIterator[int]:
    """An asynchronous generator: an iterator written as a loop, with a clean-up of its own."""
    print(f"  {sensor}: connected")
    try:
        for reading in range(20, 30):
            await asyncio.sleep(0.002)
            yield reading
    finally:
        await asyncio.sleep(0.002)
        print(f"  {sensor}: disconnected")


async def generating() -> None:
    """Leaving a generator early leaves it open; `aclosing` closes it here, and in this task."""
    async with aclosing(readings("thermometer")) as temperatures:
        async for temperature in temperatures:
            if temperature > 22:
                print(f"  {temperature} degrees is warm enough")
                break
    print("the thermometer was disconnected before we went on")


async def main() -> None:
    for step in (awaiting, iterating, managing, generating):
        print(f"-- {step.__name__}")
        await step()


if __name__ == "__main__":
    asyncio.run(main())
