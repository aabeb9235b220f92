"""Happy Eyeballs: several ways to connect, started one after the other, the first to succeed wins.

RFC 8305: the next attempt starts when the one before failed, or after a delay. Called by
`create_connection`; it knows nothing of sockets but that a losing one must be closed.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ._aioxide import gather

__all__ = ("first_to_connect",)


async def first_to_connect(
    attempts: Sequence[Callable[[], Coroutine[Any, Any, Any]]], delay: float
) -> Any | None:
    """Return what the first successful attempt returned, or None when all failed.

    `delay` is in seconds. An attempt fails by raising; whoever made it keeps the exception. Losers
    are cancelled and awaited, and a loser that succeeded all the same has its socket closed.
    """
    waiting = list(attempts)
    running: set[asyncio.Task[Any]] = set()
    winner: asyncio.Task[Any] | None = None
    try:
        try:
            while winner is None and (waiting or running):
                if waiting:
                    running.add(asyncio.ensure_future(waiting.pop(0)()))
                done, running = await asyncio.wait(
                    running,
                    timeout=delay if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if task.cancelled() or task.exception() is not None:
                        continue
                    # Two may finish in one turn; only one can win.
                    if winner is None:
                        winner = task
                    else:
                        task.result().close()
        finally:
            await _abandon(running)
    except BaseException:
        # Cancelled, perhaps only while the losers ended: nobody takes the winner's socket.
        if winner is not None:
            winner.result().close()
        raise
    return winner.result() if winner is not None else None


async def _abandon(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            outcome.close()
