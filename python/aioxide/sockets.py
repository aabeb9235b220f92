"""The `sock_*` coroutines: non-blocking sockets that the program keeps in its own hands.

`sock_recv`, `sock_recv_into` and `sock_sendall` are tried and completed in Rust; the rarer calls
wait with a reader or writer here. A call that is cancelled leaves nothing registered.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from .connecting import refuse_ssl_socket

__all__ = ("SocketMixin",)


# A socket of exactly this class needs no closer look: the three busiest calls ask for that
# themselves, because a call of `_check_socket` would be a hundredth of a message.
_Socket = socket.socket


class SocketMixin:
    """Socket calls of `EventLoop`."""

    __slots__ = ()

    def _check_socket(self: Any, sock: Any) -> int:
        """The descriptor of `sock`, refused where asyncio refuses it."""
        refuse_ssl_socket(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        return sock.fileno()  # type: ignore[no-any-return]

    async def sock_recv(self: Any, sock: Any, n: int) -> bytes:
        """Receive up to `n` bytes; empty when the peer has closed its side."""
        plain = type(sock) is _Socket and not self.get_debug()
        fd = sock.fileno() if plain else self._check_socket(sock)
        try:
            data = self._receive(fd, n)
        except OverflowError:
            if n < 0:
                raise ValueError("negative buffersize in recv") from None
            raise
        if type(data) is bytes:
            return data
        try:
            return await data  # type: ignore[no-any-return]
        except BaseException:
            self._forget(fd, data)
            raise

    async def sock_recv_into(self: Any, sock: Any, buf: Any) -> int:
        """Receive into a writable buffer; returns the number of bytes."""
        plain = type(sock) is _Socket and not self.get_debug()
        fd = sock.fileno() if plain else self._check_socket(sock)
        try:
            count = self._receive_into(fd, buf)
        except BufferError:
            raise TypeError(
                f"a writable bytes-like object is required, not {type(buf).__name__!r}"
            ) from None
        if type(count) is int:
            return count
        try:
            return await count  # type: ignore[no-any-return]
        except BaseException:
            self._forget(fd, count)
            raise

    async def sock_sendall(self: Any, sock: Any, data: Any) -> None:
        """Send all of `data`; after an error it is unknown how much was sent."""
        plain = type(sock) is _Socket and not self.get_debug()
        fd = sock.fileno() if plain else self._check_socket(sock)
        sent = self._send_all(fd, data)
        if sent is None:
            return
        try:
            await sent
        except BaseException:
            self._forget(fd, sent)
            raise

    async def sock_recvfrom(self: Any, sock: Any, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes; returns `(data, address)`."""
        return await self._when_readable(  # type: ignore[no-any-return]
            sock, lambda: sock.recvfrom(bufsize)
        )

    async def sock_recvfrom_into(
        self: Any, sock: Any, buf: Any, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into a buffer; returns `(count, address)`."""
        nbytes = nbytes or len(buf)
        return await self._when_readable(  # type: ignore[no-any-return]
            sock, lambda: sock.recvfrom_into(buf, nbytes)
        )

    async def sock_sendto(self: Any, sock: Any, data: Any, address: Any) -> int:
        """Send a datagram; returns the number of bytes sent."""
        return await self._when_writable(  # type: ignore[no-any-return]
            sock, lambda: sock.sendto(data, address)
        )

    async def sock_accept(self: Any, sock: Any) -> tuple[Any, Any]:
        """Accept a connection; returns `(socket, address)`, the socket non-blocking."""
        connection, address = await self._when_readable(sock, sock.accept)
        connection.setblocking(False)
        return connection, address

    async def sock_connect(self: Any, sock: Any, address: Any) -> None:
        """Connect to `address`; a host name in it is resolved first."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            found = await self._resolve(
                address[:2],
                family=sock.family,
                type=sock.type,
                proto=sock.proto,
            )
            address = found[0][4]
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError) as error:
            full = sock.family == socket.AF_UNIX and error.errno == errno.EAGAIN
        if full:
            await connect_when_accepted(sock, address)
            return

        def outcome() -> None:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, f"Connect call failed {address}")

        await self._wait_for(sock.fileno(), outcome, self._add_writer, self._remove_writer)

    async def _when_readable(self: Any, sock: Any, call: Callable[[], Any]) -> Any:
        fd = self._check_socket(sock)
        try:
            return call()
        except (BlockingIOError, InterruptedError):
            return await self._wait_for(fd, call, self._add_reader, self._remove_reader)

    async def _when_writable(self: Any, sock: Any, call: Callable[[], Any]) -> Any:
        fd = self._check_socket(sock)
        try:
            return call()
        except (BlockingIOError, InterruptedError):
            return await self._wait_for(fd, call, self._add_writer, self._remove_writer)

    async def _wait_for(
        self: Any,
        fd: int,
        call: Callable[[], Any],
        add: Callable[..., Any],
        remove: Callable[[int], bool],
    ) -> Any:
        """Repeat `call` each time `fd` is ready, until it does not block."""
        self._ensure_no_transport(fd)
        future: Any = self.create_future()

        def attempt() -> None:
            if future.done():
                return
            try:
                result = call()
            except (BlockingIOError, InterruptedError):
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        handle = add(fd, attempt)
        try:
            return await future
        finally:
            # Somebody who waits on the same descriptor since then keeps waiting.
            if not handle.cancelled():
                remove(fd)
            # An error holds this frame through its traceback, and must not hold itself.
            future = None


async def connect_when_accepted(sock: Any, address: Any) -> None:
    """Connect to a Unix server whose backlog is full.

    Nothing is under way then, and the kernel tells nobody when there is room: it is asked again,
    after a millisecond first and 50 at most.
    """
    pause = 0.001
    while True:
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            continue
