"""loop.sendfile and loop.sock_sendfile: by the kernel, by reading and writing, and cancelled.

Run by pytest on asyncio and on aioxide.
"""

import asyncio
import io
import os
import socket

import pytest
from loopback import Recorder, on_loop, read_exactly, read_to_the_end, socket_pair, wired

CONTENT = b"".join(b"%07d\n" % number for number in range(100_000))


@pytest.fixture
def file(tmp_path):
    """An open file of 800,000 bytes, more than a pair of sockets holds."""
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    with open(path, "rb") as opened:
        yield opened


async def arrived(loop, far, count):
    return await read_exactly(loop, far, count)


# Over a transport


@on_loop
async def test_a_whole_file_over_a_transport(loop, file):
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        reading = loop.create_task(arrived(loop, far, len(CONTENT)))
        assert await loop.sendfile(transport, file) == len(CONTENT)
        assert await reading == CONTENT
        assert file.tell() == len(CONTENT)


@on_loop
async def test_a_part_of_a_file(loop, file):
    async with wired(loop, Recorder()) as (transport, far):
        assert await loop.sendfile(transport, file, 1000, 2000) == 2000
        assert await arrived(loop, far, 2000) == CONTENT[1000:3000]
        assert file.tell() == 3000
        assert await loop.sendfile(transport, file, len(CONTENT) - 5, 100) == 5
        assert await arrived(loop, far, 5) == CONTENT[-5:]


@on_loop
async def test_an_empty_file(loop, tmp_path):
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as empty:  # noqa: ASYNC230
        async with wired(loop, Recorder()) as (transport, _):
            assert await loop.sendfile(transport, empty) == 0
            transport.write(b"x")


@on_loop
async def test_bytes_before_and_after_keep_their_places(loop, file):
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        before, after = b"<" * 500_000, b">" * 1000
        whole = before + CONTENT + after
        reading = loop.create_task(arrived(loop, far, len(whole)))
        transport.write(before)
        assert transport.get_write_buffer_size() > 0
        await loop.sendfile(transport, file)
        transport.write(after)
        assert await reading == whole


@on_loop
async def test_nothing_is_read_and_written_meanwhile(loop, file):
    protocol = Recorder()
    async with wired(loop, protocol, send_buffer=4096, receive_buffer=4096) as (transport, far):
        task = loop.create_task(loop.sendfile(transport, file))
        await asyncio.sleep(0)
        await loop.sock_sendall(far, b"early")
        with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
            transport.write(b"x")
        with pytest.raises(RuntimeError, match=r"unable to write(lines)?; sendfile is in progress"):
            transport.writelines([b"x"])
        assert not transport.is_reading()
        assert protocol.received == b""
        await arrived(loop, far, len(CONTENT))
        assert await task == len(CONTENT)
        await protocol.has_bytes(5)
        assert transport.is_reading()


@on_loop
async def test_reading_that_was_paused_stays_paused(loop, file):
    async with wired(loop, Recorder()) as (transport, _):
        transport.pause_reading()
        await loop.sendfile(transport, file, 0, 10)
        assert not transport.is_reading()


@on_loop
async def test_a_second_file_at_once_is_refused(loop, file):
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        task = loop.create_task(loop.sendfile(transport, file))
        await asyncio.sleep(0)
        with pytest.raises((RuntimeError, KeyError)):
            await loop.sendfile(transport, file)
        await arrived(loop, far, len(CONTENT))
        assert await task == len(CONTENT)


