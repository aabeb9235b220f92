"""`loop.start_tls` and what stands on it: a connection that turns to TLS, and TLS within TLS.

Run by pytest on asyncio and on aioxide. Both ends are in the loop, or one is Python's ssl module
in a thread; each await is also cancelled.
"""

import asyncio
import contextlib
import gc
import ssl
import threading
import weakref

import pytest
from loopback import DEADLINE, BufferedRecorder, Recorder, closed, connected_pair, on_loop, until
from tls_ends import tls_pair

PAYLOAD = bytes(range(256)) * 800


@contextlib.asynccontextmanager
async def plain_pair(loop, protocol_class=Recorder):
    """Two transports over one pair of sockets: (transport, protocol) twice."""
    ends = [await loop.create_connection(protocol_class, sock=sock) for sock in connected_pair()]
    try:
        yield ends
    finally:
        # Not every protocol is told: one that was connected before a handshake that fails is not.
        for transport, _ in ends:
            await closed(transport)


async def turn_both(loop, authority, near, far, **given):
    """Turn both ends to TLS at once; their new transports."""
    return await asyncio.gather(
        loop.start_tls(*near, authority.client(), server_hostname="localhost", **given),
        loop.start_tls(*far, authority.server(), server_side=True, **given),
    )


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@on_loop
async def test_both_ends_turn_to_tls(loop, authority, protocol_class):
    async with plain_pair(loop, protocol_class) as (near, far):
        near[0].write(b"plain")
        await far[1].has_bytes(5)
        client, server = await turn_both(loop, authority, near, far)
        client.write(PAYLOAD)
        server.write(b"answer")
        await near[1].has_bytes(6)
        await far[1].has_bytes(5 + len(PAYLOAD))
        assert far[1].received == b"plain" + PAYLOAD
        # The protocols knew their connection before.
        assert near[1].events.count("made") == far[1].events.count("made") == 1
        assert client.get_protocol() is near[1]
        assert client.get_extra_info("peercert")
        assert client.get_extra_info("socket") is not None
        client.close()
        await far[1].has("lost")
        await near[1].has("lost")
        assert near[1].error is None and far[1].error is None


@on_loop
async def test_what_comes_right_behind_the_plain_bytes_is_tls(loop, authority):
    """The client speaks TLS before the server has asked for it."""
    async with plain_pair(loop) as (near, far):
        starting = asyncio.ensure_future(
            loop.start_tls(*near, authority.client(), server_hostname="localhost")
        )
        far[0].pause_reading()
        for _ in range(20):
            await asyncio.sleep(0)
        server = await loop.start_tls(*far, authority.server(), server_side=True)
        client = await starting
        client.write(b"hello")
        await far[1].has_bytes(5)
        assert far[1].received == b"hello"
        server.abort()


@on_loop
async def test_streams_turn_to_tls(loop, namespace, authority):
    answered = loop.create_future()

    async def serve(reader, writer):
        try:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.drain()
            await start_tls(loop, reader, writer, authority.server())
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            answered.set_result(None)
        except BaseException as error:
            answered.set_exception(error)

    server = await namespace.start_server(serve, "127.0.0.1", 0)
    reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go\n"
    await start_tls(loop, reader, writer, authority.client(), server_hostname="localhost")
    assert writer.get_extra_info("cipher")
    writer.write(b"shout\n")
    assert await reader.readline() == b"SHOUT\n"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await answered
    server.close()
    await server.wait_closed()


async def start_tls(loop, reader, writer, context, **given):
    """`StreamWriter.start_tls`; the server's side is what its streams say."""
    await writer.start_tls(context, **given)
    assert writer.transport.get_extra_info("sslcontext") is context


@on_loop
async def test_tls_within_tls(loop, authority):
    async with tls_pair(loop, authority) as (near, far):
        inner_client, inner_server = await turn_both(loop, authority, near, far)
        assert inner_client is not near[0]
        outer = near[0].get_extra_info("ssl_object")
        assert inner_client.get_extra_info("ssl_object") is not outer
        inner_client.write(PAYLOAD)
        inner_server.write(PAYLOAD[::-1])
        await far[1].has_bytes(len(PAYLOAD))
        await near[1].has_bytes(len(PAYLOAD))
        assert far[1].received == PAYLOAD
        assert near[1].received == PAYLOAD[::-1]
        inner_client.close()
        await far[1].has("lost")
        await near[1].has("lost")
        assert far[1].error is None and near[1].error is None


# What is refused


