"""The Server object: its sockets, serving, closing, and what waits for its end.

Run by pytest on asyncio and on aioxide.  aioxide follows the newest CPython: wait_closed()
waits for the connections too, and close_clients() and abort_clients() exist everywhere.
"""

import asyncio
import re
import socket

import pytest
from loopback import Recorder, on_loop, read_to_the_end, until


async def server_and_client(loop, **given):
    """A server, one connection it has accepted, and the socket on its other end."""
    protocol = Recorder()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, **given)
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, server.sockets[0].getsockname())
    await protocol.has("made")
    return server, protocol, client


async def begun(coroutine):
    """A task of `coroutine` that has had time to reach its first wait."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


# What it is


@on_loop
async def test_a_server_is_an_asyncio_server(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server, asyncio.Server)
    assert server.get_loop() is loop
    server.close()
    await server.wait_closed()
    assert server.get_loop() is loop


@on_loop
async def test_sockets_are_a_tuple_of_transport_sockets(loop):
    server = await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2"], 0)
    assert type(server.sockets) is tuple
    assert len(server.sockets) == 2
    for sock in server.sockets:
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.fileno() >= 0
        assert sock.type == socket.SOCK_STREAM
    server.close()
    assert server.sockets == ()
    assert type(server.sockets) is tuple
    await server.wait_closed()


@on_loop
async def test_repr_shows_the_sockets(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert re.match(rf"^<Server sockets=\(.*'127\.0\.0\.1', {port}.*\)>$", repr(server))
    server.close()
    assert repr(server) == "<Server sockets=()>"
    await server.wait_closed()


@on_loop
async def test_attributes_can_be_assigned(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    server.note = "anything"
    assert server.note == "anything"
    server.close()
    await server.wait_closed()


# Serving


@on_loop
async def test_is_serving(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False)
    assert server.is_serving() is False
    assert await server.start_serving() is None
    assert server.is_serving() is True
    await server.start_serving()
    assert server.is_serving() is True
    server.close()
    assert server.is_serving() is False
    await server.wait_closed()


@on_loop
async def test_a_closed_server_refuses_connections(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    sock = server.sockets[0]
    server.close()
    server.close()
    assert sock.fileno() == -1
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(client, address)
    await server.wait_closed()


@on_loop
async def test_closing_leaves_the_connections_alone(loop):
    server, protocol, client = await server_and_client(loop)
    with client:
        server.close()
        await loop.sock_sendall(client, b"still there?")
        await protocol.has_bytes(12)
        protocol.transport.write(b"yes")
        assert await loop.sock_recv(client, 100) == b"yes"
    await protocol.has("lost")
    await server.wait_closed()


@on_loop
async def test_async_with_closes_and_waits(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    async with server as entered:
        assert entered is server
        assert server.is_serving()
    assert not server.is_serving()
    assert server.sockets == ()
    with pytest.raises(ZeroDivisionError):
        async with await loop.create_server(Recorder, "127.0.0.1", 0) as server:
            raise ZeroDivisionError
    assert server.sockets == ()


# serve_forever


@on_loop
async def test_serve_forever_serves_until_it_is_cancelled(loop):
    protocol = Recorder()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, start_serving=False)
    serving = await begun(server.serve_forever())
    assert server.is_serving()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await protocol.has("made")
    await protocol.has("lost")
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    assert server.sockets == ()


@on_loop
async def test_close_ends_serve_forever(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    serving = await begun(server.serve_forever())
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await server.wait_closed()


@on_loop
async def test_serve_forever_twice_at_once_is_an_error(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    serving = await begun(server.serve_forever())
    with pytest.raises(RuntimeError) as caught:
        await server.serve_forever()
    expected = f"server {server!r} is already being awaited on serve_forever()"
    assert str(caught.value) == expected
    assert not serving.done()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


@on_loop
async def test_serve_forever_of_a_closed_server_is_an_error(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    server.close()
    with pytest.raises(RuntimeError, match=r"^server <Server sockets=\(\)> is closed$"):
        await server.serve_forever()
    await server.wait_closed()


@on_loop
async def test_serve_forever_inside_async_with(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)

    async def serve():
        async with server:
            await server.serve_forever()

    serving = await begun(serve())
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert server.sockets == ()


# wait_closed


@on_loop
async def test_wait_closed_waits_for_close(loop, behaves_as):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    waiting = await begun(server.wait_closed())
    if behaves_as(3, 12, 1):
        assert not waiting.done()
    server.close()
    assert await waiting is None
    assert await server.wait_closed() is None


@on_loop
async def test_wait_closed_waits_for_the_last_connection(loop, behaves_as):
    server, protocol, client = await server_and_client(loop)
    server.close()
    waiting = await begun(server.wait_closed())
    also_waiting = await begun(server.wait_closed())
    if behaves_as(3, 12, 1):
        assert not waiting.done()
        assert not also_waiting.done()
    client.close()
    await waiting
    await also_waiting
    if behaves_as(3, 12, 1):
        assert protocol.events[-1] == "lost"
    await protocol.has("lost")


@on_loop
async def test_wait_closed_does_not_end_with_the_last_connection_of_an_open_server(
    loop, behaves_as
):
    server, protocol, client = await server_and_client(loop)
    waiting = await begun(server.wait_closed())
    client.close()
    await protocol.has("lost")
    for _ in range(5):
        await asyncio.sleep(0)
    if behaves_as(3, 12, 1):
        assert not waiting.done()
    server.close()
    await waiting


@on_loop
async def test_a_cancelled_wait_closed_harms_nobody(loop):
    server, protocol, client = await server_and_client(loop)
    waiting = await begun(server.wait_closed())
    staying = await begun(server.wait_closed())
    waiting.cancel()
    await asyncio.wait([waiting])
    client.close()
    await protocol.has("lost")
    server.close()
    await staying


# close_clients and abort_clients


@on_loop
async def test_close_clients_flushes_and_closes_every_connection(loop, behaves_as):
    if not behaves_as(3, 13):
        assert not hasattr(asyncio.Server, "close_clients")
        return
    payload = b"x" * 1_000_000
    server, protocol, client = await server_and_client(loop)
    with client:
        protocol.transport.write(payload)
        server.close()
        assert server.close_clients() is None
        assert protocol.transport.is_closing()
        assert await read_to_the_end(loop, client) == payload
        await server.wait_closed()
    assert protocol.events[-1] == "lost"
    assert protocol.error is None


@on_loop
async def test_abort_clients_drops_every_connection(loop, behaves_as):
    if not behaves_as(3, 13):
        assert not hasattr(asyncio.Server, "abort_clients")
        return
    payload = b"x" * 20_000_000
    server, protocol, client = await server_and_client(loop)
    with client:
        protocol.transport.write(payload)
        assert protocol.transport.get_write_buffer_size() > 0
        server.close()
        assert server.abort_clients() is None
        await server.wait_closed()
        assert protocol.events[-1] == "lost"
        assert len(await read_to_the_end(loop, client)) < len(payload)


@on_loop
async def test_close_clients_leaves_the_server_serving(loop, behaves_as):
    if not behaves_as(3, 13):
        assert not hasattr(asyncio.Server, "close_clients")
        return
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    for number in range(3):
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, server.sockets[0].getsockname())
            await until(lambda count=number + 1: len(protocols) == count)
            await protocols[-1].has("made")
            server.close_clients()
            assert await loop.sock_recv(client, 1) == b""
            await protocols[-1].has("lost")
    assert server.is_serving()
    server.close()
    await server.wait_closed()


# Streams, and odd moments


@on_loop
async def test_start_server_gives_the_same_server(loop):
    async def handle(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        assert isinstance(server, asyncio.Server)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()


@on_loop
async def test_a_server_may_be_closed_from_within_a_connection(loop):
    server = None

    class Last(Recorder):
        def data_received(self, data):
            super().data_received(data)
            server.close()
            self.transport.close()

    protocol = Last()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, b"the last word")
        assert await read_to_the_end(loop, client) == b""
    await server.wait_closed()
    await protocol.has("lost")


@on_loop
async def test_closing_with_connections_still_in_the_queue(loop):
    """They are reset by the kernel; no protocol is made for them."""
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(5)]
    server.close()
    await server.wait_closed()
    for client in clients:
        client.setblocking(False)
        assert await read_to_the_end(loop, client) == b""
        client.close()


def test_a_thousand_servers_opened_and_closed_leave_no_descriptor(loop):
    """The fixture compares the descriptors afterwards."""

    async def main():
        for _ in range(1000):
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            server.close()
            await server.wait_closed()

    loop.run_until_complete(main())
