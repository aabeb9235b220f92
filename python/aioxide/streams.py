"""`open_connection`, `start_server` and their Unix forms; what of a stream awaits.

The classes are compiled; arguments are those of `asyncio.streams`. Never touches a byte of a
stream.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from ._aioxide import StreamReader, StreamReaderProtocol, StreamWriter
from ._methods import complete

__all__ = ("open_connection", "open_unix_connection", "start_server", "start_unix_server")

DEFAULT_LIMIT = 2**16


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = DEFAULT_LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect and return `(reader, writer)`.

    `limit`, in bytes, is the longest line that `readline()` gives, and half of what is kept before
    the peer is slowed down. All else is `loop.create_connection`'s. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    protocol = _client(loop, limit)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **kwds)
    return _ends(loop, transport, protocol)


async def open_unix_connection(
    path: Any = None, *, limit: int = DEFAULT_LIMIT, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect to the Unix socket at `path`; all else as `open_connection`."""
    loop = asyncio.get_running_loop()
    protocol = _client(loop, limit)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **kwds)
    return _ends(loop, transport, protocol)


async def start_server(
    client_connected_cb: Callable[[StreamReader, StreamWriter], Any],
    host: Any = None,
    port: Any = None,
    *,
    limit: int = DEFAULT_LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Listen, and call `client_connected_cb(reader, writer)` for each connection.

    It may be a coroutine function, whose task is then watched: if it fails, that is told to the
    loop's exception handler and the connection is closed. All else is `loop.create_server`'s.
    """
    loop = asyncio.get_running_loop()
    factory = _accepting(loop, client_connected_cb, limit)
    return await loop.create_server(factory, host, port, **kwds)


async def start_unix_server(
    client_connected_cb: Callable[[StreamReader, StreamWriter], Any],
    path: Any = None,
    *,
    limit: int = DEFAULT_LIMIT,
    **kwds: Any,
) -> asyncio.Server:
    """Listen on the Unix socket at `path`; all else as `start_server`."""
    loop = asyncio.get_running_loop()
    factory = _accepting(loop, client_connected_cb, limit)
    return await loop.create_unix_server(factory, path, **kwds)


def _client(loop: Any, limit: int) -> StreamReaderProtocol:
    return StreamReaderProtocol(StreamReader(limit, loop), None, loop)


def _ends(
    loop: Any, transport: Any, protocol: StreamReaderProtocol
) -> tuple[StreamReader, StreamWriter]:
    reader = protocol._stream_reader
    return reader, StreamWriter(transport, protocol, reader, loop)


def _accepting(loop: Any, handler: Any, limit: int) -> Callable[[], StreamReaderProtocol]:
    def accept() -> StreamReaderProtocol:
        return StreamReaderProtocol(StreamReader(limit, loop), handler, loop)

    return accept


# The loop of a read stands in each of the four: in a coroutine of its own it would cost every read
# that waits one coroutine more.
@complete(StreamReader)
class _StreamReader(StreamReader):
    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, as soon as there are any; everything until the end if `n` is negative.

        `b""` at the end of the stream. Raises what ended the connection.
        """
        data = self._read(n)
        while type(data) is not bytes:
            try:
                await data
            except BaseException:
                self._give_up(data)
                raise
            data = self._read(n, data)
        return data

    async def readline(self) -> bytes:
        """One line with its end; what is left, without one, at the end of the stream.

        Raises ValueError if the line is longer than the limit, and drops it.
        """
        data = self._readline()
        while type(data) is not bytes:
            try:
                await data
            except BaseException:
                self._give_up(data)
                raise
            data = self._readline(data)
        return data

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Everything up to and with `separator`: bytes, or a tuple; the first to end counts.

        Raises IncompleteReadError at the end of the stream, LimitOverrunError if what precedes the
        separator is longer than the limit (it stays to be read), ValueError for an empty separator.
        """
        data = self._readuntil(separator)
        while type(data) is not bytes:
            try:
                await data
            except BaseException:
                self._give_up(data)
                raise
            data = self._readuntil(separator, data)
        return data

    async def readexactly(self, n: int) -> bytes:
        """Exactly `n` bytes, however many that is.

        Raises IncompleteReadError at the end of the stream, ValueError if `n` is negative.
        """
        data = self._readexactly(n)
        while type(data) is not bytes:
            try:
                await data
            except BaseException:
                self._give_up(data)
                raise
            data = self._readexactly(n, data)
        return data

    async def __anext__(self) -> bytes:
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    async def _wait_for_data(self, func_name: str) -> None:
        waiter = self._line_up(func_name)
        try:
            await waiter
        finally:
            self._leave(waiter)


@complete(StreamReaderProtocol)
class _StreamReaderProtocol(StreamReaderProtocol):
    async def _drain_helper(self) -> None:
        waiter = self._line_up_to_drain()
        if waiter is not None:
            try:
                await waiter
            finally:
                self._leave(waiter)

    async def _wait_closed(self) -> None:
        waiter = self._line_up_to_close()
        if waiter is not None:
            try:
                await waiter
            finally:
                self._leave(waiter)


@complete(StreamWriter)
class _StreamWriter(StreamWriter):
    async def drain(self) -> None:
        """Wait until so much is sent that more can be written.

        Raises what ended the connection, ConnectionResetError if that was no error.
        """
        if self._is_drained():
            return
        if self._reader is not None and (error := self._reader.exception()) is not None:
            raise error
        if self._transport.is_closing():
            # The protocol is told of the end in a turn of the loop, and whoever writes and drains
            # without end must hear of it.
            await asyncio.sleep(0)
        await self._protocol._drain_helper()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed; raises what ended it."""
        if type(self._protocol) is StreamReaderProtocol:
            await self._protocol._wait_closed()
        else:
            await self._protocol._get_close_waiter(self)

    async def start_tls(
        self,
        sslcontext: Any,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        """Put TLS on this stream, after what was written before is on its way.

        As the server if `start_server` made the stream. Raises what the handshake raises, after
        which the connection is closed.
        """
        protocol = self._protocol
        server_side = protocol._client_connected_cb is not None
        await self.drain()
        self._transport = await self._loop.start_tls(
            self._transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        protocol._replace_transport(self._transport)


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.streams` did."""
    return getattr(asyncio.streams, name)
