"""`open_connection`, `start_server` and their Unix forms; what of a `StreamWriter` awaits.

Runs once per connection or server. The classes are Rust's; arguments are those of
`asyncio.streams`. Never touches a byte of a stream.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from . import _aioxide
from ._aioxide import StreamReader, StreamReaderProtocol, StreamWriter

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


async def start_tls(
    self: Any,
    sslcontext: Any,
    *,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> None:
    """Put TLS on this stream, after what was written before is on its way.

    As the server if `start_server` made the stream. Raises what the handshake raises, after which
    the connection is closed.
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


async def _drain_of_other(self: Any) -> None:
    """`drain()` with a protocol that is not ours."""
    if self._reader is not None and (error := self._reader.exception()) is not None:
        raise error
    if self._transport.is_closing():
        # The protocol is told of the end in a turn of the loop.
        await asyncio.sleep(0)
    await self._protocol._drain_helper()


async def _wait_closed_of_other(self: Any) -> None:
    """`wait_closed()` with a protocol that is not ours."""
    await self._protocol._get_close_waiter(self)


def _complete_stream_writer() -> None:
    """Give the compiled class its half that awaits."""
    for method in (start_tls, _drain_of_other, _wait_closed_of_other):
        method.__qualname__ = f"StreamWriter.{method.__name__}"
        setattr(_aioxide.StreamWriter, method.__name__, method)


_complete_stream_writer()


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.streams` did."""
    return getattr(asyncio.streams, name)
