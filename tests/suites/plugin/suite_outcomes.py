"""A pytest plugin: writes down what became of each test, and counts the loops that were made.

suites/run.py loads it into the run of another project's suite with `-p`, and reads the lines it
writes as they come, so that a crash or a hang loses nothing. It changes no outcome.
"""

import asyncio.base_events
import collections
import functools
import json
import os

import pytest

WORDS = ("failed", "skipped", "passed")
made = collections.Counter()


def count_loops(cls, name):
    """Counts every loop of a class, and of what is derived from it."""
    initialise = cls.__init__

    @functools.wraps(initialise)
    def __init__(self, *args, **kwargs):
        made[name] += 1
        initialise(self, *args, **kwargs)

    cls.__init__ = __init__


class Outcomes:
    """Follows one session."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1)  # Open until the session ends.
        self.reports = collections.defaultdict(list)

    def tell(self, **line):
        self.file.write(json.dumps(line) + "\n")

    def pytest_collection_modifyitems(self, config, items):
        done = listed("AIOXIDE_SUITES_DONE") or set()
        only = listed("AIOXIDE_SUITES_ONLY")
        left = [
            item
            for item in items
            if item.nodeid not in done and (only is None or item.nodeid in only)
        ]
        dropped = [item for item in items if item not in left]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = left

    def pytest_runtest_logstart(self, nodeid):
        self.tell(start=nodeid)

    def pytest_runtest_logreport(self, report):
        self.reports[report.nodeid].append(report)

    def pytest_runtest_logfinish(self, nodeid):
        reports = self.reports.pop(nodeid, [])
        word = next((word for word in WORDS if any(r.outcome == word for r in reports)), "passed")
        if word == "skipped" and any(hasattr(report, "wasxfail") for report in reports):
            word = "xfailed"
        detail = "\n".join(r.longreprtext for r in reports if r.outcome == "failed")
        self.tell(end=nodeid, outcome=word, detail=detail[-6000:])

    def pytest_collectreport(self, report):
        if report.failed:
            self.tell(
                end=f"{report.nodeid} (collecting)",
                outcome="failed",
                detail=str(report.longrepr)[-6000:],
            )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus):
        self.tell(finished=int(exitstatus), loops=made)


def listed(variable):
    """The lines of the file that a variable names, or None."""
    path = os.environ.get(variable)
    if not path:
        return None
    with open(path) as file:
        return set(file.read().splitlines())


def pytest_configure(config):
    count_loops(asyncio.base_events.BaseEventLoop, "asyncio")
    try:
        from aioxide.event_loop import EventLoop
    except ImportError:
        pass
    else:
        count_loops(EventLoop, "aioxide")
    config.pluginmanager.register(Outcomes(os.environ["AIOXIDE_SUITES_RESULTS"]))
