"""Unix domain stream sockets: connections, servers, and the files they leave or remove.

Run by pytest on asyncio and on aioxide. Datagrams over Unix sockets: test_datagrams.py.
"""

import asyncio
import contextlib
import errno
import logging
import os
import pathlib
import posix
import select
import socket
import ssl
import stat

import pytest
import trustme
from loopback import Recorder, closed, listener, on_loop, read_exactly, read_to_eof, until


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@pytest.fixture
def path(tmp_path):
    """A free path, short enough for a socket address."""
    short = tmp_path / "s"
    assert len(os.fsencode(short)) < 100
    return str(short)


@contextlib.asynccontextmanager
async def serving(loop, path, factory=Echo, **given):
    """A Unix server, closed with its connections at the end."""
    made = []

    def remember():
        made.append(factory())
        return made[-1]

    server = await loop.create_unix_server(remember, path, **given)
    try:
        yield server, made
    finally:
        server.close()
        for protocol in made:
            if protocol.transport is not None and "lost" not in protocol.events:
                await closed(protocol.transport)
        await server.wait_closed()


async def echoes(loop, path):
    """Whether somebody at `path` sends back what it is sent."""
    client = Recorder()
    transport, _ = await loop.create_unix_connection(lambda: client, path)
    transport.write(b"ping")
    await client.has_bytes(4)
    await closed(transport)
    return client.received == b"ping"


def exists(path):
    return os.path.exists(path)


def write(path, text):
    pathlib.Path(path).write_text(text, encoding="ascii")


def read(path):
    return pathlib.Path(path).read_text(encoding="ascii")


def forms(path):
    """The ways in which a program writes one path."""
    return [path, os.fsencode(path), pathlib.Path(path)]


# Paths


@on_loop
async def test_a_path_is_text_bytes_or_path_like(loop, path):
    for given in forms(path):
        async with serving(loop, given) as (server, _):
            assert server.sockets[0].getsockname() == path
            for target in forms(path):
                assert await echoes(loop, target)


@pytest.mark.parametrize("kind", ["text", "bytes"])
@on_loop
async def test_an_abstract_name_has_no_file(loop, kind):
    name = f"\0aioxide-{os.getpid()}"
    name = name if kind == "text" else name.encode()
    async with serving(loop, name) as (server, made):
        shown = os.fsencode(name)
        assert server.sockets[0].getsockname() == shown
        assert await echoes(loop, name)
        assert made[0].transport.get_extra_info("sockname") == shown


@on_loop
async def test_a_path_that_is_not_utf_8(loop, tmp_path):
    name = os.fsencode(tmp_path / "s") + b"\xff"
    async with serving(loop, name) as (_, made):
        assert await echoes(loop, name)
        assert made[0].transport.get_extra_info("sockname") == os.fsdecode(name)


@on_loop
async def test_a_path_that_is_too_long_is_refused(loop, tmp_path):
    long = str(tmp_path / ("s" * 200))
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        await loop.create_unix_server(Echo, long)
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        await loop.create_unix_connection(Recorder, long)


@on_loop
async def test_nobody_listens(loop, path):
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Recorder, path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)


# What both ends are told


@on_loop
async def test_addresses_and_the_socket_of_both_ends(loop, path):
    async with serving(loop, path) as (_, made):
        client = Recorder()
        transport, _ = await loop.create_unix_connection(lambda: client, path)
        await until(lambda: made and made[0].transport is not None)
        accepted = made[0].transport
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("sockname") == ""
        assert accepted.get_extra_info("sockname") == path
        assert accepted.get_extra_info("peername") == ""
        for end in (transport, accepted):
            sock = end.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock.family == socket.AF_UNIX
            assert sock.type == socket.SOCK_STREAM
            assert isinstance(end, asyncio.Transport)
        await closed(transport)


@on_loop
async def test_bytes_and_half_close_in_both_directions(loop, path):
    async with serving(loop, path, lambda: Echo(keep_open=True)) as (_, made):
        client = Recorder()
        transport, _ = await loop.create_unix_connection(lambda: client, path)
        sent = bytes(range(256)) * 4096
        transport.write(sent)
        transport.write_eof()
        await client.has_bytes(len(sent))
        assert client.received == sent
        await made[0].has("eof")
        made[0].transport.close()
        await client.has("lost")
        assert client.error is None


