"""Pipe transports: FIFOs, sockets and terminals; both ends, their limits, and how they end.

Run by pytest on asyncio and on aioxide. Nothing here starts a process.
"""

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import pty
import socket
import termios
import tty
import weakref

import pytest
from loopback import Recorder, on_loop, until

import aioxide

LARGE = bytes(range(256)) * 4096  # 1 MiB: more than any pipe holds


def raw(file, mode):
    """An unbuffered file of a descriptor or path."""
    return open(file, mode, buffering=0)


@contextlib.asynccontextmanager
async def reading(loop, protocol=None):
    """A read transport, its protocol, and the descriptor that feeds it."""
    protocol = protocol or Recorder()
    out, into = os.pipe()
    with raw(into, "wb") as feed:
        transport, made = await loop.connect_read_pipe(lambda: protocol, raw(out, "rb"))
        assert made is protocol
        try:
            yield transport, protocol, feed
        finally:
            transport.close()
            await protocol.has("lost")


@contextlib.asynccontextmanager
async def writing(loop, protocol=None):
    """A write transport, its protocol, and the file that what it writes comes out of."""
    protocol = protocol or Recorder()
    out, into = os.pipe()
    with raw(out, "rb") as sink:
        os.set_blocking(out, False)
        transport, made = await loop.connect_write_pipe(lambda: protocol, raw(into, "wb"))
        assert made is protocol
        try:
            yield transport, protocol, sink
        finally:
            if "lost" not in protocol.events:
                transport.abort()
            await until(lambda: transport._pipe is None)


async def drained(sink, count):
    """The next `count` bytes out of a pipe, while the loop turns."""
    received = bytearray()
    while len(received) < count:
        data = sink.read(65536)
        assert data != b"", "the pipe ended early"
        if data is None:
            await asyncio.sleep(0)
        else:
            received += data
    return bytes(received)


def lent_terminal():
    """The two descriptors of a terminal that passes bytes on as they are."""
    master, slave = pty.openpty()
    tty.setraw(slave, termios.TCSANOW)
    return master, slave


# What may be a pipe


@pytest.mark.parametrize(
    ("method", "mode", "message"),
    [
        ("connect_read_pipe", "rb", "^Pipe transport is for pipes/sockets only.$"),
        (
            "connect_write_pipe",
            "wb",
            "^Pipe transport is only for pipes, sockets and character devices$",
        ),
    ],
)
def test_a_regular_file_is_refused_and_stays_the_programs(loop, tmp_path, method, mode, message):
    path = tmp_path / "regular"
    path.write_bytes(b"content")
    with open(path, mode) as regular:
        with pytest.raises(ValueError, match=message):
            loop.run_until_complete(getattr(loop, method)(Recorder, regular))
        assert not regular.closed


def test_a_failing_factory_leaves_the_file_alone(loop):
    out, into = os.pipe()
    with open(out, "rb") as pipe, open(into, "wb"):
        with pytest.raises(ZeroDivisionError):
            loop.run_until_complete(loop.connect_read_pipe(lambda: 1 / 0, pipe))
        assert not pipe.closed


@on_loop
async def test_transports_are_asyncios_in_name(loop):
    async with reading(loop) as (transport, _, _):
        assert isinstance(transport, asyncio.ReadTransport)
        assert not isinstance(transport, asyncio.WriteTransport)
    async with writing(loop) as (transport, _, _):
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.Transport)


@on_loop
async def test_names_that_tests_look_at(loop):
    async with reading(loop) as (transport, protocol, _):
        pipe = transport.get_extra_info("pipe")
        assert transport._pipe is pipe
        assert transport._fileno == pipe.fileno()
        assert transport._loop is loop
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("socket", "none") == "none"
        assert transport._closing is transport.is_closing() is False
    assert (transport._pipe, transport._loop, transport._closing) == (None, None, True)
    assert transport.get_protocol() is None
    assert transport.get_extra_info("pipe") is pipe and pipe.closed
    async with writing(loop) as (transport, _, _):
        assert (transport._buffer, transport._conn_lost) == (b"", 0)
        assert transport.can_write_eof() is True


@on_loop
async def test_attributes_can_be_replaced_and_referred_to_weakly(loop):
    async with writing(loop) as (transport, _, _):
        written = []
        transport.write = written.append
        transport.write(b"to nowhere")
        assert written == [b"to nowhere"]
        assert weakref.ref(transport)() is transport


@on_loop
async def test_the_representation_says_what_the_pipe_does(loop):
    async with reading(loop) as (transport, _, _):
        assert f"fd={transport._fileno} polling" in repr(transport)
        transport.pause_reading()
        assert "idle" in repr(transport)
    assert "closed" in repr(transport)
    async with writing(loop) as (transport, _, _):
        assert "idle bufsize=0" in repr(transport)
        transport.write(LARGE)
        assert f"polling bufsize={transport.get_write_buffer_size()}" in repr(transport)
        transport.write_eof()
        assert "closing" in repr(transport)


