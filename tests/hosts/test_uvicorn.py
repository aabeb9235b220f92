"""uvicorn, through `--loop`, with one worker and with two, serving ASGI and FastAPI.

Run by pytest on asyncio and on aioxide: the only difference is the name of the loop factory.
"""

import contextlib
import http.client
import json
import signal

from loopback import DEADLINE
from starting import (
    PYTHON,
    accepting,
    assert_clean,
    chat,
    factory,
    loop_of,
    request,
    started,
    try_out,
)

LISTENS = r"running on http://127\.0\.0\.1:(\d+)"


def command(namespace, application, *options):
    uvicorn = [*PYTHON, "-m", "uvicorn", application, "--port", "0"]
    return [*uvicorn, "--loop", factory(namespace), *options]


def test_uvicorn_serves_asgi(namespace, tmp_path):
    with started(command(namespace, "asgi:application"), tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        try_out(port, namespace)
        chat(port, namespace)
        assert program.stop() in (0, -signal.SIGTERM)
        assert_clean(
            program,
            f"application started on {namespace.__name__}",
            "application ended",
            "Finished server process",
        )


def test_uvicorn_serves_fastapi(namespace, tmp_path):
    with started(command(namespace, "fast:app"), tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        assert loop_of(port)[0] == namespace.__name__
        assert request(port, "GET", "/thread/5") == (200, b'{"number":5}')
        payload = b"x" * 1_000_000
        assert request(port, "POST", "/echo", payload) == (200, payload)
        assert request(port, "GET", "/nowhere")[0] == 404
        assert request(port, "GET", "/slow") == (200, b'"slow"')

        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        for number in range(50):
            kept.request("GET", f"/thread/{number}")
            assert json.loads(kept.getresponse().read()) == {"number": number}
        kept.close()

        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        ) as broken:
            broken.connect()
            broken.sock.sendall(b"\x00garbage that is no HTTP\r\n\r\n")
            assert broken.sock.recv(100).startswith(b"HTTP/1.1 400")

        assert request(port, "GET", "/error")[0] == 500
        assert program.stop() in (0, -signal.SIGTERM)
        assert program.output.count("Traceback") == 1
        assert "shut down after 1" in program.output
        assert "ZeroDivisionError" in program.output
        assert "ResourceWarning" not in program.output
        assert "Finished server process" in program.output


def test_uvicorn_ends_on_ctrl_c(namespace, tmp_path):
    with started(command(namespace, "asgi:application"), tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        assert request(port, "GET", "/thread")[0] == 200
        program.stop(signal.SIGINT)
        assert_clean(program, "application ended", "Finished server process")


def test_uvicorn_with_two_workers(namespace, tmp_path):
    """Each worker is a spawned process that imports the loop by its name."""
    with started(command(namespace, "asgi:application", "--workers", "2"), tmp_path) as program:
        startups = [f"application started on {namespace.__name__}"] * 2
        port = accepting(int(program.wait_for(LISTENS, *startups)[1]))
        loop, process = loop_of(port)
        assert loop == namespace.__name__
        assert process != program.process.pid
        try_out(port, namespace)
        assert program.stop() in (0, -signal.SIGTERM)
        assert program.output.count("application ended") == 2
        # The parent leaves its listening socket to the end of the process.
        assert_clean(program, "Stopping parent process", its_own=["ResourceWarning"])
