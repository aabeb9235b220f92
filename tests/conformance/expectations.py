"""Reads expected.toml, the list of CPython's tests that a loop need not pass, and judges by it.

run.py asks it what is wrong with the results, isolate.py which tests not to start. The list may
only shrink: an entry whose test passes, or that names no test, is as wrong as an unlisted failure.
"""

import dataclasses
import fnmatch
import pathlib
import sysconfig
import tomllib

LIST = pathlib.Path(__file__).with_name("expected.toml")
MOCK_ONLY = pathlib.Path(__file__).with_name("mock_only.toml")
KINDS = {
    "later": "belongs to the surface of a later issue",
    "white-box": "looks into asyncio's own implementation of a loop, a task or a future",
    "elsewhere": "tests a class of asyncio's own that no loop replaces",
    "difference": "differs on purpose: see docs/differences.md",
    "also-fails-on-asyncio": "fails on asyncio itself in this harness",
    "repeat": "the same tests, which another class runs once for every loop",
}
FAILED = ("fail", "error", "hang", "crash")
# So many loop cases may fail, whatever the list says; a Python that is not named has the last.
MOST_FAILURES = {"3.11": 6, "3.12": 6, "3.13": 8}


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """One entry of the list: these tests, on these Pythons, for this reason."""

    file: str
    tests: tuple[str, ...]
    kind: str
    reason: str
    unless: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    run: bool = True
    flaky: str = ""
    limit: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"{self.file}: {self.kind!r} is none of {', '.join(KINDS)}")
        if not self.reason or not self.tests:
            raise ValueError(f"{self.file}: an exclusion has tests and a reason")

    def names(self, test):
        return _any(self.tests, test) and not _any(self.unless, test)


def _any(patterns, test):
    return any(fnmatch.fnmatchcase(test, pattern) for pattern in patterns)


def read(loop, python=None, path=LIST):
    """The exclusions that hold for `loop` on this Python, or on the one given as "3.13".

    Only aioxide has a whole list. Any other loop is spared the tests that are never started, and
    asyncio those that it fails.
    """
    python = python or sysconfig.get_python_version()
    exclusions = []
    for file, entries in tomllib.loads(path.read_text()).items():
        for entry in entries:
            lists = {key: tuple(entry.pop(key, ())) for key in ("tests", "unless", "python")}
            exclusion = Exclusion(file=file, **lists, **entry)
            if exclusion.python and python not in exclusion.python:
                continue
            if (
                loop == "aioxide"
                or not exclusion.run
                or (loop == "asyncio" and exclusion.kind == "also-fails-on-asyncio")
            ):
                exclusions.append(exclusion)
    return exclusions


def read_mock_only(path=MOCK_ONLY):
    """Which loop cases count for no loop: {file.Class.test, a glob: the reason}."""
    return {
        f"{name}.{test}": entry["reason"]
        for name, entries in tomllib.loads(path.read_text()).items()
        for entry in entries
        for test in entry["tests"]
    }


def loop_cases(file, records, mock_only):
    """The records of a file that are cases of a loop: they asked for one, and for more than mocks.

    A test that ended otherwise than well counts as one that asked: it may have ended before.
    """
    for record in records:
        mocked = _any(mock_only, f"{file}.{record['test']}")
        met = record["reached"] or record["outcome"] in FAILED
        if record["cases"] == "loop" and record["outcome"] != "not run" and met and not mocked:
            yield record


def most_failures(python=None):
    """How many loop cases may fail on this Python."""
    python = python or sysconfig.get_python_version()
    return MOST_FAILURES.get(python, list(MOST_FAILURES.values())[-1])


def find(exclusions, file, test):
    """The first exclusion that names the test, or None."""
    for exclusion in exclusions:
        if exclusion.file == file and exclusion.names(test):
            return exclusion
    return None


def problems(exclusions, file, records, whole):
    """What is wrong with a file's results; `whole` says that all of its tests were asked for."""
    found = []
    for record in records:
        exclusion = find(exclusions, file, record["test"])
        outcome = record["outcome"]
        if outcome in FAILED and exclusion is None:
            found.append(f"{file} {record['test']}: {outcome}\n{_detail(record)}")
        elif not record.get("reached", True):
            continue
        elif outcome == "pass" and exclusion is not None and not exclusion.flaky:
            why = f"{exclusion.kind}: {exclusion.reason}"
            found.append(f"{file} {record['test']}: passes; take it off the list ({why})")
    if whole:
        names = [record["test"] for record in records]
        found += [
            f"{file}: the list names {pattern!r}, which is no test here"
            for exclusion in exclusions
            if exclusion.file == file
            for pattern in exclusion.tests + exclusion.unless
            if not fnmatch.filter(names, pattern)
        ]
    return found


def _detail(record):
    text = record["detail"].strip()
    if record.get("printed", "").strip():
        text += "\n--- printed:\n" + record["printed"].strip()
    return "\n".join("    " + line for line in text.splitlines())
