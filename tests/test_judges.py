"""The judges of the soak and of the fuzzer: what they must find, and what they must let pass.

Run by pytest.  It starts neither of the two; their own runs are verbs of dev.py.
"""

import errno
import importlib
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

MIB = 2**20


@pytest.fixture
def imported(monkeypatch):
    """Imports a module from a folder of scripts, and forgets it again."""

    def load(folder, name):
        monkeypatch.syspath_prepend(str(Path(__file__).parent / folder))
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return load


def samples(count=100, seconds=3600.0, **growth):
    """Figures of a run in which only what is named grows, by so much over the whole run."""
    chance, made = random.Random(1), []
    for number in range(count):
        part = number / (count - 1)
        sample = {"time": part * seconds, "descriptors": 20, "threads": 8, "tasks": 1}
        sample |= {"children": 0, "objects": 20_000 + chance.randrange(50), "blocks": 100_000}
        sample |= {"malloc": 7 * MIB, "malloc free": 3 * MIB}
        sample["resident"] = 60 * MIB + chance.randrange(MIB // 4)
        for name, amount in growth.items():
            sample[name] += round(amount * part)
        made.append(sample)
    return made


def judged(imported, taken):
    """The figures of a run whose samples are these."""
    figures = imported("soak", "figures").Figures()
    for sample in taken:
        figures.add(sample)
    return figures


@pytest.mark.parametrize(
    "growth",
    [
        {"descriptors": 2},
        {"threads": 3},
        {"tasks": 2},
        {"children": 2},
        {"objects": 5000},
        {"blocks": 50_000},
        {"malloc": 10 * MIB},
        {"resident": 10 * MIB},
    ],
)
def test_a_leak_is_found(imported, growth):
    figures = judged(imported, samples(**growth))
    (complaint,) = figures.complaints()
    assert complaint.startswith(next(iter(growth)))


def test_a_flat_run_passes(imported):
    figures = judged(imported, samples())
    assert list(figures.complaints()) == []


def test_growth_while_warming_up_is_not_judged(imported):
    taken = samples()
    for sample in taken[:50]:
        sample["resident"] -= 30 * MIB
    figures = judged(imported, taken)
    assert list(figures.complaints()) == []


def test_too_few_rounds_are_no_judgement(imported):
    figures = judged(imported, samples(4))
    assert list(figures.complaints()) == ["4 rounds are too few to judge"]


def test_samples_are_taken_of_this_process(imported):
    module = imported("soak", "figures")
    given_out, _ = module.malloc_figures()
    assert given_out > 0
    assert module.resident() > MIB
    assert module.children() == 0


def connection(module, **peer):
    """A ledger that saw an orderly connection of ten bytes each way, and its peer."""
    ledger = module.Ledger("a connection")
    protocol = ledger.current = object()
    ledger.enter(protocol, "made")
    ledger.data(module.piece("theirs", 0, 10))
    ledger.written = ledger.owed = 10
    seen = {"sent": 10, "offered": 10, "received": 10, "broken": [], "finned": True}
    seen |= {"saw_eof": True, "was_reset": False, "was_orderly": True, "is_mangled": False}
    return ledger, protocol, SimpleNamespace(**(seen | peer))


def finish(ledger, protocol, peer, error=None):
    ledger.end_of_file()
    ledger.enter(protocol, "lost")
    ledger.gone(error)
    ledger.settle(peer)
    return ledger.broken


def test_an_orderly_connection_keeps_the_invariants(imported):
    module = imported("fuzz", "invariants")
    assert finish(*connection(module)) == []


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ({"sent": 11, "offered": 11}, "ended after 10 bytes of 11"),
        ({"sent": 9, "offered": 9}, "received 10 bytes of 9"),
        ({"received": 9}, "read 9 bytes to the end, owed were 10"),
        ({"received": 11}, "received 11 bytes of 10 written"),
    ],
)
def test_bytes_that_are_missing_or_made_up_are_found(imported, peer, message):
    module = imported("fuzz", "invariants")
    assert message in finish(*connection(module, **peer))[0]


def test_changed_bytes_are_found(imported):
    module = imported("fuzz", "invariants")
    ledger, *_ = connection(module)
    ledger.data(b"not what was sent")
    assert "differ" in ledger.broken[0]


def test_callbacks_out_of_order_are_found(imported):
    module = imported("fuzz", "invariants")
    ledger, protocol, peer = connection(module)
    finish(ledger, protocol, peer)
    ledger.enter(protocol, "data")
    ledger.enter(protocol, "made")
    ledger.enter(object(), "lost")
    found = " ".join(ledger.broken)
    assert "data after connection_lost" in found
    assert "connection_made twice" in found
    assert "had been replaced" in found


def test_a_reset_that_is_told_as_an_end_is_found(imported):
    module = imported("fuzz", "invariants")
    reset = {"was_reset": True, "finned": False, "saw_eof": False, "was_orderly": False}
    for error, is_right in [
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (ConnectionResetError(), False),
        (None, False),
    ]:
        ledger, protocol, peer = connection(module, **reset)
        ledger.owed = None
        ledger.enter(protocol, "lost")
        ledger.gone(error)
        ledger.settle(peer)
        assert (ledger.broken == []) is is_right
