"""`to_thread`: a blocking function, called on a thread (`asyncio.threads`)."""

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ("to_thread",)

P = ParamSpec("P")
T = TypeVar("T")


async def to_thread(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `func(*args, **kwargs)` on a thread of the default executor and return its result.

    It sees the context variables of the caller. Raises what `func` raises; cancelling the wait
    does not stop the thread.
    """
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    call: Any = functools.partial(context.run, func, *args, **kwargs)
    return await loop.run_in_executor(None, call)


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.threads` did."""
    return getattr(asyncio.threads, name)
