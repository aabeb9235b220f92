"""aioxide: Python's asyncio stack, rebuilt in Rust.

`aioxide.run(main())` instead of `asyncio.run(main())`, or `import aioxide as asyncio`, or nothing
at all under `python -m aioxide app.py`. Every name of `asyncio` is here: native where aioxide has
it, asyncio's own where it has not.

PYTEST_DONT_REWRITE: pytest would like to rewrite the packages of its plugins, and warns of those
that are imported already, as this one is under `python -m aioxide -m pytest`.
"""

import asyncio as _asyncio
import os as _os
import typing as _typing

from . import _compat

# "as" tells type checkers that a name is public; they cannot follow the `__all__` made below.
from ._aioxide import __version__ as __version__
from ._compat import QueueShutDown as QueueShutDown
from .event_loop import EventLoop as EventLoop
from .queues import LifoQueue as LifoQueue
from .queues import PriorityQueue as PriorityQueue
from .queues import Queue as Queue
from .reports import BlockedLoopWarning as BlockedLoopWarning
from .reports import CancelRequest as CancelRequest
from .reports import LoopWarning as LoopWarning
from .reports import Site as Site
from .reports import SwallowedCancellationWarning as SwallowedCancellationWarning
from .reports import UnclosedTransportWarning as UnclosedTransportWarning
from .reports import UnfinishedTaskWarning as UnfinishedTaskWarning
from .reports import UnretrievedExceptionWarning as UnretrievedExceptionWarning
from .runners import Runner as Runner
from .runners import install as install
from .runners import new_event_loop as new_event_loop
from .runners import run as run
from .runners import uninstall as uninstall
from .taskgroups import TaskGroup as TaskGroup
from .tasks import create_eager_task_factory as create_eager_task_factory
from .tasks import eager_task_factory as eager_task_factory

if _typing.TYPE_CHECKING:
    # Checkers see asyncio's Task, Future, Handle and Server, as `isinstance` does: functions that
    # are asyncio's return those. Of two names they keep the first, ours: the queues, which have
    # `shutdown` on every Python, are ours to checkers too.
    from asyncio import *  # type: ignore[assignment]  # noqa: F403

    EventLoopPolicy: type[_asyncio.AbstractEventLoopPolicy]
else:
    from ._aioxide import (  # noqa: F401
        Future,
        Handle,
        Task,
        TimerHandle,
    )
    from .crossing import wrap_future  # noqa: F401
    from .locks import (  # noqa: F401
        Barrier,
        BoundedSemaphore,
        Condition,
        Event,
        Lock,
        Semaphore,
    )
    from .serving import Server  # noqa: F401
    from .streams import (  # noqa: F401
        StreamReader,
        StreamReaderProtocol,
        StreamWriter,
        open_connection,
        open_unix_connection,
        start_server,
        start_unix_server,
    )
    from .tasks import (  # noqa: F401
        as_completed,
        create_task,
        gather,
        run_coroutine_threadsafe,
        shield,
        sleep,
        wait,
        wait_for,
    )
    from .threads import to_thread  # noqa: F401
    from .timeouts import Timeout, timeout, timeout_at  # noqa: F401

    __all__ = list(
        dict.fromkeys(
            [
                "BlockedLoopWarning",
                "CancelRequest",
                "EventLoop",
                "EventLoopPolicy",
                "QueueShutDown",
                "LoopWarning",
                "Site",
                "SwallowedCancellationWarning",
                "UnclosedTransportWarning",
                "UnfinishedTaskWarning",
                "UnretrievedExceptionWarning",
                "__version__",
                "create_eager_task_factory",
                "eager_task_factory",
                "install",
                "uninstall",
                *_compat.names_of_asyncio(),
            ]
        )
    )
    for _name in __all__:
        if _name not in globals() and hasattr(_asyncio, _name):
            globals()[_name] = getattr(_asyncio, _name)
    del _name


def __getattr__(name: str) -> _typing.Any:
    """The policy is made when asked for, because policies are deprecated from 3.14 on; what
    `import *` does not bring (submodules, deprecated names) is asyncio's."""
    if name == "EventLoopPolicy":
        return _compat.policy_class(new_event_loop)
    if name in {"load_ipython_extension", "unload_ipython_extension"}:
        from .integrations import ipython

        return getattr(ipython, name)
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_asyncio, name)


if _children := _os.environ.get("AIOXIDE_CHILDREN"):
    from .children import lead_children_if_asked as _lead_children_if_asked

    _lead_children_if_asked(_children)
