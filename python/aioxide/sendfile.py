"""`sendfile` and `sock_sendfile`: a file to a connection, by the kernel where it can.

Runs once per chunk of a file. What is not in the page cache is read by a thread first, so that the
loop does not wait for a disk. Messages, fallbacks and file positions are asyncio's
(`BaseEventLoop.sendfile`, `_UnixSelectorEventLoop._sock_sendfile_native`).
"""

import asyncio
import errno
import io
import os
import posix
import socket
from asyncio import constants
from collections.abc import Awaitable, Callable
from typing import Any

from .connecting import refuse_ssl_socket

__all__ = ("SendfileMixin",)

# `posix.sendfile` and not `os.sendfile`, for the reason given in unix.py.

# What one system call may send, and what is looked for in the page cache before it.
CHUNK = 256 * 1024
# What the fallback for transports reads at once.
FALLBACK_CHUNK = 16 * 1024


class SendfileMixin:
    """Files of `EventLoop`."""

    __slots__ = ()

    async def sendfile(
        self: Any,
        transport: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send `count` bytes (None: all) of a binary `file` from `offset` on; how many were sent.

        The file's position is left after what was sent, also when it ends with an exception. TLS
        needs `fallback`; without it SendfileNotAvailableError or RuntimeError is raised where the
        kernel cannot send the file itself.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        modes = constants._SendfileMode
        mode = getattr(transport, "_sendfile_compatible", modes.UNSUPPORTED)
        if mode is modes.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if mode is modes.TRY_NATIVE:
            try:
                return await self._sendfile_native(  # type: ignore[no-any-return]
                    transport, file, offset, count
                )
            except asyncio.SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(
                "fallback is disabled and native sendfile is not supported for transport "
                f"{transport!r}"
            )
        return await self._sendfile_fallback(  # type: ignore[no-any-return]
            transport, file, offset, count
        )

    async def _sendfile_native(
        self: Any, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        check_parameters(transport.get_extra_info("socket"), file, offset, count)
        descriptor, size = regular_file(file, count)
        if not size:
            return 0
        resume = transport.is_reading()
        transport.pause_reading()
        try:
            empty = transport._make_empty_waiter()
            try:
                await empty
                return await self._send_chunks(  # type: ignore[no-any-return]
                    lambda: transport._sock_fd,
                    transport._wait_writable,
                    descriptor,
                    offset,
                    count,
                )
            finally:
                transport._reset_empty_waiter()
        finally:
            if resume:
                transport.resume_reading()

    async def _sendfile_fallback(
        self: Any, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        if offset:
            file.seek(offset)
        size = min(count, FALLBACK_CHUNK) if count else FALLBACK_CHUNK
        buffer = memoryview(bytearray(size))
        sent = 0
        held = HeldProtocol(transport)
        try:
            while not count or sent < count:
                view = buffer[: min(count - sent, size)] if count else buffer
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    break
                await held.drain()
                transport.write(view[:read])
                sent += read
            return sent
        finally:
            if sent and hasattr(file, "seek"):
                file.seek(offset + sent)
            await held.restore()

    async def sock_sendfile(
        self: Any,
        sock: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """The same for a non-blocking stream socket of the program's own."""
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        refuse_ssl_socket(sock)
        check_parameters(sock, file, offset, count)
        try:
            return await self._sock_sendfile_native(  # type: ignore[no-any-return]
                sock, file, offset, count
            )
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sock_sendfile_fallback(  # type: ignore[no-any-return]
            sock, file, offset, count
        )

    async def _sock_sendfile_native(
        self: Any, sock: Any, file: Any, offset: int, count: int | None
    ) -> int:
        descriptor, size = regular_file(file, count)
        if not size:
            return 0

        async def writable() -> None:
            await self._wait_for(sock.fileno(), lambda: None, self._add_writer, self._remove_writer)

        return await self._send_chunks(  # type: ignore[no-any-return]
            sock.fileno, writable, descriptor, offset, count
        )

    async def _sock_sendfile_fallback(
        self: Any, sock: Any, file: Any, offset: int, count: int | None
    ) -> int:
        if offset:
            file.seek(offset)
        size = constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        size = min(count, size) if count else size
        buffer = memoryview(bytearray(size))
        sent = 0
        try:
            while not count or sent < count:
                view = buffer[: min(count - sent, size)] if count else buffer
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    break
                await self.sock_sendall(sock, view[:read])
                sent += read
            return sent
        finally:
            if sent and hasattr(file, "seek"):
                file.seek(offset + sent)

    async def _send_chunks(
        self: Any,
        target: Callable[[], int],
        writable: Callable[[], Awaitable[None]],
        descriptor: int,
        offset: int,
        count: int | None,
    ) -> int:
        """`os.sendfile` until `count` bytes or the end of the file; the loop turns in between."""
        sent = 0
        try:
            while count is None or sent < count:
                size = CHUNK if count is None else min(count - sent, CHUNK)
                if not in_page_cache(descriptor, offset + sent, size):
                    # Holds a descriptor of its own: the program may close the file meanwhile.
                    copy = FileCopy(descriptor)
                    await self.run_in_executor(None, copy.read, size, offset + sent)
                    del copy
                try:
                    step = posix.sendfile(target(), descriptor, offset + sent, size)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as error:
                    if not sent:
                        # Above all: the file cannot be mapped. Whoever called falls back.
                        message = "os.sendfile call failed"
                        raise asyncio.SendfileNotAvailableError(message) from error
                    if error.errno == errno.ENOTCONN:
                        message = "socket is not connected"
                        raise ConnectionError(message, errno.ENOTCONN) from error
                    raise
                else:
                    if not step:
                        break
                    sent += step
                    if sent == count:
                        break
                await writable()
            return sent
        finally:
            if sent:
                os.lseek(descriptor, offset + sent, os.SEEK_SET)


class HeldProtocol(asyncio.Protocol):
    """Takes the place of a transport's protocol while a file is written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._resume_reading = transport.is_reading()
        self._was_paused = transport._protocol_paused
        self._writable: Any = None
        transport.pause_reading()
        transport.set_protocol(self)
        if self._was_paused:
            self.pause_writing()

    async def drain(self) -> None:
        """Wait until the transport wants more."""
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._writable is not None:
            await self._writable

    async def restore(self) -> None:
        """Give the transport back to its protocol, which is told what it missed."""
        self._transport.set_protocol(self._protocol)
        if self._resume_reading:
            self._transport.resume_reading()
        if self._writable is not None:
            # Nobody waits any more for what never came.
            self._writable.cancel()
        if self._was_paused and not self._transport._protocol_paused:
            self._protocol.resume_writing()
        elif self._transport._protocol_paused and not self._was_paused:
            self._protocol.pause_writing()

    def pause_writing(self) -> None:
        """The transport holds enough."""
        if self._writable is None:
            self._writable = self._transport._loop.create_future()

    def resume_writing(self) -> None:
        """The transport takes more."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Reading is paused."""
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> bool | None:
        """Reading is paused."""
        raise RuntimeError("Invalid state: reading should be paused")

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for the transport waits in vain."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_exception(exc or ConnectionError("Connection is closed by peer"))
            writable.exception()  # Perhaps nobody waits: it is reading the file just now.
        self._protocol.connection_lost(exc)


class FileCopy:
    """A descriptor of one's own for an open file, closed when nobody refers to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)

    def read(self, size: int, offset: int) -> None:
        """Bring this part of the file into the page cache."""
        os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        os.close(self._descriptor)


def in_page_cache(descriptor: int, offset: int, size: int) -> bool:
    """Whether reading this part would not wait; also true where the kernel cannot say."""
    for position in (offset, offset + size - 1):
        try:
            os.preadv(descriptor, [bytearray(1)], position, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


def regular_file(file: Any, count: int | None) -> tuple[int, int]:
    """The descriptor of a file, and how much of it there is to send."""
    try:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
    except (AttributeError, io.UnsupportedOperation, OSError) as error:
        raise asyncio.SendfileNotAvailableError("not a regular file") from error
    return descriptor, count or size


def check_parameters(sock: Any, file: Any, offset: Any, count: Any) -> None:
    """Refuse what cannot be sent, in asyncio's words."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None:
        message = f"count must be a positive integer (got {count!r})"
        if not isinstance(count, int):
            raise TypeError(message)
        if count <= 0:
            raise ValueError(message)
    message = f"offset must be a non-negative integer (got {offset!r})"
    if not isinstance(offset, int):
        raise TypeError(message)
    if offset < 0:
        raise ValueError(message)
