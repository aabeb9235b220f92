"""The loop itself: running, stopping, closing, interruptions, other threads, generators, executors.

Run by pytest on asyncio first and then on aioxide. Reports, handles, futures, tasks and sockets
have files of their own; nothing here opens a connection.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import itertools
import math
import os
import socket
import sys
import threading
import time

import pytest

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


async def nothing():
    return None


def spin(loop, until, *, seconds=20):
    """Keeps a callback ready in every turn until a condition holds; says whether it ever did."""
    deadline = time.monotonic() + seconds

    def again():
        if until() or time.monotonic() > deadline:
            loop.stop()
        else:
            loop.call_soon(again)

    loop.call_soon(again)
    loop.run_forever()
    return until()


# Running and stopping.


def test_stop_before_run_forever_runs_exactly_one_turn(loop):
    ran = []

    def first():
        ran.append("first")
        loop.call_soon(ran.append, "next turn")

    loop.call_soon(first)
    loop.stop()
    loop.run_forever()
    assert ran == ["first"]
    loop.stop()
    loop.run_forever()
    assert ran == ["first", "next turn"]


def test_stop_lets_the_turn_finish_and_leaves_later_callbacks_for_the_next_run(loop):
    ran = []
    loop.call_soon(loop.stop)
    loop.call_soon(ran.append, "same turn")
    loop.call_soon(loop.call_soon, ran.append, "next turn")
    loop.run_forever()
    assert ran == ["same turn"]
    loop.run_until_complete(nothing())
    assert ran == ["same turn", "next turn"]


def test_stop_before_run_forever_runs_a_timer_that_is_due(loop):
    ran = []
    loop.call_at(loop.time() - 1, ran.append, "due")
    loop.call_later(3600, ran.append, "not due")
    loop.stop()
    loop.run_forever()
    assert ran == ["due"]


def test_callbacks_run_in_the_order_of_call_soon_and_new_ones_wait_a_turn(loop):
    ran = []

    def schedule(name):
        ran.append(name)
        loop.call_soon(ran.append, name + " again")

    for name in ("a", "b", "c"):
        loop.call_soon(schedule, name)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert ran == ["a", "b", "c", "a again", "b again", "c again"]


def test_running_state_is_visible_from_inside_and_gone_outside(loop):
    seen = []
    loop.call_soon(lambda: seen.append((loop.is_running(), asyncio.get_running_loop() is loop)))
    loop.call_soon(loop.stop)
    assert not loop.is_running()
    loop.run_forever()
    assert seen == [(True, True)]
    assert not loop.is_running()
    assert asyncio._get_running_loop() is None


@pytest.mark.parametrize("how", ["run_forever", "run_until_complete"])
def test_running_loop_cannot_be_run_again(loop, how, behaves_as):
    async def main():
        future = loop.create_future()
        arguments = () if how == "run_forever" else (future,)
        with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
            getattr(loop, how)(*arguments)
        if behaves_as(3, 13, 1) or not behaves_as(3, 13):  # asyncio of 3.13.0 forgets that it runs.
            assert loop.is_running()
            assert asyncio.get_running_loop() is loop

    loop.run_until_complete(main())


@pytest.mark.parametrize("how", ["run_forever", "run_until_complete"])
def test_another_loop_cannot_run_inside_a_running_loop(loop, new_loop, how, behaves_as):
    other = new_loop()

    async def main():
        arguments = () if how == "run_forever" else (other.create_future(),)
        message = r"^Cannot run the event loop while another loop is running$"
        with pytest.raises(RuntimeError, match=message):
            getattr(other, how)(*arguments)
        if behaves_as(3, 13, 1) or not behaves_as(3, 13):  # asyncio of 3.13.0 forgets who runs.
            assert asyncio.get_running_loop() is loop

    loop.run_until_complete(main())
    assert not other.is_running()
    other.close()


def test_loop_can_run_many_times(loop):
    assert [loop.run_until_complete(asyncio.sleep(0, value)) for value in range(5)] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_loop_runs_in_the_thread_that_runs_it(loop):
    threads = []

    def run():
        loop.call_soon(lambda: threads.append(threading.get_ident()))
        loop.call_soon(loop.stop)
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert threads == [thread.ident]


def test_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()
    assert isinstance(now, float)


# run_until_complete.


@pytest.mark.parametrize("outcome", [42, None, ValueError("no")])
def test_run_until_complete_takes_a_future_that_is_done(loop, outcome):
    future = loop.create_future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
        with pytest.raises(ValueError, match=r"no") as caught:
            loop.run_until_complete(future)
        assert caught.value is outcome
    else:
        future.set_result(outcome)
        assert loop.run_until_complete(future) == outcome


def test_run_until_complete_raises_the_cancellation_of_its_future(loop):
    future = loop.create_future()
    loop.call_soon(future.cancel, "why")
    with pytest.raises(asyncio.CancelledError, match=r"why"):
        loop.run_until_complete(future)


def test_run_until_complete_takes_any_awaitable(loop):
    class Awaitable:
        def __await__(self):
            yield
            return "waited"

    assert loop.run_until_complete(Awaitable()) == "waited"


@pytest.mark.parametrize("nonsense", [None, 1, "text", nothing])
def test_run_until_complete_refuses_what_cannot_be_awaited(loop, nonsense):
    message = r"^An asyncio.Future, a coroutine or an awaitable is required$"
    with pytest.raises(TypeError, match=message):
        loop.run_until_complete(nonsense)


def test_run_until_complete_refuses_the_future_of_another_loop(loop, new_loop):
    other = new_loop()
    future = other.create_future()
    with pytest.raises(ValueError, match=r"The future belongs to a different loop"):
        loop.run_until_complete(future)
    other.close()


def stop_after(loop, turns):
    """Stop the loop so many turns from now."""
    if turns:
        loop.call_soon(stop_after, loop, turns - 1)
    else:
        loop.stop()


def test_run_until_complete_says_when_the_loop_was_stopped_first(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)
    # Its own callback is gone from the future: completing it does not stop a later run.
    ran = []
    loop.call_soon(future.set_result, None)
    future.add_done_callback(lambda _: loop.call_soon(ran.append, "still running"))
    stop_after(loop, 5)
    loop.run_forever()
    assert ran == ["still running"]


@pytest.mark.parametrize("interruption", [SystemExit, KeyboardInterrupt])
def test_interruption_in_the_main_coroutine_is_raised_and_not_reported_again(loop, interruption):
    async def main():
        raise interruption("now")

    with pytest.raises(interruption, match=r"now"):
        loop.run_until_complete(main())
    gc.collect()


# Closing.


def test_closed_loop_refuses_to_work_and_close_is_idempotent(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()
    coroutine = nothing()
    for refused in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(0, print),
        lambda: loop.call_at(0, print),
        lambda: loop.run_forever(),
        lambda: loop.run_until_complete(coroutine),
        lambda: loop.create_task(coroutine),
        lambda: loop.run_in_executor(None, print),
    ):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            refused()
    coroutine.close()
    loop.stop()
    assert not loop.is_running()
    assert "closed=True" in repr(loop)


def test_running_loop_cannot_be_closed(loop):
    async def main():
        with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
            loop.close()

    loop.run_until_complete(main())
    assert not loop.is_closed()


def test_close_forgets_what_was_scheduled(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_later(0, ran.append, 2)
    loop.call_soon_threadsafe(ran.append, 3)
    loop.close()
    gc.collect()
    assert ran == []


@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_close_frees_what_was_scheduled(loop, schedule):
    class Payload:
        alive = 0

        def __init__(self):
            Payload.alive += 1

        def __del__(self):
            Payload.alive -= 1

    arguments = (3600,) if schedule == "call_later" else ()
    getattr(loop, schedule)(*arguments, print, Payload())
    assert Payload.alive == 1
    loop.close()
    gc.collect()
    assert Payload.alive == 0


def test_unclosed_loop_warns_and_closes_itself(new_loop):
    before = len(os.listdir("/proc/self/fd"))
    loop = new_loop()
    text = repr(loop)
    with pytest.warns(ResourceWarning, match=r"unclosed event loop") as caught:
        del loop
        gc.collect()
    assert text in str(caught[0].message)
    assert len(os.listdir("/proc/self/fd")) == before


def test_thousand_loops_leave_no_descriptor_thread_or_memory(new_loop, resident_growth):
    def hundred():
        for _ in range(100):
            loop = new_loop()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    def resources():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = resources()
    threads_before = len(os.listdir("/proc/self/task"))
    assert resident_growth(hundred, warm_up=3, repeat=10) < 2 * 1024 * 1024
    assert resources() == before
    assert len(os.listdir("/proc/self/task")) <= threads_before


@aioxide_only
@pytest.mark.parametrize(
    "use",
    [
        "run_forever()",
        "run_until_complete(loop.create_future())",
        "call_soon_threadsafe(print)",
        "call_soon(print)",
        "call_later(1, print)",
    ],
)
def test_loop_refuses_to_work_in_a_forked_child(run_child, use):
    child = run_child(
        f"""
        import os, warnings
        warnings.simplefilter("ignore")
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        process = os.fork()
        if process == 0:
            try:
                loop.{use}
            except RuntimeError as error:
                print(error, flush=True)
                os._exit(7)
            print("not refused", flush=True)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        # The parent goes on undisturbed, and the child's refusal named the reason.
        print(loop.run_until_complete(asyncio.sleep(0.001, "parent works")))
        loop.close()
        """
    )
    assert child.returncode == 0, child.stderr
    refusal, parent = child.stdout.splitlines()
    assert "fork" in refusal
    assert parent == "parent works"


def test_new_loop_works_in_a_forked_child(run_child):
    child = run_child(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        process = os.fork()
        if process == 0:
            fresh = new_event_loop()
            answer = fresh.run_until_complete(asyncio.sleep(0.001, 7))
            fresh.close()
            os._exit(answer)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        loop.close()
        """
    )
    assert child.returncode == 0, child.stderr


