"""Protocols that raise: the connection ends, connection_lost is told, the process lives.

Run by pytest on asyncio and on aioxide.  Each kind of callback raises once, in each kind of
protocol, with an ordinary error and with those that must leave the loop.
"""

import array
import asyncio
import gc
import mmap
import warnings

import pytest
from loopback import (
    DEADLINE,
    BufferedRecorder,
    Recorder,
    closed,
    connected_pair,
    listener,
    on_loop,
    read_to_eof,
    read_to_the_end,
    until,
    wired,
)


class Failure(Exception):
    """What the protocols here raise."""


def raising(error):
    def fail(*arguments):
        raise error

    return fail


@pytest.mark.parametrize(
    ("protocol_class", "method", "trigger"),
    [
        (Recorder, "data_received", "data"),
        (Recorder, "eof_received", "eof"),
        (BufferedRecorder, "get_buffer", "data"),
        (BufferedRecorder, "buffer_updated", "data"),
        (BufferedRecorder, "eof_received", "eof"),
    ],
)
@on_loop
async def test_an_error_while_receiving_ends_the_connection(
    loop, loop_errors, protocol_class, method, trigger
):
    failure = Failure(method)
    protocol = protocol_class()
    setattr(protocol, method, raising(failure))
    async with wired(loop, protocol) as (transport, peer):
        if trigger == "data":
            peer.send(b"x")
        else:
            peer.shutdown(1)
        await protocol.has("lost")
        assert protocol.error is failure
        assert protocol.events == ["made", "lost"]
        assert transport.is_closing()
        (context,) = loop_errors.take()
        assert context["exception"] is failure
        assert context["message"] == f"Fatal error: protocol.{method}() call failed."
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert await read_to_the_end(loop, peer) == b""


@on_loop
async def test_what_waits_to_be_written_is_dropped_when_the_protocol_fails(loop, loop_errors):
    payload = b"x" * 500_000
    protocol = Recorder()
    protocol.data_received = raising(Failure())
    async with wired(loop, protocol, send_buffer=4096, receive_buffer=4096) as (transport, peer):
        transport.write(payload)
        peer.send(b"x")
        await protocol.has("lost")
        assert len(loop_errors.take()) == 1
        assert len(await read_to_the_end(loop, peer)) < len(payload)


@pytest.mark.parametrize(
    ("buffer", "kind"),
    [
        (bytearray(), RuntimeError),
        (memoryview(b""), RuntimeError),
        (b"read only", (TypeError, BufferError)),
        (memoryview(b"read only"), (TypeError, BufferError)),
        (None, TypeError),
        ("text", TypeError),
        (7, TypeError),
    ],
)
@on_loop
async def test_a_buffer_that_will_not_do_ends_the_connection(loop, loop_errors, buffer, kind):
    protocol = BufferedRecorder()
    protocol.get_buffer = lambda sizehint: buffer
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"x")
        await protocol.has("lost")
        assert isinstance(protocol.error, kind)
        (context,) = loop_errors.take()
        assert context["exception"] is protocol.error
        if kind is RuntimeError:
            assert str(protocol.error) == "get_buffer() returned an empty buffer"


@on_loop
async def test_any_writable_buffer_will_do(loop):
    protocol = BufferedRecorder()
    async with wired(loop, protocol) as (_, peer):
        with mmap.mmap(-1, 4096) as mapped:
            buffers = (
                bytearray(50),
                memoryview(bytearray(50))[5:],
                array.array("B", b"." * 9),
                mapped,
            )
            for buffer in buffers:
                taken = []

                def updated(count, buffer=buffer, taken=taken):
                    taken.append(bytes(memoryview(buffer)[:count]))

                protocol.get_buffer = lambda sizehint, buffer=buffer: buffer
                protocol.buffer_updated = updated
                peer.send(b"content")
                await until(lambda taken=taken: taken)
                assert taken == [b"content"]


