"""loop.create_server: its parameters and errors, and how connections are accepted.

Run by pytest on asyncio and on aioxide.  What the Server object does is told in test_server.py.
"""

import asyncio
import contextlib
import contextvars
import errno
import socket
import struct

import pytest
from loopback import Recorder, closed, free_port, listener, on_loop, read_exactly, reset, until


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@contextlib.asynccontextmanager
async def serving(loop, factory=Echo, host="127.0.0.1", port=0, **given):
    """A server, closed with its connections at the end."""
    made = []

    def remember():
        made.append(factory())
        return made[-1]

    server = await loop.create_server(remember, host, port, **given)
    server_sockets = server.sockets
    try:
        yield server, made
    finally:
        server.close()
        for protocol in made:
            if protocol.transport is not None:
                await closed(protocol.transport)
        await server.wait_closed()
        assert all(sock.fileno() == -1 for sock in server_sockets)


async def echoes(loop, address):
    """Whether somebody at `address` sends back what it is sent."""
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as client:
        client.setblocking(False)
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, b"ping")
        return await read_exactly(loop, client, 4) == b"ping"


def option(sock, level, name):
    return sock.getsockopt(level, name)


# Where to listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@on_loop
async def test_a_host_and_port_zero(loop, host):
    async with serving(loop, host=host) as (server, _):
        for sock in server.sockets:
            assert sock.getsockname()[1] > 0
            assert await echoes(loop, sock.getsockname())


@on_loop
async def test_several_hosts(loop):
    async with serving(loop, host=["127.0.0.1", "127.0.0.2", "::1"]) as (server, _):
        hosts = {sock.getsockname()[0] for sock in server.sockets}
        assert hosts == {"127.0.0.1", "127.0.0.2", "::1"}
        for sock in server.sockets:
            assert await echoes(loop, sock.getsockname())


@on_loop
async def test_a_host_named_twice_is_bound_once(loop):
    async with serving(loop, host=("127.0.0.1", "127.0.0.1")) as (server, _):
        assert len(server.sockets) == 1


