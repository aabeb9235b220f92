"""Runs other projects' test suites on asyncio and on aioxide, and compares test by test.

    python tests/suites/run.py [--list] [--page docs/suites.md] [--again] [suite …]

Called by `dev.py suites` and by people, never by pytest. Each suite comes from its PyPI sdist and
runs unchanged, by `python -m pytest` and by `python -m aioxide -m pytest`; a plugin counts the
loops that were made and notes each outcome, so that a crash is a result and the run goes on.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import comparing
import services
import sources

PLUGIN = Path(__file__).resolve().parent / "plugin"
LOOPS = {"asyncio": [], "aioxide": ["-m", "aioxide"]}
# Seconds: a test's limit, and how long a session may say nothing before it is taken for dead.
TEST_LIMIT = 60
SILENCE = 180
# So often a session is started again after a crash or a hang, without the tests that are done.
RESTARTS = 15
# A test that asyncio passes and aioxide does not is judged by so many more runs on each.
RERUNS = 3


class Session:
    """One suite on one loop: what became of each test, and which loops were made."""

    def __init__(self, suite, loop, variables, arguments, log):
        self.suite = suite
        self.loop = loop
        self.variables = variables
        self.arguments = arguments
        self.log = log
        self.outcomes = {}
        self.details = {}
        self.made = {"asyncio": 0, "aioxide": 0}
        self.complaint = ""

    def run(self, only=None):
        """Runs pytest, again after each crash, until it comes to its end."""
        for _ in range(RESTARTS):
            with tempfile.TemporaryDirectory() as directory:
                running, ended = self._run_once(Path(directory), only)
            if ended:
                return self
            if running is None:
                self.complaint = "the session ended without a word; see the log"
                return self
            word, test = running
            self.outcomes[test] = word
        self.complaint = f"given up after {RESTARTS} crashes"
        return self

    def _run_once(self, directory, only):
        """One session; (how the test ended it, the test), if one did, and whether it is over."""
        results = directory / "results"
        results.touch()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PY")},
            **self.variables,
            **self.suite.environment,
            "PYTHONPATH": str(PLUGIN),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIOXIDE_SUITES_RESULTS": str(results),
        }
        lists = {"DONE": self.outcomes, "ONLY": only}
        for name, tests in lists.items():
            if tests is not None:
                (directory / name).write_text("\n".join(tests))
                environment[f"AIOXIDE_SUITES_{name}"] = str(directory / name)
        command = [
            self.suite.python,
            *LOOPS[self.loop],
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-p", "suite_outcomes", f"--timeout={TEST_LIMIT}", "--tb=short"]
        command += [f"--deselect={name}" for name in self.suite.not_run]
        command += [*self.suite.arguments, *self.arguments, *self.suite.tests]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.suite.source,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                silent = self._wait(process, results)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return self._read(results, silent)

    def _wait(self, process, results):
        """Waits for the end; whether it has been silent too long for one to come."""
        size, since = 0, time.monotonic()
        while True:
            try:
                process.wait(1)
                return False
            except subprocess.TimeoutExpired:
                pass
            if results.stat().st_size != size:
                size, since = results.stat().st_size, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                return True

    def _read(self, results, silent):
        running, ended = None, False
        for line in results.read_text().splitlines():
            told = json.loads(line)
            if "start" in told:
                running = told["start"]
            elif "end" in told:
                running = None
                self.outcomes[told["end"]] = told["outcome"]
                self.details[told["end"]] = told["detail"]
            else:
                ended = True
                for name, number in told["loops"].items():
                    self.made[name] += number
        word = "hang" if silent else "crash"
        return (word, running) if running else None, ended


def compare(suite, logs, again):
    """Runs a suite on both loops; the comparison. What asyncio did is kept until it may differ."""
    sources.fetch(suite)
    digest = sources.prepare(suite)
    remembered = logs / f"{suite.name}-asyncio-{digest}.json"
    with services.running(suite.needs) as (variables, arguments):
        sessions = {}
        for loop in LOOPS:
            log = logs / f"{suite.name}-{loop}.log"
            session = Session(suite, loop, variables, arguments, log)
            if loop == "asyncio" and remembered.exists() and not again:
                session.outcomes = json.loads(remembered.read_text())
            else:
                log.unlink(missing_ok=True)
                session.run()
            sessions[loop] = session
        if not sessions["asyncio"].complaint:
            remembered.write_text(json.dumps(sessions["asyncio"].outcomes, indent=1))
        comparison = comparing.Comparison.of(suite, sessions)
        for _ in range(RERUNS):
            disputed = comparison.disputed()
            if not disputed:
                break
            for loop in LOOPS:
                log = logs / f"{suite.name}-{loop}-again.log"
                again = Session(suite, loop, variables, arguments, log).run(only=disputed)
                comparison.add_rerun(loop, again)
    return comparison


def main():
    # What was started is ended, too, by whoever ends this.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    known = sources.read()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="suite", help="only these (default: all)")
    parser.add_argument("--list", action="store_true", help="name the suites and end")
    parser.add_argument("--page", type=Path, help="write the page of results here")
    parser.add_argument(
        "--again", action="store_true", help="run what has a result already, on asyncio too"
    )
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{suite.name} {suite.version}" for suite in known))
        return 0
    if unknown := set(options.suites) - {suite.name for suite in known}:
        parser.error(f"no suite is called {', '.join(sorted(unknown))}; --list names them")
    kept = sources.KEPT / f"results-{sources.SERIES}"
    kept.mkdir(parents=True, exist_ok=True)
    chosen = [suite for suite in known if not options.suites or suite.name in options.suites]
    for suite in chosen:
        result = kept / f"{suite.name}.json"
        if result.exists() and not options.again and not options.suites:
            continue
        print(f"== {suite.name} {suite.version}", flush=True)
        try:
            comparison = compare(suite, kept, options.again).facts()
        except (sources.Unavailable, services.Missing) as reason:
            comparison = comparing.unavailable(suite, str(reason))
        result.write_text(json.dumps(comparison, indent=1) + "\n")
        print(comparing.told(comparison), flush=True)
    results = [json.loads((kept / f"{suite.name}.json").read_text()) for suite in chosen]
    if options.page:
        options.page.write_text(comparing.page(results, known))
    return 1 if any(result["only_asyncio"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
