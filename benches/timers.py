"""What does a timer cost that is cancelled, that is replaced, that fires?

Run alone (`python benches/timers.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. Never waits for a deadline: how late a timer fires is
the question of `short_sleep.py`.
"""

import asyncio
import random

from measure import Case, per_operation
from rounds import main

LIVE = 1_000
REPLACED_IN_A_TURN = 50


def nothing() -> None:
    """The callback of the timers that are cancelled."""


async def cancelled(count: int) -> None:
    """Create timers far ahead, cancel all of them, and give the loop a turn to forget them."""
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(60 + index % 97, nothing) for index in range(count)]
    for timer in timers:
        timer.cancel()
    await asyncio.sleep(0)


async def churned(count: int) -> None:
    """Among a thousand live timers replace one after another, as connections push timeouts on."""
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(60 + index % 97, nothing) for index in range(LIVE)]
    for index in range(count):
        slot = index % LIVE
        timers[slot].cancel()
        timers[slot] = loop.call_later(60 + index % 97, nothing)
        if index % REPLACED_IN_A_TURN == 0:
            await asyncio.sleep(0)
    for timer in timers:
        timer.cancel()


async def fired(count: int) -> None:
    """Create timers in a shuffled order that are due by the time the last is created."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = count

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    delays = [index * 1e-3 / count for index in range(count)]
    random.Random(1).shuffle(delays)
    now = loop.time()
    for delay in delays:
        loop.call_at(now + delay, fire)
    await done


CASES = [
    Case("cancelled", "timer created and cancelled", "ns", per_operation(cancelled, 10_000)),
    Case("churned", "timer replaced among 1,000", "ns", per_operation(churned, 20_000)),
    Case("fired", "timer created and fired", "ns", per_operation(fired, 10_000)),
]

if __name__ == "__main__":
    main(__file__, CASES)
