"""What does a message over a Unix socket cost a server that is an asyncio.Protocol?

Run alone (`python benches/echo_unix.py`) or by `run.py`. The server's processor time for one
message is the figure. Never measures throughput.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from echo_protocol import KIB, Echo
from measure import Case
from network import echo_sample
from rounds import main


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on an abstract name; give the number in it."""
    number = os.getpid()
    server = await asyncio.get_running_loop().create_unix_server(
        Echo, f"\0aioxide-bench-{number}", backlog=1024
    )
    try:
        yield number
    finally:
        server.close()


CASES = [
    Case(
        name,
        title,
        "µs",
        echo_sample(__file__, connections, size, "unix"),
        seconds=0.7,
        with_load=True,
    )
    for name, title, connections, size in (
        ("1k_10", "Unix echo by protocol, 1 KiB, 10 connections", 10, KIB),
        ("100k_10", "Unix echo by protocol, 100 KiB, 10 connections", 10, 100 * KIB),
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
