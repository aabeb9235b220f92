"""TLS over our transports: any SSLContext, its settings honoured, its errors Python's own.

Run by pytest on asyncio and on aioxide.  Certificates are made by trustme for each run; the
other end is Python's ssl module, in the loop or in a thread.
"""

import asyncio
import contextlib
import datetime
import logging
import random
import socket
import ssl
import threading

import pytest
from loopback import (
    DEADLINE,
    BufferedRecorder,
    Recorder,
    connected_pair,
    listener,
    on_loop,
    until,
)
from tls_ends import Authority, Echo, handshakes_failed, tls_pair, tls_server

PAYLOAD = random.Random(3).randbytes(3_000_000)


# Bytes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@on_loop
async def test_both_ends_speak(loop, authority, protocol_class, version):
    client = authority.client()
    client.minimum_version = client.maximum_version = version
    async with tls_pair(loop, authority, protocol_class, client=client) as (
        (near, near_protocol),
        (far, far_protocol),
    ):
        near.write(b"hello")
        near.writelines([b" ", bytearray(b"wor"), memoryview(b"ld")])
        await far_protocol.has_bytes(11)
        assert far_protocol.received == b"hello world"
        far.write(b"answer")
        await near_protocol.has_bytes(6)
        assert near_protocol.received == b"answer"
        expected = {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert near.get_extra_info("ssl_object").version() == expected


@on_loop
async def test_a_large_transfer_each_way_at_once(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), (far, far_protocol)):
        near.write(PAYLOAD)
        far.write(PAYLOAD[::-1])
        await near_protocol.has_bytes(len(PAYLOAD))
        await far_protocol.has_bytes(len(PAYLOAD))
        assert far_protocol.received == PAYLOAD
        assert near_protocol.received == PAYLOAD[::-1]


@on_loop
async def test_close_sends_everything_first(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), (_, far_protocol)):
        near.write(PAYLOAD)
        near.close()
        assert near.is_closing()
        await far_protocol.has("lost")
        assert far_protocol.received == PAYLOAD
        assert far_protocol.events == ["made", "data", "eof", "lost"]
        assert far_protocol.error is None
        await near_protocol.has("lost")
        assert near_protocol.error is None


@on_loop
async def test_abort_ends_at_once(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), (_, far_protocol)):
        near.write(PAYLOAD * 10)
        near.abort()
        await near_protocol.has("lost")
        await far_protocol.has("lost")
        assert len(far_protocol.received) < len(PAYLOAD) * 10


@on_loop
async def test_pausing_reading_holds_the_bytes_back(loop, authority):
    async with tls_pair(loop, authority) as ((near, _), (far, far_protocol)):
        far.pause_reading()
        assert not far.is_reading()
        near.write(b"patience")
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert far_protocol.received == b""
        far.resume_reading()
        await far_protocol.has_bytes(8)


@on_loop
async def test_flow_control_reaches_through_tls(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), (far, far_protocol)):
        assert near.get_write_buffer_limits()[1] > 0
        far.pause_reading()
        sent = 0
        while "pause" not in near_protocol.events:
            near.write(PAYLOAD[:100_000])
            sent += 100_000
            await asyncio.sleep(0)
        far.resume_reading()
        await near_protocol.has("resume")
        await far_protocol.has_bytes(sent)


@on_loop
async def test_tls_cannot_half_close(loop, authority):
    async with tls_pair(loop, authority) as ((near, _), _):
        assert near.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            near.write_eof()


@on_loop
async def test_the_protocol_can_be_exchanged(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), (far, _)):
        after = BufferedRecorder()
        after.events.append("set")
        far.write(b"one")
        await near_protocol.has_bytes(3)
        near.set_protocol(after)
        assert near.get_protocol() is after
        far.write(b"two, which is longer")
        await after.has_bytes(20)
        assert near_protocol.received == b"one"
        near.set_protocol(near_protocol)


# What the context says


@on_loop
async def test_alpn(loop, authority):
    server, client = authority.server(), authority.client()
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(["http/1.1", "h2"])
    async with tls_pair(loop, authority, server=server, client=client) as ((near, _), (far, _)):
        for transport in (near, far):
            tls = transport.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "h2"


@on_loop
async def test_sni(loop, authority):
    asked = []
    server = authority.server()
    server.sni_callback = lambda tls, name, context: asked.append(name)
    async with tls_pair(loop, authority, server=server, server_hostname="server.test"):
        assert asked == ["server.test"]


@on_loop
async def test_the_host_is_the_server_name_when_none_is_given(loop, authority):
    asked = []
    context = authority.server()
    context.sni_callback = lambda tls, name, context: asked.append(name)
    async with tls_server(loop, context) as (address, made):
        transport, protocol = await loop.create_connection(
            Recorder, "localhost", address[1], family=socket.AF_INET, ssl=authority.client()
        )
        assert asked == ["localhost"]
        transport.abort()
        await protocol.has("lost")
        await until(lambda: made and made[0].transport is not None)


