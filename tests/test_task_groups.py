"""TaskGroup: tasks that end together, `cancel()`, and cancellations from several sides at once.

Run by pytest on asyncio first and then on aioxide, which has the newest CPython's behaviour on
every Python. CPython's issues that a test is about are named there.
"""

import asyncio
import gc
import itertools
import weakref

import pytest
from coroutines import answer, wait_for_ever
from loopback import on_loop

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


async def fail(error, turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    raise error


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


# Ending together


@on_loop
async def test_leaving_waits_for_every_task(loop, namespace):
    async with namespace.TaskGroup() as group:
        first = group.create_task(answer(1))
        second = group.create_task(answer(2), name="second")
        assert not first.done()
    assert (first.result(), second.result(), second.get_name()) == (1, 2, "second")
    assert isinstance(group, asyncio.TaskGroup)


@on_loop
async def test_tasks_can_make_tasks_while_the_group_waits(loop, namespace):
    seen = []

    async def child(group, depth):
        await asyncio.sleep(0)
        seen.append(depth)
        if depth:
            group.create_task(child(group, depth - 1))

    async with namespace.TaskGroup() as group:
        group.create_task(child(group, 5))
    assert seen == [5, 4, 3, 2, 1, 0]


@on_loop
async def test_an_empty_group_never_waits(loop, namespace):
    log = []
    loop.call_soon(log.append, "turn")
    async with namespace.TaskGroup():
        pass
    assert log == []


@on_loop
async def test_a_failure_cancels_the_other_tasks_and_the_body(loop, namespace):
    other = None
    with pytest.raises(ExceptionGroup) as caught:
        async with namespace.TaskGroup() as group:
            other = group.create_task(wait_for_ever())
            group.create_task(fail(ValueError("mine"), 1))
            await wait_for_ever()
    assert caught.value.message == "unhandled errors in a TaskGroup"
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('mine')"]
    assert other.cancelled()
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


@on_loop
async def test_the_bodys_exception_is_one_of_the_group(loop, namespace):
    error = ValueError("body")
    with pytest.raises(ExceptionGroup) as caught:
        async with namespace.TaskGroup() as group:
            task = group.create_task(wait_for_ever())
            raise error
    assert caught.value.exceptions == (error,)
    assert task.cancelled()
    # `raise ... from None`: the body's exception is in the group and needs no second mention.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@on_loop
async def test_a_task_that_is_cancelled_by_others_is_no_failure(loop, namespace):
    async with namespace.TaskGroup() as group:
        task = group.create_task(wait_for_ever())
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["body", "task"])
def test_what_leaves_the_loop_leaves_it_unwrapped(loop, namespace, error, where, survivors):
    async def main():
        async with namespace.TaskGroup() as group:
            survivors.append(group.create_task(wait_for_ever()))
            if where == "task":
                group.create_task(fail(error(), 1))
                await wait_for_ever()
            await turns(2)
            raise error

    waiting = loop.create_task(main())
    with pytest.raises(error):
        loop.run_until_complete(waiting)
    if where == "task":
        with pytest.raises(error):
            loop.run_until_complete(waiting)
    assert waiting.done()


@aioxide_only
def test_exceptions_hidden_by_a_base_exception_are_reported(loop, namespace, loop_errors):
    """gh-135736; the base exception itself is not hidden."""

    async def main():
        async with namespace.TaskGroup() as group:
            group.create_task(fail(ValueError("hidden"), 1))
            try:
                await wait_for_ever()
            except asyncio.CancelledError:
                raise SystemExit(3) from None

    with pytest.raises(SystemExit):
        loop.run_until_complete(main())
    (context,) = loop_errors.take()
    assert repr(context["exception"]) == "ValueError('hidden')"
    assert context["message"].startswith("TaskGroup task exception was not propagated")


