"""What a Task may await, and what happens when its coroutine yields anything else.

Run by pytest on asyncio first and then on aioxide: every kind of task with every kind of future.
The rest of Task is in test_tasks.py.
"""

import asyncio
import concurrent.futures
import re
import threading
import types

import pytest
from coroutines import answer, turn, wait_for_ever


@types.coroutine
def hand(value):
    """Yields a value straight to whoever steps the task."""
    return (yield value)


# What a coroutine may yield to its task.


@pytest.mark.parametrize("value", [1, "text", object(), [], asyncio])
def test_yielding_nonsense_raises_in_the_coroutine(loop, value):
    async def main():
        message = re.escape(f"Task got bad yield: {value!r}")
        with pytest.raises(RuntimeError, match=f"^{message}$"):
            await hand(value)
        return "went on"

    assert loop.run_until_complete(main()) == "went on"


def test_yielding_a_future_without_await_raises_in_the_coroutine(loop):
    async def main():
        future = loop.create_future()
        message = r"^yield was used instead of yield from in task <Task .* with <Future pending>$"
        with pytest.raises(RuntimeError, match=message):
            await hand(future)

    loop.run_until_complete(main())


def test_yielding_a_generator_raises_in_the_coroutine(loop):
    def generator():
        yield

    async def main():
        message = r"^yield was used instead of yield from for generator in task <Task .* with <gen"
        with pytest.raises(RuntimeError, match=message):
            await hand(generator())

    loop.run_until_complete(main())


def test_task_cannot_await_itself(loop):
    async def main():
        with pytest.raises(RuntimeError, match=r"^Task cannot await on itself: <Task pending"):
            await asyncio.current_task()
        return "went on"

    assert loop.run_until_complete(main()) == "went on"


@pytest.mark.parametrize("kind", ["future", "task", "C future"])
def test_task_cannot_await_a_future_of_another_loop(loop, new_loop, kind):
    other = new_loop()
    awaited = {
        "future": other.create_future,
        "task": lambda: other.create_task(answer()),
        "C future": lambda: asyncio.Future(loop=other),
    }[kind]()

    async def main():
        message = r"^Task <Task pending .*> got Future <.*> attached to a different loop$"
        with pytest.raises(RuntimeError, match=message):
            await awaited

    loop.run_until_complete(main())
    if kind == "task":
        other.run_until_complete(awaited)
    other.close()


def test_yielding_none_steps_again_in_the_next_turn(loop):
    order = []

    async def main():
        loop.call_soon(order.append, "callback")
        assert await hand(None) is None
        order.append("task")

    loop.run_until_complete(main())
    assert order == ["callback", "task"]


# What a task may await: every kind of future in every kind of task.

FUTURES = {
    "ours": lambda loop, namespace: namespace.Future(loop=loop),
    "C": lambda loop, namespace: asyncio.Future(loop=loop),
    "Python": lambda loop, namespace: asyncio.futures._PyFuture(loop=loop),
}
TASKS = {
    "ours": lambda namespace: namespace.Task,
    "C": lambda namespace: asyncio.Task,
    "Python": lambda namespace: asyncio.tasks._PyTask,
}
every_future = pytest.mark.parametrize("make_future", FUTURES.values(), ids=FUTURES)
every_task = pytest.mark.parametrize("task_class", TASKS.values(), ids=TASKS)


@every_task
@every_future
@pytest.mark.parametrize("how", ["result", "exception", "cancelled"])
def test_every_task_awaits_every_future(loop, namespace, task_class, make_future, how):
    future = make_future(loop, namespace)

    async def main():
        return await future

    task = task_class(namespace)(main(), loop=loop)
    turn(loop)
    assert not task.done()
    if how == "result":
        future.set_result("value")
        assert loop.run_until_complete(task) == "value"
    elif how == "exception":
        future.set_exception(ValueError("failed"))
        with pytest.raises(ValueError, match="failed"):
            loop.run_until_complete(task)
    else:
        future.cancel("stopped")
        with pytest.raises(asyncio.CancelledError, match="stopped"):
            loop.run_until_complete(task)
        assert task.cancelled()


@every_task
@every_future
def test_every_task_cancels_every_future(loop, namespace, task_class, make_future):
    future = make_future(loop, namespace)

    async def main():
        await future

    task = task_class(namespace)(main(), loop=loop)
    turn(loop)
    assert task.cancel("why")
    assert future.cancelled()
    with pytest.raises(asyncio.CancelledError, match="why"):
        loop.run_until_complete(task)


@every_task
@pytest.mark.parametrize("inner_class", TASKS.values(), ids=TASKS)
def test_every_task_awaits_and_cancels_every_task(loop, namespace, task_class, inner_class):
    async def outer(inner):
        return await inner

    inner = inner_class(namespace)(answer(), loop=loop)
    assert loop.run_until_complete(task_class(namespace)(outer(inner), loop=loop)) == 42
    inner = inner_class(namespace)(wait_for_ever(), loop=loop)
    task = task_class(namespace)(outer(inner), loop=loop)
    turn(loop)
    task.cancel("through")
    with pytest.raises(asyncio.CancelledError, match="through"):
        loop.run_until_complete(task)
    assert inner.cancelled()


