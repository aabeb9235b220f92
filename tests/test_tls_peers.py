"""Peers of a TLS connection that misbehave: that reset it, keep silent, or negotiate anew.

Run by pytest on asyncio and on aioxide. The peer is a socket whose TLS the test drives by hand, or
the openssl program; it never leaves this machine.
"""

import asyncio
import contextlib
import errno
import logging
import shutil
import socket
import ssl

import pytest
from loopback import BufferedRecorder, Recorder, connected_pair, on_loop, reset, until
from tls_ends import ByHand, Echo, client_of_hand, tls_server

PAYLOAD = bytes(range(256)) * 8000
GONE = {errno.ECONNRESET, errno.EPIPE}


@pytest.fixture
def logged(caplog):
    """What asyncio's logger was told, from warnings on."""
    caplog.set_level(logging.WARNING, "asyncio")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "asyncio"]


# Resets


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("said", ["nothing", "data", "part of a record"])
@on_loop
async def test_a_reset_between_messages(loop, authority, logged, protocol_class, said):
    async with client_of_hand(loop, authority, connected_pair(), protocol_class) as (
        transport,
        protocol,
        peer,
    ):
        if said == "data":
            await peer.send(b"last words")
            await protocol.has_bytes(10)
        elif said == "part of a record":
            await peer.send_part_of_a_record()
        peer.reset()
        await protocol.has("lost")
        assert isinstance(protocol.error, ConnectionResetError)
        assert protocol.error.errno == errno.ECONNRESET
        assert protocol.events.count("lost") == 1 and "eof" not in protocol.events
        assert transport.is_closing()
    assert logged() == []


@pytest.mark.parametrize("reading", [True, False])
@on_loop
async def test_a_reset_while_much_is_to_be_sent(loop, authority, logged, reading):
    sockets = connected_pair(send_buffer=4096, receive_buffer=4096)
    async with client_of_hand(loop, authority, sockets) as (transport, protocol, peer):
        if not reading:
            transport.pause_reading()
        while "pause" not in protocol.events:
            transport.write(PAYLOAD)
            await asyncio.sleep(0)
        peer.reset()
        await protocol.has("lost")
        assert isinstance(protocol.error, ConnectionError)
        assert protocol.error.errno in GONE
        assert protocol.events.count("lost") == 1
        transport.write(b"into the void")
    assert logged() == []


@on_loop
async def test_a_reset_after_close(loop, authority, logged):
    """The goodbye is said, the peer answers with a reset."""
    async with client_of_hand(loop, authority, connected_pair()) as (transport, protocol, peer):
        transport.close()
        assert await peer.loop.sock_recv(peer.sock, 1)
        peer.reset()
        await protocol.has("lost")
        assert isinstance(protocol.error, ConnectionError)
        assert protocol.error.errno in GONE
        assert protocol.events.count("lost") == 1
    assert logged() == []


@pytest.mark.parametrize("heard", [False, True])
@on_loop
async def test_a_reset_in_the_clients_handshake(loop, authority, logged, heard):
    near, far = connected_pair()
    with far:
        connecting = asyncio.ensure_future(
            loop.create_connection(
                Recorder, sock=near, ssl=authority.client(), server_hostname="localhost"
            )
        )
        if heard:
            assert await loop.sock_recv(far, 65536)
        reset(far)
        with pytest.raises(ConnectionResetError) as caught:
            await connecting
        assert caught.value.errno == errno.ECONNRESET
    await until(lambda: near.fileno() == -1)
    assert logged() == []


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("sent", [0, 3, 100])
@on_loop
async def test_a_reset_in_the_servers_handshake(loop, authority, logged, loop_errors, debug, sent):
    """A client's bad luck: debug mode tells of it once, and nothing else does."""
    context = authority.client()
    outgoing = ssl.MemoryBIO()
    hello = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    async with tls_server(loop, authority.server(), Echo) as (address, made):
        loop.set_debug(debug)
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, outgoing.read()[:sent])
        await until(lambda: made)
        reset(client)
        if debug:
            await until(lambda: loop_errors)
        # The next client is served, and had there been more to tell, it would have been told.
        reader, writer = await asyncio.open_connection(
            *address, ssl=context, server_hostname="localhost"
        )
        writer.write(b"next")
        assert await reader.readexactly(4) == b"next"
        writer.close()
        await writer.wait_closed()
        loop.set_debug(True)
    assert made[0].events == []
    told = loop_errors.take()
    assert [context["message"] for context in told] == [
        "Error on transport creation for incoming connection"
    ] * debug
    for context in told:
        assert context["exception"].errno == errno.ECONNRESET
    assert logged() == []


