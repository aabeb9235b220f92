"""What is done with tasks: making them, waiting for them, shielding them (`asyncio.tasks`).

Semantics and messages are those of the newest CPython, on every supported Python and on every
loop. Whatever happens once per task is native; these functions only wait.
"""

import asyncio
import concurrent.futures
import functools
import inspect
import math
import types
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from ._aioxide import Task, gather
from ._aioxide import timeout as _timeout
from ._compat import iscoroutine
from .crossing import copy_to_concurrent

__all__ = (
    "as_completed",
    "create_eager_task_factory",
    "create_task",
    "eager_task_factory",
    "gather",
    "run_coroutine_threadsafe",
    "shield",
    "sleep",
    "wait",
    "wait_for",
)

T = TypeVar("T")


def create_task(coro: Any, **kwargs: Any) -> Any:
    """Make a task of the coroutine `coro` on the running loop; keywords are `loop.create_task`'s.

    Raises RuntimeError when no loop runs.
    """
    return asyncio.get_running_loop().create_task(coro, **kwargs)


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    yield


async def sleep(delay: float, result: Any = None) -> Any:
    """Return `result` after `delay` seconds; with 0 or less, in the loop's next turn.

    Raises ValueError when `delay` is no number (NaN).
    """
    if delay <= 0:
        await _next_turn()
        return result
    if math.isnan(delay):
        raise ValueError("Invalid delay: NaN (not a number)")
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    timer = loop.call_later(delay, _complete, future, result)
    try:
        return await future
    finally:
        timer.cancel()


def _complete(future: Any, result: Any) -> None:
    if not future.cancelled():
        future.set_result(result)


