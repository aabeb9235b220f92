"""`getaddrinfo` and `getnameinfo`, on a few threads of the loop's own.

Called by whatever takes a host: `create_connection`, `create_server`, `sock_connect` and others ask
`loop.getaddrinfo`, which a program may replace. Runs once per look-up; never keeps an answer.
"""

import copy
import logging
import socket
from asyncio import base_events
from typing import Any

from . import _aioxide

__all__ = ("ResolvingMixin",)

# The protocol that a kind of socket speaks over IP.
PROTOCOLS: dict[int, int] = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
}


class LookUp:
    """One look-up that runs, and those who wait for it."""

    __slots__ = ("answer", "told", "waiting")

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.waiting: set[_aioxide.Future[None]] = set()
        self.told = False  # Whether somebody was given the exception itself.

    def abandon(self) -> None:
        """Nobody waits any more: a call that is still queued is not made at all."""
        if not self.answer.cancel() and not self.answer.cancelled():
            self.answer.exception()  # Has been heard, or interests nobody.

    def wake(self, _answer: Any) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)


class ResolvingMixin:
    """Names, for `EventLoop`."""

    __slots__ = ()

    async def getaddrinfo(
        self: Any,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Resolve a host name: `socket.getaddrinfo`, on a thread of the loop's own.

        Addresses written as numbers are answered at once. Who asks for what is being looked up
        already waits for the same answer; cancelling one of them leaves the others waiting. Raises
        `socket.gaierror`.
        """
        self._check_closed()
        look_up: Any = self._timed_getaddrinfo if self.get_debug() else socket.getaddrinfo
        if is_number(port) and is_literal(host):
            answer: list[Any] = look_up(host, port, family, type, proto, flags)
        else:
            answer = await self._look_up(look_up, host, port, family, type, proto, flags)
        return answer

    async def getnameinfo(self: Any, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """The name of an address: `socket.getnameinfo`, on a thread of the loop's own."""
        name: tuple[str, str] = await self._call_blocking(socket.getnameinfo, sockaddr, flags)
        return name

    async def _look_up(self: Any, function: Any, *question: Any) -> list[Any]:
        # 80 and 80.0 are equal and yet not the same question.
        key = (function, *question[:2], *map(type, question[:2]), *question[2:])
        try:
            found = self._look_ups.get(key)
        except TypeError:  # Not hashable: the look-up itself will say what is wrong with it.
            return await self._call_blocking(function, *question)  # type: ignore[no-any-return]
        # One that is answered has woken whoever waited: who came later would wait for ever.
        if found is None or found.answer.done():
            answer = self._call_blocking(function, *question)
            found = self._look_ups[key] = LookUp(answer)
            answer.add_done_callback(found.wake)
        waiter = self.create_future()
        found.waiting.add(waiter)
        try:
            await waiter
        finally:
            found.waiting.discard(waiter)
            if self._look_ups.get(key) is found and (found.answer.done() or not found.waiting):
                del self._look_ups[key]
            if not found.waiting:
                found.abandon()
        return answer_of(found)

    def _timed_getaddrinfo(self: Any, *args: Any) -> list[Any]:
        shown = describe(*args)
        base_events.logger.debug("Get address info %s", shown)  # type: ignore[attr-defined]
        began = self.time()
        answer = socket.getaddrinfo(*args)
        took = self.time() - began
        level = logging.INFO if took >= self.slow_callback_duration else logging.DEBUG
        base_events.logger.log(  # type: ignore[attr-defined]
            level, "Getting address info %s took %.3fms: %r", shown, took * 1e3, answer
        )
        return answer

    async def _resolve(
        self: Any,
        address: Any,
        *,
        family: int,
        type: int,
        proto: int,
        flags: int = 0,
        shown: str = "",
    ) -> list[Any]:
        """What `address` stands for. `getaddrinfo`, which programs replace, sees only names.

        Raises OSError, which tells of `shown`, for a name that stands for nothing.
        """
        host, port = address[:2]
        literal = literal_address(host, port, family, type, proto, address[2:])
        if literal is not None:
            return [literal]
        addresses = await self.getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )
        if not addresses:
            raise OSError(f"getaddrinfo({shown}) returned empty list")
        return addresses  # type: ignore[no-any-return]


def answer_of(look_up: LookUp) -> list[Any]:
    """Each waiter gets a list of its own, or an exception of its own."""
    error = look_up.answer.exception()
    if error is None:
        return list(look_up.answer.result())
    if look_up.told:
        error = copy.copy(error).with_traceback(error.__traceback__)
    look_up.told = True
    raise error


def describe(
    host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
) -> str:
    """A look-up as debug mode shows it (`BaseEventLoop._getaddrinfo_debug`)."""
    shown = [f"{host}:{port!r}"]
    shown += [
        f"{name}={value!r}"
        for name, value in (("family", family), ("type", type), ("proto", proto), ("flags", flags))
        if value
    ]
    return ", ".join(shown)


def is_number(port: Any) -> bool:
    """Whether a port needs no look-up: None, or written as a number."""
    if isinstance(port, bytes | str):
        return port.isdigit() and port.isascii()
    return port is None or isinstance(port, int)


def is_literal(host: Any) -> bool:
    """Whether a host needs no look-up: None, or an address written as numbers."""
    if host is None:
        return True
    if isinstance(host, bytes):
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return False
    if not isinstance(host, str) or not host:
        return False
    address, percent, scope = host.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return bool(scope) or not percent
    return False


def literal_address(
    host: Any, port: Any, family: int, kind: int, proto: int, rest: tuple[Any, ...] = ()
) -> tuple[Any, ...] | None:
    """The one address that `host` and `port`, written as numbers, stand for.

    None where only a resolver can tell: a name, a service, a scope, another protocol. `rest` is
    the flow label and scope of an IPv6 address, zeros where missing.
    """
    protocol = PROTOCOLS.get(kind)
    if protocol is None or proto not in (0, *PROTOCOLS.values()):
        return None
    try:
        if isinstance(host, bytes):
            host = host.decode("ascii")
        number = int(port or 0)
    except (TypeError, ValueError):
        return None
    if not isinstance(host, str) or "%" in host:
        return None
    own_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family not in (socket.AF_UNSPEC, own_family):
        return None
    try:
        socket.inet_pton(own_family, host)
    except (OSError, ValueError):
        return None
    target: tuple[Any, ...] = (host, number)
    if own_family == socket.AF_INET6:
        target += (*rest, 0, 0)[:2]
    return own_family, kind, protocol, "", target
