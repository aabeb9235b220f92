"""What does `call_soon` cost, from the call until its callback has returned?

Run alone (`python benches/call_soon.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. Never touches a socket or a task switch.
"""

import asyncio
import contextvars

from measure import Case, per_operation
from rounds import main


def nothing(*_: object) -> None:
    """The callback of this bench."""


async def batch(count: int) -> None:
    """Schedule all callbacks, then let the loop run them."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for _ in range(count - 1):
        loop.call_soon(nothing)
    loop.call_soon(done.set_result, None)
    await done


async def chain(count: int) -> None:
    """Each callback schedules the next one: a turn of the loop for each."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def arguments(count: int) -> None:
    """As `batch`, with two arguments and a context of the caller's own."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    context = contextvars.copy_context()
    for _ in range(count - 1):
        loop.call_soon(nothing, 1, "two", context=context)
    loop.call_soon(done.set_result, None)
    await done


CASES = [
    Case("batch", "call_soon, 10,000 at once", "ns", per_operation(batch, 10_000)),
    Case("chain", "call_soon, each schedules the next", "ns", per_operation(chain, 10_000)),
    Case(
        "arguments",
        "call_soon with two arguments and a context",
        "ns",
        per_operation(arguments, 10_000),
    ),
]

if __name__ == "__main__":
    main(__file__, CASES)
