"""A tour of aioxide: every part at work on this machine, and then a comparison with asyncio.

`python3 dev.py run` shows it; `python examples/tour.py` does so where aioxide is installed.
It never touches the network, and shows what is slower as it shows what is faster.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

LOOPS = ("asyncio", "aioxide")
RUNS_IN_EACH_PROCESS = 2

# A child process that measures asyncio must hold nothing of ours. The steps and the examples say
# `import aioxide as asyncio`; there they are given asyncio itself under that name.
if "--measure=asyncio" in sys.argv:
    import asyncio

    sys.modules["aioxide"] = asyncio

from tour_steps import STEPS, Stage, title  # noqa: E402

import aioxide  # noqa: E402

Seconds = dict[str, float]


def say(sentence: str) -> None:
    print(f"     {sentence}", flush=True)


async def walk() -> None:
    """Every step once, aloud."""
    loop = type(aioxide.get_running_loop())
    packages = [f"{name} {version(name)}" for name in ("aiohttp", "SQLAlchemy", "aiosqlite")]
    print(f"CPython {platform.python_version()} with {', '.join(packages)}, all unchanged,")
    print(f"on the event loop {loop.__module__.split('.')[0]}.{loop.__name__}\n")
    for number, step in enumerate(STEPS, 1):
        print(f" {number:2}  {title(step)}", flush=True)
        await step(Stage(say))


async def measure() -> list[Seconds]:
    """Every step in silence, and how long its work took; the first round is a warm-up.

    The collector is run between the steps, so that none pays for the garbage of the one before.
    What the warm-up left for good is taken out of its sight: otherwise this would take longer than
    the steps.
    """
    rounds: list[Seconds] = []
    for _ in range(1 + RUNS_IN_EACH_PROCESS):
        seconds = {}
        for step in STEPS:
            if rounds:
                gc.collect()
            stage = Stage(lambda sentence: None)
            await step(stage)
            seconds[step.__name__] = stage.seconds
        rounds.append(seconds)
        gc.collect()
        gc.freeze()
    return rounds[1:]


def measured(loop: str) -> list[Seconds]:
    """What `measure` says in a process of its own."""
    command = [sys.executable, str(Path(__file__)), f"--measure={loop}"]
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    rounds: list[Seconds] = json.loads(child.stdout)
    return rounds


def compared(rounds: int) -> dict[str, list[Seconds]]:
    """Measures both loops in turns, beginning with the other one each time."""
    samples: dict[str, list[Seconds]] = {loop: [] for loop in LOOPS}
    for number in range(rounds):
        for loop in LOOPS if number % 2 == 0 else reversed(LOOPS):
            samples[loop] += measured(loop)
    return samples


def table(samples: dict[str, list[Seconds]]) -> Iterable[str]:
    """One line for each step: the median of each loop, and what one is to the other."""
    yield f" {'':26}{'asyncio':>10}{'aioxide':>10}"
    for step in STEPS:
        theirs, ours = (
            median(seconds[step.__name__] for seconds in samples[loop]) for loop in LOOPS
        )
        ratio = round(theirs / ours, 2)
        milliseconds = "".join(f"{seconds * 1000:7.1f} ms" for seconds in (theirs, ours))
        yield f" {title(step):26}{milliseconds}{ratio:7.2f} ×{', slower' if ratio < 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description="A tour of aioxide, beside asyncio at the end.")
    parser.add_argument("--measure", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--rounds", type=int, default=4, help="processes for each loop in the comparison (4)"
    )
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(aioxide.run(measure())))
        return
    began = perf_counter()
    aioxide.run(walk())
    print("\nThe same work on asyncio and on aioxide, each in processes of its own, in turns;")
    print(f"medians of {options.rounds * RUNS_IN_EACH_PROCESS} runs:\n", flush=True)
    for line in table(compared(options.rounds)):
        print(line)
    print("\nThe last column says how many times faster aioxide is; below 1 it is slower.")
    print(f"That was the tour: {len(STEPS)} steps, {perf_counter() - began:.0f} seconds.")


if __name__ == "__main__":
    main()
