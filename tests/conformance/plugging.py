"""Plugs a subject's own classes into CPython's tests: Task, Future, Runner, locks, a bare loop.

isolate.py calls replace_names() before it imports a test file and adapt() after. What a test
asserts is never touched: only who makes the loop, and which Task and Future a class is given.
The classes that concern a subject are marked `plugged`; no other is run here.
"""

import asyncio
import asyncio.futures
import asyncio.tasks
import sys
import unittest
from unittest import mock

from substitution import StandIn, closing


class Overlay:
    """A module as one test file sees it: one name replaced, all else the module's own."""

    def __init__(self, module, **replaced):
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)

    def __setattr__(self, name, value):
        setattr(self._module, name, value)

    def __delattr__(self, name):
        delattr(self._module, name)


def replace_names(subject):
    """Replaces asyncio's public names for "a loop"; inside asyncio all goes on as it is."""
    asyncio.DefaultEventLoopPolicy = subject.policy
    asyncio.set_event_loop_policy(None)
    asyncio.SelectorEventLoop = StandIn(subject.loop, lambda: subject.loop_class)
    asyncio.BaseEventLoop = StandIn(subject.base_loop, lambda: subject.base_loop_class)
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = asyncio.SelectorEventLoop


def adapt(module, subject):
    """Gives the test file's classes to the subject, and adds those that plug in its own classes."""
    utils = getattr(module, "test_utils", None)
    if utils is not None:
        utils.TestCase.close_loop = staticmethod(closing(utils.TestCase.close_loop))
    adapt_file = FILES.get(module.__name__.rpartition(".")[2])
    if adapt_file is not None:
        adapt_file(module, subject, _Adder(module))


class _Adder:
    """Adds a class to a test file, marked as one that gives the subject to every test."""

    def __init__(self, module):
        self.module = module

    def __call__(self, name, *bases, **attributes):
        attributes |= {"__module__": self.module.__name__, "plugged": True}
        added = type(name, bases, attributes)
        setattr(self.module, name, added)
        return added


def _own_loop(subject):
    """A mixin: tests that need no simulated clock get the subject's loop, not utils.TestLoop."""

    class OwnLoop:
        def new_test_loop(self, gen=None):
            if gen is not None:
                return super().new_test_loop(gen)
            loop = subject.loop()
            self.set_event_loop(loop)
            return loop

    return OwnLoop


def _overlaid(module, **replaced):
    """A mixin: while a test runs, these of asyncio's names mean others in the test file alone."""

    class Overlaid:
        def setUp(self):
            for name, value in list(vars(module).items()):
                if value is asyncio or getattr(value, "__name__", "").startswith("asyncio."):
                    known = {key: own for key, own in replaced.items() if hasattr(value, key)}
                    patch = mock.patch.object(module, name, Overlay(value, **known))
                    patch.start()
                    self.addCleanup(patch.stop)
            super().setUp()

    return Overlaid


def _every_class(*names):
    """Adapts a file: each of its test classes runs once more with the subject's own `names`."""

    def adapt_file(module, subject, add):
        ours = subject.own(*names)
        classes = [
            value
            for value in list(vars(module).values())
            if isinstance(value, type)
            and issubclass(value, unittest.TestCase)
            and value.__module__ == module.__name__
        ]
        for cls in classes if ours else []:
            add(f"Our{cls.__name__}", _overlaid(module, **ours), cls)

    return adapt_file


def _base_events(module, subject, add):
    module.base_events = Overlay(module.base_events, BaseEventLoop=asyncio.BaseEventLoop)
    module.BaseEventLoopTests.plugged = True


def _pep492(module, subject, add):
    module.BaseTest.plugged = True


def _runners(module, subject, add):
    if subject.run is None or subject.runner is None:
        return
    home = sys.modules[subject.runner.__module__]

    class OurRunner(_overlaid(module, run=subject.run, Runner=subject.runner)):
        """The tests hand their loops over through the policy; a Runner of another kind asks its
        own module for one."""

        def setUp(self):
            super().setUp()
            if hasattr(home, "new_event_loop"):
                patch = mock.patch.object(home, "new_event_loop", asyncio.new_event_loop)
                patch.start()
                self.addCleanup(patch.stop)

    add("OurRunTests", OurRunner, module.RunTests)
    add("OurRunnerTests", OurRunner, module.RunnerTests)


def _tasks(module, subject, add):
    _tasks_functions(module, subject, add)
    test_case = module.test_utils.TestCase
    own_loop = _own_loop(subject)
    add("CTask_CFuture_OwnLoop_Tests", own_loop, module.CTask_CFuture_Tests)
    add("FutureGather_OwnLoop_Tests", own_loop, module.FutureGatherTests, _run_loop=_run_shortly)
    add(
        "CoroutineGather_OwnLoop_Tests",
        own_loop,
        module.CoroutineGatherTests,
        _run_loop=_run_shortly,
    )
    if subject.task is None or subject.future is None:
        return
    c_task, py_task = asyncio.tasks._CTask, asyncio.tasks._PyTask
    c_future, py_future = asyncio.futures._CFuture, asyncio.futures._PyFuture
    ours = {"Task": subject.task, "Future": subject.future}
    add("OurTask_OurFuture_Tests", module.CTask_CFuture_Tests, **ours)
    add("OurTask_OurFuture_OwnLoop_Tests", own_loop, module.CTask_CFuture_Tests, **ours)
    add("OurTask_Future_Tests", _overlaid(module, Future=subject.future), module.CTask_Future_Tests)
    mixed = {
        "OurTask_OurFuture": (subject.task, subject.future),
        "OurTask_CFuture": (subject.task, c_future),
        "OurTask_PyFuture": (subject.task, py_future),
        "CTask_OurFuture": (c_task, subject.future),
        "PyTask_OurFuture": (py_task, subject.future),
    }
    for name, (task, future) in mixed.items():
        pair = {"Task": task, "Future": future}
        if name != "OurTask_OurFuture":
            add(f"{name}_Tests", module.BaseTaskTests, test_case, **pair)
        module.add_subclass_tests(
            add(f"{name}_SubclassTests", module.BaseTaskTests, test_case, **pair)
        )
    add(
        "OurCurrentLoopTests",
        module.BaseCurrentLoopTests,
        test_case,
        current_task=staticmethod(asyncio.current_task),
        new_task=lambda self, coro: subject.task(coro, loop=self.loop),
    )


