"""What does it cost to wake another task through a Future?

Run alone (`python benches/futures.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. Never creates a task in the timed path but two.
"""

import asyncio

from measure import Case, per_operation
from rounds import main


async def player(
    mine: list[asyncio.Future[None]], theirs: list[asyncio.Future[None]], turns: int
) -> None:
    """Lay out a new Future, resolve the other player's, wait for one's own."""
    loop = asyncio.get_running_loop()
    for _ in range(turns):
        mine[0] = waiting = loop.create_future()
        theirs[0].set_result(None)
        await waiting
    if not theirs[0].done():
        theirs[0].set_result(None)


async def back_and_forth(count: int) -> None:
    """Two tasks, `count` Futures created, awaited and resolved between them."""
    loop = asyncio.get_running_loop()
    left, right = [loop.create_future()], [loop.create_future()]
    other = asyncio.create_task(player(right, left, count // 2))
    await player(left, right, count // 2)
    await other


CASES = [
    Case(
        "back_and_forth",
        "two tasks passing Futures back and forth",
        "ns",
        per_operation(back_and_forth, 10_000),
    ),
]

if __name__ == "__main__":
    main(__file__, CASES)