@on_loop
async def test_generator_exit_of_the_body_is_raised_as_it_is(loop, namespace, behaves_as):
    if not behaves_as(3, 15):
        pytest.skip("asyncio wraps it before 3.15")

    async def generate():
        async with namespace.TaskGroup() as group:
            group.create_task(wait_for_ever())
            yield 1

    generator = generate()
    assert await anext(generator) == 1
    await generator.aclose()


# Misuse


@on_loop
async def test_misuse_is_refused_and_the_coroutine_closed(loop, namespace, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio closes the coroutine since 3.13")
    group = namespace.TaskGroup()
    with pytest.raises(RuntimeError, match="<TaskGroup> has not been entered"):
        group.create_task(answer())
    async with group:
        with pytest.raises(RuntimeError, match="<TaskGroup entered> has already been entered"):
            await group.__aenter__()
    with pytest.raises(RuntimeError, match="<TaskGroup entered> is finished"):
        group.create_task(answer())
    with pytest.raises(ExceptionGroup):
        async with namespace.TaskGroup() as group:
            group.create_task(late(group))
            raise ValueError


async def late(group):
    try:
        await wait_for_ever()
    except asyncio.CancelledError:
        with pytest.raises(RuntimeError, match="is shutting down"):
            group.create_task(answer())
        raise


def test_a_group_is_entered_by_a_task(loop, namespace, loop_errors):
    group = namespace.TaskGroup()
    entering = group.__aenter__()
    with pytest.raises(RuntimeError, match="no running event loop"):
        entering.send(None)

    def enter():
        with pytest.raises(RuntimeError, match="cannot determine the parent task"):
            namespace.TaskGroup().__aenter__().send(None)

    loop.call_soon(enter)
    loop.run_until_complete(asyncio.sleep(0))


@on_loop
async def test_what_it_shows(loop, namespace, behaves_as):
    group = namespace.TaskGroup()
    assert repr(group) == "<TaskGroup>"
    with pytest.raises(ExceptionGroup):
        async with group:
            assert repr(group) == "<TaskGroup entered>"
            group.create_task(wait_for_ever())
            group.create_task(fail(ValueError()))
            assert repr(group) == "<TaskGroup tasks=2 entered>"
            assert len(group._tasks) == 2
            try:
                await wait_for_ever()
            finally:
                assert repr(group) == "<TaskGroup tasks=1 errors=1 cancelling>"
                assert [type(error) for error in group._errors] == [ValueError]
    assert group._parent_task is None or not behaves_as(3, 14)


# Cancelled from outside


@on_loop
async def test_cancelling_the_parent_cancels_the_tasks(loop, namespace):
    tasks = []

    async def main():
        async with namespace.TaskGroup() as group:
            tasks.extend(group.create_task(wait_for_ever()) for _ in range(3))

    parent = loop.create_task(main())
    await turns(2)
    parent.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await parent
    assert all(task.cancelled() for task in tasks)


@on_loop
async def test_a_cancellation_while_the_group_fails_is_not_lost(loop, namespace, behaves_as):
    """gh-116720: both the exceptions and the cancellation reach the parent."""
    if not behaves_as(3, 13):
        pytest.skip("asyncio loses it before 3.13")
    log = []

    async def slow_to_stop():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            await turns(3)
            raise

    async def main():
        try:
            async with namespace.TaskGroup() as group:
                group.create_task(slow_to_stop())
                group.create_task(fail(ValueError("mine"), 1))
        except* ValueError:
            log.append("failed")
        log.append(asyncio.current_task().cancelling())
        await wait_for_ever()

    parent = loop.create_task(main())
    await turns(4)
    parent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await parent
    assert log == ["failed", 1]


@on_loop
async def test_a_cancellation_of_an_outer_group_passes_through_a_failing_inner_one(
    loop, namespace, behaves_as
):
    """gh-116720, as it was first told."""
    if not behaves_as(3, 13):
        pytest.skip("asyncio hangs here before 3.13")
    reached = []

    async def main():
        async with namespace.TaskGroup() as outer:
            try:
                async with namespace.TaskGroup() as inner:
                    inner.create_task(fail(ValueError("inner"), 1))
                    outer.create_task(fail(KeyError("outer"), 1))
                    await wait_for_ever()
            except* ValueError:
                pass
            await turns(3)
            reached.append("behind the inner group")

    with pytest.raises(ExceptionGroup) as caught:
        async with namespace.timeout(5):
            await main()
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert reached == []


@aioxide_only
@on_loop
async def test_a_cancellation_after_cancel_is_not_lost(loop, namespace):
    """gh-155433: the group's own request is taken back, the other one stays."""

    async def slow_to_stop():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            await turns(3)
            raise

    async def main():
        async with namespace.TaskGroup() as group:
            group.create_task(slow_to_stop())
            await asyncio.sleep(0)
            group.cancel()

    parent = loop.create_task(main())
    await turns(4)
    parent.cancel("from outside")
    with pytest.raises(asyncio.CancelledError, match="from outside"):
        await parent


@aioxide_only
@on_loop
async def test_an_eager_task_can_cancel_the_group_before_it_is_one_of_it(loop, namespace):
    """gh-155418: the group hung, for its task was not yet there to be cancelled."""

    async def child(group):
        group.cancel()
        await wait_for_ever()

    loop.set_task_factory(namespace.eager_task_factory)
    async with namespace.timeout(5), namespace.TaskGroup() as group:
        task = group.create_task(child(group))
    assert task.cancelled()


@on_loop
async def test_an_eager_task_that_fails_at_once_cancels_nobody_too_early(
    loop, namespace, behaves_as
):
    """gh-128588."""
    if not behaves_as(3, 14):
        pytest.skip("asyncio before 3.14 cancels the body before the task is returned")
    loop.set_task_factory(namespace.eager_task_factory)
    with pytest.raises(ExceptionGroup):
        async with namespace.TaskGroup() as group:
            task = group.create_task(fail(ValueError("at once")))
            assert task.done()
            assert asyncio.current_task().cancelling() == 0
            await wait_for_ever()
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("kind", ["fails", "is cancelled", "ends"])
@on_loop
async def test_a_cancellation_in_any_turn_arrives_and_leaves_no_task(
    loop, namespace, behaves_as, kind
):
    """In every turn from before the group is entered until after it was left."""
    if not behaves_as(3, 13):
        pytest.skip("asyncio loses some before 3.13")

    async def slow_to_stop():
        try:
            await wait_for_ever()
        finally:
            await turns(2)

    async def child(group, turn):
        await turns(turn)
        if kind == "fails":
            raise ValueError
        if kind == "is cancelled":
            for task in tasks:
                task.cancel()

    async def main(turn):
        try:
            async with namespace.TaskGroup() as group:
                if kind != "ends":
                    tasks.extend(group.create_task(slow_to_stop()) for _ in range(2))
                tasks.append(group.create_task(child(group, turn)))
                await turns(1)
        except* ValueError:
            pass
        await turns(2)

    for end_at, cancel_at in itertools.product(range(5), range(12)):
        tasks = []
        parent = loop.create_task(main(end_at))
        await turns(cancel_at)
        accepted = parent.cancel()
        await asyncio.wait([parent])
        assert parent.cancelled() == accepted, (end_at, cancel_at)
        assert all(task.done() for task in tasks), (end_at, cancel_at)
        await turns(1)


# cancel()


@aioxide_only
@on_loop
async def test_cancel_ends_the_group_without_an_exception(loop, namespace):
    async with namespace.TaskGroup() as group:
        task = group.create_task(wait_for_ever())
        await asyncio.sleep(0)
        group.cancel()
        await wait_for_ever()
    assert task.cancelled()
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


@aioxide_only
@on_loop
async def test_cancel_from_a_task_of_the_group(loop, namespace):
    async def winner(group):
        await turns(2)
        group.cancel()

    async with namespace.TaskGroup() as group:
        losers = [group.create_task(wait_for_ever()) for _ in range(3)]
        won = group.create_task(winner(group))
    assert all(task.cancelled() for task in losers)
    assert won.cancelled()


@aioxide_only
@on_loop
async def test_cancel_before_entering_cancels_upon_entering(loop, namespace):
    group, reached = namespace.TaskGroup(), []
    group.cancel()
    async with group:
        reached.append("entered")
        with pytest.raises(RuntimeError, match="is shutting down"):
            group.create_task(answer())
        await asyncio.sleep(0)
        reached.append("not reached")
    assert reached == ["entered"]
    assert asyncio.current_task().cancelling() == 0


@aioxide_only
@on_loop
async def test_cancel_may_be_repeated_and_may_come_too_late(loop, namespace):
    async with namespace.TaskGroup() as group:
        group.create_task(wait_for_ever())
        group.cancel()
        group.cancel()
    group.cancel()
    async with namespace.TaskGroup() as group:
        group.create_task(answer())
    group.cancel()
    assert asyncio.current_task().cancelling() == 0


@aioxide_only
@on_loop
async def test_a_failure_on_the_way_out_of_a_cancelled_group_is_raised(loop, namespace):
    async def fails_when_cancelled():
        try:
            await wait_for_ever()
        finally:
            raise ValueError("on the way out")

    with pytest.raises(ExceptionGroup) as caught:
        async with namespace.TaskGroup() as group:
            group.create_task(fails_when_cancelled())
            await asyncio.sleep(0)
            group.cancel()
    assert [str(error) for error in caught.value.exceptions] == ["on the way out"]


# Subclasses, foreign tasks and loops


@on_loop
async def test_subclasses_may_replace_the_hooks_they_know(loop, namespace):
    """Recipes for groups that outlive a failure do this."""
    told = []

    class Persistent(namespace.TaskGroup):
        def _abort(self):
            told.append("abort")

        def _on_task_done(self, task):
            told.append(task.get_name())
            super()._on_task_done(task)

    with pytest.raises(ExceptionGroup) as caught:
        async with Persistent() as group:
            other = group.create_task(answer(), name="other")
            group.create_task(fail(ValueError("mine")), name="failing")
    assert [str(error) for error in caught.value.exceptions] == ["mine"]
    assert other.result() == 42
    assert told == ["other", "failing", "abort", "abort"]


@on_loop
async def test_tasks_of_asyncios_own_class_are_members(loop, namespace):
    loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
    with pytest.raises(ExceptionGroup):
        async with namespace.TaskGroup() as group:
            other = group.create_task(wait_for_ever())
            group.create_task(fail(ValueError(), 1))
    assert other.cancelled()


@aioxide_only
def test_a_group_works_on_asyncios_loop_too(namespace):
    loop = asyncio.SelectorEventLoop()

    async def main():
        async with namespace.TaskGroup() as group:
            task = group.create_task(answer())
        assert task.result() == 42
        with pytest.raises(ExceptionGroup):
            async with namespace.TaskGroup() as group:
                other = group.create_task(wait_for_ever())
                group.create_task(fail(ValueError(), 1))
        assert other.cancelled()
        async with namespace.TaskGroup() as group:
            group.create_task(wait_for_ever())
            group.cancel()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


# What is kept


@on_loop
async def test_exceptions_are_freed_without_the_collector(loop, namespace, behaves_as):
    if not behaves_as(3, 14):
        pytest.skip("asyncio leaves a cycle before 3.14")

    class Failure(Exception):
        pass

    gone = []

    async def fail_once():
        error = Failure()
        gone.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        try:
            async with namespace.TaskGroup() as group:
                group.create_task(fail_once())
        except* Failure:
            pass
        del group
        await turns(2)
        assert gone[0]() is None
    finally:
        gc.enable()


@on_loop
async def test_tasks_that_are_done_are_let_go(loop, namespace):
    async with namespace.TaskGroup() as group:
        gone = weakref.ref(group.create_task(answer()))
        await turns(4)
        gc.collect()
        assert gone() is None
        assert group._tasks == set()
