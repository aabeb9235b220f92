"""Cancellation: requesting it, counting it, delivering it at every kind of await, swallowing it.

Run by pytest on asyncio first and then on aioxide. The rest of Task is in test_tasks.py.
"""

import asyncio
import contextlib
import types

import pytest
from coroutines import answer, wait_for_ever

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


@types.coroutine
def hand(value):
    """Yields a value straight to whoever steps the task."""
    return (yield value)


def turns(loop, count=1):
    """Runs what is ready, so many times."""
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


def cancellation_of(loop, task):
    """Runs a task that was cancelled to its end; returns the arguments of its CancelledError."""
    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run_until_complete(task)
    assert task.cancelled()
    assert task.done()
    return caught.value.args


# Requesting and counting.


def test_cancel_before_the_first_step_never_runs_the_coroutine(loop):
    ran = []

    async def main():
        ran.append("ran")

    task = loop.create_task(main())
    assert task.cancel("early") is True
    assert not task.done()
    assert cancellation_of(loop, task) == ("early",)
    assert ran == []


def test_cancel_of_a_finished_task_does_nothing(loop):
    task = loop.create_task(answer())
    assert loop.run_until_complete(task) == 42
    assert task.cancel("late") is False
    assert task.cancelling() == 0
    assert not task.cancelled()
    cancelled = loop.create_task(answer())
    cancelled.cancel("first")
    assert cancellation_of(loop, cancelled) == ("first",)
    assert cancelled.cancel("second") is False
    assert cancelled.cancelling() == 1


@pytest.mark.parametrize("times", [1, 2, 3, 10])
def test_cancelling_counts_every_request_and_uncancel_takes_one_back(loop, times):
    task = loop.create_task(wait_for_ever())
    assert task.cancelling() == 0
    for count in range(1, times + 1):
        assert task.cancel() is True
        assert task.cancelling() == count
    for count in range(times - 1, -1, -1):
        assert task.uncancel() == count
        assert task.cancelling() == count
    assert task.uncancel() == 0
    assert task.cancelling() == 0
    task.cancel()
    cancellation_of(loop, task)


def test_counts_survive_the_end_of_the_task(loop):
    task = loop.create_task(wait_for_ever())
    turns(loop)
    task.cancel()
    task.cancel()
    cancellation_of(loop, task)
    assert task.cancelling() == 2
    assert task.uncancel() == 1


def test_uncancel_to_zero_takes_back_a_request_that_is_not_delivered(loop, behaves_as):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        assert task._must_cancel is True
        task.cancel()
        assert task.uncancel() == 1
        assert task._must_cancel is True
        assert task.uncancel() == 0
        assert task._must_cancel is not behaves_as(3, 13)
        await asyncio.sleep(0)
        return "went on"

    task = loop.create_task(main())
    if behaves_as(3, 13):
        assert loop.run_until_complete(task) == "went on"
    else:
        cancellation_of(loop, task)


@pytest.mark.parametrize("message", [None, "why", ("any", "thing"), 7])
def test_message_reaches_the_coroutine_and_whoever_asks(loop, message):
    seen = []

    async def main():
        try:
            await wait_for_ever()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    expected = () if message is None else (message,)
    task = loop.create_task(main())
    turns(loop)
    task.cancel(message)
    assert cancellation_of(loop, task) == expected
    assert seen == [expected]
    with pytest.raises(asyncio.CancelledError):
        task.exception()


def test_cancel_takes_its_message_by_name(loop):
    task = loop.create_task(wait_for_ever())
    assert task.cancel(msg="named")
    assert cancellation_of(loop, task) == ("named",)
    with pytest.raises(TypeError):
        task.cancel("too", "many")


def test_message_of_the_request_that_was_delivered_counts(loop):
    waiting, ready = loop.create_task(wait_for_ever()), loop.create_task(answer())
    turns(loop)
    ready = loop.create_task(answer())
    for task in (waiting, ready):
        task.cancel("first")
        task.cancel("second")
    assert cancellation_of(loop, waiting) == ("first",)
    assert cancellation_of(loop, ready) == ("second",)


