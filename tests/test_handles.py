"""Handle and TimerHandle: what call_soon, call_later and call_at return, and when callbacks run.

Run by pytest on asyncio first and then on aioxide. The loop around them is tested in test_loop.py.
"""

import asyncio
import contextvars
import functools
import gc
import math
import operator
import re
import weakref

import pytest

WAYS = {
    "call_soon": lambda loop, *rest, **options: loop.call_soon(*rest, **options),
    "call_soon_threadsafe": lambda loop, *rest, **options: loop.call_soon_threadsafe(
        *rest, **options
    ),
    "call_later": lambda loop, *rest, **options: loop.call_later(0, *rest, **options),
    "call_at": lambda loop, *rest, **options: loop.call_at(loop.time(), *rest, **options),
}
every_way = pytest.mark.parametrize("schedule", WAYS.values(), ids=WAYS)
every_timer = pytest.mark.parametrize(
    "schedule", [WAYS["call_later"], WAYS["call_at"]], ids=["call_later", "call_at"]
)

# asyncio calls a timer due within its clock's resolution, and a float has no finer steps.
RESOLUTION = 2e-9


class Payload:
    """Something whose life can be watched."""

    def method(self, *arguments):
        return arguments


def turn(loop):
    """Runs what is ready and due."""
    loop.call_soon(loop.stop)
    loop.run_forever()


# Every handle.


@every_way
def test_handle_is_asyncios(loop, schedule):
    handle = schedule(loop, print)
    assert isinstance(handle, asyncio.Handle)
    assert isinstance(handle, asyncio.TimerHandle) == hasattr(handle, "when")
    assert not handle.cancelled()
    assert weakref.ref(handle)() is handle
    handle.cancel()


@every_way
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 50])
def test_arguments_reach_the_callback(loop, schedule, count):
    seen = []
    schedule(loop, lambda *arguments: seen.append(arguments), *range(count))
    turn(loop)
    assert seen == [tuple(range(count))]


@every_way
def test_callback_takes_no_keywords_of_the_caller(loop, schedule):
    with pytest.raises(TypeError):
        schedule(loop, print, end="")


@every_way
@pytest.mark.parametrize("kind", ["builtin", "method", "partial", "class", "object"])
def test_every_kind_of_callable_is_called(loop, schedule, kind):
    seen = []

    class Call:
        def __init__(self, value=None):
            if value is not None:
                seen.append(value)

        def __call__(self, value):
            seen.append(value)

    callbacks = {
        "builtin": seen.append,
        "method": Call().__call__,
        "partial": functools.partial(seen.append),
        "class": Call,
        "object": Call(),
    }
    schedule(loop, callbacks[kind], "called")
    turn(loop)
    assert seen == ["called"]


@every_way
def test_cancelled_handle_does_not_run_and_cancel_is_idempotent(loop, schedule):
    ran = []
    handle = schedule(loop, ran.append, 1)
    assert handle.cancel() is None
    handle.cancel()
    assert handle.cancelled()
    turn(loop)
    assert ran == []


@every_way
def test_callback_may_cancel_its_neighbour_and_itself(loop, schedule):
    ran = []

    def first():
        handles["first"].cancel()
        handles["second"].cancel()
        ran.append("first")

    handles = {"first": schedule(loop, first), "second": schedule(loop, ran.append, "second")}
    turn(loop)
    turn(loop)
    assert ran == ["first"]
    assert handles["first"].cancelled()
    assert handles["second"].cancelled()


@every_way
def test_cancelling_a_handle_that_ran_is_harmless(loop, schedule):
    ran = []
    handle = schedule(loop, ran.append, 1)
    turn(loop)
    assert not handle.cancelled()
    handle.cancel()
    assert handle.cancelled()
    turn(loop)
    assert ran == [1]


@every_way
def test_cancel_frees_callback_and_arguments_at_once(loop, schedule):
    callback, argument = Payload(), Payload()
    references = weakref.ref(callback), weakref.ref(argument)
    handle = schedule(loop, callback.method, argument)
    del callback, argument
    gc.collect()
    assert None not in [reference() for reference in references]
    handle.cancel()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@every_way
def test_callback_and_arguments_are_freed_after_the_run(loop, schedule):
    argument = Payload()
    reference = weakref.ref(argument)
    schedule(loop, Payload().method, argument)
    del argument
    turn(loop)
    gc.collect()
    assert reference() is None


@every_way
def test_handle_in_a_cycle_is_collected(loop, schedule):
    payload = Payload()
    reference = weakref.ref(payload)
    payload.handle = schedule(loop, payload.method)
    del payload
    turn(loop)
    gc.collect()
    assert reference() is None


# Contexts.


@every_way
def test_callback_runs_in_a_copy_of_the_callers_context(loop, schedule, behaves_as):
    variable = contextvars.ContextVar("variable", default="outer")
    seen = []

    def callback():
        seen.append(variable.get())
        variable.set("callback")

    token = variable.set("caller")
    handle = schedule(loop, callback)
    variable.reset(token)
    turn(loop)
    assert seen == ["caller"]
    assert variable.get() == "outer"
    if behaves_as(3, 12):
        assert handle.get_context().get(variable) == "callback"


