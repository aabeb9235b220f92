"""The servers that some suites talk to, started for the time of a run: PostgreSQL and Redis.

suites/run.py asks for one by the name in suites.toml. Never a server that was there before.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import postgres


class Missing(Exception):
    """A server that is not on this machine; the message names what to install."""


@contextlib.contextmanager
def running(name):
    """Runs a service; gives the environment variables and the arguments that lead pytest to it."""
    if not name:
        yield {}, []
    elif name == "postgres":
        try:
            with postgres.running_postgres() as server:
                yield (
                    {
                        "PGHOST": "127.0.0.1",
                        "PGPORT": str(server.port),
                        "PGUSER": server.user,
                        "PGDATABASE": "postgres",
                    },
                    [],
                )
        except postgres.NoServer as error:
            raise Missing(str(error)) from None
    elif name == "redis":
        with running_redis() as port:
            yield {}, [f"--redis-url=redis://127.0.0.1:{port}/0"]
    else:
        raise ValueError(f"no service is called {name!r}")


@contextlib.contextmanager
def running_redis():
    """A Redis in memory only; its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("there is no redis-server (Debian: redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        quiet = ["--save", "", "--appendonly", "no", "--dir", directory, "--loglevel", "warning"]
        process = subprocess.Popen([program, "--port", str(port), "--bind", "127.0.0.1", *quiet])
        try:
            end = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > end or process.poll() is not None:
                        raise Missing("redis-server did not start") from None
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait()
