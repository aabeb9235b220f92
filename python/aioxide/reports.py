"""What would otherwise go wrong in silence, put into words by the loop that noticed it.

Part of `EventLoop`: loops that were blocked, exceptions that nobody retrieved, cancellations that
a task does not take notice of, tasks that never finished. Each goes to the logger "asyncio" or to
the exception handler; `aioxide.run(debug=True)` makes warnings of them, which tests can raise.
"""

import asyncio
import os
import traceback
import warnings
import weakref
from asyncio import base_events
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

__all__ = (
    "BlockedLoopWarning",
    "CancelRequest",
    "LoopWarning",
    "Site",
    "SwallowedCancellationWarning",
    "UnclosedTransportWarning",
    "UnfinishedTaskWarning",
    "UnretrievedExceptionWarning",
)

# Seconds after which an exception that nobody retrieved is reported, when that is to happen soon.
# Whoever awaits the task has been woken long before.
UNRETRIEVED_GRACE = 0.1

# Seconds that a cancelled task may take to clean up before it is said not to listen.
CANCEL_GRACE = 5.0

_OWN_FOLDERS = tuple(
    os.path.join(os.path.dirname(str(file)), "") for file in (asyncio.__file__, __file__)
)


class LoopWarning(RuntimeWarning):
    """What an aioxide loop reports under `run(debug=True)`; the other classes are kinds of it."""


class BlockedLoopWarning(LoopWarning):
    """A step or callback held the loop for longer than its stall threshold."""


class UnretrievedExceptionWarning(LoopWarning):
    """A task or future failed, and nobody looked at its exception."""


class SwallowedCancellationWarning(LoopWarning):
    """A task was cancelled, caught that, and goes on."""


class UnfinishedTaskWarning(LoopWarning):
    """A task was still pending when its loop was closed."""


class UnclosedTransportWarning(LoopWarning):
    """A transport was still open when its loop was closed."""


class Site(NamedTuple):
    """A line of a program."""

    filename: str
    lineno: int
    function: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.lineno} in {self.function}"


class CancelRequest(NamedTuple):
    """One request to cancel a task, as `Task.cancel_info()` tells it."""

    by: str | None
    """The name of the task that asked; None if it was a callback or no task at all."""
    when: float
    """Seconds of `time.monotonic()`."""
    message: Any
    """The argument of `cancel()`."""
    site: Site | None
    """The line that asked: the innermost one outside of asyncio."""
    caught: Site | None
    """Where the task caught it and did not end with it."""
    swallowed: bool
    """Whether the task ended, or has gone on for long, as if nobody had asked."""

    def __str__(self) -> str:
        who = "a callback" if self.by is None else repr(self.by)
        why = "" if self.message is None else f" ({self.message})"
        caught = "" if self.caught is None else f", caught at {self.caught}"
        return f"cancelled by {who} at {self.site}{why}{caught}"


def waiting_site(task: Any) -> Site | None:
    """Where `task` waits: the innermost line of its coroutine that is not asyncio's."""
    coroutine = task.get_coro()
    innermost = outside = None
    while coroutine is not None:
        for prefix, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(coroutine, f"{prefix}_frame", None)
            if frame is not None:
                code = frame.f_code
                innermost = Site(code.co_filename, frame.f_lineno or 0, code.co_qualname)
                if not code.co_filename.startswith(_OWN_FOLDERS):
                    outside = innermost
                coroutine = getattr(coroutine, inner)
                break
        else:
            break
    return outside or innermost


