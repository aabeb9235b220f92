"""Runs cases on all loops, one after another and round after round, and keeps every sample.

`run.py` measures all benches with it, and each bench script ends in `main`. Each sample is a
process of its own. Never decides what a figure is worth: `report.py` does.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import loops
from measure import Case, Options, Sample

ROUNDS = 7
QUICK_ROUNDS = 3
QUICK_SHARE = 0.4
PATIENCE_SECONDS = 120
# What a user's environment may hold that would change the figures of every loop.
DISTURBING = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONMALLOC", "PYTHONTRACEMALLOC")


@dataclass
class Row:
    """The samples of one case, by loop."""

    bench: str
    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, loop: str, entry: str = "value") -> float | None:
        """The median over the rounds of one entry of a loop's samples."""
        samples = self.samples.get(loop)
        return statistics.median(sample[entry] for sample in samples) if samples else None

    def worst(self, loop: str, entry: str) -> float | None:
        """The largest over the rounds, if the loop's samples have the entry."""
        entries = [sample[entry] for sample in self.samples.get(loop, []) if entry in sample]
        return max(entries, default=None)

    def spread(self, loop: str) -> float:
        """The distance between the quartiles as a share of the median: how noisy the row was."""
        values = [sample["value"] for sample in self.samples.get(loop, [])]
        if len(values) < 2:
            return 0.0
        first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
        return (third - first) / abs(middle) if middle else 0.0


def take_rounds(
    script: Path, case: Case, names: Sequence[str], quick: bool, programs: Path | None
) -> Row:
    """Sample a case on each loop in turn (A B C A B C); a loop that fails is not asked again."""
    row = Row(script.stem, case)
    if case.with_bare_server:
        names = (loops.BARE, *names)
    rounds = min(QUICK_ROUNDS if quick else ROUNDS, case.rounds or ROUNDS)
    for _ in range(rounds):
        for name in names:
            if name in row.failures:
                continue
            try:
                sample = _take_sample(script, case, name, quick, programs)
            except _SampleFailed as failure:
                row.failures[name] = str(failure)
                row.samples.pop(name, None)
            else:
                row.samples.setdefault(name, []).append(sample)
    return row


class _SampleFailed(Exception):
    """The child process of a sample did not end with a figure."""


def _take_sample(script: Path, case: Case, name: str, quick: bool, programs: Path | None) -> Sample:
    seconds = case.seconds * (QUICK_SHARE if quick else 1)
    command = [sys.executable, str(script), "--sample", case.name, "--loop", name]
    command += ["--seconds", str(seconds)]
    command += ["--quick"] if quick else []
    command += ["--programs", str(programs)] if programs else []
    environment = {name: value for name, value in os.environ.items() if name not in DISTURBING}
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        sample: Sample = json.loads(child.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise _SampleFailed(f"no figure within {PATIENCE_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        # The terminal gets the whole story. The page gets its kind, which names nobody's files.
        print(error.stderr, file=sys.stderr)
        last_words = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise _SampleFailed(last_words.partition(":")[0]) from None
    except (IndexError, ValueError):
        raise _SampleFailed("the process ended without a figure") from None
    return sample


def describe(row: Row) -> str:
    """A row as lines for the terminal: each loop's median, and how many times asyncio's speed."""
    lines = [f"{row.case.title} ({row.case.unit})"]
    asyncio_figure = row.median("asyncio")
    for name in row.samples:
        figure = row.median(name)
        assert figure is not None
        line = f"  {name:8} {figure:12,.2f}"
        if row.case.has_ratio and asyncio_figure is not None:
            line += f"  {asyncio_figure / figure:6.2f}×"
        for entry in row.samples[name][0]:
            if entry not in ("value", "wall"):
                line += f"  {entry} {row.median(name, entry):,.2f}"
        lines.append(f"{line}  (spread {row.spread(name):.1%})")
    lines += [f"  {name:8} failed: {reason}" for name, reason in row.failures.items()]
    return "\n".join(lines)


def main(
    script: str,
    cases: Sequence[Case],
    echoing: Callable[[], contextlib.AbstractAsyncContextManager[int]] | None = None,
) -> None:
    """The command line of a bench script: the whole comparison, or one sample, or the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples")
    parser.add_argument("--loops", help="only these loops, separated by commas")
    for internal in ("--sample", "--loop", "--seconds", "--programs", "--core"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    programs = Path(arguments.programs) if arguments.programs else None

    if arguments.serve:
        from network import serve

        assert echoing is not None
        serve(arguments.loop, int(arguments.core), echoing)
    elif arguments.sample:
        case = next(case for case in cases if case.name == arguments.sample)
        options = Options(float(arguments.seconds), arguments.quick, programs)
        print(json.dumps(case.sample(arguments.loop, options)))
    else:
        names = choose_loops(arguments.loops)
        with programs_for(cases) as compiled:
            for case in cases:
                row = take_rounds(Path(script), case, names, arguments.quick, compiled)
                print(describe(row), flush=True)


def choose_loops(wanted: str | None) -> list[str]:
    """The loops to compare: those asked for, else all; only an optional one may be missing."""
    names = wanted.split(",") if wanted else list(loops.NAMES)
    unknown = sorted(set(names) - set(loops.NAMES))
    if unknown:
        raise SystemExit(f"no such loop: {', '.join(unknown)}")
    missing = [name for name in names if not loops.is_installed(name)]
    needed = [name for name in missing if wanted or name not in loops.OPTIONAL]
    if needed:
        raise SystemExit(f"not installed in this environment: {', '.join(needed)}")
    return [name for name in names if name not in missing]


def programs_for(cases: Sequence[Case]) -> contextlib.AbstractContextManager[Path | None]:
    """The compiled C programs, if any of the cases needs them."""
    if not any(case.with_bare_server or case.with_load for case in cases):
        return contextlib.nullcontext()
    from network import compiled_programs

    return compiled_programs()
