"""What does a task cost that has nothing to do: created, run, awaited?

Run alone (`python benches/task_create.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. Never suspends inside the new task.
"""

import asyncio

from measure import Case, per_operation
from rounds import main


async def nothing() -> None:
    """The coroutine of every task of this bench."""


async def awaited(count: int) -> None:
    """Create a task and wait for it, again and again."""
    for _ in range(count):
        await asyncio.create_task(nothing())


async def spawned(count: int) -> None:
    """Create all tasks, then wait for each."""
    tasks = [asyncio.create_task(nothing()) for _ in range(count)]
    for task in tasks:
        await task


CASES = [
    Case("awaited", "create a task and await it", "ns", per_operation(awaited, 5_000)),
    Case("spawned", "create 1,000 tasks, await them", "ns", per_operation(spawned, 1_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