# Delivery.


async def cancel_scope():
    async with asyncio.timeout(3600):
        await wait_for_ever()


async def task_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_ever())


async def condition():
    held = asyncio.Condition()
    async with held:
        await held.wait()


async def full_queue():
    queue = asyncio.Queue(1)
    await queue.put(1)
    await queue.put(2)


async def held_lock():
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def generator():
    async def numbers():
        await wait_for_ever()
        yield 1

    async for _ in numbers():
        raise AssertionError("nothing comes")


async def context_manager():
    @contextlib.asynccontextmanager
    async def manager():
        await wait_for_ever()
        yield

    async with manager():
        raise AssertionError("nobody enters")


async def stranger():
    class Stranger:
        def __await__(self):
            yield from asyncio.get_running_loop().create_future()

    await Stranger()


async def child():
    await asyncio.get_running_loop().create_task(wait_for_ever())


async def grandchild():
    await asyncio.get_running_loop().create_task(child())


WAITS = {
    "future": wait_for_ever,
    "child": child,
    "grandchild": grandchild,
    "sleep": lambda: asyncio.sleep(3600),
    "event": lambda: asyncio.Event().wait(),
    "lock": held_lock,
    "semaphore": lambda: asyncio.Semaphore(0).acquire(),
    "condition": condition,
    "queue get": lambda: asyncio.Queue().get(),
    "queue put": full_queue,
    "gather": lambda: asyncio.gather(wait_for_ever(), asyncio.sleep(3600)),
    "wait_for": lambda: asyncio.wait_for(wait_for_ever(), 3600),
    "timeout": cancel_scope,
    "task group": task_group,
    "asynchronous generator": generator,
    "asynchronous context manager": context_manager,
    "foreign awaitable": stranger,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_cancellation_is_delivered_at_every_kind_of_await(loop, wait):
    cleaned = []

    async def main():
        try:
            await wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("cleaned")

    task = loop.create_task(main())
    turns(loop, 4)
    assert task.cancel("why") is True
    assert cancellation_of(loop, task) == ("why",)
    assert cleaned == ["cleaned"]
    assert task.cancelling() == 1


@pytest.mark.parametrize("wait", ["shield", "wait"])
def test_cancellation_leaves_what_is_only_watched_alone(loop, wait):
    future = loop.create_future()

    async def inner():
        return await future

    async def main():
        awaited = asyncio.shield(watched) if wait == "shield" else asyncio.wait([watched])
        await awaited

    watched = loop.create_task(inner())
    task = loop.create_task(main())
    turns(loop, 3)
    task.cancel("why")
    assert cancellation_of(loop, task) == ("why",)
    assert not watched.done()
    future.set_result("kept")
    assert loop.run_until_complete(watched) == "kept"


@pytest.mark.parametrize("how", ["sleep", "yield"])
def test_cancellation_of_a_task_that_is_ready_is_delivered_at_its_step(loop, how):
    steps = []

    async def main():
        for number in range(10):
            steps.append(number)
            await (asyncio.sleep(0) if how == "sleep" else hand(None))

    task = loop.create_task(main())
    turns(loop, 3)
    task.cancel("ready")
    assert cancellation_of(loop, task) == ("ready",)
    assert steps == [0, 1, 2]


def test_cancellation_wins_over_a_result_that_was_not_taken_yet(loop):
    future = loop.create_future()

    async def main():
        await future

    task = loop.create_task(main())
    turns(loop)
    future.set_result("too late")
    assert task.cancel("wins") is True
    assert cancellation_of(loop, task) == ("wins",)


def test_task_that_cancels_itself_is_cancelled_at_its_next_await(loop):
    seen = []

    async def main():
        asyncio.current_task().cancel("self")
        seen.append("still running")
        await asyncio.sleep(0)
        seen.append("never")

    assert cancellation_of(loop, loop.create_task(main())) == ("self",)
    assert seen == ["still running"]


@pytest.mark.parametrize("ending", ["return", "raise"])
def test_task_that_cancels_itself_and_ends(loop, ending):
    async def main():
        asyncio.current_task().cancel("self")
        if ending == "raise":
            raise ValueError("ended")
        return "ended"

    task = loop.create_task(main())
    if ending == "return":  # A request that found no await cancels the task as it ends.
        assert cancellation_of(loop, task) == ("self",)
    else:
        with pytest.raises(ValueError, match="ended"):
            loop.run_until_complete(task)
        assert not task.cancelled()


def test_task_that_cancels_itself_cancels_what_it_awaits_next(loop):
    async def main():
        asyncio.current_task().cancel("self")
        await inner

    inner = loop.create_task(wait_for_ever())
    assert cancellation_of(loop, loop.create_task(main())) == ("self",)
    assert inner.cancelled()


def test_awaiting_a_cancelled_task_raises_without_cancelling_the_waiter(loop):
    async def main():
        inner = loop.create_task(wait_for_ever())
        await asyncio.sleep(0)
        inner.cancel("inner")
        try:
            await inner
        except asyncio.CancelledError as error:
            return error.args, asyncio.current_task().cancelling()

    assert loop.run_until_complete(main()) == (("inner",), 0)


def test_cancelled_error_raised_by_the_coroutine_cancels_the_task(loop):
    async def main():
        raise asyncio.CancelledError("own")

    task = loop.create_task(main())
    assert cancellation_of(loop, task) == ("own",)
    assert task.cancelling() == 0


def test_cancelled_error_is_the_one_the_coroutine_raised(loop):
    raised = []

    class Special(asyncio.CancelledError):
        pass

    async def main():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            raised.append(Special("special"))
            raise raised[0] from None

    task = loop.create_task(main())
    turns(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run_until_complete(task)
    assert caught.value is raised[0]


def test_callbacks_of_a_cancelled_task_run_when_it_has_ended(loop):
    seen = []
    task = loop.create_task(wait_for_ever())
    task.add_done_callback(lambda done: seen.append(done.cancelled()))
    turns(loop)
    task.cancel()
    assert seen == []
    cancellation_of(loop, task)
    turns(loop)
    assert seen == [True]


# Swallowing.


def test_swallowed_cancellation_stays_counted(loop):
    async def stubborn():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            return asyncio.current_task().cancelling()

    task = loop.create_task(stubborn())
    turns(loop)
    task.cancel()
    assert loop.run_until_complete(task) == 1
    assert not task.cancelled()
    assert task.cancelling() == 1


def test_swallowed_cancellation_does_not_return_and_a_new_one_does(loop):
    seen = []

    async def stubborn():
        for number in range(3):
            try:
                await asyncio.sleep(0)
                await wait_for_ever()
            except asyncio.CancelledError as error:
                seen.append((number, *error.args))
        return "over"

    task = loop.create_task(stubborn())
    for message in ("a", "b", "c"):
        turns(loop, 3)
        task.cancel(message)
    assert loop.run_until_complete(task) == "over"
    assert seen == [(0, "a"), (1, "b"), (2, "c")]
    assert task.cancelling() == 3


def test_error_while_cancelling_replaces_the_cancellation(loop):
    async def main():
        try:
            await wait_for_ever()
        finally:
            raise ValueError("while cleaning")

    task = loop.create_task(main())
    turns(loop)
    task.cancel()
    with pytest.raises(ValueError, match="while cleaning") as caught:
        loop.run_until_complete(task)
    assert not task.cancelled()
    assert type(caught.value.__context__) is asyncio.CancelledError


def test_waiter_goes_on_when_the_awaited_task_swallows_its_cancellation(loop):
    async def inner():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            return "swallowed"

    async def outer():
        return await awaited, asyncio.current_task().cancelling()

    awaited = loop.create_task(inner())
    task = loop.create_task(outer())
    turns(loop, 2)
    task.cancel()
    assert loop.run_until_complete(task) == ("swallowed", 1)


# Deadlines and groups, which are made of all this.


def test_timeout_turns_its_own_cancellation_into_a_timeout_error(loop, namespace):
    async def main():
        with pytest.raises(TimeoutError):
            async with namespace.timeout(0.001) as scope:
                await wait_for_ever()
        assert scope.expired()
        assert asyncio.current_task().cancelling() == 0
        return "went on"

    assert loop.run_until_complete(main()) == "went on"


def test_timeout_lets_a_cancellation_from_outside_through(loop, namespace):
    async def main():
        async with namespace.timeout(3600):
            await wait_for_ever()

    task = loop.create_task(main())
    turns(loop, 2)
    task.cancel("outside")
    assert cancellation_of(loop, task) == ("outside",)


def test_nested_timeouts_end_the_right_scope(loop, namespace):
    async def main():
        log = []
        try:
            async with namespace.timeout(0.002):
                try:
                    async with namespace.timeout(3600):
                        await wait_for_ever()
                except TimeoutError:
                    log.append("inner")
        except TimeoutError:
            log.append("outer")
        return log

    assert loop.run_until_complete(main()) == ["outer"]


@pytest.mark.parametrize("late", ["answer", "swallow", "fail"])
def test_wait_for_cancels_what_is_late_and_waits_for_its_end(loop, namespace, late):
    ended = []

    async def slow():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append(late)
            if late == "swallow":
                return "result after all"
            if late == "fail":
                raise ValueError("failed late") from None
            raise

    async def main():
        return await namespace.wait_for(slow(), 0.001)

    if late == "swallow":
        with contextlib.suppress(TimeoutError):
            assert loop.run_until_complete(main()) == "result after all"
    else:
        with pytest.raises(ValueError if late == "fail" else TimeoutError):
            loop.run_until_complete(main())
    assert ended == [late]


def test_task_group_passes_a_cancellation_from_outside_to_all(loop, namespace):
    children = []

    async def main():
        async with namespace.TaskGroup() as group:
            children.extend(group.create_task(wait_for_ever()) for _ in range(3))

    task = loop.create_task(main())
    turns(loop, 2)
    task.cancel("outside")
    assert cancellation_of(loop, task) == ("outside",)
    assert [child.cancelled() for child in children] == [True] * 3


def test_gather_passes_cancellation_to_its_children_and_counts_nothing_there(loop, namespace):
    children = [loop.create_task(wait_for_ever()) for _ in range(3)]
    gathered = namespace.gather(*children)
    turns(loop)
    assert gathered.cancel("all") is True
    with pytest.raises(asyncio.CancelledError, match="all"):
        loop.run_until_complete(gathered)
    assert [child.cancelled() for child in children] == [True] * 3
    assert [child.cancelling() for child in children] == [1] * 3


CHAIN = """
    loop = new_event_loop()
    loop.set_debug(False)

    async def link(task):
        await task

    async def main():
        tasks = [loop.create_task(asyncio.sleep(3600))]
        for _ in range({length}):
            tasks.append(loop.create_task(link(tasks[-1])))
        await asyncio.sleep(0)
        try:
            tasks[-1].cancel("through")
        except RecursionError:
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)
        return sum(task.cancelled() for task in tasks)

    print(loop.run_until_complete(main()))
    loop.close()
    """


def test_cancellation_goes_through_a_long_chain_of_tasks(run_child):
    child = run_child(CHAIN.format(length=300))
    assert child.stdout.strip() == "301", child.stderr


@aioxide_only
def test_cancellation_of_an_endless_chain_of_tasks_does_not_crash(run_child):
    child = run_child(CHAIN.format(length=20_000))
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "20001"
