"""`timeout`, `timeout_at` and `Timeout`, which are native (`asyncio.timeouts`)."""

import asyncio
from typing import Any

from ._aioxide import Timeout, timeout, timeout_at

__all__ = ("Timeout", "timeout", "timeout_at")


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.timeouts` did."""
    return getattr(asyncio.timeouts, name)