# Interruptions and fairness.


@pytest.mark.parametrize("interruption", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_interruption_in_a_callback_leaves_the_loop_and_keeps_the_other_callbacks(
    loop, interruption, schedule
):
    ran = []

    def interrupt():
        raise interruption("now")

    arguments = (0,) if schedule == "call_later" else ()
    getattr(loop, schedule)(*arguments, interrupt)
    with pytest.raises(interruption, match=r"now"):
        if schedule != "call_later":
            loop.call_soon(ran.append, "after")
        loop.run_forever()
    assert ran == []
    assert not loop.is_running()
    loop.run_until_complete(nothing())
    assert ran == ([] if schedule == "call_later" else ["after"])


def test_ctrl_c_leaves_a_loop_that_waits_and_the_loop_can_go_on(run_child):
    child = run_child(
        """
        import os, signal, threading
        loop, interrupted = new_event_loop(), 0
        for _ in range(30):
            thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
            try:
                loop.call_soon_threadsafe(thread.start)
                loop.run_forever()
            except KeyboardInterrupt:
                interrupted += 1
            thread.join()
        print(interrupted, loop.run_until_complete(asyncio.sleep(0.001, "works")))
        loop.close()
        """
    )
    assert child.stdout.strip() == "30 works", child.stderr


def test_other_base_exceptions_in_a_callback_are_reported_and_the_loop_goes_on(loop, loop_errors):
    class Unusual(BaseException):
        pass

    def fail():
        raise Unusual

    loop.call_soon(fail)
    loop.run_until_complete(nothing())
    (context,) = loop_errors.take()
    assert type(context["exception"]) is Unusual


def test_timers_of_one_nanosecond_run_in_the_order_of_their_times(loop):
    start = loop.time() + 0.01
    times = [start]
    for _ in range(20):
        times.append(math.nextafter(times[-1], math.inf))
    ran = []
    for when in reversed(times):
        loop.call_at(when, ran.append, when)
    loop.call_at(times[-1] + 0.001, loop.stop)
    loop.run_forever()
    assert ran == times


@pytest.mark.parametrize("who", ["callbacks", "tasks"])
def test_endless_ready_work_starves_neither_timers_nor_descriptors_nor_threads(
    loop, who, survivors
):
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    seen = set()
    loop.call_later(0.005, seen.add, "timer")
    loop.add_reader(reader, lambda: seen.add("descriptor") or reader.recv(100))
    writer.send(b"data")
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.add, "thread"))
    thread.start()

    async def forever():
        for _ in itertools.count():
            await asyncio.sleep(0)

    if who == "tasks":
        survivors.extend(loop.create_task(forever()) for _ in range(3))
    spin(loop, lambda: len(seen) == 3)
    thread.join()
    loop.remove_reader(reader)
    reader.close()
    writer.close()
    assert seen == {"timer", "descriptor", "thread"}


