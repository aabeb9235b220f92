"""What does it cost to run ten thousand trivial tasks and to wait for all of them?

Run alone (`python benches/gather.py`) or by `run.py`; only names of asyncio are used, so the code
under test is the same for every loop. The tasks never wait: what is left is making them, one step
of each, and learning that it is done.
"""

import asyncio

from measure import Case, per_operation
from rounds import main

CHILDREN = 10_000


async def child(number: int) -> int:
    return number


async def gather(count: int) -> None:
    """`count` coroutines, given to one `gather`."""
    results = await asyncio.gather(*(child(number) for number in range(count)))
    assert results[-1] == count - 1


async def group(count: int) -> None:
    """`count` tasks, made in one `TaskGroup`."""
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(child(number))


CASES = [
    Case(
        "gather",
        f"gather of {CHILDREN:,} trivial coroutines, per coroutine",
        "ns",
        per_operation(gather, CHILDREN),
    ),
    Case(
        "task_group",
        f"TaskGroup of {CHILDREN:,} trivial tasks, per task",
        "ns",
        per_operation(group, CHILDREN),
    ),
]

if __name__ == "__main__":
    main(__file__, CASES)
