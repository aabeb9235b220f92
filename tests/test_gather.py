"""gather: results, failures and cancellation of many awaitables at once.

Run by pytest on asyncio first and then on aioxide. The turn in which something happens is tested
too: programs come to rely on it.
"""

import asyncio
import contextvars
import gc
import weakref

import pytest
from coroutines import answer, wait_for_ever
from loopback import on_loop

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


async def after(turns, outcome):
    """Returns `outcome` after so many turns, or raises it."""
    for _ in range(turns):
        await asyncio.sleep(0)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return "awaited"


# Results


@on_loop
async def test_results_stand_in_the_order_of_the_arguments(loop, namespace):
    future = loop.create_future()
    loop.call_soon(future.set_result, "future")
    task = loop.create_task(after(1, "task"))
    results = await namespace.gather(after(5, "slow"), future, task, Awaitable(), after(0, None))
    assert results == ["slow", "future", "task", "awaited", None]


@on_loop
async def test_nothing_is_gathered_at_once(loop, namespace):
    gathered = namespace.gather()
    assert gathered.done()
    assert await gathered == []
    assert asyncio.isfuture(gathered)


@on_loop
async def test_the_same_awaitable_twice_runs_once(loop, namespace):
    calls = []

    async def once():
        calls.append("called")
        return len(calls)

    coroutine, task = once(), loop.create_task(after(2, "task"))
    assert await namespace.gather(coroutine, task, coroutine, task) == [1, "task", 1, "task"]


@on_loop
async def test_what_is_done_already_counts(loop, namespace):
    done, failed = loop.create_future(), loop.create_future()
    done.set_result(1)
    failed.set_exception(ValueError("early"))
    assert await namespace.gather(done, after(1, 2)) == [1, 2]
    assert await namespace.gather(done, done) == [1, 1]
    (error,) = await namespace.gather(failed, return_exceptions=True)
    assert error is failed.exception()
    with pytest.raises(ValueError, match="early"):
        await namespace.gather(failed, done)


@on_loop
async def test_a_gather_of_gathers(loop, namespace):
    inner = namespace.gather(after(1, 1), after(2, 2))
    assert await namespace.gather(inner, after(0, 3)) == [[1, 2], 3]


@on_loop
async def test_children_see_the_callers_context(loop, namespace):
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("caller's")

    async def look():
        seen = variable.get()
        variable.set("child's")
        return seen

    assert await namespace.gather(look(), look()) == ["caller's", "caller's"]
    assert variable.get() == "caller's"


@pytest.mark.parametrize("kind", ["task", "callback"])
def test_the_gathering_is_done_in_the_turn_in_which_asyncio_has_it(loop, namespace, kind):
    """Seen by a callback that is queued in every turn, and by others that the child queues."""
    log = []

    async def child():
        await asyncio.sleep(0)
        loop.call_soon(lambda: log.append(("before", gathered.done())))
        if kind == "callback":
            loop.call_soon(loop.call_soon, lambda: log.append(("next", gathered.done())))
        return 1

    async def main():
        nonlocal gathered
        gathered = namespace.gather(child(), child())
        await gathered
        log.append("woken")

    gathered = None
    loop.run_until_complete(main())
    before = [("before", False), ("before", False)]
    if kind == "callback":
        # The first child's callback still runs before the second child is counted.
        assert log == [*before, ("next", True), ("next", True), "woken"]
    else:
        assert log == [*before, "woken"]


# Failures


@on_loop
async def test_the_first_exception_is_the_gatherings_and_the_others_go_on(loop, namespace):
    ended = []

    async def other():
        await after(5, None)
        ended.append("other")

    task = loop.create_task(other())
    with pytest.raises(ValueError, match="first"):
        await namespace.gather(task, after(1, ValueError("first")), after(2, KeyError("second")))
    assert not task.done()
    await task
    assert ended == ["other"]


@on_loop
async def test_exceptions_can_stand_among_the_results(loop, namespace):
    error = ValueError("mine")
    results = await namespace.gather(after(1, error), after(2, "fine"), return_exceptions=True)
    assert results == [error, "fine"]


@on_loop
async def test_a_cancelled_child_is_an_exception_of_its_own(loop, namespace):
    child = loop.create_task(wait_for_ever())
    gathered = namespace.gather(child, after(3, "other"))
    loop.call_soon(child.cancel, "why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await gathered
    assert not gathered.cancelled()
    assert isinstance(gathered.exception(), asyncio.CancelledError)


@on_loop
async def test_a_cancelled_child_among_the_results(loop, namespace):
    with_message, without = loop.create_future(), loop.create_future()
    gathered = namespace.gather(with_message, without, answer(), return_exceptions=True)
    loop.call_soon(with_message.cancel, "why")
    loop.call_soon(without.cancel)
    first, second, third = await gathered
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, asyncio.CancelledError)
    assert (first.args, second.args, third) == (("why",), ("",), 42)


