"""How late does `asyncio.sleep(0.0003)` return, and is it ever early?

Run alone (`python benches/short_sleep.py`) or by `run.py`; only names of asyncio are used, so the
code under test is the same for every loop. The clock is read by the sleeper, never by the loop.
"""

import asyncio
import statistics
import time

from loops import factory
from measure import Case, Options, Sample, cores, pin
from rounds import main

DELAY_NS = 300_000


async def sleep(seconds: float) -> Sample:
    """Sleep again and again; how late in the middle, how late at the worst hundredth."""
    late_us = []
    end = time.perf_counter_ns() + seconds * 1e9
    while (started := time.perf_counter_ns()) < end:
        await asyncio.sleep(0.0003)
        late_us.append((time.perf_counter_ns() - started - DELAY_NS) / 1e3)
    return {
        "value": statistics.median(late_us),
        "p99": statistics.quantiles(late_us, n=100)[98],
        "early": sum(late < 0 for late in late_us) / len(late_us),
    }


def sample(loop_name: str, options: Options) -> Sample:
    """One loop's sleeps; a first few are not counted."""
    pin(cores()[0])
    with asyncio.Runner(loop_factory=factory(loop_name)) as runner:
        runner.run(sleep(0.05))
        return runner.run(sleep(options.seconds))


CASES = [
    Case("short_sleep", "sleep(0.0003): how late", "µs", sample, seconds=0.6, has_ratio=False),
]

if __name__ == "__main__":
    main(__file__, CASES)
