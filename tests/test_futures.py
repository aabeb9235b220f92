"""Future: what it is, its states, its callbacks, its reports, its repr, its life in memory.

Run by pytest on asyncio first and then on aioxide. Awaiting is in test_future_await.py; tasks,
which are futures too, in test_tasks.py.
"""

import asyncio
import contextvars
import gc
import re
import threading
import types
import weakref

import pytest


@pytest.fixture
def future(loop, namespace):
    return namespace.Future(loop=loop)


@pytest.fixture
def make(loop, namespace):
    """Makes further futures on the same loop."""
    return lambda: namespace.Future(loop=loop)


def finish(future, how):
    """Brings a future to its end: "result", "exception" or "cancelled"."""
    if how == "result":
        future.set_result("value")
    elif how == "exception":
        future.set_exception(ValueError("failed"))
    else:
        future.cancel("stopped")


def turn(loop):
    """Runs what is ready."""
    loop.call_soon(loop.stop)
    loop.run_forever()


# What it is.


def test_future_is_asyncios(future, loop, namespace):
    assert isinstance(future, asyncio.Future)
    assert isinstance(future, namespace.Future)
    assert not isinstance(future, asyncio.Task)
    assert asyncio.isfuture(future)
    assert asyncio.ensure_future(future) is future
    assert type(loop.create_future()) is namespace.Future
    assert not asyncio.iscoroutine(future)
    assert future.get_loop() is loop


def test_future_is_awaitable_and_generic(future, namespace):
    assert isinstance(namespace.Future[int], types.GenericAlias)
    assert namespace.Future[int].__origin__ is namespace.Future
    assert hasattr(future, "__await__")
    assert hasattr(future, "__iter__")


def test_future_can_be_hashed_compared_and_given_attributes(future, make):
    other = make()
    assert future != other
    assert len({future, other}) == 2
    future.anything = 1
    assert future.anything == 1
    assert weakref.ref(future)() is future


def test_future_finds_the_running_loop(loop, namespace):
    async def main():
        return namespace.Future().get_loop()

    assert loop.run_until_complete(main()) is loop


def test_future_needs_a_loop(namespace):
    errors = []

    def create():
        try:
            namespace.Future()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=create, name="lonely")
    thread.start()
    thread.join()
    assert errors == ["There is no current event loop in thread 'lonely'."]


@pytest.mark.parametrize(
    ("arguments", "options"), [((1,), {}), ((), {"loop": 1}), ((), {"other": None})]
)
def test_future_refuses_wrong_arguments(namespace, arguments, options):
    with pytest.raises((TypeError, AttributeError)):
        namespace.Future(*arguments, **options)


# States.


def test_pending_future_has_neither_result_nor_exception(future):
    assert not future.done()
    assert not future.cancelled()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Result is not set\.$"):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Exception is not set\.$"):
        future.exception()
    assert future._state == "PENDING"


@pytest.mark.parametrize("value", [None, 1, "text", ValueError("a value"), (1,), object()])
def test_result_is_kept(future, value):
    assert future.set_result(value) is None
    assert future.done()
    assert not future.cancelled()
    assert future.result() is value
    assert future.result() is value
    assert future.exception() is None
    assert future._state == "FINISHED"


def test_exception_is_kept(future):
    error = ValueError("failed")
    assert future.set_exception(error) is None
    assert future.done()
    assert not future.cancelled()
    assert future.exception() is error
    for _ in range(2):
        with pytest.raises(ValueError, match="failed") as caught:
            future.result()
        assert caught.value is error


def test_exception_class_is_instantiated(future):
    future.set_exception(ValueError)
    assert type(future.exception()) is ValueError


@pytest.mark.parametrize("wrong", [1, "text", int, None, object()])
def test_exception_must_be_one(future, wrong):
    with pytest.raises(TypeError, match="invalid exception object"):
        future.set_exception(wrong)
    assert not future.done()


@pytest.mark.parametrize("given", [StopIteration, StopIteration("a value")])
def test_stop_iteration_cannot_be_raised_into_a_future(future, given, behaves_as):
    message = "StopIteration interacts badly with generators and cannot be raised into a Future"
    if not behaves_as(3, 13):
        with pytest.raises(TypeError, match=message):
            future.set_exception(given)
        return
    future.set_exception(given)
    error = future.exception()
    assert type(error) is RuntimeError
    assert str(error) == message
    assert type(error.__cause__) is StopIteration


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit()])
def test_any_base_exception_may_be_set(future, error):
    future.set_exception(error)
    assert future.exception() is error


