"""What does a message cost a server that is an asyncio.Protocol behind TLS?

Run alone (`python benches/echo_tls.py`) or by `run.py`. The server's processor time for one
message is the figure, beside a server in bare C with OpenSSL. The load verifies no certificate;
handshakes happen before the measured seconds. Never measures throughput.
"""

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from echo_protocol import KIB, Echo
from measure import Case
from network import KEY, echo_sample, make_key
from rounds import main


def server_context() -> ssl.SSLContext:
    """What a server with a certificate of its own uses, with Python's defaults."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="aioxide-benches-") as folder:
        make_key(Path(folder, KEY))
        context.load_cert_chain(Path(folder, KEY))
    return context


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    server = await asyncio.get_running_loop().create_server(
        Echo, "127.0.0.1", 0, backlog=1024, ssl=server_context()
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


CASES = [
    Case(
        name,
        title,
        "µs",
        echo_sample(__file__, 10, size, tls=True),
        seconds=0.7,
        with_bare_server=True,
    )
    for name, title, size in (
        ("1k_10", "TLS echo by protocol, 1 KiB, 10 connections", KIB),
        ("100k_10", "TLS echo by protocol, 100 KiB, 10 connections", 100 * KIB),
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
