"""Loop methods that are not there yet: each says so instead of doing half of it."""

from typing import Any, NoReturn

__all__ = ("LaterMixin",)


def _not_yet(what: str) -> NoReturn:
    raise NotImplementedError(
        f"aioxide does not have {what} yet: run this program on asyncio's own loop until it does"
    )


class LaterMixin:
    """The rest of `asyncio.AbstractEventLoop`."""

    __slots__ = ()

    async def sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available yet."""
        _not_yet("loop.sendfile()")

    async def sock_sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available yet."""
        _not_yet("loop.sock_sendfile()")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available yet."""
        _not_yet("datagram endpoints")