# Reading


@on_loop
async def test_reading_tells_the_protocol_everything_in_order(loop):
    async with reading(loop) as (_, protocol, feed):
        feed.write(b"1234")
        await protocol.has_bytes(4)
        feed.write(b"56")
        await protocol.has_bytes(6)
        feed.close()
        await protocol.has("lost")
    assert protocol.received == b"123456"
    assert protocol.events == ["made", "data", "eof", "lost"]
    assert protocol.error is None


@on_loop
async def test_what_is_in_a_pipe_is_read_before_its_end(loop):
    out, into = os.pipe()
    os.write(into, b"x" * 50000)
    os.close(into)
    transport, protocol = await loop.connect_read_pipe(Recorder, raw(out, "rb"))
    await protocol.has("lost")
    assert protocol.received == b"x" * 50000
    assert transport.is_closing()


@on_loop
async def test_an_end_is_the_end_although_the_protocol_would_stay(loop):
    async with reading(loop, Recorder(keep_open=True)) as (_, protocol, feed):
        feed.close()
        await protocol.has("lost")


@on_loop
async def test_paused_reading_leaves_bytes_in_the_pipe(loop):
    async with reading(loop) as (transport, protocol, feed):
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        feed.write(b"later")
        feed.close()
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert protocol.events == ["made"]
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await protocol.has("lost")
        assert protocol.received == b"later"
        assert not transport.is_reading()
        transport.pause_reading()
        transport.resume_reading()


@on_loop
async def test_reading_paused_before_it_began_stays_paused(loop):
    class Pausing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with reading(loop, Pausing()) as (transport, protocol, feed):
        feed.write(b"x")
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert protocol.received == b""
        transport.resume_reading()
        await protocol.has_bytes(1)


@on_loop
async def test_another_protocol_takes_over(loop):
    async with reading(loop) as (transport, first, feed):
        second = Recorder()
        second.events.append("given")
        feed.write(b"1")
        await first.has_bytes(1)
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        feed.write(b"2")
        await second.has_bytes(1)
        transport.close()
        await second.has("lost")
        first.events.append("lost")
    assert (first.received, second.received) == (b"1", b"2")


@on_loop
async def test_a_failing_protocol_is_reported_and_goes_on(loop, loop_errors):
    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError

    async with reading(loop, Failing()) as (transport, protocol, feed):
        for count in (1, 2):
            feed.write(b"x")
            await protocol.has_bytes(count)
        await until(lambda: len(loop_errors) == 2)
        assert not transport.is_closing()
    assert [type(it["exception"]) for it in loop_errors.take()] == [ZeroDivisionError] * 2


@pytest.mark.parametrize("method", ["connection_made", "eof_received", "connection_lost"])
@on_loop
async def test_a_failing_method_leaves_nothing_open(loop, loop_errors, method):
    def fail(self, *args):
        getattr(Recorder, method)(self, *args)
        raise ZeroDivisionError

    protocol = type("Failing", (Recorder,), {method: fail})()
    async with reading(loop, protocol) as (transport, _, feed):
        feed.close()
        await protocol.has("lost")
    await until(lambda: transport._pipe is None)
    (context,) = loop_errors.take()
    assert type(context["exception"]) is ZeroDivisionError


@on_loop
async def test_a_stream_reader_reads_a_pipe_to_its_end(loop):
    out, into = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), raw(out, "rb")
    )
    with raw(into, "wb") as feed:
        feed.write(b"line\nrest")
    assert await reader.readline() == b"line\n"
    assert await reader.read() == b"rest"
    await until(lambda: transport._pipe is None)


# Writing


@on_loop
async def test_writing_is_tried_at_once(loop):
    async with writing(loop) as (transport, protocol, sink):
        for data in (b"bytes ", bytearray(b"array "), memoryview(b"xviewx")[1:-1], b""):
            transport.write(data)
        assert sink.read(100) == b"bytes array view"
        transport.writelines([b"1", bytearray(b"2"), memoryview(b"3"), b""])
        assert sink.read(100) == b"123"
        assert transport.get_write_buffer_size() == 0
        assert protocol.events == ["made"]


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
@on_loop
async def test_what_is_no_bytes_is_refused(loop, data):
    async with writing(loop) as (transport, _, sink):
        with pytest.raises((TypeError, AssertionError)):
            transport.write(data)
        assert sink.read(1) is None


