"""Sockets, protocols and deadlines that the network tests share.

Called by the test modules of transports, servers, socket calls, watchers and TLS.
Everything binds 127.0.0.1 (or ::1) on port 0; nothing here reaches another machine.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import socket
import time

DEADLINE = 30.0
"""Seconds after which a wait has failed; a busy machine stays far below."""


def on_loop(test):
    """Run an async test on its `loop` fixture, within the deadline."""

    @functools.wraps(test)
    def run(**fixtures):
        async def bounded():
            async with asyncio.timeout(DEADLINE):
                await test(**fixtures)

        fixtures["loop"].run_until_complete(bounded())

    return run


async def until(condition):
    """Wait until `condition()` holds, while the loop turns."""
    limit = time.monotonic() + DEADLINE / 2
    while not condition():
        assert time.monotonic() < limit, "what the test waits for did not happen"
        await asyncio.sleep(0.001)


def wait_until(condition, deadline=DEADLINE):
    """The same for a test that stands outside any loop."""
    limit = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < limit, "the deadline passed"
        time.sleep(0.005)


def listener(host="127.0.0.1", backlog=100):
    """A non-blocking socket that listens on a free port of loopback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, 0))
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def connected_pair(send_buffer=None, receive_buffer=None):
    """Two connected, non-blocking TCP sockets; small buffers make partial writes."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        if receive_buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        near = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if send_buffer is not None:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        near.connect(listening.getsockname())
        far, _ = listening.accept()
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return near, far


@contextlib.contextmanager
def socket_pair(**buffers):
    """`connected_pair`, closed at the end."""
    near, far = connected_pair(**buffers)
    with near, far:
        yield near, far


@contextlib.contextmanager
def pair_at(number):
    """Two connected sockets, the first of which has this descriptor number, free until now."""
    with contextlib.suppress(OSError):
        os.fstat(number)
        raise AssertionError(f"descriptor {number} is in use")
    with contextlib.ExitStack() as stack:
        low = [stack.enter_context(sock) for sock in socket.socketpair()]
        high = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, number + 10) for sock in low]
    os.dup2(high[0], number, inheritable=False)
    os.close(high[0])
    with socket.socket(fileno=number) as near, socket.socket(fileno=high[1]) as far:
        for sock in (near, far):
            sock.setblocking(False)
        yield near, far


def free_port(host="127.0.0.1"):
    """A port of loopback that nobody has at this moment."""
    with listener(host) as sock:
        return sock.getsockname()[1]


@contextlib.contextmanager
def refusing(*hosts):
    """An address on each of `hosts` that is taken but refuses every connection."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.bind((host, 0))
            addresses.append(sock.getsockname())
        yield addresses


def reset(sock):
    """Close `sock` so that its peer is sent a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


class Recorder(asyncio.Protocol):
    """Remembers its events in order, and wakes whoever waits for one of them."""

    def __init__(self, keep_open=False):
        self.events = []
        self.received = bytearray()
        self.error = None
        self.transport = None
        self.keep_open = keep_open

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        assert type(data) is bytes
        self.received += data
        if self.events[-1] != "data":
            self.events.append("data")

    def eof_received(self):
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.error = exc
        self.events.append("lost")

    async def has(self, event):
        await until(lambda: event in self.events)

    async def has_bytes(self, count):
        await until(lambda: len(self.received) >= count)


class BufferedRecorder(asyncio.BufferedProtocol):
    """The same for a protocol that lends its buffer; `size` bytes at a time."""

    __init__ = Recorder.__init__
    connection_made = Recorder.connection_made
    eof_received = Recorder.eof_received
    pause_writing = Recorder.pause_writing
    resume_writing = Recorder.resume_writing
    connection_lost = Recorder.connection_lost
    has = Recorder.has
    has_bytes = Recorder.has_bytes
    size = 7

    def get_buffer(self, sizehint):
        assert sizehint >= -1
        self.lent = memoryview(bytearray(self.size))
        return self.lent

    def buffer_updated(self, count):
        assert 0 < count <= self.size
        self.received += self.lent[:count]
        if self.events[-1] != "data":
            self.events.append("data")


@contextlib.asynccontextmanager
async def wired(loop, protocol, **buffers):
    """A transport with `protocol` on one end, a plain non-blocking socket on the other."""
    near, far = connected_pair(**buffers)
    with far:
        try:
            transport, made = await loop.create_connection(lambda: protocol, sock=near)
        except BaseException:
            near.close()
            raise
        assert made is protocol
        try:
            yield transport, far
        finally:
            await closed(transport)


async def closed(transport):
    """Abort `transport` and wait until its descriptor is released."""
    sock = transport.get_extra_info("socket")
    if sock.fileno() != -1:
        transport.abort()
    await until(lambda: sock.fileno() == -1)


async def read_to_eof(loop, sock):
    """Everything the peer of `sock` still sends."""
    received = bytearray()
    while data := await loop.sock_recv(sock, 65536):
        received += data
    return bytes(received)


async def read_exactly(loop, sock, count):
    """The next `count` bytes from `sock`."""
    received = bytearray()
    while len(received) < count:
        data = await loop.sock_recv(sock, count - len(received))
        assert data, "the stream ended early"
        received += data
    return bytes(received)


async def read_to_the_end(loop, sock):
    """The same from a peer that may also end with a reset."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(sock, 65536):
            received += data
    return bytes(received)
