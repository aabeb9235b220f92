"""Outcomes that cross from the futures of threads to those of loops, and back.

`asyncio.wrap_future` and what `run_coroutine_threadsafe` needs, as in the newest CPython. Where the
future is native the joint is native too (`FutureLink`).
"""

import asyncio
import concurrent.futures
from typing import Any

from . import _aioxide

__all__ = ("copy_to_concurrent", "wrap_future")


def wrap_future(future: Any, *, loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """Return a future of `loop` (None: the current one) with the outcome of a concurrent future.

    Cancelling it cancels the concurrent one. A future of a loop is returned as it is.
    """
    if asyncio.isfuture(future):
        return future
    assert isinstance(future, concurrent.futures.Future), (
        f"concurrent.futures.Future is expected, got {future!r}"
    )
    if loop is None:
        loop = asyncio.get_event_loop()
    destination = loop.create_future()
    if type(destination) is _aioxide.Future and type(loop).__module__.startswith("aioxide"):
        _aioxide.FutureLink.join(future, destination)
    else:
        asyncio.futures._chain_future(future, destination)  # type: ignore[attr-defined]
    return destination


def copy_to_concurrent(source: Any, destination: concurrent.futures.Future[Any]) -> None:
    """Complete `destination` as `source`, a future of a loop; cancelling goes the other way."""
    loop = source.get_loop()

    def cancel(destination: concurrent.futures.Future[Any]) -> None:
        if not destination.cancelled():
            return
        if asyncio.events._get_running_loop() is loop:
            source.cancel()  # At once: the caller may look at it next (gh-105836).
        else:
            loop.call_soon_threadsafe(source.cancel)

    def complete(source: Any) -> None:
        if source.cancelled():
            destination.cancel()
        if not destination.set_running_or_notify_cancel():
            return
        error = source.exception()
        if error is None:
            destination.set_result(source.result())
        else:
            convert = asyncio.futures._convert_future_exc  # type: ignore[attr-defined]
            destination.set_exception(convert(error))

    destination.add_done_callback(cancel)
    source.add_done_callback(complete)