@on_loop
async def test_a_client_certificate_is_seen_by_the_server(loop, authority):
    server, client = authority.server(), authority.client()
    server.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(server)
    authority.ca.issue_cert("client@loopback.test").configure_cert(client)
    async with tls_pair(loop, authority, server=server, client=client) as (_, (far, _)):
        names = far.get_extra_info("peercert")["subjectAltName"]
        assert names == (("email", "client@loopback.test"),)


@on_loop
async def test_a_missing_client_certificate_is_refused(loop, authority, loop_errors):
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)
    async with tls_server(loop, context) as (address, made):
        # The client of TLS 1.3 learns of it only after its own half of the handshake.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            reader, writer = await asyncio.open_connection(
                *address, ssl=authority.client(), server_hostname="localhost"
            )
            try:
                await reader.readexactly(1)
            except asyncio.IncompleteReadError:
                raise ConnectionResetError from None
            finally:
                writer.transport.abort()
        await until(lambda: made)
        assert all(protocol.events == [] for protocol in made)
    await handshakes_failed(loop_errors)


@on_loop
async def test_versions_that_do_not_meet_are_refused(loop, authority, loop_errors):
    server, client = authority.server(), authority.client()
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with tls_server(loop, server) as (address, _):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await loop.create_connection(
                Recorder, *address, ssl=client, server_hostname="localhost"
            )
    await handshakes_failed(loop_errors)


@on_loop
async def test_another_host_is_refused(loop, authority, loop_errors):
    async with tls_server(loop, authority.server()) as (address, _):
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await loop.create_connection(
                Recorder, *address, ssl=authority.client(), server_hostname="other.test"
            )
        assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
        assert "other.test" in caught.value.verify_message
    await handshakes_failed(loop_errors)


@on_loop
async def test_an_unknown_authority_is_refused(loop, authority, loop_errors):
    async with tls_server(loop, authority.server()) as (address, _):
        for context in (True, Authority().client()):
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.create_connection(
                    Recorder, *address, ssl=context, server_hostname="localhost"
                )
    await handshakes_failed(loop_errors, 2)


@on_loop
async def test_an_expired_certificate_is_refused(loop, authority, loop_errors):
    past = datetime.datetime(2020, 1, 1)
    expired = authority.ca.issue_cert("localhost", not_before=past, not_after=past)
    async with tls_server(loop, authority.server(expired)) as (address, _):
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
            await loop.create_connection(
                Recorder, *address, ssl=authority.client(), server_hostname="localhost"
            )
    await handshakes_failed(loop_errors)


@on_loop
async def test_checks_that_the_context_turns_off_are_off(loop, authority):
    client = ssl.create_default_context()
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    async with tls_pair(loop, authority, client=client, server_hostname="") as ((near, _), _):
        assert near.get_extra_info("peercert") == {}


# What a transport tells


@on_loop
async def test_extra_information(loop, authority):
    client = authority.client()
    async with tls_pair(loop, authority, client=client) as ((near, _), (far, _)):
        assert isinstance(near, asyncio.Transport)
        assert "ssl" in near.__class__.__name__.lower()
        assert near.get_extra_info("sslcontext") is client
        assert isinstance(near.get_extra_info("ssl_object"), ssl.SSLObject)
        assert near.get_extra_info("peercert")["subjectAltName"]
        assert len(near.get_extra_info("cipher")) == 3
        assert near.get_extra_info("compression") is None
        assert isinstance(near.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        assert near.get_extra_info("peername") == far.get_extra_info("sockname")
        assert near.get_extra_info("sockname") == far.get_extra_info("peername")
        assert near.get_extra_info("nothing", 7) == 7


# The end


@on_loop
async def test_an_end_without_a_goodbye(loop, authority):
    """The peer's socket is closed under its TLS: what came before it is kept."""
    near, far = connected_pair()
    far.setblocking(True)
    far.settimeout(DEADLINE)

    def serve():
        with authority.server().wrap_socket(far, server_side=True) as tls:
            tls.sendall(b"last words")
            tls.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=serve)
    thread.start()
    transport, protocol = await loop.create_connection(
        Recorder, sock=near, ssl=authority.client(), server_hostname="localhost"
    )
    await protocol.has("lost")
    assert protocol.received == b"last words"
    assert transport.is_closing()
    thread.join()


@on_loop
async def test_eof_received_that_returns_true_has_no_effect(loop, authority, caplog):
    def keep_open():
        return Recorder(keep_open=True)

    with caplog.at_level(logging.WARNING, "asyncio"):
        async with tls_pair(loop, authority, keep_open) as ((near, near_protocol), (far, _)):
            far.close()
            await near_protocol.has("lost")
            assert near_protocol.events == ["made", "eof", "lost"]
            assert near.is_closing()
    expected = "returning true from eof_received() has no effect when using ssl"
    assert expected in [record.getMessage() for record in caplog.records]