@on_loop
async def test_cancelling_leaves_a_transport_that_works(loop, file, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio leaves the position of the file where it was")
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        task = loop.create_task(loop.sendfile(transport, file))
        first = await arrived(loop, far, 1000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = file.tell()
        assert 1000 <= sent < len(CONTENT)
        transport.write(b"end")
        assert first + await arrived(loop, far, sent - 997) == CONTENT[:sent] + b"end"
        assert transport.is_reading()


@on_loop
async def test_cancelling_while_older_bytes_wait(loop, file, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio refuses every later write")
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        before = b"<" * 500_000
        transport.write(before)
        task = loop.create_task(loop.sendfile(transport, file))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert file.tell() == 0
        transport.write(b"end")
        assert await arrived(loop, far, len(before) + 3) == before + b"end"


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_closing_the_transport_ends_the_wait(loop, file, end, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio waits for ever")
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, _):
        task = loop.create_task(loop.sendfile(transport, file))
        for _ in range(5):
            await asyncio.sleep(0)
        getattr(transport, end)()
        with pytest.raises(ConnectionError):
            await task


@on_loop
async def test_a_peer_that_closes_in_the_middle(loop, file):
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        task = loop.create_task(loop.sendfile(transport, file))
        await arrived(loop, far, 1000)
        far.close()
        with pytest.raises(ConnectionError):
            await task
        assert 1000 <= file.tell() < len(CONTENT)


# What the kernel cannot send


@on_loop
async def test_an_object_in_memory_is_read_and_written(loop, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio overwrites what the transport still holds, from 3.12 on")
    memory = io.BytesIO(CONTENT)
    async with wired(loop, Recorder(), send_buffer=4096, receive_buffer=4096) as (transport, far):
        transport.set_write_buffer_limits(high=10_000)
        reading = loop.create_task(arrived(loop, far, len(CONTENT)))
        assert await loop.sendfile(transport, memory) == len(CONTENT)
        assert await reading == CONTENT
        assert memory.tell() == len(CONTENT)
        assert transport.is_reading()


@on_loop
async def test_a_part_of_an_object_in_memory(loop):
    memory = io.BytesIO(CONTENT)
    async with wired(loop, Recorder()) as (transport, far):
        assert await loop.sendfile(transport, memory, 100, 40_000) == 40_000
        assert await arrived(loop, far, 40_000) == CONTENT[100:40_100]
        assert memory.tell() == 40_100
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
            await loop.sendfile(transport, memory, fallback=False)


@on_loop
async def test_a_lost_connection_while_reading_and_writing(loop):
    memory = io.BytesIO(CONTENT)
    protocol = Recorder()
    async with wired(loop, protocol, send_buffer=4096, receive_buffer=4096) as (transport, far):
        transport.set_write_buffer_limits(high=1000)
        task = loop.create_task(loop.sendfile(transport, memory))
        await arrived(loop, far, 1000)
        far.close()
        with pytest.raises(ConnectionError):
            await task
        await protocol.has("lost")


@on_loop
async def test_cancelling_while_reading_and_writing(loop):
    memory = io.BytesIO(CONTENT)
    protocol = Recorder()
    async with wired(loop, protocol, send_buffer=4096, receive_buffer=4096) as (transport, far):
        transport.set_write_buffer_limits(high=1000)
        task = loop.create_task(loop.sendfile(transport, memory))
        await arrived(loop, far, 1000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.get_protocol() is protocol
        transport.abort()
        await read_to_the_end(loop, far)


@on_loop
async def test_transports_that_take_no_files(loop, file):
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
        await loop.sendfile(transport, file)
    transport.close()
    await asyncio.sleep(0)
    async with wired(loop, Recorder()) as (stream, _):
        stream.close()
        with pytest.raises(RuntimeError, match="Transport is closing"):
            await loop.sendfile(stream, file)


# Over a socket


@on_loop
async def test_a_file_over_a_socket(loop, file):
    with socket_pair(send_buffer=4096, receive_buffer=4096) as (near, far):
        reading = loop.create_task(arrived(loop, far, len(CONTENT)))
        assert await loop.sock_sendfile(near, file) == len(CONTENT)
        assert await reading == CONTENT
        assert file.tell() == len(CONTENT)
        assert await loop.sock_sendfile(near, file, 10, 20) == 20
        assert await arrived(loop, far, 20) == CONTENT[10:30]
        assert file.tell() == 30


@on_loop
async def test_a_file_over_a_unix_socket(loop, file):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        reading = loop.create_task(arrived(loop, far, len(CONTENT)))
        assert await loop.sock_sendfile(near, file) == len(CONTENT)
        assert await reading == CONTENT


@on_loop
async def test_an_object_in_memory_over_a_socket(loop):
    memory = io.BytesIO(CONTENT)
    with socket_pair(send_buffer=4096, receive_buffer=4096) as (near, far):
        reading = loop.create_task(arrived(loop, far, 500_000))
        assert await loop.sock_sendfile(near, memory, 100, 500_000) == 500_000
        assert await reading == CONTENT[100:500_100]
        assert memory.tell() == 500_100
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
            await loop.sock_sendfile(near, memory, fallback=False)


@on_loop
async def test_cancelling_leaves_no_writer(loop, file):
    with socket_pair(send_buffer=4096, receive_buffer=4096) as (near, far):
        task = loop.create_task(loop.sock_sendfile(near, file))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not loop.remove_writer(near)
        near.close()
        assert CONTENT.startswith(await read_to_the_end(loop, far))


@pytest.mark.parametrize(
    ("offset", "count", "kind", "message"),
    [
        (0, 0, ValueError, r"count must be a positive integer \(got 0\)"),
        (0, -1, ValueError, r"count must be a positive integer \(got -1\)"),
        (0, 1.5, TypeError, r"count must be a positive integer \(got 1.5\)"),
        (-1, None, ValueError, r"offset must be a non-negative integer \(got -1\)"),
        ("0", None, TypeError, r"offset must be a non-negative integer \(got '0'\)"),
    ],
)
@on_loop
async def test_counts_and_offsets_are_checked(loop, file, offset, count, kind, message):
    with socket_pair() as (near, _):
        with pytest.raises(kind, match=message):
            await loop.sock_sendfile(near, file, offset, count)


@on_loop
async def test_files_and_sockets_are_checked(loop, file):
    with socket_pair() as (near, _):
        with io.TextIOWrapper(io.BytesIO()) as text:
            text.mode = "r"
            with pytest.raises(ValueError, match="file should be opened in binary mode"):
                await loop.sock_sendfile(near, text)
        loop.set_debug(True)
        near.setblocking(True)
        with pytest.raises(ValueError, match="the socket must be non-blocking"):
            await loop.sock_sendfile(near, file)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setblocking(False)
        with pytest.raises(ValueError, match="only SOCK_STREAM type sockets are supported"):
            await loop.sock_sendfile(datagrams, file)


@on_loop
async def test_what_is_not_in_memory_is_read_by_a_thread(loop, file, namespace, monkeypatch):
    if namespace is asyncio:
        pytest.skip("asyncio lets the loop wait for the disk")
    # A disk that has nothing ready, as the kernel tells it.
    monkeypatch.setattr(os, "preadv", _never_ready)
    descriptors = len(os.listdir("/proc/self/fd"))
    with socket_pair() as (near, far):
        reading = loop.create_task(arrived(loop, far, len(CONTENT)))
        assert await loop.sock_sendfile(near, file) == len(CONTENT)
        assert await reading == CONTENT
    await loop.shutdown_default_executor()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def _never_ready(*arguments):
    raise BlockingIOError