def _tasks_functions(module, subject, add):
    """The functions that wait for tasks, in the tests of those functions."""
    ours = subject.own("gather", "wait", "wait_for", "as_completed", "shield", "sleep")
    ours |= subject.own("run_coroutine_threadsafe")
    if not ours:
        return
    own_loop, overlaid = _own_loop(subject), _overlaid(module, **ours)
    for name in ("FutureGatherTests", "CoroutineGatherTests"):
        add(f"Our_{name}", overlaid, getattr(module, name))
        add(
            f"Our_OwnLoop_{name}", overlaid, own_loop, getattr(module, name), _run_loop=_run_shortly
        )
    for name in ("RunCoroutineThreadsafeTests", "SleepTests"):
        add(f"Our_{name}", overlaid, getattr(module, name))
    classes = {"Task": subject.task, "Future": subject.future}
    add("OurFunctions_Tests", overlaid, module.CTask_CFuture_Tests, **classes)
    add("OurFunctions_OwnLoop_Tests", overlaid, own_loop, module.CTask_CFuture_Tests, **classes)


def _run_shortly(self, loop):
    """The gather tests look into TestLoop's queue; a few empty turns do the same for any loop."""
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))


def _futures(module, subject, add):
    own_loop = _own_loop(subject)
    add("CFuture_OwnLoop_Tests", own_loop, module.CFutureTests)
    add("CFutureDoneCallback_OwnLoop_Tests", own_loop, module.CFutureDoneCallbackTests)
    if subject.future is None:
        return
    future = subject.future
    sub_future = type("OurSubFuture", (future,), {})
    for name, cls in (("OurFuture", future), ("OurSubFuture", sub_future)):
        new = {"_new_future": lambda self, cls=cls: cls(loop=self.loop)}
        add(f"{name}Tests", module.CFutureTests, cls=cls)
        add(f"{name}_OwnLoop_Tests", own_loop, module.CFutureTests, cls=cls)
        add(f"{name}DoneCallbackTests", module.CFutureDoneCallbackTests, **new)
        add(f"{name}DoneCallback_OwnLoop_Tests", own_loop, module.CFutureDoneCallbackTests, **new)
    add(
        "OurFutureInheritanceTests",
        module.CFutureInheritanceTests,
        _get_future_cls=lambda self: future,
    )


def _futures2(module, subject, add):
    if subject.task is not None:
        test_case = unittest.IsolatedAsyncioTestCase
        add("OurFutureTests", module.FutureTests, test_case, cls=subject.task)


def _eager_task_factory(module, subject, add):
    task = subject.task
    if task is None:
        return
    test_case = module.test_utils.TestCase
    add("OurEagerTaskFactoryLoopTests", module.CEagerTaskFactoryLoopTests, Task=task)
    add("NonEagerOurTaskTests", module.BaseNonEagerTaskFactoryTests, test_case, Task=task)
    add("EagerOurTaskTests", module.BaseEagerTaskFactoryTests, test_case, Task=task)
    if subject.eager_task_factory is None:
        return
    add(
        "OurFactoryEagerTaskFactoryLoopTests",
        _overlaid(module, create_eager_task_factory=lambda constructor: subject.eager_task_factory),
        module.CEagerTaskFactoryLoopTests,
        Task=task,
    )
    add(
        "OurFactoryEagerOurTaskTests",
        _overlaid(module, create_eager_task_factory=subject.create_eager_task_factory),
        module.BaseEagerTaskFactoryTests,
        test_case,
        Task=task,
    )


def _streams(module, subject, add):
    if subject.streams:
        add("OurStreamTests", _overlaid(module, **subject.streams), module.StreamTests)


def _locks(module, subject, add):
    if not subject.locks:
        return
    ours = _overlaid(module, **subject.locks)
    for name in ("Lock", "Event", "Condition", "Semaphore", "Barrier"):
        add(f"Our{name}Tests", ours, getattr(module, f"{name}Tests"))


def _queues(module, subject, add):
    if not subject.queues:
        return
    ours = _overlaid(module, **subject.queues, **subject.locks)
    for name, case in list(vars(module).items()):
        if not (isinstance(case, type) and issubclass(case, unittest.TestCase)):
            continue
        # Some classes name the queue they test.
        tested = getattr(case, "q_class", None)
        given = {"q_class": subject.queues[tested.__name__]} if tested else {}
        add(f"Our{name}", ours, case, **given)


FILES = {
    "test_base_events": _base_events,
    "test_eager_task_factory": _eager_task_factory,
    "test_futures": _futures,
    "test_futures2": _futures2,
    "test_locks": _locks,
    "test_pep492": _pep492,
    "test_queues": _queues,
    "test_runners": _runners,
    "test_streams": _streams,
    "test_taskgroups": _every_class("TaskGroup", "sleep", "gather", "timeout"),
    "test_tasks": _tasks,
    "test_timeouts": _every_class("Timeout", "timeout", "timeout_at", "sleep", "TaskGroup"),
    "test_waitfor": _every_class("wait_for", "timeout", "sleep", "shield"),
}
