"""Tells the results: as a table in the terminal, and as the page docs/conformance.md.

run.py calls it with what it gathered. It judges nothing: every number is a count of outcomes.
"""

import collections

import expectations

PAGE = """\
# CPython's own tests on {loop}

Written by `python tests/conformance/run.py --markdown`; not to be edited.

These are the tests of asyncio that each interpreter ships (`test.test_asyncio`). Every loop they
make is {loop}'s; the classes that test a Task or a Future run once more with those of {loop} in
their place (`Our…`), on the test suite's own loop and on {loop}'s (`OwnLoop`). Each test runs in a
process of its own. `passed / run` counts only tests that made a loop, a task or a future of
{loop}'s; a file missing here has none. Tests that CPython skips on this platform are left out.
What is not passed is listed below, each with its reason.

"""


def count(file):
    """How many of a file's tests came to which end; those that never met the loop stand apart."""
    numbers = collections.Counter()
    for record in file["tests"]:
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
        numbers = count(file)
        total += numbers
        lines.append(f"{name:<24}" + "".join(f"{numbers[column] or '-':>10}" for column in columns))
    lines.append(f"{'all':<24}" + "".join(f"{total[column] or '-':>10}" for column in columns))
    return "\n".join(lines) + "\n"


def markdown(results):
    """The page: numbers per file and Python, then per kind, then every exclusion."""
    results = sorted(results, key=lambda result: int(result["python"].partition(".")[2]))
    loop = results[0]["loop"]
    return (
        PAGE.format(loop=loop)
        + "\n".join([*_files(results), "", *_kinds(results), "", *_exclusions(results)])
        + "\n"
    )


def _row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _head(first, results):
    return [
        _row(first, *(f"CPython {result['release']}" for result in results)),
        "|---|" + "---:|" * len(results),
    ]


def _files(results):
    lines = _head("passed / run", results)
    totals = [collections.Counter() for _ in results]
    for name in sorted({name for result in results for name in result["files"]}):
        cells = []
        for result, total in zip(results, totals, strict=True):
            numbers = count(result["files"].get(name, {"tests": []}))
            total += numbers
            cells.append(_cell(numbers))
        if set(cells) != {""}:
            lines.append(_row(f"`{name}`", *cells))
    return [*lines, _row("**all**", *(f"**{_cell(total)}**" for total in totals))]


def _cell(numbers):
    run = numbers["pass"] + sum(numbers[outcome] for outcome in expectations.FAILED)
    return f"{numbers['pass']} / {run}" if run else ""


def _kinds(results):
    lines = _head("not passed, by reason", results)
    tallies = [_tally(result) for result in results]
    for kind, meaning in {**expectations.KINDS, None: "**not on the list**"}.items():
        if any(tally[kind] for tally in tallies):
            lines.append(
                _row(f"{kind}: {meaning}" if kind else meaning, *(tally[kind] for tally in tallies))
            )
    return lines


def _tally(result):
    exclusions = expectations.read(result["loop"], result["python"])
    tally = collections.Counter()
    for name, file in result["files"].items():
        for record in file["tests"]:
            if record["outcome"] in expectations.FAILED:
                exclusion = expectations.find(exclusions, name, record["test"])
                tally[exclusion.kind if exclusion else None] += 1
    return tally


def _exclusions(results):
    """Every entry of the list, first those that run and fail, then those that are not started."""
    pythons = collections.defaultdict(list)
    for result in results:
        for exclusion in expectations.read(result["loop"], result["python"]):
            pythons[exclusion].append(result["python"])
    for started, title in ((True, "## Run and not passed"), (False, "## Never started")):
        yield from (title, "")
        for exclusion, where in pythons.items():
            if exclusion.run == started:
                only = "" if len(where) == len(results) else f" ({', '.join(where)} only)"
                names = ", ".join(f"`{test}`" for test in exclusion.tests)
                but = ", ".join(f"`{test}`" for test in exclusion.unless)
                yield (
                    f"- `{exclusion.file}`{only}: {names}{' but not ' + but if but else ''} – "
                    f"{exclusion.kind}: {exclusion.reason}."
                )
        yield ""
