"""What does a message over a Unix socket cost a server that reads and writes streams?

Run alone (`python benches/echo_streams_unix.py`) or by `run.py`. The server's processor time for
one message is the figure. Never measures throughput.
"""

import contextlib
import os
from collections.abc import AsyncIterator

from echo_streams import KIB, echo
from loops import namespace
from measure import Case
from network import echo_sample
from rounds import main


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on an abstract name; give the number in it."""
    number = os.getpid()
    server = await namespace().start_unix_server(echo, f"\0aioxide-bench-{number}", backlog=1024)
    try:
        yield number
    finally:
        server.close()


CASES = [
    Case(
        "1k_10",
        "Unix echo by streams, 1 KiB, 10 connections",
        "µs",
        echo_sample(__file__, 10, KIB, "unix"),
        seconds=0.7,
        with_load=True,
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
