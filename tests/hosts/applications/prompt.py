"""Types cells into IPython's prompt on a terminal of its own, and prints what they print.

Started by test_ipython.py, with the arguments of the python that runs IPython.
"""

import os
import re
import sys

import pexpect

KIND = "await asyncio.sleep(0); print('kind', type(asyncio.get_running_loop()).__module__[:7], '!')"

terminal = pexpect.spawn(
    sys.executable,
    [*sys.argv[1:], "-m", "IPython", "--no-banner", "--colors=NoColor"],
    timeout=40,
    encoding="utf-8",
    dimensions=(50, 200),
    env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "IPYTHONDIR": os.getcwd()},
)


def enter(number, cell):
    """Type a cell at its prompt, wait for the next, and return what was on the terminal."""
    terminal.send(f"{cell}\r")
    terminal.expect(rf"In \[{number + 1}\]:")
    return terminal.before


def kind(shown):
    return re.search(r"kind (\w+) !", shown)[1]


terminal.expect(r"In \[1\]:")
enter(1, "import asyncio")
print("before:", kind(enter(2, KIND)))
enter(3, "%load_ext aioxide")
print("loaded:", kind(enter(4, KIND)))
enter(5, "await asyncio.sleep(0); task = asyncio.create_task(asyncio.sleep(0.01, 'a result'))")
refused = "RuntimeError: IPython's loop is still needed" in enter(6, "%unload_ext aioxide")
print("refused while a task waits:", refused)
print("task:", "'a result'" in enter(7, "await task"))
enter(8, "%unload_ext aioxide")
print("unloaded:", kind(enter(9, KIND)))
terminal.sendeof()
terminal.expect("Do you really want to exit")
terminal.send("y\r")
terminal.expect(pexpect.EOF)
terminal.close()
print("exit:", terminal.exitstatus)