@on_loop
async def test_an_error_in_connection_made_is_reported_and_the_transport_can_be_ended(
    loop, loop_errors
):
    failure = Failure("made")

    class Broken(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise failure

    protocol = Broken()
    async with wired(loop, protocol) as (_, peer):
        await until(lambda: loop_errors)
        (context,) = loop_errors.take()
        assert context["exception"] is failure
        assert "connection_made" in context["message"]
        protocol.transport.abort()
        await protocol.has("lost")
        assert protocol.events == ["made", "lost"]
        assert await read_to_the_end(loop, peer) == b""


@on_loop
async def test_an_error_in_connection_lost_is_reported_and_the_socket_closed(loop, loop_errors):
    failure = Failure("lost")
    protocol = Recorder()
    protocol.connection_lost = raising(failure)
    async with wired(loop, protocol) as (transport, peer):
        transport.close()
        assert await loop.sock_recv(peer, 1) == b""
        await until(lambda: loop_errors)
        (context,) = loop_errors.take()
        assert context["exception"] is failure
        assert "connection_lost" in context["message"]
        assert transport.get_extra_info("socket").fileno() == -1


@on_loop
async def test_a_protocol_that_fails_twice_is_reported_twice(loop, loop_errors):
    protocol = Recorder()
    protocol.data_received = raising(Failure("first"))
    protocol.connection_lost = raising(Failure("second"))
    async with wired(loop, protocol) as (transport, peer):
        peer.send(b"x")
        sock = transport.get_extra_info("socket")
        await until(lambda: sock.fileno() == -1)
        told = [str(context["exception"]) for context in loop_errors.take()]
        assert told == ["first", "second"]


@on_loop
async def test_a_missing_method_is_an_error_like_any_other(loop, loop_errors):
    class Deaf:
        lost = "not yet"

        def connection_made(self, transport):
            pass

        def connection_lost(self, exc):
            self.lost = exc

    protocol = Deaf()
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"x")
        await until(lambda: protocol.lost != "not yet")
        assert isinstance(protocol.lost, AttributeError)
        (context,) = loop_errors.take()
        assert context["exception"] is protocol.lost


@on_loop
async def test_an_oserror_of_the_protocol_ends_the_connection_without_a_report(loop):
    """asyncio takes every OSError for a fault of the network."""
    failure = OSError("from the protocol")
    protocol = Recorder()
    protocol.data_received = raising(failure)
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"x")
        await protocol.has("lost")
        assert protocol.error is failure


@on_loop
async def test_a_cancellation_raised_by_a_protocol_is_an_error_like_any_other(loop, loop_errors):
    protocol = Recorder()
    protocol.data_received = raising(asyncio.CancelledError())
    async with wired(loop, protocol) as (_, peer):
        peer.send(b"x")
        await protocol.has("lost")
        assert isinstance(protocol.error, asyncio.CancelledError)
        assert len(loop_errors.take()) == 1


# What leaves the loop


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("protocol_class", "method", "trigger"),
    [
        (Recorder, "data_received", "data"),
        (Recorder, "eof_received", "eof"),
        (Recorder, "connection_lost", "abort"),
        (Recorder, "pause_writing", "write"),
        (BufferedRecorder, "get_buffer", "data"),
        (BufferedRecorder, "buffer_updated", "data"),
    ],
)
def test_exits_leave_run_forever_and_the_loop_can_go_on(
    loop, protocol_class, method, trigger, kind
):
    failure = kind("enough")
    near, far = connected_pair(send_buffer=4096, receive_buffer=4096)
    with far:
        transport, protocol = loop.run_until_complete(
            loop.create_connection(protocol_class, sock=near)
        )
        setattr(protocol, method, raising(failure))
        act = {
            "data": lambda: far.send(b"x"),
            "eof": lambda: far.shutdown(1),
            "abort": transport.abort,
            "write": lambda: transport.write(b"x" * 500_000),
        }
        loop.call_soon(act[trigger])
        with pytest.raises(kind, match="enough"):
            loop.run_forever()
        assert not loop.is_running()
        if method != "connection_lost":
            delattr(protocol, method)
        loop.run_until_complete(asyncio.wait_for(closed(transport), DEADLINE))


