"""wait, wait_for, as_completed, shield, sleep, to_thread, and futures between loops and threads.

Run by pytest on asyncio first and then on aioxide, which has the newest CPython's behaviour on
every Python. CPython's issues that a test is about are named there.
"""

import asyncio
import concurrent.futures
import contextvars
import gc
import itertools
import threading

import pytest
from coroutines import answer, wait_for_ever
from loopback import on_loop, wait_until

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


async def after(turns, outcome):
    """Returns `outcome` after so many turns, or raises it."""
    for _ in range(turns):
        await asyncio.sleep(0)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def stubborn(turns, outcome):
    """Ends only so many turns after it was cancelled, with `outcome`."""
    try:
        await wait_for_ever()
    except asyncio.CancelledError:
        return await after(turns, outcome)


# wait


@on_loop
async def test_wait_for_all_for_one_and_for_a_failure(loop, namespace):
    slow, fast = loop.create_task(after(8, "slow")), loop.create_task(after(1, "fast"))
    failing = loop.create_task(after(3, ValueError()))
    tasks = {slow, fast, failing}
    when = {"return_when": namespace.FIRST_COMPLETED}
    assert await namespace.wait(tasks, **when) == ({fast}, {slow, failing})
    when = {"return_when": namespace.FIRST_EXCEPTION}
    assert await namespace.wait(tasks, **when) == ({fast, failing}, {slow})
    assert await namespace.wait(tasks) == (tasks, set())
    assert isinstance(failing.exception(), ValueError)


@on_loop
async def test_wait_gives_up_without_an_error(loop, namespace):
    pending = loop.create_future()
    done = loop.create_future()
    done.set_result(1)
    assert await namespace.wait([pending, done], timeout=0.001) == ({done}, {pending})
    assert pending._callbacks in (None, [])
    pending.cancel()


