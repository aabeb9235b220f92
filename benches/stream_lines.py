"""What do 16 messages that came together cost a server that takes them by `readline`?

Run alone (`python benches/stream_lines.py`) or by `run.py`. The server's processor time for all
16 is the figure. Never measures throughput.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from loops import namespace
from measure import Case
from network import echo_sample
from rounds import main

# What load.c ends each line after.
PIECE = 64
MESSAGES = 16


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back each message on its own, and wait for room after the last."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            for _ in range(MESSAGES):
                message = await reader.readline()
                if not message:
                    return writer.close()
                writer.write(message)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    server = await namespace().start_server(answer, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


CASES = [
    Case(
        "pipelined",
        "streams: 16 lines of 64 bytes that came together",
        "µs",
        echo_sample(__file__, 10, MESSAGES * PIECE),
        seconds=0.7,
        with_load=True,
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