def _release(waiter: Any, _done: Any = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def wait_for(fut: Any, timeout: float | None) -> Any:  # noqa: ASYNC109  # asyncio's signature
    """Await `fut`, at most `timeout` seconds (None: for ever), and return its result.

    When the time is over it is cancelled and, once it has ended, TimeoutError is raised. When the
    wait is cancelled it is cancelled too. What must not be cancelled goes into `shield`.
    """
    if timeout is not None and timeout <= 0:
        # A coroutine is not even begun.
        fut = asyncio.ensure_future(fut)
        if not fut.done():
            await _cancel_and_wait(fut)
            try:
                return fut.result()
            except asyncio.CancelledError as error:
                raise TimeoutError from error
        return fut.result()
    async with _timeout(timeout):
        return await fut


async def _cancel_and_wait(fut: Any) -> None:
    # Not awaited itself, so that this wait can be cancelled whatever `fut` makes of it.
    waiter = asyncio.get_running_loop().create_future()
    released = functools.partial(_release, waiter)
    fut.add_done_callback(released)
    try:
        fut.cancel()
        await waiter
    finally:
        fut.remove_done_callback(released)


async def wait(
    fs: Iterable[Any],
    *,
    timeout: float | None = None,  # noqa: ASYNC109  # asyncio's signature
    return_when: str = concurrent.futures.ALL_COMPLETED,
) -> tuple[set[Any], set[Any]]:
    """Wait for futures and tasks; returns the set of those done and the set of the others.

    Until all are done, or the first is (FIRST_COMPLETED), or the first failed (FIRST_EXCEPTION),
    or `timeout` seconds are over, which is no error. Raises TypeError for coroutines and ValueError
    for nothing at all.
    """
    if asyncio.isfuture(fs) or iscoroutine(fs):
        raise TypeError(f"expect a list of futures, not {type(fs).__name__}")
    if not fs:
        raise ValueError("Set of Tasks/Futures is empty.")
    if return_when not in (
        concurrent.futures.FIRST_COMPLETED,
        concurrent.futures.FIRST_EXCEPTION,
        concurrent.futures.ALL_COMPLETED,
    ):
        raise ValueError(f"Invalid return_when value: {return_when}")
    waited = set(fs)
    if any(iscoroutine(fut) for fut in waited):
        raise TypeError("Passing coroutines is forbidden, use tasks explicitly.")
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    timer = None if timeout is None else loop.call_later(timeout, _release, waiter)
    left = len(waited)

    def on_done(fut: Any) -> None:
        nonlocal left
        left -= 1
        if (
            left <= 0
            or return_when == concurrent.futures.FIRST_COMPLETED
            or (
                return_when == concurrent.futures.FIRST_EXCEPTION
                and not fut.cancelled()
                and fut.exception() is not None
            )
        ):
            if timer is not None:
                timer.cancel()
            _release(waiter)

    for fut in waited:
        fut.add_done_callback(on_done)
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()
        for fut in waited:
            fut.remove_done_callback(on_done)
    done = {fut for fut in waited if fut.done()}
    return done, waited - done


class _AsCompletedIterator:
    """What `as_completed` returns: in a plain `for` it gives coroutines, each of which returns the
    next result; in an `async for` the futures themselves, as they are done."""

    def __init__(self, fs: Iterable[Any], timeout: float | None) -> None:
        self._done: asyncio.Queue[Any] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        loop = asyncio.get_event_loop()
        todo = {asyncio.ensure_future(fut, loop=loop) for fut in set(fs)}
        for fut in todo:
            fut.add_done_callback(self._on_done)
        if todo and timeout is not None:
            self._timer = loop.call_later(timeout, self._on_timeout)
        self._todo = todo
        self._left = len(todo)

    def __iter__(self) -> "_AsCompletedIterator":
        return self

    def __aiter__(self) -> "_AsCompletedIterator":
        return self

    def __next__(self) -> Any:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._wait_for_one(resolve=True)

    async def __anext__(self) -> Any:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        return await self._wait_for_one()

    def _on_done(self, fut: Any) -> None:
        if not self._todo:
            return  # The time was over before.
        self._todo.remove(fut)
        self._done.put_nowait(fut)
        if not self._todo and self._timer is not None:
            self._timer.cancel()

    def _on_timeout(self) -> None:
        for fut in self._todo:
            fut.remove_done_callback(self._on_done)
            self._done.put_nowait(None)
        self._todo.clear()

    async def _wait_for_one(self, resolve: bool = False) -> Any:
        fut = await self._done.get()
        if fut is None:
            raise TimeoutError
        return fut.result() if resolve else fut


def as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """Run awaitables together and iterate over them in the order in which they are done.

    `async for` gives the futures, done (the ones passed in, where those were futures); `for` gives
    a coroutine for each next result. After `timeout` seconds the next one raises TimeoutError.
    """
    if inspect.isawaitable(fs):
        raise TypeError(f"expects an iterable of awaitables, not {type(fs).__name__}")
    return _AsCompletedIterator(fs, timeout)


def shield(arg: Any) -> Any:
    """Return a future with the outcome of `arg`, which goes on when that future is cancelled.

    Keep a reference to a task on a loop that is not aioxide's: others refer to it weakly only. If
    it fails after the wait was given up, its exception is reported unless somebody retrieves it.
    """
    inner = asyncio.ensure_future(arg)
    if inner.done():
        return inner
    outer = inner.get_loop().create_future()

    def on_inner_done(inner: Any) -> None:
        if outer.cancelled():
            return
        if inner.cancelled():
            outer.cancel()
            return
        error = inner.exception()
        if error is None:
            outer.set_result(inner.result())
        else:
            outer.set_exception(error)

    def on_outer_done(_outer: Any) -> None:
        if not inner.done():
            inner.remove_done_callback(on_inner_done)

    inner.add_done_callback(on_inner_done)
    outer.add_done_callback(on_outer_done)
    return outer


def run_coroutine_threadsafe(coro: Any, loop: Any) -> concurrent.futures.Future[Any]:
    """Run the coroutine `coro` on `loop`, from another thread; returns a concurrent future.

    Cancelling that future cancels the task. Raises TypeError for what is no coroutine.
    """
    if not iscoroutine(coro):
        raise TypeError("A coroutine object is required")
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def start() -> None:
        try:
            copy_to_concurrent(asyncio.ensure_future(coro, loop=loop), future)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            raise

    loop.call_soon_threadsafe(start)
    return future


def create_eager_task_factory(custom_task_constructor: Callable[..., Any]) -> Callable[..., Any]:
    """Return a task factory that starts `custom_task_constructor`'s tasks eagerly.

    The constructor is called as `custom_task_constructor(coro, loop=…, eager_start=True, …)`.
    Semantics of `asyncio.eager_task_factory` (3.12+) on every supported Python.
    """

    def factory(loop: Any, coro: Any, *, eager_start: bool = True, **kwargs: Any) -> Any:
        return custom_task_constructor(coro, loop=loop, eager_start=eager_start, **kwargs)

    return factory


eager_task_factory = create_eager_task_factory(Task)


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.tasks` did."""
    return getattr(asyncio.tasks, name)