@pytest.mark.parametrize("first", ["result", "exception", "cancelled"])
def test_future_is_finished_once(future, first):
    finish(future, first)
    with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
        future.set_result(2)
    with pytest.raises(asyncio.InvalidStateError, match="invalid state"):
        future.set_exception(LookupError())
    assert future.cancel("again") is False
    assert future.cancelled() is (first == "cancelled")
    if first == "exception":
        assert str(future.exception()) == "failed"


@pytest.mark.parametrize("method", ["result", "exception"])
@pytest.mark.parametrize("message", [None, "why", ("any", "thing")])
def test_cancelled_future_raises_its_message(future, method, message):
    assert future.cancel(message) is True
    assert future.done()
    assert future.cancelled()
    assert future._state == "CANCELLED"
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError) as caught:
            getattr(future, method)()
        assert caught.value.args == (() if message is None else (message,))


def test_cancel_takes_its_message_by_name(future):
    assert future.cancel(msg="named") is True
    assert future._cancel_message == "named"
    assert future._make_cancelled_error().args == ("named",)


def test_asking_again_does_not_lengthen_the_traceback(future):
    future.set_exception(ValueError())

    def length():
        try:
            future.result()
        except ValueError as error:
            traceback, count = error.__traceback__, 0
            while traceback is not None:
                traceback, count = traceback.tb_next, count + 1
            return count

    assert length() == length() == length()


def test_methods_refuse_wrong_arguments(future):
    for call in (
        lambda: future.set_result(),
        lambda: future.set_result(1, 2),
        lambda: future.set_exception(),
        lambda: future.add_done_callback(),
        lambda: future.add_done_callback(print, None),
        lambda: future.remove_done_callback(),
        lambda: future.result(1),
        lambda: future.cancel("message", "more"),
        lambda: future.cancel(message="misnamed"),
    ):
        with pytest.raises(TypeError):
            call()
    assert not future.done()


def test_future_that_was_never_initialised_says_so(namespace):
    empty = namespace.Future.__new__(namespace.Future)
    for call in (
        empty.get_loop,
        empty.cancel,
        lambda: empty.set_result(1),
        lambda: empty.set_exception(ValueError()),
        lambda: empty.add_done_callback(print),
    ):
        with pytest.raises(RuntimeError, match=r"not initialized|uninitialized"):
            call()


# Callbacks.


@pytest.mark.parametrize("how", ["result", "exception", "cancelled"])
def test_callbacks_run_once_in_their_order_with_the_future(future, loop, how):
    seen = []
    for number in range(5):
        future.add_done_callback(lambda done, number=number: seen.append((number, done)))
    finish(future, how)
    assert seen == []
    turn(loop)
    turn(loop)
    assert seen == [(number, future) for number in range(5)]
    if how == "exception":
        future.exception()


@pytest.mark.parametrize("how", ["result", "exception", "cancelled"])
def test_callback_added_to_a_finished_future_waits_for_the_loop(future, loop, how):
    seen = []
    finish(future, how)
    assert future.add_done_callback(seen.append) is None
    assert seen == []
    turn(loop)
    assert seen == [future]
    if how == "exception":
        future.exception()


def test_callback_added_to_a_finished_future_runs_behind_what_was_ready(future, loop):
    order = []
    future.set_result(None)

    async def main():
        loop.call_soon(order.append, "ready before")
        future.add_done_callback(lambda _: order.append("callback"))
        order.append("still in the step")
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert order == ["still in the step", "ready before", "callback"]


def test_callback_may_be_added_several_times_and_removed_together(future, loop):
    seen, other = [], []
    for _ in range(3):
        future.add_done_callback(seen.append)
        future.add_done_callback(other.append)
    assert future.remove_done_callback(seen.append) == 3
    assert future.remove_done_callback(seen.append) == 0
    assert future.remove_done_callback(None) == 0
    future.set_result(None)
    assert future.remove_done_callback(other.append) == 0
    turn(loop)
    assert seen == []
    assert other == [future] * 3


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("removed", [0, -1])
def test_removing_one_callback_keeps_the_others_in_order(future, loop, count, removed):
    seen = []
    callbacks = [lambda _, number=number: seen.append(number) for number in range(count)]
    for callback in callbacks:
        future.add_done_callback(callback)
    assert future.remove_done_callback(callbacks[removed]) == 1
    future.set_result(None)
    turn(loop)
    expected = list(range(count))
    del expected[removed]
    assert seen == expected


