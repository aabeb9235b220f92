"""How much memory does a server keep for a TLS connection that is idle?

Run alone (`python benches/idle_tls.py`) or by `run.py`. Each connection has shaken hands, sent
six bytes and got them back, and is then left alone; the server's resident memory is read before
and after. Most of a figure is OpenSSL's, and the same for every loop.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

from echo_tls import server_context
from idle_connections import (
    CONNECTIONS,
    CONNECTIONS_FROM_ONE_ADDRESS,
    IP_BIND_ADDRESS_NO_PORT,
    MESSAGE,
    QUICK_CONNECTIONS,
    SPARE_DESCRIPTORS,
    Echo,
    allow_descriptors,
    resident_bytes,
)
from measure import Case, Options, Sample
from network import server_command, serving
from rounds import main


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    allow_descriptors()
    server = await asyncio.get_running_loop().create_server(
        Echo, "127.0.0.1", 0, backlog=1024, ssl=server_context()
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def connect(source: str, port: int, context: ssl.SSLContext) -> socket.socket:
    """One connection, echoed once. Only its socket is kept: the client's memory is not measured."""
    plain = socket.socket()
    plain.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    plain.settimeout(10)
    plain.bind((source, 0))
    plain.connect(("127.0.0.1", port))
    connection = context.wrap_socket(plain)
    connection.sendall(MESSAGE)
    echo = b""
    while len(echo) < len(MESSAGE):
        received = connection.recv(64)
        if not received:
            raise ConnectionError("the server hung up")
        echo += received
    if echo != MESSAGE:
        raise ValueError(f"the echo is wrong: {echo!r}")
    return socket.socket(fileno=connection.detach())


def sample(loop_name: str, options: Options) -> Sample:
    """Bytes of the server's memory for each idle connection."""
    wanted = QUICK_CONNECTIONS if options.quick else CONNECTIONS
    count = min(wanted, allow_descriptors() - SPARE_DESCRIPTORS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    command = server_command(__file__, loop_name, options.programs)
    with serving(command) as (pid, port), contextlib.ExitStack() as opened:
        # The first connection pays for what the server allocates once.
        opened.enter_context(connect("127.0.0.1", port, context))
        before = resident_bytes(pid)
        for index in range(count):
            source = f"127.0.0.{1 + index // CONNECTIONS_FROM_ONE_ADDRESS}"
            opened.enter_context(connect(source, port, context))
        after = resident_bytes(pid)
    return {"value": (after - before) / count, "connections": count, "base": before}


CASES = [Case("idle_tls", "memory of an idle TLS connection", "bytes", sample, rounds=3)]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
