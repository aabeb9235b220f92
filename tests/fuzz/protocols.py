"""Protocols that do anything at any time, drawn by a seeded generator.

Made by scenarios.py, called by the loop under test.  Each event is entered in the ledger of its
connection; what is done in answer is drawn: writes, pauses, closes, aborts, errors, another
protocol.  Nothing here waits or blocks.
"""

import asyncio
import contextlib

from invariants import Mischief, piece

SIZES = (0, 1, 2, 7, 100, 1000, 4096, 16_385, 65_536, 70_000, 300_000)
CALM = {"write": 8, "writelines": 3, "pause": 3, "limits": 2, "replace": 1, "look": 2, "later": 4}
VIOLENT = CALM | {"close": 2, "abort": 1, "write_eof": 1, "fail": 1}


class Behaviour:
    """What every wild protocol can do; `chance` belongs to the connection."""

    def __init__(self, ledger, loop, chance, temper):
        self.ledger, self.loop, self.chance, self.temper = ledger, loop, chance, temper
        self.transport = None
        self.budget = chance.randrange(3, 40)
        ledger.current = self

    def act(self):
        """Do something, perhaps; each act costs a part of the budget, so that it ends."""
        if self.transport is None or (self.ledger.lost and self.ledger.is_tls):
            return  # A TLS transport of asyncio then raises AttributeError at every call.
        while self.budget > 0 and self.chance.random() < 0.6:
            self.budget -= 1
            name = self.chance.choices(list(self.temper), list(self.temper.values()))[0]
            getattr(self, name)()

    def is_open(self):
        ledger = self.ledger
        return not (ledger.lost or ledger.ended or ledger.raised or self.transport.is_closing())

    def write(self):
        self.send(self.chance.choice(SIZES), self.chance.choice([bytes, bytearray, memoryview]))

    def send(self, count, kind=bytes):
        ledger = self.ledger
        data = kind(piece("ours", ledger.written, count))
        if ledger.eof_written:
            with contextlib.suppress(RuntimeError):
                self.transport.write(data)
                ledger.breaks("write() after write_eof() was accepted")
            return
        # Counted first: pause_writing() runs inside of write() and may write too.
        ledger.written += count
        self.transport.write(data)

    def writelines(self):
        ledger = self.ledger
        if not self.is_open() or ledger.eof_written:
            return
        pieces = []
        for _ in range(self.chance.choice([0, 1, 3, 70])):
            # Not empty: asyncio spins on an empty last piece until the peer goes.
            count = self.chance.choice(SIZES[1:6])
            pieces.append(piece("ours", ledger.written, count))
            ledger.written += count
        self.transport.writelines(self.chance.choice([pieces, iter(pieces)]) if pieces else [])

    def pause(self):
        # After the end asyncio would, on resuming, tell of the end again.
        if self.is_open() and not self.ledger.reading_paused and not self.ledger.eof:
            self.transport.pause_reading()
            self.ledger.reading_paused = True
            self.loop.call_later(self.chance.random() * 0.01, self.resume)

    def resume(self):
        self.ledger.reading_paused = False
        if not (self.ledger.lost and self.ledger.is_tls):
            self.transport.resume_reading()

    def limits(self):
        high = self.chance.choice([None, 0, 1, 1000, 100_000])
        low = self.chance.choice([None, 0, 1, 1000])
        with contextlib.suppress(ValueError):
            self.transport.set_write_buffer_limits(high=high, low=low)

    def replace(self):
        if self.is_open():
            kind = self.chance.choice([Wild, WildBuffered])
            other = kind(self.ledger, self.loop, self.chance, self.temper)
            other.transport, other.budget, self.budget = self.transport, self.budget, 0
            self.transport.set_protocol(other)

    def look(self):
        transport = self.transport
        repr(transport)
        transport.get_extra_info(self.chance.choice(["peername", "socket", "sockname", "no"]))
        if transport.get_write_buffer_size() < 0 or transport.is_reading() not in (True, False):
            self.ledger.breaks("impossible figures of a transport")

    def later(self):
        if self.chance.random() < 0.5:
            self.loop.call_soon(self.act)
        else:
            self.loop.call_later(self.chance.random() * 0.005, self.act)

    def orderly(self):
        if self.ledger.owed is None:
            self.ledger.owed = self.ledger.written

    def close(self):
        if self.ledger.lost or self.transport is None:
            return
        self.orderly()
        self.ledger.ended = self.ledger.ended or "close"
        self.transport.close()

    def abort(self):
        if not self.ledger.lost:
            self.ledger.ended = "abort"
        self.transport.abort()

    def write_eof(self):
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.orderly()
            self.ledger.eof_written = True
            with contextlib.suppress(OSError):  # asyncio says so if the peer is gone already.
                self.transport.write_eof()

    def fail(self):
        """Raise: in a callback of the protocol it may end the connection, elsewhere not."""
        self.ledger.raised += 1
        raise Mischief(*self.ledger.events[-1:])


