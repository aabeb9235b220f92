"""One stream transport: the order of its events, writing, ending, its extra information.

Run by pytest on asyncio and on aioxide.  Flow control, raising protocols, and the ways to open
connections have modules of their own.
"""

import asyncio
import contextvars
import errno
import gc
import logging
import re
import socket
import time
import warnings
from unittest import mock

import pytest
from loopback import (
    BufferedRecorder,
    Recorder,
    closed,
    connected_pair,
    listener,
    on_loop,
    read_exactly,
    read_to_eof,
    reset,
    until,
    wired,
)

LARGE = bytes(range(256)) * 2048  # 512 KiB: more than the socket buffers of these tests take.
SMALL_BUFFERS = {"send_buffer": 4096, "receive_buffer": 4096}

protocols = pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])


# The order of events


@protocols
@on_loop
async def test_events_come_in_order(loop, protocol_class):
    protocol = protocol_class()
    async with wired(loop, protocol) as (transport, peer):
        assert protocol.transport is transport
        assert protocol.events == ["made"]
        peer.send(b"hello world")
        await protocol.has_bytes(11)
        peer.shutdown(socket.SHUT_WR)
        await protocol.has("lost")
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert protocol.received == b"hello world"
        assert protocol.error is None
        assert await loop.sock_recv(peer, 1) == b""


@protocols
@on_loop
async def test_bytes_that_wait_before_the_connection_is_made_come_after_it(loop, protocol_class):
    protocol = protocol_class()
    near, far = connected_pair()
    with far:
        far.send(b"early")
        far.shutdown(socket.SHUT_WR)
        transport, _ = await loop.create_connection(lambda: protocol, sock=near)
        await protocol.has("lost")
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert protocol.received == b"early"
        await closed(transport)


@protocols
@on_loop
async def test_what_was_queued_before_comes_before_bytes_that_came_since(loop, protocol_class):
    protocol = protocol_class()
    async with wired(loop, protocol) as (transport, peer):

        def hold_the_loop():
            # As long as it takes until the kernel is asked while callbacks are ready.
            peer.send(b"x")
            loop.call_soon(lambda: protocol.events.append("queued before"))
            until_later = time.monotonic() + 0.05
            while time.monotonic() < until_later:
                pass

        loop.call_soon(hold_the_loop)
        await protocol.has_bytes(1)
        assert protocol.events == ["made", "queued before", "data"]
        assert not transport.is_closing()


@on_loop
async def test_bytes_reach_the_protocol_that_a_task_made_before_they_came_sets(loop):
    first, second = Recorder(), Recorder()
    async with wired(loop, first) as (transport, peer):

        async def change():
            second.connection_made(transport)
            transport.set_protocol(second)

        peer.send(b"to the first")
        await first.has_bytes(12)
        task = loop.create_task(change())
        peer.send(b"to the second")
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            pass
        await task
        await until(lambda: len(second.received) == 13)
        assert first.received == b"to the first"


@on_loop
async def test_connection_made_has_run_when_create_connection_returns(loop):
    with listener() as listening:
        transport, protocol = await loop.create_connection(Recorder, *listening.getsockname())
        assert protocol.events == ["made"]
        await closed(transport)
        assert protocol.events == ["made", "lost"]


