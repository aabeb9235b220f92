"""Tells the results: as a table in the terminal, and as the page docs/conformance.md.

run.py and publish.py call it with what was gathered. It judges nothing: every number is a count.
"""

import collections

import expectations

PAGE = """\
# CPython's own tests on {loops}

Written by `python tests/conformance/publish.py`; not to be edited.

These are the tests of asyncio that each interpreter ships (`test.test_asyncio`), unchanged, each in
a process of its own that may hang or crash without harm to the others.

## The loops

A *loop case* is a test that asks for `new_event_loop` or `SelectorEventLoop`. Those two names give
the loop on trial, and nothing else of asyncio's is replaced. A case counts if asyncio itself passes
it in this harness; each column says how many of these a loop passes, and what became of the others.
Two steps of CPython's set-up are left out for every loop: the one that watches children through
SIGCHLD, and the one that reads a private attribute of a loop when it is closed. The variants of a
class for other selectors than epoll, or other child watchers than pidfds, are the same case again.
{absent}
"""


def count(records):
    """How many tests came to which end; those that never met the loop stand apart."""
    numbers = collections.Counter()
    for record in records:
        outcome = record["outcome"]
        met = record["reached"] or outcome != "pass"
        numbers[outcome if met else "elsewhere"] += 1
    return numbers


def table(result):
    """One line per file and one for all."""
    columns = ("pass", *expectations.FAILED, "skip", "elsewhere", "not run")
    lines = [
        f"{result['loop']} on CPython {result['release']}",
        f"{'':<24}" + "".join(f"{column:>10}" for column in columns),
    ]
    total = collections.Counter()
    for name, file in result["files"].items():
        numbers = count(file["tests"])
        total += numbers
        lines.append(f"{name:<24}" + "".join(f"{numbers[column] or '-':>10}" for column in columns))
    lines.append(f"{'all':<24}" + "".join(f"{total[column] or '-':>10}" for column in columns))
    return "\n".join(lines) + "\n"


def base_set(result):
    """The loop cases that count: those that asyncio passes, as (file, test)."""
    mock_only = expectations.read_mock_only()
    return {
        (name, record["test"])
        for name, file in result["files"].items()
        for record in expectations.loop_cases(name, file["tests"], mock_only)
        if record["outcome"] == "pass"
    }


def outcomes(result, base):
    """{file: Counter} of what became of the base set; a case that left no record crashed."""
    found = {
        (name, record["test"]): record["outcome"]
        for name, file in result["files"].items()
        for record in file["tests"]
        if record["cases"] == "loop"
    }
    numbers = collections.defaultdict(collections.Counter)
    for name, test in base:
        outcome = found.get((name, test), "crash")
        numbers[name]["fail" if outcome == "error" else outcome] += 1
    return numbers


def markdown(results, absent=""):
    """The page: loops side by side for each Python, aioxide's failures, classes, exclusions."""
    pythons = sorted({result["python"] for result in results}, key=lambda name: name.split("."))
    order = ("asyncio", "uvloop", "rloop", "rsloop", "aioxide")
    loops = sorted({result["loop"] for result in results}, key=order.index)
    by_key = {(result["python"], result["loop"]): result for result in results}
    ours = [by_key[python, "aioxide"] for python in pythons]
    lines = [PAGE.format(loops=" and ".join([", ".join(loops[:-1]), loops[-1]]), absent=absent)]
    bases = {python: base_set(by_key[python, "asyncio"]) for python in pythons}
    lines += _summary(by_key, bases, pythons, loops)
    for python in pythons:
        here = [by_key[python, loop] for loop in loops if (python, loop) in by_key]
        lines += [f"### CPython {here[0]['release']}", "", *_loops(here, bases[python]), ""]
    lines += ["## What aioxide does not pass", "", *_failures(ours, bases), ""]
    lines += ["## The classes", "", CLASSES, *_classes(ours), ""]
    lines += ["## What counts for no loop", "", *_mock_only(), ""]
    lines += ["## Never started", "", *_never_started(ours)]
    return "\n".join(lines) + "\n"


CLASSES = """\
The classes that test a Task, a Future, a Runner or an eager task factory run once more with those
of aioxide in their place, on the test suite's own loop and on aioxide's, and so do those that test
a bare `BaseEventLoop`: `passed / run`.
"""


