"""CPython's own test_asyncio on aioxide, one case per file of it, and the harness on trial itself.

conformance/run.py does the work, once, for the files that were asked for; here its findings are
asserted. Where an interpreter ships no `test` package there is nothing to run.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

CONFORMANCE = pathlib.Path(__file__).with_name("conformance")
sys.path.insert(0, str(CONFORMANCE))

import expectations  # noqa: E402
import report  # noqa: E402
import run as harness  # noqa: E402

needs_cpythons_tests = pytest.mark.skipif(
    not harness.files(), reason="this interpreter does not ship test.test_asyncio"
)


def run(*arguments, written, path=None):
    """Runs run.py, which may import from `path` too; every result by file."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, CONFORMANCE / "run.py", f"--json={written}", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert written.exists(), done.stderr
    return json.loads(written.read_text())["files"]


@pytest.fixture(scope="session")
def results(request, tmp_path_factory):
    """What run.py found in the files whose cases are in this session."""
    wanted = [
        item.callspec.params["file"]
        for item in request.session.items
        if getattr(item, "originalname", None) == test_file.__name__
    ]
    return run(
        "--loop=aioxide",
        *(f"--file={file}" for file in wanted),
        written=tmp_path_factory.mktemp("conformance") / "results.json",
    )


# The first of these waits for all of them; every single test inside has a limit of its own.
@needs_cpythons_tests
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", sorted(harness.files()))
def test_file(results, file):
    problems = results[file]["problems"]
    assert not problems, "\n".join(problems)
    assert any(record["outcome"] != "not run" for record in results[file]["tests"])


@needs_cpythons_tests
@pytest.mark.timeout(900)
def test_few_loop_cases_fail(results):
    if set(results) != set(harness.files()):
        pytest.skip("not every file was run")
    mock_only, exclusions = expectations.read_mock_only(), expectations.read("aioxide")
    excused = ("later", "also-fails-on-asyncio")
    failures = [
        f"{name} {record['test']}: {record['outcome']}"
        for name, file in results.items()
        for record in expectations.loop_cases(name, file["tests"], mock_only)
        if record["outcome"] in expectations.FAILED
        and getattr(expectations.find(exclusions, name, record["test"]), "kind", "") not in excused
    ]
    assert len(failures) <= expectations.most_failures(), "\n".join(failures)


@needs_cpythons_tests
@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("os.abort()", "crash"),
        ("os._exit(0)", "crash"),
        ("time.sleep(60)", "hang"),
        ("raise OSError('no loop')", "error"),
    ],
)
def test_a_broken_loop_is_a_result(tmp_path, body, outcome):
    (tmp_path / "broken.py").write_text(f"import os, time\n\n\ndef loop():\n    {body}\n")
    files = run(
        "--loop=broken:loop",
        "--file=test_context",
        "--timeout=1",
        path=tmp_path,
        written=tmp_path / "results.json",
    )
    assert [record["outcome"] for record in files["test_context"]["tests"]] == [outcome]
    if outcome != "crash" or "abort" in body:
        printed = files["test_context"]["tests"][0]
        assert "broken.py" in printed["detail"] + printed["printed"]


EXCLUSIONS = [
    expectations.Exclusion("test_a", ("Tests.test_known*",), "later", "not yet"),
    expectations.Exclusion("test_a", ("Tests.test_busy",), "difference", "a clock", flaky="clock"),
]


def record(test, outcome, *, reached=True, cases="loop"):
    told = {"test": test, "outcome": outcome, "detail": "why it ended so"}
    return {**told, "reached": reached, "cases": cases}


def test_the_list_accepts_what_it_names():
    records = [
        record("Tests.test_known", "fail"),
        record("Tests.test_known_too", "hang"),
        record("Tests.test_busy", "pass"),
        record("Tests.test_free", "pass"),
    ]
    assert expectations.problems(EXCLUSIONS, "test_a", records, whole=True) == []


def test_an_unlisted_failure_is_a_problem():
    (problem,) = expectations.problems([], "test_a", [record("Tests.test_x", "error")], whole=True)
    assert problem.startswith("test_a Tests.test_x: error") and "why it ended so" in problem


def test_an_excluded_test_that_passes_is_a_problem():
    records = [record("Tests.test_known", "pass"), record("Tests.test_busy", "fail")]
    (problem,) = expectations.problems(EXCLUSIONS, "test_a", records, whole=True)
    assert "Tests.test_known: passes" in problem


def test_an_exclusion_of_nothing_is_a_problem_when_all_was_run():
    records = [record("Tests.test_busy", "pass")]
    assert expectations.problems(EXCLUSIONS, "test_a", records, whole=False) == []
    (problem,) = expectations.problems(EXCLUSIONS, "test_a", records, whole=True)
    assert "'Tests.test_known*', which is no test" in problem


def test_what_never_asks_for_the_loop_is_no_case_of_it():
    records = [
        record("Tests.test_loop", "pass"),
        record("Tests.test_other", "pass", reached=False),
        record("Tests.test_broken", "crash", reached=False),
        record("Tests.test_mocks", "pass"),
        record("OurTests.test_task", "pass", cases="class"),
        record("Tests.test_again", "not run"),
    ]
    mock_only = {"test_a.Tests.test_mocks": "mocks"}
    counted = [case["test"] for case in expectations.loop_cases("test_a", records, mock_only)]
    assert counted == ["Tests.test_loop", "Tests.test_broken"]


def told_by(loop, **outcomes):
    tests = [record(f"Tests.{name}", outcome) for name, outcome in outcomes.items()]
    files = {"test_locks": {"tests": tests, "problems": []}}
    return {"loop": loop, "python": "3.13", "release": "3.13.0", "files": files}


def test_the_page_counts_what_asyncio_passes():
    page = report.markdown(
        [
            told_by("asyncio", test_a="pass", test_b="pass", test_c="error"),
            told_by("uvloop", test_a="hang", test_b="pass", test_c="pass"),
            told_by("aioxide", test_a="pass", test_b="error", test_c="pass"),
        ]
    )
    assert "| `test_locks` | 2 | 1, 1 hung | 1, 1 failed |" in page
    assert "- `test_locks` `Tests.test_b` (3.13) – **unlisted**." in page


def test_a_case_that_left_no_record_counts_as_a_crash():
    asyncio, rloop = (
        told_by("asyncio", test_a="pass", test_b="pass"),
        told_by("rloop", test_a="pass"),
    )
    numbers = report.outcomes(rloop, report.base_set(asyncio))
    assert numbers == {"test_locks": {"pass": 1, "crash": 1}}


def test_every_kind_of_exclusion_is_known():
    with pytest.raises(ValueError, match="'whim' is none of"):
        expectations.Exclusion("test_a", ("Tests.test_known",), "whim", "not yet")
