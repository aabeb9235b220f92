"""Turns the rows of a whole run into docs/benchmarks.md: every figure, every target, every loss.

`run.py` calls `markdown` and writes what it returns. Never measures, and never leaves a row out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import loops
from rounds import Row
from targets import Verdict, best_peer, judge

NOISY = 0.10
# Every bench there is, in the order in which they run and stand on the page.
GROUPS = {
    "Callbacks and timers": ("call_soon", "timers", "threadsafe"),
    "Tasks and futures": ("task_steps", "task_create", "futures"),
    "Locks and queues, each loop with its own where it has them": ("locks", "queues"),
    "The default executor": ("executor",),
    "Waiting for many, and not for ever": ("gather", "timeouts"),
    "The life of a loop": ("lifecycle",),
    "A short sleep": ("short_sleep",),
    "TCP echo: the server's processor time for one message": ("echo_protocol", "echo_sock"),
    "Streams: the server's processor time for one message": (
        "echo_streams",
        "echo_streams_unix",
        "stream_lines",
        "stream_exact",
    ),
    "TLS echo: the server's processor time for one message": ("echo_tls",),
    "Unix sockets and datagrams: the server's processor time for one message": (
        "echo_unix",
        "echo_udp",
    ),
    "Accepting: the server's processor time for one connection": ("accept",),
    "Memory": ("idle_connections", "idle_streams", "idle_tls"),
    "Child processes: processor time of the loop and of the children": ("subprocesses",),
    "Control": ("control",),
}
METHOD = """\
Each figure is the median of {rounds} rounds ({memory_rounds} for memory). In a round every loop is
measured once, one after the other, each in a process of its own; so a slow spell of the machine
meets all of them. The code under test is the same for all and uses only names of asyncio; where
streams, locks and queues are measured, each loop's package has the names it offers, and asyncio
all others. The garbage collector is on. Callbacks, timers, tasks, futures, locks and queues are
measured in processor time on one core, the life of a loop and the short sleep by the clock. Echo
servers run on one core and their load, a C program with closed-loop connections, on another; their
figure is the processor time of the server in the seconds in which the load counted. "Bare C" is an
echo server of epoll, recv and send with nothing around it. "The best peer" is the best of {counted}
in the row; rsloop's figures stand beside.
"""


@dataclass(frozen=True)
class Run:
    """What a whole run found, for the report, the chart and the JSON file."""

    rows: Sequence[Row]
    loops: Sequence[str]
    machine: dict[str, str]
    others: float
    rounds: int


def markdown(run: Run) -> str:
    """The page."""
    parts = ["# Benchmarks", _introduction(run), _summary(run.rows)]
    parts.append("![Speed of each loop relative to asyncio's](benchmarks.svg)")
    for title, benches in GROUPS.items():
        rows = [row for row in run.rows if row.bench in benches]
        if not rows:
            continue
        parts.append(f"## {title}")
        parts.append(_table(rows, run.loops))
        if any("p99" in sample for row in rows for sample in _first_samples(row)):
            parts.append(_latencies(rows, run.loops))
    parts += ["## How it is measured", _method(run), _noise(run.rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _introduction(run: Run) -> str:
    versions = ", ".join(f"{name} {loops.version(name)}" for name in run.loops)
    missing = [name for name in loops.OPTIONAL if name not in run.loops]
    lines = [
        "Written by `python3 dev.py bench`. Less is better in every table; ratios say how many",
        f"times as fast (or small) {loops.OURS} is, and hold within this one run only.",
        "",
        *(f"- {what}: {value}" for what, value in run.machine.items()),
        f"- loops: {versions}",
        *(f"- {name} was not installed in this run's environment" for name in missing),
        f"- other processes took {run.others:.1%} of the cores' time while this ran",
    ]
    return "\n".join(lines)


def _summary(rows: Sequence[Row]) -> str:
    verdicts = [(row, verdict) for row in rows for verdict in judge(row)]
    met = sum(verdict.met is True for _, verdict in verdicts)
    lines = ["## Targets and losses", "", f"{met} of {len(verdicts)} targets are met."]
    missed = [
        f"- Target missed: {row.case.title}: {verdict.target.words}; measured {verdict.measured}."
        for row, verdict in verdicts
        if not verdict.met
    ]
    losses = [loss for row in rows for loss in _losses(row)]
    failures = [
        f"- {name} fails: {row.case.title} ({reason})."
        for row in rows
        for name, reason in row.failures.items()
    ]
    lines += ["", *(missed or ["No target is missed."])]
    lines += ["", *(losses or [f"No other loop is ahead of {loops.OURS} in any row."])]
    return "\n".join([*lines, *([""] if failures else []), *failures])


def _losses(row: Row) -> list[str]:
    """Every loop that is ahead of ours in a row that the loop decides."""
    ours = row.median(loops.OURS)
    if ours is None or row.bench == "control":
        return []
    ahead = []
    for name in loops.NAMES:
        theirs = row.median(name)
        # Who returns before the deadline has not waited; that is no lead.
        if name == loops.OURS or theirs is None or row.worst(name, "early"):
            continue
        if theirs < ours:
            ahead.append(
                f"- Loss: {row.case.title}: {name} {_number(row, theirs)} {row.case.unit}, "
                f"{loops.OURS} {_number(row, ours)} {row.case.unit}"
                + (f" ({ours / theirs:.2f}× as much)." if row.case.has_ratio else ".")
            )
    return ahead


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    columns = [*([loops.BARE] if any(row.case.with_bare_server for row in rows) else []), *names]
    ratios = any(row.case.has_ratio for row in rows)
    head = ["", *columns]
    head += ["× asyncio", "× uvloop", "× best peer"] if ratios else []
    head += ["target", "met"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 3), "---", "---"])]
    for row in rows:
        cells = [f"{row.case.title}, {row.case.unit}"]
        cells += [_cell(row, name) for name in columns]
        cells += _ratios(row) if ratios else []
        lines.append(_line([*cells, *_verdict_cells(judge(row))]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Row, name: str) -> str:
    if name in row.failures:
        return "fails"
    figure = row.median(name)
    return "" if figure is None else _number(row, figure)


def _number(row: Row, figure: float) -> str:
    return f"{figure:,.0f}" if row.case.unit != "µs" else f"{figure:,.1f}"


def _ratios(row: Row) -> list[str]:
    """How many times as fast ours is: as asyncio, as uvloop, as the best peer."""
    ours, best = row.median(loops.OURS), best_peer(row)
    cells = []
    for name in ("asyncio", "uvloop", best):
        theirs = row.median(name) if name else None
        cells.append("" if ours is None or theirs is None else f"{theirs / ours:.2f}")
    if best and cells[2]:
        cells[2] += f" ({best})"
    return cells


def _verdict_cells(verdicts: Sequence[Verdict]) -> list[str]:
    answers = {True: "yes", False: "**no**", None: "unknown"}
    return [
        "; ".join(verdict.target.words for verdict in verdicts),
        "; ".join(f"{answers[verdict.met]} ({verdict.measured})" for verdict in verdicts),
    ]


def _first_samples(row: Row) -> list[dict[str, float]]:
    return [samples[0] for samples in row.samples.values()]


def _latencies(rows: Sequence[Row], names: Sequence[str]) -> str:
    """What stands beside the figures: latencies, and for a sleep how often it was early."""
    columns = [*([loops.BARE] if any(row.case.with_bare_server for row in rows) else []), *names]
    entries = {"p50": "p50, µs", "p99": "p99, µs", "early": "returned early, %"}
    lines = [_line(["", *columns]), _line(["---", *["---:"] * len(columns)])]
    for row in rows:
        for entry, words in entries.items():
            if not any(entry in sample for sample in _first_samples(row)):
                continue
            factor = 100 if entry == "early" else 1
            figures = [row.median(name, entry) for name in columns]
            cells = ["" if figure is None else f"{figure * factor:,.0f}" for figure in figures]
            lines.append(_line([f"{row.case.title}: {words}", *cells]))
    return "\n".join(lines)


def _method(run: Run) -> str:
    memory = [row for row in run.rows if row.bench == "idle_connections"]
    text = METHOD.format(
        rounds=run.rounds,
        memory_rounds=min([run.rounds, *(row.case.rounds or run.rounds for row in memory)]),
        counted=", ".join(loops.COUNTED),
    )
    counts = {int(sample["connections"]) for row in memory for sample in _first_samples(row)}
    for count in sorted(counts):
        text += f"Memory is measured with {count:,} idle connections.\n"
    return text


def _noise(rows: Sequence[Row]) -> str:
    noisy = [
        f"- {row.case.title}: {name} {row.spread(name):.0%}"
        for row in rows
        for name in row.samples
        if row.spread(name) > NOISY
    ]
    if not noisy:
        return f"In no row are the quartiles of a loop's rounds more than {NOISY:.0%} apart."
    head = f"Noisy here (the quartiles of the rounds are more than {NOISY:.0%} apart):"
    return "\n".join([head, "", *noisy])