@on_loop
async def test_streams(loop, path):
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    async with server:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
        server.close()


@on_loop
async def test_a_connected_socket_is_taken_over(loop):
    near, far = socket.socketpair()
    with far:
        far.setblocking(False)
        client = Recorder()
        transport, _ = await loop.create_unix_connection(lambda: client, sock=near)
        transport.write(b"x")
        assert await read_exactly(loop, far, 1) == b"x"
        transport.close()
        assert await read_to_eof(loop, far) == b""
        await client.has("lost")


@on_loop
async def test_cancelling_a_connect_leaves_nothing(loop, path):
    async with serving(loop, path, Recorder) as (_, made):
        task = loop.create_task(loop.create_unix_connection(Recorder, path))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: made and made[0].transport is not None)
        await made[0].has("lost")


@on_loop
async def test_a_full_backlog_is_waited_for(loop, path, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio takes a socket that is not connected for one that is")
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(0)
        first = stack.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(path)
        task = loop.create_task(loop.create_unix_connection(Recorder, path))
        cancelled = loop.create_task(loop.create_unix_connection(Recorder, path))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not task.done()
        stack.enter_context(listening.accept()[0])
        transport, protocol = await task
        accepted = stack.enter_context(listening.accept()[0])
        accepted.send(b"x")
        await protocol.has_bytes(1)
        await closed(transport)


@on_loop
async def test_cancelling_the_creation_of_a_server_leaves_nothing(loop, path, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio leaves the server listening")
    listening = listener()
    for creating in (
        loop.create_unix_server(Recorder, path),
        loop.create_server(Recorder, sock=listening),
    ):
        task = loop.create_task(creating)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not exists(path)
    assert listening.fileno() == -1


# The file of a server


@on_loop
async def test_a_stale_socket_file_is_replaced(loop, path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with serving(loop, path):
        assert await echoes(loop, path)


@on_loop
async def test_a_file_that_is_no_socket_is_kept_and_named(loop, path):
    write(path, "mine")
    with pytest.raises(OSError) as caught:
        await loop.create_unix_server(Echo, path)
    assert caught.value.errno == errno.EADDRINUSE
    assert f"Address {path!r} is already in use" in str(caught.value)
    assert read(path) == "mine"


@on_loop
async def test_an_unreadable_directory_is_logged(loop, path, caplog, monkeypatch, behaves_as):
    def refuse(path, **given):
        raise PermissionError(errno.EACCES, "not allowed")

    given = {"cleanup_socket": False} if behaves_as(3, 13) else {}
    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR, "asyncio"):
        for module in (os, posix):
            patched.setattr(module, "stat", refuse)
        server = await loop.create_unix_server(Echo, path, **given)
    assert "Unable to check or remove stale UNIX socket" in caplog.text
    server.close()
    await server.wait_closed()


@on_loop
async def test_the_file_is_removed_when_the_server_closes(loop, path, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio keeps the file before 3.13")
    async with serving(loop, path):
        assert stat.S_ISSOCK(os.stat(path).st_mode)
    assert not exists(path)


@on_loop
async def test_the_file_of_a_socket_handed_over_is_removed(loop, path, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio keeps the file before 3.13")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    async with serving(loop, None, sock=sock):
        assert await echoes(loop, path)
    assert not exists(path)


@on_loop
async def test_the_file_stays_on_request(loop, path, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("cleanup_socket= is new in 3.13")
    async with serving(loop, path, cleanup_socket=False):
        pass
    assert stat.S_ISSOCK(os.stat(path).st_mode)


@on_loop
async def test_somebody_elses_file_at_the_path_stays(loop, path):
    async with serving(loop, path):
        os.rename(path, f"{path}.old")
        write(path, "another")
    assert read(path) == "another"


@on_loop
async def test_a_file_that_is_gone_already(loop, path):
    async with serving(loop, path):
        os.unlink(path)


@on_loop
async def test_start_serving_later(loop, path):
    async with serving(loop, path, start_serving=False) as (server, _):
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_unix_connection(Recorder, path)
        await server.start_serving()
        assert await echoes(loop, path)


# Arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no path and sock were specified"),
        ({"path": "/x", "server_hostname": "h"}, "server_hostname is only meaningful with ssl"),
        ({"path": "/x", "ssl": True}, "you have to pass server_hostname when using ssl"),
        (
            {"path": "/x", "ssl_handshake_timeout": 1},
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"path": "/x", "ssl_shutdown_timeout": 1},
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
    ],
)
@on_loop
async def test_a_connection_refuses_arguments(loop, given, message):
    with pytest.raises(ValueError, match=message):
        await loop.create_unix_connection(Recorder, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "path was not specified, and no sock specified"),
        (
            {"path": "/x", "ssl_handshake_timeout": 1},
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"path": "/x", "ssl_shutdown_timeout": 1},
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
    ],
)
@on_loop
async def test_a_server_refuses_arguments(loop, given, message):
    with pytest.raises(ValueError, match=message):
        await loop.create_unix_server(Recorder, **given)
    with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
        await loop.create_unix_server(Recorder, "/x", ssl=True)


@pytest.mark.parametrize("method", ["create_unix_connection", "create_unix_server"])
@on_loop
async def test_sock_excludes_a_path_and_must_be_a_unix_stream(loop, method):
    create = getattr(loop, method)
    with socket.socket(socket.AF_UNIX) as sock:
        message = "path and sock can not be specified at the same time"
        with pytest.raises(ValueError, match=message):
            await create(Recorder, "/x", sock=sock)
    for family, kind in (
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
    ):
        with socket.socket(family, kind) as sock:
            with pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"):
                await create(Recorder, sock=sock)


# connect_accepted_socket


@on_loop
async def test_an_accepted_socket_is_served(loop):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.create_connection(listening.getsockname()) as client:
            client.setblocking(False)
            sock, address = listening.accept()
            transport, protocol = await loop.connect_accepted_socket(Echo, sock)
            assert transport.get_extra_info("peername") == address
            await loop.sock_sendall(client, b"ping")
            assert await read_exactly(loop, client, 4) == b"ping"
            assert protocol.events[:1] == ["made"]
            await closed(transport)


@on_loop
async def test_an_accepted_socket_must_be_a_stream(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="A Stream Socket was expected"):
            await loop.connect_accepted_socket(Echo, sock)
    with socket.socket() as sock:
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.connect_accepted_socket(Echo, sock, **{name: 1})


@on_loop
async def test_cancelling_connect_accepted_socket_closes_it(loop):
    near, far = socket.socketpair()
    with far:
        task = loop.create_task(loop.connect_accepted_socket(Recorder, near))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: near.fileno() == -1)


