"""What does it cost to create a loop, run one coroutine on it and close it?

Run alone (`python benches/lifecycle.py`) or by `run.py`. Test suites do this once for each test.
Never counts the import of the loop's package.
"""

import os
import resource
import statistics
import time

from loops import factory
from measure import Case, Options, Sample, cores, pin
from rounds import main

BATCH = 50


async def nothing() -> None:
    """What each loop runs."""


def sample(loop_name: str, options: Options) -> Sample:
    """Open, run and close loops, one after another."""
    pin(cores()[0])
    new_event_loop = factory(loop_name)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = min(hard, 1 << 16) // 2

    def batch() -> None:
        for _ in range(BATCH):
            loop = new_event_loop()
            loop.run_until_complete(nothing())
            loop.close()

    batch()
    batches_ns: list[int] = []
    # A peer that leaves descriptors open is stopped before it runs out of them.
    while sum(batches_ns) < options.seconds * 1e9 and len(os.listdir("/proc/self/fd")) < limit:
        started = time.perf_counter_ns()
        batch()
        batches_ns.append(time.perf_counter_ns() - started)
    # By the clock, for a loop may wait for threads of its own; the median forgets a batch during
    # which another process had the core.
    return {"value": statistics.median(batches_ns) / BATCH / 1e3}


CASES = [Case("lifecycle", "create a loop, run, close it", "µs", sample)]

if __name__ == "__main__":
    main(__file__, CASES)
