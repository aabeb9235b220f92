"""Locks: what of the compiled classes awaits, and the two that do nothing else.

Condition and Barrier are Python over the compiled `Lock`, because what they do is wait, several
times in a row. Semantics are those of the newest CPython on every supported Python. Nothing here
knows who waits for a lock.
"""

import asyncio
import asyncio.locks
import sys
import types
from asyncio import mixins
from typing import Any, Literal

from ._aioxide import BoundedSemaphore, Event, Lock, Semaphore
from ._methods import complete

__all__ = ("Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Semaphore")


@complete(Lock)
class _Lock(Lock):
    async def acquire(self) -> Literal[True]:
        """Wait until the lock is free and take it; True."""
        waiter = self._line_up()
        if waiter is not None:
            try:
                await waiter
            except BaseException as error:
                self._give_up(waiter, error)
                raise
            self._take_turn(waiter)
        return True


@complete(Semaphore)
class _Semaphore(Semaphore):
    async def acquire(self) -> Literal[True]:
        """Wait for a permit and take it; True."""
        waiter = self._line_up()
        if waiter is not None:
            try:
                await waiter
            except BaseException as error:
                self._give_up(waiter, error)
                raise
            self._take_turn(waiter)
        return True


@complete(Event)
class _Event(Event):
    async def wait(self) -> Literal[True]:
        """Wait until the flag is set; True."""
        waiter = self._line_up()
        if waiter is not None:
            try:
                await waiter
            finally:
                self._leave(waiter)
        return True


class _MadeSomewhere(mixins._LoopBoundMixin):
    """Belongs to the loop it first waits in, and says in its error where it was made."""

    _loop: Any = None
    _site: Any = None

    def _note_site(self, frame: types.FrameType) -> None:
        self._site = (frame.f_code, frame.f_lineno)

    def _get_loop(self) -> Any:
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        if self._loop is not running:
            raise RuntimeError(
                f"{self!r} is bound to a different event loop: to {self._loop!r}, and this is "
                f"{running!r}{_place(self._site)}"
            )
        return running


def _place(site: Any) -> str:
    """Where an object was made, as the end of a sentence."""
    if site is None:
        return ""
    code, line = site
    return f"; it was made at {code.co_filename}:{line}, in {code.co_qualname}"


class Condition(_MadeSomewhere, asyncio.Condition):
    """Wait until another task says that something has changed (`asyncio.Condition`).

    Condition(lock=None): `lock` is held while the state is looked at; a new Lock by default.
    RuntimeError from `wait` and `notify` when it is not held. `wait` may return although nobody
    notified: `wait_for(predicate)` looks again.
    """

    def __init__(self, lock: Any = None) -> None:
        maker = sys._getframe(1)
        self._note_site(maker)
        if lock is None:
            lock = Lock()
            lock._made_at(maker)
        super().__init__(lock)

    async def wait(self) -> Any:
        """Give the lock up until notified, and take it again; True."""
        if not self.locked():
            raise RuntimeError("cannot wait on un-acquired lock")
        future = self._get_loop().create_future()
        self.release()
        try:
            try:
                self._waiters.append(future)
                try:
                    await future
                finally:
                    self._waiters.remove(future)
            finally:
                await self._take_lock_again()
        except BaseException:
            # Whoever was to be notified may have been this one: another is told in its place.
            self._notify(1)
            raise
        return True

    async def _take_lock_again(self) -> None:
        """The lock is held when `wait` ends, however it ends; a cancel is kept until then."""
        cancelled = None
        while True:
            try:
                await self.acquire()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                cancelled = None  # The traceback refers to this frame.

    def notify(self, n: int = 1) -> None:
        """Wake `n` of the tasks that wait, or as many as there are."""
        if not self.locked():
            raise RuntimeError("cannot notify on un-acquired lock")
        self._notify(n)

    def _notify(self, n: int) -> None:
        for future in self._waiters:
            if n <= 0:
                break
            if not future.done():
                n -= 1
                future.set_result(False)


class Barrier(asyncio.Barrier):
    """So many tasks wait for each other (`asyncio.Barrier`).

    Barrier(parties): `parties` is how many, at least 1; ValueError when it is less. `wait` gives
    each a number from 0 on; BrokenBarrierError after `abort`, and for who waits during `reset`.
    """

    def __init__(self, parties: int) -> None:
        super().__init__(parties)
        maker = sys._getframe(1)
        lock = Lock()
        lock._made_at(maker)
        self._cond = Condition(lock)
        self._cond._note_site(maker)


async def enter_by_name(lock: Any) -> None:
    """`__aenter__` of a lock that has an `acquire` of its own."""
    await lock.acquire()


async def enter_in_line(lock: Lock | Semaphore) -> None:
    """`__aenter__` of a lock that is not free."""
    waiter = lock._line_up()
    if waiter is not None:
        try:
            await waiter
        except BaseException as error:
            lock._give_up(waiter, error)
            raise
        lock._take_turn(waiter)


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.locks` did."""
    return getattr(asyncio.locks, name)
