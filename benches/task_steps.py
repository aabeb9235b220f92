"""What does one step of a task cost: `await asyncio.sleep(0)`, alone and among a hundred tasks?

Run alone (`python benches/task_steps.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. Never measures how a task is created.
"""

import asyncio

from measure import Case, per_operation
from rounds import main

TASKS = 100


async def one_task(count: int) -> None:
    """One task gives way `count` times; nothing else is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def many_tasks(count: int) -> None:
    """A hundred tasks give way in turn, `count` times together."""
    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(one_task(count // TASKS))


CASES = [
    Case("one_task", "sleep(0), one task", "ns", per_operation(one_task, 10_000)),
    Case("many_tasks", "sleep(0), 100 tasks", "ns", per_operation(many_tasks, 50_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
