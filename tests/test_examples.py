"""Every example runs in a process of its own, says what it should, and complains about nothing.

Run by pytest. A new example needs a row in EXPECTED; times on the wall are never judged here.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# Lines that must stand in the output of each example, in this order, in full.
EXPECTED = {
    "async_syntax.py": [
        "lift-off after [5, 3, 1]",
        "everything was closed before we heard of it: a vase",
        "  thermometer: disconnected",
        "the thermometer was disconnected before we went on",
    ],
    "batches_and_rates.py": [
        "failed: [(7, 'item 7 is broken')]",
        "a pace of 100 per second: never more than 10 starts within 100 ms: True",
        "15 of 30 failed",
    ],
    "connection_pools.py": [
        "20 requests opened 20 connections",
        "200 requests shared at most 5 connections: True",
        "a healthy server, and yet a timeout: it saw only 1 request",
        "50 more waited their turn and were answered: True",
        "60 queries shared at most 3 connections: True",
        "no fourth one: QueuePool limit of size 2 overflow 1 reached",
        "given back: 0 in use, query says 1",
    ],
    "coroutines_and_tasks.py": [
        "awaited it, and got 'green tea'; a coroutine can be used only once",
        "both are done, in the time of the slower one: coffee, juice",
        "  the plate is switched off",
        "the task was cancelled: True",
        "cancelled before its first step: True, and there was nothing to clean up",
        "the order is served: two pancakes",
    ],
    "database.py": [
        "renamed: Ada Lovelace; renaming nobody: None",
        "removed: True; removed again: False",
        "1000 users added in 1 statement",
        "1000 users updated in 1 statement",
        "the name is taken; users added: 0",
    ],
    "gather_wait_taskgroup.py": [
        "['slow loaded', 'quick loaded']",
        "gather failed: the page is torn; the other one still runs: True",
        "the group failed: the page is torn; the sibling was cancelled: True",
        "finished behind our back: []",
        "  gave up",
    ],
    "http_client.py": [
        "{'id': '1', 'name': 'Ada'} {'id': '3'}",
        "60 answers, 20 failed, the first: 404",
        "more than 60 requests used at most 4 connections: True",
        "{'report': 'ready at last'} after 3 requests",
        "404 is final: asked 1 time",
        "gave up on /slow in time: True",
    ],
    "limits_and_queues.py": [
        "10 dishes, the last is 'dish 9 served'; at most 3 were cooked at once",
        "12 orders served, 4 of them None",
        "a consumer failed and everything stopped: the kitchen refuses this order",
        "the queue is empty; these failed: [3, 7]",
        "with the lock: 100, without: 1",
        "on their marks, none has left: True",
        "all have left: ['Ada', 'Grace', 'Barbara']",
    ],
    "signals_and_shutdown.py": [
        "service: asked to stop, 3 requests are running",
        "service: 2 finished by themselves, 1 must be cancelled",
        "service: stuck was cancelled, its work is put back",
        "service: stopped",
        "client: first: done",
        "client: second: done",
        "client: stuck: no answer",
    ],
    "subprocesses.py": [
        "['one: 3', 'three: 5', 'eleven: 6']",
        "line: 2",
        "complaint: no more numbers",
        "return code: 1",
        "killed by SIGKILL",
        "a-program-that-nobody-has: No such file or directory",
    ],
    "tcp_echo.py": [
        "client: HELLO",
        "client: 1000 lines sent at once, the last answer is 'LINE 999'",
        "client: closed, error: None",
        "stream: HELLO FROM A STREAM",
        "stream: end of file from the server: True",
        "server: closed, still serving: False",
    ],
    "timeouts.py": [
        "too slow, we went on after 20 ms",
        "in time: forty-two",
        "not our deadline: the other side does not answer",
        "our own deadline passed",
        "the outer deadline still holds: True",
        "switched off after three steps of progress: True",
        "but the work was finished: saved",
        "wait_for: forty-two",
    ],
    "tour.py": [
        "on the event loop aioxide.EventLoop",
        "     4,000 tasks were created and awaited; their numbers add up to 7,998,000",
        "     gather kept the order: True; wait gave 1,000 tasks",
        "     one did not, and was cut off after 10 ms: True",
        "     a lock kept their account in order: 1,000",
        "     2 producers and 3 consumers passed 10,000 items through a queue of 16 places",
        "     300 requests, answered with Ada and Grace",
        "     a busy page was ready at last, at attempt 3",
        "     100 requests over TLS with a verified certificate, 0 failed",
        "     500 rows inserted, updated and read back; their points: 3,500",
        "     100 queries took turns at 3 connections",
        "     a pace of 500 per second: never more than 10 starts within 20 ms: True",
        "medians of 2 runs:",
    ],
}
ARGUMENTS = {"tour.py": ["--rounds", "1"]}
# Imported by tour.py, which is how it is tested.
PARTS = {"tour_steps.py"}


@functools.cache
def run(name):
    """Runs an example once, with the warnings on that tell of something left open."""
    return subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", name, *ARGUMENTS.get(name, [])],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=50,
        # A busy machine takes long for what needs no time.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "AIOXIDE_STALL_THRESHOLD": "0"},
        check=False,
    )


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_runs_and_says_what_it_should(name):
    finished = run(name)
    assert finished.stderr == ""
    assert finished.returncode == 0
    said = iter(finished.stdout.splitlines())
    missing = [line for line in EXPECTED[name] if line not in said]
    assert missing == [], finished.stdout


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == EXPECTED.keys() | PARTS


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_names_aioxide_and_not_asyncio(name):
    source = (EXAMPLES / name).read_text()
    assert re.search(r"^import aioxide( as asyncio)?\b", source, re.MULTILINE)
    assert not re.search(r"^(import|from) asyncio\b", source, re.MULTILINE)


def test_tour_compares_every_step_with_asyncio():
    finished = run("tour.py")
    steps = re.findall(r"^ +\d+  (.+)$", finished.stdout, re.MULTILINE)
    rows = re.findall(
        r"^ (\S.*?) +\d+\.\d ms +\d+\.\d ms +\d+\.\d\d ×", finished.stdout, re.MULTILINE
    )
    assert len(steps) >= 10
    assert rows == steps
