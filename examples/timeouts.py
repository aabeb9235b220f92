"""Deadlines: timeout, timeout_at, wait_for and shield, and whose TimeoutError it was.

For a newcomer to read and run: python examples/timeouts.py
Needs nothing but aioxide, and never touches the network.
"""

import aioxide as asyncio


async def answer(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "forty-two"


async def a_deadline() -> None:
    """`timeout` cancels what is inside when time is up, and turns that into TimeoutError."""
    try:
        async with asyncio.timeout(0.02):
            await answer(3600)
    except TimeoutError:
        print("too slow, we went on after 20 ms")
    async with asyncio.timeout(3600):
        print(f"in time: {await answer(0.01)}")


async def connect() -> str:
    """Stands for a call with a time limit of its own, such as a socket's."""
    await asyncio.sleep(0)
    raise TimeoutError("the other side does not answer")


async def whose_timeout() -> None:
    """TimeoutError is also what sockets raise, so ask the deadline whether it has expired."""
    for call in (connect, lambda: answer(3600)):
        try:
            async with asyncio.timeout(0.02) as deadline:
                await call()
        except TimeoutError as error:
            if deadline.expired():
                print("our own deadline passed")
            else:
                print(f"not our deadline: {error}")


async def nested_deadlines() -> None:
    """Each deadline ends its own block only; the outer one goes on counting."""
    async with asyncio.timeout(3600) as outer:
        for attempt in (1, 2):
            try:
                async with asyncio.timeout(0.01):
                    await answer(3600)
            except TimeoutError:
                print(f"  attempt {attempt} was cut short")
        print(f"the outer deadline still holds: {not outer.expired()}")


async def a_moving_deadline() -> None:
    """`reschedule` gives more time while there is progress."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(3600) as deadline:
        for _ in range(3):
            deadline.reschedule(loop.time() + 3600)
            await answer(0.005)
        deadline.reschedule(None)
        print(f"switched off after three steps of progress: {deadline.when() is None}")


async def saving(saved: asyncio.Event) -> str:
    await asyncio.sleep(0.03)
    saved.set()
    return "saved"


async def not_to_be_interrupted() -> None:
    """`shield` lets go of the waiting, not of the work. Keep the task: it is ours to await."""
    saved = asyncio.Event()
    task = asyncio.create_task(saving(saved))
    try:
        async with asyncio.timeout(0.001):
            await asyncio.shield(task)
    except TimeoutError:
        print("nobody waits any longer")
    print(f"but the work was finished: {await task}")


async def one_call() -> None:
    """`wait_for` is `timeout` around one awaitable; before Python 3.12 it makes a task of it."""
    print(f"wait_for: {await asyncio.wait_for(answer(0.001), timeout=3600)}")


async def main() -> None:
    for step in (
        a_deadline,
        whose_timeout,
        nested_deadlines,
        a_moving_deadline,
        not_to_be_interrupted,
        one_call,
    ):
        print(f"-- {step.__name__.replace('_', ' ')}")
        await step()


if __name__ == "__main__":
    asyncio.run(main())
