"""The event loops under comparison: their names, their versions, and how each makes a loop.

The parent process asks what is installed; each child process calls `factory` for its one loop.
Never imports a loop before it is asked for: rsloop patches asyncio when it is imported, so two
loops must not share a process.
"""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import platform
import types
from asyncio import AbstractEventLoop
from collections.abc import Callable

OURS = "aioxide"
# The best of these in a run is its "best peer". rsloop's figures only stand beside.
COUNTED = ("asyncio", "uvloop", "rloop")
OPTIONAL = ("rsloop",)
NAMES = (*COUNTED, *OPTIONAL, OURS)
# The server without any event loop and without Python, in the network benches.
BARE = "bare C"


def factory(name: str) -> Callable[[], AbstractEventLoop]:
    """Import the loop called `name` into this process and return what makes one.

    Ours takes the place of asyncio's names too, so that `asyncio.gather` means the same in every
    bench and is what a program on that loop gets.
    """
    if name not in NAMES:
        raise ValueError(f"no event loop is called {name!r}; there are {', '.join(NAMES)}")
    module = importlib.import_module(name)
    if name == OURS:
        module.install()
    make: Callable[[], AbstractEventLoop] = module.new_event_loop
    return make


def namespace() -> types.ModuleType:
    """The module whose streams a program on the running loop uses: asyncio's, if it has none."""
    module = importlib.import_module(type(asyncio.get_running_loop()).__module__.split(".")[0])
    return module if hasattr(module, "start_server") else asyncio


def is_installed(name: str) -> bool:
    """Whether `factory(name)` would find its package; nothing is imported to learn it."""
    return importlib.util.find_spec(name) is not None


def version(name: str) -> str:
    """The version of an installed loop, as its package states it."""
    if name == "asyncio":
        return f"of CPython {platform.python_version()}"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "without a version"
