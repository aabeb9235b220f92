"""Which loop the processes have that a program starts, by AIOXIDE_CHILDREN and by subprocess.

Run by pytest, each program in processes of its own.  `python -m aioxide` and its children are in
test_main.py.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
{first}
import asyncio
import multiprocessing
import sys

async def main():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]

def child(queue, depth):
    queue.put(asyncio.run(main()))
    if depth:
        start(queue, depth - 1)

def start(queue, depth):
    context = multiprocessing.get_context(sys.argv[1])
    process = context.Process(target=child, args=(queue, depth))
    process.start()
    process.join()
    assert process.exitcode == 0

if __name__ == "__main__":
    print(asyncio.run(main()))
    queue = multiprocessing.get_context(sys.argv[1]).Queue()
    start(queue, 1)
    print(queue.get(timeout=30), queue.get(timeout=30))
"""


def run(directory, *arguments, children=None, first="import aioxide", flags=()):
    """The program: its exit code, output and errors."""
    (directory / "program.py").write_text(PROGRAM.format(first=first))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("AIOXIDE_CHILDREN", None)
    if children is not None:
        environment["AIOXIDE_CHILDREN"] = children
    program = subprocess.run(
        [sys.executable, *flags, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    return program.returncode, program.stdout, program.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_follow_when_the_environment_says_so(tmp_path, method):
    asked = run(tmp_path, "program.py", method, children="1", flags=["-W", "error"])
    assert asked == (0, "asyncio\naioxide aioxide\n", "")


@pytest.mark.parametrize("children", [None, "", "0"])
def test_children_are_left_alone_otherwise(tmp_path, children):
    left = run(tmp_path, "program.py", "spawn", children=children, flags=["-W", "error"])
    assert left == (0, "asyncio\nasyncio asyncio\n", "")


def test_the_environment_is_only_heard_by_those_who_import_aioxide(tmp_path):
    unheard = run(tmp_path, "program.py", "spawn", children="1", first="")
    assert unheard == (0, "asyncio\nasyncio asyncio\n", "")


def test_an_answer_that_is_neither_yes_nor_no(tmp_path):
    code, output, errors = run(tmp_path, "program.py", "spawn", children="yes")
    assert (code, output) == (0, "asyncio\nasyncio asyncio\n")
    message = "RuntimeWarning: AIOXIDE_CHILDREN must be 0 or 1, got 'yes'; it is taken for 0"
    assert errors.splitlines()[0].endswith(message)


def test_a_python_that_subprocess_starts_is_nobody_s_child(tmp_path):
    """It has a command line of its own, which says what it runs on."""
    code = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    show = "import asyncio; loop = asyncio.new_event_loop(); loop.close(); "
    show += "print(type(loop).__module__.split('.')[0])"
    plain = run(tmp_path, "-m", "aioxide", "-c", code, "-c", show)
    assert plain == (0, "asyncio\n", "")
    ours = run(tmp_path, "-m", "aioxide", "-c", code, "-m", "aioxide", "-c", show)
    assert ours == (0, "aioxide\n", "")
