"""What the tests of child processes share: that no child is left behind.

Called by test_subprocesses.py and test_subprocess_streams.py; it starts nothing itself.
"""

import contextlib
import gc
import os
import signal

import pytest


def has_children():
    """Whether this process has a child, running or to be reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


@pytest.fixture(autouse=True)
def no_child_is_left():
    assert not has_children()
    yield
    gc.collect()
    left = has_children()
    if left:  # The next test must not be blamed for it.
        end_children()
    assert not left


def end_children():
    """Kills and reaps what a failed test left."""
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        for pid in map(int, children.read().split()):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
