"""Makes a subject's loops wherever CPython's tests ask for one by either of two names.

isolate.py calls substitute() before it imports a test file and prepare() after. Nothing else of
asyncio's is replaced: a test that never asks for `new_event_loop` or `SelectorEventLoop` is none
of a loop's cases, and what a test asserts is never touched.
"""

import asyncio
import asyncio.events
import asyncio.unix_events


class StandIn:
    """Stands for a loop class that the tests call, subclass, or ask isinstance() about."""

    def __init__(self, make, find_class):
        self._make = make
        self._find_class = find_class

    def __call__(self, *args):
        return self._make(*args)

    def __mro_entries__(self, bases):
        return (self._find_class(),)

    def __instancecheck__(self, loop):
        return isinstance(loop, self._find_class())

    def __getattr__(self, name):
        return getattr(self._find_class(), name)


def substitute(subject):
    """Replaces new_event_loop and SelectorEventLoop; for asyncio it only counts who asks.

    asyncio.run() asks the policy, and the default policy asks for SelectorEventLoop by a name of
    its own class; what a policy of a test's own makes stays that policy's business.
    """
    asyncio.new_event_loop = lambda: subject.loop()
    loop_class = StandIn(subject.loop, lambda: subject.loop_class)
    asyncio.SelectorEventLoop = asyncio.unix_events.SelectorEventLoop = loop_class
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = loop_class
    asyncio.DefaultEventLoopPolicy._loop_factory = staticmethod(subject.loop)


def prepare(module):
    """Leaves out two steps, around the tests, which only loops made of asyncio's code can take.

    The end of a test reads a private attribute of asyncio's loop, and the beginning has children
    watched through SIGCHLD, which belongs to the loop where a loop watches its own children.
    """
    utils = getattr(module, "test_utils", None)
    if utils is not None:
        utils.TestCase.close_loop = staticmethod(closing(utils.TestCase.close_loop))
    mixin = getattr(module, "UnixEventLoopTestsMixin", None)
    if mixin is not None:
        del mixin.setUp, mixin.tearDown


def closing(close_loop):
    """A way to close a loop at the end of a test that needs no attribute of asyncio's own loop."""

    def close(loop):
        if hasattr(loop, "_default_executor"):
            return close_loop(loop)
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    return close
