"""Signals: handlers of the loop, and waking up for Ctrl-C.

Python's C handler writes the signal's number into a pipe that the loop watches. The pipe exists
while the loop runs in the main thread or has a handler, so a signal that comes before
`run_forever()` is not lost.
"""

import asyncio
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVarTuple

from . import _compat

__all__ = ("SignalMixin",)

Ts = TypeVarTuple("Ts")


def _noop(number: int, frame: Any) -> None:
    """Installed as Python's handler: the pipe carries the news."""


class SignalMixin:
    """Signal handling of `EventLoop`."""

    __slots__ = ()

    def _init_signals(self: Any) -> None:
        self._signal_handlers: dict[int, Any] = {}
        self._signal_pipe: tuple[int, int] | None = None

    def add_signal_handler(
        self: Any, sig: int, callback: Callable[[*Ts], object], *args: *Ts
    ) -> None:
        """Call `callback(*args)` in a turn of the loop whenever signal `sig` arrives.

        Main thread only. Raises ValueError for a number that is no signal, RuntimeError for one
        that cannot be caught.
        """
        if asyncio.iscoroutine(callback) or _compat.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        self._check_closed()
        try:
            signal.set_wakeup_fd(self._open_signal_pipe())
        except (ValueError, OSError) as error:
            if not self._signal_handlers:
                self._drop_signal_pipe()
            raise RuntimeError(str(error)) from None
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)
        try:
            signal.signal(sig, _noop)
            # System calls of the program go on after the signal.
            signal.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            self._release_wakeup()
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise

    def remove_signal_handler(self: Any, sig: int) -> bool:
        """Take the handler of `sig` away and restore the default; False when there was none."""
        _check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise
        self._release_wakeup()
        return True

    def _release_wakeup(self: Any) -> None:
        """With the last handler gone the pipe is needed only while the loop runs."""
        if self._signal_handlers or self.is_running():
            return
        try:
            signal.set_wakeup_fd(-1)
        except (ValueError, OSError):  # Not the main thread: nothing was set from here.
            pass
        self._drop_signal_pipe()

    def _open_signal_pipe(self: Any) -> int:
        if self._signal_pipe is None:
            reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._signal_pipe = (reading, writing)
            self._add_reader(reading, self._read_signals, reading)
        return self._signal_pipe[1]  # type: ignore[no-any-return]

    def _drop_signal_pipe(self: Any) -> None:
        pipe, self._signal_pipe = self._signal_pipe, None
        if pipe is not None:
            if not self._is_parents():
                self._remove_reader(pipe[0])
            os.close(pipe[0])
            os.close(pipe[1])

    def _read_signals(self: Any, reading: int) -> None:
        try:
            numbers = os.read(reading, 4096)
        except (BlockingIOError, InterruptedError):
            return
        for number in numbers:
            handle = self._signal_handlers.get(number)
            if handle is None:
                continue
            if handle.cancelled():
                self.remove_signal_handler(number)
            else:
                self.call_soon(handle._run)

    def _begin_signals(self: Any) -> bool:
        """Before running in the main thread: a signal wakes the loop however it is timed.

        Returns whether `_end_signals` has something to undo.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            writing = self._open_signal_pipe()
            before = signal.set_wakeup_fd(writing)
            if before not in (-1, writing):
                # Somebody watches for signals on a descriptor of their own, as Twisted does, and
                # is left in peace: asyncio takes its place only for handlers of the loop.
                _give_back(before)
        except (ValueError, OSError):  # A sub-interpreter, or no descriptors left.
            return False
        return True

    def _end_signals(self: Any, begun: bool) -> None:
        if not begun or self._signal_pipe is None or self._signal_handlers:
            return
        now = signal.set_wakeup_fd(-1)
        if now not in (-1, self._signal_pipe[1]):
            _give_back(now)
        self._drop_signal_pipe()

    def _close_signals(self: Any) -> None:
        if sys.is_finalizing():
            self._signal_handlers.clear()
        for number in list(self._signal_handlers):
            self.remove_signal_handler(number)
        self._drop_signal_pipe()


def _give_back(wakeup: int) -> None:
    """Restore a descriptor of somebody else's; one that was closed meanwhile is of no use."""
    with contextlib.suppress(ValueError, OSError):
        signal.set_wakeup_fd(wakeup)


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")
