"""The sock_* coroutines: results, errors, cancellation, and descriptors that are closed or reused.

Run by pytest on asyncio and on aioxide.  Every socket here is the test's own; what transports
do with sockets is told in test_transports.py.
"""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import ssl

import pytest
from loopback import (
    Recorder,
    connected_pair,
    listener,
    on_loop,
    pair_at,
    read_exactly,
    refusing,
    reset,
    socket_pair,
    until,
    wired,
)

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB: more than any socket buffer takes at once.


@contextlib.contextmanager
def datagram_pair(family=socket.AF_INET):
    """Two bound, unconnected UDP sockets of loopback."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with (
        socket.socket(family, socket.SOCK_DGRAM) as near,
        socket.socket(family, socket.SOCK_DGRAM) as far,
    ):
        for sock in (near, far):
            sock.bind((host, 0))
            sock.setblocking(False)
        yield near, far


async def begun(coroutine):
    """A task of `coroutine` that has had time to reach its first wait."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def cancelled(task):
    """Cancel `task` and see it end so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Results


@on_loop
async def test_recv_returns_what_is_there_or_waits_for_it(loop):
    with socket_pair() as (near, far):
        far.send(b"there")
        await until(lambda: near.recv(1, socket.MSG_PEEK) == b"t")
        assert await loop.sock_recv(near, 3) == b"the"
        assert await loop.sock_recv(near, 100) == b"re"
        waiting = await begun(loop.sock_recv(near, 100))
        far.send(b"later")
        assert await waiting == b"later"
        assert loop.remove_reader(near) is False


@on_loop
async def test_recv_at_eof_is_empty_again_and_again(loop):
    with socket_pair() as (near, far):
        waiting = await begun(loop.sock_recv(near, 100))
        far.shutdown(socket.SHUT_WR)
        assert await waiting == b""
        assert await loop.sock_recv(near, 100) == b""


@pytest.mark.parametrize("buffer", [bytearray(6), memoryview(bytearray(6))])
@on_loop
async def test_recv_into_fills_the_buffer_and_counts(loop, buffer):
    with socket_pair() as (near, far):
        waiting = await begun(loop.sock_recv_into(near, buffer))
        far.send(b"abcdefgh")
        assert await waiting == 6
        assert bytes(buffer) == b"abcdef"
        assert await loop.sock_recv_into(near, buffer) == 2
        assert bytes(buffer) == b"ghcdef"
        far.close()
        assert await loop.sock_recv_into(near, buffer) == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@on_loop
async def test_datagrams_go_there_and_come_with_their_sender(loop, family):
    with datagram_pair(family) as (near, far):
        waiting = await begun(loop.sock_recvfrom(far, 100))
        assert await loop.sock_sendto(near, b"first", far.getsockname()) == 5
        assert await waiting == (b"first", near.getsockname())
        assert await loop.sock_sendto(near, b"second", far.getsockname()) == 6
        assert await loop.sock_recvfrom(far, 3) == (b"sec", near.getsockname())
        assert await loop.sock_sendto(near, b"", far.getsockname()) == 0
        assert await loop.sock_recvfrom(far, 100) == (b"", near.getsockname())


@on_loop
async def test_recvfrom_into_fills_the_buffer_up_to_the_count(loop):
    with datagram_pair() as (near, far):
        buffer = bytearray(b"........")
        waiting = await begun(loop.sock_recvfrom_into(far, buffer))
        await loop.sock_sendto(near, b"abc", far.getsockname())
        assert await waiting == (3, near.getsockname())
        assert buffer == b"abc....."
        waiting = await begun(loop.sock_recvfrom_into(far, buffer, 2))
        await loop.sock_sendto(near, b"xyz", far.getsockname())
        assert await waiting == (2, near.getsockname())
        assert buffer == b"xyc....."


@on_loop
async def test_recvfrom_into_refuses_a_count_beyond_the_buffer(loop):
    with datagram_pair() as (near, far):
        await loop.sock_sendto(near, b"abc", far.getsockname())
        with pytest.raises(ValueError, match="nbytes is greater than the length of the buffer"):
            await loop.sock_recvfrom_into(far, bytearray(2), 3)


@on_loop
async def test_sendto_waits_until_the_receiver_has_room(loop):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
    ):
        far.bind(b"\0aioxide test %d" % os.getpid())
        near.setblocking(False)
        far.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                near.sendto(b"filler", far.getsockname())
                sent += 1
        waiting = await begun(loop.sock_sendto(near, b"the last", far.getsockname()))
        for _ in range(sent):
            assert far.recv(100) == b"filler"
        assert await waiting == 8
        assert await loop.sock_recv(far, 100) == b"the last"
        assert loop.remove_writer(near) is False


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview")])
@on_loop
async def test_sendall_takes_every_kind_of_bytes(loop, data):
    with socket_pair() as (near, far):
        assert await loop.sock_sendall(near, data) is None
        assert await loop.sock_recv(far, 100) == bytes(data)


@on_loop
async def test_sendall_of_nothing_is_done_at_once(loop):
    with socket_pair() as (near, far):
        assert await loop.sock_sendall(near, b"") is None
        with pytest.raises(BlockingIOError):
            far.recv(1)


@on_loop
async def test_sendall_sends_a_large_payload_whole_in_many_parts(loop):
    with socket_pair(send_buffer=4096, receive_buffer=4096) as (near, far):
        sending = await begun(loop.sock_sendall(near, PAYLOAD))
        assert await read_exactly(loop, far, len(PAYLOAD)) == PAYLOAD
        assert await sending is None
        assert loop.remove_writer(near) is False


@on_loop
async def test_both_directions_of_one_socket_at_once(loop):
    with socket_pair(send_buffer=8192) as (near, far):
        sent = await asyncio.gather(
            loop.sock_sendall(near, PAYLOAD),
            loop.sock_sendall(far, PAYLOAD[::-1]),
            read_exactly(loop, near, len(PAYLOAD)),
            read_exactly(loop, far, len(PAYLOAD)),
        )
        assert sent == [None, None, PAYLOAD[::-1], PAYLOAD]


@on_loop
async def test_accept_returns_a_non_blocking_socket_and_its_address(loop):
    with listener() as listening, socket.socket() as client:
        waiting = await begun(loop.sock_accept(listening))
        client.setblocking(False)
        assert await loop.sock_connect(client, listening.getsockname()) is None
        accepted, address = await waiting
        with accepted:
            assert address == client.getsockname()
            assert accepted.gettimeout() == 0
            assert type(accepted) is socket.socket
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(accepted, 100) == b"hello"
        assert loop.remove_reader(listening) is False


@on_loop
async def test_accept_takes_a_connection_that_waits_already(loop):
    with listener() as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        accepted, address = await loop.sock_accept(listening)
        with accepted:
            assert address == client.getsockname()


@on_loop
async def test_connect_over_ipv6_with_two_and_four_part_addresses(loop):
    with listener("::1") as listening:
        host, port, *_ = listening.getsockname()
        for address in [(host, port), (host, port, 0, 0)]:
            with socket.socket(socket.AF_INET6) as client:
                client.setblocking(False)
                await loop.sock_connect(client, address)
                assert client.getpeername() == listening.getsockname()


@on_loop
async def test_connect_resolves_a_name_through_the_loop(loop):
    asked = []

    async def getaddrinfo(host, port, **hints):
        asked.append((host, port, hints))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    loop.getaddrinfo = getaddrinfo
    with listener() as listening, socket.socket() as client:
        client.setblocking(False)
        port = listening.getsockname()[1]
        await loop.sock_connect(client, ("somewhere.test", port))
        assert client.getpeername() == ("127.0.0.1", port)
        hints = {"family": socket.AF_INET, "type": socket.SOCK_STREAM, "proto": 0, "flags": 0}
        assert asked == [("somewhere.test", port, hints)]


@on_loop
async def test_connect_of_a_unix_socket(loop, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        client.setblocking(False)
        await loop.sock_connect(client, str(tmp_path / "socket"))
        accepted, _ = listening.accept()
        with accepted:
            await loop.sock_sendall(client, b"over unix")
            assert accepted.recv(100) == b"over unix"


# Errors


@on_loop
async def test_connect_refused(loop):
    with socket.socket() as client, refusing("127.0.0.1") as [address]:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(client, address)
        assert caught.value.errno == errno.ECONNREFUSED
        assert caught.value.strerror == f"Connect call failed {address}"
        assert loop.remove_writer(client) is False


@on_loop
async def test_the_error_of_a_refused_connect_is_held_by_no_future(loop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    try:
        await loop.create_connection(asyncio.Protocol, *address)
    except ConnectionRefusedError as error:
        refused = error
    # The turn that connects may still hold its callback.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not [holder for holder in gc.get_referrers(refused) if asyncio.isfuture(holder)]


@on_loop
async def test_connect_to_a_name_that_does_not_resolve(loop):
    async def getaddrinfo(host, port, **hints):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    loop.getaddrinfo = getaddrinfo
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(socket.gaierror, match="Name or service not known"):
            await loop.sock_connect(client, ("nowhere.test", 1))


@on_loop
async def test_reset_by_the_peer_reaches_the_waiting_receiver(loop):
    with socket_pair() as (near, far):
        waiting = await begun(loop.sock_recv(near, 100))
        reset(far)
        with pytest.raises(ConnectionResetError) as caught:
            await waiting
        assert caught.value.errno == errno.ECONNRESET
        assert loop.remove_reader(near) is False


@on_loop
async def test_reset_by_the_peer_reaches_the_waiting_sender(loop):
    with socket_pair(send_buffer=4096, receive_buffer=4096) as (near, far):
        sending = await begun(loop.sock_sendall(near, PAYLOAD))
        reset(far)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await sending
        assert loop.remove_writer(near) is False


def calls_on(loop, sock):
    """Every sock_* call on `sock`, by name."""
    return {
        "recv": lambda: loop.sock_recv(sock, 10),
        "recv_into": lambda: loop.sock_recv_into(sock, bytearray(10)),
        "recvfrom": lambda: loop.sock_recvfrom(sock, 10),
        "recvfrom_into": lambda: loop.sock_recvfrom_into(sock, bytearray(10)),
        "sendall": lambda: loop.sock_sendall(sock, b"x"),
        "sendto": lambda: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
        "connect": lambda: loop.sock_connect(sock, ("127.0.0.1", 9)),
        "accept": lambda: loop.sock_accept(sock),
    }


CALLS = list(calls_on(None, None))


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_blocking_socket_is_refused_in_debug_mode(loop, name):
    loop.set_debug(True)
    with socket.socket() as sock:
        with pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
            await calls_on(loop, sock)[name]()
        sock.settimeout(1)
        with pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
            await calls_on(loop, sock)[name]()


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_tls_socket_is_refused(loop, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with context.wrap_socket(socket.socket(), do_handshake_on_connect=False) as sock:
        sock.setblocking(False)
        with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
            await calls_on(loop, sock)[name]()


@pytest.mark.parametrize("name", CALLS)
@on_loop
async def test_a_closed_socket_is_a_bad_descriptor(loop, name):
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises(OSError) as caught:
        await calls_on(loop, sock)[name]()
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, sock: loop.sock_sendall(sock, "text"),
        lambda loop, sock: loop.sock_sendall(sock, None),
        lambda loop, sock: loop.sock_recv(sock, "many"),
        lambda loop, sock: loop.sock_recv_into(sock, b"read only"),
        lambda loop, sock: loop.sock_recvfrom(sock, None),
    ],
)
@on_loop
async def test_arguments_of_the_wrong_type(loop, call):
    with socket_pair() as (near, _):
        with pytest.raises(TypeError):
            await call(loop, near)
        assert loop.remove_reader(near) is False
        assert loop.remove_writer(near) is False


@on_loop
async def test_a_negative_count_is_refused(loop):
    with socket_pair() as (near, _):
        with pytest.raises(ValueError, match="negative buffersize in recv"):
            await loop.sock_recv(near, -1)


@on_loop
async def test_a_socket_that_a_transport_owns_is_refused_once_it_would_wait(loop):
    async with wired(loop, Recorder()) as (transport, peer):
        raw = transport.get_extra_info("socket")
        with socket.socket(fileno=os.dup(raw.fileno())) as twin:
            twin.setblocking(False)
            waiting = await begun(loop.sock_recv(twin, 10))
            await cancelled(waiting)
        borrowed = socket.socket(fileno=raw.fileno())
        borrowed.setblocking(False)
        try:
            with pytest.raises(RuntimeError) as caught:
                await loop.sock_recv(borrowed, 10)
            expected = f"File descriptor {borrowed.fileno()} is used by transport "
            assert str(caught.value).startswith(expected)
        finally:
            borrowed.detach()
        peer.send(b"for the transport")
        await until(lambda: transport.get_protocol().received == b"for the transport")


# Cancellation


@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "recvfrom_into"])
@on_loop
async def test_a_cancelled_receive_leaves_nothing_and_takes_nothing(loop, name):
    with socket_pair() as (near, far):
        await cancelled(await begun(calls_on(loop, near)[name]()))
        await asyncio.sleep(0)
        assert loop.remove_reader(near) is False
        far.send(b"kept")
        assert await loop.sock_recv(near, 10) == b"kept"


@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "recvfrom_into"])
@on_loop
async def test_bytes_that_arrive_with_the_cancellation_are_kept(loop, name):
    """The kernel has the bytes already when the task is cancelled, before the loop looks."""
    with socket_pair() as (near, far):
        waiting = await begun(calls_on(loop, near)[name]())
        far.send(b"kept")
        await cancelled(waiting)
        assert await loop.sock_recv(near, 10) == b"kept"
        assert loop.remove_reader(near) is False


@on_loop
async def test_a_cancelled_accept_leaves_the_connection_for_the_next(loop):
    with listener() as listening, socket.socket() as client:
        await cancelled(await begun(loop.sock_accept(listening)))
        await asyncio.sleep(0)
        assert loop.remove_reader(listening) is False
        waiting = await begun(loop.sock_accept(listening))
        client.connect(listening.getsockname())
        await cancelled(waiting)
        accepted, address = await loop.sock_accept(listening)
        with accepted:
            assert address == client.getsockname()


@on_loop
async def test_a_cancelled_sendall_stops_sending(loop):
    with socket_pair(send_buffer=4096, receive_buffer=4096) as (near, far):
        sending = await begun(loop.sock_sendall(near, PAYLOAD))
        await cancelled(sending)
        await asyncio.sleep(0)
        assert loop.remove_writer(near) is False
        near.shutdown(socket.SHUT_WR)
        received = bytearray()
        while data := await loop.sock_recv(far, 65536):
            received += data
        assert 0 < len(received) < len(PAYLOAD)
        assert PAYLOAD.startswith(received)


def full_listener():
    """A listener whose queue is full, with those that fill it: a further connect waits."""
    listening = listener(backlog=0)
    crowd = []
    while len(crowd) < 4:
        client = socket.socket()
        client.setblocking(False)
        assert client.connect_ex(listening.getsockname()) == errno.EINPROGRESS
        crowd.append(client)
    return listening, crowd


@on_loop
async def test_a_cancelled_connect_leaves_nothing(loop):
    listening, crowd = full_listener()
    with contextlib.ExitStack() as stack:
        for sock in (listening, *crowd):
            stack.enter_context(sock)
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        await cancelled(await begun(loop.sock_connect(client, listening.getsockname())))
        await asyncio.sleep(0)
        assert loop.remove_writer(client) is False


@on_loop
async def test_a_reused_number_is_not_disturbed_by_a_cancelled_connect(loop):
    """The socket of a cancelled connect is closed at once and its number taken again."""
    listening, crowd = full_listener()
    with contextlib.ExitStack() as stack:
        for sock in (listening, *crowd):
            stack.enter_context(sock)
        client = socket.socket()
        client.setblocking(False)
        number = client.fileno()
        connecting = await begun(loop.sock_connect(client, listening.getsockname()))
        await cancelled(connecting)
        client.close()
        reused, other = stack.enter_context(pair_at(number))
        receiving = await begun(loop.sock_recv(reused, 100))
        for _ in range(3):
            await asyncio.sleep(0)
        other.send(b"for the successor")
        assert await receiving == b"for the successor"


@on_loop
async def test_a_socket_given_to_a_cancelled_create_connection_is_closed_for_good(loop):
    """The number must not be closed a second time, under whoever has it by then."""
    for turns in range(3):
        near, far = connected_pair()
        with far:
            connecting = loop.create_task(loop.create_connection(Recorder, sock=near))
            for _ in range(turns):
                await asyncio.sleep(0)
            if connecting.done():
                transport, _ = await connecting
                transport.abort()
            else:
                connecting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    transport, _ = await connecting
                    transport.abort()
            if turns == 0:
                near.close()  # The coroutine never began; the socket is still the caller's.
            await until(lambda sock=near: sock.fileno() == -1)
            with socket_pair() as (first, second):
                near.close()
                del near
                assert await loop.sock_recv(far, 10) == b""
                first.send(b"alive")
                assert await loop.sock_recv(second, 10) == b"alive"


@on_loop
async def test_a_timeout_at_every_moment_loses_no_connection(loop):
    """Connects that are given up at once: each socket number goes round many times."""
    with listener() as listening:
        for _ in range(50):
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await loop.sock_connect(client, listening.getsockname())
            client.close()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, listening.getsockname())
            port = client.getsockname()[1]
            while True:
                accepted, address = await loop.sock_accept(listening)
                accepted.close()
                if address[1] == port:
                    break


# Two at once, and descriptors closed while somebody waits


@on_loop
async def test_the_second_receiver_takes_the_place_of_the_first(loop):
    with socket_pair() as (near, far):
        first = await begun(loop.sock_recv(near, 100))
        second = await begun(loop.sock_recv(near, 100))
        far.send(b"once")
        assert await second == b"once"
        assert not first.done()
        third = await begun(loop.sock_recv(near, 100))
        await cancelled(first)
        await asyncio.sleep(0)
        far.send(b"again")
        assert await third == b"again"


@on_loop
async def test_a_receiver_and_a_watcher_of_one_descriptor_replace_each_other(loop):
    with socket_pair() as (near, far):
        calls = []
        loop.add_reader(near, calls.append, None)
        receiving = await begun(loop.sock_recv(near, 100))
        far.send(b"for the receiver")
        assert await receiving == b"for the receiver"
        assert calls == []
        assert loop.remove_reader(near) is False


@on_loop
async def test_closing_the_socket_under_a_receiver_disturbs_nobody(loop):
    """The receiver waits on for ever, as asyncio's does; cancelled, it ends and leaves nothing."""
    with socket_pair() as (near, far):
        number = near.fileno()
        receiving = await begun(loop.sock_recv(near, 100))
        near.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not receiving.done()
        await cancelled(receiving)
        await asyncio.sleep(0)
        assert far.recv(10) == b""
        with pair_at(number) as (reused, other):
            other.send(b"fresh")
            assert await loop.sock_recv(reused, 100) == b"fresh"


@on_loop
async def test_cancelling_after_the_number_was_reused_leaves_the_successor_its_reader(loop):
    with socket_pair() as (near, far):
        number = near.fileno()
        first = await begun(loop.sock_recv(near, 100))
        loop.remove_reader(near)
        near.close()
        with far, pair_at(number) as (reused, other):
            second = await begun(loop.sock_recv(reused, 100))
            await cancelled(first)
            await asyncio.sleep(0)
            other.send(b"still heard")
            assert await second == b"still heard"


@on_loop
async def test_calls_are_coroutines(loop):
    with socket_pair() as (near, _):
        for name, call in calls_on(loop, near).items():
            coroutine = call()
            assert asyncio.iscoroutine(coroutine), name
            coroutine.close()