# TLS


@pytest.fixture(scope="module")
def certificates():
    """Contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@on_loop
async def test_tls_over_a_unix_socket(loop, path, certificates):
    server, client = certificates
    async with serving(loop, path, ssl=server):
        protocol = Recorder()
        transport, _ = await loop.create_unix_connection(
            lambda: protocol, path, ssl=client, server_hostname="server.test"
        )
        transport.write(b"ping")
        await protocol.has_bytes(4)
        assert transport.get_extra_info("peername") == path
        assert transport.get_extra_info("cipher")
        transport.close()
        await protocol.has("lost")


@on_loop
async def test_tls_on_an_accepted_socket(loop, certificates):
    server, client = certificates
    with socket.create_server(("127.0.0.1", 0)) as listening:
        protocol = Recorder()
        connecting = loop.create_task(
            loop.create_connection(
                lambda: protocol,
                *listening.getsockname(),
                ssl=client,
                server_hostname="server.test",
            )
        )
        await asyncio.sleep(0)
        await until(lambda: select.select([listening], [], [], 0)[0])
        accepted, _ = listening.accept()
        transport, echo = await loop.connect_accepted_socket(Echo, accepted, ssl=server)
        near, _ = await connecting
        near.write(b"ping")
        await protocol.has_bytes(4)
        near.close()
        await protocol.has("lost")
        await echo.has("lost")
        assert transport.is_closing()
