"""The two processes of a network sample: an echo server on one core, its load on the other.

The echo benches take their samples with `echo_sample` and serve with `serve`. The server's
processor time is read by the load generator, for exactly the seconds in which it counted. Never
runs an event loop itself, except as the server.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from loops import BARE, factory
from measure import Options, Sample, cores, pin

FOLDER = Path(__file__).parent
# The program, its source, and what the compiler is told beside.
PROGRAMS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("bare_epoll", "bare_epoll.c", ()),
    ("load", "load.c", ()),
    ("bare_tls", "bare_epoll.c", ("-DTLS", "-lssl", "-lcrypto")),
    ("load_tls", "load.c", ("-DTLS", "-lssl", "-lcrypto")),
)
KEY = "server.pem"
WARM_UP_SECONDS = 0.2
PATIENCE_SECONDS = 30


@contextlib.contextmanager
def compiled_programs() -> Iterator[Path]:
    """A temporary folder with the C programs of this folder, compiled."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the network benches need a C compiler (cc), and there is none")
    with tempfile.TemporaryDirectory(prefix="aioxide-benches-") as folder:
        for name, source, options in PROGRAMS:
            command = [compiler, "-O2", "-o", Path(folder, name), FOLDER / source, *options]
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(
                    f"{source} cannot be compiled; the TLS benches need the headers of OpenSSL "
                    "(libssl-dev)"
                )
        make_key(Path(folder, KEY))
        yield Path(folder)


def make_key(path: Path) -> None:
    """A server's key and its certificate, in one file."""
    import trustme

    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[tuple[int, int]]:
    """Start a server; give its process id and its port; end it by closing its standard input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            port = server.stdout.readline()
            if not port:
                raise RuntimeError(f"the server ended before it listened: {command[1:]}")
            yield server.pid, int(port)
            server.stdin.close()
            server.wait(PATIENCE_SECONDS)
        finally:
            server.kill()


def server_command(
    script: str, loop_name: str, programs: Path | None, tls: bool = False
) -> list[str]:
    """What starts the server of `script` on a loop, or the bare one."""
    core = str(cores()[0])
    if loop_name == BARE:
        assert programs is not None
        if tls:
            return [str(programs / "bare_tls"), core, str(programs / KEY)]
        return [str(programs / "bare_epoll"), core]
    return [sys.executable, script, "--serve", "--loop", loop_name, "--core", core]


def echo_sample(
    script: str, connections: int, size: int, kind: str = "tcp", *, tls: bool = False
) -> Callable[[str, Options], Sample]:
    """A sample of an echo server: its processor time for one message, in microseconds.

    `kind` is one that load.c knows: tcp, udp, unix, or accept for a connection per message.
    """

    def sample(loop_name: str, options: Options) -> Sample:
        assert options.programs is not None
        program = options.programs / ("load_tls" if tls else "load")
        with serving(server_command(script, loop_name, options.programs, tls)) as (pid, port):
            core, seconds = cores()[1], options.seconds
            given = [core, port, connections, size, WARM_UP_SECONDS, seconds, pid, kind]
            load = subprocess.run(
                [program, *map(str, given)],
                stdout=subprocess.PIPE,
                timeout=PATIENCE_SECONDS,
                check=True,
            )
        counted = json.loads(load.stdout)
        return {
            "value": counted["server_seconds"] / counted["messages"] * 1e6,
            "p50": counted["p50"],
            "p99": counted["p99"],
            "rate": counted["messages"] / counted["seconds"],
            "busy": counted["server_seconds"] / counted["seconds"],
        }

    return sample


def serve(
    loop_name: str, core: int, echoing: Callable[[], AbstractAsyncContextManager[int]]
) -> None:
    """Be the server, which `echoing` opens, until standard input is closed."""
    pin(core)

    async def until_input_ends() -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        async with echoing() as port:
            print(port, flush=True)
            await ended.wait()
        loop.remove_reader(sys.stdin.fileno())

    with asyncio.Runner(loop_factory=factory(loop_name)) as runner:
        runner.run(until_input_ends())