class Stream(Behaviour):
    """The callbacks that plain and buffered protocols share."""

    def connection_made(self, transport):
        self.transport = transport
        self.ledger.enter(self, "made")
        self.act()

    def eof_received(self):
        self.ledger.enter(self, "eof")
        self.ledger.end_of_file()
        self.act()
        if self.chance.random() < 0.5:
            self.loop.call_later(self.chance.random() * 0.01, self.close)
            return True
        self.orderly()
        return None

    def pause_writing(self):
        self.ledger.enter(self, "pause")
        self.ledger.pause(True)
        self.act()

    def resume_writing(self):
        self.ledger.enter(self, "resume")
        self.ledger.pause(False)
        self.act()

    def connection_lost(self, error):
        self.ledger.enter(self, "lost")
        self.ledger.gone(error)
        self.act()


class Wild(Stream, asyncio.Protocol):
    """A plain protocol."""

    def data_received(self, data):
        self.ledger.enter(self, "data")
        self.ledger.data(data)
        self.act()


class WildBuffered(Stream, asyncio.BufferedProtocol):
    """One that lends its own buffer, of changing size."""

    def get_buffer(self, sizehint):
        if self.ledger.lost:
            self.ledger.breaks("get_buffer after connection_lost")
        self.lent = memoryview(bytearray(self.chance.choice([1, 10, 1000, 100_000])))
        is_asyncios = isinstance(self.loop, asyncio.SelectorEventLoop)
        self.ledger.lacked_room |= self.ledger.is_tls and is_asyncios
        return self.lent

    def buffer_updated(self, count):
        self.ledger.enter(self, "data")
        self.ledger.data(bytes(self.lent[:count]))
        self.act()


class WildDatagrams(asyncio.DatagramProtocol):
    """Datagrams: each must be one that was sent, whole; the answers are numbered as well."""

    def __init__(self, ledger, loop, chance):
        self.ledger, self.loop, self.chance = ledger, loop, chance
        self.arrived, self.errors, self.sent = [], [], 0
        ledger.current = self

    def connection_made(self, transport):
        self.transport = transport
        self.ledger.enter(self, "made")

    def datagram_received(self, data, address):
        self.ledger.enter(self, "datagram")
        if self.ledger.ended in ("close", "abort"):
            self.ledger.breaks(f"a datagram after {self.ledger.ended}()")
        self.arrived.append(data)
        if self.chance.random() < 0.3:
            self.send(address)
        if self.chance.random() < 0.01:
            self.ledger.raised += 1
            raise Mischief("datagram")

    def send(self, address=None):
        data = datagram("ours", self.sent, self.chance.choice([0, 1, 100, 1400, 9000]))
        self.sent += 1
        self.transport.sendto(data, address)

    def error_received(self, error):
        self.ledger.enter(self, "error")
        self.errors.append(error)
        if not isinstance(error, OSError):
            self.ledger.breaks(f"error_received was told {error!r}")

    def pause_writing(self):
        self.ledger.enter(self, "pause")
        self.ledger.pause(True)

    def resume_writing(self):
        self.ledger.enter(self, "resume")
        self.ledger.pause(False)

    def connection_lost(self, error):
        self.ledger.enter(self, "lost")
        self.ledger.gone(error)


def datagram(side, number, size):
    """A datagram that says which it is; the empty one says nothing."""
    return b"" if size == 0 else b"%d:" % number + piece(side, number * 31, size)


def number_of(side, data):
    """Which datagram this is, None for the empty one; raises ValueError for a damaged one."""
    if not data:
        return None
    head, _, body = data.partition(b":")
    number = int(head)
    if piece(side, number * 31, len(body)) != body:
        raise ValueError(f"datagram {number} was changed")
    return number


class WildChild(asyncio.SubprocessProtocol):
    """A child process: its pipes, its end, and the order of what is told about them."""

    def __init__(self, ledger, loop, chance):
        self.ledger, self.loop, self.chance = ledger, loop, chance
        self.output = {1: bytearray(), 2: bytearray()}
        self.ends, self.exits = [], 0
        ledger.current = self

    def connection_made(self, transport):
        self.transport = transport
        self.ledger.enter(self, "made")

    def pipe_data_received(self, fd, data):
        self.ledger.enter(self, f"data{fd}")
        if fd in self.ends:
            self.ledger.breaks(f"data of pipe {fd} after its end")
        self.output[fd] += data

    def pipe_connection_lost(self, fd, error):
        self.ledger.enter(self, f"end{fd}")
        if fd in self.ends:
            self.ledger.breaks(f"pipe {fd} ended twice")
        self.ends.append(fd)

    def process_exited(self):
        self.ledger.enter(self, "exited")
        self.exits += 1
        if self.transport.get_returncode() is None:
            self.ledger.breaks("process_exited without a return code")

    def connection_lost(self, error):
        self.ledger.enter(self, "lost")
        self.ledger.gone(error)
        if self.exits != 1:
            self.ledger.breaks(f"process_exited {self.exits} times before connection_lost")
