"""What does `run_in_executor` cost: one call at a time, and calls in batches of a hundred?

Run alone (`python benches/executor.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. The loop and the executor's threads stay on one core:
they share the interpreter's lock, and so the figure does not depend on how far apart cores are.
"""

import asyncio

from measure import Case, per_operation
from rounds import main


def nothing() -> None:
    """The call that is handed over."""


async def round_trip(count: int) -> None:
    """One call at a time, each awaited."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.run_in_executor(None, nothing)


async def batches(count: int) -> None:
    """A hundred calls at once, then the next hundred."""
    loop = asyncio.get_running_loop()
    for _ in range(count // 100):
        await asyncio.gather(*[loop.run_in_executor(None, nothing) for _ in range(100)])


CASES = [
    Case("round_trip", "a call in the executor", "ns", per_operation(round_trip, 2_000)),
    Case("batches", "100 calls in the executor at once", "ns", per_operation(batches, 5_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
