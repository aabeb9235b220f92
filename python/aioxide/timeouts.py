"""`timeout`, `timeout_at` and `Timeout` (`asyncio.timeouts`): compiled, but for one method."""

import asyncio
from typing import Any

from ._aioxide import Timeout, timeout, timeout_at
from ._methods import complete

__all__ = ("Timeout", "timeout", "timeout_at")


@complete(Timeout)
class _Timeout(Timeout):  # type: ignore[misc]  # final only for type checkers
    async def __aenter__(self) -> Timeout:
        self._enter()
        return self


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.timeouts` did."""
    return getattr(asyncio.timeouts, name)
