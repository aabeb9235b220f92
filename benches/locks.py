"""What do locks, semaphores and events cost, free and waited for?

Run alone (`python benches/locks.py`) or by `run.py`. The classes are the subject's own: aioxide's
on aioxide, asyncio's on every other loop. Never measures how the tasks that use them are made.
"""

import asyncio

from loops import namespace
from measure import Case, per_operation
from rounds import main

WAITERS = 1_000
TASKS = 10


async def free_lock(count: int) -> None:
    """One task takes a lock that nobody else wants, `count` times."""
    lock = namespace().Lock()
    for _ in range(count):
        async with lock:
            pass


async def contended_lock(count: int) -> None:
    """Ten tasks want the same lock, which each holds for a turn of the loop."""
    await _contend(namespace().Lock(), count)


async def contended_semaphore(count: int) -> None:
    """Ten tasks want two permits, which each holds for a turn of the loop."""
    await _contend(namespace().Semaphore(2), count)


async def _contend(limit: asyncio.Lock | asyncio.Semaphore, count: int) -> None:
    async def visit() -> None:
        for _ in range(count // TASKS):
            async with limit:
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(visit())


async def woken(count: int) -> None:
    """A thousand tasks wait for an event, again and again; `count` of them wake up in all."""
    module = namespace()
    turns = count // WAITERS
    events = [module.Event() for _ in range(turns)]

    async def wait() -> None:
        for event in events:
            await event.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(WAITERS):
            group.create_task(wait())
        for event in events:
            await asyncio.sleep(0)
            event.set()


CASES = [
    Case("free_lock", "Lock, nobody else wants it", "ns", per_operation(free_lock, 10_000)),
    Case("contended_lock", "Lock, ten tasks", "ns", per_operation(contended_lock, 10_000)),
    Case(
        "contended_semaphore",
        "Semaphore(2), ten tasks",
        "ns",
        per_operation(contended_semaphore, 10_000),
    ),
    Case("woken", "Event, a thousand tasks wake up", "ns", per_operation(woken, 20_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
