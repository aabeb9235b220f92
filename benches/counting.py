"""What do a loop's counters cost? The same steps without, with, and with busy time, on aioxide.

Run alone: `python benches/counting.py [--quick]`. Only aioxide has such counters, so there is no
peer; the rounds alternate, and the ratios of the medians are printed. Never part of the table.
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


async def cancellations(count: int) -> None:
    """A task is created and cancelled, which notes who did it, `count` times."""
    for _ in range(count):
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


MODES = ("nothing", "counters", "counters and busy time")


def nanoseconds(body: object, count: int, mode: str) -> float:
    """The processor's time of one operation, in nanoseconds."""
    loop = aioxide.new_event_loop()
    loop._set_counting(mode != "nothing")
    loop.set_busy_time(mode == "counters and busy time")
    try:
        started = time.process_time_ns()
        loop.run_until_complete(body(count))  # type: ignore[operator]
        return (time.process_time_ns() - started) / count
    finally:
        loop.close()


def main() -> None:
    """Print the medians, and what the counters add, for each kind of work."""
    rounds = 3 if "--quick" in sys.argv else ROUNDS
    for title, body, count in (
        ("sleep(0), one task", steps, STEPS),
        ("create a task and await it", creations, TASKS),
        ("create a task and cancel it", cancellations, TASKS // 3),
    ):
        times: dict[str, list[float]] = {mode: [] for mode in MODES}
        for _ in range(rounds):
            for mode in MODES:
                times[mode].append(nanoseconds(body, count, mode))
        plain = statistics.median(times["nothing"])
        print(f"{title}: {plain:.0f} ns without counters")
        for mode in MODES[1:]:
            spent = statistics.median(times[mode])
            print(f"  with {mode}: {spent:.0f} ns, {(spent / plain - 1) * 100:+.1f}%")


if __name__ == "__main__":
    main()
