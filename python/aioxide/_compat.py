"""Everything that differs between Python versions, and asyncio's private places we write to.

The only file that may look at `sys.version_info`.
"""

import asyncio
import asyncio.tasks
import atexit
import functools
import inspect
import linecache
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from . import _aioxide

__all__ = (
    "DATAGRAM_SOCKET",
    "JOIN_TIMEOUT",
    "QueueShutDown",
    "debug_by_default",
    "iscoroutine",
    "iscoroutinefunction",
    "names_of_asyncio",
    "policy_class",
    "register_loop",
    "replace_default_loop",
    "restore_default_loop",
    "show_source",
)

_loops: weakref.WeakSet[Any] = weakref.WeakSet()


def register_loop(loop: Any) -> None:
    """Make the tasks of `loop` visible to `asyncio.all_tasks`."""
    _loops.add(loop)


class _LiveTasks(set[Any]):
    """The weak references of asyncio's set of tasks, and every task in our loops' slabs.

    `asyncio.all_tasks` iterates the WeakSet of registered tasks, and that iterates its `data`:
    this object takes its place, once per interpreter, so that no task of ours has to be
    registered one by one. An entry of ours is a callable that returns its task, as a weak
    reference is.
    """

    def __iter__(self) -> Iterator[Any]:
        yield from list(super().__iter__())
        yield from _slab_entries()

    def copy(self) -> set[Any]:  # What 3.14's WeakSet iterates over.
        entries = set(super().__iter__())
        entries.update(_slab_entries())
        return entries


def _slab_entries() -> list[Callable[[], Any]]:
    return [functools.partial(_itself, task) for loop in list(_loops) for task in loop._tasks()]


def _itself(task: Any) -> Any:
    return task


def _show_tasks_to_asyncio() -> None:
    name = "_scheduled_tasks" if sys.version_info >= (3, 12) else "_all_tasks"
    registered = getattr(asyncio.tasks, name)
    if not isinstance(registered.data, _LiveTasks):
        registered.data = _LiveTasks(registered.data)


_show_tasks_to_asyncio()


@atexit.register
def _release_threads() -> None:
    """A loop that was never closed must not be interrupted in the middle of a look-up."""
    _aioxide._stop_watchdog()
    for loop in list(_loops):
        if not loop.is_closed() and not loop.is_running():
            loop._join_workers()
    _aioxide._join_look_ups()


@atexit.register
def _tell_of_unfinished_tasks() -> None:
    """A loop that was never closed tells of its tasks when the interpreter exits."""
    for loop in list(_loops):
        if not (loop.is_closed() or loop.is_running() or loop._is_parents()):
            loop._look_at_failures()
            loop._report_survivors(loop._tasks())


# Seconds that a loop waits for its executor's threads unless told otherwise. Python 3.11's Runner
# says nothing, where newer ones give this limit; a thread that is stuck must not hold it for ever.
JOIN_TIMEOUT: float | None = None if sys.version_info >= (3, 12) else 300


def debug_by_default() -> bool:
    """Whether new loops start in debug mode: `-X dev` or PYTHONASYNCIODEBUG."""
    return bool(asyncio.coroutines._is_debug_mode())  # type: ignore[attr-defined]


# What asyncio calls the socket that `create_datagram_endpoint(sock=)` wants.
DATAGRAM_SOCKET = "datagram socket" if sys.version_info >= (3, 13) else "UDP Socket"

if sys.version_info >= (3, 13):
    QueueShutDown = asyncio.QueueShutDown
else:

    class QueueShutDown(Exception):
        """Raised by a queue's `put` and `get` when it was shut down."""

    QueueShutDown.__module__ = "aioxide"

iscoroutinefunction: Callable[[Any], bool]
if sys.version_info >= (3, 14):
    iscoroutinefunction = inspect.iscoroutinefunction
else:
    iscoroutinefunction = asyncio.iscoroutinefunction


def iscoroutine(thing: Any) -> bool:
    """Whether this is a coroutine. A generator is none, as from 3.12 on."""
    return asyncio.iscoroutine(thing) and not isinstance(thing, types.GeneratorType)


def names_of_asyncio() -> list[str]:
    """The public names of asyncio, with those that its `__all__` forgets: TaskGroup, on 3.11."""
    forgotten = [
        name
        for name, value in vars(asyncio).items()
        if not (name.startswith("_") or isinstance(value, types.ModuleType))
    ]
    return list(dict.fromkeys([*asyncio.__all__, *forgotten]))


def show_source(code: types.CodeType, source: str) -> None:
    """Let tracebacks show the lines of code that has no file, where python's own do (3.13)."""
    register = getattr(linecache, "_register_code", None)
    if register is None:
        return
    # The first release of 3.13 tells such code apart by the name of its file.
    knows_code = hasattr(linecache, "_interactive_cache")
    register(code if knows_code else code.co_filename, source, code.co_filename)


def policy_class(factory: Callable[[], Any]) -> type[Any]:
    """An event loop policy whose loops `factory` makes; warns where policies are deprecated."""
    global _policy_class
    if _policy_class is None:
        base: Any = asyncio.DefaultEventLoopPolicy

        class EventLoopPolicy(base):  # type: ignore[misc]
            """asyncio's policy with aioxide's loop."""

            def _loop_factory(self) -> Any:
                return factory()

        EventLoopPolicy.__module__ = "aioxide"
        EventLoopPolicy.__qualname__ = "EventLoopPolicy"
        _policy_class = EventLoopPolicy
    return _policy_class


_policy_class: type[Any] | None = None
_replaced: tuple[Any, Any] | None = None


def replace_default_loop(factory: Callable[[], Any]) -> None:
    """Make `asyncio.run`, `asyncio.Runner` and `asyncio.new_event_loop` use `factory`.

    On every supported Python they end in `asyncio.events.new_event_loop`. Before 3.14 the policy
    is replaced as well, for programs that call `asyncio.get_event_loop()` outside of any loop;
    from 3.14 on policies are deprecated and that call raises.
    """
    global _replaced
    if _replaced is not None:
        return
    policy = None
    if sys.version_info < (3, 14):
        policy = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(policy_class(factory)())
    _replaced = (asyncio.events.new_event_loop, policy)
    asyncio.events.new_event_loop = factory
    asyncio.new_event_loop = factory


def restore_default_loop() -> None:
    """Undo `replace_default_loop`; does nothing when it was not called."""
    global _replaced
    if _replaced is None:
        return
    original, policy = _replaced
    _replaced = None
    asyncio.events.new_event_loop = original
    asyncio.new_event_loop = original
    if policy is not None:
        asyncio.set_event_loop_policy(policy)