# Scheduling: arguments and other threads.


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("call_later", (None, print), "delay must not be None"),
        ("call_at", (None, print), "when cannot be None"),
        ("call_soon", (), None),
        ("call_later", (1,), None),
        ("call_at", (1,), None),
        ("call_soon_threadsafe", (), None),
        ("call_later", ("soon", print), None),
    ],
)
def test_scheduling_refuses_missing_or_wrong_arguments(loop, method, arguments, message):
    with pytest.raises(TypeError, match=message):
        getattr(loop, method)(*arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "named"),
    [
        ("call_soon", (), "call_soon"),
        ("call_soon_threadsafe", (), "call_soon_threadsafe"),
        ("call_later", (1,), "call_(at|later)"),
        ("call_at", (1,), "call_at"),
        ("run_in_executor", (None,), "run_in_executor"),
    ],
)
def test_debug_mode_refuses_coroutines_and_what_cannot_be_called(loop, method, arguments, named):
    loop.set_debug(True)
    with contextlib.closing(nothing()) as coroutine:
        for wrong in (nothing, coroutine):
            with pytest.raises(TypeError, match=rf"^coroutines cannot be used with {named}\(\)$"):
                getattr(loop, method)(*arguments, wrong)
    message = rf"^a callable object was expected by {named}\(\), got 'text'$"
    with pytest.raises(TypeError, match=message):
        getattr(loop, method)(*arguments, "text")


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_debug_mode_refuses_another_thread(loop, method):
    arguments = () if method == "call_soon" else (0,)
    errors = []

    def schedule():
        try:
            getattr(loop, method)(*arguments, print)
        except RuntimeError as error:
            errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    loop.set_debug(True)
    thread = threading.Thread(target=schedule)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == [
        "Non-thread-safe operation invoked on an event loop other than the current one"
    ]


