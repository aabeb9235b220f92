"""Compares a suite's outcomes on two loops, and tells of it: in the terminal and in docs/suites.md.

suites/run.py calls it with two sessions. It runs nothing and forgives nothing that suites.toml does
not name.
"""

import fnmatch
import platform

GOOD = ("passed", "xfailed")
# So many tests are named in the terminal.
SHOWN = 12
PAGE = """\
# Other projects' test suites on aioxide

Written by `python3 dev.py suites -- --page docs/suites.md`; not to be edited.

Each suite is the one in its project's PyPI sdist, at the version named, unchanged, against the
installed wheel of that project. It runs twice on CPython {release}: by `python -m pytest` and by
`python -m aioxide -m pytest`. The bar: what passes on asyncio passes on aioxide. A test that did
not is run again on both: it is *flaky* if it then fails on asyncio once too, or passes on aioxide
in each of the {reruns} reruns. *Loops* are those made in the run on aioxide, by whose they are;
asyncio's own are made by tests that name its class.

"""


class Comparison:
    """One suite: what passes where."""

    def __init__(self, suite, outcomes, details, made, complaints):
        self.suite = suite
        self.outcomes = outcomes
        self.details = details
        self.made = made
        self.complaints = complaints
        self.reruns = []

    @classmethod
    def of(cls, suite, sessions):
        return cls(
            suite,
            {loop: session.outcomes for loop, session in sessions.items()},
            sessions["aioxide"].details,
            sessions["aioxide"].made,
            [f"{loop}: {s.complaint}" for loop, s in sessions.items() if s.complaint],
        )

    def disputed(self):
        """The tests that passed on asyncio and did not on aioxide, and are not yet flaky."""
        return [
            test
            for test, outcome in self.outcomes["asyncio"].items()
            if outcome in GOOD
            and self.outcomes["aioxide"].get(test, "missing") not in (*GOOD, "skipped")
            and not self.flaky_on_asyncio(test)
        ]

    def add_rerun(self, loop, session):
        self.reruns.append((loop, session.outcomes))

    def _again(self, loop, test):
        return [outcomes.get(test, "missing") for name, outcomes in self.reruns if name == loop]

    def flaky_on_asyncio(self, test):
        return any(outcome not in GOOD for outcome in self._again("asyncio", test))

    def flaky_on_aioxide(self, test):
        again = self._again("aioxide", test)
        return bool(again) and all(outcome in GOOD for outcome in again)

    def facts(self):
        """What is kept of it, as JSON."""
        asyncio, aioxide = self.outcomes["asyncio"], self.outcomes["aioxide"]
        good = {test for test, outcome in asyncio.items() if outcome in GOOD}
        ours = {test for test, outcome in aioxide.items() if outcome in GOOD}
        differences = dict(self.suite.differences)
        disputed = self.disputed()
        flaky = [t for t in good - ours if self.flaky_on_asyncio(t) or self.flaky_on_aioxide(t)]
        excused = {
            test: reason
            for test in disputed
            for pattern, reason in differences.items()
            if fnmatch.fnmatchcase(test, pattern)
        }
        return {
            "suite": self.suite.name,
            "version": self.suite.version,
            "release": platform.python_version(),
            "both": len(good & ours),
            "only_asyncio": {
                test: {
                    "outcome": aioxide.get(test, "missing"),
                    "detail": self.details.get(test, ""),
                }
                for test in sorted(disputed)
                if test not in flaky and test not in excused
            },
            "excused": excused,
            "flaky": sorted(flaky),
            "only_aioxide": sorted(
                ours - good - set(t for t, o in asyncio.items() if o == "skipped")
            ),
            "neither": sorted(
                test
                for test, outcome in asyncio.items()
                if outcome not in (*GOOD, "skipped") and test not in ours
            ),
            "skipped": sum(outcome == "skipped" for outcome in asyncio.values()),
            "skipped_on_aioxide": sorted(t for t in good if aioxide.get(t) == "skipped"),
            "loops": self.made,
            "complaints": self.complaints,
            "not_run": self.suite.not_run,
            "why": "",
        }


def unavailable(suite, why):
    """What is kept of a suite that could not be run."""
    return {
        "suite": suite.name,
        "version": suite.version,
        "release": platform.python_version(),
        "only_asyncio": {},
        "why": why,
    }


def told(facts):
    """A few lines for the terminal."""
    if facts["why"]:
        return f"   not run: {facts['why']}"
    lines = [
        f"   both {facts['both']} · asyncio only {len(facts['only_asyncio'])} · "
        f"neither {len(facts['neither'])} · aioxide only {len(facts['only_aioxide'])} · "
        f"flaky {len(facts['flaky'])} · skipped {facts['skipped']} · loops {facts['loops']}"
    ]
    lines += [f"   ! {complaint}" for complaint in facts["complaints"]]
    only = list(facts["only_asyncio"].items())
    for test, what in only[:SHOWN]:
        last = what["detail"].strip().splitlines()[-1:] or [""]
        lines.append(f"   {what['outcome']}: {test}  {last[0][:100]}")
    if len(only) > SHOWN:
        lines.append(f"   … and {len(only) - SHOWN} more, all in the results that are kept")
    return "\n".join(lines)


def page(results, suites):
    """docs/suites.md."""
    ran = [facts for facts in results if not facts["why"]]
    lines = [
        PAGE.format(release=ran[0]["release"] if ran else platform.python_version(), reruns=3)
        + "| suite | on both | on asyncio only | on neither | flaky | skipped | loops made |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for facts in ran:
        loops = f"{facts['loops']['aioxide']} of aioxide, {facts['loops']['asyncio']} of asyncio"
        only = len(facts["only_asyncio"]) + len(facts["excused"])
        lines.append(
            f"| {facts['suite']} {facts['version']} | {facts['both']} | {only} "
            f"| {len(facts['neither'])} | {len(facts['flaky'])} | {facts['skipped']} | {loops} |"
        )
    lines += ["", "## On asyncio only", ""]
    found = False
    for facts in ran:
        for test, reason in facts["excused"].items():
            found = True
            lines.append(f"- {facts['suite']}: `{test}` – {reason}.")
        for test in facts["only_asyncio"]:
            found = True
            lines.append(f"- {facts['suite']}: `{test}` – **not understood yet**.")
    lines += [] if found else ["Nothing."]
    lines += ["", "## Flaky", ""]
    flaky = [f"- {facts['suite']}: `{test}`" for facts in ran for test in facts["flaky"]]
    lines += flaky or ["Nothing."]
    lines += [
        "",
        "## On neither",
        "",
        "What a machine without a network, or with other versions of",
    ]
    lines += ["other packages, makes fail on asyncio too.", ""]
    lines += [f"- {facts['suite']}: `{test}`" for facts in ran for test in facts["neither"]]
    lines += ["", "## Not run", ""]
    lines += [
        f"- {facts['suite']}: `{test}` – {reason}."
        for facts in ran
        for test, reason in facts["not_run"].items()
    ]
    options = {suite.name: suite.arguments for suite in suites if suite.arguments}
    lines += [f"- {name}: started with `{' '.join(words)}`." for name, words in options.items()]
    lines += [f"- {f['suite']} {f['version']}: {f['why']}." for f in results if f["why"]]
    return "\n".join(lines) + "\n"
