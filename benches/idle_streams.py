"""How much memory does a server of streams keep for a connection that is idle?

Run alone (`python benches/idle_streams.py`) or by `run.py`. Each connection has sent six bytes and
got them back, and its handler, a task, waits for more; the server's resident memory is read before
and after. Never counts the kernel's memory for a socket, which is the same for every loop.
"""

import contextlib
from collections.abc import AsyncIterator

from echo_streams import echo
from idle_connections import (
    CONNECTIONS,
    CONNECTIONS_FROM_ONE_ADDRESS,
    QUICK_CONNECTIONS,
    SPARE_DESCRIPTORS,
    allow_descriptors,
    connect,
    resident_bytes,
)
from loops import namespace
from measure import Case, Options, Sample
from network import server_command, serving
from rounds import main


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    allow_descriptors()
    server = await namespace().start_server(echo, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def sample(loop_name: str, options: Options) -> Sample:
    """Bytes of the server's memory for each idle stream."""
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
    Case("idle_streams", "memory of an idle stream", "bytes", sample, rounds=3),
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
