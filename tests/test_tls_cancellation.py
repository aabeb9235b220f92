"""TLS connections and servers that are cancelled or aborted at any moment leave nothing behind.

Run by pytest on asyncio and on aioxide. The moments are turns of the loop, each tried in order or
drawn by a seeded chance; the `loop` fixture counts descriptors and tasks as well.
"""

import asyncio
import collections
import contextlib
import gc
import os
import random
import socket
import ssl

import pytest
from loopback import Recorder, listener, on_loop, until
from tls_ends import Echo, tls_server

# Connecting


@contextlib.contextmanager
def full_listener():
    """The address of a listener whose queue is full: to connect there takes for ever."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(listener(backlog=0))
        address = listening.getsockname()
        waiting = None
        while waiting is None:
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.1)
            try:
                sock.connect(address)
            except TimeoutError:
                waiting = sock
        yield address


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 30])
@on_loop
async def test_cancelling_while_the_socket_connects(loop, authority, turns):
    with full_listener() as address:
        made = []
        connecting = asyncio.ensure_future(
            loop.create_connection(
                lambda: made.append(1) or Recorder(),
                *address,
                ssl=authority.client(),
                server_hostname="localhost",
            )
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert made == []


@on_loop
async def test_cancelling_in_the_middle_of_the_handshake(loop, authority):
    """The greeting has arrived: the peer sees the end of the connection, the protocol nothing."""
    protocol = Recorder()
    with listener() as listening:
        connecting = asyncio.ensure_future(
            loop.create_connection(
                lambda: protocol,
                *listening.getsockname(),
                ssl=authority.client(),
                server_hostname="localhost",
            )
        )
        far, _ = await loop.sock_accept(listening)
        with far:
            assert await loop.sock_recv(far, 65536)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert await loop.sock_recv(far, 65536) == b""
    assert protocol.events == []


@on_loop
async def test_cancelling_at_every_turn(loop, authority):
    """From the first step until a turn comes that is too late to cancel."""
    context = authority.client()
    async with tls_server(loop, authority.server(), Echo) as (address, made):
        loop.set_debug(False)
        too_late = 0
        for turns in range(1000):
            connecting = asyncio.ensure_future(
                loop.create_connection(Recorder, *address, ssl=context, server_hostname="localhost")
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            try:
                transport, protocol = await connecting
            except asyncio.CancelledError:
                continue
            transport.abort()
            await protocol.has("lost")
            too_late += 1
            if too_late == 3:
                break
        assert too_late == 3
        await until(lambda: all(p.events == [] or p.events[-1] == "lost" for p in made))


# Serving


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("turns", range(5))
@on_loop
async def test_cancelling_the_start_of_a_server(loop, namespace, authority, host, turns):
    starting = asyncio.ensure_future(
        loop.create_server(Recorder, host, 0, family=socket.AF_INET, ssl=authority.server())
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    listening = len(listening_sockets())
    if namespace is asyncio and listening and not starting.done():
        await starting
        starting.result().close()
        pytest.skip("asyncio goes on listening, with nobody who could close it")
    starting.cancel()
    try:
        server = await starting
    except asyncio.CancelledError:
        pass
    else:
        assert server.is_serving()
        server.close()
        await server.wait_closed()
    assert listening_sockets() == []


def listening_sockets():
    """The descriptors of this process that listen."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(int(name))
    return found


# Many of them

WATCHED = (
    *(ssl.SSLObject, ssl.SSLContext, socket.socket),
    *(Recorder, asyncio.BaseTransport, asyncio.BaseProtocol, asyncio.Future),
)
OURS = {"TlsProtocol", "TlsTransport", "StreamTransport"}


def census():
    """How many objects of the kinds that a connection is made of there are, and descriptors."""
    gc.collect()
    found = collections.Counter()
    for thing in gc.get_objects():
        # By `type`: a proxy's `__class__` may run code.
        kind = type(thing)
        if issubclass(kind, WATCHED) or kind.__name__ in OURS:
            found[kind.__name__] += 1
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["tasks"] = len(asyncio.all_tasks())
    return found


async def visit(loop, address, authority, chance):
    """One connection with a context of its own, which ends as chance says."""
    connecting = asyncio.ensure_future(
        loop.create_connection(
            Recorder, *address, ssl=authority.client(), server_hostname="localhost"
        )
    )
    if chance.random() < 0.5:
        for _ in range(chance.randrange(25)):
            await asyncio.sleep(0)
        connecting.cancel()
    try:
        transport, protocol = await connecting
    except asyncio.CancelledError:
        return "cancelled"
    transport.write(bytes(chance.randrange(200_000)))
    for _ in range(chance.randrange(5)):
        await asyncio.sleep(0)
    ending = chance.choice(["close", "abort", "close, then abort", "the server's"])
    if ending == "the server's":
        transport.write(b"end!")
    if ending.startswith("close"):
        transport.close()
    if ending.endswith("abort"):
        transport.abort()
    await protocol.has("lost")
    return ending


class Ending(Echo):
    """Echoes, and aborts when it is told to."""

    def data_received(self, data):
        super().data_received(data)
        if data.endswith(b"end!"):
            self.transport.abort()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.transport = None
        self.received.clear()


@on_loop
async def test_two_hundred_connections_leave_nothing(loop, authority):
    chance = random.Random(20)
    gc.collect()
    endings = collections.Counter()
    server = await loop.create_server(Ending, "127.0.0.1", 0, ssl=authority.server())
    address = server.sockets[0].getsockname()
    # What is made once is made by the first.
    await visit(loop, address, authority, random.Random(1))
    await settled(server)
    before = census()
    for _ in range(10):
        endings.update(
            await asyncio.gather(*(visit(loop, address, authority, chance) for _ in range(20)))
        )
        await settled(server)
    assert endings.total() == 200 and len(endings) == 5, endings
    # What the kernel or a turn still holds goes within a few turns.
    after = census()
    for _ in range(20):
        if after <= before:
            break
        await asyncio.sleep(0.01)
        after = census()
    assert after <= before, after - before
    server.close()
    await server.wait_closed()


async def settled(server):
    """No client of the server is left, and what follows the end of the last has had its turns."""
    # A count until 3.12, then the set of them.
    name = "_clients" if hasattr(server, "_clients") else "_active_count"
    await until(lambda: not getattr(server, name))
    for _ in range(5):
        await asyncio.sleep(0)
