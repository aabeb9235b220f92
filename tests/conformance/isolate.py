"""Runs the tests of one file of CPython's test_asyncio, each in a forked child of its own.

run.py starts it as a process per file and reads one line of JSON per test from it. A test that
hangs or crashes is thereby one result like any other. It never judges: expectations.py does.
"""

import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
import unittest

import expectations
import plugging
import subject as subjects
import substitution

# How long a child that was told to abort may take to write where it hung.
LAST_WORDS = 2.0
# So many characters of a failed test's traceback, and bytes of what it printed, are kept.
DETAIL_KEPT = 12_000
OUTPUT_KEPT = 12_000


class Outcome(unittest.TestResult):
    """Takes down what became of one test, in the word the report uses."""

    def __init__(self):
        super().__init__()
        self.word = "pass"
        self.detail = ""

    def addError(self, test, error):
        self._worse("error", self._exc_info_to_string(error, test))

    def addFailure(self, test, error):
        self._worse("fail", self._exc_info_to_string(error, test))

    def addSubTest(self, test, subtest, error):
        if error is not None:
            failed = issubclass(error[0], test.failureException)
            self._worse("fail" if failed else "error", self._exc_info_to_string(error, test))

    def addUnexpectedSuccess(self, test):
        self._worse("fail", "unexpected success")

    def addSkip(self, test, reason):
        if self.word == "pass":
            self.word, self.detail = "skip", reason

    def _worse(self, word, detail):
        if self.word != "error":
            self.word = word
        self.detail += detail


def tests_of(module):
    """The tests of a file by their id, Class.method."""

    def flatten(suite):
        for item in suite:
            if isinstance(item, unittest.TestSuite):
                yield from flatten(item)
            else:
                yield item

    tests = flatten(unittest.defaultTestLoader.loadTestsFromModule(module))
    return {f"{type(test).__name__}.{test._testMethodName}": test for test in tests}


def run_in_child(test, subject, results, output):
    """The child's whole life: one test, its outcome down the pipe, and out."""
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    outcome = Outcome()
    started = time.perf_counter()
    try:
        unittest.TestSuite([test]).run(outcome)
    except BaseException as error:
        outcome._worse("error", f"the test let {error!r} through")
    reached = bool(subject.reached) or getattr(test, "plugged", False)
    seconds = time.perf_counter() - started
    record = _record(outcome.word, outcome.detail[-DETAIL_KEPT:], seconds, reached)
    os.write(results, json.dumps(record).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _record(outcome, detail="", seconds=0.0, reached=True):
    """What is told of a test; `reached` is False when it never met the subject."""
    seconds = round(seconds, 3)
    return {"outcome": outcome, "detail": detail, "seconds": seconds, "reached": reached}


def run_isolated(test, subject, limit):
    """Runs one test in a child; what happened to it, whatever happened to it."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.close(reading)
            run_in_child(test, subject, writing, output.fileno())
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            data, hung = _read_until(pipe, child, time.monotonic() + limit)
        _, status = os.waitpid(child, 0)
        _kill_group(child)
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_KEPT))
        printed = output.read().decode(errors="replace")
    if hung:
        record = _record("hang", seconds=limit)
    elif data and status == 0:
        record = json.loads(data)
    else:
        record = _record("crash", _end(status))
    if record["outcome"] not in ("pass", "skip"):
        record["printed"] = printed
    return record


def _read_until(pipe, child, deadline):
    """The child's line, and whether it had to be killed because none came in time."""
    watched = os.pidfd_open(child)
    try:
        data = b""
        readable = [pipe, watched]
        while True:
            ready, _, _ = select.select(readable, [], [], max(0.0, deadline - time.monotonic()))
            if pipe in ready:
                received = pipe.read(1 << 20)
                data += received
                if not received:
                    readable.remove(pipe)
            if watched in ready and pipe not in ready:
                return data, False
            if not ready:
                break
        os.kill(child, signal.SIGABRT)
        if not select.select([watched], [], [], LAST_WORDS)[0]:
            os.kill(child, signal.SIGKILL)
        return data, True
    finally:
        os.close(watched)


def _kill_group(child):
    """Ends the processes that the test started and left behind."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _end(status):
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"left with status {code} and no result"


def load(request, subject):
    """The file's tests, with the subject in place: as its loop, or as its classes."""
    name = f"test.test_asyncio.{request['file']}"
    if request["cases"] == "loop":
        substitution.substitute(subject)
        module = importlib.import_module(name)
        substitution.prepare(module)
        return tests_of(module)
    plugging.replace_names(subject)
    module = importlib.import_module(name)
    plugging.adapt(module, subject)
    return {id: test for id, test in tests_of(module).items() if hasattr(test, "plugged")}


def main():
    request = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Python ignores SIGINT when its parent did; the tests count on KeyboardInterrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    subject = subjects.load(request["loop"])
    try:
        tests = load(request, subject)
    except unittest.SkipTest as skip:
        record = {"test": "*", "cases": request["cases"], **_record("skip", str(skip))}
        print(json.dumps(record), file=report)
        return
    shard, shards = request["shard"]
    exclusions = expectations.read(request["loop"])
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for number, (name, test) in enumerate(tests.items()):
            if number % shards != shard or request["pattern"] not in name:
                continue
            exclusion = expectations.find(exclusions, request["file"], name)
            if exclusion is not None and not exclusion.run:
                record = _record("not run")
            else:
                subject.reached = 0
                limit = exclusion.limit if exclusion else None
                record = run_isolated(test, subject, limit or request["limit"])
            record = {"test": name, "cases": request["cases"], **record}
            print(json.dumps(record), file=report, flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
