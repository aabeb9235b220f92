"""Which of asyncio's names `install()` replaces, where, and how that is undone.

A library that calls `asyncio.gather` is thereby served by ours. Never touches a name that somebody
wrapped before, nor one that was wrapped or replaced since: an instrumentation goes on to see every
call, whichever of the two came first.
"""

import asyncio
import importlib
import types
from typing import Any

import aioxide

__all__ = ("NAMES", "replace_names", "restore_names")

# Each of these is replaced in the module that asyncio keeps it in and in `asyncio` itself.
NAMES: dict[str, tuple[str, ...]] = {
    "asyncio.futures": ("wrap_future",),
    "asyncio.locks": ("Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore"),
    "asyncio.queues": ("LifoQueue", "PriorityQueue", "Queue"),
    "asyncio.streams": (
        "StreamReader",
        "StreamReaderProtocol",
        "StreamWriter",
        "open_connection",
        "open_unix_connection",
        "start_server",
        "start_unix_server",
    ),
    "asyncio.taskgroups": ("TaskGroup",),
    "asyncio.tasks": (
        "as_completed",
        "create_task",
        "gather",
        "run_coroutine_threadsafe",
        "shield",
        "sleep",
        "wait",
        "wait_for",
    ),
    "asyncio.threads": ("to_thread",),
    "asyncio.timeouts": ("Timeout", "timeout", "timeout_at"),
}

# What was replaced: the module, the name, asyncio's object and ours.
_replaced: list[tuple[types.ModuleType, str, Any, Any]] = []


def replace_names() -> None:
    """Put our objects in the place of asyncio's; once, until `restore_names()`."""
    if _replaced:
        return
    for module_name, names in NAMES.items():
        module = importlib.import_module(module_name)
        for name in names:
            ours = getattr(aioxide, name)
            for place in (module, asyncio):
                original = getattr(place, name, None)
                if original is not None and _is_untouched(original, module):
                    setattr(place, name, ours)
                    _replaced.append((place, name, original, ours))


def restore_names() -> None:
    """Give asyncio its own objects back, wherever ours still are."""
    while _replaced:
        place, name, original, ours = _replaced.pop()
        if getattr(place, name, None) is ours:
            setattr(place, name, original)


def _is_untouched(thing: Any, module: types.ModuleType) -> bool:
    """Whether this is what `module` defines: no wrapper, and no class with a wrapped method."""
    if hasattr(thing, "__wrapped__"):
        return False
    if isinstance(thing, types.FunctionType):
        return thing.__globals__ is vars(module)
    if not isinstance(thing, type):
        return False
    return thing.__module__ == module.__name__ and all(
        _is_untouched(method, module)
        for method in vars(thing).values()
        if not isinstance(method, staticmethod | classmethod)
        and (isinstance(method, types.FunctionType) or hasattr(method, "__wrapped__"))
    )
