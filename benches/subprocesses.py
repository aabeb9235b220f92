"""What does a child process cost: start one and wait for it, and talk to one through its pipes?

Run alone (`python benches/subprocesses.py`) or by `run.py`; only names of asyncio are used. The
loop and its children share one core. Their processor time is counted together: what a loop spares
itself it may have made its child, or the kernel on its behalf, do.
"""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable

from loops import factory
from measure import Case, Options, Sample, cores, pin
from rounds import main

BATCH = 20
PIPE = asyncio.subprocess.PIPE


async def start_and_wait(count: int) -> None:
    """Children that end at once, one after another."""
    for _ in range(count):
        child = await asyncio.create_subprocess_exec("/bin/true")
        await child.wait()


async def communicate(count: int) -> None:
    """Children that repeat what they are told, one after another."""
    for _ in range(count):
        child = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        printed, _ = await child.communicate(b"hello")
        assert printed == b"hello"


async def side_by_side(count: int) -> None:
    """Children that all run at once."""
    await asyncio.gather(*(communicate(1) for _ in range(count)))


async def much_output(count: int) -> None:
    """One child, of which megabytes are read."""
    command = ("/usr/bin/head", "-c", str(count * 1_000_000), "/dev/zero")
    child = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    assert child.stdout is not None
    size = 0
    while data := await child.stdout.read(1 << 20):
        size += len(data)
    assert size == count * 1_000_000
    await child.wait()


def processor_us() -> float:
    """Processor time of this process and of the children it has reaped, in microseconds."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) * 1e6


def per_child(body: Callable[[int], Awaitable[None]]) -> Callable[[str, Options], Sample]:
    """A sample of `body(count)`: microseconds for each child."""

    def sample(loop_name: str, options: Options) -> Sample:
        pin(cores()[0])
        with asyncio.Runner(loop_factory=factory(loop_name)) as runner:
            return runner.run(timed(body, options.seconds))

    return sample


async def timed(body: Callable[[int], Awaitable[None]], seconds: float) -> Sample:
    """Repeat `body` for some seconds, after one run that is not counted."""
    await body(BATCH)
    count = 0
    began, processor = time.perf_counter_ns(), processor_us()
    while (elapsed := time.perf_counter_ns() - began) < seconds * 1e9:
        await body(BATCH)
        count += BATCH
    return {"value": (processor_us() - processor) / count, "wall": elapsed / count / 1e3}


SECONDS = 1.5
CASES = [
    Case("spawn", "start a child and wait for it", "µs", per_child(start_and_wait), SECONDS),
    Case("communicate", "communicate with a child", "µs", per_child(communicate), SECONDS),
    Case("side_by_side", "with 20 children at once", "µs", per_child(side_by_side), SECONDS),
    Case("output", "read a megabyte that a child prints", "µs", per_child(much_output), SECONDS),
]

if __name__ == "__main__":
    main(__file__, CASES)
