"""Runs CPython's own test_asyncio, as this interpreter ships it, on a loop and its own classes.

    python tests/conformance/run.py [--loop aioxide|asyncio|uvloop|module:factory]
        [--cases loop|class] [--file test_tasks] [--jobs 2] [--timeout 20] [--json FILE] [pattern]

Loop cases make the loop wherever a test asks for `new_event_loop` or `SelectorEventLoop`; class
cases give a Task, a Future or a Runner to the classes that test those. tests/test_conformance.py
runs both for aioxide, publish.py for every loop. It copies nothing of CPython's: where an
interpreter has no `test` package, there is nothing to run.
"""

import argparse
import collections
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys
import sysconfig
import tempfile

import expectations
import plugging
import report

ISOLATE = pathlib.Path(__file__).with_name("isolate.py")
# These take as long as all others together, so they are spread over the jobs and started first.
LONG_FILES = ("test_tasks", "test_sslproto", "test_ssl")
CASES = ("loop", "class")


def files():
    """The files of test_asyncio in this interpreter, but those that the list excludes whole."""
    package = importlib.util.find_spec("test.test_asyncio")
    if package is None:
        return []
    (directory,) = package.submodule_search_locations
    excluded = {
        exclusion.file
        for exclusion in expectations.read("asyncio")
        if exclusion.tests == ("*",) and not exclusion.run
    }
    names = {path.stem for path in pathlib.Path(directory).glob("test_*.py")} - excluded
    return sorted(names, key=lambda name: (name not in LONG_FILES, name))


def run_shard(request):
    """Runs a share of one file's tests in a process of its own; the records, and its complaint."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHONASYNCIO", "PYTHONDEV", "PYTHONWARN"))
    }
    with tempfile.TemporaryFile("w+") as complaints:
        done = subprocess.run(
            [sys.executable, ISOLATE],
            input=json.dumps(request),
            text=True,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
        )
        complaints.seek(0)
        complaint = complaints.read()
    records = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        return records, f"{request['file']}: the run broke off ({done.returncode})\n{complaint}"
    return records, None


def requests_for(loop, names, *, cases, jobs, limit, pattern):
    """What each process is asked: a file, or a share of one, as loop cases or as class cases."""
    return [
        {
            "loop": loop,
            "file": name,
            "cases": case,
            "pattern": pattern,
            "limit": limit,
            "shard": [shard, shards],
        }
        for name in names
        for case in cases
        if case == "loop" or name in plugging.FILES
        for shards in [jobs if name in LONG_FILES else 1]
        for shard in range(shards)
    ]


def run(loop, names, *, cases=CASES, jobs, limit, pattern=""):
    """Runs the files; {file: {"tests": records, "problems": what is wrong with them}}."""
    exclusions = expectations.read(loop)
    requests = requests_for(loop, names, cases=cases, jobs=jobs, limit=limit, pattern=pattern)
    records = collections.defaultdict(list)
    broken = collections.defaultdict(list)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        shards = pool.map(run_shard, requests)
        for request, (shard, complaint) in zip(requests, shards, strict=True):
            records[request["file"]] += shard
            if complaint:
                broken[request["file"]].append(complaint)
    judged = loop in ("aioxide", "asyncio")
    results = {}
    for name in sorted(names):
        problems = broken[name]
        if judged:
            whole = not pattern and not problems and set(cases) == set(CASES)
            problems = problems + expectations.problems(exclusions, name, records[name], whole)
        tests = sorted(records[name], key=lambda record: record["test"])
        results[name] = {"tests": tests, "problems": problems}
    return results


def main():
    arguments = parse_arguments()
    known = files()
    if not known:
        raise SystemExit(f"{sys.executable} does not ship test.test_asyncio")
    if unknown := set(arguments.file) - set(known):
        raise SystemExit(f"there is nothing to run in {', '.join(sorted(unknown))}")
    names = [name for name in known if not arguments.file or name in arguments.file]
    result = {
        "loop": arguments.loop,
        "python": sysconfig.get_python_version(),
        "release": platform.python_version(),
        "files": run(
            arguments.loop,
            names,
            cases=[arguments.cases] if arguments.cases else CASES,
            jobs=arguments.jobs,
            limit=arguments.timeout,
            pattern=arguments.pattern,
        ),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(report.table(result))
    wrong = [problem for file in result["files"].values() for problem in file["problems"]]
    for problem in wrong:
        print(problem)
    return 1 if wrong else 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="", help="only tests whose id contains this")
    parser.add_argument("--loop", default="aioxide")
    parser.add_argument("--cases", choices=CASES, help="only these (default: both)")
    parser.add_argument("--file", action="append", default=[], help="only this file (repeatable)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=20, help="seconds until a test hangs")
    parser.add_argument("--json", type=pathlib.Path, help="write every result here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
