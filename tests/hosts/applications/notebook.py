"""Starts a Jupyter kernel, runs cells in it as a notebook does, and prints what they answer.

Started by test_ipython.py, with the name of the kernel and further cells.
"""

import sys

from jupyter_client.manager import KernelManager

CELLS = [
    "import asyncio",
    "await asyncio.sleep(0.01); print(type(asyncio.get_running_loop()).__module__.split('.')[0])",
    "task = asyncio.create_task(asyncio.sleep(0.01, 'a result'))",
    "await task",
    "await asyncio.gather(*(asyncio.sleep(0.001, n) for n in range(5)))",
    "await asyncio.to_thread(sum, [1, 2, 3])",
    "(await (await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)).communicate())[0]",
    "1 / 0",
    "await asyncio.wait_for(asyncio.sleep(10), 0.001)",
    "print('begun', flush=True)\nwhile True: pass",
    "print(await asyncio.sleep(0.001, 'still alive'))",
    "%load_ext aioxide",
]


def say(*words):
    """Marked, since the kernel's own words come between."""
    print(">", *words, flush=True)


def shown(message):
    """What a notebook would show of a message."""
    content = message["content"]
    if message["msg_type"] == "stream" and content["text"].strip() == "begun":
        manager.interrupt_kernel()
    elif message["msg_type"] == "stream" and content["name"] == "stdout":
        say("  printed", content["text"].strip())
    elif message["msg_type"] == "execute_result":
        say("  result", content["data"]["text/plain"])
    elif message["msg_type"] == "error":
        say("  error", content["ename"])


manager = KernelManager(kernel_name=sys.argv[1])
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=40)
for cell in [*sys.argv[2:], *CELLS]:
    say(cell.splitlines()[0])
    reply = client.execute_interactive(cell, timeout=40, output_hook=shown)
    say("  ", reply["content"]["status"])
client.stop_channels()
manager.shutdown_kernel()
say("alive:", manager.is_alive())