@on_loop
async def test_exceptions_after_the_first_are_not_reported(loop, namespace, loop_errors):
    """They count as retrieved; a report of each would only say what the first said."""
    with pytest.raises(ValueError, match="first"):
        await namespace.gather(after(0, ValueError("first")), after(1, ValueError("second")))
    await after(4, None)
    gc.collect()
    assert loop_errors == []


@on_loop
async def test_a_failed_gathering_that_nobody_awaits_is_reported_once(loop, namespace, loop_errors):
    gathered = namespace.gather(after(0, ValueError("lost")), after(1, ValueError("second")))
    await after(5, None)
    del gathered
    gc.collect()
    (context,) = loop_errors.take()
    assert "_GatheringFuture exception was never retrieved" in context["message"]
    assert str(context["exception"]) == "lost"


@on_loop
async def test_a_refused_argument_leaves_the_others_running(loop, namespace, loop_errors):
    ended = []

    async def other():
        ended.append("other")
        raise ValueError("told to nobody")

    with pytest.raises(TypeError, match="an awaitable is required"):
        namespace.gather(other(), 42)
    await after(3, None)
    gc.collect()
    assert ended == ["other"]
    assert loop_errors == []


@on_loop
async def test_a_future_of_another_loop_is_refused(loop, namespace, new_loop):
    other = new_loop()
    try:
        with pytest.raises(ValueError, match="belongs to a different loop"):
            namespace.gather(loop.create_future(), other.create_future())
    finally:
        other.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_it_from_a_child_too(loop, namespace, error, survivors):
    async def main():
        await namespace.gather(after(1, error()), other)

    other = loop.create_task(wait_for_ever())
    survivors.append(other)
    waiting = loop.create_task(main())
    with pytest.raises(error):
        loop.run_until_complete(waiting)
    assert not waiting.done()
    with pytest.raises(error):
        loop.run_until_complete(waiting)
    assert waiting.done()


# Cancellation


@on_loop
async def test_cancelling_the_gathering_cancels_every_child(loop, namespace):
    children = [loop.create_task(wait_for_ever()) for _ in range(3)]
    gathered = namespace.gather(*children)
    await asyncio.sleep(0)
    assert gathered.cancel("why") is True
    assert not gathered.done()
    with pytest.raises(asyncio.CancelledError, match="why"):
        await gathered
    await asyncio.sleep(0)
    assert all(child.cancelled() for child in children)
    assert gathered.cancel() is False


@on_loop
async def test_cancelling_wins_over_return_exceptions(loop, namespace):
    gathered = namespace.gather(wait_for_ever(), wait_for_ever(), return_exceptions=True)
    await asyncio.sleep(0)
    gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered


@on_loop
async def test_cancelling_whoever_awaits_it_cancels_the_children(loop, namespace):
    children = [loop.create_task(wait_for_ever()) for _ in range(2)]

    async def wait():
        await namespace.gather(*children)

    waiting = loop.create_task(wait())
    await after(2, None)
    waiting.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await waiting
    assert all(child.cancelled() for child in children)


@on_loop
async def test_children_that_refuse_to_be_cancelled_are_waited_for(loop, namespace):
    async def stubborn():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            await after(3, None)
            return "finished"

    child = loop.create_task(stubborn())
    gathered = namespace.gather(child)
    await asyncio.sleep(0)
    gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered
    assert child.result() == "finished"


@on_loop
async def test_cancelling_after_a_failure_leaves_the_others_alone(loop, namespace):
    child = loop.create_task(after(5, "fine"))
    gathered = namespace.gather(after(0, ValueError()), child)
    with pytest.raises(ValueError):
        await gathered
    assert gathered.cancel() is False
    assert await child == "fine"


@on_loop
async def test_cancelling_when_all_children_are_done_is_too_late(loop, namespace):
    children = [loop.create_future() for _ in range(2)]
    gathered = namespace.gather(*children)
    for child in children:
        child.set_result(1)
    assert gathered.cancel() is False
    assert await gathered == [1, 1]


