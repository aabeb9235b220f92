"""The half of the loop that waits: running, executors, names, and what went wrong.

`EventLoop` completes the native `BaseEventLoop`. What runs once per loop, per connection or per
program is here; nothing here runs once per callback.
"""

import asyncio
import os
import sys
import time
import traceback
import warnings
import weakref
from asyncio import base_events, events, futures
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar, TypeVarTuple, cast

from . import _aioxide, _compat
from .connecting import ConnectingMixin
from .datagrams import DatagramMixin
from .executors import ExecutorMixin
from .generators import Finalizer, GeneratorMixin
from .pipes import PipeMixin
from .processes import ProcessMixin
from .reports import ReportMixin
from .resolving import ResolvingMixin
from .sendfile import SendfileMixin
from .serving import ServingMixin
from .signals import SignalMixin
from .sockets import SocketMixin
from .tls import TlsMixin
from .unix import UnixMixin

__all__ = ("EventLoop",)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class EventLoop(
    _aioxide.BaseEventLoop,
    ConnectingMixin,
    DatagramMixin,
    ExecutorMixin,
    GeneratorMixin,
    ResolvingMixin,
    SendfileMixin,
    ServingMixin,
    SocketMixin,
    UnixMixin,
    PipeMixin,
    ProcessMixin,
    ReportMixin,
    TlsMixin,
    SignalMixin,
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
        "_failures",
        "_look_ups",
        "_origin_tracking_saved",
        "_raised_report",
        "_refusals",
        "_reports_are_warnings",
        "_signal_handlers",
        "_signal_pipe",
        "_wakeup_before",
        "slow_callback_duration",
    )

    def __init__(self) -> None:
        super().__init__()
        self.slow_callback_duration = 0.1  # seconds; debug mode warns above it
        self._exception_handler: Any = None
        self._default_executor: Any = None
        self._executor_shutdown_called = False
        self._look_ups: dict[Any, Any] = {}
        self._asyncgens: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._asyncgens_shutdown_called = False
        self._origin_tracking_saved: int | None = None
        self._init_signals()
        self._init_reports()
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
        self._begin_signals()
        try:
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=Finalizer(self)
            )
            events._set_running_loop(self)
            self._turn_until_stopped()
            self._raise_report()
        finally:
            events._set_running_loop(None)
            self._end_signals()
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

        A look-up of a name that still runs is waited for, a second at most. Tasks that never
        finished are reported to the exception handler, once each. Raises RuntimeError while the
        loop runs; does nothing when it is closed.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if self.get_debug():
            base_events.logger.debug("Close %r", self)  # type: ignore[attr-defined]
        self._look_at_failures()
        self._close_signals()
        self._executor_shutdown_called = True
        executor, self._default_executor = self._default_executor, None
        if executor is not None and not self._is_parents():
            executor.shutdown(wait=False)
        open_transports = self._open_transports()
        self._report_survivors(self._shut())
        self._report_open_transports(open_transports)
        self._raise_report()

    def _check_callback(self, callback: Any, method: str) -> None:
        if asyncio.iscoroutine(callback) or _compat.iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

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
        handle = self._current_handle
        if "source_traceback" not in context and handle is not None and handle._source_traceback:
            context["handle_traceback"] = handle._source_traceback
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

    # Names that asyncio's own loop has, for programs and tests that look there.

    _clock_resolution = time.get_clock_info("monotonic").resolution

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Called by asyncio's own timers; ours leave by themselves."""

    @property
    def _closed(self) -> bool:
        return self.is_closed()

    @property
    def _task_factory(self) -> Any:
        return self.get_task_factory()

    @property
    def _debug(self) -> bool:
        return self.get_debug()

    @_debug.setter
    def _debug(self, enabled: bool) -> None:
        self._set_debug_flag(bool(enabled))

    def _set_origin_tracking(self, enabled: bool) -> None:
        if enabled == (self._origin_tracking_saved is not None):
            return
        if enabled:
            self._origin_tracking_saved = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(asyncio.constants.DEBUG_STACK_DEPTH)
        elif self._origin_tracking_saved is not None:
            sys.set_coroutine_origin_tracking_depth(self._origin_tracking_saved)
            self._origin_tracking_saved = None


os.register_at_fork(
    before=_aioxide._stop_watchdog,
    after_in_parent=_aioxide._resume_watchdog,
    after_in_child=_aioxide._note_fork,
)