@pytest.mark.parametrize("host", [None, ""])
@on_loop
async def test_no_host_means_both_families_on_one_port(loop, host):
    port = free_port()
    async with serving(loop, host=host, port=port) as (server, _):
        by_family = {sock.family: sock for sock in server.sockets}
        assert set(by_family) == {socket.AF_INET, socket.AF_INET6}
        six = by_family[socket.AF_INET6]
        assert option(six, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        assert {sock.getsockname()[1] for sock in server.sockets} == {port}
        assert await echoes(loop, ("127.0.0.1", port))
        assert await echoes(loop, ("::1", port, 0, 0))


@on_loop
async def test_family_restricts_the_addresses(loop):
    async with serving(loop, host="localhost", family=socket.AF_INET) as (server, _):
        assert {sock.family for sock in server.sockets} == {socket.AF_INET}


@on_loop
async def test_a_port_may_be_text(loop):
    port = free_port()
    async with serving(loop, port=str(port)):
        assert await echoes(loop, ("127.0.0.1", port))


@on_loop
async def test_a_socket_of_the_caller(loop):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    async with serving(loop, host=None, port=None, sock=sock) as (server, _):
        assert sock.gettimeout() == 0
        assert server.sockets[0].getsockname() == sock.getsockname()
        assert await echoes(loop, sock.getsockname())
    assert sock.fileno() == -1


@on_loop
async def test_hints_are_passed_to_getaddrinfo(loop):
    asked = []

    async def getaddrinfo(host, port, **hints):
        asked.append((host, port, hints))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    loop.getaddrinfo = getaddrinfo
    async with serving(loop, host="here.test", flags=socket.AI_CANONNAME):
        hints = {
            "family": socket.AF_UNSPEC,
            "type": socket.SOCK_STREAM,
            "proto": 0,
            "flags": socket.AI_CANONNAME,
        }
        assert asked == [("here.test", 0, hints)]


# Options of the listening socket


@on_loop
async def test_reuse_address_is_the_default(loop):
    for given, expected in (({}, 1), ({"reuse_address": True}, 1), ({"reuse_address": False}, 0)):
        async with serving(loop, **given) as (server, _):
            reuse = option(server.sockets[0], socket.SOL_SOCKET, socket.SO_REUSEADDR)
            assert reuse == expected


@on_loop
async def test_reuse_port_lets_two_servers_share_a_port(loop):
    async with serving(loop, reuse_port=True) as (server, _):
        assert option(server.sockets[0], socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        port = server.sockets[0].getsockname()[1]
        async with serving(loop, port=port, reuse_port=True) as (second, _):
            assert second.sockets[0].getsockname()[1] == port
            assert await echoes(loop, ("127.0.0.1", port))


@on_loop
async def test_keep_alive(loop, behaves_as):
    if not behaves_as(3, 13):
        with pytest.raises(TypeError, match="keep_alive"):
            await loop.create_server(Recorder, "127.0.0.1", 0, keep_alive=True)
        return
    for given, expected in (({}, 0), ({"keep_alive": True}, 1), ({"keep_alive": False}, 0)):
        async with serving(loop, **given) as (server, _):
            kept = option(server.sockets[0], socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert kept == expected


@on_loop
async def test_backlog_is_the_length_of_the_queue(loop):
    for given, expected in (({}, 100), ({"backlog": 7}, 7)):
        async with serving(loop, **given) as (server, _):
            # Of a listening socket, TCP_INFO shows the limit of its queue as `sacked`.
            info = server.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            assert struct.unpack_from("6I", info, 8)[5] == expected


@on_loop
async def test_start_serving_false_waits_for_the_word(loop):
    async with serving(loop, start_serving=False) as (server, _):
        assert not server.is_serving()
        address = server.sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            await echoes(loop, address)
        await server.start_serving()
        assert server.is_serving()
        assert await echoes(loop, address)


# Errors


@on_loop
async def test_an_address_in_use_is_named(loop, behaves_as):
    with listener() as taken:
        address = taken.getsockname()
        with pytest.raises(OSError) as caught:
            await loop.create_server(Recorder, *address)
        assert caught.value.errno == errno.EADDRINUSE
        prefix = "[errno 98] " if behaves_as(3, 13) else ""
        assert caught.value.strerror == (
            f"error while attempting to bind on address {address!r}: {prefix}address already in use"
        )


@on_loop
async def test_a_failure_at_one_host_closes_the_others(loop):
    with listener("127.0.0.2") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2"], port)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(ConnectionRefusedError):
            await echoes(loop, ("127.0.0.1", port))


@on_loop
async def test_an_address_that_is_not_ours(loop, behaves_as):
    with pytest.raises(OSError) as caught:
        await loop.create_server(Recorder, "192.0.2.1", 0)
    if behaves_as(3, 13):
        expected = "could not bind on any address out of [('192.0.2.1', 0)]"
        assert str(caught.value) == expected
    else:
        assert caught.value.errno == errno.EADDRNOTAVAIL


@on_loop
async def test_an_address_that_is_not_ours_is_passed_over(loop, behaves_as):
    if not behaves_as(3, 13):
        with pytest.raises(OSError):
            await loop.create_server(Recorder, ["192.0.2.1", "127.0.0.1"], 0)
        return
    async with serving(loop, host=["192.0.2.1", "127.0.0.1"]) as (server, _):
        assert [sock.getsockname()[0] for sock in server.sockets] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({}, ValueError, "Neither host/port nor sock were specified"),
        (
            {"host": "127.0.0.1", "port": 0, "ssl": True},
            TypeError,
            "ssl argument must be an SSLContext or None",
        ),
        (
            {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
            ValueError,
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1},
            ValueError,
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
    ],
)
@on_loop
async def test_arguments_that_make_no_sense(loop, given, kind, message):
    with pytest.raises(kind) as caught:
        await loop.create_server(Recorder, **given)
    assert str(caught.value) == message


@on_loop
async def test_a_socket_and_an_address_exclude_each_other(loop):
    with socket.socket() as sock:
        with pytest.raises(ValueError) as caught:
            await loop.create_server(Recorder, "127.0.0.1", 0, sock=sock)
        expected = "host/port and sock can not be specified at the same time"
        assert str(caught.value) == expected


@on_loop
async def test_a_datagram_socket_is_refused(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError) as caught:
            await loop.create_server(Recorder, sock=sock)
        assert str(caught.value) == f"A Stream Socket was expected, got {sock!r}"


@on_loop
async def test_a_name_that_stands_for_nothing(loop):
    async def getaddrinfo(host, port, **hints):
        return []

    loop.getaddrinfo = getaddrinfo
    with pytest.raises(OSError, match=r"^getaddrinfo\('nowhere\.test'\) returned empty list$"):
        await loop.create_server(Recorder, "nowhere.test", 0)


# Accepting


@on_loop
async def test_an_accepted_transport(loop):
    async with serving(loop) as (server, made):
        address = server.sockets[0].getsockname()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, address)
            await until(lambda: made and made[0].events)
            transport = made[0].transport
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_extra_info("peername") == client.getsockname()
            assert transport.get_extra_info("sockname") == address
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert option(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert sock.fileno() != server.sockets[0].fileno()


@on_loop
async def test_an_accepted_transport_that_is_gone_still_tells_what_it_was(loop):
    """Even when nobody asked for its socket before."""
    async with serving(loop) as (server, made):
        address = server.sockets[0].getsockname()
        assert await echoes(loop, address)
        await made[0].has("lost")
        transport = made[0].transport
        assert transport.get_extra_info("socket").fileno() == -1
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("peername")[0] == "127.0.0.1"


@on_loop
async def test_two_hundred_clients_at_once_each_get_their_own_bytes_back(loop):
    async with serving(loop, backlog=300) as (server, made):
        address = server.sockets[0].getsockname()

        async def visit(number):
            reader, writer = await asyncio.open_connection(*address)
            payload = b"%d " % number * 500
            writer.write(payload)
            assert await reader.readexactly(len(payload)) == payload
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(visit(number) for number in range(200)))
        await until(lambda: [protocol.events[-1] for protocol in made] == ["lost"] * 200)


@on_loop
async def test_a_client_that_is_gone_before_it_is_accepted_harms_nobody(loop):
    async with serving(loop) as (server, made):
        address = server.sockets[0].getsockname()
        for _ in range(20):
            client = socket.create_connection(address)
            reset(client)
        assert await echoes(loop, address)
        await until(lambda: all(protocol.events[-1:] == ["lost"] for protocol in made))


@on_loop
async def test_connections_see_the_context_of_the_server(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Observer(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            super().data_received(data)
            seen.append(variable.get())

    variable.set("at creation")
    async with serving(loop, Observer) as (server, _):
        variable.set("later")
        assert await echoes(loop, server.sockets[0].getsockname())
    assert seen == ["at creation", "at creation"]


def test_running_out_of_descriptors_is_told_and_overcome(run_child):
    """The loop cannot accept, says so, and does once a descriptor is free again."""
    child = run_child(
        """
        import os, resource, socket

        async def main():
            loop = asyncio.get_running_loop()
            told = []
            loop.set_exception_handler(lambda loop, context: told.append(context))
            accepted = loop.create_future()

            class Protocol(asyncio.Protocol):
                def connection_made(self, transport):
                    accepted.set_result(transport)

            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            client = socket.socket()
            spare = os.dup(0)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            client.connect(server.sockets[0].getsockname())
            async with asyncio.timeout(30):
                while not told:
                    await asyncio.sleep(0.01)
                assert not accepted.done()
                os.close(spare)
                transport = await accepted
            for context in told:
                assert context["message"] == "socket.accept() out of system resource"
                assert context["exception"].errno == 24
                assert isinstance(context["socket"], asyncio.trsock.TransportSocket)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            transport.abort()
            client.close()
            server.close()
            await server.wait_closed()

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        print("overcome")
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "overcome\n", "")
