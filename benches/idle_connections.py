"""How much memory does a server keep for a connection that is idle?

Run alone (`python benches/idle_connections.py`) or by `run.py`. Each connection has sent six
bytes and got them back, and is then left alone; the server's resident memory is read before and
after. Never counts the kernel's memory for a socket, which is the same for every loop.
"""

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import AsyncIterator

from measure import Case, Options, Sample
from network import server_command, serving
from rounds import main

MESSAGE = b"hello\n"
CONNECTIONS = 10_000
QUICK_CONNECTIONS = 2_000
# From one address there are some 28,000 ports on Linux; other addresses have their own.
CONNECTIONS_FROM_ONE_ADDRESS = 2_500
SPARE_DESCRIPTORS = 64
# Linux: choose the port when connecting, when the whole address is known.
IP_BIND_ADDRESS_NO_PORT = 24


class Echo(asyncio.Protocol):
    """Sends back what it receives. Slots: the figure is the loop's, hardly the protocol's."""

    __slots__ = ("transport",)
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, which is a `Transport` by what it can do."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    allow_descriptors()
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def allow_descriptors() -> int:
    """Raise the limit of open descriptors as far as this user may; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def resident_bytes(pid: int) -> int:
    """The memory of a process, counted page by page (statm's counters lag behind)."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say how much memory is resident")


def connect(source: str, port: int) -> socket.socket:
    """One connection, echoed once. It will end by a reset, which leaves no port waiting."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    connection.settimeout(10)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", port))
    connection.sendall(MESSAGE)
    echo = b""
    while len(echo) < len(MESSAGE):
        received = connection.recv(64)
        if not received:
            raise ConnectionError("the server hung up")
        echo += received
    if echo != MESSAGE:
        raise ValueError(f"the echo is wrong: {echo!r}")
    return connection


def sample(loop_name: str, options: Options) -> Sample:
    """Bytes of the server's memory for each idle connection."""
    wanted = QUICK_CONNECTIONS if options.quick else CONNECTIONS
    count = min(wanted, allow_descriptors() - SPARE_DESCRIPTORS)
    command = server_command(__file__, loop_name, options.programs)
    with serving(command) as (pid, port), contextlib.ExitStack() as opened:
        # The first connection pays for what the server allocates once.
        opened.enter_context(connect("127.0.0.1", port))
        before = resident_bytes(pid)
        for index in range(count):
            source = f"127.0.0.{1 + index // CONNECTIONS_FROM_ONE_ADDRESS}"
            opened.enter_context(connect(source, port))
        after = resident_bytes(pid)
    return {"value": (after - before) / count, "connections": count, "base": before}


CASES = [
    Case("idle_connections", "memory of an idle connection", "bytes", sample, rounds=3),
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
