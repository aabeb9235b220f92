"""Streams and sock_ calls against a random peer, given up at every await.

Called by run.py through scenarios.py.  A read of a stream that was cancelled took no bytes.
"""

import asyncio
import contextlib
import socket

from case import PATIENCE, expect, in_thread
from invariants import piece
from peer import Peer


async def given_up(chance, awaitable):
    """The result, or None if it was cancelled first: by a time limit or after some turns."""
    task = asyncio.ensure_future(awaitable)
    if chance.random() < 0.5:
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
    else:
        await asyncio.wait([task], timeout=chance.choice([0, 0.0005, 0.003]))
    task.cancel()
    await expect("a task that was cancelled", asyncio.wait([task]))
    return None if task.cancelled() else task.result()


def pair(chance):
    """Two connected sockets, and whether they are TCP."""
    if chance.random() < 0.5:
        return *socket.socketpair(), False
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        return near, listening.accept()[0], True


async def streams(case):
    """StreamReader and StreamWriter: reads in every way, cancelled, and slow drains."""
    loop, chance, ledger = case.loop, case.chance, case.ledger("streams")
    near, far, is_tcp = pair(chance)
    near.setblocking(False)
    peer = Peer(chance, is_tcp=is_tcp)
    case.peers.append(peer)
    reader, writer = await asyncio.open_connection(
        sock=near, limit=chance.choice([10, 1000, 2**16])
    )
    case.remember(writer.transport)
    case.remember(reader)
    ledger.made = 1
    visiting = in_thread(loop, peer.run, far)
    received = b""
    try:
        while True:
            kind = chance.choice(["read", "read", "exactly", "until", "write", "drain"])
            if kind == "write":
                count = chance.choice([0, 1, 1000, 100_000])
                writer.write(piece("ours", ledger.written, count))
                ledger.written += count
                continue
            if kind == "drain":
                await given_up(chance, writer.drain())
                continue
            data = await given_up(chance, reading(reader, kind, chance))
            received += data or b""
            if data == b"" and reader.at_eof():
                ledger.eof = True
                break
            if chance.random() < 0.01:
                break
    except ConnectionError as error:
        ledger.error = error
    ledger.received = len(received)
    if received != piece("theirs", 0, len(received)):
        ledger.breaks("a stream's bytes were lost, doubled or changed")
    ledger.owed, ledger.ended = ledger.written, "close" if ledger.eof else "abort"
    if ledger.eof:
        writer.close()
    else:
        writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await expect("wait_closed", writer.wait_closed())
    ledger.lost = 1
    await expect("the peer of a stream", visiting, 2 * PATIENCE)
    ledger.settle(peer)


async def reading(reader, kind, chance):
    """One read; an end in the middle gives what there was."""
    try:
        if kind == "exactly":
            return await reader.readexactly(chance.choice([1, 100, 3000]))
        if kind == "until":
            return await reader.readuntil(b"\n")
        return await reader.read(chance.choice([1, 100, 100_000]))
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(max(1, error.consumed))


async def socket_calls(case):
    """sock_recv, sock_recv_into and sock_sendall on a socket whose peer does anything.

    A call that is cancelled ends it: it may have moved bytes in the turn before.
    """
    loop, chance, ledger = case.loop, case.chance, case.ledger("sock_ calls")
    near, far, is_tcp = pair(chance)
    near.setblocking(False)
    peer = Peer(chance, is_tcp=is_tcp)
    case.peers.append(peer)
    visiting = in_thread(loop, peer.run, far)
    ledger.made = ledger.lost = 1
    buffer = bytearray(5000)
    with near:
        try:
            while True:
                if chance.random() < 0.2:
                    count = chance.choice([0, 1, 1000, 20_000])
                    sending = send_all(loop, near, piece("ours", ledger.written, count))
                    ledger.written += count
                    if await given_up(chance, sending) is None:
                        break
                elif chance.random() < 0.5:
                    data = await given_up(chance, loop.sock_recv(near, chance.choice([1, 70_000])))
                    if data is None:
                        break
                    take(ledger, data)
                else:
                    count = await given_up(chance, loop.sock_recv_into(near, buffer))
                    if count is None:
                        break
                    take(ledger, bytes(buffer[:count]))
                if ledger.eof or chance.random() < 0.01:
                    break
        except OSError as error:
            ledger.error = error
        ledger.ended = "abort"
    await expect("the peer of sock_ calls", visiting, 2 * PATIENCE)
    ledger.settle(peer)


async def send_all(loop, sock, data):
    await loop.sock_sendall(sock, data)
    return True


def take(ledger, data):
    if data:
        ledger.data(data)
    else:
        ledger.eof = True
