"""Pipes: `connect_read_pipe`, `connect_write_pipe`, and what may be used as one.

The transports are compiled; this file opens them for a program, and for the pipes of a child
process (`processes.py`). The descriptor stays the Python file's: closing the file closes the pipe.
"""

import asyncio
import os
import stat
from asyncio import base_events
from collections.abc import Callable
from typing import Any, TypeVar

from . import _aioxide

__all__ = ("PipeMixin", "connects_pipes_itself")

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class PipeMixin:
    """Pipes of `EventLoop`."""

    __slots__ = ()

    async def connect_read_pipe(
        self: Any, protocol_factory: Callable[[], _P], pipe: Any
    ) -> tuple[asyncio.ReadTransport, _P]:
        """Read from `pipe`, the file object of a FIFO, socket or character device.

        Returns `(transport, protocol)`, once the protocol's `connection_made` was called. The
        transport owns the file from then on. Raises ValueError for a regular file.
        """
        make = self._make_read_pipe_transport
        connected: tuple[asyncio.ReadTransport, _P] = await self._connect_pipe(
            "Read", make, protocol_factory, pipe
        )
        return connected

    async def connect_write_pipe(
        self: Any, protocol_factory: Callable[[], _P], pipe: Any
    ) -> tuple[asyncio.WriteTransport, _P]:
        """Write to `pipe`, the file object of a FIFO, socket or character device.

        Returns `(transport, protocol)`, once the protocol's `connection_made` was called. The
        transport owns the file from then on. Raises ValueError for a regular file.
        """
        make = self._make_write_pipe_transport
        connected: tuple[asyncio.WriteTransport, _P] = await self._connect_pipe(
            "Write", make, protocol_factory, pipe
        )
        return connected

    async def _connect_pipe(
        self: Any, kind: str, make: Any, protocol_factory: Any, pipe: Any
    ) -> tuple[Any, Any]:
        self._check_closed()
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = make(pipe, protocol, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        if self.get_debug():
            base_events.logger.debug(  # type: ignore[attr-defined]
                "%s pipe %r connected: (%r, %r)", kind, pipe.fileno(), transport, protocol
            )
        return transport, protocol

    def _make_read_pipe_transport(
        self: Any, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> _aioxide.ReadPipeTransport:
        _prepare(pipe, "Pipe transport is for pipes/sockets only.")
        return _aioxide.ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self: Any, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> _aioxide.WritePipeTransport:
        mode = _prepare(pipe, "Pipe transport is only for pipes, sockets and character devices")
        # The kernel tells the writer when the reader is gone, but not of a character device.
        watched = not stat.S_ISCHR(mode)
        return _aioxide.WritePipeTransport(self, pipe, protocol, waiter, extra, watched=watched)


def connects_pipes_itself(loop: Any) -> bool:
    """Whether nobody put another `connect_read_pipe` or `connect_write_pipe` on the loop."""
    return all(
        getattr(getattr(loop, name), "__func__", None) is getattr(PipeMixin, name)
        for name in ("connect_read_pipe", "connect_write_pipe")
    )


def _prepare(pipe: Any, refusal: str) -> int:
    """Make the descriptor non-blocking; returns its mode. Raises ValueError with `refusal`."""
    fd = pipe.fileno()
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        raise ValueError(refusal)
    os.set_blocking(fd, False)
    return mode
