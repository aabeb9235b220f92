"""hypercorn: its command line under `python -m aioxide`, and `serve()` on a loop of one's own.

Run by pytest on asyncio and on aioxide.  Its command line knows no other loops and serves in
spawned processes, which follow their parent.
"""

import signal

import pytest
from starting import PYTHON, assert_clean, chat, factory, loop_of, needs, started, try_out, under

pytestmark = needs("hypercorn")

LISTENS = r"Running on http://127\.0\.0\.1:(\d+)"


@pytest.mark.parametrize("workers", [1, 2])
def test_hypercorn_from_its_command_line(namespace, tmp_path, workers):
    command = [*under(namespace), "-m", "hypercorn", "asgi:application"]
    command += ["--bind", "127.0.0.1:0", "--workers", str(workers)]
    with started(command, tmp_path) as program:
        startups = [f"application started on {namespace.__name__}"] * workers
        port = int(program.wait_for(LISTENS, *startups)[1])
        loop, process = loop_of(port)
        assert loop == namespace.__name__
        assert process != program.process.pid
        try_out(port, namespace)
        chat(port, namespace)
        assert program.stop(signal.SIGTERM) == 0
        # hypercorn terminates the workers that are still busy ending when the first has ended.
        assert_clean(program, "application ended")


API = """
import asyncio
import signal
from hypercorn.asyncio import serve
from hypercorn.config import Config
from asgi import application
import {module}

async def main():
    config = Config()
    config.bind = ["127.0.0.1:0"]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await serve(application, config, shutdown_trigger=ended.wait)
    print("served")

with asyncio.Runner(loop_factory={module}.{name}) as runner:
    runner.run(main())
"""


def test_hypercorn_from_a_program(namespace, tmp_path):
    module, name = factory(namespace).split(":")
    (tmp_path / "program.py").write_text(API.format(module=module, name=name))
    with started([*PYTHON, "program.py"], tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        try_out(port, namespace)
        chat(port, namespace)
        assert program.stop() == 0
        assert_clean(program, "application ended", "served")