@every_way
def test_callback_runs_in_the_context_it_is_given(loop, schedule, behaves_as):
    variable = contextvars.ContextVar("variable", default=0)
    context = contextvars.copy_context()

    def callback():
        variable.set(variable.get() + 1)

    handles = [schedule(loop, callback, context=context) for _ in range(3)]
    turn(loop)
    assert context[variable] == 3
    assert variable.get() == 0
    if behaves_as(3, 12):
        assert all(handle.get_context() is context for handle in handles)


@every_way
def test_context_none_means_a_copy_of_the_callers(loop, schedule):
    variable = contextvars.ContextVar("variable", default=None)
    seen = []
    variable.set("caller")
    schedule(loop, lambda: seen.append(variable.get()), context=None)
    turn(loop)
    assert seen == ["caller"]


def test_context_is_left_when_the_callback_fails(loop, loop_errors):
    variable = contextvars.ContextVar("variable", default="outer")
    context = contextvars.copy_context()

    def fail():
        variable.set("inner")
        raise ValueError

    loop.call_soon(fail, context=context)
    turn(loop)
    assert variable.get() == "outer"
    assert context[variable] == "inner"
    assert len(loop_errors.take()) == 1
    context.run(variable.get)  # It can be entered again, so it was left.


# Representation.


def sample():
    """A callback whose place in this file the representation names."""


def test_handle_names_its_callback_and_place(loop):
    place = re.escape(f"{__file__}:{sample.__code__.co_firstlineno}")
    handle = loop.call_soon(sample)
    assert re.fullmatch(rf"<Handle sample\(\) at {place}>", repr(handle))
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"
    timer = loop.call_at(12345.5, sample)
    assert re.fullmatch(rf"<TimerHandle when=12345\.5 sample\(\) at {place}>", repr(timer))
    timer.cancel()
    assert repr(timer) == "<TimerHandle cancelled when=12345.5>"


def test_handle_keeps_its_representation_and_origin_in_debug_mode(loop):
    loop.set_debug(True)
    handle = loop.call_soon(sample, "argument")
    line = re.search(r"created at (.*):\d+>$", repr(handle))
    assert line[1] == __file__
    before = repr(handle)
    assert before.startswith("<Handle sample('argument') at ")
    handle.cancel()
    assert repr(handle).startswith("<Handle cancelled sample('argument') at ")


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_origin_in_debug_mode_is_the_callers_line(loop, method):
    loop.set_debug(True)
    arguments = () if "soon" in method else (10,)
    handle = getattr(loop, method)(*arguments, sample)
    handle.cancel()
    assert re.search(rf"created at {re.escape(__file__)}:\d+", repr(handle))


def test_representation_hides_arguments_without_debug_mode(loop, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio shows them before 3.13")
    handle = loop.call_soon(sample, "secret")
    assert "secret" not in repr(handle)
    wrapped = loop.call_soon(functools.partial(sample, "secret"))
    assert repr(wrapped).startswith("<Handle sample()")
    assert "secret" not in repr(wrapped)
    handle.cancel()
    wrapped.cancel()


# Timers: order and comparison.


def test_when_is_the_deadline(loop):
    before = loop.time()
    later = loop.call_later(10, print)
    assert before + 10 <= later.when() <= loop.time() + 10
    at = loop.call_at(77.25, print)
    assert at.when() == 77.25
    assert loop.call_at(7, sample).when() == 7
    assert type(loop.call_at(7, sample).when()) is int
    later.cancel()
    at.cancel()
    assert at.when() == 77.25


def test_timers_are_ordered_by_deadline(loop):
    early, late = loop.call_at(1e9, sample), loop.call_at(2e9, sample)
    assert early < late
    assert early <= late
    assert late > early
    assert late >= early
    assert not late < early
    assert not early >= late
    assert sorted([late, early]) == [early, late]
    early.cancel()
    late.cancel()


def test_timers_are_equal_when_everything_is(loop):
    first, second = loop.call_at(1e9, sample, 1), loop.call_at(1e9, sample, 1)
    assert first == second
    assert hash(first) == hash(second) == hash(1e9)
    assert first <= second
    assert first >= second
    assert first != loop.call_at(1e9, sample, 2)
    assert first != loop.call_at(1e9, print, 1)
    assert first != loop.call_at(2e9, sample, 1)
    second.cancel()
    assert first != second


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge])
def test_timers_are_not_ordered_against_anything_else(loop, compare):
    timer = loop.call_at(1e9, sample)
    with pytest.raises(TypeError):
        compare(timer, 1e9)
    assert timer != 1e9
    assert timer.__eq__(1e9) is NotImplemented


@every_timer
def test_equal_deadlines_all_run_and_keep_their_order(loop, namespace, schedule):
    now, order = loop.time(), []
    loop.time = lambda: now
    for number in range(500):
        schedule(loop, order.append, number)
    del loop.time
    turn(loop)
    turn(loop)
    if namespace is asyncio:  # It does not say which runs first.
        order.sort()
    assert order == list(range(500))