def test_task_awaits_strangers_that_behave_like_futures(loop):
    class Stranger:
        """Not a Future of anybody, but it keeps the protocol."""

        _asyncio_future_blocking = False
        _loop = loop
        callback = None

        def get_loop(self):
            return loop

        def add_done_callback(self, callback, *, context=None):
            self.callback = callback

        def result(self):
            return "strange"

        def __await__(self):
            self._asyncio_future_blocking = True
            yield self
            return self.result()

    stranger = Stranger()

    async def main():
        return await stranger

    task = loop.create_task(main())
    turn(loop)
    assert stranger._asyncio_future_blocking is False
    stranger.callback(stranger)
    assert loop.run_until_complete(task) == "strange"


@pytest.mark.parametrize("kind", ["object", "generator coroutine", "asynchronous generator"])
def test_task_awaits_foreign_awaitables(loop, kind):
    class Awaitable:
        def __await__(self):
            yield from loop.create_task(asyncio.sleep(0)).__await__()
            yield
            return "awaited"

    @types.coroutine
    def generator():
        yield
        return "awaited"

    async def asynchronous():
        await asyncio.sleep(0)
        yield "awaited"

    async def main():
        if kind == "object":
            return await Awaitable()
        if kind == "generator coroutine":
            return await generator()
        async for value in asynchronous():
            return value

    assert loop.run_until_complete(main()) == "awaited"


def test_task_awaits_threads_and_concurrent_futures(loop):
    source = concurrent.futures.Future()

    async def main():
        thread = threading.Thread(target=source.set_result, args=("from a thread",))
        loop.call_soon(thread.start)
        first = await asyncio.wrap_future(source)
        thread.join()
        return first, await asyncio.to_thread(sum, [1, 2])

    assert loop.run_until_complete(main()) == ("from a thread", 3)
    loop.run_until_complete(loop.shutdown_default_executor())


def test_other_threads_may_submit_coroutines(loop):
    outcomes = []

    async def fail():
        raise ValueError("failed")

    def submit():
        outcomes.append(asyncio.run_coroutine_threadsafe(answer(), loop).result(20))
        outcomes.append(repr(asyncio.run_coroutine_threadsafe(fail(), loop).exception(20)))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=submit)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert outcomes == [42, "ValueError('failed')"]


def test_task_awaits_what_is_already_done_without_a_turn(loop):
    async def main():
        future, task = loop.create_future(), loop.create_task(answer())
        future.set_result("ready")
        await asyncio.sleep(0)
        turned = []
        loop.call_soon(turned.append, 1)
        assert (await future, await task) == ("ready", 42)
        assert turned == []

    loop.run_until_complete(main())


# Tasks together.


def test_gather_keeps_the_order_and_returns_exceptions_when_asked(namespace, loop):
    async def fail():
        raise ValueError("failed")

    async def main():
        results = await namespace.gather(asyncio.sleep(0.002, 1), answer(), asyncio.sleep(0, 3))
        mixed = await namespace.gather(answer(), fail(), return_exceptions=True)
        with pytest.raises(ValueError, match="failed"):
            await namespace.gather(asyncio.sleep(0), fail())
        return results, repr(mixed)

    assert loop.run_until_complete(main()) == ([1, 42, 3], "[42, ValueError('failed')]")


def test_wait_returns_done_and_pending(namespace, loop, survivors):
    async def main():
        quick, slow = loop.create_task(answer()), loop.create_task(wait_for_ever())
        survivors.append(slow)
        first = await namespace.wait([quick, slow], return_when=asyncio.FIRST_COMPLETED)
        timed = await namespace.wait([slow], timeout=0.001)
        return first == ({quick}, {slow}) and timed == (set(), {slow})

    assert loop.run_until_complete(main())


def test_as_completed_yields_in_the_order_of_completion(namespace, loop):
    async def later(value):
        for _ in range(value):
            await asyncio.sleep(0)
        return value

    async def main():
        waits = [later(5), later(1), later(3)]
        return [await earliest for earliest in namespace.as_completed(waits)]

    assert loop.run_until_complete(main()) == [1, 3, 5]


def test_task_group_waits_for_all_and_cancels_the_rest_after_a_failure(namespace, loop):
    tasks = []

    async def fail():
        await asyncio.sleep(0)
        raise ValueError("failed")

    async def main():
        async with namespace.TaskGroup() as group:
            tasks.extend(group.create_task(answer(value)) for value in range(3))
        results = [task.result() for task in tasks]
        with pytest.raises(ExceptionGroup) as caught:
            async with namespace.TaskGroup() as group:
                tasks.append(group.create_task(wait_for_ever()))
                group.create_task(fail())
        assert [str(error) for error in caught.value.exceptions] == ["failed"]
        return results

    assert loop.run_until_complete(main()) == [0, 1, 2]
    assert tasks[-1].cancelled()
    assert type(tasks[-1]) is namespace.Task