def test_debug_mode_allows_another_thread_while_the_loop_is_not_running(loop):
    ran = []
    loop.set_debug(True)
    thread = threading.Thread(target=loop.call_soon, args=(ran.append, 1))
    thread.start()
    thread.join()
    loop.run_until_complete(nothing())
    assert ran == [1]


def test_call_soon_threadsafe_wakes_a_sleeping_loop(loop):
    # Nothing else is scheduled, so only the wake-up can end the wait.
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def test_call_soon_threadsafe_keeps_arguments_and_context_and_can_be_cancelled(loop, namespace):
    variable = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    seen = []
    handle = loop.call_soon_threadsafe(
        lambda *arguments: seen.append((arguments, variable.get())), 1, 2, context=context
    )
    assert isinstance(handle, asyncio.Handle)
    cancelled = loop.call_soon_threadsafe(seen.append, "cancelled")
    cancelled.cancel()
    loop.run_until_complete(nothing())
    assert seen == [((1, 2), "given")]


def test_threads_that_flood_the_loop_lose_nothing_and_keep_their_order(loop):
    threads, each = 8, 4000
    received = [[] for _ in range(threads)]
    finished = []

    def flood(number):
        for value in range(each):
            loop.call_soon_threadsafe(received[number].append, value)
        loop.call_soon_threadsafe(finish)

    def finish():
        finished.append(1)
        if len(finished) == threads:
            loop.stop()

    workers = [threading.Thread(target=flood, args=(number,)) for number in range(threads)]
    for worker in workers:
        loop.call_soon(worker.start)
    loop.run_forever()
    for worker in workers:
        worker.join()
    assert received == [list(range(each))] * threads


# Asynchronous generators.


async def numbers(log, *, error=None):
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        log.append("closed")
        if error is not None:
            raise error


async def first(generator):
    return await anext(generator)


def test_shutdown_closes_generators_that_were_not_exhausted(loop):
    log = []
    generators = [numbers(log), numbers(log)]
    for generator in generators:
        assert loop.run_until_complete(first(generator)) == 1
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert log == ["closed", "closed"]
    loop.run_until_complete(loop.shutdown_asyncgens())


