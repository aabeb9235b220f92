"""Streams over connections: their two classes, flow control, TLS, Unix sockets, forgotten ends.

Run by pytest on asyncio and on aioxide. Reading and echoing are in test_streams_tcp.py, the reader
by itself in test_stream_readers.py.
"""

import asyncio
import contextlib
import gc
import os
import ssl
import sys

import pytest
from loopback import connected_pair, on_loop, reset, until


@contextlib.asynccontextmanager
async def streams(namespace, **given):
    """A reader and a writer on each end of one connection."""
    near, far = connected_pair()
    ends = [await namespace.open_connection(sock=sock, **given) for sock in (near, far)]
    try:
        yield ends
    finally:
        for _, writer in ends:
            writer.transport.abort()
        for _, writer in ends:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


# The classes


@on_loop
async def test_both_ends_are_asyncios(loop, namespace):
    async with streams(namespace) as ((reader, writer), _):
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        assert isinstance(writer.transport.get_protocol(), asyncio.StreamReaderProtocol)
        assert isinstance(writer.transport.get_protocol(), asyncio.Protocol)
        assert writer._transport is writer.transport is reader._transport
        assert writer._protocol is writer.transport.get_protocol()
        assert writer._reader is reader
        assert writer._loop is writer._protocol._loop is loop
        assert writer._protocol._stream_reader is reader
        assert repr(writer) == f"<StreamWriter transport={writer.transport!r} reader={reader!r}>"


@on_loop
async def test_a_readers_class_of_ones_own_is_fed_over_a_connection(loop, namespace):
    class Counting(namespace.StreamReader):
        fed = 0

        def feed_data(self, data):
            self.fed += len(data)
            super().feed_data(data)

    reader = Counting(loop=loop)
    protocol = namespace.StreamReaderProtocol(reader, loop=loop)
    near, far = connected_pair()
    transport, _ = await loop.create_connection(lambda: protocol, sock=near)
    writer = namespace.StreamWriter(transport, protocol, reader, loop)
    far.send(b"counted")
    assert await reader.readexactly(7) == b"counted"
    assert reader.fed == 7
    far.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@on_loop