@on_loop
async def test_a_reset_reaches_readers_and_writers(loop, namespace, authority, logged):
    async with client_of_hand(loop, authority, connected_pair(), streams(loop, namespace)) as (
        transport,
        protocol,
        peer,
    ):
        await peer.send(b"one line\nand a half")
        reader = protocol.reader
        assert await reader.readline() == b"one line\n"
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        peer.reset()
        with pytest.raises(ConnectionResetError) as caught:
            await reading
        assert caught.value.errno == errno.ECONNRESET
        writer = namespace.StreamWriter(transport, protocol, reader, loop)
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
    assert logged() == []


def streams(loop, namespace):
    """A factory of the streams' protocol that also says when its connection is lost."""

    class Protocol(namespace.StreamReaderProtocol):
        lost = False

        def __init__(self):
            self.reader = namespace.StreamReader(loop=loop)
            super().__init__(self.reader, loop=loop)

        def connection_lost(self, exc):
            super().connection_lost(exc)
            self.lost = True

        async def has(self, event):
            assert event == "lost"
            await until(lambda: self.lost)

    return Protocol


# Goodbyes that nobody answers


@contextlib.asynccontextmanager
async def silent_peer(loop, authority, end, limit, factory=Recorder):
    """A transport made in one of the ways that take a time limit, and a peer that only listens."""
    given = {"ssl_shutdown_timeout": limit}
    if end == "create_connection":
        async with client_of_hand(loop, authority, connected_pair(), factory, **given) as ends:
            yield ends[:2]
    elif end == "start_tls":
        near, far = connected_pair()
        with far:
            plain, protocol = await loop.create_connection(factory, sock=near)
            turning = asyncio.ensure_future(
                loop.start_tls(
                    plain, protocol, authority.client(), server_hostname="localhost", **given
                )
            )
            await ByHand(loop, far, authority.server(), server_side=True).handshake()
            yield await turning, protocol
    else:
        async with tls_server(loop, authority.server(), factory, **given) as (address, made):
            with socket.socket() as client:
                client.setblocking(False)
                await loop.sock_connect(client, address)
                context = authority.client()
                await ByHand(loop, client, context, server_hostname="localhost").handshake()
                await until(lambda: made and made[0].transport is not None)
                yield made[0].transport, made[0]


ENDS = pytest.mark.parametrize("end", ["create_connection", "create_server", "start_tls"])


@ENDS
@on_loop
async def test_a_goodbye_without_an_answer(loop, authority, logged, end):
    async with silent_peer(loop, authority, end, 0.05) as (transport, protocol):
        transport.close()
        await protocol.has("lost")
        assert isinstance(protocol.error, TimeoutError)
        assert str(protocol.error) == "SSL shutdown timed out"
        assert protocol.events == ["made", "lost"]
    assert logged() == []


@ENDS
@on_loop
async def test_a_goodbye_is_not_waited_for_after_abort(loop, authority, logged, end):
    async with silent_peer(loop, authority, end, 3600) as (transport, protocol):
        transport.close()
        await asyncio.sleep(0)
        assert "lost" not in protocol.events
        transport.abort()
        await protocol.has("lost")
        assert protocol.error is None
    assert logged() == []


@on_loop
async def test_the_limit_counts_while_much_is_to_be_sent(loop, authority, logged):
    """Nobody reads, so that the goodbye does not even leave."""
    sockets = connected_pair(send_buffer=4096, receive_buffer=4096)
    async with client_of_hand(loop, authority, sockets, ssl_shutdown_timeout=0.05) as (
        transport,
        protocol,
        _,
    ):
        transport.write(PAYLOAD)
        transport.close()
        await protocol.has("lost")
        assert isinstance(protocol.error, TimeoutError)
    assert logged() == []


