"""The syntax: awaiting in a row and together, async for, async with, asynchronous generators.

Run by test_guide.py under plain Python and under `python -m aioxide`; both must print the same.
Asserts nothing itself.
"""

import asyncio
import time


async def fetch(url: str) -> dict[str, object]:
    await asyncio.sleep(0.03)
    return {"url": url, "status": 200}


async def in_a_row() -> list[dict[str, object]]:
    print("in a row")
    first = await fetch("one")
    second = await fetch("two")
    third = await fetch("three")
    return [first, second, third]


async def together() -> list[dict[str, object]]:
    print("together")
    return await asyncio.gather(fetch("one"), fetch("two"), fetch("three"))


class Numbers:
    def __init__(self, last: int) -> None:
        self.last = last
        self.current = 0

    def __aiter__(self) -> "Numbers":
        return self

    async def __anext__(self) -> int:
        if self.current >= self.last:
            raise StopAsyncIteration
        self.current += 1
        await asyncio.sleep(0.002)
        return self.current


class Resource:
    async def __aenter__(self) -> "Resource":
        print("acquiring")
        await asyncio.sleep(0.005)
        print("acquired")
        return self

    async def __aexit__(self, kind, error, traceback) -> None:
        print(f"releasing after {kind}")
        await asyncio.sleep(0.005)
        print("released")


async def generate(count: int):
    try:
        for number in range(count):
            await asyncio.sleep(0.002)
            yield number
    finally:
        print(f"the generator of {count} was closed")


async def main() -> None:
    print(await in_a_row())
    began = time.monotonic()
    print(await together())
    print(f"not sooner than the slowest: {time.monotonic() - began >= 0.03}")
    async for number in Numbers(4):
        print(f"number {number}")
    async with Resource():
        print("using")
    try:
        async with Resource():
            raise LookupError("nothing there")
    except LookupError as error:
        print(f"caught {error!r}")
    async for value in generate(3):
        print(f"value {value}")
    async for value in generate(9):
        if value == 1:
            break
    print("left a generator open; the loop closes it at the end")


asyncio.run(main())
print("end")
