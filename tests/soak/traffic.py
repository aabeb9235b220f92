"""Traffic over every kind of connection; each message is numbered and accounted for.

Called by run.py, many at once.  What is sent comes back whole, once and in order, or was abandoned
by us and is counted so.
"""

import asyncio
import collections
import contextlib
import socket
import ssl

from field import Echo, check, expect, given_up

SIZES = (1, 100, 1000, 5000, 30_000)
FILLING = bytes(value for value in range(256) if value != 10) * 200


class Conversation:
    """One connection, and the messages on it that have not come back."""

    def __init__(self, field, chance):
        self.field, self.chance = field, chance
        self.kind = chance.choice(list(field.doors))
        self.number, field.conversations = field.conversations, field.conversations + 1
        self.pending, self.rest, self.count = collections.deque(), b"", 0
        self.writer = None

    async def open(self):
        self.reader, self.writer = await self.field.connect(self.kind)

    def send(self):
        start = self.chance.randrange(1000)
        filling = FILLING[start : start + self.chance.choice(SIZES)]
        message = b"%d %d " % (self.number, self.count) + filling + b"\n"
        self.count += 1
        self.pending.append(message)
        self.field.sent[self.kind] += 1
        self.writer.write(message)

    def take(self, data):
        """Every message that is complete must be the oldest of those under way."""
        check(data != b"", f"{self.kind}: the connection ended with {len(self.pending)} under way")
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            expected = self.pending.popleft() if self.pending else None
            check(line + b"\n" == expected, f"{self.kind}: a message was lost, doubled or changed")
            self.field.back[self.kind] += 1

    async def read_some(self):
        """A read that is perhaps given up; it must lose nothing."""
        data = await given_up(self.chance, self.reader.read(self.chance.choice([1, 100, 100_000])))
        if data is not None:
            self.take(data)

    async def read_rest(self):
        while self.pending:
            self.take(await expect("an echo", self.reader.read(100_000)))
        check(self.rest == b"", "more came back than was sent")

    async def end(self, is_abort):
        """Close it; what is still under way is abandoned."""
        self.abandon()
        if is_abort:
            self.writer.transport.abort()
        else:
            self.writer.close()
        # Over TLS an echo that comes after our close_notify is an error, as in asyncio.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await expect("the end of a connection", self.writer.wait_closed())

    def abandon(self):
        self.field.abandoned[self.kind] += len(self.pending)
        self.pending.clear()


async def conversations(field, chance):
    """Messages both ways, reads and drains given up at any time."""
    talk = Conversation(field, chance)
    await talk.open()
    for _ in range(chance.choice([1, 5, 30])):
        talk.send()
        if chance.random() < 0.5:
            await given_up(chance, talk.writer.drain())
        while chance.random() < 0.5 and talk.pending:
            await talk.read_some()
    if chance.random() < 0.8:
        await talk.read_rest()
    await talk.end(is_abort=chance.random() < 0.3)


async def cancelled_visits(field, chance):
    """A whole conversation, cancelled wherever it stands: connecting, shaking hands, closing."""
    talk = Conversation(field, chance)

    async def visit():
        await talk.open()
        for _ in range(3):
            talk.send()
            await talk.writer.drain()
        await talk.read_rest()
        talk.writer.close()
        await talk.writer.wait_closed()

    await given_up(chance, visit())
    talk.abandon()
    if talk.writer is not None:
        await talk.end(is_abort=True)


async def slow_readers(field, chance):
    """A client that sends much and reads late: the server has to stop and go on."""
    talk = Conversation(field, chance)
    await talk.open()
    talk.writer.transport.set_write_buffer_limits(high=0)
    sending = asyncio.ensure_future(send_much(talk, chance.choice([50, 200])))
    await asyncio.sleep(chance.random() * 0.02)
    while not sending.done() or talk.pending:
        if talk.pending:
            talk.take(await expect("an echo", talk.reader.read(chance.choice([1000, 65_536]))))
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
    await sending
    await talk.end(is_abort=False)


