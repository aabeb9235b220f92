"""`create_datagram_endpoint`: resolving, binding and connecting a socket, then a transport.

Runs once per endpoint; datagrams themselves are Rust (`DatagramTransport`). Arguments, errors and
their words are those of the newest CPython (`BaseEventLoop.create_datagram_endpoint`).
"""

import logging
import socket
from collections.abc import Callable
from typing import Any

from . import _aioxide, _compat
from .connecting import addresses_of
from .serving import set_reuse_port
from .unix import remove_stale_socket

__all__ = ("DatagramMixin",)

logger = logging.getLogger("asyncio")


class DatagramMixin:
    """Datagram endpoints of `EventLoop`."""

    __slots__ = ()

    async def create_datagram_endpoint(
        self: Any,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
    ) -> tuple[Any, Any]:
        """Open a datagram endpoint and return `(transport, protocol)`.

        `local_addr` is where to receive, `remote_addr` the only peer; each `(host, port)`, or a
        path with `family=socket.AF_UNIX`. Or `sock` is a datagram socket that is ready for use.
        Raises OSError, ValueError for arguments that do not go together.
        """
        if reuse_address is not None:
            # Still in the signature of the abstract loop, and gone from every real one (bpo-37228).
            raise TypeError(
                "create_datagram_endpoint() got an unexpected keyword argument 'reuse_address'"
            )
        address = None
        lent = sock is not None
        if sock is not None:
            options = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            refuse_beside_socket(sock, options)
            sock.setblocking(False)
        else:
            found = await self._datagram_addresses(local_addr, remote_addr, family, proto, flags)
            sock, address = await self._open_datagram_socket(
                found, reuse_port=reuse_port, allow_broadcast=allow_broadcast
            )
        try:
            protocol = protocol_factory()
        except BaseException:
            if not lent:
                sock.close()
            raise
        waiter = self.create_future()
        transport = self._make_datagram_transport(sock, protocol, address, waiter, lent=lent)
        if self.get_debug():
            log_endpoint(local_addr, remote_addr, transport, protocol)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _datagram_addresses(
        self: Any, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[tuple[int, int, Any, Any]]:
        """What to try, in order: `(family, protocol, local address, remote address)`."""
        if not (local_addr or remote_addr):
            if family == 0:
                raise ValueError("unexpected address family")
            return [(family, proto, None, None)]
        if family == socket.AF_UNIX:
            for given in (local_addr, remote_addr):
                if given is not None and not isinstance(given, str):
                    raise TypeError("string is expected")
            if local_addr:
                remove_stale_socket(local_addr)
            return [(family, proto, local_addr, remote_addr)]
        sides: dict[tuple[int, int], list[Any]] = {}
        for side, given in enumerate((local_addr, remote_addr)):
            if given is None:
                continue
            if not (isinstance(given, tuple) and len(given) == 2):
                raise TypeError("2-tuple is expected")
            for own_family, _, own_proto, _, address in await self._resolve(
                given, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags
            ):
                sides.setdefault((own_family, own_proto), [None, None])[side] = address
        # Both ends must be of one family.
        whole = [
            (*key, local, remote)
            for key, (local, remote) in sides.items()
            if not ((local_addr and local is None) or (remote_addr and remote is None))
        ]
        if not whole:
            raise ValueError("can not get address information")
        return whole

    async def _open_datagram_socket(
        self: Any, candidates: list[Any], *, reuse_port: bool | None, allow_broadcast: bool | None
    ) -> tuple[socket.socket, Any]:
        """The first socket that can be had, and the only address it sends to."""
        failures: list[OSError] = []
        try:
            for family, proto, local, remote in candidates:
                sock = None
                try:
                    sock = socket.socket(family, socket.SOCK_DGRAM, proto)
                    if reuse_port:
                        set_reuse_port(sock)
                    if allow_broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if local:
                        sock.bind(local)
                    if remote and not allow_broadcast:
                        await self.sock_connect(sock, remote)
                    return sock, remote or None
                except OSError as error:
                    if sock is not None:
                        sock.close()
                    failures.append(error)
                except BaseException:
                    if sock is not None:
                        sock.close()
                    raise
            raise failures[0]
        finally:
            # The exceptions' tracebacks hold this frame: break the cycle.
            del failures

    def _make_datagram_transport(
        self: Any,
        sock: Any,
        protocol: Any,
        address: Any = None,
        waiter: Any = None,
        extra: dict[str, Any] | None = None,
        *,
        lent: bool = False,
    ) -> Any:
        self._ensure_no_transport(sock)
        known = addresses_of(sock)
        known.update(extra or {})
        return _aioxide.DatagramTransport(self, sock, protocol, address, waiter, known, lent=lent)


def refuse_beside_socket(sock: Any, options: dict[str, Any]) -> None:
    """Refuse a stream socket, and options that only make sense for a socket of our own."""
    if sock.type == socket.SOCK_STREAM:
        raise ValueError(f"A {_compat.DATAGRAM_SOCKET} was expected, got {sock!r}")
    given = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    if given:
        raise ValueError(
            f"socket modifier keyword arguments can not be used when sock is specified. ({given})"
        )


def log_endpoint(local_addr: Any, remote_addr: Any, transport: Any, protocol: Any) -> None:
    """Tell of a new endpoint, in debug mode."""
    if local_addr:
        words = "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)"
        logger.info(words, local_addr, remote_addr, transport, protocol)
    else:
        words = "Datagram endpoint remote_addr=%r created: (%r, %r)"
        logger.debug(words, remote_addr, transport, protocol)
