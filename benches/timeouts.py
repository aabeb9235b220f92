"""What does it cost to put a time limit on something that is done in time?

Run alone (`python benches/timeouts.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. No limit is ever reached.
"""

import asyncio

from measure import Case, per_operation
from rounds import main


async def answer() -> int:
    return 42


async def nested(count: int) -> None:
    """One timeout inside another, `count` times."""
    for _ in range(count):
        async with asyncio.timeout(60), asyncio.timeout(30):  # noqa: ASYNC100  # the cost of it
            pass


async def limited(count: int) -> None:
    """`wait_for` a coroutine that never waits, `count` times."""
    for _ in range(count):
        await asyncio.wait_for(answer(), 60)


CASES = [
    Case("nested", "two nested timeouts, not reached", "ns", per_operation(nested, 10_000)),
    Case("wait_for", "wait_for a coroutine", "ns", per_operation(limited, 10_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
