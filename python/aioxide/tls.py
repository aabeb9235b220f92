"""TLS for `EventLoop`: `start_tls`, and the layer that `ssl=` puts between socket and protocol.

Runs once per connection. Records, handshakes and goodbyes are Rust's (`TlsProtocol`); arguments
and their errors are those of `asyncio.sslproto.SSLProtocol` and `loop.start_tls`.
"""

import asyncio
import asyncio.constants
from typing import Any

from . import _aioxide

__all__ = ("TlsMixin", "checked_timeouts")


class TlsMixin:
    """TLS of `EventLoop`."""

    __slots__ = ()

    async def start_tls(
        self: Any,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Put TLS between a connected transport and its protocol; return the transport to use.

        Raises TypeError for what is no SSLContext and for transports that cannot carry TLS, and
        what the handshake raises, after which the connection is closed.
        """
        if not _is_context(sslcontext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        layer = self._make_tls_layer(
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            call_connection_made=False,
        )
        # What arrives meanwhile must wait until the layer knows its transport.
        transport.pause_reading()
        transport.set_protocol(layer)
        early = take_unread(protocol) if server_side else b""
        beginning = self.call_soon(layer.connection_made, transport)
        feeding = self.call_soon(layer.data_received, early) if early else None
        resuming = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            for handle in (beginning, feeding, resuming):
                if handle is not None:
                    handle.cancel()
            raise
        finally:
            # An exception in it holds this frame: break the cycle.
            del waiter
        return layer._app_transport

    def _make_ssl_transport(
        self: Any,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        lent: bool = False,
    ) -> Any:
        layer = self._make_tls_layer(
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        transport = layer._app_transport
        self._make_socket_transport(rawsock, layer, extra=extra, server=server, lent=lent)
        return transport

    def _make_tls_layer(
        self: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any,
        *,
        server_side: bool,
        server_hostname: str | None,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
        call_connection_made: bool = True,
    ) -> _aioxide.TlsProtocol:
        handshake_timeout, shutdown_timeout = checked_timeouts(
            ssl_handshake_timeout, ssl_shutdown_timeout
        )
        if not sslcontext:
            sslcontext = _default_context(server_side, server_hostname)
        return _aioxide.TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            (server_hostname or None) if not server_side else None,
            call_connection_made,
            handshake_timeout,
            shutdown_timeout,
        )


def take_unread(protocol: Any) -> bytes:
    """What a client sent of its handshake before the stream turned to TLS, and a reader has."""
    if not isinstance(protocol, asyncio.StreamReaderProtocol):
        return b""
    reader: Any = getattr(protocol, "_stream_reader", None)
    if reader is None or not (unread := bytes(reader._buffer)):
        return b""
    reader._buffer = bytearray()
    return unread


def checked_timeouts(handshake: float | None, shutdown: float | None) -> tuple[float, float]:
    """The time limits of a handshake and of a goodbye, in seconds; asyncio's where not given."""
    if handshake is None:
        handshake = asyncio.constants.SSL_HANDSHAKE_TIMEOUT
    elif handshake <= 0:
        raise ValueError(f"ssl_handshake_timeout should be a positive number, got {handshake}")
    if shutdown is None:
        shutdown = asyncio.constants.SSL_SHUTDOWN_TIMEOUT
    elif shutdown <= 0:
        raise ValueError(f"ssl_shutdown_timeout should be a positive number, got {shutdown}")
    return handshake, shutdown


def _is_context(value: Any) -> bool:
    try:
        import ssl
    except ImportError:
        raise RuntimeError("Python ssl module is not available") from None
    return isinstance(value, ssl.SSLContext)


def _default_context(server_side: bool, server_hostname: str | None) -> Any:
    """What `ssl=True` stands for: the system's authorities, the host name verified."""
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    import ssl

    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context
