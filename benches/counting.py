"""What do the counters of every task cost? The same steps with counting on and off, on aioxide.

Run alone: `python benches/counting.py [--quick]`. Only aioxide has such counters, so there is no
peer; the rounds alternate, and the ratio of the medians is printed. Never part of the table.
"""

import asyncio
import statistics
import sys
import time

import aioxide

ROUNDS = 15
STEPS = 100_000
TASKS = 30_000


async def steps(count: int) -> None:
    """One task that gives up its turn `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def nothing() -> None:
    """A task that is done at once."""


async def creations(count: int) -> None:
    """A task is created and awaited, `count` times."""
    for _ in range(count):
        await asyncio.create_task(nothing())


def nanoseconds(body: object, count: int, counting: bool) -> float:
    """The processor's time of one operation, in nanoseconds."""
    loop = aioxide.new_event_loop()
    loop._set_counting(counting)
    try:
        started = time.process_time_ns()
        loop.run_until_complete(body(count))  # type: ignore[operator]
        return (time.process_time_ns() - started) / count
    finally:
        loop.close()


def main() -> None:
    """Print both medians and their ratio for each kind of work."""
    rounds = 3 if "--quick" in sys.argv else ROUNDS
    for title, body, count in (
        ("sleep(0), one task", steps, STEPS),
        ("create a task and await it", creations, TASKS),
    ):
        with_counters, without = [], []
        for _ in range(rounds):
            with_counters.append(nanoseconds(body, count, True))
            without.append(nanoseconds(body, count, False))
        counted, uncounted = statistics.median(with_counters), statistics.median(without)
        cost = (counted / uncounted - 1) * 100
        print(f"{title}: {counted:.0f} ns counted, {uncounted:.0f} ns not: {cost:+.1f}%")


if __name__ == "__main__":
    main()
