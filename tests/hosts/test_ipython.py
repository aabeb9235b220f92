"""IPython's prompt and Jupyter's kernel: `%load_ext aioxide`, and a kernel that is ours from start.

Run by pytest.  Both are driven from outside, as people and notebooks do: the prompt on a terminal,
the kernel through its sockets.
"""

import json
import sys

import pytest
from starting import APPLICATIONS, PYTHON, needs, run, said

pytestmark = needs("ipykernel")

# What the kernel answers to the cells of notebook.py, on whichever loop.
ANSWERS = """\
import asyncio
   ok
await asyncio.sleep(0.01); print(type(asyncio.get_running_loop()).__module__.split('.')[0])
  printed {loop}
   ok
task = asyncio.create_task(asyncio.sleep(0.01, 'a result'))
   ok
await task
  result 'a result'
   ok
await asyncio.gather(*(asyncio.sleep(0.001, n) for n in range(5)))
  result [0, 1, 2, 3, 4]
   ok
await asyncio.to_thread(sum, [1, 2, 3])
  result 6
   ok
(await (await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)).communicate())[0]
  result b'hi\\n'
   ok
1 / 0
  error ZeroDivisionError
   error
await asyncio.wait_for(asyncio.sleep(10), 0.001)
  error TimeoutError
   error
print('begun', flush=True)
  error KeyboardInterrupt
   error
print(await asyncio.sleep(0.001, 'still alive'))
  printed still alive
   ok
%load_ext aioxide
{extension}
alive: False
"""

# An interrupt that comes while a cell waits.  On asyncio's loop it depends on the thread that the
# kernel hands the signal to whether anybody wakes up.
WAITING = """\
import asyncio; print('begun', flush=True); await asyncio.sleep(600)
  error CancelledError
   error
"""


@pytest.fixture
def jupyter(tmp_path):
    """Places for all that IPython and Jupyter write, and nothing of this user's."""
    names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    places = {name: str(tmp_path / name.lower()) for name in names}
    return {**places, "JUPYTER_PATH": str(tmp_path / "share" / "jupyter")}


def test_a_kernel(namespace, tmp_path, jupyter):
    kernel, extension = "python3", "  error RuntimeError\n   error"
    answers, cells = ANSWERS, []
    if namespace.__name__ == "aioxide":
        kernel, extension = "ours", "   ok"
        command = [*PYTHON, "-m", "aioxide.integrations.ipython", "install", "--name", "ours"]
        command += ["--prefix", str(tmp_path), "--display-name", "Ours"]
        code, output = run(command, tmp_path, **jupyter)
        place = tmp_path / "share" / "jupyter" / "kernels" / "ours"
        assert (code, output) == (0, f"installed the kernel ours in {place}\n")
        assert json.loads((place / "kernel.json").read_text())["display_name"] == "Ours"
        answers, cells = WAITING + ANSWERS, WAITING.splitlines()[:1]
    command = [sys.executable, APPLICATIONS / "notebook.py", kernel, *cells]
    code, output = run(command, tmp_path, **jupyter)
    answers = answers.format(loop=namespace.__name__, extension=extension)
    assert code == 0, output
    assert said(output) == answers.splitlines()


def test_the_prompt_loads_the_extension(tmp_path, jupyter):
    code, output = run([*PYTHON, APPLICATIONS / "prompt.py"], tmp_path, **jupyter)
    assert (code, output) == (
        0,
        "before: asyncio\n"
        "loaded: aioxide\n"
        "refused while a task waits: True\n"
        "task: True\n"
        "unloaded: asyncio\n"
        "exit: 0\n",
    )


def test_the_prompt_under_python_m(tmp_path, jupyter):
    command = [*PYTHON, APPLICATIONS / "prompt.py", "-m", "aioxide"]
    code, output = run(command, tmp_path, **jupyter)
    assert code == 0, output
    assert output.startswith("before: aioxide\nloaded: aioxide\n")
    assert output.endswith("exit: 0\n")


def test_the_command_says_what_it_needs(tmp_path, jupyter):
    command = [*PYTHON, "-m", "aioxide.integrations.ipython"]
    code, output = run(command, tmp_path, **jupyter)
    assert code == 2
    assert "the following arguments are required: install" in output
