"""unittest: `IsolatedAsyncioTestCase` with our loop, on every Python.

    from aioxide.integrations.unittest import IsolatedAsyncioTestCase

    class TestQueue(IsolatedAsyncioTestCase): ...

Subclassed by test cases, in the place of unittest's. From Python 3.13 on the attribute
`loop_factory` of unittest's own class does the same; earlier ones make their runner without it.
"""

import asyncio
import unittest
from collections.abc import Callable

from ..event_loop import EventLoop

__all__ = ("IsolatedAsyncioTestCase",)


class IsolatedAsyncioTestCase(unittest.IsolatedAsyncioTestCase):
    """`unittest.IsolatedAsyncioTestCase` on an aioxide loop, in debug mode as there.

    `loop_factory` makes the loop of each test; a subclass may set another class of loops.
    """

    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = EventLoop

    def _setupAsyncioRunner(self) -> None:
        self._asyncioRunner = asyncio.Runner(debug=True, loop_factory=self.loop_factory)
