"""What stands trial: an event loop and, where it has them, its own Task, Future and Runner.

isolate.py loads it by name and plugging.py puts it where CPython's tests make their loops. It
counts how often it was asked for a loop, so that a test that never meets it counts for nothing.
"""

import asyncio
import functools
import importlib

STREAMS = (
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
)
LOCKS = ("Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore", "Barrier")
QUEUES = ("Queue", "LifoQueue", "PriorityQueue")


class Subject:
    """Makes loops, and holds the classes that CPython's tests can take in place of asyncio's."""

    def __init__(self, name, make_loop, *, make_base_loop=None, policy=None, module=None):
        self.name = name
        self.reached = 0
        self._make_loop = make_loop
        self._make_base_loop = make_base_loop or make_loop
        self.policy = self._counting_policy(policy)
        self._module = module
        # Each is None where the subject has nothing of its own and asyncio's is tested anyway.
        self.task = self._own(module, "Task")
        self.future = self._own(module, "Future")
        self.run = self._own(module, "run")
        self.runner = self._own(module, "Runner")
        self.eager_task_factory = self._own(module, "eager_task_factory")
        self.create_eager_task_factory = self._own(module, "create_eager_task_factory")
        self.streams = {name: own for name in STREAMS if (own := self._own(module, name))}
        self.locks = self._all_own(module, LOCKS)
        self.queues = self._all_own(module, QUEUES)

    def loop(self, *selector):
        """A new loop; some tests name a selector, which only asyncio's own loop can use."""
        self.reached += 1
        return self._make_loop(*(selector if self.name == "asyncio" else ()))

    def base_loop(self):
        """What stands for asyncio.BaseEventLoop(), a loop that cannot wait for anything."""
        self.reached += 1
        return self._make_base_loop()

    @functools.cached_property
    def loop_class(self):
        return self._class_made_by(self._make_loop)

    @functools.cached_property
    def base_loop_class(self):
        return self._class_made_by(self._make_base_loop)

    def _class_made_by(self, make):
        if isinstance(make, type):
            return make
        loop = make()
        loop.close()
        return type(loop)

    def own(self, *names):
        """Those of asyncio's names for which the subject has something of its own."""
        found = {name: self._own(self._module, name) for name in names}
        return {name: own for name, own in found.items() if own is not None}

    def _own(self, module, name):
        found = getattr(module, name, None)
        if module is not asyncio and found is getattr(asyncio, name, None):
            return None
        return found

    def _all_own(self, module, names):
        """Those of the names that the subject has something of its own for."""
        own = {name: self._own(module, name) for name in names}
        return {name: found for name, found in own.items() if found is not None}

    def _counting_policy(self, policy):
        subject = self

        class DefaultEventLoopPolicy(policy or asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self):
                if policy is None:
                    return subject.loop()
                subject.reached += 1
                return super().new_event_loop()

        return DefaultEventLoopPolicy


def load(name):
    """The subject called `name`: asyncio, aioxide, uvloop, or module:factory."""
    if name == "asyncio":
        return Subject(
            name, asyncio.SelectorEventLoop, make_base_loop=asyncio.BaseEventLoop, module=asyncio
        )
    module_name, _, factory_name = name.partition(":")
    module = importlib.import_module(module_name)
    return Subject(
        name,
        getattr(module, factory_name or "new_event_loop"),
        policy=getattr(module, "EventLoopPolicy", None),
        module=module,
    )