def _row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _head(first, columns):
    return [_row(first, *columns), "|---|" + "---:|" * len(columns)]


def _cell(numbers):
    """As "73", or "66, 4 failed, 3 hung"; nothing where a loop has no case."""
    words = {"fail": "failed", "hang": "hung", "crash": "crashed", "skip": "skipped"}
    if not numbers:
        return ""
    others = [f"{numbers[key]} {word}" for key, word in words.items() if numbers[key]]
    return ", ".join([str(numbers["pass"]), *others])


def _summary(by_key, bases, pythons, loops):
    """Cases and losses of each loop on each Python."""
    columns = [f"CPython {by_key[python, 'asyncio']['release']}" for python in pythons]
    lines = _head("passed", columns)
    for loop in loops:
        cells = []
        for python in pythons:
            result = by_key.get((python, loop))
            numbers = outcomes(result, bases[python]) if result else {}
            cells.append(_cell(sum(numbers.values(), collections.Counter())) if result else "–")
        lines.append(_row(loop, *cells))
    return [*lines, ""]


def _loops(results, base):
    lines = _head("passed", [result["loop"] for result in results])
    columns = [outcomes(result, base) for result in results]
    for name in sorted({name for name, _ in base}):
        lines.append(_row(f"`{name}`", *(_cell(numbers[name]) for numbers in columns)))
    totals = [sum(numbers.values(), collections.Counter()) for numbers in columns]
    return [*lines, _row("**all**", *(f"**{_cell(total)}**" for total in totals))]


def _failures(results, bases):
    """Each case that aioxide fails and asyncio passes, with its reason and its Pythons."""
    where = collections.defaultdict(list)
    for result in results:
        exclusions = expectations.read("aioxide", result["python"])
        for name, file in sorted(result["files"].items()):
            for record in file["tests"]:
                counted = (
                    record["cases"] == "class" or (name, record["test"]) in bases[result["python"]]
                )
                if record["outcome"] in expectations.FAILED and counted:
                    exclusion = expectations.find(exclusions, name, record["test"])
                    why = f"{exclusion.kind}: {exclusion.reason}" if exclusion else "**unlisted**"
                    where[record["cases"], name, record["test"], why].append(result["python"])
    for cases, title in (("loop", "Loop cases:"), ("class", "Class cases:")):
        rows = [key for key in where if key[0] == cases]
        yield from (title if rows else f"{title} none.", "")
        for key in rows:
            _, name, test, why = key
            yield f"- `{name}` `{test}` ({', '.join(where[key])}) – {why}."
        yield ""


def _classes(results):
    lines = _head("passed / run", [f"CPython {result['release']}" for result in results])
    totals = [collections.Counter() for _ in results]
    for name in sorted({name for result in results for name in result["files"]}):
        cells = []
        for result, total in zip(results, totals, strict=True):
            records = result["files"].get(name, {"tests": []})["tests"]
            numbers = count(record for record in records if record["cases"] == "class")
            total += numbers
            cells.append(_of(numbers))
        if set(cells) != {""}:
            lines.append(_row(f"`{name}`", *cells))
    return [*lines, _row("**all**", *(f"**{_of(total)}**" for total in totals))]


def _of(numbers):
    run = numbers["pass"] + sum(numbers[outcome] for outcome in expectations.FAILED)
    return f"{numbers['pass']} / {run}" if run else ""


def _mock_only():
    yield "These test what asyncio's modules call, put in by mocks; they count for no loop."
    yield ""
    for name, reason in expectations.read_mock_only().items():
        yield f"- `{name}` – {reason}."


def _never_started(results):
    """The entries of the list whose tests are not run at all."""
    pythons = collections.defaultdict(list)
    for result in results:
        for exclusion in expectations.read(result["loop"], result["python"]):
            if not exclusion.run:
                pythons[exclusion].append(result["python"])
    for exclusion, where in pythons.items():
        only = "" if len(where) == len(results) else f" ({', '.join(where)} only)"
        names = ", ".join(f"`{test}`" for test in exclusion.tests)
        but = ", ".join(f"`{test}`" for test in exclusion.unless)
        yield (
            f"- `{exclusion.file}`{only}: {names}{' but not ' + but if but else ''} – "
            f"{exclusion.kind}: {exclusion.reason}."
        )
