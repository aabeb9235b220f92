"""What does a TCP message cost a server that reads and writes streams?

Run alone (`python benches/echo_streams.py`) or by `run.py`. The server's processor time for one
message is the figure, beside a server in bare C. Never measures throughput.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from loops import namespace
from measure import Case
from network import echo_sample
from rounds import main

KIB = 1024


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until nothing more does."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(64 * KIB):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    server = await namespace().start_server(echo, "127.0.0.1", 0, backlog=1024)
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
        ("1k_10", "TCP echo by streams, 1 KiB, 10 connections", 10, KIB),
        ("1k_100", "TCP echo by streams, 1 KiB, 100 connections", 100, KIB),
        ("100k_10", "TCP echo by streams, 100 KiB, 10 connections", 10, 100 * KIB),
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