@on_loop
async def test_a_full_pipe_slows_the_writer_and_keeps_every_byte(loop):
    async with writing(loop) as (transport, protocol, sink):
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        changeable = bytearray(LARGE)
        transport.write(changeable)
        changeable[:] = b"!" * len(changeable)
        transport.writelines([b"tail", b"end"])
        assert protocol.events == ["made", "pause"]
        assert transport.get_write_buffer_size() > 1000
        assert transport._buffer.endswith(b"tailend")
        assert await drained(sink, len(LARGE) + 7) == LARGE + b"tailend"
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert protocol.events == ["made", "pause", "resume"]


@on_loop
async def test_impossible_limits_are_refused(loop):
    async with writing(loop) as (transport, _, _):
        with pytest.raises(ValueError, match=r"^high \(1\) must be >= low \(2\) must be >= 0$"):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.get_write_buffer_limits() == (16384, 65536)


@pytest.mark.parametrize("how", ["close", "write_eof"])
@on_loop
async def test_closing_sends_what_is_buffered_first(loop, how):
    async with writing(loop) as (transport, protocol, sink):
        transport.write(LARGE)
        getattr(transport, how)()
        assert transport.is_closing()
        transport.write(b"too late")
        assert await drained(sink, len(LARGE)) == LARGE
        await protocol.has("lost")
        assert sink.read(1) == b""
    assert protocol.error is None


@on_loop
async def test_abort_drops_what_is_buffered(loop):
    async with writing(loop) as (transport, protocol, sink):
        transport.write(LARGE)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        await protocol.has("lost")
        received = len(await drained(sink, 1))
        while data := sink.read(65536):
            received += len(data)
        assert received < len(LARGE)
    assert protocol.events == ["made", "pause", "lost"]
    assert protocol.error is None


@on_loop
async def test_a_reader_that_goes_away_is_noticed_without_a_write(loop):
    async with writing(loop) as (transport, protocol, sink):
        sink.close()
        await protocol.has("lost")
        assert transport.is_closing()
    assert protocol.error is None


@on_loop
async def test_a_reader_that_goes_away_from_unsent_bytes_is_a_broken_pipe(loop):
    async with writing(loop) as (transport, protocol, sink):
        transport.write(LARGE)
        sink.close()
        await protocol.has("lost")
        assert transport.get_write_buffer_size() == 0
    assert type(protocol.error) is BrokenPipeError


@on_loop
async def test_a_write_that_finds_no_reader_is_a_broken_pipe(loop, caplog):
    async with writing(loop) as (transport, protocol, sink):
        sink.close()
        transport.write(b"x")
        assert transport.is_closing()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(6):
                transport.write(b"x")
        await protocol.has("lost")
    assert type(protocol.error) is BrokenPipeError
    words = "pipe closed by peer or os.write(pipe, data) raised exception."
    assert caplog.messages == [words, words]
    assert transport._conn_lost == 7


@on_loop
async def test_a_stream_writer_drains_into_a_pipe(loop):
    out, into = os.pipe()
    with raw(out, "rb") as sink:
        os.set_blocking(out, False)
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, raw(into, "wb")
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        writer.write(LARGE)
        draining = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        assert await drained(sink, len(LARGE)) == LARGE
        await draining
        writer.write(LARGE)
        draining = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        draining = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        sink.close()
        with pytest.raises(BrokenPipeError):
            await draining
    await until(lambda: transport._pipe is None)


# Sockets and terminals


@on_loop
async def test_sockets_are_pipes_too(loop):
    near, far = socket.socketpair()
    with far:
        far.setblocking(False)
        transport, protocol = await loop.connect_write_pipe(Recorder, raw(near.detach(), "wb"))
        transport.write(b"by socket")
        assert far.recv(100) == b"by socket"
        far.close()
        await protocol.has("lost")
    assert protocol.events == ["made", "lost"]


@on_loop
async def test_a_terminal_carries_both_directions(loop):
    master, slave = lent_terminal()
    with raw(master, "r+b") as far:
        read, reads = await loop.connect_read_pipe(Recorder, raw(os.dup(slave), "rb"))
        write, writes = await loop.connect_write_pipe(Recorder, raw(slave, "wb"))
        write.write(b"out")
        assert far.read(100) == b"out"
        far.write(b"in")
        await reads.has_bytes(2)
        assert reads.received == b"in"
        write.close()
        read.close()
        await reads.has("lost")
        await writes.has("lost")


