"""What all of the soak shares: the servers under load, the count of messages, and how it waits.

Made by run.py, handed to every scenario of traffic.py and work.py.  It opens a bounded number of
connections a second, all of them on loopback.
"""

import asyncio
import collections
import contextlib
import functools
import os
import random
import ssl
import time

import trustme

PATIENCE = 30.0  # Seconds after which something that must happen counts as lost.
# What debug mode says of a handshake that a reset cut short.
REFUSED = "Error on transport creation for incoming connection"
CONNECTIONS_PER_SECOND = 300  # Closed ones stay in the kernel for a while; it has 28,000 ports.


class Lost(AssertionError):
    """Something that must happen did not, or came out wrong."""


class Garbage(Exception):
    """What our protocols raise on purpose; the loop must report it and go on."""


async def expect(what, awaitable):
    """The result of `awaitable`, which must come within the patience."""
    try:
        async with asyncio.timeout(PATIENCE) as patience:
            return await awaitable
    except TimeoutError:
        if patience.expired():
            raise Lost(f"{what}: nothing within {PATIENCE:.0f} seconds") from None
        raise


def check(truth, what):
    if not truth:
        raise Lost(what)


async def given_up(chance, awaitable):
    """The result, or None if it was cancelled first, by a time limit or after some turns."""
    task = asyncio.ensure_future(awaitable)
    if chance.random() < 0.5:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
    else:
        await asyncio.wait([task], timeout=chance.choice([0, 0.0005, 0.005]))
    task.cancel()
    await expect("the end of what was cancelled", asyncio.wait([task]))
    return None if task.cancelled() else task.result()


class Field:
    """The loop, its servers, and the count of what was sent, came back, or was abandoned."""

    def __init__(self, namespace, loop, seed, directory):
        self.namespace, self.loop, self.directory = namespace, loop, directory
        self.chance = random.Random(seed)
        self.done = collections.Counter()
        self.sent, self.back, self.abandoned = (collections.Counter() for _ in range(3))
        self.handlers = set()
        self.garbage_sent = self.garbage_reported = 0
        self.unexpected = []
        self.next_connection = 0.0
        self.conversations = 0
        self.servers, self.doors = [], {}

    async def open(self):
        """Start a server of each kind; `doors` says how a client comes in."""
        authority = trustme.CA()
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(served)
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        start, create = self.namespace.start_server, self.loop.create_server
        unix, here = self.loop.create_unix_server, functools.partial(os.path.join, self.directory)
        tcp = {"host": "127.0.0.1", "port": 0, "backlog": 500}
        openings = {
            "lines": (start(self.echo_lines, **tcp), {}),
            "protocol": (create(Echo, **tcp), {}),
            "buffered": (create(BufferedEcho, **tcp), {}),
            "tls": (create(Echo, **tcp, ssl=served), {"ssl": self.trust}),
            "tls lines": (start(self.echo_lines, **tcp, ssl=served), {"ssl": self.trust}),
            "unix": (unix(Echo, here("echo"), backlog=500), {}),
            "unix buffered": (unix(BufferedEcho, here("buffered"), backlog=500), {}),
        }
        for kind, (opening, given) in openings.items():
            server = await opening
            self.servers.append(server)
            if "ssl" in given:
                given["server_hostname"] = "localhost"
            self.doors[kind] = (server.sockets[0].getsockname(), given)
        picky = await create(lambda: Picky(self), **tcp)
        self.servers.append(picky)
        self.picky = picky.sockets[0].getsockname()
        self.datagrams, _ = await self.loop.create_datagram_endpoint(
            DatagramEcho, local_addr=("127.0.0.1", 0)
        )

    async def close(self):
        self.datagrams.close()
        for server in self.servers:
            server.close()
            await expect("closing a server", server.wait_closed())
        await asyncio.sleep(0)

    def lost(self):
        """By kind: what was sent, did not come back and was not abandoned."""
        return {
            kind: sent - self.back[kind] - self.abandoned[kind] for kind, sent in self.sent.items()
        }

    async def pace(self):
        """Wait until another connection may be opened."""
        now = time.monotonic()
        self.next_connection = max(now, self.next_connection + 1 / CONNECTIONS_PER_SECOND)
        if self.next_connection > now:
            await asyncio.sleep(self.next_connection - now)

    async def connect(self, kind):
        """A reader and a writer through one of the doors."""
        await self.pace()
        address, given = self.doors[kind]
        if isinstance(address, str):
            return await expect("a connection", asyncio.open_unix_connection(address))
        return await expect("a connection", asyncio.open_connection(*address, **given))

    async def echo_lines(self, reader, writer):
        """The handler of a streams server: sends every line back until the end."""
        self.handlers.add(task := asyncio.current_task())
        task.add_done_callback(self.handlers.discard)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def told(self, loop, context):
        """The loop's exception handler: only what we provoked is expected."""
        error = context.get("exception")
        if isinstance(error, Garbage):
            self.garbage_reported += 1
        elif not (context["message"] == REFUSED and isinstance(error, OSError)):
            self.unexpected.append(context)

    async def quiet(self):
        """Wait until every handler has ended and every provoked error was reported."""
        limit = time.monotonic() + PATIENCE
        while self.handlers or self.garbage_reported < self.garbage_sent:
            check(time.monotonic() < limit, f"still busy: {len(self.handlers)} handlers")
            await asyncio.sleep(0.005)
        for _ in range(3):
            await asyncio.sleep(0)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and stops reading while its peer does not."""

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=50_000)

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class BufferedEcho(asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self):
        self.buffer = bytearray(10_000)

    connection_made = Echo.connection_made
    pause_writing = Echo.pause_writing
    resume_writing = Echo.resume_writing

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(bytes(self.buffer[:count]))


class Picky(asyncio.Protocol):
    """Raises on what does not begin with the right byte, in one callback or another."""

    def __init__(self, field):
        self.field = field

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not data.startswith(b"+"):
            self.field.garbage_sent += 1
            raise Garbage("data")
        self.transport.write(b"fine")


class DatagramEcho(asyncio.DatagramProtocol):
    """Sends each datagram back to where it came from."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)
