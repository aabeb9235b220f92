"""gunicorn: its own ASGI worker, uvicorn's and aiohttp's, and its command line under ours.

Run by pytest on asyncio and on aioxide.  gunicorn forks its workers from a process that has
imported aioxide, and ends them by signals.
"""

import signal

import pytest
from starting import PYTHON, assert_clean, chat, loop_of, needs, started, try_out, under

pytestmark = needs("gunicorn", "uvicorn-worker")

LISTENS = r"Listening at: http://127\.0\.0\.1:(\d+)"
KINDS = {
    "AsgiWorker": ("asgi", "asgi:application"),
    "UvicornWorker": ("uvicorn_worker.UvicornWorker", "asgi:application"),
    "AiohttpWorker": ("aiohttp.GunicornWebWorker", "web:application"),
}


def gunicorn(python, worker, application, *options):
    command = [*python, "-m", "gunicorn", "-k", worker, application, "--bind", "127.0.0.1:0"]
    return [*command, "--no-control-socket", *options]


@pytest.mark.parametrize("kind", KINDS)
def test_gunicorn_serves(namespace, tmp_path, kind):
    worker, application = KINDS[kind]
    options = ["--workers", "2"]
    if namespace.__name__ == "aioxide":
        worker = f"aioxide.integrations.gunicorn.{kind}"
    elif kind == "AsgiWorker":
        options += ["--asgi-loop", "asyncio"]
    elif kind == "UvicornWorker":
        # uvicorn's own choice is uvloop, which is installed.
        (tmp_path / "plain.py").write_text(PLAIN_UVICORN)
        worker = "plain.Worker"
    command = gunicorn(PYTHON, worker, application, *options)
    with started(command, tmp_path) as program:
        startups = [f"application started on {namespace.__name__}"] * 2
        port = int(program.wait_for(LISTENS, *startups)[1])
        assert loop_of(port)[1] != program.process.pid
        try_out(port, namespace)
        chat(port, namespace)
        assert program.stop() == 0
        assert program.output.count("application ended") == 2
        assert_clean(program, "Shutting down: Master")


PLAIN_UVICORN = """
from uvicorn_worker import UvicornWorker

class Worker(UvicornWorker):
    CONFIG_KWARGS = {"loop": "asyncio", "http": "auto"}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_gunicorn_ends_at_once(namespace, tmp_path, number):
    worker = "asgi"
    if namespace.__name__ == "aioxide":
        worker = "aioxide.integrations.gunicorn.AsgiWorker"
    with started(gunicorn(PYTHON, worker, "asgi:application"), tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        program.wait_for("application started on")
        loop_of(port)
        assert program.stop(number) == 0
        assert_clean(program, "Shutting down: Master")


def test_gunicorn_from_its_command_line(namespace, tmp_path):
    command = gunicorn(under(namespace), "asgi", "asgi:application", "--asgi-loop", "asyncio")
    with started(command, tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        program.wait_for(f"application started on {namespace.__name__}")
        try_out(port, namespace)
        assert program.stop() == 0
        assert_clean(program, "application ended")
