"""What does passing an item through a queue cost, with and without waiting?

Run alone (`python benches/queues.py`) or by `run.py`. The class is the subject's own: aioxide's on
aioxide, asyncio's on every other loop. Never looks into a queue.
"""

import asyncio

from loops import namespace
from measure import Case, per_operation
from rounds import main


async def free(count: int) -> None:
    """One task puts an item and gets it, `count` times: nothing ever waits."""
    queue: asyncio.Queue[int] = namespace().Queue()
    for number in range(count):
        await queue.put(number)
        await queue.get()


async def waiting(count: int) -> None:
    """A producer and a consumer with a single slot between them: every put and get waits."""
    queue: asyncio.Queue[int] = namespace().Queue(1)

    async def produce() -> None:
        for number in range(count):
            await queue.put(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        for _ in range(count):
            await queue.get()


CASES = [
    Case("free", "Queue, put and get without waiting", "ns", per_operation(free, 10_000)),
    Case("waiting", "Queue(1), every put and get waits", "ns", per_operation(waiting, 10_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