@protocols
@on_loop
async def test_eof_received_that_returns_true_keeps_the_other_half_open(loop, protocol_class):
    protocol = protocol_class(keep_open=True)
    async with wired(loop, protocol) as (transport, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.has("eof")
        assert not transport.is_closing()
        transport.write(b"still here")
        assert await read_exactly(loop, peer, 10) == b"still here"
        transport.close()
        assert await loop.sock_recv(peer, 1) == b""
        await protocol.has("lost")
        assert protocol.events == ["made", "eof", "lost"]


@on_loop
async def test_eof_is_told_once(loop):
    protocol = Recorder(keep_open=True)
    async with wired(loop, protocol) as (transport, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.has("eof")
        transport.pause_reading()
        await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert protocol.events.count("eof") == 1


@on_loop
async def test_eof_flushes_what_was_written_before_it_closes(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.write(LARGE)
        assert transport.get_write_buffer_size() > 0
        peer.shutdown(socket.SHUT_WR)
        await protocol.has("eof")
        assert transport.is_closing()
        assert await read_to_eof(loop, peer) == LARGE
        await protocol.has("lost")
        assert protocol.error is None


@on_loop
async def test_connection_lost_is_never_called_from_within_close_or_abort(loop):
    for end in ("close", "abort"):
        protocol = Recorder()
        async with wired(loop, protocol) as (transport, _):
            getattr(transport, end)()
            assert protocol.events == ["made"]
            assert transport.is_closing()
            await protocol.has("lost")
            assert protocol.error is None


# Writing


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"a memoryview"),
        memoryview(b"a slice of a memoryview")[2:9],
        memoryview(b"of two dimensions!!!").cast("B", (4, 5)),
    ],
    ids=["bytes", "bytearray", "memoryview", "slice", "two dimensions"],
)
@on_loop
async def test_write_takes_every_kind_of_bytes(loop, data):
    async with wired(loop, Recorder()) as (transport, peer):
        assert transport.write(data) is None
        expected = bytes(data)
        assert await read_exactly(loop, peer, len(expected)) == expected
        assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("data", ["text", None, 5, [b"x"], ("x",), object()])
@on_loop
async def test_write_refuses_what_is_not_bytes(loop, data):
    async with wired(loop, Recorder()) as (transport, peer):
        kind = type(data).__name__
        expected = f"^data argument must be a bytes-like object, not '{kind}'$"
        with pytest.raises(TypeError, match=expected):
            transport.write(data)
        transport.write(b"unharmed")
        assert await read_exactly(loop, peer, 8) == b"unharmed"


@on_loop
async def test_a_memoryview_with_gaps_breaks_the_connection(loop, loop_errors):
    protocol = Recorder()
    async with wired(loop, protocol) as (transport, peer):
        transport.write(memoryview(b"abcdef")[::2])
        await protocol.has("lost")
        assert isinstance(protocol.error, BufferError)
        (context,) = loop_errors.take()
        assert context["exception"] is protocol.error
        assert context["message"] == "Fatal write error on socket transport"
        assert await loop.sock_recv(peer, 1) == b""


@on_loop
async def test_write_of_nothing_sends_nothing(loop):
    async with wired(loop, Recorder()) as (transport, peer):
        transport.write(b"")
        transport.write(memoryview(b""))
        assert transport.get_write_buffer_size() == 0
        transport.write(b"x")
        assert await loop.sock_recv(peer, 10) == b"x"


@on_loop
async def test_writes_arrive_in_order_beyond_the_socket_buffer(loop):
    async with wired(loop, Recorder(), **SMALL_BUFFERS) as (transport, peer):
        parts = [bytes([number]) * (1000 + number * 37) for number in range(200)]
        for part in parts:
            transport.write(part)
        assert transport.get_write_buffer_size() > 0
        whole = b"".join(parts)
        assert await read_exactly(loop, peer, len(whole)) == whole
        await until(lambda: transport.get_write_buffer_size() == 0)


@on_loop
async def test_writelines_joins_its_parts(loop):
    async with wired(loop, Recorder()) as (transport, peer):
        transport.writelines([b"bytes ", bytearray(b"bytearray "), memoryview(b"memoryview")])
        assert await read_exactly(loop, peer, 26) == b"bytes bytearray memoryview"
        transport.writelines([])
        transport.writelines(part for part in (b"a ", b"generator"))
        assert await read_exactly(loop, peer, 11) == b"a generator"
        transport.writelines([b"", b"empty ", b"parts", b""])
        assert await read_exactly(loop, peer, 11) == b"empty parts"
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_writelines_beyond_the_socket_buffer(loop):
    async with wired(loop, Recorder(), **SMALL_BUFFERS) as (transport, peer):
        parts = [bytes([number % 256]) * 300 for number in range(3000)]
        transport.write(b"before ")
        transport.writelines(parts)
        transport.write(b" after")
        whole = b"before " + b"".join(parts) + b" after"
        assert await read_exactly(loop, peer, len(whole)) == whole