@on_loop
async def test_a_cancellation_in_any_turn_arrives_and_leaves_no_child(loop, namespace):
    async def child(number):
        try:
            return await after(number, number)
        finally:
            await asyncio.sleep(0)

    async def main(children):
        return await namespace.gather(*children, return_exceptions=True)

    for turn in range(1, 10):
        children = [loop.create_task(child(number)) for number in range(4)]
        waiting = loop.create_task(main(children))
        await after(turn, None)
        accepted = waiting.cancel()
        await asyncio.wait([waiting])
        assert all(child.done() for child in children), turn
        assert waiting.cancelled() == accepted, turn
        if not accepted:
            assert waiting.result() == [0, 1, 2, 3], turn


# Foreign loops, foreign futures, foreign factories


@on_loop
async def test_futures_of_asyncios_own_classes_are_gathered(loop, namespace):
    future, failed = asyncio.Future(loop=loop), asyncio.Future(loop=loop)
    task = asyncio.Task(after(2, "task"), loop=loop)
    loop.call_soon(future.set_result, "future")
    loop.call_soon(failed.set_exception, ValueError("failed"))
    results = await namespace.gather(future, task, failed, after(1, "ours"), return_exceptions=True)
    assert results[:2] == ["future", "task"]
    assert (repr(results[2]), results[3]) == ("ValueError('failed')", "ours")
    late = asyncio.Future(loop=loop)
    gathered = namespace.gather(late)
    gathered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathered
    assert late.cancelled()


@on_loop
async def test_coroutines_that_are_not_functions_of_the_program(loop, namespace):
    """What `lock.acquire()` returns may be written in another language."""
    lock = namespace.Lock()
    assert await namespace.gather(lock.acquire(), answer()) == [True, 42]
    with pytest.raises(TimeoutError):
        await namespace.wait_for(lock.acquire(), 0.001)
    async with namespace.TaskGroup() as group:
        waiting = group.create_task(lock.acquire())
        loop.call_soon(lock.release)
    assert waiting.result() is True
    assert lock.locked()


@on_loop
async def test_a_task_factory_makes_the_children(loop, namespace):
    made = []

    def factory(loop, coro, **kwargs):
        task = namespace.Task(coro, loop=loop, **kwargs)
        made.append(task)
        return task

    loop.set_task_factory(factory)
    assert await namespace.gather(answer(), answer()) == [42, 42]
    assert len(made) == 2


@on_loop
async def test_a_replaced_create_task_is_called(loop, namespace):
    made, original = [], loop.create_task

    def create_task(coro, **kwargs):
        made.append(coro.__name__)
        return original(coro, **kwargs)

    loop.create_task = create_task
    try:
        assert await namespace.gather(answer(), answer()) == [42, 42]
    finally:
        loop.create_task = original
    assert made == ["answer", "answer"]


@on_loop
async def test_eager_children_may_all_be_done_at_once(loop, namespace, behaves_as):
    if not behaves_as(3, 12):
        pytest.skip("asyncio has eager tasks since 3.12")
    loop.set_task_factory(namespace.eager_task_factory)
    gathered = namespace.gather(answer(), answer())
    assert gathered.done()
    assert await gathered == [42, 42]
    with pytest.raises(ValueError):
        await namespace.gather(after(0, ValueError()), answer())


@aioxide_only
def test_gather_works_on_asyncios_loop_too(namespace):
    loop = asyncio.SelectorEventLoop()

    async def main():
        gathered = namespace.gather(after(1, 1), after(2, 2), loop.create_task(after(0, 3)))
        assert await gathered == [1, 2, 3]
        gathered = namespace.gather(wait_for_ever(), wait_for_ever())
        await asyncio.sleep(0)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        with pytest.raises(ValueError):
            await namespace.gather(after(1, ValueError()), answer())

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_gather_outside_of_a_running_loop_takes_the_futures_loop(loop, namespace):
    future = loop.create_future()
    gathered = namespace.gather(future)
    assert gathered.get_loop() is loop
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(gathered) == [1]


# What is kept


@on_loop
async def test_a_gathering_that_is_done_can_be_collected(loop, namespace):
    gathered = namespace.gather(after(1, 1), after(2, 2))
    await gathered
    gone = weakref.ref(gathered)
    del gathered
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


@on_loop
async def test_a_pending_gathering_that_nobody_keeps_goes_on(loop, namespace):
    ended = []

    async def child():
        await after(3, None)
        ended.append("child")

    namespace.gather(child(), child())
    gc.collect()
    await after(6, None)
    assert ended == ["child", "child"]


@on_loop
async def test_callbacks_of_a_child_show_that_somebody_waits(loop, namespace):
    child = loop.create_future()
    gathered = namespace.gather(child)
    ((callback, _context),) = child._callbacks
    assert callable(callback)
    assert "gather" in repr(child)
    child.set_result(1)
    assert await gathered == [1]