def test_callbacks_are_removed_by_equality(future):
    class Equal:
        def __call__(self, done):
            raise AssertionError("it was removed")

        def __eq__(self, other):
            return isinstance(other, Equal)

        __hash__ = None

    future.add_done_callback(print)
    future.add_done_callback(Equal())
    future.add_done_callback(Equal())
    assert future.remove_done_callback(Equal()) == 2
    assert future.remove_done_callback(print) == 1


def test_comparison_that_fails_leaves_remove_done_callback(future):
    class Failing:
        def __eq__(self, other):
            raise LookupError("no comparison")

        __hash__ = None

    for _ in range(2):
        future.add_done_callback(print)
    with pytest.raises(LookupError, match="no comparison"):
        future.remove_done_callback(Failing())


def test_callback_runs_in_the_context_of_its_registration_or_the_given_one(future, loop):
    variable = contextvars.ContextVar("variable", default="outer")
    given = contextvars.copy_context()
    given.run(variable.set, "given")
    seen = []

    def look(done):
        seen.append(variable.get())

    token = variable.set("registration")
    future.add_done_callback(look)
    variable.reset(token)
    future.add_done_callback(look, context=given)
    variable.set("completion")
    future.set_result(None)
    future.add_done_callback(look)
    turn(loop)
    assert seen == ["registration", "given", "completion"]


def test_failing_callback_is_reported_and_the_others_run(future, loop, loop_errors):
    seen = []
    future.add_done_callback(lambda done: 1 / 0)
    future.add_done_callback(seen.append)
    future.set_result(None)
    turn(loop)
    assert seen == [future]
    (context,) = loop_errors.take()
    assert type(context["exception"]) is ZeroDivisionError
    assert context["message"].startswith("Exception in callback test_failing_callback")


def test_finishing_on_a_closed_loop_says_that_it_is_closed(future, loop, make):
    quiet = make()
    future.add_done_callback(print)
    loop.close()
    quiet.set_result(None)
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        future.set_result(None)
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        quiet.add_done_callback(print)


def test_callbacks_that_meddle_with_their_future_do_no_harm(run_child, namespace, behaves_as):
    if not behaves_as(3, 14):
        pytest.skip("asyncio's C futures crash here before 3.13.1")
    child = run_child(
        """
        loop = new_event_loop()
        future = namespace.Future(loop=loop)

        class Meddling:
            times = 0

            def __eq__(self, other):
                self.times += 1
                future.remove_done_callback(print)
                if self.times < 10:
                    future.add_done_callback(len)
                return False
            __hash__ = None

        for _ in range(4):
            future.add_done_callback(print)
        future.remove_done_callback(Meddling())
        original = loop.call_soon

        def call_soon(callback, *arguments, context=None):
            future.remove_done_callback(callback)
            return original(lambda: None)

        loop.call_soon = call_soon
        future.set_result(1)
        del loop.call_soon
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        print("unharmed")
        """
    )
    assert child.stdout.strip() == "unharmed", child.stderr
    assert child.returncode == 0


# Reports.


def test_exception_that_nobody_asked_for_is_reported_once(make, loop_errors):
    error = ValueError("unseen")
    future = make()
    future.set_exception(error)
    assert loop_errors == []
    del future
    gc.collect()
    (context,) = loop_errors
    assert sorted(context) == ["exception", "future", "message"]
    assert context["message"] == "Future exception was never retrieved"
    assert context["exception"] is error
    assert type(context["future"]) is type(make())
    loop_errors.take()
    del context
    gc.collect()
    assert loop_errors == []


def test_report_names_the_class_and_the_origin_in_debug_mode(loop, namespace, loop_errors):
    class Promise(namespace.Future):
        pass

    loop.set_debug(True)
    Promise(loop=loop).set_exception(ValueError())
    gc.collect()
    (context,) = loop_errors.take()
    assert context["message"] == "Promise exception was never retrieved"
    assert context["source_traceback"][-1].filename == __file__