@on_loop
async def test_a_cancelled_wait_leaves_what_it_waited_for(loop, namespace):
    pending = loop.create_future()
    waiting = loop.create_task(namespace.wait([pending], timeout=60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not pending.done()
    assert pending._callbacks in (None, [])


@on_loop
async def test_wait_refuses_what_it_cannot_wait_for(loop, namespace):
    with pytest.raises(TypeError, match="expect a list of futures, not Future"):
        await namespace.wait(loop.create_future())
    with pytest.raises(ValueError, match="Set of Tasks/Futures is empty"):
        await namespace.wait([])
    future = loop.create_future()
    with pytest.raises(ValueError, match="Invalid return_when value: -1"):
        await namespace.wait([future], return_when=-1)
    coroutine = answer()
    with pytest.raises(TypeError, match="Passing coroutines is forbidden"):
        await namespace.wait([coroutine])
    coroutine.close()


@on_loop
async def test_wait_takes_a_generator(loop, namespace, behaves_as):
    if not behaves_as(3, 12):
        pytest.skip("asyncio takes one since 3.12")
    done, pending = await namespace.wait(loop.create_task(answer()) for _ in range(3))
    assert (len(done), pending) == (3, set())


# wait_for


@on_loop
async def test_wait_for_returns_raises_or_gives_up(loop, namespace):
    assert await namespace.wait_for(answer(), None) == 42
    assert await namespace.wait_for(after(2, "done"), 60) == "done"
    with pytest.raises(ValueError):
        await namespace.wait_for(after(2, ValueError()), 60)
    task = loop.create_task(wait_for_ever())
    with pytest.raises(TimeoutError) as caught:
        await namespace.wait_for(task, 0.001)
    assert task.cancelled()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("seconds", [0, -1])
@on_loop
async def test_wait_for_without_time_begins_nothing(loop, namespace, seconds):
    begun = []

    async def begin():
        begun.append("begun")

    with pytest.raises(TimeoutError):
        await namespace.wait_for(begin(), seconds)
    assert begun == []
    done = loop.create_future()
    done.set_result("done")
    assert await namespace.wait_for(done, seconds) == "done"


@on_loop
async def test_wait_for_waits_until_the_cancelled_task_has_ended(loop, namespace):
    task = loop.create_task(stubborn(3, "late result"))
    assert await namespace.wait_for(task, 0.001) == "late result"
    assert task.done()
    failing = loop.create_task(stubborn(3, KeyError("late")))
    with pytest.raises(KeyError, match="late"):
        await namespace.wait_for(failing, 0.001)


@on_loop
async def test_a_cancellation_is_not_swallowed_when_the_future_is_done_too(
    loop, namespace, behaves_as
):
    """gh-86296: in one turn the future is done and the waiting task is cancelled."""
    if not behaves_as(3, 12):
        pytest.skip("asyncio swallows it before 3.12")
    future = loop.create_future()

    async def main():
        await namespace.wait_for(future, 60)
        reached.append("behind wait_for")
        await wait_for_ever()

    reached = []
    waiting = loop.create_task(main())
    await asyncio.sleep(0)
    future.set_result(1)
    waiting.cancel("from outside")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert reached == []


@on_loop
async def test_cancelling_wait_for_cancels_the_task_and_waits_for_it(loop, namespace, behaves_as):
    task = loop.create_task(stubborn(3, "late result"))
    waiting = loop.create_task(namespace.wait_for(task, 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    if behaves_as(3, 12):
        # Who suppresses the cancellation decides: the result of the task is the wait's.
        assert await waiting == "late result"
    else:
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert task.done()


@on_loop
async def test_every_interleaving_of_result_cancel_and_expiry_has_one_end(
    loop, namespace, behaves_as
):
    """The future completes, the wait is cancelled and its time is over, in every order and in the
    same turn or in the next: no cancellation is lost, and none is invented."""
    if not behaves_as(3, 12):
        pytest.skip("asyncio loses cancellations before 3.12")
    for order in itertools.product(range(3), repeat=3):
        complete_at, cancel_at, expire_at = order
        future, timeouts, accepted = loop.create_future(), [], False

        async def main(future=future, timeouts=timeouts):
            async with namespace.timeout(None) as timeout:
                timeouts.append(timeout)
                return await namespace.wait_for(future, 60)

        waiting = loop.create_task(main())
        await asyncio.sleep(0)
        for turn in range(3):
            if turn == complete_at and not future.done():
                future.set_result("result")
            if turn == cancel_at:
                accepted = waiting.cancel()
            if turn == expire_at and not waiting.done():
                timeouts[0].reschedule(loop.time() - 1)
            await asyncio.sleep(0)
        (result,) = await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled() == accepted, order
        assert isinstance(result, TimeoutError | asyncio.CancelledError) or result == "result", (
            order
        )
        assert not future.cancelled() or result != "result", order


# as_completed


@on_loop
async def test_as_completed_in_the_order_in_which_they_are_done(loop, namespace):
    coroutines = [after(7, "slow"), after(1, "fast"), after(4, "medium")]
    assert [await result for result in namespace.as_completed(coroutines)] == [
        "fast",
        "medium",
        "slow",
    ]


@on_loop
async def test_as_completed_gives_the_futures_themselves(loop, namespace, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio iterates asynchronously since 3.13")
    slow, fast = loop.create_task(after(5, "slow")), loop.create_task(after(1, ValueError()))
    given = [task async for task in namespace.as_completed([slow, fast])]
    assert given == [fast, slow]
    assert isinstance(fast.exception(), ValueError)


@on_loop
async def test_as_completed_raises_when_its_time_is_over(loop, namespace, behaves_as):
    task = loop.create_task(wait_for_ever())
    for result in namespace.as_completed([task, answer()], timeout=0.001):
        try:
            assert await result == 42
        except TimeoutError:
            break
    else:
        pytest.fail("no TimeoutError")
    assert not task.done()
    if behaves_as(3, 13):
        with pytest.raises(TimeoutError):
            async for _done in namespace.as_completed([task], timeout=0.001):
                pytest.fail("nothing is done")
    task.cancel()


@on_loop
async def test_as_completed_of_nothing_and_of_the_wrong_thing(loop, namespace):
    assert list(namespace.as_completed([])) == []
    with pytest.raises(TypeError, match=r"expects? an iterable of"):
        list(namespace.as_completed(loop.create_future()))


@on_loop
async def test_cancelling_a_wait_for_the_next_result_loses_none(loop, namespace):
    futures = [loop.create_future() for _ in range(2)]
    results = iter(namespace.as_completed(futures))
    first = loop.create_task(next(results))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    futures[0].set_result("kept")
    assert await next(results) == "kept"
    futures[1].cancel()


# shield


@on_loop
async def test_a_shielded_task_goes_on_when_its_wait_is_cancelled(loop, namespace):
    inner = loop.create_task(after(3, "inner"))

    async def wait():
        await namespace.shield(inner)

    waiting = loop.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not inner.done()
    assert await inner == "inner"
    assert inner._callbacks in (None, [])


@on_loop
async def test_shield_passes_every_outcome_on(loop, namespace):
    assert await namespace.shield(after(1, "result")) == "result"
    with pytest.raises(ValueError):
        await namespace.shield(after(1, ValueError()))
    inner = loop.create_task(wait_for_ever())
    loop.call_soon(inner.cancel)
    with pytest.raises(asyncio.CancelledError):
        await namespace.shield(inner)
    done = loop.create_future()
    done.set_result(1)
    assert namespace.shield(done) is done


@pytest.mark.parametrize("turns", [0, 1, 5])
@on_loop
async def test_a_failure_behind_a_shield_that_was_given_up_is_reported_once(
    loop, namespace, loop_errors, behaves_as, turns
):
    """Unless somebody retrieves it (CPython 3.14 and newer report that too, gh-156321)."""
    if namespace is asyncio:
        pytest.skip("asyncio loses it, or reports it always, by version and turn")
    inner = loop.create_task(after(turns, ValueError("behind the shield")))
    outer = namespace.shield(inner)
    outer.cancel()
    await after(turns + 3, None)
    del inner, outer
    gc.collect()
    (context,) = loop_errors.take()
    assert str(context["exception"]) == "behind the shield"
    inner = loop.create_task(after(1, ValueError("retrieved")))
    namespace.shield(inner).cancel()
    await after(4, None)
    assert str(inner.exception()) == "retrieved"
    del inner
    gc.collect()
    assert loop_errors == []


# sleep


@pytest.mark.parametrize("delay", [0, -1, 0.001])
@on_loop
async def test_sleep_gives_its_result(loop, namespace, delay):
    assert await namespace.sleep(delay) is None
    assert await namespace.sleep(delay, "result") == "result"


@on_loop
async def test_sleeping_no_time_is_one_turn(loop, namespace):
    log = []
    loop.call_soon(log.append, "first")
    await namespace.sleep(0)
    assert log == ["first"]


@on_loop
async def test_a_cancelled_sleep_leaves_no_timer(loop, namespace):
    sleeping = loop.create_task(namespace.sleep(3600))
    await asyncio.sleep(0)
    (timer,) = [handle for handle in loop._scheduled if handle.when() > loop.time() + 1800]
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert timer.cancelled()


@on_loop
async def test_not_a_number_is_no_time_to_sleep(loop, namespace, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio refuses it since 3.13")
    with pytest.raises(ValueError, match="Invalid delay: NaN"):
        await namespace.sleep(float("nan"))


# Threads


@on_loop
async def test_to_thread_sees_the_callers_context(loop, namespace):
    variable = contextvars.ContextVar("variable")
    variable.set("caller's")

    def work(word, *, other):
        return variable.get(), word, other, threading.get_ident()

    seen, word, other, thread = await namespace.to_thread(work, 1, other=2)
    assert (seen, word, other) == ("caller's", 1, 2)
    assert thread != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await namespace.to_thread(lambda: 1 / 0)
    await loop.shutdown_default_executor()


def run_in_thread(loop, function):
    """Runs `function` on a thread, and the loop until that has ended; returns what it returned."""
    return loop.run_until_complete(_joined(loop, function))


async def _joined(loop, function):
    try:
        return await loop.run_in_executor(None, function)
    finally:
        await loop.shutdown_default_executor()


def test_a_coroutine_can_be_run_from_another_thread(loop, namespace):
    def work():
        future = namespace.run_coroutine_threadsafe(after(2, "result"), loop)
        assert isinstance(future, concurrent.futures.Future)
        failing = namespace.run_coroutine_threadsafe(after(2, ValueError("failed")), loop)
        return future.result(10), failing.exception(10)

    result, error = run_in_thread(loop, work)
    assert result == "result"
    assert str(error) == "failed"


def test_cancelling_from_another_thread_cancels_the_task(loop, namespace):
    ended = threading.Event()

    async def wait():
        try:
            await wait_for_ever()
        finally:
            ended.set()

    begun = threading.Event()

    def work():
        future = namespace.run_coroutine_threadsafe(wait(), loop)
        loop.call_soon_threadsafe(loop.call_soon, begun.set)
        assert begun.wait(10)
        assert future.cancel()
        return ended.wait(10), future.cancelled()

    assert run_in_thread(loop, work) == (True, True)


@on_loop
async def test_cancelling_in_the_loops_own_thread_cancels_at_once(loop, namespace, behaves_as):
    """gh-105836."""
    if namespace is asyncio:
        pytest.skip("asyncio does since 3.14.1")
    ended = []

    async def wait():
        try:
            await wait_for_ever()
        finally:
            ended.append("ended")

    future = namespace.run_coroutine_threadsafe(wait(), loop)
    await after(2, None)
    future.cancel()
    await asyncio.sleep(0)
    assert ended == ["ended"]


def test_what_is_no_coroutine_is_not_run(loop, namespace):
    with pytest.raises(TypeError, match="A coroutine object is required"):
        namespace.run_coroutine_threadsafe(answer, loop)


@on_loop
async def test_a_concurrent_future_can_be_awaited(loop, namespace):
    source = concurrent.futures.Future()
    wrapped = namespace.wrap_future(source)
    assert namespace.wrap_future(wrapped) is wrapped
    threading.Thread(target=source.set_result, args=("result",)).start()
    assert await wrapped == "result"
    failing = concurrent.futures.Future()
    failing.set_exception(concurrent.futures.TimeoutError("late"))
    with pytest.raises(TimeoutError, match="late"):
        await namespace.wrap_future(failing, loop=loop)
    cancelled = concurrent.futures.Future()
    namespace.wrap_future(cancelled).cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cancelled.cancelled()
    with pytest.raises(AssertionError, match="Future is expected, got 42"):
        namespace.wrap_future(42)


# Foreign loops


@aioxide_only
def test_they_work_on_asyncios_loop_too(namespace):
    loop = asyncio.SelectorEventLoop()

    async def main():
        assert await namespace.wait_for(after(2, "done"), 60) == "done"
        with pytest.raises(TimeoutError):
            await namespace.wait_for(wait_for_ever(), 0.001)
        task = namespace.create_task(namespace.sleep(0.001, "slept"))
        assert await namespace.wait([task]) == ({task}, set())
        assert [task async for task in namespace.as_completed([task])] == [task]
        assert await namespace.shield(answer()) == 42
        source = concurrent.futures.Future()
        source.set_result("result")
        assert await namespace.wrap_future(source) == "result"
        future = namespace.run_coroutine_threadsafe(answer(), loop)
        await asyncio.sleep(0.001)
        wait_until(future.done)
        return future.result()

    try:
        assert loop.run_until_complete(main()) == 42
    finally:
        loop.close()


@aioxide_only
@on_loop
async def test_create_task_knows_the_newest_keywords(loop, namespace):
    task = namespace.create_task(answer(), name="eager", eager_start=True)
    assert task.done()
    assert task.get_name() == "eager"
    assert await task == 42
