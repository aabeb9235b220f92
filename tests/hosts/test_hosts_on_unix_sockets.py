"""Servers of other people on Unix sockets, as they stand behind a proxy of the same machine.

Run by pytest on asyncio and on aioxide: each host is bound to a path, spoken to over it, and ended.
"""

import contextlib
import http.client
import json
import os
import socket

import pytest
from loopback import wait_until
from starting import DEADLINE, PYTHON, assert_clean, factory, needs, started, under


def command(namespace, host):
    """The command that binds the host to the socket `s` in the current directory."""
    ours = namespace.__name__ == "aioxide"
    if host == "uvicorn":
        options = ["--uds", "s", "--loop", factory(namespace)]
        return [*PYTHON, "-m", "uvicorn", "asgi:application", *options]
    if host == "hypercorn":
        return [*under(namespace), "-m", "hypercorn", "asgi:application", "--bind", "unix:s"]
    if host == "gunicorn":
        options = ["--bind", "unix:s", "--no-control-socket", "--asgi-loop", "asyncio"]
        worker = "aioxide.integrations.gunicorn.AsgiWorker" if ours else "asgi"
        return [*PYTHON, "-m", "gunicorn", "asgi:application", "-k", worker, *options]
    code = "from aiohttp.web import run_app; from web import application; "
    return [*under(namespace), "-c", code + "run_app(application, path='s')"]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def accepting(path):
    def connects():
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(path) == 0

    wait_until(connects, DEADLINE)


@needs("hypercorn", "gunicorn")
@pytest.mark.parametrize("host", ["uvicorn", "hypercorn", "gunicorn", "aiohttp"])
def test_a_server_on_a_unix_socket(namespace, tmp_path, host):
    # Paths of Unix sockets are short, those of tests are not.
    path = os.path.relpath(tmp_path / "s")
    with started(command(namespace, host), tmp_path) as program:
        program.wait_for(f"application started on {namespace.__name__}")
        accepting(path)
        with contextlib.closing(UnixConnection(path)) as connection:
            for size in (0, 1, 1000, 1_000_000):
                body = os.urandom(size)
                connection.request("POST", "/echo", body)
                assert connection.getresponse().read() == body
            connection.request("GET", "/loop")
            assert json.loads(connection.getresponse().read())["loop"] == namespace.__name__
        program.stop()
        assert_clean(program, "application ended")
