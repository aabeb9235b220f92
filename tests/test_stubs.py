"""The types that users are told: the stub against the compiled module, and examples of both.

Run by pytest. `mypy.stubtest` imports the package and compares; typing_examples.py is only read
by mypy. Nothing here runs a loop.
"""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 300


def judge(*arguments, directory=ROOT):
    """A child python that judges types: whether it is content, and what it says."""
    child = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return child.returncode == 0, child.stdout + child.stderr


@pytest.mark.timeout(DEADLINE)
def test_the_stub_and_the_package_agree():
    content, report = judge(
        "mypy.stubtest",
        "aioxide",
        "--concise",
        "--mypy-config-file=pyproject.toml",
        "--allowlist=tests/stubtest_allowlist.txt",
    )
    assert content, report


@pytest.mark.timeout(DEADLINE)
def test_the_package_is_typed_strictly(tmp_path):
    cache = f"--cache-dir={tmp_path}"
    content, report = judge("mypy", cache, "--strict", "python/", "tests/typing_examples.py")
    assert content, report


@pytest.mark.timeout(DEADLINE)
def test_a_program_with_a_wrong_type_is_found(tmp_path):
    """The installed package, not only the tree, tells types: a checker far from it sees them."""
    (tmp_path / "program.py").write_text(
        "import aioxide\n"
        "async def main() -> int: return 1\n"
        "text: str = aioxide.run(main())\n"
        "loop: aioxide.EventLoop = aioxide.new_event_loop()\n"
        "loop.call_soon(print, context=1)\n"
    )
    content, report = judge("mypy", "--strict", "program.py", directory=tmp_path)
    assert not content
    assert "program.py:3: error: " in report
    assert "program.py:5: error: " in report
    assert "Found 2 errors in 1 file" in report


def test_the_package_says_that_it_is_typed():
    assert files("aioxide").joinpath("py.typed").is_file()
    assert files("aioxide").joinpath("_aioxide.pyi").is_file()
