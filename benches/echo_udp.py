"""What does a datagram cost a server that is an asyncio.DatagramProtocol?

Run alone (`python benches/echo_udp.py`) or by `run.py`. The server's processor time for one
datagram, received and sent back to where it came from, is the figure. Never measures throughput.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from measure import Case
from network import echo_sample
from rounds import main

KIB = 1024


class Echo(asyncio.DatagramProtocol):
    """Sends back what it receives."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Send it back."""
        self.transport.sendto(data, addr)


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Listen on loopback; give the port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


CASES = [
    Case(
        "1k_10",
        "UDP echo, 1 KiB, 10 peers",
        "µs",
        echo_sample(__file__, 10, KIB, "udp"),
        seconds=0.7,
        with_load=True,
    )
]

if __name__ == "__main__":
    main(__file__, CASES, echoing)
