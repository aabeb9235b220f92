"""What runs other projects' suites, on trial: a small suite that passes, differs and crashes.

Run by pytest; suites/ itself is run by `dev.py suites`, since the real suites take long. Nothing is
fetched here.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SUITES = Path(__file__).with_name("suites")
sys.path.insert(0, str(SUITES))

import comparing  # noqa: E402
import sources  # noqa: E402

# By its path: conformance/ has a run.py too.
spec = importlib.util.spec_from_file_location("run_suites", SUITES / "run.py")
harness = importlib.util.module_from_spec(spec)
spec.loader.exec_module(harness)

SMALL = """
import asyncio, os
import pytest

async def which():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

def test_good():
    assert asyncio.run(which()) in ("asyncio", "aioxide")

def test_differs():
    assert asyncio.run(which()) == "asyncio"

def test_crashes():
    if asyncio.run(which()) == "aioxide":
        os.abort()

@pytest.mark.xfail(strict=True)
def test_fails_as_it_should():
    assert False

def test_fails():
    assert False

@pytest.mark.skip
def test_skipped():
    pass

def test_last():
    pass
"""


@dataclass(frozen=True)
class Local(sources.Suite):
    """A suite in a directory, run by the interpreter that runs this test."""

    directory: Path = Path()

    source = property(lambda self: self.directory)
    python = property(lambda self: sys.executable)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small suite and its sessions on both loops."""
    directory = tmp_path_factory.mktemp("small")
    (directory / "test_small.py").write_text(SMALL)
    suite = Local("small", "1", ["test_small.py"], [], directory=directory)
    return suite, {
        loop: harness.Session(suite, loop, {}, [], directory / "log").run()
        for loop in harness.LOOPS
    }


def test_it_runs_on_the_loop_it_says(small):
    _, sessions = small
    assert sessions["asyncio"].made == {"asyncio": 3, "aioxide": 0}
    # The process that crashed took its count with it.
    assert sessions["aioxide"].made == {"asyncio": 0, "aioxide": 0}


def test_a_crash_is_a_result_and_the_run_goes_on(small):
    _, sessions = small
    assert sessions["aioxide"].outcomes["test_small.py::test_crashes"] == "crash"
    assert sessions["aioxide"].outcomes["test_small.py::test_last"] == "passed"
    assert not sessions["aioxide"].complaint


def test_the_comparison_names_what_passes_on_asyncio_only(small):
    suite, sessions = small
    facts = comparing.Comparison.of(suite, sessions).facts()
    outcomes = {test: what["outcome"] for test, what in facts["only_asyncio"].items()}
    assert outcomes == {
        "test_small.py::test_crashes": "crash",
        "test_small.py::test_differs": "failed",
    }
    assert (facts["both"], facts["skipped"]) == (3, 1)
    assert facts["neither"] == ["test_small.py::test_fails"]


def test_a_rerun_finds_what_is_flaky(small):
    suite, sessions = small
    comparison = comparing.Comparison.of(suite, sessions)
    crashes, differs = comparison.disputed()[::-1]
    again = harness.Session(suite, "asyncio", {}, [], suite.directory / "log")
    again.outcomes = {crashes: "failed", differs: "passed"}
    comparison.add_rerun("asyncio", again)
    assert comparison.disputed() == [differs]
    assert comparison.facts()["flaky"] == [crashes]


def test_every_suite_of_the_list_is_pinned():
    suites = {suite.name: suite for suite in sources.read()}
    assert {"anyio", "aiohttp", "uvicorn", "aiofiles"} <= set(suites)
    assert all(suite.version and suite.tests for suite in suites.values())
