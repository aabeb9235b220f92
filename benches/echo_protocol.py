"""What does a TCP message cost a server that is an asyncio.Protocol?

Run alone (`python benches/echo_protocol.py`) or by `run.py`. The server's processor time for one
message is the figure, beside a server in bare C. Never measures throughput: with the load on the
other core, that is as much the load's figure as the server's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from measure import Case
from network import echo_sample
from rounds import main

KIB = 1024


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

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
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


CASES = [
    Case(
        name,
        title,
        "µs",
        echo_sample(__file__, connections, size),
        seconds=0.7,
        with_bare_server=True,
    )
    for name, title, connections, size in (
        ("1k_10", "TCP echo by protocol, 1 KiB, 10 connections", 10, KIB),
        ("1k_100", "TCP echo by protocol, 1 KiB, 100 connections", 100, KIB),
        ("100k_10", "TCP echo by protocol, 100 KiB, 10 connections", 10, 100 * KIB),
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
