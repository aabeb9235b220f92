"""loop.create_datagram_endpoint: endpoints of every kind, what they send, receive and are told.

Run by pytest on asyncio and on aioxide. Arguments and refusals: test_datagram_arguments.py.
"""

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import socket
import time
import weakref

import pytest
from loopback import on_loop, until


class Receiver(asyncio.DatagramProtocol):
    """Remembers what it is told, in order."""

    def __init__(self):
        self.events = []
        self.received = []
        self.errors = []
        self.transport = None
        self.reason = None

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.received.append((data, addr))

    def error_received(self, exc):
        self.errors.append(exc)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.reason = exc
        self.events.append("lost")

    async def has(self, count):
        await until(lambda: len(self.received) >= count)

    @property
    def data(self):
        return [data for data, _ in self.received]


class Echo(Receiver):
    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


@contextlib.asynccontextmanager
async def endpoint(loop, factory=Receiver, local=("127.0.0.1", 0), **given):
    """An endpoint and its protocol, closed at the end."""
    if "sock" not in given:
        given["local_addr"] = local
    transport, protocol = await loop.create_datagram_endpoint(factory, **given)
    assert transport is protocol.transport
    try:
        yield transport, protocol
    finally:
        if "lost" not in protocol.events:
            transport.abort()
        await until(lambda: "lost" in protocol.events)


def address_of(transport):
    return transport.get_extra_info("sockname")


@contextlib.asynccontextmanager
async def narrow(loop, tmp_path):
    """An endpoint whose kernel takes a few datagrams only, and the socket that receives them."""
    near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    near.bind(str(tmp_path / "near"))
    with far:
        far.bind(str(tmp_path / "far"))
        near.connect(far.getsockname())
        far.setblocking(False)
        async with endpoint(loop, sock=near) as (transport, receiver):
            yield transport, receiver, far


# What goes through


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_there_and_back(loop, host):
    async with (
        endpoint(loop, Echo, (host, 0)) as (server, echo),
        endpoint(loop, Receiver, (host, 0)) as (client, receiver),
    ):
        client.sendto(b"ping", address_of(server))
        await receiver.has(1)
        assert echo.received == [(b"ping", address_of(client))]
        assert receiver.received == [(b"ping", address_of(server))]


@on_loop
async def test_connected(loop):
    async with endpoint(loop, Echo) as (server, _):
        async with endpoint(loop, local=None, remote_addr=address_of(server)) as (client, receiver):
            assert client.get_extra_info("peername") == address_of(server)
            client.sendto(b"1")
            client.sendto(b"2", None)
            client.sendto(b"3", address_of(server))
            await receiver.has(3)
            assert receiver.data == [b"1", b"2", b"3"]


@on_loop
async def test_a_connected_endpoint_sends_nowhere_else(loop):
    async with endpoint(loop, Echo) as (server, _):
        address = address_of(server)
        async with endpoint(loop, local=None, remote_addr=address) as (client, receiver):
            with pytest.raises(ValueError) as caught:
                client.sendto(b"x", ("127.0.0.1", 1))
            assert str(caught.value) == f"Invalid address: must be None or {address}"
            client.sendto(b"y")
            await receiver.has(1)


@on_loop
async def test_many_peers_are_told_apart(loop):
    async with contextlib.AsyncExitStack() as stack:
        server, echo = await stack.enter_async_context(endpoint(loop, Echo))
        clients = [await stack.enter_async_context(endpoint(loop)) for _ in range(50)]
        for turn in range(3):
            for number, (client, _) in enumerate(clients):
                client.sendto(b"%d.%d" % (number, turn), address_of(server))
            for _, receiver in clients:
                await receiver.has(turn + 1)
        for number, (_, receiver) in enumerate(clients):
            assert receiver.data == [b"%d.%d" % (number, turn) for turn in range(3)]
        assert {addr for _, addr in echo.received} == {address_of(client) for client, _ in clients}


