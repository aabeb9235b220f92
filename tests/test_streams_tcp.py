"""asyncio's streams over our TCP transports: reading, draining, half-closing, cancelling.

Run by pytest on asyncio and on aioxide.  `open_connection` and `start_server` are those of the
module under test.
"""

import asyncio
import contextlib
import random

import pytest
from loopback import connected_pair, on_loop, refusing, reset, until


@contextlib.asynccontextmanager
async def streams(namespace, **buffers):
    """A reader and a writer on each end of one connection."""
    near, far = connected_pair(**buffers)
    ends = [await namespace.open_connection(sock=sock) for sock in (near, far)]
    try:
        yield ends
    finally:
        for _, writer in ends:
            writer.transport.abort()
        for _, writer in ends:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(namespace, handle):
    server = await namespace.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await server.wait_closed()


async def finish(writer):
    writer.close()
    await writer.wait_closed()


@on_loop
async def test_echo(loop, namespace):
    handled = loop.create_future()

    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        await finish(writer)
        handled.set_result(asyncio.current_task())

    async with serving(namespace, handle) as address:
        reader, writer = await namespace.open_connection(*address)
        assert writer.get_extra_info("peername") == address
        assert isinstance(writer.transport, asyncio.Transport)
        for line in (b"one\n", b"two\n"):
            writer.write(line)
            await writer.drain()
            assert await reader.readline() == line.upper()
        writer.write(b"without an end")
        assert writer.can_write_eof()
        writer.write_eof()
        assert await reader.read() == b"WITHOUT AN END"
        await finish(writer)
        await (await handled)


@on_loop
async def test_every_way_to_read(loop, namespace):
    async with streams(namespace) as ((reader, _), (_, writer)):
        writer.write(b"line\nexactly8until;rest")
        assert await reader.readline() == b"line\n"
        assert await reader.readexactly(8) == b"exactly8"
        assert await reader.readuntil(b";") == b"until;"
        assert await reader.read(2) == b"re"
        assert not reader.at_eof()
        writer.write_eof()
        assert await reader.read() == b"st"
        assert reader.at_eof()
        assert await reader.read(10) == b""
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(1)


@on_loop
async def test_reading_line_by_line_with_async_for(loop, namespace):
    async with streams(namespace) as ((reader, _), (_, writer)):
        writer.writelines([b"a\nb", b"\nc"])
        writer.write_eof()
        assert [line async for line in reader] == [b"a\n", b"b\n", b"c"]


@on_loop
async def test_an_end_in_the_middle_is_an_incomplete_read(loop, namespace):
    async with streams(namespace) as ((reader, _), (_, writer)):
        writer.write(b"short")
        writer.close()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(10)
        assert (caught.value.partial, caught.value.expected) == (b"short", 10)


@on_loop
async def test_a_line_beyond_the_limit(loop, namespace):
    near, far = connected_pair()
    reader, writer = await namespace.open_connection(sock=near, limit=100)
    _, other = await namespace.open_connection(sock=far)
    other.write(b"x" * 1000 + b"\n" + b"short\n")
    with pytest.raises(ValueError):
        await reader.readline()
    other.write(b"next\n")
    while await reader.readline() != b"next\n":
        pass
    await finish(other)
    await finish(writer)


@on_loop
async def test_drain_waits_for_a_slow_reader(loop, namespace):
    buffers = {"send_buffer": 4096, "receive_buffer": 4096}
    async with streams(namespace, **buffers) as ((_, writer), (reader, _)):
        payload = random.Random(1).randbytes(2_000_000)
        # The reader's own buffer is bounded too: it pauses its transport.
        writer.write(payload)
        draining = asyncio.ensure_future(writer.drain())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not draining.done()
        assert await reader.readexactly(len(payload)) == payload
        await draining


@on_loop
async def test_drain_after_a_reset_is_an_error(loop, namespace):
    near, far = connected_pair()
    reader, writer = await namespace.open_connection(sock=near)
    reset(far)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    with pytest.raises(ConnectionResetError):
        await writer.drain()
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()


@on_loop
async def test_a_refused_connection(loop, namespace):
    with refusing("127.0.0.1") as [address]:
        with pytest.raises(ConnectionRefusedError):
            await namespace.open_connection(*address)


@on_loop
async def test_reads_cut_short_by_timeouts_lose_nothing(loop, namespace):
    """A thousand small pieces, read under deadlines that mostly pass."""
    pieces = 1000
    async with streams(namespace) as ((reader, _), (_, writer)):

        async def send():
            for number in range(pieces):
                writer.write(b"%04d" % number)
                await asyncio.sleep(0)

        sending = asyncio.ensure_future(send())
        received = bytearray()
        chance = random.Random(7)
        while len(received) < 4 * pieces:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0, 0, 0.0001, 0.001])):
                    received += await reader.read(chance.choice([1, 3, 100]))
        await sending
        assert received == b"".join(b"%04d" % number for number in range(pieces))


@on_loop
async def test_exact_reads_cut_short_by_cancellation_lose_nothing(loop, namespace):
    async with streams(namespace) as ((reader, _), (_, writer)):
        for number in range(200):
            reading = asyncio.ensure_future(reader.readexactly(4))
            await asyncio.sleep(0)
            writer.write(b"%02d" % (number % 100))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
            writer.write(b"ok")
            assert await reader.readexactly(4) == b"%02dok" % (number % 100)


@on_loop
async def test_a_large_transfer_both_ways(loop, namespace):
    payload = random.Random(2).randbytes(5_000_000)

    async def handle(reader, writer):
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        await finish(writer)

    async def send(writer):
        for start in range(0, len(payload), 70_000):
            writer.write(payload[start : start + 70_000])
            await writer.drain()
        writer.write_eof()

    async with serving(namespace, handle) as address:
        reader, writer = await namespace.open_connection(*address)
        sending = asyncio.ensure_future(send(writer))
        assert await reader.read() == payload
        await sending
        await finish(writer)


@on_loop
async def test_an_error_in_the_handler_closes_the_connection_and_is_told(
    loop, namespace, loop_errors
):
    async def handle(reader, writer):
        raise ZeroDivisionError("in the handler")

    async with serving(namespace, handle) as address:
        reader, writer = await namespace.open_connection(*address)
        assert await reader.read() == b""
        await finish(writer)
        await until(lambda: loop_errors)
        (context,) = loop_errors.take()
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["message"] == "Unhandled exception in client_connected_cb"


@on_loop
async def test_a_plain_function_may_handle_connections(loop, namespace):
    ends = []
    async with serving(namespace, lambda reader, writer: ends.append((reader, writer))) as address:
        reader, writer = await namespace.open_connection(*address)
        await until(lambda: ends)
        ends[0][1].write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await finish(ends[0][1])
        await finish(writer)


@on_loop
async def test_hundreds_of_clients_with_timeouts(loop, namespace):
    async def handle(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                size = int.from_bytes(await reader.readexactly(4))
                writer.write(await reader.readexactly(size))
                await writer.drain()
        await finish(writer)

    async def visit(address, number):
        reader, writer = await namespace.open_connection(*address)
        for turn in range(5):
            payload = b"%d:%d " % (number, turn) * 100
            writer.write(len(payload).to_bytes(4) + payload)
            async with asyncio.timeout(20):
                assert await reader.readexactly(len(payload)) == payload
        await finish(writer)

    async with serving(namespace, handle) as address:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(visit(address, number))
