"""granian: a registered loop, forked and spawned workers, and its command line.

Run by pytest on asyncio and on aioxide.  Its server is Rust of its own; the loop runs the
application, and callbacks that granian's threads post.
"""

import pytest
from loopback import free_port
from starting import PYTHON, accepting, assert_clean, chat, loop_of, needs, started, try_out, under

pytestmark = needs("granian")

PROGRAM = """
import multiprocessing
import sys
import granian
{registration}

if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    server = granian.Granian(
        "{application}", port=int(sys.argv[1]), interface="{interface}", loop="{loop}", workers=2
    )
    server.serve()
"""

RSGI = """
import asyncio
import os

class Application:
    def __rsgi_init__(self, loop):
        loop.run_until_complete(asyncio.sleep(0))
        kind = type(loop).__module__.split(".")[0].encode()
        os.write(1, b"application started on " + kind + b"\\n")

    def __rsgi_del__(self, loop):
        os.write(1, b"application ended\\n")

    async def __rsgi__(self, scope, protocol):
        body = await protocol()
        kind = type(asyncio.get_running_loop()).__module__.split(".")[0]
        protocol.response_str(200, [], '{"loop": "%s", "process": %d}' % (kind, len(body)))

application = Application()
"""


def program(namespace, directory, **settings):
    ours = namespace.__name__ == "aioxide"
    settings["registration"] = "import aioxide.integrations.granian" if ours else ""
    (directory / "program.py").write_text(PROGRAM.format(loop=namespace.__name__, **settings))
    return [*PYTHON, "program.py"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_granian_serves_asgi(namespace, tmp_path, method):
    settings = {"application": "asgi:application", "interface": "asgi", "method": method}
    port = free_port()
    with started([*program(namespace, tmp_path, **settings), str(port)], tmp_path) as server:
        server.wait_for(*[f"application started on {namespace.__name__}"] * 2)
        try_out(accepting(port), namespace)
        chat(port, namespace)
        assert server.stop() == 0
        assert server.output.count("application ended") == 2
        assert_clean(server, "Granian shutdown completed")


def test_granian_serves_rsgi(namespace, tmp_path):
    (tmp_path / "rsgi.py").write_text(RSGI)
    settings = {"application": "rsgi:application", "interface": "rsgi", "method": "fork"}
    port = free_port()
    with started([*program(namespace, tmp_path, **settings), str(port)], tmp_path) as server:
        server.wait_for(*[f"application started on {namespace.__name__}"] * 2)
        assert loop_of(accepting(port)) == (namespace.__name__, 0)
        assert server.stop() == 0
        assert_clean(server, "application ended")


def test_granian_from_its_command_line(namespace, tmp_path):
    port = free_port()
    command = [*under(namespace), "-m", "granian", "asgi:application", "--interface", "asgi"]
    command += ["--loop", "asyncio", "--port", str(port)]
    with started(command, tmp_path) as server:
        server.wait_for("Started worker-1")
        try_out(accepting(port), namespace)
        assert server.stop() == 0
        assert_clean(server, f"application started on {namespace.__name__}", "application ended")
