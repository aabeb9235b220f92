"""How much do the figures of one run differ where the loops cannot differ?

Run alone (`python benches/control.py`) or by `run.py`. Coroutines that never suspend do not reach
the loop: whatever differs in this row is the machine's noise. Never a row to win.
"""

from measure import Case, per_operation
from rounds import main


async def nothing() -> None:
    """A coroutine that never suspends."""


async def awaits(count: int) -> None:
    """Await it."""
    for _ in range(count):
        await nothing()


CASES = [
    Case(
        "control", "control: awaits that never reach the loop", "ns", per_operation(awaits, 100_000)
    ),
]

if __name__ == "__main__":
    main(__file__, CASES)