@on_loop
async def test_empty_datagrams(loop, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio drops them before 3.13")
    async with endpoint(loop, Echo) as (server, _), endpoint(loop) as (client, receiver):
        client.sendto(b"", address_of(server))
        await receiver.has(1)
        assert receiver.data == [b""]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@on_loop
async def test_what_can_be_sent(loop, kind):
    async with endpoint(loop) as (server, receiver), endpoint(loop) as (client, _):
        client.sendto(kind(b"abc"), address_of(server))
        await receiver.has(1)
        assert receiver.data == [b"abc"]


@pytest.mark.parametrize("data", ["text", 1, None, [b"x"]])
@on_loop
async def test_what_cannot_be_sent(loop, data):
    async with endpoint(loop) as (transport, _):
        with pytest.raises(TypeError) as caught:
            transport.sendto(data, ("127.0.0.1", 9))
        name = type(data).__name__
        assert str(caught.value) == f"data argument must be a bytes-like object, not '{name}'"


@on_loop
async def test_the_largest_datagram(loop):
    async with endpoint(loop, Echo) as (server, _), endpoint(loop) as (client, receiver):
        largest = bytes(range(256)) * 256
        largest = largest[: 65535 - 8 - 20]
        client.sendto(largest, address_of(server))
        await receiver.has(1)
        assert receiver.data == [largest]


# Addresses


@on_loop
async def test_forms_of_an_ipv6_address(loop):
    async with endpoint(loop, local=("::1", 0)) as (server, receiver):
        port = address_of(server)[1]
        assert address_of(server) == ("::1", port, 0, 0)
        async with endpoint(loop, local=("::1", 0)) as (client, _):
            forms = [("::1", port), ("::1", port, 0), ("::1", port, 0, 0), ("0:0::1", port)]
            for form in forms:
                client.sendto(b"x", form)
            await receiver.has(len(forms))
            assert {addr for _, addr in receiver.received} == {address_of(client)}


@on_loop
async def test_a_host_name_is_looked_up_as_the_socket_does(loop):
    async with endpoint(loop) as (server, receiver), endpoint(loop) as (client, _):
        client.sendto(b"x", ("localhost", address_of(server)[1]))
        await receiver.has(1)


@on_loop
async def test_an_address_that_is_none_ends_the_endpoint(loop, loop_errors):
    transport, protocol = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", "not a tuple")
    await until(lambda: "lost" in protocol.events)
    assert type(protocol.reason) is TypeError
    (context,) = loop_errors.take()
    assert context["message"] == "Fatal write error on datagram transport"
    assert context["transport"] is transport


@on_loop
async def test_a_peer_is_one_object_or_an_equal_one(loop):
    async with endpoint(loop) as (server, receiver), endpoint(loop) as (client, _):
        for _ in range(3):
            client.sendto(b"x", address_of(server))
        await receiver.has(3)
        for _, addr in receiver.received:
            assert addr == address_of(client)
            assert type(addr) is tuple
            assert type(addr[0]) is str
            assert type(addr[1]) is int


# Unix


@on_loop
async def test_unix_datagrams_with_paths(loop, tmp_path):
    names = [str(tmp_path / name) for name in ("a", "b")]
    async with (
        endpoint(loop, Echo, names[0], family=socket.AF_UNIX) as (server, echo),
        endpoint(loop, Receiver, names[1], family=socket.AF_UNIX) as (client, receiver),
    ):
        client.sendto(b"ping", names[0])
        await receiver.has(1)
        assert receiver.received == [(b"ping", names[0])]
        assert echo.received == [(b"ping", names[1])]
        assert address_of(server) == names[0]


@on_loop
async def test_unix_datagrams_between_abstract_names(loop):
    names = [f"\0aioxide-{os.getpid()}-{number}" for number in range(2)]
    async with (
        endpoint(loop, Echo, names[0], family=socket.AF_UNIX),
        endpoint(loop, Receiver, names[1], family=socket.AF_UNIX) as (client, receiver),
    ):
        client.sendto(b"ping", names[0])
        client.sendto(b"pong", os.fsencode(names[0]))
        await receiver.has(2)
        assert receiver.received == [(data, os.fsencode(names[0])) for data in (b"ping", b"pong")]


@on_loop
async def test_a_unix_sender_without_a_name(loop, tmp_path):
    path = str(tmp_path / "s")
    async with endpoint(loop, local=path, family=socket.AF_UNIX) as (_, receiver):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", path)
        await receiver.has(1)
        assert receiver.received == [(b"x", None)]


@on_loop
async def test_a_stale_unix_socket_is_replaced(loop, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(path)
    async with endpoint(loop, local=path, family=socket.AF_UNIX) as (transport, _):
        assert address_of(transport) == path


@on_loop
async def test_a_connected_pair_handed_over(loop):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        far.setblocking(False)
        async with endpoint(loop, sock=near) as (transport, receiver):
            far.send(b"in")
            await receiver.has(1)
            assert receiver.data == [b"in"]
            assert address_of(transport) == ""
            assert transport.get_extra_info("socket").family == socket.AF_UNIX


@on_loop
async def test_a_peer_without_a_name_is_sent_to(loop, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio asks for an address, which the other end of a pair does not have")
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        far.setblocking(False)
        async with endpoint(loop, sock=near) as (transport, _):
            transport.sendto(b"out")
            assert await loop.sock_recv(far, 10) == b"out"


@on_loop
async def test_another_family_handed_over(loop, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio takes other kinds of sockets since 3.13")
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    except OSError:
        pytest.skip("no netlink sockets here")
    sock.bind((0, 0))
    async with endpoint(loop, sock=sock) as (transport, receiver):
        # RTM_GETLINK for all interfaces, as `ip link` asks.
        header = (20).to_bytes(4, "little") + b"\x12\0\x01\x03" + bytes(8)
        transport.sendto(header + bytes(4), (0, 0))
        await receiver.has(1)
        assert receiver.received[0][1] == (0, 0)


# Errors


@on_loop
async def test_a_refusal_reaches_error_received(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = silent.getsockname()
    async with endpoint(loop, local=None, remote_addr=address) as (transport, receiver):
        transport.sendto(b"x")
        await until(lambda: receiver.errors)
        assert type(receiver.errors[0]) is ConnectionRefusedError
        assert receiver.errors[0].errno == errno.ECONNREFUSED
        assert not transport.is_closing()


@on_loop
async def test_a_datagram_that_is_too_large(loop):
    async with endpoint(loop) as (transport, receiver):
        transport.sendto(bytes(70_000), ("127.0.0.1", 9))
        assert [error.errno for error in receiver.errors] == [errno.EMSGSIZE]
        assert not transport.is_closing()
        transport.sendto(b"small", address_of(transport))
        await receiver.has(1)


@on_loop
async def test_an_exception_in_datagram_received_is_reported(loop, loop_errors):
    class Failing(Receiver):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise ZeroDivisionError

    async with endpoint(loop, Failing) as (transport, receiver):
        for _ in range(2):
            transport.sendto(b"x", address_of(transport))
        await receiver.has(2)
        assert not transport.is_closing()
        contexts = loop_errors.take()
        assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError] * 2


@on_loop
async def test_an_exception_in_error_received_reaches_the_sender(loop):
    class Failing(Receiver):
        def error_received(self, exc):
            raise ZeroDivisionError

    async with endpoint(loop, Failing) as (transport, _):
        with pytest.raises(ZeroDivisionError):
            transport.sendto(bytes(70_000), ("127.0.0.1", 9))


def test_system_exit_leaves_the_loop(loop):
    class Leaving(Receiver):
        def datagram_received(self, data, addr):
            raise SystemExit(7)

    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Leaving, local_addr=("127.0.0.1", 0))
    )
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    with pytest.raises(SystemExit):
        loop.run_forever()
    transport.close()
    loop.run_until_complete(until(lambda: "lost" in protocol.events))


# Flow control


@on_loop
async def test_a_full_kernel_pauses_the_protocol_and_loses_nothing(loop, tmp_path):
    async with narrow(loop, tmp_path) as (transport, receiver, far):
        transport.set_write_buffer_limits(high=1000, low=500)
        assert transport.get_write_buffer_limits() == (500, 1000)
        sent = 0
        while "pause" not in receiver.events:
            transport.sendto(b"%04d" % sent * 25)
            sent += 1
        waiting = transport.get_write_buffer_size()
        assert waiting > 1000
        received = []
        while len(received) < sent:
            received.append(await loop.sock_recv(far, 1000))
        assert received == [b"%04d" % number * 25 for number in range(sent)]
        await until(lambda: "resume" in receiver.events)
        assert receiver.events == ["made", "pause", "resume"]


@on_loop
async def test_what_waits_counts_a_header_for_each_datagram(loop, tmp_path, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio counts no header before 3.13")
    async with narrow(loop, tmp_path) as (transport, *_):
        while not transport.get_write_buffer_size():
            transport.sendto(b"12")
        assert transport.get_write_buffer_size() == 10
        transport.sendto(b"")
        assert transport.get_write_buffer_size() == 18
        assert [data for data, _ in transport._buffer] == [b"12", b""]


@on_loop
async def test_what_waits_is_a_copy(loop, tmp_path):
    async with narrow(loop, tmp_path) as (transport, _, far):
        sent = 0
        while not transport.get_write_buffer_size():
            transport.sendto(b"x")
            sent += 1
        data = bytearray(b"before")
        transport.sendto(data)
        data[:] = b"after!"
        for _ in range(sent):
            await loop.sock_recv(far, 10)
        assert await loop.sock_recv(far, 10) == b"before"


@on_loop
async def test_close_sends_what_waits(loop, tmp_path):
    async with narrow(loop, tmp_path) as (transport, receiver, far):
        sent = 0
        while transport.get_write_buffer_size() < 100:
            transport.sendto(b"%d" % sent)
            sent += 1
        transport.close()
        assert transport.is_closing()
        for number in range(sent):
            assert await loop.sock_recv(far, 100) == b"%d" % number
        await until(lambda: "lost" in receiver.events)
        assert receiver.reason is None


@on_loop
async def test_abort_drops_what_waits(loop, tmp_path):
    async with narrow(loop, tmp_path) as (transport, receiver, _):
        while not transport.get_write_buffer_size():
            transport.sendto(b"x")
        transport.abort()
        await until(lambda: "lost" in receiver.events)
        assert receiver.reason is None
        assert transport.get_extra_info("socket").fileno() == -1


# Its life


def test_what_was_queued_before_the_run_comes_before_datagrams(loop):
    class Waited(Receiver):
        answer = None

        def datagram_received(self, data, addr):
            self.answer.set_result(data)

        async def wait(self):
            self.answer = loop.create_future()
            return await self.answer

    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Waited, local_addr=("127.0.0.1", 0))
    )
    for _ in range(20):
        transport.sendto(b"x", address_of(transport))
        # Long enough for the loop to ask the kernel before it runs the coroutine.
        start = time.perf_counter()
        while time.perf_counter() - start < 0.001:
            pass
        assert loop.run_until_complete(protocol.wait()) == b"x"
    transport.close()
    loop.run_until_complete(until(lambda: "lost" in protocol.events))


def test_readiness_is_seen_by_a_loop_that_is_told_to_stop(loop):
    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")
        fired = []
        loop.add_reader(near, fired.append, 1)
        loop.call_soon(fired.append, 0)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert fired == [0, 1]
        loop.remove_reader(near)


@on_loop
async def test_closing_in_datagram_received_stops_the_rest(loop):
    class Once(Receiver):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.close()

    async with endpoint(loop, Once) as (server, receiver), endpoint(loop) as (client, _):
        for number in range(5):
            client.sendto(b"%d" % number, address_of(server))
        await until(lambda: "lost" in receiver.events)
        assert receiver.data == [b"0"]


@on_loop
async def test_a_protocol_can_be_replaced(loop):
    class Handing(Receiver):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.set_protocol(second)

    second = Receiver()
    async with endpoint(loop, Handing) as (server, first), endpoint(loop) as (client, _):
        client.sendto(b"1", address_of(server))
        client.sendto(b"2", address_of(server))
        await second.has(1)
        assert (first.data, second.data) == ([b"1"], [b"2"])
        assert server.get_protocol() is second
        server.set_protocol(first)


@on_loop
async def test_methods_replaced_on_the_protocol_are_called(loop):
    async with endpoint(loop) as (transport, receiver):
        replaced = []
        receiver.datagram_received = lambda data, addr: replaced.append(data)
        transport.sendto(b"x", address_of(transport))
        await until(lambda: replaced)
        assert receiver.received == []


@on_loop
async def test_callbacks_run_in_the_context_of_creation(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Looking(Receiver):
        def datagram_received(self, data, addr):
            seen.append(variable.get())
            super().datagram_received(data, addr)

    variable.set("creation")
    async with endpoint(loop, Looking) as (transport, receiver):
        variable.set("later")
        transport.sendto(b"x", address_of(transport))
        await receiver.has(1)
        assert seen == ["creation"]


@on_loop
async def test_sending_to_a_lost_connected_endpoint_is_logged(loop, caplog):
    async with endpoint(loop) as (server, _):
        address = address_of(server)
        async with endpoint(loop, local=None, remote_addr=address) as (client, receiver):
            client.abort()
            with caplog.at_level(logging.WARNING, "asyncio"):
                for _ in range(6):
                    client.sendto(b"x")
            assert "socket.send() raised exception." in caplog.text
            await until(lambda: "lost" in receiver.events)


@on_loop
async def test_what_a_transport_is_and_shows(loop, behaves_as):
    async with endpoint(loop) as (transport, receiver):
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.DatagramTransport) or not behaves_as(3, 12)
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert transport.get_extra_info("sockname") == sock.getsockname()
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_protocol() is receiver
        assert transport._loop is loop
        assert transport._address is None
        assert not transport._buffer
        assert transport._conn_lost == 0
        assert transport._sock.fileno() == sock.fileno() == transport._sock_fd
        assert "read=polling" in repr(transport)
        assert "bufsize=0" in repr(transport)
        transport.mark = 1
        transport.sendto = lambda data, addr=None: 7
        assert transport.sendto(b"") == 7
        assert weakref.ref(transport)() is transport
    assert transport.is_closing()
    assert "closed" in repr(transport)


def test_an_endpoint_dropped_unclosed_warns(new_loop):
    loop = new_loop()
    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    )
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        protocol.transport = None
        del transport
        gc.collect()


@on_loop
async def test_a_socket_closed_behind_the_back(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        transport, receiver = await loop.create_datagram_endpoint(Receiver, sock=sock)
        sock.close()
        transport.sendto(b"x", ("127.0.0.1", 9))
        assert [error.errno for error in receiver.errors] == [errno.EBADF]
        transport.abort()
        await until(lambda: "lost" in receiver.events)
