"""`create_unix_connection` and `create_unix_server`: stream sockets whose addresses are paths.

Runs once per connection or server. What is different from TCP is here: paths, socket files that a
dead server left behind, and removing one's own. Never touches a byte of a connection.
"""

import errno
import logging
import os
import posix
import socket
import stat
from collections.abc import Callable
from typing import Any

from .connecting import check_tls_timeouts
from .serving import Server

__all__ = ("UnixMixin", "remove_stale_socket")

# What may block is called by way of `posix`: tools that forbid such calls replace the names in
# `os`, and know only asyncio's own files for those that may.

logger = logging.getLogger("asyncio")


class UnixMixin:
    """Unix domain stream sockets of `EventLoop`."""

    __slots__ = ()

    async def create_unix_connection(
        self: Any,
        protocol_factory: Callable[[], Any],
        path: Any = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Connect to the Unix socket at `path` and return `(transport, protocol)`.

        `path` is str, bytes or PathLike; a leading NUL names an abstract socket. Or `sock` is a
        Unix stream socket connected already. Raises OSError.
        """
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        lent = sock is not None
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)
            except BaseException:
                sock.close()
                raise
        elif sock is None:
            raise ValueError("no path and sock were specified")
        else:
            refuse_other_socket(sock)
        return await self._make_connection(  # type: ignore[no-any-return]
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            lent=lent,
        )

    async def create_unix_server(
        self: Any,
        protocol_factory: Callable[[], Any],
        path: Any = None,
        *,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = True,
    ) -> Server:
        """Listen on the Unix socket `path`, or on `sock`; returns a Server.

        A socket file that is there already is replaced. Closing the server removes the file again,
        if it is still the one it made (`cleanup_socket`). Raises OSError naming the path.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = bind_to(os.fspath(path))
        elif sock is None:
            raise ValueError("path was not specified, and no sock specified")
        else:
            refuse_other_socket(sock)
        sock.setblocking(False)
        server = Server(
            self,
            [sock],
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if cleanup_socket:
            server._file = SocketFile.of(sock)
        if start_serving:
            await server._begin()
        return server


def refuse_other_socket(sock: Any) -> None:
    """Refuse what is no Unix stream socket."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def has_file(path: str | bytes) -> bool:
    """Whether a Unix address is a path in the file system; abstract and empty names are not."""
    return bool(path) and path[0] not in (0, "\x00")


def remove_stale_socket(path: str | bytes) -> None:
    """Remove the socket file that an earlier server left, as asyncio does; only a socket."""
    if not has_file(path):
        return
    try:
        if stat.S_ISSOCK(posix.stat(path).st_mode):
            posix.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # The directory may only allow to create files.
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


def bind_to(path: str | bytes) -> socket.socket:
    """A Unix stream socket bound to `path`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_stale_socket(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            message = f"Address {path!r} is already in use"
            raise OSError(errno.EADDRINUSE, message) from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


class SocketFile:
    """The file of a listening Unix socket, told apart from one that took its place."""

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        self._path = path
        self._identity = identity

    @classmethod
    def of(cls, sock: Any) -> "SocketFile | None":
        """The file `sock` is bound to, if there is one."""
        path = sock.getsockname()
        if not has_file(path):
            return None
        try:
            return cls(path, _identity(path))
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Remove it, unless another file has its path."""
        try:
            if _identity(self._path) == self._identity:
                posix.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", self._path, error)


def _identity(path: str) -> tuple[int, int]:
    found = posix.stat(path)
    return found.st_dev, found.st_ino
