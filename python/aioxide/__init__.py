"""aioxide: Python's asyncio stack, rebuilt in Rust.

`aioxide.run(main())` instead of `asyncio.run(main())`, or `import aioxide as asyncio`, or nothing
at all under `python -m aioxide app.py`. Every name of `asyncio` is here: native where aioxide has
it, asyncio's own where it has not.
"""

import asyncio as _asyncio
from asyncio import *  # noqa: F403
from typing import Any as _Any

from . import _compat
from ._aioxide import Future, Handle, Task, TimerHandle, __version__
from .event_loop import EventLoop
from .runners import Runner, install, new_event_loop, run, uninstall
from .serving import Server
from .tasks import create_eager_task_factory, eager_task_factory

__all__ = (  # noqa: PLE0604
    *_asyncio.__all__,
    "EventLoopPolicy",
    "__version__",
    "create_eager_task_factory",
    "eager_task_factory",
    "install",
    "uninstall",
    "EventLoop",
    "Future",
    "Handle",
    "Runner",
    "Server",
    "Task",
    "TimerHandle",
    "new_event_loop",
    "run",
)


def __getattr__(name: str) -> _Any:
    """The policy is made when asked for, because policies are deprecated from 3.14 on; what
    `import *` does not bring (submodules, deprecated names) is asyncio's."""
    if name == "EventLoopPolicy":
        return _compat.policy_class(new_event_loop)
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_asyncio, name)
