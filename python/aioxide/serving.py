"""`create_server` and `Server`: who listens where, and which clients are connected.

Accepting itself is Rust (`Listener`); this runs once per server, and `_attach`/`_detach` once per
connection. Semantics of `close`, `wait_closed` and `close_clients` are those of the newest CPython
on every supported one.
"""

import asyncio
import collections.abc
import errno
import itertools
import logging
import socket
from asyncio import base_events, trsock
from collections.abc import Callable
from typing import Any

from . import _aioxide
from ._aioxide import gather
from .connecting import check_tls_timeouts, refuse_ssl_socket
from .tls import checked_timeouts

__all__ = ("Server", "ServingMixin")

logger = logging.getLogger("asyncio")


class Server(base_events.Server):
    """Listening sockets and their connections, made by `loop.create_server()`.

    An `asyncio.Server` for those who ask with `isinstance`. Nothing is inherited from it but
    `async with`, so its constructor, whose attributes differ between versions, is not called.
    """

    def __init__(
        self,
        loop: Any,
        sockets: list[socket.socket],
        protocol_factory: Callable[[], Any],
        ssl_context: Any,
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._loop = loop
        self._sockets: list[socket.socket] | None = sockets
        self._listeners: list[Any] = []
        self._clients: set[Any] = set()
        self._unnamed = 0  # Connections that were attached without saying which, as until 3.12.
        self._waiters: list[Any] | None = []
        self._protocol_factory = protocol_factory
        self._backlog = backlog
        self._ssl_context = ssl_context
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._serving = False
        self._serving_forever_fut: Any = None
        # What `close()` removes: the file of a Unix socket.
        self._file: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    @property
    def _active_count(self) -> int:
        return len(self._clients) + self._unnamed

    def _attach(self, transport: Any = None) -> None:
        if transport is None:
            self._unnamed += 1
        else:
            self._clients.add(transport)

    def _detach(self, transport: Any = None) -> None:
        if transport is None:
            self._unnamed -= 1
        else:
            self._clients.discard(transport)
        if not self._active_count and self._sockets is None:
            self._wake_up()

    def _wake_up(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _start_serving(self) -> None:
        if self._serving or self._sockets is None:
            return
        self._serving = True
        tls = None
        if self._ssl_context is not None:
            tls = (
                self._ssl_context,
                *checked_timeouts(self._ssl_handshake_timeout, self._ssl_shutdown_timeout),
            )
        for sock in self._sockets:
            sock.listen(self._backlog)
            self._listeners.append(
                _aioxide.Listener(
                    self._loop, sock, self._protocol_factory, self, self._backlog, tls
                )
            )

    async def _begin(self) -> None:
        """Start accepting; a turn later whoever waited for this server finds it accepting."""
        self._start_serving()
        try:
            await asyncio.sleep(0)
        except BaseException:
            # Nobody gets to see a server whose creation was cancelled.
            self.close()
            raise

    def get_loop(self) -> Any:
        """The event loop the server runs on."""
        return self._loop

    def is_serving(self) -> bool:
        """True while the server accepts connections."""
        return self._serving

    @property
    def sockets(self) -> tuple[trsock.TransportSocket, ...]:  # type: ignore[override]
        """The listening sockets; empty once closed."""
        if self._sockets is None:
            return ()
        return tuple(trsock.TransportSocket(sock) for sock in self._sockets)

    def close(self) -> None:
        """Stop accepting and close the listening sockets; connections stay open."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        for listener in self._listeners:
            listener.stop()
        self._listeners.clear()
        for sock in sockets:
            sock.close()
        if self._file is not None:
            self._file.remove()
        self._serving = False
        future = self._serving_forever_fut
        if future is not None and not future.done():
            future.cancel()
            self._serving_forever_fut = None
        if not self._active_count:
            self._wake_up()

    def close_clients(self) -> None:
        """Close every connection, after its buffered bytes are sent."""
        for transport in self._clients.copy():
            transport.close()

    def abort_clients(self) -> None:
        """Close every connection at once."""
        for transport in self._clients.copy():
            transport.abort()

    async def start_serving(self) -> None:
        """Start accepting; does nothing when the server accepts already."""
        self._start_serving()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Accept until cancelled; then close the server and its connections."""
        if self._serving_forever_fut is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever_fut = self._loop.create_future()
        try:
            await self._serving_forever_fut
        except asyncio.CancelledError:
            try:
                self.close()
                self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever_fut = None

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection is gone."""
        if self._waiters is None:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


class ServingMixin:
    """Servers of `EventLoop`."""

    __slots__ = ()

    async def create_server(
        self: Any,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listen on `host` (a name, several of them, or None for all interfaces) and `port`, or on
        `sock`; returns a Server. Raises OSError naming the address that could not be bound.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        checked_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            refuse_ssl_socket(sock)
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            if reuse_address is None:
                reuse_address = True
            sockets = listen_on(
                await self._listening_addresses(host, port, family, flags),
                reuse_address=bool(reuse_address),
                reuse_port=bool(reuse_port),
                keep_alive=bool(keep_alive),
            )
        elif sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        else:
            sockets = [sock]
        for listening in sockets:
            listening.setblocking(False)
        server = Server(
            self,
            sockets,
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if start_serving:
            await server._begin()
        if self.get_debug():
            logger.info("%r is serving", server)
        return server

    async def _listening_addresses(
        self: Any, host: Any, port: Any, family: int, flags: int
    ) -> list[Any]:
        if host == "":
            hosts: list[Any] = [None]
        elif isinstance(host, str) or not isinstance(host, collections.abc.Iterable):
            hosts = [host]
        else:
            hosts = list(host)
        found = await gather(
            *[
                self._resolve(
                    (name, port),
                    family=family,
                    type=socket.SOCK_STREAM,
                    proto=0,
                    flags=flags,
                    shown=repr(name),
                )
                for name in hosts
            ]
        )
        # Two names may mean one address; the order of the names is kept.
        return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def listen_on(
    addresses: list[Any], *, reuse_address: bool, reuse_port: bool, keep_alive: bool
) -> list[socket.socket]:
    """Bind a socket to each address; none stays open when one cannot be bound."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in addresses:
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                # The resolver knows a family that this kernel does not have.
                logger.debug("create_server() failed to create a socket", exc_info=True)
                continue
            sockets.append(sock)
            if reuse_address:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
            if reuse_port:
                set_reuse_port(sock)
            if keep_alive:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
            if family == socket.AF_INET6 and hasattr(socket, "IPPROTO_IPV6"):
                # IPv4 has a socket of its own; without this both would want the port.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
            try:
                sock.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    sockets.pop().close()
                    logger.warning("%s", bind_failure(address, error))
                    continue
                raise OSError(error.errno, bind_failure(address, error)) from None
        if not sockets:
            tried = [address[4] for address in addresses]
            raise OSError(f"could not bind on any address out of {tried!r}")
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_failure(address: Any, error: OSError) -> str:
    """asyncio's words for an address that cannot be bound."""
    return f"error while attempting to bind on address {address!r}: {str(error).lower()}"


def set_reuse_port(sock: socket.socket) -> None:
    """SO_REUSEPORT, where the platform has it."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from None
