"""Eager task factories: tasks that run their first step inside `create_task`.

Semantics of `asyncio.eager_task_factory` (3.12+) with native tasks, on every supported Python.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from ._aioxide import Task

__all__ = ("create_eager_task_factory", "eager_task_factory")


def create_eager_task_factory(custom_task_constructor: Callable[..., Any]) -> Callable[..., Any]:
    """Return a task factory that starts `custom_task_constructor`'s tasks eagerly.

    The constructor is called as `custom_task_constructor(coro, loop=…, eager_start=True, …)`.
    """

    def factory(loop: Any, coro: Any, *, eager_start: bool = True, **kwargs: Any) -> Any:
        return custom_task_constructor(coro, loop=loop, eager_start=eager_start, **kwargs)

    return factory


eager_task_factory = create_eager_task_factory(Task)


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.tasks` did."""
    return getattr(asyncio.tasks, name)
