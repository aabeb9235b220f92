"""`create_connection`: resolving, racing and connecting, then a transport.

Runs once per connection. Errors and their words are asyncio's
(`asyncio.base_events.BaseEventLoop.create_connection` of the newest CPython).
"""

import asyncio
import collections
import functools
import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any

from . import _aioxide
from .racing import first_to_connect

__all__ = ("ConnectingMixin",)

logger = logging.getLogger("asyncio")


class ConnectingMixin:
    """Client connections of `EventLoop`."""

    __slots__ = ()

    async def create_connection(
        self: Any,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: Any = None,
        local_addr: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[Any, Any]:
        """Connect a stream socket and return `(transport, protocol)`.

        `host` and `port` are resolved and tried in order, or raced (RFC 8305) when
        `happy_eyeballs_delay` seconds are given; or `sock` is a socket connected already.
        Raises OSError, or an ExceptionGroup of all of them with `all_errors`.
        """
        server_hostname = check_client_tls(
            ssl, host, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        if sock is not None:
            refuse_ssl_socket(sock)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1
        lent = sock is not None
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            options = {"family": family, "type": socket.SOCK_STREAM, "proto": proto, "flags": flags}
            addresses = await self._resolve((host, port), **options)
            local = None
            if local_addr is not None:
                local = await self._resolve(local_addr, **options)
            if interleave:
                addresses = interleave_families(addresses, interleave)
            sock = await self._connect_any(addresses, local, happy_eyeballs_delay, all_errors)
        elif sock is None:
            raise ValueError("host and port was not specified and no sock specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        transport, protocol = await self._make_connection(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            lent=lent,
        )
        if self.get_debug():
            shown = transport.get_extra_info("socket")
            logger.debug("%r connected to %s:%r: (%r, %r)", shown, host, port, transport, protocol)
        return transport, protocol

    async def connect_accepted_socket(
        self: Any,
        protocol_factory: Callable[[], Any],
        sock: Any,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Serve a connection that was accepted outside of the loop: `(transport, protocol)`."""
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        refuse_ssl_socket(sock)
        transport, protocol = await self._make_connection(
            sock,
            protocol_factory,
            ssl,
            "",
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            server_side=True,
            lent=True,
        )
        if self.get_debug():
            sock = transport.get_extra_info("socket")
            logger.debug("%r handled: (%r, %r)", sock, transport, protocol)
        return transport, protocol

    async def _connect_any(
        self: Any,
        addresses: list[Any],
        local: list[Any] | None,
        delay: float | None,
        all_errors: bool,
    ) -> socket.socket:
        errors: list[list[Exception]] = []
        sock: Any = None
        try:
            if delay is None:
                for address in addresses:
                    try:
                        sock = await self._connect_one(errors, address, local)
                        break
                    except OSError:
                        continue
            else:
                # No name for these: they hold `errors`, which must not outlive this call.
                sock = await first_to_connect(
                    [
                        functools.partial(self._connect_one, errors, address, local)
                        for address in addresses
                    ],
                    delay,
                )
            if sock is None:
                raise_failure([error for attempt in errors for error in attempt], all_errors)
            return sock  # type: ignore[no-any-return]
        finally:
            # The exceptions' tracebacks hold this frame: break the cycle.
            del errors

    async def _connect_one(
        self: Any, errors: list[list[Exception]], address: Any, local: list[Any] | None
    ) -> socket.socket:
        """Connect one socket to one address; what fails is noted in `errors` and raised."""
        own: list[Exception] = []
        errors.append(own)
        family, kind, protocol, _, target = address
        sock = None
        try:
            sock = socket.socket(family=family, type=kind, proto=protocol)
            sock.setblocking(False)
            if local is not None:
                bind_local(sock, family, local, own)
            await self.sock_connect(sock, target)
            return sock
        except OSError as error:
            own.append(error)
            if sock is not None:
                sock.close()
            raise
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        finally:
            del errors, own

    async def _make_connection(
        self: Any,
        sock: Any,
        protocol_factory: Callable[[], Any],
        ssl: Any,
        server_hostname: str | None,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
        *,
        server_side: bool = False,
        lent: bool,
    ) -> tuple[Any, Any]:
        sock.setblocking(False)
        waiter = self.create_future()
        try:
            protocol = protocol_factory()
            if ssl:
                transport = self._make_ssl_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                    **({"lent": True} if lent else {}),
                )
            else:
                transport = self._make_socket_transport(sock, protocol, waiter, lent=lent)
        except BaseException:
            # A factory that raises, a host name that TLS refuses: nothing half-done stays behind.
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def _make_socket_transport(
        self: Any,
        sock: Any,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        lent: bool = False,
    ) -> Any:
        self._ensure_no_transport(sock)
        known = addresses_of(sock)
        known.update(extra or {})
        return _aioxide.StreamTransport(self, sock, protocol, waiter, known, server, lent=lent)


def check_client_tls(
    ssl: Any,
    host: Any,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> str | None:
    """Refuse TLS options without TLS; the name to verify defaults to the host."""
    if server_hostname is not None and not ssl:
        raise ValueError("server_hostname is only meaningful with ssl")
    if server_hostname is None and ssl:
        if not host:
            raise ValueError("You must set server_hostname when using ssl without a host")
        server_hostname = host
    check_tls_timeouts(ssl, handshake_timeout, shutdown_timeout)
    return server_hostname


def check_tls_timeouts(
    ssl: Any, handshake_timeout: float | None, shutdown_timeout: float | None
) -> None:
    """Refuse TLS time limits without TLS."""
    if handshake_timeout is not None and not ssl:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown_timeout is not None and not ssl:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def refuse_ssl_socket(sock: Any) -> None:
    """Refuse `ssl.SSLSocket`, which does its own blocking input and output."""
    try:
        import ssl
    except ImportError:  # An interpreter built without OpenSSL has no such sockets.
        return
    if isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def addresses_of(sock: Any) -> dict[str, Any]:
    """What `get_extra_info` knows of a socket that Python made."""
    known: dict[str, Any] = {"socket": asyncio.trsock.TransportSocket(sock)}
    for name, ask in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
        try:
            known[name] = ask()
        except OSError:
            known[name] = None
    return known


def bind_local(sock: socket.socket, family: int, local: list[Any], errors: list[Exception]) -> None:
    """Bind to the first local address of the right family that can be had."""
    for local_family, _, _, _, address in local:
        if local_family != family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as error:
            message = f"error while attempting to bind on address {address!r}: {str(error).lower()}"
            errors.append(OSError(error.errno, message))
    if errors:
        raise errors.pop()
    raise OSError(f"no matching local address with {family=} found")


def interleave_families(addresses: list[Any], first_count: int) -> list[Any]:
    """Reorder addresses so that families alternate, `first_count` of the first family leading
    (RFC 8305, section 4)."""
    by_family: dict[int, list[Any]] = collections.OrderedDict()
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    families = list(by_family.values())
    ordered = families[0][: first_count - 1] if first_count > 1 else []
    families[0] = families[0][len(ordered) :]
    rounds = itertools.zip_longest(*families)
    ordered.extend(address for turn in rounds for address in turn if address is not None)
    return ordered


def raise_failure(errors: list[Exception], all_errors: bool) -> None:
    """Raise what a connection that failed everywhere raises."""
    try:
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        if not errors:
            raise TimeoutError("create_connection failed")
        if len({str(error) for error in errors}) == 1:
            raise errors[0]
        raise OSError("Multiple exceptions: {}".format(", ".join(str(e) for e in errors)))
    finally:
        # The exceptions' tracebacks hold this frame: break the cycle.
        del errors
