"""`run_in_executor` and the default executor: blocking calls on threads, as Futures.

Runs once per call, and keeps to two short Python frames: what joins the thread's outcome to the
Future is native (`JobQueue`, `FutureLink`). Never used for host names, which have threads of their
own.
"""

import asyncio
import concurrent.futures
import concurrent.futures.thread
import functools
import sys
import threading
import traceback
import warnings
import weakref
from asyncio import futures, timeouts
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from . import _aioxide, _compat

__all__ = ("DefaultExecutor", "ExecutorMixin")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# How long a run waits, at its end, for connections that were closed.
PARTING_SECONDS = 0.25


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """The executor that a loop makes for itself: a `ThreadPoolExecutor` whose queue is native.

    `submit()` and all else work as inherited; `call()` is the short way from a loop to its Future.
    """

    _work_queue: Any
    _threads: set[threading.Thread]

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._work_queue = _aioxide.JobQueue()

    def call(self, loop: Any, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Queue `function(*arguments)` and return the Future, of `loop`, of its outcome.

        Raises RuntimeError after `shutdown()`, or when not even one thread can be started.
        """
        queue = self._work_queue
        future = queue.call(loop, function, arguments)
        if future is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if queue.lacks_threads():
            self._start_thread_for(future)
        return future

    def _start_thread_for(self, future: Any) -> None:
        pool: Any = concurrent.futures.thread
        try:
            with self._shutdown_lock, pool._global_shutdown_lock:
                if pool._shutdown:
                    raise RuntimeError("cannot schedule new futures after interpreter shutdown")
                self._adjust_thread_count()
        except BaseException:
            self._work_queue.withdraw(future)
            raise

    def _adjust_thread_count(self) -> None:
        """Start a thread if there is work that nobody is free for; called with the locks held."""
        queue, count = self._work_queue, len(self._threads)
        if count >= self._max_workers or not queue.lacks_threads():
            return
        # An executor that is gone without having been shut down ends its threads.
        owner = weakref.ref(self, functools.partial(_end_threads, queue))
        thread = threading.Thread(name=f"asyncio_{count}", target=_work, args=(queue, owner))
        try:
            thread.start()
        except RuntimeError:
            if count == 0:
                raise
            return  # The threads that there are will do.
        self._threads.add(thread)
        pool: Any = concurrent.futures.thread
        pool._threads_queues[thread] = queue  # Ended and joined when the interpreter exits.


def _end_threads(queue: Any, _owner: Any) -> None:
    queue.put(None)


def _work(queue: Any, owner: Any) -> None:
    """What a thread of the default executor does; it keeps the reference to its executor."""
    try:
        queue.work()
    except BaseException:
        concurrent.futures._base.LOGGER.critical("Exception in worker", exc_info=True)
    finally:
        del owner


class ExecutorMixin:
    """Executors of `EventLoop`."""

    __slots__ = ()

    def run_in_executor(
        self: Any,
        executor: concurrent.futures.Executor | None,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call `func(*args)` in `executor` (None: the default one); returns a Future.

        Raises RuntimeError when the loop is closed or the executor was shut down.
        """
        self._check_closed()
        if self.get_debug():
            self._check_callback(func, "run_in_executor")
        if executor is None:
            if self._executor_shutdown_called:
                raise RuntimeError("Executor shutdown has been called")
            executor = self._default_executor
            if executor is None:
                executor = DefaultExecutor()
                self._default_executor = executor
        if type(executor) is DefaultExecutor:
            return executor.call(self, func, args)  # type: ignore[no-any-return]
        source = executor.submit(func, *args)
        if not isinstance(source, concurrent.futures.Future):
            return futures.wrap_future(source, loop=self)
        destination = self.create_future()
        if type(destination) is _aioxide.Future:
            _aioxide.FutureLink.join(source, destination)
        else:
            futures._chain_future(source, destination)  # type: ignore[attr-defined]
        return destination  # type: ignore[no-any-return]

    def set_default_executor(self: Any, executor: Any) -> None:
        """Use `executor`, a ThreadPoolExecutor, where None is given to `run_in_executor`."""
        if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor

    async def shutdown_default_executor(
        self: Any,
        timeout: float | None = _compat.JOIN_TIMEOUT,  # noqa: ASYNC109  # asyncio's signature
    ) -> None:
        """Wait until the default executor's threads ended, at most `timeout` seconds.

        After that a RuntimeWarning names the threads that are left and what they are running, and
        the executor is left to itself (`asyncio.base_events`, the newest CPython).

        `run()` awaits nothing after this, so connections that were closed get a moment here.
        """
        try:
            await self._shut_default_executor(timeout)
        finally:
            await self._part_from_closed()

    async def _shut_default_executor(self: Any, timeout: float | None) -> None:  # noqa: ASYNC109
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is None:
            return
        finished = self.create_future()
        thread = threading.Thread(target=self._join_executor, args=(executor, finished))
        thread.start()
        try:
            async with timeouts.timeout(timeout):
                await finished
        except TimeoutError:
            warnings.warn(
                f"The executor did not finishing joining its threads within {timeout} seconds."
                + "".join(f"\n  {line}" for line in stuck_threads(executor)),
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    async def _part_from_closed(self: Any) -> None:
        """Let what was closed send the rest, say goodbye and be told of its end.

        Otherwise the loop is closed under it. A quarter of a second is what aiohttp's documentation
        tells its users to sleep at the end.
        """
        await asyncio.sleep(0)
        deadline = self.time() + PARTING_SECONDS
        while self._is_any_closing() and self.time() < deadline:  # noqa: ASYNC110  # at exit, once
            await asyncio.sleep(0.002)

    def _join_executor(self: Any, executor: Any, finished: Any) -> None:
        try:
            executor.shutdown(wait=True)
            set_result = futures._set_result_unless_cancelled  # type: ignore[attr-defined]
            outcome = functools.partial(set_result, finished, None)
        except Exception as error:
            outcome = functools.partial(_set_exception_unless_done, finished, error)
        try:
            self.call_soon_threadsafe(outcome)
        except RuntimeError:
            # Closed meanwhile: nobody waits any more.
            if not self.is_closed():
                raise


def _set_exception_unless_done(future: Any, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def stuck_threads(executor: Any) -> list[str]:
    """A line for each living thread of a `ThreadPoolExecutor`: its name, and what it is running."""
    frames = sys._current_frames()
    lines = []
    for thread in sorted(executor._threads, key=lambda thread: thread.name):
        frame = frames.get(thread.ident) if thread.is_alive() else None
        if frame is None:
            continue
        calls = [call for call in traceback.extract_stack(frame) if not _is_machinery(call)]
        if calls:
            shown = ", called from ".join(
                f"{call.name} ({call.filename}:{call.lineno})" for call in reversed(calls)
            )
            lines.append(f"thread {thread.name} is in {shown}")
    return lines


_MACHINERY = (__file__, threading.__file__, concurrent.futures.thread.__file__)


def _is_machinery(call: traceback.FrameSummary) -> bool:
    """Whether a frame belongs to the thread and the executor rather than to what they run."""
    return call.filename in _MACHINERY
