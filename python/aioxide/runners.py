"""`run`, `Runner`, and the ways to make aioxide's loop the default one.

`run` and `Runner` are asyncio's own, with our loop; nothing is patched before `install()`.
What `install()` replaces beside the loop is listed in replacing.py.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from . import _compat
from .event_loop import EventLoop

__all__ = ("Runner", "install", "new_event_loop", "run", "uninstall")

T = TypeVar("T")


def new_event_loop() -> EventLoop:
    """Return a new event loop. Raises OSError when the process has no descriptors left."""
    return EventLoop()


class Runner(asyncio.Runner):  # type: ignore[misc]  # final only for type checkers
    """`asyncio.Runner` on an aioxide loop.

    Runner(*, debug=None, loop_factory=None, task_factory=None, unretrieved=None): `task_factory`
    is given to the loop's `set_task_factory`, and `unretrieved` to its `set_unretrieved`, before
    anything runs. With debug=True the loop's reports are warnings, subclasses of `LoopWarning`;
    one that the filters make an error is raised by `run()`.
    """

    def __init__(
        self,
        *,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        task_factory: Callable[..., Any] | None = None,
        unretrieved: Literal["collected", "soon"] | None = None,
    ) -> None:
        if task_factory is not None and not callable(task_factory):
            raise TypeError(f"task_factory must be a callable or None, got {task_factory!r}")
        if unretrieved not in {None, "collected", "soon"}:
            raise ValueError(f"'collected' or 'soon' is expected, got {unretrieved!r}")
        make_loop = new_event_loop if loop_factory is None else loop_factory

        def configured_loop() -> asyncio.AbstractEventLoop:
            loop = make_loop()
            if task_factory is not None:
                loop.set_task_factory(task_factory)
            if isinstance(loop, EventLoop):
                if debug:
                    loop._warn_of_reports()
                if unretrieved is not None:
                    loop.set_unretrieved(unretrieved)
            return loop

        super().__init__(debug=debug, loop_factory=configured_loop)


def run(
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    task_factory: Callable[..., Any] | None = None,
    unretrieved: Literal["collected", "soon"] | None = None,
) -> T:
    """Run the coroutine `main` on a new aioxide loop and return its result (`asyncio.run`).

    Cancels what is left, shuts down asynchronous generators and the default executor, and closes
    the loop. Raises RuntimeError when a loop runs in this thread already.
    """
    if asyncio.events._get_running_loop() is not None:
        raise RuntimeError("aioxide.run() cannot be called from a running event loop")
    with Runner(
        debug=debug,
        loop_factory=loop_factory,
        task_factory=task_factory,
        unretrieved=unretrieved,
    ) as runner:
        return runner.run(main)


_installing = threading.Lock()


def install() -> None:
    """Make aioxide's loop the one that `asyncio.run` and `asyncio.new_event_loop` make.

    Its functions and classes take the place of asyncio's too (`asyncio.gather`, `asyncio.Lock`),
    but for those that somebody has wrapped. For the whole process, until `uninstall()`. Calling it
    twice changes nothing.
    """
    from . import replacing  # Names of the package, which is not complete while it imports us.

    with _installing:
        _compat.replace_default_loop(new_event_loop)
        replacing.replace_names()


def uninstall() -> None:
    """Undo `install()`."""
    from . import replacing

    with _installing:
        _compat.restore_default_loop()
        replacing.restore_names()


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.runners` did."""
    return getattr(asyncio.runners, name)