def test_shutdown_reports_a_generator_that_fails_to_close(loop, loop_errors):
    error = ValueError("stuck")
    generator = numbers([], error=error)
    loop.run_until_complete(first(generator))
    loop.run_until_complete(loop.shutdown_asyncgens())
    (context,) = loop_errors.take()
    assert context == {
        "message": f"an error occurred during closing of asynchronous generator {generator!r}",
        "exception": error,
        "asyncgen": generator,
    }


def test_generator_iterated_after_shutdown_warns(loop):
    loop.run_until_complete(loop.shutdown_asyncgens())
    generator = numbers([])
    with pytest.warns(ResourceWarning, match=r"was scheduled after loop.shutdown_asyncgens"):
        loop.run_until_complete(first(generator))
    loop.run_until_complete(generator.aclose())


def test_dropped_generator_is_closed_by_the_loop(loop):
    log = []

    async def main():
        generator = numbers(log)
        await anext(generator)
        del generator
        gc.collect()

    loop.run_until_complete(main())
    assert spin(loop, lambda: log)
    assert log == ["closed"]


def test_generator_hooks_of_the_program_are_restored(loop):
    hooks = sys.get_asyncgen_hooks()
    inside = []
    loop.call_soon(lambda: inside.append(sys.get_asyncgen_hooks()))
    loop.run_until_complete(nothing())
    assert inside[0].firstiter is not None
    assert inside[0].finalizer is not None
    assert sys.get_asyncgen_hooks() == hooks


# Executors.


def test_run_in_executor_passes_arguments_and_returns_results_and_errors(loop):
    def work(*arguments):
        if not arguments:
            raise ValueError("nothing to do")
        return arguments, threading.get_ident()

    arguments, thread = loop.run_until_complete(loop.run_in_executor(None, work, 1, 2))
    assert arguments == (1, 2)
    assert thread != threading.get_ident()
    with pytest.raises(ValueError, match=r"nothing to do"):
        loop.run_until_complete(loop.run_in_executor(None, work))
    loop.run_until_complete(loop.shutdown_default_executor())


def test_run_in_executor_uses_the_executor_it_is_given(loop):
    with concurrent.futures.ThreadPoolExecutor(thread_name_prefix="mine") as executor:
        name = lambda: threading.current_thread().name  # noqa: E731
        assert loop.run_until_complete(loop.run_in_executor(executor, name)).startswith("mine")
        loop.set_default_executor(executor)
        assert loop.run_until_complete(loop.run_in_executor(None, name)).startswith("mine")
        loop.run_until_complete(loop.shutdown_default_executor())


def test_default_executor_is_reused_and_joined_at_shutdown(loop):
    async def main():
        await asyncio.gather(*(loop.run_in_executor(None, time.monotonic) for _ in range(20)))
        started = threading.active_count() - before
        assert 1 <= started <= 20
        await loop.shutdown_default_executor()

    before = threading.active_count()
    loop.run_until_complete(main())
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
        loop.run_in_executor(None, time.monotonic)


def test_shutdown_of_the_default_executor_gives_up_after_a_timeout(loop, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio has no timeout here before 3.12, and one without effect before 3.13")
    release = threading.Event()

    async def main():
        work = loop.run_in_executor(None, release.wait)
        try:
            message = r"did not finishing joining its threads within 0\.01 seconds"
            with pytest.warns(RuntimeWarning, match=message):
                await loop.shutdown_default_executor(timeout=0.01)
        finally:
            release.set()
        await work

    loop.run_until_complete(main())


@pytest.mark.parametrize("wrong", [None, "executor", concurrent.futures.Executor()])
def test_default_executor_must_be_a_thread_pool(loop, wrong):
    with pytest.raises(TypeError, match=r"^executor must be ThreadPoolExecutor instance$"):
        loop.set_default_executor(wrong)


def test_cancelling_executor_work_that_has_not_begun_takes_it_back(loop):
    release, ran = threading.Event(), []
    with concurrent.futures.ThreadPoolExecutor(1) as executor:

        async def main():
            first = loop.run_in_executor(executor, release.wait)
            second = loop.run_in_executor(executor, ran.append, "second")
            # This callback runs after the loop's own, which takes the work back.
            second.add_done_callback(lambda _: release.set())
            second.cancel()
            assert await first is True
            assert second.cancelled()

        loop.run_until_complete(main())
    assert ran == []
