"""A property of every stream transport: bytes arrive whole and in order, whatever is drawn.

Run by pytest on asyncio and on aioxide.  Two parties send to each other at once over small buffers,
write in pieces of every size, and pause and resume by chance; each draw comes from a fixed seed, so
that a failure repeats itself.
"""

import asyncio
import os
import random
import socket
import ssl

import pytest
import trustme
from loopback import Recorder, connected_pair, on_loop, until

LENGTH = 300_000
SIZES = (1, 3, 100, 4096, 5000, 65_537)
SEEDS = range(4)


class Party:
    """Sends a stream of its own and collects the other's, pausing and resuming as drawn."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.own = self.chance.randbytes(LENGTH)
        self.sent, self.received = 0, bytearray()
        self.is_paused = self.is_lost = False
        self.error = self.transport = None
        self.goes_on_when_paused = self.chance.random() < 0.3

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=self.chance.choice([0, 1, 5000, 100_000]))
        asyncio.get_running_loop().call_soon(self.send)

    def send(self):
        """Write some pieces, then again when writing is resumed or a little later."""
        while self.sent < LENGTH and (not self.is_paused or self.goes_on_when_paused):
            if self.chance.random() < 0.3:
                pieces = (self.piece() for _ in range(self.chance.randrange(1, 80)))
                # Not empty: asyncio spins on an empty last piece until its peer goes.
                self.transport.writelines([piece for piece in pieces if piece])
            else:
                kind = self.chance.choice([bytes, bytearray, memoryview])
                self.transport.write(kind(self.piece()))
            if self.chance.random() < 0.3:
                delay = self.chance.choice([0, 0.0005])
                asyncio.get_running_loop().call_later(delay, self.send)
                return

    def piece(self):
        count = self.chance.choice(SIZES)
        start, self.sent = self.sent, min(LENGTH, self.sent + count)
        return self.own[start : self.sent]

    def pause_writing(self):
        assert not self.is_paused
        self.is_paused = True

    def resume_writing(self):
        assert self.is_paused
        self.is_paused = False
        self.send()

    def take(self, data):
        assert self.transport.is_reading()
        self.received += data
        if self.chance.random() < 0.2:
            self.transport.pause_reading()
            delay = self.chance.choice([0, 0, 0.001])
            asyncio.get_running_loop().call_later(delay, self.transport.resume_reading)

    def eof_received(self):
        pass

    def connection_lost(self, error):
        self.is_lost, self.error = True, error

    def has_all_of(self, other):
        assert other.own.startswith(self.received)
        return self.sent == len(other.received) == LENGTH


class PlainParty(Party, asyncio.Protocol):
    def data_received(self, data):
        self.take(data)


class BufferedParty(Party, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.lent = memoryview(bytearray(self.chance.choice([1, 100, 5000, 100_000])))
        return self.lent

    def buffer_updated(self, count):
        self.take(self.lent[:count])


def tcp():
    return connected_pair(send_buffer=4096, receive_buffer=4096)


def unix():
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return near, far


async def joined(loop, sockets, first, second):
    """A transport on either socket."""
    for sock, party in zip(sockets, (first, second), strict=True):
        await loop.create_connection(lambda party=party: party, sock=sock)


async def exchanged(first, second):
    """Wait until either party has all; then the first closes, and both hear of an orderly end."""
    await until(lambda: first.has_all_of(second) and second.has_all_of(first))
    assert first.received == second.own
    assert second.received == first.own
    first.transport.close()
    await until(lambda: first.is_lost and second.is_lost)
    assert first.error is None
    assert second.error is None


parties = pytest.mark.parametrize("kind", [PlainParty, BufferedParty])
seeds = pytest.mark.parametrize("seed", SEEDS)


@seeds
@parties
@pytest.mark.parametrize("sockets", [tcp, unix])
@on_loop
async def test_both_directions_at_once(loop, sockets, kind, seed):
    first, second = kind(seed), PlainParty(seed + 100)
    await joined(loop, sockets(), first, second)
    await exchanged(first, second)


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@seeds
@parties
@on_loop
async def test_both_directions_over_tls(loop, contexts, kind, seed):
    first, second = kind(seed), PlainParty(seed + 100)
    near, far = tcp()
    served = loop.connect_accepted_socket(lambda: second, far, ssl=contexts[0])
    connected = loop.create_connection(
        lambda: first, sock=near, ssl=contexts[1], server_hostname="localhost"
    )
    await asyncio.gather(served, connected)
    await exchanged(first, second)


@seeds
@pytest.mark.parametrize("sockets", [tcp, unix])
@on_loop
async def test_what_was_written_before_close_arrives(loop, sockets, seed):
    writer, reader = PlainParty(seed), PlainParty(seed + 100)
    reader.sent = LENGTH  # It only listens: close() would discard what it had sent.
    await joined(loop, sockets(), writer, reader)
    await until(lambda: writer.sent > LENGTH / 2)
    writer.transport.close()
    written, writer.sent = writer.sent, LENGTH
    await until(lambda: reader.is_lost)
    assert reader.received == writer.own[:written]


@seeds
@on_loop
async def test_through_a_pipe(loop, seed):
    writer, reader = PlainParty(seed), PlainParty(seed + 100)
    reading, writing = os.pipe()
    reader.connection_made = lambda transport: setattr(reader, "transport", transport)
    await loop.connect_read_pipe(lambda: reader, os.fdopen(reading, "rb", 0))
    await loop.connect_write_pipe(lambda: writer, os.fdopen(writing, "wb", 0))
    await until(lambda: writer.sent == LENGTH)
    writer.transport.write_eof()
    await until(lambda: reader.is_lost and writer.is_lost)
    assert reader.received == writer.own
    assert (reader.error, writer.error) == (None, None)


@on_loop
async def test_empty_pieces_of_writelines_leave_no_trace(loop, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio spins on an empty last piece until the peer is gone")
    near, far = connected_pair(send_buffer=4096, receive_buffer=4096)
    reader = Recorder()
    writer, _ = await loop.create_connection(Recorder, sock=near)
    await loop.create_connection(lambda: reader, sock=far)
    for _ in range(50):
        writer.writelines([b"", b"x" * 5000, b"", b"y" * 5000, b"", b""])
    await until(lambda: writer.get_write_buffer_size() == 0)
    writer.close()
    await reader.has("lost")
    assert reader.received == (b"x" * 5000 + b"y" * 5000) * 50


@on_loop
async def test_a_buffer_that_shrinks_between_two_looks_at_it(loop):
    class Shrinking(bytearray):
        looks = 0

        def __buffer__(self, flags):  # Asked from CPython 3.12 on.
            self.looks += 1
            return memoryview(b"x" * 1_000_000 if self.looks == 1 else b"x")

    near, far = connected_pair(send_buffer=4096, receive_buffer=4096)
    reader = Recorder()
    writer, _ = await loop.create_connection(Recorder, sock=near)
    await loop.create_connection(lambda: reader, sock=far)
    writer.write(Shrinking(b"x" * 1_000_000))
    writer.write(b"after")
    await until(lambda: reader.received.endswith(b"after"))
    assert set(reader.received[:-5]) == {ord("x")}
    writer.close()
    await reader.has("lost")