@pytest.mark.parametrize("parts", [["text"], [b"good", None], 5])
@on_loop
async def test_writelines_refuses_what_is_not_bytes(loop, parts):
    async with wired(loop, Recorder()) as (transport, _):
        with pytest.raises(TypeError):
            transport.writelines(parts)


@on_loop
async def test_write_eof_comes_after_everything_written(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        assert transport.can_write_eof() is True
        transport.write(LARGE)
        transport.write_eof()
        transport.write_eof()
        assert await read_to_eof(loop, peer) == LARGE
        assert not transport.is_closing()
        peer.send(b"answer")
        await protocol.has_bytes(6)
        assert protocol.received == b"answer"


@on_loop
async def test_write_after_write_eof_is_refused(loop, behaves_as):
    async with wired(loop, Recorder()) as (transport, _):
        transport.write_eof()
        with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
            transport.write(b"x")
        name = "writelines" if behaves_as(3, 12) else "write"
        with pytest.raises(RuntimeError, match=rf"^Cannot call {name}\(\) after write_eof\(\)$"):
            transport.writelines([b"x"])


@on_loop
async def test_the_caller_may_write_from_every_callback(loop):
    class Talker(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"made ")

        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"data ")

        def eof_received(self):
            super().eof_received()
            self.transport.write(b"eof ")

        def connection_lost(self, exc):
            self.transport.write(b"lost ")
            super().connection_lost(exc)

    protocol = Talker()
    async with wired(loop, protocol) as (_, peer):
        assert await read_exactly(loop, peer, 5) == b"made "
        peer.send(b"x")
        assert await read_exactly(loop, peer, 5) == b"data "
        peer.shutdown(socket.SHUT_WR)
        assert await read_to_eof(loop, peer) == b"eof "
        await protocol.has("lost")


# Ending


@on_loop
async def test_close_flushes_first(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.write(LARGE)
        transport.close()
        transport.close()
        assert transport.is_closing()
        peer.send(b"not for us any more")
        assert await read_exactly(loop, peer, len(LARGE)) == LARGE
        await protocol.has("lost")
        assert protocol.events.count("lost") == 1
        assert "data" not in protocol.events
        assert protocol.error is None


@on_loop
async def test_abort_drops_what_was_not_sent(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.write(LARGE)
        transport.abort()
        transport.abort()
        transport.close()
        assert transport.get_write_buffer_size() == 0
        received = await read_to_eof(loop, peer)
        assert len(received) < len(LARGE)
        assert LARGE.startswith(received)
        await protocol.has("lost")
        assert protocol.events.count("lost") == 1
        assert protocol.error is None


@on_loop
async def test_abort_ends_a_close_that_cannot_flush(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, _):
        transport.write(LARGE)
        transport.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert "lost" not in protocol.events
        transport.abort()
        await protocol.has("lost")


@on_loop
async def test_every_method_is_harmless_after_the_end(loop, behaves_as):
    protocol = Recorder()
    async with wired(loop, protocol) as (transport, _):
        await closed(transport)
        transport.close()
        transport.abort()
        transport.write(b"into the void")
        if behaves_as(3, 14):
            transport.writelines([b"into the void"])
        transport.write_eof()
        transport.pause_reading()
        transport.resume_reading()
        assert transport.is_closing()
        assert not transport.is_reading()
        assert transport.get_write_buffer_size() == 0
        assert protocol.events == ["made", "lost"]


@on_loop
async def test_writes_after_the_end_are_dropped_and_at_last_complained_of(loop, caplog):
    async with wired(loop, Recorder()) as (transport, peer):
        transport.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(10):
                transport.write(b"late")
        complaints = [record.getMessage() for record in caplog.records]
        assert complaints == ["socket.send() raised exception."] * 6
        assert await read_to_eof(loop, peer) == b""


@on_loop
async def test_a_reset_reaches_connection_lost(loop):
    protocol = Recorder()
    async with wired(loop, protocol) as (transport, peer):
        reset(peer)
        await protocol.has("lost")
        assert isinstance(protocol.error, ConnectionResetError)
        assert protocol.error.errno == errno.ECONNRESET
        assert protocol.events == ["made", "lost"]
        assert transport.is_closing()


@on_loop
async def test_bytes_before_a_reset_are_delivered(loop):
    protocol = Recorder()
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"last words")
        reset(peer)
        await protocol.has("lost")
        assert isinstance(protocol.error, ConnectionResetError)
        assert protocol.received == b"last words"


@on_loop
async def test_a_reset_while_bytes_wait_to_be_written(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.pause_reading()
        transport.write(LARGE)
        reset(peer)
        await protocol.has("lost")
        assert isinstance(protocol.error, (ConnectionResetError, BrokenPipeError))
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_writing_to_a_peer_that_is_gone(loop):
    protocol = Recorder(keep_open=True)
    async with wired(loop, protocol) as (transport, peer):
        peer.close()
        await protocol.has("eof")
        transport.write(b"the first is answered by a reset")

        def broken():
            transport.write(b"x")
            return "lost" in protocol.events

        await until(broken)
        assert isinstance(protocol.error, (ConnectionResetError, BrokenPipeError))


def test_a_transport_left_open_is_warned_about(loop):
    near, far = connected_pair()
    with far:
        transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=near))
        loop.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            protocol.transport = None
            del transport, protocol, near
            gc.collect()
        assert any(
            warning.category is ResourceWarning
            and re.match(r"unclosed transport <.*fd=\d+", str(warning.message))
            for warning in caught
        )
        far.setblocking(True)
        assert far.recv(1) == b""


