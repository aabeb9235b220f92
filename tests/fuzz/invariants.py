"""What must hold whatever a peer does: the ledger of one connection, and what it must not show.

Called by protocols.py, which enters what the loop calls, and by scenarios.py, which settles the
ledger against what the peer saw.  Nothing here calls a loop, opens a socket or draws by chance.
"""

import errno
import gc
import os
import random

LENGTH = 1_000_003  # A prime, so that no buffer size divides it.
STREAMS = {side: random.Random(side).randbytes(LENGTH) for side in ("ours", "theirs")}


class Broken(AssertionError):
    """An invariant did not hold."""


class Mischief(Exception):
    """What our protocols raise on purpose: reported once each, and nobody else is harmed."""


def piece(side, start, count):
    """`count` bytes of one side's endless stream, from `start` on."""
    blob, start = STREAMS[side], start % LENGTH
    found = blob[start : start + count]
    while len(found) < count:
        found += blob[: count - len(found)]
    return found


class Ledger:
    """One connection of ours: what the loop told its protocol, and what we asked for."""

    def __init__(self, name, is_tls=False):
        self.name = name
        self.is_tls = is_tls
        self.made = self.lost = 0
        self.error = None
        self.received = self.written = 0
        self.owed = None  # Bytes written when we first asked for an orderly end.
        self.ended = None  # How we ended it ourselves: close, abort or cancelled.
        self.eof = self.eof_written = False
        self.pauses = 0
        self.is_paused = False
        self.reading_paused = False
        self.is_upgrade_refused = False
        self.lacked_room = False  # A buffered protocol over asyncio's TLS lent small buffers.
        self.raised = 0
        self.current = None  # The protocol that is to be told.
        self.events = []
        self.broken = []

    def __str__(self):
        facts = {name: value for name, value in vars(self).items() if value not in (None, False)}
        del facts["events"], facts["broken"]
        return f"{facts}, last events: {' '.join(self.events[-20:])}"

    def breaks(self, what):
        self.broken.append(f"{self.name}: {what} (events: {' '.join(self.events[-12:])})")

    def enter(self, protocol, event):
        """The loop called `event` on `protocol`."""
        self.events.append(event)
        if self.lost and event != "lost":
            self.breaks(f"{event} after connection_lost")
        if event == "made":
            self.made += 1
            if self.made > 1:
                self.breaks("connection_made twice")
        elif not self.made and not self.is_upgrade_refused:
            self.breaks(f"{event} before connection_made")
        if protocol is not self.current:
            self.breaks(f"{event} went to a protocol that had been replaced")

    def data(self, data):
        """Bytes arrived: they must be the next of the peer's stream."""
        if not data:
            self.breaks("empty data_received")
        if self.eof:
            self.breaks("data after eof_received")
        if self.reading_paused:
            self.breaks("data while reading was paused")
        if self.ended in ("close", "abort") and not self.is_tls:
            self.breaks(f"data after {self.ended}()")
        if piece("theirs", self.received, len(data)) != data:
            self.breaks(f"{len(data)} bytes at {self.received} differ from what was sent")
        self.received += len(data)

    def end_of_file(self):
        if self.eof:
            self.breaks("eof_received twice")
        self.eof = True

    def pause(self, is_paused):
        """pause_writing and resume_writing take turns."""
        if self.is_paused == is_paused:
            self.breaks("pause_writing twice" if is_paused else "resume_writing without a pause")
        self.is_paused = is_paused
        self.pauses += is_paused

    def gone(self, error):
        self.lost += 1
        self.error = error
        if self.lost > 1:
            self.breaks("connection_lost twice")

    def settle(self, peer):
        """The connection is over: compare it with what the peer saw."""
        self.events.append(str(peer))
        if self.made != self.lost:
            self.breaks(f"connection_made {self.made} times, connection_lost {self.lost} times")
        self.broken += [f"{self.name}: {what}" for what in peer.broken]
        most = max(peer.sent, peer.offered)
        if self.received > most:
            self.breaks(f"received {self.received} bytes of {peer.sent}")
        if peer.received > self.written:
            self.breaks(f"the peer received {peer.received} bytes of {self.written} written")
        if peer.is_mangled:
            return
        # asyncio loses what had no room in the buffer lent last, when the stream is cut off while
        # reading is paused.
        if self.eof and not peer.sent <= self.received <= most and not self.lacked_room:
            self.breaks(f"the stream ended after {self.received} bytes of {peer.sent}")
        by_us = self.ended in ("abort", "cancelled") or self.raised
        owed = self.written if self.owed is None else self.owed
        # Who has said goodbye over TLS reads nothing more.
        reads = peer.saw_eof and not (self.is_tls and peer.finned)
        if reads and not by_us and self.error is None and self.made:
            if peer.received < owed:
                self.breaks(f"the peer read {peer.received} bytes to the end, owed were {owed}")
        self.settle_error(peer, by_us)

    def settle_error(self, peer, by_us):
        """What connection_lost was told."""
        if self.raised and isinstance(self.error, Mischief):
            return
        if peer.was_orderly and not by_us and self.error is not None and not self.is_tls:
            self.breaks(f"an orderly end was reported as {self.error!r}")
        provoked = self.ended is None and self.owed is None and not self.raised
        if peer.was_reset and not peer.finned and provoked and self.made and not self.is_tls:
            allowed = (errno.ECONNRESET, errno.EPIPE) if self.written else (errno.ECONNRESET,)
            if not isinstance(self.error, OSError) or self.error.errno not in allowed:
                self.breaks(f"a reset was reported as {self.error!r}")
        if self.error is not None and not isinstance(self.error, OSError | Mischief):
            self.breaks(f"connection_lost was told {self.error!r}")


def descriptors():
    """The open descriptors of this process, and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def children():
    """The processes this one has started and not yet waited for."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


def survivors(references):
    """What should be gone by now and is not, told by weak references."""
    for _ in range(3):
        gc.collect()
    return [repr(found)[:200] for found in (reference() for reference in references) if found]