@on_loop
async def test_a_peer_that_talks_on_after_the_goodbye_is_cut_off(loop, authority, logged):
    async with client_of_hand(loop, authority, connected_pair()) as (transport, protocol, peer):
        transport.close()
        with contextlib.suppress(ConnectionError):
            while "lost" not in protocol.events:
                await peer.send(b"and another thing")
                await asyncio.sleep(0)
        await protocol.has("lost")
        assert isinstance(protocol.error, ssl.SSLError)
        assert protocol.error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
        assert protocol.events == ["made", "lost"]
    assert logged() == []


@on_loop
async def test_wait_closed_tells_of_it(loop, namespace, authority, logged):
    factory = streams(loop, namespace)
    sockets = connected_pair()
    async with client_of_hand(loop, authority, sockets, factory, ssl_shutdown_timeout=0.05) as (
        transport,
        protocol,
        _,
    ):
        writer = namespace.StreamWriter(transport, protocol, None, loop)
        writer.close()
        with pytest.raises(TimeoutError, match="SSL shutdown timed out"):
            await writer.wait_closed()
    assert logged() == []


@on_loop
async def test_an_answer_in_time_ends_the_wait(loop, authority):
    async with client_of_hand(loop, authority, connected_pair()) as (transport, protocol, peer):
        transport.close()
        assert await peer.receive() == b""
        await peer.say_goodbye()
        await protocol.has("lost")
        assert protocol.error is None
        assert await loop.sock_recv(peer.sock, 1) == b""


# Negotiating anew, which TLS 1.2 can


def only_tls_1_2(context):
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@contextlib.asynccontextmanager
async def openssl(*arguments):
    """The openssl program, which obeys commands at the beginning of a line of its input."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl program here")
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    except BaseException:
        # Only then: asyncio before 3.12 may lose a child's end when it is killed while it ends.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    finally:
        process.stdin.close()
        await process.communicate()


@on_loop
async def test_a_client_that_negotiates_anew_harms_nobody(loop, authority, logged):
    """OpenSSL's server refuses it, and OpenSSL's client takes that for the end."""
    async with tls_server(loop, only_tls_1_2(authority.server()), Echo) as (address, made):
        target = f"{address[0]}:{address[1]}"
        async with openssl("s_client", "-tls1_2", "-connect", target) as client:
            client.stdin.write(b"hello\n")
            await until(lambda: made and made[0].received == b"hello\n")
            client.stdin.write(b"R\n")
            await until(lambda: "lost" in made[0].events or client.stdout.at_eof())
            said = await client.stdout.read()
            assert b"RENEGOTIATING" in said
            await made[0].has("lost")
            assert made[0].received == b"hello\n"
            assert made[0].error is None or isinstance(made[0].error, OSError)
        # The server is none the worse for it.
        reader, writer = await asyncio.open_connection(
            *address, ssl=authority.client(), server_hostname="localhost"
        )
        writer.write(b"next")
        assert await reader.readexactly(4) == b"next"
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()
        await writer.wait_closed()
    assert logged() == []


@on_loop
async def test_a_server_that_negotiates_anew_is_answered(loop, authority, logged, tmp_path):
    """OpenSSL's client complies in the middle of reading; bytes flow both ways before and after."""
    file = tmp_path / "server.pem"
    authority.certificate.private_key_and_cert_chain_pem.write_to_path(file)
    arguments = ("-tls1_2", "-accept", "127.0.0.1:0", "-cert", file, "-key", file, "-naccept", "1")
    async with openssl("s_server", *arguments) as server:
        while not (line := await server.stdout.readline()).startswith(b"ACCEPT"):
            assert line, "openssl could not listen"
        port = int(line.rpartition(b":")[2])
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=authority.client(), server_hostname="localhost"
        )
        server.stdin.write(b"before\n")
        await protocol.has_bytes(7)
        server.stdin.write(b"r\n")
        # s_server shows the session that a handshake made.
        await server.stdout.readuntil(b"SSL_do_handshake -> ")
        transport.write(b"a question\n")
        await server.stdout.readuntil(b"a question\n")
        server.stdin.write(b"after\n")
        await protocol.has_bytes(13)
        assert protocol.received == b"before\nafter\n"
        transport.close()
        await protocol.has("lost")
        assert protocol.error is None
    assert logged() == []
