"""What aioxide set out to reach in each row, and whether a run reached it.

`report.py` prints each target beside its row. Never rounds before it judges.
"""

from dataclasses import dataclass

from loops import BARE, COUNTED, OURS
from rounds import Row

BEST = "the best peer"


@dataclass(frozen=True)
class Target:
    """Our figure must be at most `limit` times a peer's, or at most `limit` if there is no peer."""

    words: str
    limit: float
    peer: str | None = None
    entry: str = "value"
    in_every_round: bool = False
    as_speed: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a target is met (None: the run cannot tell), and the measured side of it."""

    target: Target
    met: bool | None
    measured: str


def faster(factor: float, peer: str) -> Target:
    """At least `factor` times as fast as a peer."""
    return Target(f"≥ {factor:g}× {peer}", 1 / factor, peer, as_speed=True)


def at_most(factor: float, peer: str, entry: str = "value") -> Target:
    """At most `factor` times what a peer uses."""
    prefix = "" if entry == "value" else f"{entry} "
    return Target(f"{prefix}≤ {factor:g}× {peer}", factor, peer, entry)


TARGETS: dict[tuple[str, str], tuple[Target, ...]] = {
    ("call_soon", "batch"): (faster(1, BEST),),
    ("call_soon", "chain"): (faster(1, BEST),),
    ("timers", "cancelled"): (faster(1.1, BEST),),
    ("threadsafe", "flood"): (faster(1, BEST),),
    ("executor", "round_trip"): (faster(1.2, BEST),),
    ("executor", "batches"): (faster(1.2, BEST),),
    ("task_steps", "one_task"): (faster(3, "uvloop"), faster(1.4, BEST)),
    ("task_create", "awaited"): (faster(3, "uvloop"), faster(1.8, BEST)),
    ("futures", "back_and_forth"): (faster(2.3, "uvloop"), faster(1.4, BEST)),
    ("locks", "free_lock"): (faster(2, BEST),),
    ("locks", "contended_semaphore"): (faster(2, BEST),),
    ("locks", "woken"): (faster(2, BEST),),
    ("queues", "free"): (faster(2.5, BEST),),
    ("queues", "waiting"): (faster(2, BEST),),
    ("gather", "gather"): (faster(3, BEST),),
    ("gather", "task_group"): (faster(3, BEST),),
    ("timeouts", "nested"): (faster(2.5, BEST),),
    ("timeouts", "wait_for"): (faster(2, BEST),),
    ("lifecycle", "lifecycle"): (at_most(1, "asyncio"),),
    ("short_sleep", "short_sleep"): (
        Target("never early", 0, entry="early", in_every_round=True),
        Target("median ≤ 100 µs late", 100),
    ),
    ("echo_protocol", "1k_10"): (at_most(1.2, BARE), at_most(1, BEST), at_most(1, "uvloop", "p99")),
    ("echo_protocol", "1k_100"): (
        at_most(1.2, BARE),
        at_most(1, BEST),
        at_most(1, "uvloop", "p99"),
    ),
    ("echo_protocol", "100k_10"): (at_most(1, BEST), at_most(1, "uvloop", "p99")),
    ("echo_sock", "1k_10"): (at_most(0.75, BEST),),
    ("echo_sock", "1k_100"): (at_most(0.75, BEST),),
    ("echo_streams", "1k_10"): (at_most(1.35, BARE), at_most(0.85, BEST)),
    ("echo_streams", "1k_100"): (at_most(1.35, BARE), at_most(0.85, BEST)),
    ("echo_streams", "100k_10"): (at_most(0.7, BEST),),
    ("echo_streams_unix", "1k_10"): (at_most(0.7, BEST),),
    ("stream_lines", "pipelined"): (at_most(1, BEST),),
    ("stream_exact", "pipelined"): (at_most(1, BEST),),
    ("echo_unix", "1k_10"): (at_most(1, BEST),),
    ("echo_unix", "100k_10"): (at_most(1, BEST),),
    ("echo_udp", "1k_10"): (at_most(1, BEST),),
    ("accept", "start_server"): (at_most(1, "uvloop"),),
    ("echo_tls", "1k_10"): (at_most(0.8, BEST),),
    ("echo_tls", "100k_10"): (at_most(0.8, BEST),),
    ("idle_tls", "idle_tls"): (at_most(1, "uvloop"),),
    ("idle_connections", "idle_connections"): (Target("≤ 1,024 bytes", 1024),),
    ("idle_streams", "idle_streams"): (Target("≤ 2,560 bytes", 2560),),
    ("subprocesses", "spawn"): (at_most(1, "asyncio"), at_most(1, BEST)),
    ("subprocesses", "communicate"): (at_most(1, "asyncio"), at_most(1, BEST)),
    ("subprocesses", "side_by_side"): (at_most(1, BEST),),
    ("subprocesses", "output"): (at_most(1, BEST),),
}


def best_peer(row: Row, entry: str = "value") -> str | None:
    """The counted peer with the lowest figure."""
    figures = {name: row.median(name, entry) for name in COUNTED}
    measured = {name: figure for name, figure in figures.items() if figure is not None}
    return min(measured, key=measured.__getitem__) if measured else None


def judge(row: Row) -> list[Verdict]:
    """A verdict for each target of the row."""
    return [_judge(row, target) for target in TARGETS.get((row.bench, row.case.name), ())]


def _judge(row: Row, target: Target) -> Verdict:
    over_rounds = row.worst if target.in_every_round else row.median
    ours = over_rounds(OURS, target.entry)
    if ours is None:
        return Verdict(target, None, "not measured")
    if target.peer is None:
        early = target.entry == "early"
        measured = f"{ours:.1%} early" if early else f"{ours:,.0f} {row.case.unit}"
        return Verdict(target, ours <= target.limit, measured)
    peer = best_peer(row, target.entry) if target.peer == BEST else target.peer
    theirs = row.median(peer, target.entry) if peer else None
    if theirs is None:
        return Verdict(target, None, f"{target.peer} not measured")
    ratio = theirs / ours if target.as_speed else ours / theirs
    return Verdict(target, ours <= target.limit * theirs, f"{ratio:.2f}×")
