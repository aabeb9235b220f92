"""How one sample is taken: one case, on one loop, in this process, for a given time.

The bench scripts describe their cases with `Case` and `per_operation`; `rounds.py` starts a
child process for each sample. Never compares anything: a sample knows only its own loop.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from loops import factory

Sample = dict[str, float]


@dataclass(frozen=True)
class Options:
    """What the parent process tells a sample."""

    seconds: float
    quick: bool
    programs: Path | None


@dataclass(frozen=True)
class Case:
    """One row of the tables: what is measured, in which unit, and how a sample of it is taken.

    A sample's "value" is the row's figure; its other entries are shown beside it.
    """

    name: str
    title: str
    unit: str
    sample: Callable[[str, Options], Sample]
    seconds: float = 0.4
    rounds: int | None = None
    with_bare_server: bool = False
    with_load: bool = False
    has_ratio: bool = True


def cores() -> tuple[int, int]:
    """The core of what is measured and the core of what loads it (one, if there is but one)."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1] if len(usable) > 1 else usable[0]


def pin(core: int) -> None:
    """Keep this process, and the threads it will start, on one core."""
    os.sched_setaffinity(0, {core})


def per_operation(
    body: Callable[[int], Awaitable[None]], count: int
) -> Callable[[str, Options], Sample]:
    """A sample that times `await body(count)`: nanoseconds for each of `count` operations.

    The figure is the processor's time. Everything these bodies do keeps one core busy, so on a
    quiet machine it is the clock's time too ("wall"), and on another it leaves out the others.
    """

    def sample(loop_name: str, options: Options) -> Sample:
        pin(cores()[0])
        with asyncio.Runner(loop_factory=factory(loop_name)) as runner:
            return runner.run(_time(body, count, options.seconds))

    return sample


async def _time(body: Callable[[int], Awaitable[None]], count: int, seconds: float) -> Sample:
    # The first run pays for imports, caches and specialised bytecode, and is not counted. The
    # collector stays on, as it is for a user.
    await body(count)
    operations = 0
    started, started_processor = time.perf_counter_ns(), time.process_time_ns()
    while (elapsed := time.perf_counter_ns() - started) < seconds * 1e9:
        await body(count)
        operations += count
    processor = time.process_time_ns() - started_processor
    return {"value": processor / operations, "wall": elapsed / operations}