# What a transport is


@on_loop
async def test_a_transport_is_an_asyncio_transport(loop):
    async with wired(loop, Recorder()) as (transport, _):
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.BaseTransport)
        assert not isinstance(transport, asyncio.DatagramTransport)


@on_loop
async def test_extra_information(loop):
    async with wired(loop, Recorder()) as (transport, peer):
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.fileno() >= 0
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM
        assert sock.getpeername() == peer.getsockname()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert transport.get_extra_info("peername") == peer.getsockname()
        assert transport.get_extra_info("sockname") == peer.getpeername()
        assert transport.get_extra_info("no such thing") is None
        assert transport.get_extra_info("no such thing", "default") == "default"
        assert transport.get_extra_info("sslcontext") is None
        await closed(transport)
        assert transport.get_extra_info("socket") is sock
        assert transport.get_extra_info("peername") == peer.getsockname()


@on_loop
async def test_extra_information_over_ipv6(loop):
    with listener("::1") as listening:
        host, port, *_ = listening.getsockname()
        transport, _ = await loop.create_connection(Recorder, host, port)
        assert transport.get_extra_info("peername") == (host, port, 0, 0)
        assert len(transport.get_extra_info("sockname")) == 4
        await closed(transport)


@on_loop
async def test_repr_tells_the_state(loop):
    async with wired(loop, Recorder(), **SMALL_BUFFERS) as (transport, _):
        number = transport.get_extra_info("socket").fileno()
        idle = rf"^<\w+ fd={number} read=polling write=<idle, bufsize=0>>$"
        assert re.match(idle, repr(transport))
        transport.pause_reading()
        transport.write(LARGE)
        size = transport.get_write_buffer_size()
        busy = rf"^<\w+ fd={number} read=idle write=<polling, bufsize={size}>>$"
        assert re.match(busy, repr(transport))
        transport.close()
        assert re.match(rf"^<\w+ closing fd={number} read=idle write=<polling", repr(transport))
        await closed(transport)
        assert re.match(rf"^<\w+ closed fd={number}>$", repr(transport))


@on_loop
async def test_attributes_can_be_assigned(loop):
    async with wired(loop, Recorder()) as (transport, peer):
        transport.note = "anything"
        assert transport.note == "anything"
        with mock.patch.object(transport, "write") as write:
            transport.write(b"into the mock")
        write.assert_called_once_with(b"into the mock")
        transport.write(b"for real")
        assert await read_exactly(loop, peer, 8) == b"for real"


