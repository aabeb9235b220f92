"""Queues: what of a `Queue` awaits. The classes are compiled (`queues/mod.rs`)."""

import asyncio.queues
from typing import Any

from ._aioxide import NOTHING, LifoQueue, PriorityQueue, Queue
from ._compat import QueueShutDown
from ._methods import complete

__all__ = ("LifoQueue", "PriorityQueue", "Queue", "QueueShutDown")


@complete(Queue)
class _Queue(Queue[Any]):
    async def put(self, item: Any) -> None:
        """Put an item, and wait for a free slot first if the queue is full.

        QueueShutDown when the queue was shut down.
        """
        while (putter := self._begin_put(item)) is not None:
            try:
                await putter
            except BaseException as error:
                self._give_up_to_put(putter, error)
                raise

    async def get(self) -> Any:
        """Take an item, and wait for one first if there is none.

        QueueShutDown when the queue was shut down and is empty.
        """
        while (item := self._begin_get()) is NOTHING:
            getter = self._line_up_to_get()
            try:
                await getter
            except BaseException as error:
                self._give_up_to_get(getter, error)
                raise
        return item

    async def join(self) -> None:
        """Wait until `task_done` was called for every item that was put."""
        if self._unfinished_tasks > 0:
            await self._finished.wait()


def __getattr__(name: str) -> Any:
    """Under `import aioxide as asyncio` this module stands where `asyncio.queues` did."""
    return getattr(asyncio.queues, name)
