"""What does a connection cost a server: accepted, one small message answered, closed?

Run alone (`python benches/accept.py`) or by `run.py`. The server's processor time for one
connection is the figure. The server is `start_server`, whose handler is a task. Never measures
how fast clients can connect.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from measure import Case
from network import echo_sample
from rounds import main

SIZE = 16
CONNECTIONS = 10


async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, and hang up."""
    writer.write(await reader.readexactly(SIZE))
    writer.close()


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    server = await asyncio.start_server(once, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


CASES = [
    Case(
        "start_server",
        "accept: start_server, one message a connection",
        "µs",
        echo_sample(__file__, CONNECTIONS, SIZE, "accept"),
        seconds=0.7,
        with_load=True,
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
