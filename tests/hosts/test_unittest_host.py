"""unittest's IsolatedAsyncioTestCase: its attribute, our class for older Pythons, the default loop.

Run by pytest, which starts unittest in processes of its own; on asyncio it uses stock classes.
"""

import sys

import pytest
from starting import PYTHON, run, under

SUITES = __file__.replace("test_unittest_host.py", "suites/unittest_suite.py")


def suite(directory, imports, base, body=""):
    """The suite with another base class, and with more in the class."""
    with open(SUITES) as file:
        code = file.read().replace("import unittest\n", f"import unittest\n{imports}\n")
    code = code.replace("unittest.IsolatedAsyncioTestCase):\n", f"{base}):\n{body}")
    (directory / "test_it.py").write_text(code)


def assert_passes(namespace, directory, python=PYTHON):
    command = [*python, "-W", "error"] if python is PYTHON else python
    command = [*command, "-m", "unittest", "-v", "test_it"]
    code, output = run(command, directory, EXPECTED=namespace.__name__, PYTHONWARNINGS="error")
    assert code == 0, output
    assert "Ran 3 tests" in output
    assert output.rstrip().endswith("OK (expected failures=1)")


def test_unittest_with_our_class(namespace, tmp_path):
    base = "unittest.IsolatedAsyncioTestCase"
    if namespace.__name__ == "aioxide":
        base = "aioxide.integrations.unittest.IsolatedAsyncioTestCase"
    suite(tmp_path, f"import {base.rpartition('.')[0]}", base)
    assert_passes(namespace, tmp_path)


def test_unittest_with_our_class_and_another_loop(tmp_path):
    """Like unittest's own from 3.13 on, it takes any class of loops."""
    import asyncio

    base = "aioxide.integrations.unittest.IsolatedAsyncioTestCase"
    body = "    loop_factory = asyncio.SelectorEventLoop\n"
    suite(tmp_path, "import aioxide.integrations.unittest", base, body)
    assert_passes(asyncio, tmp_path)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the attribute is new in Python 3.13")
def test_unittest_with_its_attribute(namespace, tmp_path):
    name = "SelectorEventLoop" if namespace.__name__ == "asyncio" else "EventLoop"
    body = f"    loop_factory = {namespace.__name__}.{name}\n"
    suite(tmp_path, f"import {namespace.__name__}", "unittest.IsolatedAsyncioTestCase", body)
    assert_passes(namespace, tmp_path)


def test_unittest_under_python_m(namespace, tmp_path):
    suite(tmp_path, "", "unittest.IsolatedAsyncioTestCase")
    assert_passes(namespace, tmp_path, under(namespace))