# The protocol


@protocols
@on_loop
async def test_protocol_methods_replaced_later_are_seen(loop, protocol_class):
    protocol = protocol_class()
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"one")
        await protocol.has_bytes(3)
        seen = []
        if protocol_class is Recorder:
            protocol.data_received = seen.append
        else:
            protocol.buffer_updated = lambda count: seen.append(bytes(protocol.lent[:count]))
        protocol.eof_received = lambda: seen.append("eof")
        protocol.connection_lost = seen.append
        peer.send(b"two")
        await until(lambda: seen)
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(seen) == 3)
        assert seen == [b"two", "eof", None]


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
@on_loop
async def test_the_protocol_can_be_exchanged(loop, first, second):
    before, after = first(), second()
    async with wired(loop, before) as (transport, peer):
        assert transport.get_protocol() is before
        peer.send(b"one")
        await before.has_bytes(3)
        assert transport.set_protocol(after) is None
        assert transport.get_protocol() is after
        after.events.append("set")
        peer.send(b"two")
        await after.has_bytes(3)
        peer.shutdown(socket.SHUT_WR)
        await after.has("lost")
        assert before.events == ["made", "data"]
        assert after.events == ["set", "data", "eof", "lost"]
        assert (before.received, after.received) == (b"one", b"two")


@on_loop
async def test_the_protocol_can_be_exchanged_from_within_data_received(loop):
    """As a server does that is asked to upgrade to another protocol."""
    after = BufferedRecorder()

    class Upgrading(Recorder):
        def data_received(self, data):
            super().data_received(data)
            after.events.append("set")
            self.transport.set_protocol(after)

    before = Upgrading()
    async with wired(loop, before) as (transport, peer):
        peer.send(b"one")
        await before.has_bytes(3)
        peer.send(b"two, which is longer than the buffer")
        await after.has_bytes(36)
        assert before.received == b"one"
        assert after.received == b"two, which is longer than the buffer"
        assert transport.get_protocol() is after


@on_loop
async def test_a_protocol_needs_no_base_class(loop):
    class Bare:
        def __init__(self):
            self.seen = []

        def connection_made(self, transport):
            self.seen.append("made")

        def data_received(self, data):
            self.seen.append(data)

        def eof_received(self):
            self.seen.append("eof")

        def connection_lost(self, exc):
            self.seen.append(exc)

    bare = Bare()
    async with wired(loop, bare) as (_, peer):
        peer.send(b"data")
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(bare.seen) == 4)
        assert bare.seen == ["made", b"data", "eof", None]


@on_loop
async def test_callbacks_see_the_context_that_opened_the_connection(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = {}

    class Observer(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen["made"] = variable.get()

        def data_received(self, data):
            super().data_received(data)
            seen["data"] = variable.get()

        def eof_received(self):
            super().eof_received()
            seen["eof"] = variable.get()

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen["lost"] = variable.get()

    protocol = Observer()
    variable.set("at creation")
    async with wired(loop, protocol) as (_, peer):
        variable.set("later")
        peer.send(b"x")
        await protocol.has_bytes(1)
        peer.shutdown(socket.SHUT_WR)
        await protocol.has("lost")
    assert seen == dict.fromkeys(("made", "data", "eof", "lost"), "at creation")


@on_loop
async def test_closing_from_within_data_received_stops_the_stream(loop):
    class Once(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    protocol = Once()
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"one")
        await protocol.has_bytes(3)
        assert await loop.sock_recv(peer, 1) == b""
        await protocol.has("lost")
        assert protocol.events == ["made", "data", "lost"]


@on_loop
async def test_data_for_an_aborted_transport_reaches_nobody(loop):
    protocol = Recorder()
    async with wired(loop, protocol) as (transport, peer):
        peer.send(b"too late")
        transport.abort()
        await protocol.has("lost")
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.events == ["made", "lost"]
        assert protocol.received == b""
