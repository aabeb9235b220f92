"""The half of the loop that waits: running, executors, names, and what went wrong.

`EventLoop` completes the native `BaseEventLoop`. What runs once per loop, per connection or per
program is here; nothing here runs once per callback.
"""

import asyncio
import concurrent.futures
import functools
import logging
import os
import socket
import sys
import threading
import traceback
import warnings
import weakref
from asyncio import base_events, events, futures, timeouts
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar, TypeVarTuple, cast

from . import _aioxide, _compat
from .connecting import ConnectingMixin
from .later import LaterMixin
from .serving import ServingMixin
from .signals import SignalMixin
from .sockets import SocketMixin

__all__ = ("EventLoop",)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class EventLoop(
    _aioxide.BaseEventLoop,
    ConnectingMixin,
    ServingMixin,
    SocketMixin,
    SignalMixin,
    LaterMixin,
    asyncio.AbstractEventLoop,
):
    """An asyncio event loop whose turns run in Rust.

    Made by `aioxide.new_event_loop()`; `aioxide.run(main())` makes, runs and closes one.
    """

    # Slots and no instance dictionary (until somebody adds an attribute): the interpreter then
    # specialises every `loop.method` look-up, which is a tenth of a `call_soon`.
    __slots__ = (
        "_asyncgens",
        "_asyncgens_shutdown_called",
        "_default_executor",
        "_exception_handler",
        "_executor_shutdown_called",
        "_origin_tracking_saved",
        "_signal_handlers",
        "_signal_pipe",
        "slow_callback_duration",
    )

    def __init__(self) -> None:
        super().__init__()
        self.slow_callback_duration = 0.1  # seconds; debug mode warns above it
        self._exception_handler: Any = None
        self._default_executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._executor_shutdown_called = False
        self._asyncgens: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asyncgens_shutdown_called = False
        self._origin_tracking_saved: int | None = None
        self._init_signals()
        _compat.register_loop(self)
        if _compat.debug_by_default():
            self._set_debug_flag(True)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not self.is_closed():
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
            if not self.is_running():
                self.close()

    # Running and stopping.

    def run_forever(self) -> None:
        """Run until `stop()` is called.

        Raises RuntimeError when this loop is closed or running, when another loop runs in this
        thread, or when the loop was made before a fork.
        """
        self._check_closed()
        self._check_forked()
        self._check_running()
        self._set_origin_tracking(self.get_debug())
        old_hooks = sys.get_asyncgen_hooks()
        wakeup = self._begin_signals()
        try:
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            self._turn_until_stopped()
        finally:
            events._set_running_loop(None)
            self._end_signals(wakeup)
            self._set_origin_tracking(False)
            sys.set_asyncgen_hooks(*old_hooks)

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until `future` (a Future, coroutine or other awaitable) is done; return its result.

        Raises its exception, or RuntimeError when the loop stops before it is done.
        """
        self._check_closed()
        self._check_forked()
        self._check_running()
        is_new = not futures.isfuture(future)
        # A generator is an awaitable only by its type in typeshed; ensure_future refuses it.
        future = asyncio.ensure_future(cast(Awaitable[T], future), loop=self)
        if is_new:
            # Its exception is raised below; there is nothing to report should that not happen.
            future._log_destroy_pending = False  # type: ignore[attr-defined]
        done = base_events._run_until_complete_cb  # type: ignore[attr-defined]
        future.add_done_callback(done)
        try:
            self.run_forever()
        except BaseException:
            if is_new and future.done() and not future.cancelled():
                # The exception that left the loop is the one to see.
                future.exception()
            raise
        finally:
            future.remove_done_callback(done)
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()

    def _check_running(self) -> None:
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    def close(self) -> None:
        """Close the loop: its descriptors, threads, timers and callbacks are gone afterwards.

        Tasks that never finished are reported to the exception handler, once each. Raises
        RuntimeError while the loop runs; does nothing when it is closed.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._close_signals()
        self._executor_shutdown_called = True
        executor, self._default_executor = self._default_executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        self._report_survivors(self._shut())

    def _report_survivors(self, tasks: list[Any]) -> None:
        """Tell of tasks that were pending when the loop closed, with where they were made."""
        for task in tasks:
            if task.done() or not task._log_destroy_pending:
                continue
            task._log_destroy_pending = False
            context = {"message": "Task was destroyed but it is pending!", "task": task}
            if task._source_traceback:
                context["source_traceback"] = task._source_traceback
            self.call_exception_handler(context)

    # Async generators.

    async def shutdown_asyncgens(self) -> None:
        """Close every async generator that is still suspended."""
        self._asyncgens_shutdown_called = True
        closing = list(self._asyncgens)
        self._asyncgens.clear()
        results = await asyncio.gather(
            *[generator.aclose() for generator in closing], return_exceptions=True
        )
        for result, generator in zip(results, closing, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": "an error occurred during closing of "
                        f"asynchronous generator {generator!r}",
                        "exception": result,
                        "asyncgen": generator,
                    }
                )

    def _asyncgen_firstiter_hook(self, generator: Any) -> None:
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {generator!r} was scheduled after "
                "loop.shutdown_asyncgens() call",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        self._asyncgens.add(generator)

    def _asyncgen_finalizer_hook(self, generator: Any) -> None:
        self._asyncgens.discard(generator)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, generator.aclose())

    # Executors.

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Call `func(*args)` in `executor` (None: the default one); returns a Future."""
        self._check_closed()
        if self.get_debug():
            self._check_callable(func, "run_in_executor")
        if executor is None:
            executor = self._default_executor
            if self._executor_shutdown_called:
                raise RuntimeError("Executor shutdown has been called")
            if executor is None:
                executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        return futures.wrap_future(executor.submit(func, *args), loop=self)

    def set_default_executor(self, executor: Any) -> None:
        """Use `executor`, a ThreadPoolExecutor, where None is given to `run_in_executor`."""
        if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor

    async def shutdown_default_executor(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # asyncio's signature
    ) -> None:
        """Wait until the default executor's threads ended, at most `timeout` seconds."""
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
                f"The executor did not finishing joining its threads within {timeout} seconds.",
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    def _join_executor(self, executor: Any, finished: Any) -> None:
        try:
            executor.shutdown(wait=True)
            set_result = futures._set_result_unless_cancelled  # type: ignore[attr-defined]
            outcome = functools.partial(set_result, finished, None)
        except Exception as error:
            outcome = functools.partial(finished.set_exception, error)
        if not self.is_closed():
            self.call_soon_threadsafe(outcome)

    def _check_callable(self, callback: Any, method: str) -> None:
        if asyncio.iscoroutine(callback) or _compat.iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

    # Names.

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Resolve a host name: `socket.getaddrinfo`, on a thread of the loop's own.

        Addresses written as numbers are answered at once. Raises `socket.gaierror`.
        """
        self._check_closed()
        look_up = self._timed_getaddrinfo if self.get_debug() else socket.getaddrinfo
        if _is_literal(host) and (port is None or isinstance(port, int)):
            return look_up(host, port, family, type, proto, flags)
        return await self._call_blocking(look_up, host, port, family, type, proto, flags)

    def _timed_getaddrinfo(self, *args: Any) -> list[Any]:
        began = self.time()
        answer = socket.getaddrinfo(*args)
        took = self.time() - began
        level = logging.INFO if took >= self.slow_callback_duration else logging.DEBUG
        base_events.logger.log(  # type: ignore[attr-defined]
            level, "Getting address info %s took %.3fms: %r", args[:2], took * 1e3, answer
        )
        return answer

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """The name of an address: `socket.getnameinfo`, on a thread of the loop's own."""
        return await self._call_blocking(socket.getnameinfo, sockaddr, flags)

    # What went wrong.

    def get_exception_handler(self) -> Any:
        """Return the handler set by `set_exception_handler`, or None."""
        return self._exception_handler

    def set_exception_handler(self, handler: Any) -> None:
        """Set `handler(loop, context)`, called for what nobody else can be told; None resets."""
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log `context` as an error of the "asyncio" logger."""
        message = context.get("message") or "Unhandled exception in event loop"
        exception = context.get("exception")
        exc_info: Any = (
            (type(exception), exception, exception.__traceback__)
            if exception is not None
            else False
        )
        lines = [message]
        for key in sorted(context):
            if key in {"message", "exception"}:
                continue
            value = context[key]
            if key == "source_traceback":
                stack = "".join(traceback.format_list(value)).rstrip()
                value = f"Object created at (most recent call last):\n{stack}"
            elif key == "handle_traceback":
                stack = "".join(traceback.format_list(value)).rstrip()
                value = f"Handle created at (most recent call last):\n{stack}"
            else:
                value = repr(value)
            lines.append(f"{key}: {value}")
        base_events.logger.error(  # type: ignore[attr-defined]
            "\n".join(lines), exc_info=exc_info
        )

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand `context` ("message", and "exception", "task", "handle", … where known) over."""
        if self._exception_handler is None:
            self._call_default_handler(context)
            return
        try:
            owner = context.get("task") or context.get("future") or context.get("handle")
            get_context = getattr(owner, "get_context", None)
            inside = get_context() if get_context is not None else None
            if inside is not None and hasattr(inside, "run"):
                inside.run(self._exception_handler, self, context)
            else:
                self._exception_handler(self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._call_default_handler(
                {
                    "message": "Unhandled error in exception handler",
                    "exception": error,
                    "context": context,
                },
                "Exception in default exception handler while handling an unexpected error "
                "in custom exception handler",
            )

    def _call_default_handler(
        self,
        context: dict[str, Any],
        failure: str = "Exception in default exception handler",
    ) -> None:
        try:
            self.default_exception_handler(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            base_events.logger.error(failure, exc_info=True)  # type: ignore[attr-defined]

    # Debug mode.

    def set_debug(self, enabled: bool) -> None:
        """Turn debug mode on or off."""
        self._set_debug_flag(bool(enabled))
        if self.is_running():
            self.call_soon_threadsafe(self._set_origin_tracking, bool(enabled))

    def _set_origin_tracking(self, enabled: bool) -> None:
        if enabled == (self._origin_tracking_saved is not None):
            return
        if enabled:
            self._origin_tracking_saved = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(asyncio.constants.DEBUG_STACK_DEPTH)
        elif self._origin_tracking_saved is not None:
            sys.set_coroutine_origin_tracking_depth(self._origin_tracking_saved)
            self._origin_tracking_saved = None


def _is_literal(host: Any) -> bool:
    """Whether `host` needs no look-up: None, or an address written as numbers."""
    if host is None:
        return True
    if isinstance(host, bytes):
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return False
    if not isinstance(host, str) or not host:
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False


os.register_at_fork(after_in_child=_aioxide._note_fork)
