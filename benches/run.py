"""Runs every bench on every loop and writes docs/benchmarks.md and docs/benchmarks.svg.

`python3 dev.py bench` calls it; `python benches/run.py --only call_soon --quick` while at work,
which prints and writes no page. Never counts a run in which aioxide or a needed peer is missing.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import time
from pathlib import Path

import chart
import loops
import machine
import report
from rounds import QUICK_ROUNDS, ROUNDS, Row, choose_loops, describe, programs_for, take_rounds
from targets import judge

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
BENCHES = tuple(bench for benches in report.GROUPS.values() for bench in benches)


def main() -> int:
    """The command line."""
    arguments = _parse()
    names = choose_loops(arguments.loops)
    for name in loops.OPTIONAL:
        if name not in names and not arguments.loops:
            print(f"{name} is not installed; the run goes on without it.")
    quick = arguments.quick
    started, others = time.monotonic(), machine.OtherProcesses()
    rows = _measure(arguments.only or BENCHES, names, quick)
    run = report.Run(
        rows, names, machine.describe(), others.share(), QUICK_ROUNDS if quick else ROUNDS
    )
    print(f"{time.monotonic() - started:.0f} s; others took {run.others:.1%} of the cores' time")

    failed = any(loops.OURS in row.failures for row in rows)
    whole = not (arguments.only or arguments.loops or quick or failed)
    folder = arguments.docs or (DOCS if whole else None)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "benchmarks.md").write_text(report.markdown(run), encoding="utf-8")
        (folder / "benchmarks.svg").write_text(chart.svg(rows, names), encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(_raw(run), indent=1), encoding="utf-8")
    return _conclude(run)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare event loops, all in one run.")
    parser.add_argument("--only", action="append", choices=BENCHES, help="only this bench")
    parser.add_argument("--loops", help="only these loops, separated by commas")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter samples")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument(
        "--docs",
        type=Path,
        help="write the page and the chart to this folder (a whole run writes them to docs/)",
    )
    return parser.parse_args()


def _measure(benches: tuple[str, ...], names: list[str], quick: bool) -> list[Row]:
    cases = [(name, case) for name in benches for case in importlib.import_module(name).CASES]
    rows = []
    with programs_for([case for _, case in cases]) as programs:
        for name, case in cases:
            row = take_rounds(FOLDER / f"{name}.py", case, names, quick, programs)
            print(describe(row), flush=True)
            rows.append(row)
    return rows


def _raw(run: report.Run) -> dict[str, object]:
    return {
        "machine": run.machine,
        "loops": {name: loops.version(name) for name in run.loops},
        "others": run.others,
        "rows": [
            {
                "bench": row.bench,
                "case": row.case.name,
                "title": row.case.title,
                "unit": row.case.unit,
                "samples": row.samples,
                "failures": row.failures,
                "targets": [dataclasses.asdict(verdict) for verdict in judge(row)],
            }
            for row in run.rows
        ],
    }


def _conclude(run: report.Run) -> int:
    """Say which targets are met; a row that our own loop fails is an error."""
    if loops.OURS not in run.loops:
        print(f"{loops.OURS} took no part in this run, so no target is judged.")
        return 0
    for row in run.rows:
        for verdict in judge(row):
            answer = {True: "met", False: "MISSED", None: "UNKNOWN"}[verdict.met]
            print(f"{answer:8} {row.case.title}: {verdict.target.words}: {verdict.measured}")
    failed = [row.case.title for row in run.rows if loops.OURS in row.failures]
    if failed:
        print(f"{loops.OURS} fails: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