@on_loop
async def test_only_a_context_will_do(loop):
    async with plain_pair(loop) as (near, _):
        for wrong in (None, True, object()):
            with pytest.raises(TypeError) as caught:
                await loop.start_tls(*near, wrong)
            expected = "sslcontext is expected to be an instance of ssl.SSLContext, got "
            assert str(caught.value) == expected + repr(wrong)
        assert not near[0].is_closing()


@on_loop
async def test_only_a_transport_that_can_carry_it_will_do(loop, authority):
    transport = asyncio.Transport()
    with pytest.raises(TypeError) as caught:
        await loop.start_tls(transport, Recorder(), authority.client())
    assert str(caught.value) == f"transport {transport!r} is not supported by start_tls()"


@on_loop
async def test_another_host_is_refused_and_the_connection_closed(loop, authority):
    async with plain_pair(loop) as (near, far):
        serving = asyncio.ensure_future(loop.start_tls(*far, authority.server(), server_side=True))
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.start_tls(*near, authority.client(), server_hostname="other.test")
        assert near[0].is_closing()
        with pytest.raises(OSError):
            await serving
        await near[1].has("lost")
        await far[1].has("lost")


@on_loop
async def test_a_silent_peer_is_waited_for_so_long(loop, authority):
    async with plain_pair(loop) as (near, _):
        with pytest.raises(ConnectionAbortedError, match=r"longer than 0\.05 seconds"):
            await loop.start_tls(
                *near,
                authority.client(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        assert near[0].is_closing()


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@on_loop
async def test_a_wrong_timeout_leaves_the_connection_as_it_was(loop, authority, name):
    async with plain_pair(loop) as (near, far):
        with pytest.raises(ValueError, match=f"{name} should be a positive number, got 0"):
            await loop.start_tls(*near, authority.client(), server_hostname="x", **{name: 0})
        near[0].write(b"still plain")
        await far[1].has_bytes(11)


@on_loop
async def test_a_peer_that_answers_in_plain_text(loop, authority):
    async with plain_pair(loop) as (near, far):
        starting = asyncio.ensure_future(
            loop.start_tls(*near, authority.client(), server_hostname="localhost")
        )
        await far[1].has("data")
        far[0].write(b"500 what was that?\r\n")
        with pytest.raises(ssl.SSLError):
            await starting
        await near[1].has("lost")


@on_loop
async def test_a_peer_that_is_gone(loop, authority):
    async with plain_pair(loop) as (near, far):
        starting = asyncio.ensure_future(
            loop.start_tls(*near, authority.client(), server_hostname="localhost")
        )
        await far[1].has("data")
        far[0].close()
        with pytest.raises(ConnectionError):
            await starting
        await near[1].has("lost")


# Cancelling


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
@on_loop
async def test_cancelling_closes_the_connection(loop, authority, turns):
    async with plain_pair(loop) as (near, far):
        client = loop.start_tls(*near, authority.client(), server_hostname="localhost")
        server = loop.start_tls(*far, authority.server(), server_side=True)
        ends = [(near[0], asyncio.ensure_future(client)), (far[0], asyncio.ensure_future(server))]
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled = [(transport, task) for transport, task in ends if task.cancel()]
        for transport, task in cancelled:
            with pytest.raises(asyncio.CancelledError):
                await task
            assert transport.is_closing() or turns == 0


@on_loop
async def test_nothing_keeps_the_context_of_a_cancelled_handshake(loop, authority):
    async with plain_pair(loop) as (near, _):
        context = authority.client()
        starting = asyncio.ensure_future(
            loop.start_tls(*near, context, server_hostname="localhost")
        )
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(near[0].is_closing)
        watched = weakref.ref(context)
        del context, starting
        for _ in range(5):
            await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    gc.collect()
    assert watched() is None


# The other end is Python's


@on_loop
async def test_the_peer_is_pythons_own_ssl(loop, authority):
    near, far = connected_pair()
    far.setblocking(True)
    far.settimeout(DEADLINE)
    heard = []

    def serve():
        with far:
            heard.append(far.recv(5))
            far.sendall(b"go")
            with authority.server().wrap_socket(far, server_side=True) as tls:
                heard.append(tls.recv(100))
                tls.sendall(b"done")
                tls.unwrap().close()

    thread = threading.Thread(target=serve)
    thread.start()
    transport, protocol = await loop.create_connection(Recorder, sock=near)
    transport.write(b"turn!")
    await protocol.has_bytes(2)
    transport = await loop.start_tls(
        transport, protocol, authority.client(), server_hostname="localhost"
    )
    transport.write(b"secret")
    await protocol.has("lost")
    thread.join()
    assert heard == [b"turn!", b"secret"]
    assert protocol.received == b"godone"
    assert protocol.events[-2:] == ["eof", "lost"]
    assert protocol.error is None