@on_loop
async def test_an_end_in_the_middle_of_the_handshake(loop, authority):
    near, far = connected_pair()
    far.close()
    with pytest.raises(ConnectionError):
        await loop.create_connection(
            Recorder, sock=near, ssl=authority.client(), server_hostname="localhost"
        )


@on_loop
async def test_a_server_survives_garbage(loop, authority, loop_errors):
    chance = random.Random(5)
    async with tls_server(loop, authority.server(), Echo) as (address, _):
        for size in (1, 5, 100, 20_000):
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(chance.randbytes(size))
                writer.write_eof()
                await reader.read()
            writer.transport.abort()
        reader, writer = await asyncio.open_connection(
            *address, ssl=authority.client(), server_hostname="localhost"
        )
        writer.write(b"a client that means it")
        assert await reader.readexactly(22) == b"a client that means it"
        writer.close()
        await writer.wait_closed()
    await handshakes_failed(loop_errors, 4)


@on_loop
async def test_a_client_meets_garbage(loop, authority):
    near, far = connected_pair()
    with far:
        far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            await loop.create_connection(
                Recorder, sock=near, ssl=authority.client(), server_hostname="localhost"
            )


# Timeouts


@on_loop
async def test_a_client_gives_up_a_handshake_that_takes_too_long(loop, authority):
    with listener() as listening:
        with pytest.raises(ConnectionAbortedError) as caught:
            await loop.create_connection(
                Recorder,
                *listening.getsockname(),
                ssl=authority.client(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        assert "SSL handshake is taking longer than 0.05 seconds" in str(caught.value)


@on_loop
async def test_a_server_gives_up_a_handshake_that_takes_too_long(loop, authority, loop_errors):
    async with tls_server(loop, authority.server(), ssl_handshake_timeout=0.05) as (address, made):
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, address)
            assert await loop.sock_recv(client, 1) == b""
        assert made[0].events == []
    await handshakes_failed(loop_errors)


@on_loop
async def test_a_peer_that_does_not_say_goodbye_is_waited_for_so_long(loop, authority):
    near, far = connected_pair()
    far.setblocking(True)
    far.settimeout(DEADLINE)
    finished = threading.Event()

    def serve():
        with authority.server().wrap_socket(far, server_side=True):
            finished.wait(DEADLINE)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        transport, protocol = await loop.create_connection(
            Recorder,
            sock=near,
            ssl=authority.client(),
            server_hostname="localhost",
            ssl_shutdown_timeout=0.05,
        )
        transport.close()
        await protocol.has("lost")
        assert isinstance(protocol.error, TimeoutError)
        assert str(protocol.error) == "SSL shutdown timed out"
    finally:
        finished.set()
        thread.join()


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1])
@on_loop
async def test_timeouts_must_be_positive(loop, authority, name, value):
    near, far = connected_pair()
    with near, far:
        with pytest.raises(ValueError) as caught:
            await loop.create_connection(
                Recorder,
                sock=near,
                ssl=authority.client(),
                server_hostname="localhost",
                **{name: value},
            )
        assert str(caught.value) == f"{name} should be a positive number, got {value}"


@on_loop
async def test_a_cancelled_handshake_leaves_nothing(loop, authority):
    with listener() as listening:
        for turns in (1, 2, 3, 5, 8, 20):
            connecting = asyncio.ensure_future(
                loop.create_connection(
                    Recorder,
                    *listening.getsockname(),
                    ssl=authority.client(),
                    server_hostname="localhost",
                )
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting


# Streams


@on_loop
async def test_streams_over_tls(loop, namespace, authority):
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await namespace.start_server(handle, "127.0.0.1", 0, ssl=authority.server())
    reader, writer = await namespace.open_connection(
        *server.sockets[0].getsockname(), ssl=authority.client(), server_hostname="localhost"
    )
    for number in range(100):
        writer.write(b"line %d\n" % number)
        await writer.drain()
        assert await reader.readline() == b"LINE %d\n" % number
    assert writer.can_write_eof() is False
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_many_tls_clients_at_once(loop, namespace, authority):
    context = authority.client()
    async with tls_server(loop, authority.server(), Echo) as (address, made):

        async def visit(number):
            reader, writer = await namespace.open_connection(
                *address, ssl=context, server_hostname="localhost"
            )
            payload = b"%d " % number * 10_000
            writer.write(payload)
            assert await reader.readexactly(len(payload)) == payload
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(visit(number) for number in range(30)))
        await until(lambda: [protocol.events[-1] for protocol in made] == ["lost"] * 30)
