"""pytest's plugins for asyncio on our loop: by `pytest --aioxide`, and each by its own hook.

Run by pytest, which starts other pytests: on the suites beside this file, with warnings as errors.
Without the flag nothing of ours may be seen, which is what the runs on asyncio show.
"""

import asyncio
import os
import shutil
from pathlib import Path

from starting import PYTHON, factory, needs, run, under

import aioxide

SUITES = Path(__file__).with_name("suites")
OWN_PLUGIN_OF_AIOHTTP = ["-p", "no:aiohttp", "-p", "aiohttp.pytest_plugin"]
OWN_PLUGIN_OF_AIOHTTP += ["-W", "ignore:aiohttp.pytest_plugin:DeprecationWarning"]


def pytest_on(namespace, directory, suites, *options, python=PYTHON, conftest=""):
    """Runs suites in a pytest of its own and returns what it printed; every test does as it says.

    The suites say "passed" and "xfailed" of themselves: nothing else may be in the summary.
    """
    (directory / "conftest.py").write_text(conftest)
    for suite in suites:
        shutil.copy(SUITES / f"{suite}_suite.py", directory / f"test_{suite}.py")
    command = [*python, "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider", "-v"]
    command += ["--rootdir", str(directory), "-W", "error", "--timeout", "30"]
    command += ["-o", "asyncio_default_fixture_loop_scope=function", *options, str(directory)]
    code, output = run(command, directory, EXPECTED=namespace.__name__)
    assert code == 0, output
    assert not {"FAILED", "ERROR", "SKIPPED", "XPASS"} & set(output.split()), output
    return output


def flag(namespace):
    return ["--aioxide"] if namespace.__name__ == "aioxide" else []


def test_the_flag(namespace, tmp_path):
    suites = ("asyncio", "anyio", "unittest", "plain")
    output = pytest_on(namespace, tmp_path, suites, *flag(namespace))
    assert " 8 passed, 3 xfailed in " in output
    assert ("aioxide: " in output) == bool(flag(namespace))
    # A session has the same test ids with the flag and without.
    assert "test_asyncio.py::test_loop PASSED" in output
    assert "test_anyio.py::test_loop[asyncio] PASSED" in output


@needs("pytest-aiohttp")
def test_the_flag_and_pytest_aiohttp(namespace, tmp_path):
    options = ["-o", "asyncio_mode=auto", *flag(namespace)]
    output = pytest_on(namespace, tmp_path, ["aiohttp"], *options)
    assert " 2 passed, 1 xfailed in " in output


def test_the_flag_and_the_plugin_of_aiohttp(namespace, tmp_path):
    options = [*OWN_PLUGIN_OF_AIOHTTP, *flag(namespace)]
    output = pytest_on(namespace, tmp_path, ["aiohttp"], *options)
    assert " 2 passed, 1 xfailed in " in output


def test_pytest_under_python_m(namespace, tmp_path):
    suites = ("asyncio", "anyio", "unittest", "plain")
    output = pytest_on(namespace, tmp_path, suites, python=under(namespace))
    assert " 8 passed, 3 xfailed in " in output


HOOKS = """
import pytest
import {module}

def pytest_asyncio_loop_factories(config, item):
    return {{"chosen": {module}.{name}}}

@pytest.fixture(params=[("asyncio", {{"loop_factory": {module}.{name}}})], ids=["chosen"])
def anyio_backend(request):
    return request.param
"""


def test_the_hooks_of_pytest_asyncio_and_anyio(namespace, tmp_path):
    module, name = factory(namespace).split(":")
    conftest = HOOKS.format(module=module, name=name)
    output = pytest_on(namespace, tmp_path, ["asyncio", "anyio"], conftest=conftest)
    assert " 5 passed, 2 xfailed in " in output


LOOP_OF_AIOHTTP = """
import pytest
import {module}
from aiohttp.test_utils import loop_context

@pytest.fixture
def loop():
    with loop_context({module}.{name}) as loop:
        yield loop
"""


def test_the_fixture_of_the_plugin_of_aiohttp(namespace, tmp_path):
    module, name = factory(namespace).split(":")
    conftest = LOOP_OF_AIOHTTP.format(module=module, name=name)
    output = pytest_on(namespace, tmp_path, ["aiohttp"], *OWN_PLUGIN_OF_AIOHTTP, conftest=conftest)
    assert " 2 passed, 1 xfailed in " in output


def test_the_ini_option_and_a_marker_that_names_the_loop(tmp_path):
    output = pytest_on(aioxide, tmp_path, ["named", "plain"], "-o", "aioxide=true")
    assert " 2 passed in " in output
    assert f"aioxide: {aioxide.__version__}, the event loop of all tests" in output


def test_a_suite_that_chooses_its_loop_keeps_it(tmp_path):
    """Both plugins' own hooks come before ours."""
    conftest = HOOKS.format(module="asyncio", name="SelectorEventLoop")
    output = pytest_on(asyncio, tmp_path, ["asyncio", "anyio"], "--aioxide", conftest=conftest)
    assert " 5 passed, 2 xfailed in " in output
