"""What does a TCP message cost a server of `sock_recv` and `sock_sendall`?

Run alone (`python benches/echo_sock.py`) or by `run.py`. The server's processor time for one
message is the figure, beside a server in bare C. Never uses a transport or a stream.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from measure import Case
from network import echo_sample
from rounds import main

KIB = 1024
RECEIVE = 64 * KIB


async def echo(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    """Send back what one connection receives, until it ends, if only by a reset."""
    with connection, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(connection, RECEIVE):
            await loop.sock_sendall(connection, data)


async def accept(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
    """A task for each connection."""
    async with asyncio.TaskGroup() as group:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            group.create_task(echo(loop, connection))


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept(asyncio.get_running_loop(), listener))
        yield listener.getsockname()[1]
        accepting.cancel()
        await asyncio.wait([accepting])


CASES = [
    Case(
        f"1k_{connections}",
        f"TCP echo by sock_recv, 1 KiB, {connections} connections",
        "µs",
        echo_sample(__file__, connections, KIB),
        seconds=0.7,
        with_bare_server=True,
    )
    for connections in (10, 100)
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
