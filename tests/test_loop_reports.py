"""What the loop reports: exception handlers, debug mode, its repr; and how programs bend it.

Run by pytest on asyncio first and then on aioxide. Tests of what a loop does are in test_loop.py.
"""

import asyncio
import contextvars
import gc
import logging
import re
import sys
import time
import weakref

import pytest


async def nothing():
    return None


def fail(*arguments):
    raise ValueError("failed")


def turn_until(loop, condition, *, seconds=5):
    """Runs the loop turn by turn until a condition holds or a deadline has passed."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        loop.call_soon(loop.stop)
        loop.run_forever()


# Exception handlers.


def test_failing_callback_is_reported_and_the_loop_goes_on(loop, loop_errors):
    ran = []
    handle = loop.call_soon(fail, 1)
    loop.call_soon(ran.append, "after")
    loop.run_until_complete(nothing())
    assert ran == ["after"]
    (context,) = loop_errors.take()
    assert sorted(context) == ["exception", "handle", "message"]
    assert context["message"].startswith("Exception in callback fail(")
    assert f"at {__file__}:{fail.__code__.co_firstlineno}" in context["message"]
    assert type(context["exception"]) is ValueError
    assert context["handle"] is handle


def test_report_shows_arguments_and_origin_only_in_debug_mode(loop, loop_errors, behaves_as):
    loop.set_debug(True)
    loop.call_soon(fail, "secret")
    loop.run_until_complete(nothing())
    (context,) = loop_errors.take()
    assert context["message"].startswith("Exception in callback fail('secret')")
    origin = context["source_traceback"][-1]
    assert (origin.filename, origin.name) == (
        __file__,
        test_report_shows_arguments_and_origin_only_in_debug_mode.__name__,
    )
    if behaves_as(3, 13):
        loop.set_debug(False)
        loop.call_soon(fail, "secret")
        loop.run_until_complete(nothing())
        (context,) = loop_errors.take()
        assert "secret" not in context["message"]


def test_default_handler_logs_message_details_and_traceback(loop, caplog):
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None
    loop.call_soon(fail)
    loop.run_until_complete(nothing())
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asyncio", logging.ERROR)
    first, second = record.getMessage().splitlines()
    assert first.startswith("Exception in callback fail()")
    assert second.startswith("handle: <Handle fail()")
    assert record.exc_info[0] is ValueError


def test_default_handler_sorts_details_and_has_a_message_of_its_own(loop, caplog):
    loop.set_exception_handler(None)
    loop.call_exception_handler({"zebra": 1, "ant": "two"})
    loop.call_exception_handler({"message": "what happened", "exception": ValueError("why")})
    first, second = caplog.records
    assert first.getMessage() == "Unhandled exception in event loop\nant: 'two'\nzebra: 1"
    assert not first.exc_info
    assert second.getMessage() == "what happened"
    assert second.exc_info[0] is ValueError


def test_default_handler_shows_where_the_handle_was_made_in_debug_mode(loop, caplog):
    loop.set_exception_handler(None)
    loop.set_debug(True)
    loop.slow_callback_duration = 100
    loop.call_soon(fail)
    loop.run_until_complete(nothing())
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "source_traceback: Object created at (most recent call last):\n" in record.getMessage()
    assert f'File "{__file__}", line' in record.getMessage()


@pytest.mark.parametrize("wrong", ["handler", 1, object])
def test_exception_handler_must_be_callable_or_none(loop, wrong):
    handler = wrong() if wrong is object else wrong
    message = re.escape(f"A callable object or None is expected, got {handler!r}")
    with pytest.raises(TypeError, match=rf"^{message}$"):
        loop.set_exception_handler(handler)


def test_exception_handler_gets_the_loop_and_may_defer_to_the_default(loop, caplog):
    seen = []

    def handler(loop, context):
        seen.append(loop)
        loop.default_exception_handler(context)

    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.call_exception_handler({"message": "deferred"})
    assert seen == [loop]
    assert caplog.messages == ["deferred"]


def test_failing_exception_handler_is_reported_by_the_default_one(loop, caplog):
    loop.set_exception_handler(lambda loop, context: 1 / 0)
    context = {"message": "the first error"}
    loop.call_exception_handler(context)
    (record,) = caplog.records
    assert record.getMessage() == f"Unhandled error in exception handler\ncontext: {context!r}"
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("with_handler", [False, True])
def test_failing_default_handler_is_logged(loop, caplog, with_handler):
    class Loop(type(loop)):
        def default_exception_handler(self, context):
            raise LookupError("broken")

    other = Loop()
    if with_handler:
        other.set_exception_handler(lambda loop, context: 1 / 0)
    other.call_exception_handler({"message": "lost"})
    (record,) = caplog.records
    assert record.getMessage().startswith("Exception in default exception handler")
    assert record.exc_info[0] is LookupError
    other.close()


@pytest.mark.parametrize("interruption", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("default", [False, True])
def test_interruption_in_an_exception_handler_leaves_the_loop(loop, interruption, default):
    def interrupt(*arguments):
        raise interruption

    class Loop(type(loop)):
        default_exception_handler = interrupt

    other = Loop()
    if not default:
        other.set_exception_handler(interrupt)
    other.call_soon(fail)
    with pytest.raises(interruption):
        other.run_forever()
    assert not other.is_running()
    other.close()


@pytest.mark.parametrize("key", ["handle", "task", "future"])
def test_exception_handler_runs_in_the_context_of_what_failed(loop, behaves_as, key):
    if not behaves_as(3, 12):
        pytest.skip("asyncio runs the handler in the current context before 3.12")
    variable = contextvars.ContextVar("variable", default=None)
    context = contextvars.copy_context()
    context.run(variable.set, "of what failed")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(variable.get()))
    if key == "handle":
        loop.call_soon(fail, context=context)
        loop.run_until_complete(nothing())
    else:
        task = loop.create_task(nothing(), context=context)
        loop.run_until_complete(task)
        loop.call_exception_handler({"message": "it failed", key: task})
    assert seen == ["of what failed"]


# Debug mode.


def test_slow_callback_is_named_in_debug_mode(loop, caplog):
    assert loop.slow_callback_duration == 0.1
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.call_soon(max, 1, 2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(r"Executing <Handle max\(1, 2\).*> took \d\.\d{3} seconds", texts[0])


def test_slow_task_is_named_by_itself_in_debug_mode(loop, caplog):
    def be_slow():
        time.sleep(0.02)

    async def slow():
        be_slow()
        await asyncio.sleep(0)

    loop.set_debug(True)
    loop.slow_callback_duration = 0.02
    loop.run_until_complete(loop.create_task(slow(), name="slug"))
    texts = [message for message in caplog.messages if message.startswith("Executing <Task")]
    assert re.search(r"name='slug' coro=<.*slow\(\).*took \d\.\d{3} seconds$", texts[0])


def test_nothing_is_said_of_slow_callbacks_without_debug_mode(loop, caplog):
    loop.slow_callback_duration = 0
    loop.call_soon(max, 1, 2)
    loop.run_until_complete(nothing())
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((), {}, "False"),
        (("-X", "dev"), {}, "True"),
        ((), {"PYTHONASYNCIODEBUG": "1"}, "True"),
        (("-E",), {"PYTHONASYNCIODEBUG": "1"}, "False"),
    ],
)
def test_debug_mode_is_chosen_by_the_environment(run_child, arguments, environment, expected):
    environment = {"PYTHONASYNCIODEBUG": "", "PYTHONDEVMODE": "", **environment}
    code = "loop = new_event_loop()\nprint(loop.get_debug())\nloop.close()"
    child = run_child(code, arguments=arguments, environment=environment)
    assert child.stdout.strip() == expected, child.stderr


def test_debug_mode_tracks_where_coroutines_are_made_while_the_loop_runs(loop):
    depths = []

    async def main():
        depths.append(sys.get_coroutine_origin_tracking_depth())
        loop.set_debug(False)
        await asyncio.sleep(0)
        depths.append(sys.get_coroutine_origin_tracking_depth())
        loop.set_debug(True)
        await asyncio.sleep(0)
        depths.append(sys.get_coroutine_origin_tracking_depth())

    outside = sys.get_coroutine_origin_tracking_depth()
    loop.set_debug(True)
    loop.run_until_complete(main())
    assert depths[0] > 0
    assert depths[1:] == [outside, depths[0]]
    assert sys.get_coroutine_origin_tracking_depth() == outside


# What the loop is, and how programs bend it.


def test_loop_is_an_abstract_event_loop_and_says_its_state(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    name = type(loop).__name__
    assert repr(loop) == f"<{name} running=False closed=False debug=False>"
    loop.set_debug(True)
    seen = []
    loop.call_soon(lambda: seen.append(repr(loop)))
    loop.run_until_complete(nothing())
    assert seen == [f"<{name} running=True closed=False debug=True>"]


def test_loop_can_be_hashed_weakly_referenced_and_given_attributes(loop, new_loop):
    loop.anything = 1
    assert loop.anything == 1
    assert {loop: 2}[loop] == 2
    other = new_loop()
    reference = weakref.ref(other)
    assert reference() is other
    other.close()
    other.itself = other
    del other
    gc.collect()
    assert reference() is None


def call_soon_recorder(loop):
    """Replaces call_soon on the instance, as monitoring tools do; returns what is scheduled."""
    original, asked = loop.call_soon, []

    def call_soon(callback, *arguments, context=None):
        asked.append(callback)
        return original(callback, *arguments, context=context)

    loop.call_soon = call_soon
    return asked


def test_call_soon_replaced_on_the_instance_is_used_by_tasks(loop):
    asked = call_soon_recorder(loop)

    async def steps():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done"

    task = loop.create_task(steps())
    assert len(asked) == 1
    assert loop.run_until_complete(task) == "done"
    # The first step, one after each sleep, and the callback of run_until_complete.
    assert len(asked) == 4


def test_call_soon_replaced_on_the_instance_is_used_by_futures(loop, namespace):
    asked = call_soon_recorder(loop)
    future = namespace.Future(loop=loop)
    done = []
    future.add_done_callback(done.append)
    future.set_result(None)
    assert asked == [done.append]
    future.add_done_callback(done.append)
    assert asked == [done.append] * 2
    loop.run_until_complete(nothing())
    assert done == [future, future]


def test_call_soon_replaced_while_tasks_run_is_used_from_then_on(loop):
    asked = []

    async def main():
        nonlocal asked
        await asyncio.sleep(0)
        asked = call_soon_recorder(loop)
        future = loop.create_future()
        loop.call_later(0, future.set_result, None)
        await future
        await asyncio.sleep(0)
        return len(asked)

    assert loop.run_until_complete(main()) == 2


def test_call_soon_overridden_in_a_subclass_is_used_by_tasks_and_futures(loop):
    asked = []

    class Loop(type(loop)):
        def call_soon(self, callback, *arguments, context=None):
            asked.append(callback)
            return super().call_soon(callback, *arguments, context=context)

    other = Loop()
    other.run_until_complete(asyncio.sleep(0))
    future = other.create_future()
    future.add_done_callback(print)
    count = len(asked)
    future.set_result(None)
    other.close()
    assert count == 3
    assert asked[-1] is print


def test_call_exception_handler_replaced_on_the_instance_is_used(loop):
    seen = []
    loop.call_exception_handler = seen.append
    loop.call_soon(fail)
    loop.run_until_complete(nothing())
    assert [type(context["exception"]) for context in seen] == [ValueError]


def test_replaced_time_is_used_by_call_later(loop):
    loop.time = lambda: 1000.0
    handle = loop.call_later(5, print)
    assert handle.when() == 1005.0
    handle.cancel()


def test_replaced_time_decides_when_timers_are_due(loop):
    order = []
    loop.call_later(3600, order.append, "in an hour")
    real = loop.time
    loop.time = lambda: real() + 7200
    turn_until(loop, lambda: order)
    assert order == ["in an hour"]


def test_time_overridden_in_a_subclass_is_used_by_timers(loop):
    order = []

    class Loop(type(loop)):
        ahead = 0

        def time(self):
            return super().time() + self.ahead

    other = Loop()
    other.call_later(3600, order.append, "in an hour")
    other.ahead = 7200
    turn_until(other, lambda: order)
    other.close()
    assert order == ["in an hour"]


@pytest.mark.parametrize("method", ["get_debug", "is_closed", "is_running", "get_task_factory"])
def test_every_method_can_be_replaced_on_the_instance(loop, method):
    original = getattr(loop, method)
    setattr(loop, method, lambda: "replaced")
    assert getattr(loop, method)() == "replaced"
    delattr(loop, method)
    assert getattr(loop, method)() == original()
