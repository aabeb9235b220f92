"""Datagram endpoints of ours, and a socket that storms them, answers, and goes away.

Called by run.py through scenarios.py.  Loss is allowed where a socket buffer may overflow; a
datagram that was changed, doubled, reordered or made up is not.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
import time

from case import expect, in_thread, until
from protocols import WildDatagrams, datagram, number_of

SIZES = (0, 0, 1, 10, 1000, 1472, 9000, 65_000)


class Storm:
    """The far socket: numbered datagrams out, numbered datagrams in."""

    def __init__(self, chance):
        self.chance = chance
        self.sent, self.arrived = [], []
        self.count = chance.choice([0, 1, 20, 300])

    def run(self, sock, target):
        sock.settimeout(0.001)
        with sock:
            for number in range(self.count):
                data = datagram("theirs", number, self.chance.choice(SIZES))
                with contextlib.suppress(OSError):
                    sock.sendto(data, target)
                    self.sent.append(data)
                if self.chance.random() < 0.2:
                    self.receive(sock)
            for _ in range(self.chance.randrange(20)):
                self.receive(sock)
            if self.chance.random() < 0.5:
                time.sleep(0.005)

    def receive(self, sock):
        with contextlib.suppress(OSError):
            self.arrived.append(sock.recv(70_000))


def check_arrived(ledger, side, arrived, count):
    """What arrived is a subset of what was sent, in order."""
    last = -1
    for data in arrived:
        try:
            number = number_of(side, data)
        except ValueError as error:
            return ledger.breaks(f"a datagram arrived that nobody sent: {error}")
        if number is None:
            continue
        if not last < number < count:
            return ledger.breaks(f"datagram {number} arrived after {last}, of {count}")
        last = number


async def datagrams(case):
    """UDP or Unix, connected or not."""
    loop, chance = case.loop, case.chance
    ledger = case.ledger("datagrams")
    protocol = WildDatagrams(ledger, loop, chance)
    case.remember(protocol)
    storm = Storm(chance)
    with tempfile.TemporaryDirectory() as directory:
        is_unix = chance.random() < 0.3
        far = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_DGRAM)
        far.bind(os.path.join(directory, "far") if is_unix else ("127.0.0.1", 0))
        near = os.path.join(directory, "near") if is_unix else ("127.0.0.1", 0)
        given = {"family": socket.AF_UNIX} if is_unix else {}
        if chance.random() < 0.5:
            given["remote_addr"] = far.getsockname()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=near, **given
        )
        case.remember(transport)
        target = transport.get_extra_info("sockname")
        address = None if "remote_addr" in given else far.getsockname()
        storming = in_thread(loop, storm.run, far, target)
        while not storming.done():
            await asyncio.sleep(chance.random() * 0.002)
            if not transport.is_closing():
                play(chance, protocol, address)
        await expect("a storm", storming)
        for _ in range(3):  # Into the void: the kernel answers with errors.
            if not transport.is_closing():
                play(chance, protocol, address)
            await asyncio.sleep(0)
        ledger.ended = "close" if ledger.ended is None else ledger.ended
        transport.close()
        await until(f"case {case.number}: the end of an endpoint", lambda: ledger.lost)
        if ledger.made != 1 or ledger.lost != 1 or ledger.error is not None:
            ledger.breaks(f"an endpoint that was closed was told {ledger.error!r}")
        check_arrived(ledger, "theirs", protocol.arrived, storm.count)
        check_arrived(ledger, "ours", storm.arrived, protocol.sent)


def play(chance, protocol, address):
    """Something from outside of a callback."""
    for _ in range(chance.choice([0, 1, 10, 100])):
        protocol.send(address)
    if chance.random() < 0.05:
        protocol.ledger.ended = "abort"
        protocol.transport.abort()
