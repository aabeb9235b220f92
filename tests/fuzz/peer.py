"""The other end of a connection: a raw socket in its own thread that behaves as badly as drawn.

Started by scenarios.py, one peer per connection.  Its whole plan is drawn from a seed before it
begins.  It counts what the kernel took and gave, never touches a loop, and always ends.
"""

import contextlib
import socket
import ssl
import time

from invariants import piece

LINGER_NOT = b"\x01\0\0\0\0\0\0\0"
SIZES = (0, 1, 2, 100, 1000, 5000, 65_536, 200_000)
STEPS = {"send": 8, "receive": 6, "nap": 3, "finish": 1, "deafen": 0.2}
ENDS = {"orderly": 6, "close": 2, "reset": 2, "listen": 2}
PATIENCE = 20.0
BROKEN = (ConnectionError, TimeoutError, OSError)


def reset(sock):
    """Close with a reset in place of a FIN."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    sock.close()


class Peer:
    """A plan and what came of it."""

    def __init__(self, chance, *, is_tcp=True, gentle=False):
        self.chance = chance
        self.sent = self.received = 0
        self.offered = 0  # Taken perhaps, if a call that sent them failed half-way.
        self.finned = self.saw_eof = self.was_reset = self.was_orderly = False
        self.is_mangled = self.is_deaf = False
        self.broken = []
        count = chance.choice([0, 1, 3, 10, 30])
        self.plan = chance.choices(list(STEPS), list(STEPS.values()), k=count)
        if gentle:
            self.plan = [step for step in self.plan if step != "deafen"]
        self.end = chance.choices(list(ENDS), list(ENDS.values()))[0]
        if gentle or (self.end == "reset" and not is_tcp):
            self.end = "orderly"
        self.window = chance.choice([None, None, 4096, 20_000]) if is_tcp else None
        if self.window is not None and self.end in ("close", "listen"):
            # With a window of nothing the kernel may need minutes to tell us that the peer went.
            self.end = "orderly"

    def __str__(self):
        names = ("sent", "received", "finned", "saw_eof", "was_reset", "was_orderly", "is_mangled")
        facts = {name: getattr(self, name) for name in names if getattr(self, name)}
        facts |= {"window": self.window, "mangle": getattr(self, "mangle", None)}
        return f"[peer: {' '.join(self.plan)}, end {self.end}, {facts}]"

    def prepare(self, sock):
        """Options that count before the connection is made."""
        if self.window is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)

    def run(self, sock):
        """Carry the plan out on a connected socket, which is closed at the end."""
        self.sock = sock
        sock.settimeout(0.02)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.begin()
            for step in self.plan:
                getattr(self, step)()
            getattr(self, "end_" + self.end)()
        except BROKEN:
            pass
        finally:
            sock.close()

    def begin(self):
        """What must come first; a TLS peer shakes hands here."""

    def put(self, data):
        """Send some of `data`; how much was taken."""
        return self.sock.send(data)

    def take(self, count):
        """Receive at most `count` bytes."""
        return self.sock.recv(count)

    def send(self):
        rest = self.chance.choice(SIZES)
        while rest and not self.finned:
            data = piece("theirs", self.sent, min(rest, self.chance.choice([1, 1000, 100_000])))
            self.offered = self.sent + len(data)
            try:
                taken = self.put(data)
            except TimeoutError:
                return
            self.sent += taken
            rest -= taken
            if self.chance.random() < 0.1:
                return

    def receive(self, count=None):
        """One read; says whether there may be more."""
        try:
            data = self.take(count or self.chance.choice([1, 100, 65_536]))
        except TimeoutError:
            return True
        if piece("ours", self.received, len(data)) != data:
            self.broken.append(f"{len(data)} bytes at {self.received} reached the peer changed")
        self.received += len(data)
        self.saw_eof = self.saw_eof or not (data or self.is_deaf)
        return bool(data)

    def nap(self):
        time.sleep(self.chance.choice([0, 0.0005, 0.003]))

    def finish(self):
        """Half-close: we shall send nothing more."""
        self.sock.shutdown(socket.SHUT_WR)
        self.finned = True

    def deafen(self):
        """The other half-close."""
        if self.window is not None:
            return
        self.is_deaf = True
        self.sock.shutdown(socket.SHUT_RD)
        self.end = "close"

    def drain(self):
        limit = time.monotonic() + PATIENCE
        while self.receive(65_536):
            if time.monotonic() > limit:
                self.broken.append(f"the connection was not ended within {PATIENCE:.0f} seconds")
                return

    def end_orderly(self):
        if not self.finned:
            self.finish()
        self.drain()
        self.was_orderly = self.saw_eof

    def end_listen(self):
        """Read for a while, then go."""
        for _ in range(self.chance.randrange(10)):
            if not self.receive():
                break

    def end_close(self):
        self.sock.close()

    def end_reset(self):
        reset(self.sock)
        self.was_reset = True


class TlsPeer(Peer):
    """The same over TLS, driven by hand so that records can be cut, flipped and forged."""

    MANGLES = (None, None, None, "flip", "cut", "forge", "plain", "garbage", "silent")
    FORGERIES = (
        b"\x17\x03\x03\xff\xff" + bytes(100),  # A record longer than any may be.
        b"\x17\x03\x03\x00\x00",  # An empty record.
        b"\x15\x03\x03\x00\x02\x02\x28",  # A fatal alert, in the clear.
        b"\x15\x03\x03\x00\x02\x01\x00",  # close_notify, in the clear.
        b"\x14\x03\x03\x00\x01\x01" * 40,  # Many changes of the cipher.
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",  # Half of a hello.
    )

    def __init__(self, chance, context, *, server_side, gentle=False):
        super().__init__(chance, gentle=gentle)
        self.context, self.server_side = context, server_side
        self.mangle = None if gentle else chance.choice(self.MANGLES)
        self.is_mangled = self.mangle is not None
        # Who has changed the length of a record may wait for an answer for ever.
        self.patience = 0.3 if self.is_mangled else PATIENCE
        self.mangle_at = chance.choice([0, 1, 5, 100, 600, 2000, 5000])
        self.raw_sent = 0
        self.notified = False

    def begin(self):
        if self.mangle == "plain":
            self.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        elif self.mangle == "garbage":
            self.sock.sendall(self.chance.randbytes(self.mangle_at + 1))
        if self.mangle in ("plain", "garbage", "silent"):
            self.plan = ["nap"]
            self.end = self.chance.choice(["close", "reset"])
            return
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if self.server_side else "localhost"
        self.object = self.context.wrap_bio(
            self.incoming, self.outgoing, server_side=self.server_side, server_hostname=name
        )
        limit = time.monotonic() + self.patience
        while True:
            try:
                return self.call(self.object.do_handshake)
            except TimeoutError:
                if time.monotonic() > limit:
                    raise

    def call(self, function, *arguments):
        """Call into the TLS object, moving records as it asks; a timeout may interrupt it."""
        while True:
            try:
                answer = function(*arguments)
            except ssl.SSLWantReadError:
                self.push()
                self.pull()
            except ssl.SSLError:
                self.push()
                raise
            else:
                self.push()
                return answer

    def push(self):
        """Send what the TLS object has to say, damaged if so drawn."""
        data = self.outgoing.read()
        at = self.mangle_at - self.raw_sent
        self.raw_sent += len(data)
        if self.mangle is not None and 0 <= at < len(data):
            data = getattr(self, "mangle_" + self.mangle)(data, at)
        cut = self.chance.choice([len(data), 1, 7, 3000]) if len(data) > 1 else 1
        self.raw(data[:cut])
        self.raw(data[cut:])

    def raw(self, data):
        limit = time.monotonic() + self.patience
        while data:
            try:
                data = data[self.sock.send(data) :]
            except TimeoutError:
                if time.monotonic() > limit:
                    if not self.is_mangled:
                        self.broken.append("the connection was neither read nor ended")
                    raise

    def mangle_flip(self, data, at):
        return data[:at] + bytes([data[at] ^ 1 << self.chance.randrange(8)]) + data[at + 1 :]

    def mangle_forge(self, data, at):
        return data + self.chance.choice(self.FORGERIES)

    def mangle_cut(self, data, at):
        self.raw(data[:at])
        self.chance.choice([self.end_close, self.end_reset])()
        raise ConnectionAbortedError

    def pull(self):
        data = self.sock.recv(65_536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def put(self, data):
        return self.call(self.object.write, data) if data else 0

    def take(self, count):
        try:
            return self.call(self.object.read, count)
        except ssl.SSLZeroReturnError:
            return b""

    def finish(self):
        """close_notify, perhaps without waiting for the answer."""
        with contextlib.suppress(ssl.SSLError, TimeoutError):
            self.object.unwrap()
        self.push()
        self.finned = True
        self.plan = [step for step in self.plan if step == "nap"]

    def deafen(self):
        self.nap()

    def end_orderly(self):
        if not self.finned:
            self.finish()
        limit = time.monotonic() + self.patience
        while True:
            with contextlib.suppress(TimeoutError):
                if not self.sock.recv(65_536):
                    return
            if time.monotonic() > limit:
                if not self.is_mangled:
                    self.broken.append(f"the end did not come within {PATIENCE:.0f} seconds")
                return