async def test_a_protocol_derived_from_the_streams_protocol(loop, namespace):
    class Noting(namespace.StreamReaderProtocol):
        def __init__(self, *args, **given):
            super().__init__(*args, **given)
            self.events = []

        def connection_made(self, transport):
            self.events.append("made")
            super().connection_made(transport)

        def data_received(self, data):
            self.events.append(bytes(data))
            super().data_received(data)

        def connection_lost(self, exc):
            self.events.append("lost")
            super().connection_lost(exc)

    reader = namespace.StreamReader(loop=loop)
    near, far = connected_pair()
    transport, protocol = await loop.create_connection(lambda: Noting(reader, loop=loop), sock=near)
    writer = namespace.StreamWriter(transport, protocol, reader, loop)
    far.send(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.write(b"answer")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert protocol.events == ["made", b"hello\n", "lost"]
    far.close()


@on_loop
async def test_a_stream_protocol_of_asyncio_serves_our_ends_and_ours_asyncios(loop, namespace):
    reader = asyncio.StreamReader(loop=loop)
    protocol = namespace.StreamReaderProtocol(reader, loop=loop)
    near, far = connected_pair()
    transport, _ = await loop.create_connection(lambda: protocol, sock=near)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    far.send(b"bytes")
    assert await reader.readexactly(5) == b"bytes"
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    far.close()


# Flow control


@on_loop
async def test_a_reader_that_is_full_slows_its_peer_down(loop, namespace):
    near, far = connected_pair(send_buffer=4096, receive_buffer=4096)
    reader, writer = await namespace.open_connection(sock=near, limit=1000)
    _, other = await namespace.open_connection(sock=far)
    payload = os.urandom(6_000_000)
    other.write(payload)
    await until(lambda: reader._paused)
    assert not writer.transport.is_reading()
    assert len(reader._buffer) < 300_000
    draining = asyncio.ensure_future(other.drain())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not draining.done()
    received = bytearray()
    while len(received) < len(payload):
        received += await reader.read(7777)
    assert received == payload
    await draining
    for end in (writer, other):
        end.close()
        await end.wait_closed()


@on_loop
async def test_a_cancelled_drain_leaves_the_others_draining(loop, namespace):
    near, far = connected_pair(send_buffer=4096, receive_buffer=4096)
    reader, _writer = await namespace.open_connection(sock=near)
    _, other = await namespace.open_connection(sock=far)
    payload = b"x" * 6_000_000
    other.write(payload)
    first, second = [asyncio.ensure_future(other.drain()) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert len(other._protocol._drain_waiters) == 1
    assert await reader.readexactly(len(payload)) == payload
    await second
    for end in (_writer, other):
        end.close()
        await end.wait_closed()


@on_loop
async def test_a_drain_that_has_nothing_to_wait_for_takes_no_turn(loop, namespace):
    async with streams(namespace) as ((_, writer), _):
        with pytest.raises(StopIteration):
            writer.drain().send(None)


@on_loop
async def test_whoever_writes_and_drains_without_end_is_told_of_the_end(loop, namespace):
    async with streams(namespace) as ((_, writer), _):
        writer.close()
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            for _ in range(10):
                writer.write(b"into the void")
                await writer.drain()


# The end


@on_loop
async def test_a_cancelled_wait_for_the_end_leaves_the_others_waiting(loop, namespace):
    if namespace is asyncio:
        pytest.skip("in asyncio all of them wait for one Future, which a cancel ends for all")
    async with streams(namespace) as ((_, writer), _):
        first, second = [asyncio.ensure_future(writer.wait_closed()) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert not second.done()
        writer.close()
        await second
        await writer.wait_closed()


@on_loop
async def test_what_ended_a_connection_is_raised_to_all(loop, namespace):
    near, far = connected_pair()
    reader, writer = await namespace.open_connection(sock=near)
    closed = writer._protocol._get_close_waiter(writer)
    reading = asyncio.ensure_future(reader.read())
    waiting = asyncio.ensure_future(writer.wait_closed())
    await asyncio.sleep(0)
    reset(far)
    for one in (reading, waiting, closed, writer.wait_closed(), reader.read()):
        with pytest.raises(ConnectionResetError):
            await one
    writer.close()


def test_a_forgotten_writer_closes_its_connection_and_says_so(loop, namespace):
    near, far = connected_pair()

    async def forget():
        _, writer = await namespace.open_connection(sock=near)
        return writer.transport

    with pytest.warns(ResourceWarning, match="unclosed <StreamWriter transport="):
        transport = loop.run_until_complete(forget())
        gc.collect()
    assert transport.is_closing()
    loop.run_until_complete(asyncio.sleep(0))
    far.close()


@on_loop
async def test_a_handler_that_is_cancelled_closes_its_connection(loop, namespace):
    if namespace is asyncio and sys.version_info < (3, 13):
        pytest.skip("asyncio closes it from 3.13 on")
    handlers = []

    async def handle(reader, writer):
        handlers.append(asyncio.current_task())
        await reader.read()

    server = await namespace.start_server(handle, "127.0.0.1", 0)
    reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    await until(lambda: handlers)
    handlers[0].cancel()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


# TLS


@contextlib.asynccontextmanager
async def tls_streams(namespace, authority, handle, **given):
    server = await namespace.start_server(handle, "127.0.0.1", 0, **given)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await server.wait_closed()


@on_loop
async def test_streams_over_tls(loop, namespace, authority):
    payload = os.urandom(500_000)

    async def handle(reader, writer):
        size = int(await reader.readline())
        writer.write(await reader.readexactly(size))
        await writer.drain()
        assert not writer.can_write_eof()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async with tls_streams(namespace, authority, handle, ssl=authority.server()) as address:
        reader, writer = await namespace.open_connection(
            *address, ssl=authority.client(), server_hostname="localhost"
        )
        assert writer.get_extra_info("sslcontext") is not None
        writer.write(b"%d\n" % len(payload) + payload)
        await writer.drain()
        assert await reader.read() == payload
        writer.close()
        await writer.wait_closed()


@on_loop
async def test_a_stream_turns_to_tls(loop, namespace, authority):
    async def handle(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.start_tls(authority.server())
        assert reader._transport is not None
        writer.write((await reader.readline()).upper())
        await writer.drain()
        await reader.read()
        writer.close()

    async with tls_streams(namespace, authority, handle) as address:
        reader, writer = await namespace.open_connection(*address)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(authority.client(), server_hostname="localhost")
        assert writer.get_extra_info("sslcontext") is not None
        writer.write(b"secret\n")
        assert await reader.readline() == b"SECRET\n"
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@on_loop
async def test_what_a_server_has_read_of_the_handshake_is_not_lost(loop, namespace, authority):
    """A client may begin before the server has said that it will (CPython's gh-142352)."""
    if namespace is asyncio and sys.version_info < (3, 15):
        pytest.skip("asyncio keeps it from 3.13.12, 3.14.3 and 3.15 on")

    async def handle(reader, writer):
        assert await reader.readline() == b"PROXY\n"
        await until(lambda: reader._buffer)
        await writer.start_tls(authority.server())
        writer.write((await reader.readline()).upper())
        await reader.read()
        writer.close()

    async with tls_streams(namespace, authority, handle) as address:
        reader, writer = await namespace.open_connection(*address)
        writer.write(b"PROXY\n")
        await writer.start_tls(authority.client(), server_hostname="localhost")
        writer.write(b"secret\n")
        assert await reader.readline() == b"SECRET\n"
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@on_loop
async def test_flow_control_goes_on_after_turning_to_tls(loop, namespace, authority):
    payload = os.urandom(2_000_000)

    async def handle(reader, writer):
        await writer.start_tls(authority.server())
        writer.write(payload)
        await writer.drain()
        writer.close()

    async with tls_streams(namespace, authority, handle) as address:
        reader, writer = await namespace.open_connection(*address, limit=10_000)
        await writer.start_tls(authority.client(), server_hostname="localhost")
        await until(lambda: reader._paused or reader.at_eof())
        assert await reader.readexactly(len(payload)) == payload
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


# Unix sockets, pipes


@on_loop
async def test_streams_over_a_unix_socket(loop, namespace, tmp_path):
    async def handle(reader, writer):
        async for line in reader:
            writer.write(line.upper())
        writer.close()

    path = tmp_path / "socket"
    async with await namespace.start_unix_server(handle, path, limit=100) as server:
        reader, writer = await namespace.open_unix_connection(path, limit=200)
        assert reader._limit == 200
        writer.writelines([b"one\n", b"two\n"])
        writer.write_eof()
        assert await reader.read() == b"ONE\nTWO\n"
        writer.close()
        await writer.wait_closed()
    await server.wait_closed()


@on_loop
async def test_a_reader_on_a_pipe(loop, namespace):
    reader = namespace.StreamReader(loop=loop)
    receiving, sending = os.pipe()
    transport, _ = await loop.connect_read_pipe(
        lambda: namespace.StreamReaderProtocol(reader, loop=loop), os.fdopen(receiving, "rb")
    )
    os.write(sending, b"through a pipe\nend")
    assert await reader.readline() == b"through a pipe\n"
    os.close(sending)
    assert await reader.read() == b"end"
    transport.close()
    await until(lambda: transport.get_extra_info("pipe").closed)


# Large messages


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 300_000, 3_000_000])
@on_loop
async def test_a_large_message_comes_whole_and_what_follows_stays(loop, namespace, size):
    payload = os.urandom(size)
    async with streams(namespace) as ((reader, _), (_, writer)):
        reading = asyncio.ensure_future(reader.readexactly(size))
        await asyncio.sleep(0)
        writer.write(payload[:1000])
        for _ in range(5):
            await asyncio.sleep(0)
        writer.write(payload[1000:] + b"the next line\n")
        got = await reading
        assert type(got) is bytes
        assert got == payload
        assert await reader.readline() == b"the next line\n"


@on_loop
async def test_a_large_read_that_is_cancelled_leaves_everything(loop, namespace):
    payload = os.urandom(1_000_000)
    async with streams(namespace) as ((reader, _), (_, writer)):
        reading = asyncio.ensure_future(reader.readexactly(len(payload) + 1))
        writer.write(payload)
        await until(lambda: len(reader._buffer) > 100_000)
        reading.cancel()
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert await reader.readexactly(len(payload)) == payload


@on_loop
async def test_a_large_read_that_the_end_cuts_short_gives_what_came(loop, namespace):
    payload = os.urandom(500_000)
    async with streams(namespace) as ((reader, _), (_, writer)):
        reading = asyncio.ensure_future(reader.readexactly(2**40))
        writer.write(payload)
        writer.close()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reading
        assert caught.value.partial == payload
        assert caught.value.expected == 2**40


@on_loop
async def test_everything_until_the_end(loop, namespace):
    payload = os.urandom(2_345_678)
    async with streams(namespace) as ((reader, _), (_, writer)):
        reading = asyncio.ensure_future(reader.read())
        writer.write(payload)
        writer.close()
        assert await reading == payload
