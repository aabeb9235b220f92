"""What a case of the fuzzer is: one kind of connection, one peer, one protocol of ours.

Called by run.py with a Case; the other kinds are in the files imported here.  Everything is drawn
from the case's own generator, so that a case can be run again alone.  A scenario returns when all
it opened is closed again.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import tempfile
from pipes import pipes, programs

from calls import socket_calls, streams
from case import PATIENCE, expect, in_thread, until
from certificates import client_context, server_context
from datagrams import datagrams
from invariants import Mischief
from peer import Peer, TlsPeer


def address_for(chance, directory):
    """TCP or Unix, and where: (family, address)."""
    if chance.random() < 0.6:
        return socket.AF_INET, ("127.0.0.1", 0)
    return socket.AF_UNIX, os.path.join(directory, "socket")


async def settled(case, ledger, peer):
    """Wait for the end of a connection that was made, then compare."""
    if ledger.made:
        await until(f"case {case.number}: connection_lost", lambda: ledger.lost)
    for _ in range(3):
        await asyncio.sleep(0)
    ledger.settle(peer)
    case.remember(ledger.current.transport)


async def servers(case):
    """A server of ours, a peer that connects."""
    with tempfile.TemporaryDirectory() as directory:
        family, address = address_for(case.chance, directory)
        is_tls = case.chance.random() < 0.4
        await served(case, family, address, is_tls)


async def served(case, family, address, is_tls):
    loop, chance = case.loop, case.chance
    ledger = case.ledger(f"server of {family.name}{' with TLS' if is_tls else ''}", is_tls)
    given = {}
    if is_tls:
        newest = chance.choice([None, ssl.TLSVersion.TLSv1_2])
        given["ssl"] = server_context(newest)
        if chance.random() < 0.2:
            given["ssl_handshake_timeout"] = given["ssl_shutdown_timeout"] = 0.02
        peer = TlsPeer(chance, client_context(), server_side=False)
        case.peers.append(peer)
    else:
        peer = Peer(chance, is_tcp=family == socket.AF_INET)
        case.peers.append(peer)
    factory = lambda: case.protocol(ledger)  # noqa: E731
    if family == socket.AF_UNIX:
        server = await loop.create_unix_server(factory, address, **given)
    else:
        server = await loop.create_server(factory, *address, **given)
        address = server.sockets[0].getsockname()

    def visit():
        with socket.socket(family) as sock:
            peer.prepare(sock)
            sock.settimeout(PATIENCE)
            sock.connect(address)
            peer.run(sock)

    visiting = in_thread(loop, visit)
    await until(f"case {case.number}: accept", lambda: ledger.made or (is_tls and ledger.current))
    await expect(f"case {case.number}: the peer", visiting, 2 * PATIENCE)
    server.close()
    await expect(f"case {case.number}: wait_closed", server.wait_closed())
    if ledger.current is not None:
        if not ledger.made:
            await asyncio.sleep(0.02)
        await settled(case, ledger, peer)


async def clients(case):
    """A peer that listens, a client of ours that connects, is cancelled, or finds nobody."""
    loop, chance = case.loop, case.chance
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        family, address = address_for(chance, directory)
        is_tls = chance.random() < 0.4
        ledger = case.ledger(f"client of {family.name}{' with TLS' if is_tls else ''}", is_tls)
        if is_tls:
            peer = TlsPeer(chance, server_context(), server_side=True)
            case.peers.append(peer)
            given = {"ssl": client_context(), "server_hostname": "localhost"}
        else:
            peer = Peer(chance, is_tcp=family == socket.AF_INET)
            case.peers.append(peer)
            given = {}
        listening = stack.enter_context(socket.socket(family))
        peer.prepare(listening)
        listening.bind(address)
        listening.listen(5)
        address = listening.getsockname()
        vanish = chance.random() < 0.1

        def receive():
            listening.settimeout(PATIENCE)
            with listening, contextlib.suppress(OSError):
                if not vanish:
                    with listening.accept()[0] as sock:
                        peer.run(sock)

        answering = in_thread(loop, receive)
        factory = lambda: case.protocol(ledger)  # noqa: E731
        if family == socket.AF_UNIX:
            connecting = loop.create_unix_connection(factory, address, **given)
        else:
            connecting = loop.create_connection(factory, *address, **given)
        task = asyncio.ensure_future(connecting)
        if chance.random() < 0.15:
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
            ledger.ended = "cancelled"
        try:
            await expect(f"case {case.number}: connecting", task, 2 * PATIENCE)
        except (OSError, asyncio.CancelledError):
            ledger.ended = "cancelled"
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # Nobody will come.
        except Mischief:
            pass
        await expect(f"case {case.number}: the peer", answering, 2 * PATIENCE)
        if ledger.current is not None:
            await settled(case, ledger, peer)


async def upgrades(case):
    """start_tls on a connection that carried plain bytes before."""
    loop, chance = case.loop, case.chance
    ledger = case.ledger("start_tls", True)
    peer = TlsPeer(chance, client_context(), server_side=False)
    case.peers.append(peer)
    near, far = socket.socketpair()
    plain, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    plain.pause_reading()  # The peer's hello is for TLS: start_tls begins a turn later.
    visiting = in_thread(loop, peer.run, far)
    protocol = case.protocol(ledger)
    ledger.made = 1  # start_tls does not call connection_made.
    upgrading = loop.start_tls(plain, protocol, server_context(), server_side=True)
    task = asyncio.ensure_future(upgrading)
    if chance.random() < 0.2:
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        task.cancel()
        ledger.ended = "cancelled"
    try:
        transport = await expect(f"case {case.number}: start_tls", task, 2 * PATIENCE)
    except (OSError, asyncio.CancelledError):
        plain.abort()
        ledger.is_upgrade_refused = True
        await expect(f"case {case.number}: the peer", visiting, 2 * PATIENCE)
        return
    protocol.transport = transport
    if not ledger.lost:
        loop.call_soon(protocol.act)
    await expect(f"case {case.number}: the peer", visiting, 2 * PATIENCE)
    await settled(case, ledger, peer)


SCENARIOS = {
    servers: 6,
    clients: 5,
    upgrades: 2,
    streams: 3,
    socket_calls: 2,
    datagrams: 3,
    pipes: 2,
    programs: 1,
}