class ReportMixin:
    """The part of `EventLoop` that reports."""

    __slots__ = ()

    def _init_reports(self: Any) -> None:
        self._failures: list[Any] = []
        self._refusals: list[weakref.ref[Any]] = []
        self._reports_are_warnings = False
        self._raised_report = None

    def get_unretrieved(self: Any) -> Literal["collected", "soon"]:
        """Return when exceptions that nobody retrieved are reported."""
        return "soon" if self._reports_soon else "collected"

    def set_unretrieved(self: Any, when: Literal["collected", "soon"]) -> None:
        """Choose when the exception of a task or future that nobody retrieved is reported.

        "collected", as asyncio does: when the task is collected, which may be late or never.
        "soon": a tenth of a second after it failed, with the line that created the task.
        Raises ValueError for anything else. Tasks that exist already have no such line.
        """
        if when not in {"collected", "soon"}:
            raise ValueError(f"'collected' or 'soon' is expected, got {when!r}")
        self._set_reports_soon(when == "soon")

    def _warn_of_reports(self: Any) -> None:
        """Make warnings of what is reported, and report soon: `run(debug=True)`."""
        self._reports_are_warnings = True
        self._set_reports_soon(True)

    # What the runtime calls.

    def _report_stall(
        self: Any, seconds: float, samples: Sequence[tuple[float, list[tuple[str, int, str]]]]
    ) -> None:
        """Tell of a step or callback that is over and took too long."""
        stacks = [[Site(*place) for place in stack] for _, stack in samples if stack]
        sites = list(dict.fromkeys(innermost_own(stack) for stack in stacks))
        where = f" at {sites[0]}" if sites else ""
        text = f"The event loop was blocked for about {seconds:.2f} seconds{where}"
        if len(sites) > 1:
            text += "; later at " + ", ".join(str(site) for site in sites[1:])
        if self._reports_are_warnings:
            self._raise_later(BlockedLoopWarning(text), sites[0] if sites else None)
            return
        if stacks:
            lines = traceback.StackSummary.from_list(
                [(site.filename, site.lineno, site.function, None) for site in stacks[0]]
            ).format()
            text += "\nStack (most recent call last):\n" + "".join(lines).rstrip()
        base_events.logger.warning(text)  # type: ignore[attr-defined]

    def _note_failure(self: Any, future: Any) -> None:
        """A future failed: unless somebody looks at it soon, it is reported."""
        self._failures.append(future)
        if len(self._failures) == 1 and not self.is_closed():
            self.call_later(UNRETRIEVED_GRACE, self._look_at_failures)

    def _look_at_failures(self: Any) -> None:
        failures, self._failures = self._failures, []
        for future in failures:
            if future._log_traceback:
                self._report_failure(future)

    def _report_failure(self: Any, future: Any) -> None:
        created = getattr(future, "_created_at", None)
        if not self._reports_are_warnings or self.get_exception_handler() is not None:
            future._report_unretrieved()
        if self._reports_are_warnings:
            future._log_traceback = False
            text = f"{type(future).__name__} exception was never retrieved: {future!r}"
            if created is not None:
                text += f", created at {created}"
            warning = UnretrievedExceptionWarning(text)
            warning.__cause__ = future.exception()
            self._raise_later(warning, created)

    def _note_refusal(self: Any, task: Any) -> None:
        """A task caught its cancellation and waits for something: to clean up, or for ever."""
        self._refusals.append(weakref.ref(task))
        if len(self._refusals) == 1:
            self.call_later(CANCEL_GRACE, self._look_at_refusals)

    def _look_at_refusals(self: Any) -> None:
        refusals, self._refusals = self._refusals, []
        now = self.time()
        later = []
        for reference in refusals:
            task = reference()
            if task is None or task.done() or task.cancelling() == 0:
                continue
            request = task.cancel_info()[-1]
            if now - request.when < CANCEL_GRACE * 0.9:
                later.append(reference)
            elif request.caught is not None and task._note_swallowed():
                self._report_refusal(task, request, now)
        if later:
            self._refusals = later
            self.call_later(CANCEL_GRACE, self._look_at_refusals)

    def _report_refusal(self: Any, task: Any, request: CancelRequest, now: float) -> None:
        text = (
            f"Task {task.get_name()!r} goes on {now - request.when:.1f} seconds after it was "
            f"{request}; it waits at {waiting_site(task)}"
        )
        if self._reports_are_warnings:
            self._raise_later(SwallowedCancellationWarning(text), request.caught)
        else:
            base_events.logger.warning(text)  # type: ignore[attr-defined]

    # At the end.

    def _report_survivors(self: Any, tasks: Sequence[Any]) -> None:
        """Tell of tasks that were pending when the loop closed: where made, where they wait."""
        unfinished = []
        for task in tasks:
            if task.done() or not task._log_destroy_pending:
                continue
            task._log_destroy_pending = False
            self._count_left(1, 0)
            site = waiting_site(task)
            if self._reports_are_warnings:
                unfinished.append(f"{task.get_name()!r} waits at {site}")
                continue
            context = {"message": "Task was destroyed but it is pending!", "task": task}
            if site is not None:
                context["waiting_at"] = str(site)
            if task._created_at is not None:
                context["created_at"] = str(task._created_at)
            if task._source_traceback:
                context["source_traceback"] = task._source_traceback
            self.call_exception_handler(context)
        if unfinished:
            text = f"{len(unfinished)} tasks never finished: " + "; ".join(unfinished)
            self._raise_later(UnfinishedTaskWarning(text), None)

    def _report_open_transports(self: Any, entries: Sequence[tuple[Any, Site | None]]) -> None:
        """Count what nobody closed; list it once where reports come soon.

        The transports themselves warn with a ResourceWarning each when they are collected.
        """
        self._count_left(0, len(entries))
        if not entries or not self._reports_soon:
            return
        listed = "; ".join(f"{transport!r} opened at {site}" for transport, site in entries)
        text = f"{len(entries)} transports were never closed: {listed}"
        if self._reports_are_warnings:
            site = next((site for _, site in entries if site is not None), None)
            self._raise_later(UnclosedTransportWarning(text), site)
        else:
            base_events.logger.warning(text)  # type: ignore[attr-defined]

    def _raise_later(self: Any, warning: LoopWarning, site: Site | None) -> None:
        """Warn; where the filters make that an error, the loop stops and raises it."""
        filename, line = (site.filename, site.lineno) if site else ("<aioxide>", 1)
        try:
            warnings.warn_explicit(warning, type(warning), filename, line)
        except Warning as raised:
            if self._raised_report is None:
                self._raised_report = raised
            self.stop()

    def _raise_report(self: Any) -> None:
        """Raise what the filters made an error, once the loop has stopped."""
        raised, self._raised_report = self._raised_report, None
        if raised is not None:
            raise raised


def innermost_own(stack: Sequence[Site]) -> Site:
    """The innermost line of a stack that is not asyncio's."""
    for site in reversed(stack):
        if not site.filename.startswith(_OWN_FOLDERS):
            return site
    return stack[-1]
