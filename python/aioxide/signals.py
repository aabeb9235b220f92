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
        # The wake-up descriptor of another library, which is told all the same; -1: there is none.
        self._wakeup_before = -1

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
            self._take_wakeup()
        except (ValueError, OSError) as error:
            self._release_wakeup()
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
        self._give_wakeup_back()

    def _take_wakeup(self: Any) -> None:
        """Python's C handler writes to our pipe from now on.

        Raises ValueError outside of the main thread, OSError without descriptors.
        """
        if self._signal_pipe is None:
            reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._signal_pipe = (reading, writing)
            self._add_reader(reading, self._read_signals, reading)
        before = signal.set_wakeup_fd(self._signal_pipe[1])
        if before != self._signal_pipe[1]:
            self._wakeup_before = before

    def _give_wakeup_back(self: Any) -> None:
        """To whoever had it before us; somebody who took it from us meanwhile keeps it."""
        before, self._wakeup_before = self._wakeup_before, -1
        if self._signal_pipe is not None:
            try:
                found = signal.set_wakeup_fd(-1)
                signal.set_wakeup_fd(before if found == self._signal_pipe[1] else found)
            except (ValueError, OSError):
                pass  # Not the main thread, which changed nothing; or theirs was closed.
        self._drop_signal_pipe()

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
        if self._wakeup_before >= 0:
            with contextlib.suppress(OSError):  # Full, or closed: as it would be for Python.
                os.write(self._wakeup_before, numbers)
        for number in numbers:
            handle = self._signal_handlers.get(number)
            if handle is None:
                continue
            if handle.cancelled():
                self.remove_signal_handler(number)
            else:
                self.call_soon(handle._run)

    def _begin_signals(self: Any) -> None:
        """Before running in the main thread: a signal wakes the loop however it is timed."""
        if threading.current_thread() is threading.main_thread():
            with contextlib.suppress(ValueError, OSError):  # A sub-interpreter; no descriptors.
                self._take_wakeup()

    def _end_signals(self: Any) -> None:
        """After running: with handlers the pipe stays, so that no signal between runs is lost."""
        if not self._signal_handlers:
            self._give_wakeup_back()

    def _close_signals(self: Any) -> None:
        if sys.is_finalizing():
            self._signal_handlers.clear()
        for number in list(self._signal_handlers):
            self.remove_signal_handler(number)
        self._give_wakeup_back()


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")
