"""Starts the programs of other people for the tests of hosts, speaks HTTP to them, ends them.

Called by the modules beside it.  A program is awaited by what it prints, never by sleeping, and
a watchdog ends it at the deadline: a hang is a failure with its output.
"""

import asyncio
import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import pytest
from loopback import wait_until
from packaging.requirements import Requirement

DEADLINE = 50.0
"""Seconds after which a program is ended; it stays below the time that pytest gives to a test."""

APPLICATIONS = Path(__file__).with_name("applications")
REQUIREMENTS = Path(__file__).parent.parent / "requirements-hosts.txt"
PYTHON = [sys.executable, "-X", "dev"]


def requirements():
    """What requirements-hosts.txt asks for, by name."""
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return {found.name: found for found in map(Requirement, filter(None, lines))}


def needs(*names):
    """Marks tests of hosts: skipped on the Pythons that requirements-hosts.txt leaves out.

    On all others the host is there, or the test fails: nothing is skipped by accident.
    """
    missing = [
        name
        for name in names
        if (marker := requirements()[name].marker) is not None and not marker.evaluate()
    ]
    reason = f"{', '.join(missing)}: tested on another Python, see requirements-hosts.txt"
    return pytest.mark.skipif(bool(missing), reason=reason)


def version_of(name):
    """The version of a host that is installed, as numbers."""
    return tuple(map(int, re.findall(r"\d+", importlib.metadata.version(name))[:2]))


def under(namespace, *python):
    """The command that runs a program on the namespace's loop: python, or python -m aioxide."""
    python = python or PYTHON
    return [*python] if namespace.__name__ == "asyncio" else [*python, "-m", namespace.__name__]


def factory(namespace):
    """The name of the loop factory, as command lines take it."""
    name = "SelectorEventLoop" if namespace.__name__ == "asyncio" else "new_event_loop"
    return f"{namespace.__name__}:{name}"


class Program:
    """A program in a child process: what it printed, and how it ended."""

    def __init__(self, command, directory, **environment):
        paths = [str(APPLICATIONS), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.pathsep.join(paths),
                **environment,
            },
        )
        self.watchdog = threading.Timer(DEADLINE, self.kill)
        self.watchdog.start()
        self.output = ""

    def wait_for(self, *patterns):
        """Read what it prints until a line of its own matched each; the match of the first."""
        matches = {}
        for line in self.process.stdout:
            self.output += line
            for index, pattern in enumerate(patterns):
                if index not in matches and (match := re.search(pattern, line)):
                    matches[index] = match
                    break
            if len(matches) == len(patterns):
                return matches[0]
        raise AssertionError(f"it ended before it printed {patterns}:\n{self.output}")

    def stop(self, number=signal.SIGTERM):
        """Send it a signal, and return its exit code."""
        self.process.send_signal(number)
        return self.end()

    def end(self):
        """Read all that it still prints, and return its exit code."""
        self.output += self.process.stdout.read()
        return self.process.wait()

    def kill(self):
        """End it and all that it started: they are a process group of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self):
        self.watchdog.cancel()
        self.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def started(command, directory, **environment):
    """The program of a command, ended with all its children at the end."""
    program = Program(command, directory, **environment)
    try:
        yield program
    finally:
        program.close()


def run(command, directory, **environment):
    """A program that ends by itself: its exit code and what it printed."""
    with started(command, directory, **environment) as program:
        return program.end(), program.output


def accepting(port):
    """Wait until somebody accepts connections on this port, for servers that print it too early."""

    def connects():
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_until(connects)
    return port


def said(output):
    """What a program said of itself, between the words of its host: lines that begin with >."""
    return [line[2:] for line in output.splitlines() if line.startswith("> ")]


def request(port, method, path, body=None):
    """One request over a connection of its own: the status and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def loop_of(port):
    """Which loop the application says it runs on, and in which process."""
    status, body = request(port, "GET", "/loop")
    assert status == 200, body
    answer = json.loads(body)
    return answer["loop"], answer["process"]


def try_out(port, namespace):
    """The requests that every server answers: which loop, large bodies, streams, many requests."""
    assert loop_of(port)[0] == namespace.__name__
    payload = os.urandom(1_000_000)
    assert request(port, "POST", "/echo", payload) == (200, payload)
    assert request(port, "GET", "/stream") == (200, b"".join(b"%d\n" % n for n in range(100)))
    assert request(port, "GET", "/thread") == (200, b"from a thread")
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    with contextlib.closing(kept):
        for number in range(50):
            body = b"%d" % number
            kept.request("POST", "/echo", body)
            assert kept.getresponse().read() == body


def chat(port, namespace):
    """A websocket on the loop under test, against the application's."""

    async def main():
        timeout = aiohttp.ClientWSTimeout(ws_close=DEADLINE)
        async with aiohttp.ClientSession() as session, asyncio.timeout(DEADLINE):
            url = f"http://127.0.0.1:{port}/chat"
            async with session.ws_connect(url, timeout=timeout) as socket:
                for number in range(20):
                    await socket.send_str(f"message {number}")
                    assert await socket.receive_str() == f"MESSAGE {number}"

    with asyncio.Runner(loop_factory=namespace.new_event_loop) as runner:
        runner.run(main())


def assert_clean(program, *expected, its_own=()):
    """What is expected was printed, and no sign of trouble but those that the host makes itself."""
    for words in expected:
        assert words in program.output, program.output
    for trouble in {"Traceback", "ResourceWarning", "never awaited", "was destroyed"}:
        assert trouble in its_own or trouble not in program.output, program.output