@on_loop
async def test_one_descriptor_of_a_terminal_carries_both_directions(loop):
    """Both transports wait for the same number: a full one for room, the other for bytes."""
    master, slave = lent_terminal()
    with raw(slave, "r+b") as far:
        os.set_blocking(slave, False)
        both = raw(master, "r+b")
        read, reads = await loop.connect_read_pipe(Recorder, both)
        write, writes = await loop.connect_write_pipe(Recorder, both)
        write.write(LARGE[:200_000])
        assert write.get_write_buffer_size() > 0
        far.write(b"in")
        await reads.has_bytes(2)
        assert await drained(far, 200_000) == LARGE[:200_000]
        await until(lambda: write.get_write_buffer_size() == 0)
        far.write(b"more")
        await reads.has_bytes(6)
        write.close()
        read.close()
        await reads.has("lost")
        await writes.has("lost")


@on_loop
async def test_a_terminal_that_hangs_up_ends_quietly(loop):
    master, slave = lent_terminal()
    _, protocol = await loop.connect_read_pipe(Recorder, raw(master, "rb"))
    os.close(slave)
    await protocol.has("lost")
    assert isinstance(protocol.error, OSError)
    assert protocol.events == ["made", "lost"]


@on_loop
async def test_a_device_that_takes_everything_can_be_written_to(loop):
    transport, protocol = await loop.connect_write_pipe(Recorder, raw(os.devnull, "wb"))
    transport.write(LARGE)
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.has("lost")


# Ends


@on_loop
async def test_closing_twice_tells_once(loop):
    async with reading(loop) as (transport, protocol, _):
        transport.close()
        transport.close()
        await protocol.has("lost")
    async with writing(loop) as (transport, protocol, _):
        transport.close()
        transport.close()
        await protocol.has("lost")
    assert protocol.events == ["made", "lost"]


@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
@on_loop
async def test_a_cancelled_connect_closes_the_pipe(loop, method):
    mine, theirs = os.pipe() if method == "connect_read_pipe" else reversed(os.pipe())
    pipe = raw(mine, "rb" if method == "connect_read_pipe" else "wb")
    protocol = Recorder()
    connecting = asyncio.ensure_future(getattr(loop, method)(lambda: protocol, pipe))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await protocol.has("lost")
    await until(lambda: pipe.closed)
    assert protocol.events == ["made", "lost"]
    os.close(theirs)


def test_an_unclosed_transport_warns_and_closes_its_file(namespace, new_loop):
    for connect, mode in (("connect_read_pipe", "rb"), ("connect_write_pipe", "wb")):
        loop = new_loop()
        out, into = os.pipe()
        mine, theirs = (out, into) if mode == "rb" else (into, out)
        pipe = raw(mine, mode)
        transport, _ = loop.run_until_complete(getattr(loop, connect)(asyncio.Protocol, pipe))
        loop.close()
        assert "open" in repr(transport)
        del loop
        with pytest.warns(ResourceWarning, match="unclosed transport <.*PipeTransport"):
            del transport
            gc.collect()
        assert pipe.closed
        os.close(theirs)


def test_a_transport_without_its_file_has_nothing_to_warn_of(new_loop):
    loop = new_loop()
    out, into = os.pipe()
    pipe = raw(out, "rb")
    transport, _ = loop.run_until_complete(loop.connect_read_pipe(asyncio.Protocol, pipe))
    loop.close()
    transport._pipe = None
    del transport, loop
    gc.collect()
    assert not pipe.closed
    pipe.close()
    os.close(into)


@on_loop
async def test_callbacks_run_in_the_context_of_the_connect(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Seeing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            super().data_received(data)
            seen.append(variable.get())

    variable.set("connecting")
    async with reading(loop, Seeing()) as (_, protocol, feed):
        variable.set("afterwards")
        feed.write(b"x")
        await protocol.has_bytes(1)
    assert seen == ["connecting", "connecting"]


# aioxide's own


def test_a_file_closed_behind_the_back_is_not_read_again():
    async def main():
        loop = asyncio.get_running_loop()
        out, into = os.pipe()
        spare = os.dup(out)
        pipe = raw(out, "rb")
        transport, protocol = await loop.connect_read_pipe(Recorder, pipe)
        pipe.close()
        # A copy of the pipe keeps the kernel's report coming, under a number that is closed.
        os.write(into, b"x")
        await protocol.has("lost")
        assert isinstance(protocol.error, OSError)
        assert transport.is_closing() and protocol.received == b""
        for fd in (into, spare):
            os.close(fd)

    reports = []
    with aioxide.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: reports.append(context))
        runner.run(main())
    assert reports == []


def test_a_device_that_cannot_be_waited_for_ends_with_the_kernels_error():
    async def main():
        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_read_pipe(Recorder, raw(os.devnull, "rb"))
        await protocol.has("lost")
        assert isinstance(protocol.error, PermissionError)

    reports = []
    with aioxide.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: reports.append(context))
        runner.run(main())
    assert [type(context["exception"]) for context in reports] == [PermissionError]