# Factories


@on_loop
async def test_an_error_of_a_client_factory_reaches_the_caller(loop):
    failure = Failure("factory")
    with listener() as listening:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                await loop.create_connection(raising(failure), *listening.getsockname())
            except Failure as error:
                assert error is failure
                error.__traceback__ = None
            else:
                pytest.fail("the error of the factory was lost")
            gc.collect()
        accepted, _ = await loop.sock_accept(listening)
        with accepted:
            assert await loop.sock_recv(accepted, 1) == b""


@on_loop
async def test_an_error_of_a_server_factory_closes_the_connection_and_is_told_in_debug_mode(
    loop, loop_errors
):
    loop.set_debug(True)
    failure = Failure("factory")
    server = await loop.create_server(raising(failure), "127.0.0.1", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: loop_errors)
        (context,) = loop_errors.take()
        assert context["exception"] is failure
        expected = "Error on transport creation for incoming connection"
        assert context["message"] == expected
        failure.__traceback__ = None
        del context
        gc.collect()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_a_server_survives_protocols_that_fail(loop, loop_errors):
    made = []

    class Moody(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)

        def data_received(self, data):
            if data == b"fail":
                raise Failure
            self.transport.write(data)

    server = await loop.create_server(Moody, "127.0.0.1", 0)
    for payload in (b"fail", b"good", b"fail", b"good"):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(payload)
        if payload == b"good":
            assert await reader.readexactly(4) == b"good"
        else:
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert [type(context["exception"]) for context in loop_errors.take()] == [Failure, Failure]
    await until(lambda: all(protocol.events[-1] == "lost" for protocol in made))


@on_loop
async def test_a_start_server_handler_that_raises_while_its_client_still_sends(loop, loop_errors):
    """The transport is gone when the next bytes come: they must reach nobody."""

    async def handle(reader, writer):
        await reader.readexactly(1)
        writer.transport.abort()
        raise Failure

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 100_000)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while True:
                writer.write(b"more")
                await writer.drain()
                await reader.readexactly(1)
        writer.transport.abort()
    server.close()
    await server.wait_closed()
    await until(lambda: len(loop_errors) == 10)
    assert {type(context["exception"]) for context in loop_errors.take()} == {Failure}


@on_loop
async def test_garbage_for_a_failing_protocol_never_stops_the_others(loop, loop_errors):
    """A hundred connections, every third of which fails while bytes still come for it."""

    class Third(Recorder):
        number = 0

        def data_received(self, data):
            if self.number % 3 == 0:
                raise Failure
            super().data_received(data)

    pairs = [connected_pair() for _ in range(100)]
    protocols = []
    for number, (near, _) in enumerate(pairs):
        _, protocol = await loop.create_connection(Third, sock=near)
        protocol.number = number
        protocols.append(protocol)
    for _, far in pairs:
        far.send(b"some bytes")
    for number, protocol in enumerate(protocols):
        if number % 3 == 0:
            await protocol.has("lost")
        else:
            await protocol.has_bytes(10)
    assert len(loop_errors.take()) == 34
    for protocol, (_, far) in zip(protocols, pairs, strict=True):
        far.close()
        await protocol.has("lost")


@on_loop
async def test_reading_everything_after_a_failure_yields_only_what_was_sent(loop, loop_errors):
    protocol = Recorder()
    protocol.eof_received = raising(Failure())
    async with wired(loop, protocol) as (transport, peer):
        transport.write(b"sent before")
        peer.shutdown(1)
        assert await read_to_eof(loop, peer) == b"sent before"
        await protocol.has("lost")
        assert len(loop_errors.take()) == 1