def test_timers_run_in_the_order_of_their_deadlines(loop):
    order, now = [], loop.time()
    for number in [5, 3, 9, 1, 7, 2, 8, 0, 6, 4]:
        loop.call_at(now + number / 5000, order.append, number)
    loop.call_at(now + 10 / 5000, loop.stop)
    loop.run_forever()
    assert order == list(range(10))


@pytest.mark.parametrize("delay", [0, -1, -1e9, -math.inf, -0.0, False])
def test_a_delay_that_is_not_positive_runs_in_the_next_turn(loop, delay):
    ran = []

    def schedule():
        loop.call_later(delay, ran.append, "timer")
        loop.call_soon(check)

    def check():
        # asyncio collects timers before it runs what was ready, so the timer may be just behind.
        loop.call_soon(loop.stop)

    loop.call_soon(schedule)
    loop.run_forever()
    assert ran == ["timer"]


@pytest.mark.parametrize("delay", [1e6, 1e12, 1e18, 1e300, math.inf, 10**15])
def test_a_huge_delay_is_a_timer_that_waits(loop, delay):
    ran = []
    handle = loop.call_later(delay, ran.append, "never")
    assert handle.when() >= loop.time() + delay - 1
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    handle.cancel()
    turn(loop)
    assert ran == []


# Timers: never early.


@pytest.mark.parametrize("delay", [0.00001, 0.0003, 0.0009, 0.001, 0.0011, 0.005])
def test_timer_is_never_early(loop, delay):
    early = []

    def fired(handle_of):
        early.append(handle_of[0].when() - loop.time())
        if len(early) < 20:
            schedule()
        else:
            loop.stop()

    def schedule():
        handle_of = []
        handle_of.append(loop.call_later(delay, fired, handle_of))

    schedule()
    loop.run_forever()
    assert max(early) <= RESOLUTION


def test_many_timers_at_once_are_never_early(loop):
    early, deadlines = [], [loop.time() + number / 100_000 for number in range(2000)]
    for deadline in deadlines:
        loop.call_at(deadline, lambda deadline=deadline: early.append(deadline - loop.time()))
    loop.call_at(deadlines[-1], loop.stop)
    loop.run_forever()
    assert len(early) == 2000
    assert max(early) <= RESOLUTION


def test_sleep_of_less_than_a_millisecond_is_never_early(loop):
    async def main():
        lengths = []
        for _ in range(50):
            before = loop.time()
            await asyncio.sleep(0.0003)
            lengths.append(loop.time() - before)
        return lengths

    assert min(loop.run_until_complete(main())) >= 0.0003 - RESOLUTION


# Timers: cancelling.


def test_cancelled_timer_does_not_delay_or_wake_the_others(loop):
    ran = []
    timers = [loop.call_later(0.001, ran.append, number) for number in range(10)]
    for timer in timers[::2]:
        timer.cancel()
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert ran == [1, 3, 5, 7, 9]


def test_timer_cancelled_by_the_timer_before_it_does_not_run(loop):
    ran = []
    now = loop.time()
    loop.call_at(now, lambda: second.cancel())
    second = loop.call_at(now, ran.append, "second")
    loop.call_at(now, ran.append, "third")
    turn(loop)
    turn(loop)
    assert ran == ["third"]


def test_loop_does_not_wait_for_a_cancelled_timer(loop):
    timer = loop.call_later(3600, print)
    loop.call_soon(timer.cancel)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert timer.cancelled()


def test_cancelled_timers_do_not_pile_up(loop, resident_growth):
    keep = [loop.call_later(3600, print) for _ in range(10)]

    def schedule_and_cancel():
        for _ in range(10):
            for timer in [loop.call_later(3600, print, number) for number in range(2000)]:
                timer.cancel()
            turn(loop)

    # One hundred thousand, of which none may stay: each would weigh at least 100 bytes.
    assert resident_growth(schedule_and_cancel, warm_up=2, repeat=5) < 2 * 1024 * 1024
    for timer in keep:
        timer.cancel()


def test_cancelling_in_any_order_leaves_exactly_the_others(loop):
    ran = []
    now = loop.time()
    timers = {
        number: loop.call_at(now + number * 1e-6, ran.append, number) for number in range(999)
    }
    for number in sorted(timers, key=lambda number: (number * 7919) % 999):
        if number % 3:
            timers[number].cancel()
    loop.call_at(now + 0.001, loop.stop)
    loop.run_forever()
    assert ran == list(range(0, 999, 3))


def test_timers_may_schedule_and_cancel_timers_while_they_run(loop):
    ran = []

    def chain(left):
        ran.append(left)
        victim = loop.call_later(0, ran.append, "victim")
        victim.cancel()
        if left:
            loop.call_later(0, chain, left - 1)
        else:
            loop.stop()

    loop.call_later(0, chain, 100)
    loop.run_forever()
    assert ran == list(range(100, -1, -1))
