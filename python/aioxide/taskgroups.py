"""`TaskGroup`: tasks that end together (`asyncio.TaskGroup`, the newest CPython's on every Python).

This half waits: entering and leaving. What happens once per child is native (`BaseTaskGroup`).
"""

import asyncio
from typing import Any, Self

from ._aioxide import BaseTaskGroup

__all__ = ("TaskGroup",)


class TaskGroup(BaseTaskGroup):
    """An asynchronous context manager that waits for the tasks made in it.

    The first task that fails cancels the others and the body; all exceptions are then raised
    together as an ExceptionGroup. `cancel()` ends the group early and without an exception.
    """

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> Any:
        # A frame that is in the traceback of an exception must not refer to that exception: the
        # cycle would keep both alive until a collection.
        del traceback
        try:
            return await self._aexit(exc)
        finally:
            self._forget()
            del exc

    async def _aexit(self, exc: BaseException | None) -> bool:
        cancelled = exc if isinstance(exc, asyncio.CancelledError) else None
        last = None
        try:
            self._begin_exit(exc)
            # Several turns of this loop: the parent may be cancelled more than once.
            while (completion := self._completion()) is not None:
                try:
                    await completion
                except asyncio.CancelledError as error:
                    last = error
                    if not self._aborting:
                        cancelled = error
                        self._abort()
            self._raise_base_error()
            if self._parent_cancel_requested:
                if self._parent_task.uncancel() == 0:
                    cancelled = None
                elif cancelled is None:
                    # gh-155433: the request that is left is somebody else's.
                    cancelled = last
            errors = self._errors
            if cancelled is not None and not errors:
                raise cancelled
            if exc is not None and not isinstance(exc, asyncio.CancelledError):
                errors.append(exc)
            if errors:
                self._raise_errors(exc, errors)
            return True
        finally:
            completion = errors = None
            del cancelled, last, exc

    def _raise_base_error(self) -> None:
        """Raise SystemExit or KeyboardInterrupt, if there was one, and report what it hides."""
        if self._base_error is None:
            return
        for hidden in self._errors:
            if hidden is self._base_error:
                continue
            self._loop.call_exception_handler(
                {
                    "message": "TaskGroup task exception was not propagated because the TaskGroup "
                    "body is being closed with a BaseException",
                    "exception": hidden,
                    "task_group": self,
                }
            )
        hidden = None
        raise self._base_error

    def _raise_errors(self, exc: BaseException | None, errors: list[BaseException]) -> None:
        try:
            if self._parent_task.cancelling():
                # Somebody cancels the parent from outside: the request stays, and reaches it again
                # at its next await (gh-116720).
                self._parent_task.uncancel()
                self._parent_task.cancel()
            if isinstance(exc, GeneratorExit) and len(errors) == 1:
                # An asynchronous generator that is being closed expects to see this very one.
                raise exc
            raise BaseExceptionGroup("unhandled errors in a TaskGroup", errors) from None
        finally:
            del exc, errors


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.taskgroups` did."""
    return getattr(asyncio.taskgroups, name)
