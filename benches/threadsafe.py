"""What does `call_soon_threadsafe` cost: a flood from another thread, and a round trip?

Run alone (`python benches/threadsafe.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. Both threads stay on one core: they share the
interpreter's lock, and so the figure does not depend on how far apart two cores are.
"""

import asyncio
import queue
import threading

from measure import Case, per_operation
from rounds import main


def nothing() -> None:
    """The callback of the flood."""


async def flood(count: int) -> None:
    """Another thread posts callbacks as fast as it can; the loop runs them all."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def post() -> None:
        for _ in range(count - 1):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=post)
    thread.start()
    await done
    thread.join()


async def round_trip(count: int) -> None:
    """The loop hands a Future to another thread, which has it resolved; one at a time."""
    loop = asyncio.get_running_loop()
    asked: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

    def answer() -> None:
        while (future := asked.get()) is not None:
            loop.call_soon_threadsafe(future.set_result, None)

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(count):
        future = loop.create_future()
        asked.put(future)
        await future
    asked.put(None)
    thread.join()


CASES = [
    Case("flood", "call_soon_threadsafe, a flood", "ns", per_operation(flood, 20_000)),
    Case("round_trip", "to another thread and back", "ns", per_operation(round_trip, 2_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
