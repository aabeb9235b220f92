"""Whatever two connected transports do, every byte arrives, once and in order.

Run by pytest on asyncio and on aioxide, over TCP and Unix sockets with small kernel buffers. Each
case is a random sequence of writes, pauses and turns of the loop, which its seed repeats.
"""

import asyncio
import hashlib
import random
import socket

import pytest
from loopback import BufferedRecorder, Recorder, closed, connected_pair, on_loop, until

SEEDS = range(6)
TOTAL = 400_000


def sockets_of(kind):
    """Two connected sockets that hold little."""
    if kind == "tcp":
        return connected_pair(send_buffer=4096, receive_buffer=4096)
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return pair


def content(seed):
    """Bytes of which no two stretches are alike."""
    blocks = (hashlib.sha256(b"%d %d" % (seed, block)).digest() for block in range(TOTAL // 32 + 1))
    return b"".join(blocks)[:TOTAL]


async def write_at_random(transport, protocol, data, choose):
    """Write `data` in pieces of any size, by any method, and sometimes let the loop turn."""
    position = 0
    while position < len(data):
        size = choose.choice([0, 1, 7, 100, 5_000, 70_000])
        piece = data[position : position + size]
        position += len(piece)
        how = choose.randrange(4)
        if how == 0:
            transport.write(bytearray(piece))
        elif how == 1:
            middle = choose.randint(0, len(piece))
            transport.writelines([piece[:middle], b"", memoryview(piece)[middle:]])
        else:
            transport.write(piece)
        if choose.random() < 0.2:
            transport.set_write_buffer_limits(high=choose.choice([0, 1_000, 65_536]))
        for _ in range(choose.randrange(10)):
            if protocol.events[-1] != "pause":
                break
            await asyncio.sleep(0)
        if choose.random() < 0.3:
            await asyncio.sleep(0)
    transport.write_eof()


async def pause_at_random(transport, protocol, choose):
    """Pause and resume reading until everything is there."""
    while len(protocol.received) < TOTAL:
        transport.pause_reading()
        for _ in range(choose.randrange(4)):
            await asyncio.sleep(0)
        transport.resume_reading()
        for _ in range(choose.randrange(6)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("receiver", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_bytes_arrive_whole_and_in_order(loop, kind, receiver, seed):
    choose = random.Random(seed)
    ends = []
    for sock in sockets_of(kind):
        protocol = receiver(keep_open=True)
        protocol.size = choose.choice([1_000, 9_000])
        transport, _ = await loop.create_connection(lambda it=protocol: it, sock=sock)
        ends.append((transport, protocol))
    sent = [content(seed), content(seed + 1000)]
    # Both directions at once.
    async with asyncio.TaskGroup() as group:
        for (transport, protocol), data in zip(ends, sent, strict=True):
            group.create_task(write_at_random(transport, protocol, data, choose))
            group.create_task(pause_at_random(transport, protocol, choose))
    for (_, protocol), data in zip(ends, reversed(sent), strict=True):
        await until(lambda it=protocol: "eof" in it.events)
        assert bytes(protocol.received) == data
    for transport, protocol in ends:
        await closed(transport)
        paused = [event for event in protocol.events if event in ("pause", "resume")]
        assert paused[::2] == ["pause"] * len(paused[::2])
        assert paused[1::2] == ["resume"] * len(paused[1::2])


# Around the sizes from which, and up to which, a message is read into an object of its own.
SIZES = (40_000, 49_151, 49_152, 49_153, 65_536, 7, 200_000, 262_143, 262_144, 300_000, 33_000, 1)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_messages_of_any_size_after_any_other_arrive_whole(loop, kind):
    ours, theirs = connected_pair() if kind == "tcp" else socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
    sent = bytearray()
    for number in range(3):
        for size in random.Random(number).sample(SIZES, len(SIZES)):
            message = content(number)[:size]
            await loop.sock_sendall(theirs, message)
            sent += message
            await protocol.has_bytes(len(sent))
    assert protocol.received == sent
    theirs.close()
    await closed(transport)