@pytest.mark.parametrize("way", ["result", "exception", "await", "flag", "no exception"])
def test_nothing_is_reported_when_the_exception_was_seen(make, loop, way):
    future = make()
    if way == "no exception":
        future.set_result(1)
        return
    future.set_exception(ValueError())
    if way == "flag":
        assert future._log_traceback is True
        future._log_traceback = False
    elif way == "await":
        with pytest.raises(ValueError):
            loop.run_until_complete(future)
    else:
        try:
            getattr(future, way)()
        except ValueError:
            pass
    assert future._log_traceback is False
    # The loop fixture finds any report.


def test_report_flag_can_only_be_lowered(future):
    with pytest.raises(ValueError, match="_log_traceback can only be set to False"):
        future._log_traceback = True


# Representation.


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (None, "<Future pending>"),
        ("result", "<Future finished result='value'>"),
        ("exception", "<Future finished exception=ValueError('failed')>"),
        ("cancelled", "<Future cancelled>"),
    ],
)
def test_representation_shows_the_state(future, how, text):
    if how is not None:
        finish(future, how)
    assert repr(future) == text
    if how == "exception":
        future.exception()


def test_representation_shows_callbacks_but_not_all(future):
    def one(done):
        """A callback whose place in this file the representation names."""

    place = re.escape(f"{__file__}:{one.__code__.co_firstlineno}")
    name = re.escape(one.__qualname__)
    shown = rf"{name}\(\) at {place}"
    future.add_done_callback(one)
    assert re.fullmatch(rf"<Future pending cb=\[{shown}\]>", repr(future))
    future.add_done_callback(one)
    assert re.fullmatch(rf"<Future pending cb=\[{shown}, {shown}\]>", repr(future))
    for _ in range(3):
        future.add_done_callback(one)
    assert re.fullmatch(rf"<Future pending cb=\[{shown}, <3 more>, {shown}\]>", repr(future)), repr(
        future
    )


def test_representation_survives_recursion_and_long_results(future, make):
    future.set_result([future])
    assert "..." in repr(future)
    long = make()
    long.set_result("x" * 10_000)
    assert len(repr(long)) < 200


def test_representation_shows_the_origin_in_debug_mode(loop, namespace):
    loop.set_debug(True)
    future = namespace.Future(loop=loop)
    assert re.search(rf"created at {re.escape(__file__)}:\d+>$", repr(future))
    assert future._source_traceback[-1].filename == __file__


# Memory.


class Token:
    """Something whose life can be watched."""


@pytest.mark.parametrize(
    "where", ["result", "callback", "attribute", "exception", "context", "iterator"]
)
def test_cycle_through_a_future_is_collected(make, where):
    for _ in range(5):  # What is dropped here may come back as recycled memory.
        next(make().__await__())
    future, token = make(), Token()
    reference, watched = weakref.ref(future), weakref.ref(token)
    holder = (future, token)
    if where == "result":
        future.set_result(holder)
    elif where == "callback":
        future.add_done_callback(lambda done, holder=holder: None)
    elif where == "attribute":
        future.holder = holder
    elif where == "iterator":
        token.iterator = future.__await__()
        future.holder = holder
        del future.holder
        future.add_done_callback(lambda done, iterator=token.iterator: None)
    elif where == "exception":
        error = ValueError()
        error.holder = holder
        future.set_exception(error)
        future.exception()
        del error
    else:
        variable = contextvars.ContextVar("variable")
        context = contextvars.copy_context()
        context.run(variable.set, holder)
        future.add_done_callback(print, context=context)
        del variable, context
    del future, token, holder
    gc.collect()
    assert reference() is None
    assert watched() is None


def test_future_without_a_cycle_is_freed_at_once(make, loop):
    gc.disable()
    try:
        future, token = make(), Token()
        watched = weakref.ref(token)
        iterator = future.__await__()
        next(iterator)
        future.add_done_callback(token.__eq__)
        future.set_result(token)
        del future, token, iterator
        turn(loop)
        assert watched() is None
    finally:
        gc.enable()


def test_futures_leave_no_memory_behind(make, loop, resident_growth):
    def work():
        for _ in range(20):
            futures = [make() for _ in range(1000)]
            for future in futures:
                future.add_done_callback(id)
                future.set_result("x")
            turn(loop)

    assert resident_growth(work, warm_up=2, repeat=4) < 2 * 1024 * 1024