async def send_much(talk, count):
    for _ in range(count):
        talk.send()
        await talk.writer.drain()


async def half_closes(field, chance):
    """The end of one direction leaves the other open until all has come back."""
    talk = Conversation(field, chance)
    if "lines" not in talk.kind or "tls" in talk.kind:
        talk.kind = "lines"
    await talk.open()
    for _ in range(chance.randrange(100)):
        talk.send()
    talk.writer.write_eof()
    await talk.read_rest()
    check(await expect("the end", talk.reader.read()) == b"", "more came after the end")
    await talk.end(is_abort=False)


async def resets(field, chance):
    """Peers that reset at any moment, even in a handshake, harm nobody else."""
    for _ in range(chance.randrange(1, 5)):
        await field.pace()
        address = field.doors[chance.choice(["lines", "protocol", "buffered", "tls"])][0]
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await expect("a raw connection", field.loop.sock_connect(sock, address))
            if chance.random() < 0.7:
                data = b"line\n" * chance.randrange(10_000)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.005):
                        await field.loop.sock_sendall(sock, data)


async def garbage(field, chance):
    """Protocols that raise lose their connection, and only theirs."""
    await field.pace()
    reader, writer = await expect("a connection", asyncio.open_connection(*field.picky))
    if chance.random() < 0.3:
        writer.write(b"+")
        check(await expect("an answer", reader.readexactly(4)) == b"fine", "a wrong answer")
    writer.write(b"-" + chance.randbytes(chance.randrange(100_000)))
    with contextlib.suppress(ConnectionError):
        check(await expect("the end after garbage", reader.read()) == b"", "an answer to garbage")
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await expect("the end of a connection", writer.wait_closed())


async def datagrams(field, chance):
    """Numbered datagrams to an echo, so few under way that no buffer can overflow."""
    arrived = asyncio.Queue()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            arrived.put_nowait(data)

        def error_received(self, error):
            arrived.put_nowait(error)

    address = field.datagrams.get_extra_info("sockname")
    transport, _ = await field.loop.create_datagram_endpoint(Receiver, remote_addr=address)
    count, under_way = chance.choice([1, 10, 200]), collections.deque()
    for number in range(count):
        message = b"%d " % number + FILLING[: chance.choice([0, 10, 1000])]
        under_way.append(message)
        field.sent["datagram"] += 1
        transport.sendto(message)
        while len(under_way) >= 4 or (under_way and number == count - 1):
            data = await expect("a datagram", arrived.get())
            check(data == under_way.popleft(), "a datagram was lost, doubled, moved or changed")
            field.back["datagram"] += 1
    transport.close()
    await asyncio.sleep(0)
    check(arrived.empty(), "more datagrams came back than were sent")


async def short_servers(field, chance):
    """Servers that are opened, visited and closed, sometimes with the visitor still there."""
    server = await field.loop.create_server(Echo, "127.0.0.1", 0)
    visits = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(3)]
    for reader, writer in visits:
        writer.write(b"hello")
        await expect("an echo of a short server", reader.readexactly(5))
    server.close()
    if hasattr(server, "abort_clients") and chance.random() < 0.5:
        server.abort_clients()
    for _, writer in visits:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await expect("the end of a visit", writer.wait_closed())
    await expect("the end of a short server", server.wait_closed())


async def crowds(field, chance):
    """Many connections at once."""

    async def visit():
        talk = Conversation(field, chance)
        await talk.open()
        talk.send()
        await talk.read_rest()
        await talk.end(is_abort=True)

    await asyncio.gather(*(visit() for _ in range(chance.randrange(20, 60))))


TRAFFIC = [
    conversations,
    conversations,
    cancelled_visits,
    cancelled_visits,
    slow_readers,
    half_closes,
    resets,
    garbage,
    datagrams,
    short_servers,
    crowds,
]
