"""Awaiting a Future: in a coroutine, by hand, in a subclass, and on loops that are not ours.

Run by pytest on asyncio first and then on aioxide. The rest of Future is in test_futures.py.
"""

import asyncio
import concurrent.futures
import contextvars
import threading

import pytest

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


@pytest.fixture
def future(loop, namespace):
    return namespace.Future(loop=loop)


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


# Awaiting.


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("how", ["result", "exception", "cancelled"])
def test_await_gives_what_the_future_gives(future, loop, how, before):
    async def main():
        return await future

    if before:
        finish(future, how)
    else:
        loop.call_soon(finish, future, how)
    if how == "result":
        assert loop.run_until_complete(main()) == "value"
        return
    with pytest.raises(ValueError if how == "exception" else asyncio.CancelledError) as caught:
        loop.run_until_complete(main())
    assert caught.value.args == (("failed",) if how == "exception" else ("stopped",))


def test_many_tasks_may_await_one_future_and_wake_in_order(future, loop):
    woken = []

    async def wait(number):
        woken.append((number, await future))

    async def main():
        tasks = [loop.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        future.set_result("value")
        await asyncio.gather(*tasks)

    loop.run_until_complete(main())
    assert woken == [(number, "value") for number in range(5)]


@pytest.mark.parametrize("method", ["__await__", "__iter__"])
def test_iterator_yields_the_future_and_then_its_result(future, method):
    iterator = getattr(future, method)()
    assert iter(iterator) is iterator
    assert future._asyncio_future_blocking is False
    assert next(iterator) is future
    assert future._asyncio_future_blocking is True
    future.set_result("value")
    with pytest.raises(StopIteration) as caught:
        iterator.send(None)
    assert caught.value.value == "value"
    for _ in range(2):
        with pytest.raises(StopIteration) as caught:
            next(iterator)
        assert caught.value.value is None


@pytest.mark.parametrize("value", [(1, 2), StopIteration("inner"), ValueError(), None])
def test_iterator_wraps_results_that_stop_iteration_would_unpack(future, value):
    future.set_result(value)
    with pytest.raises(StopIteration) as caught:
        next(future.__await__())
    assert caught.value.value is value


def test_iterator_ignores_what_it_is_sent(future):
    iterator = future.__await__()
    assert iterator.send("anything") is future
    future.set_result("value")
    with pytest.raises(StopIteration, match="value"):
        iterator.send("anything else")


def test_iterator_resumed_too_early_says_that_await_was_not_used(future):
    iterator = future.__await__()
    next(iterator)
    with pytest.raises(RuntimeError, match=r"^await wasn't used with future$"):
        next(iterator)


def test_iterator_raises_the_exception_and_ends(future):
    error = ValueError("failed")
    iterator = future.__await__()
    next(iterator)
    future.set_exception(error)
    with pytest.raises(ValueError, match="failed") as caught:
        next(iterator)
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("started", [False, True])
def test_iterator_raises_what_is_thrown_into_it_and_ends(future, started):
    error = LookupError("thrown")
    iterator = future.__await__()
    if started:
        next(iterator)
    with pytest.raises(LookupError) as caught:
        iterator.throw(error)
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(iterator)
    assert not future.done()


@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature:DeprecationWarning")
def test_iterator_takes_exception_classes_and_the_three_old_arguments(future):
    with pytest.raises(LookupError):
        future.__await__().throw(LookupError)
    try:
        raise LookupError("source")
    except LookupError as error:
        source = error.__traceback__
    with pytest.raises(LookupError, match="text") as caught:
        future.__await__().throw(LookupError, "text", source)
    traceback = caught.value.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback.tb_lineno == source.tb_lineno


@pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature:DeprecationWarning")
@pytest.mark.parametrize(
    "arguments",
    [(), (1,), (int,), ("text",), (LookupError("instance"), "value"), (LookupError, None, 5)],
)
def test_iterator_refuses_to_throw_nonsense(future, arguments):
    with pytest.raises(TypeError):
        future.__await__().throw(*arguments)


@pytest.mark.parametrize("started", [False, True])
def test_iterator_can_be_closed(future, started):
    iterator = future.__await__()
    if started:
        next(iterator)
    assert iterator.close() is None
    assert iterator.close() is None
    with pytest.raises(StopIteration):
        next(iterator)
    assert not future.done()


def test_blocking_flag_can_be_set_and_not_removed(future):
    for value in (True, False):
        future._asyncio_future_blocking = value
        assert future._asyncio_future_blocking is value
    with pytest.raises((AttributeError, TypeError)):
        del future._asyncio_future_blocking


def test_concurrent_future_is_wrapped_and_chained_both_ways(loop, namespace):
    source = concurrent.futures.Future()
    wrapped = asyncio.wrap_future(source, loop=loop)
    assert type(wrapped) is namespace.Future
    threading.Thread(target=source.set_result, args=("value",)).start()
    assert loop.run_until_complete(wrapped) == "value"
    other = concurrent.futures.Future()
    asyncio.wrap_future(other, loop=loop).cancel()
    turn(loop)
    assert other.cancelled()


# Subclasses and strangers.


def test_subclass_may_extend_construction_and_methods(loop, namespace):
    class Named(namespace.Future):
        def __init__(self, name, *, loop):
            super().__init__(loop=loop)
            self.name = name

        def set_result(self, value):
            super().set_result((self.name, value))

    future = Named("label", loop=loop)
    assert asyncio.isfuture(future)
    assert isinstance(future, asyncio.Future)
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(future) == ("label", 1)
    assert repr(future) == "<Named finished result=('label', 1)>"


def test_overridden_methods_are_used_by_a_task_that_waits(loop, namespace):
    called = []

    class Recording(namespace.Future):
        def add_done_callback(self, callback, *, context=None):
            called.append("add_done_callback")
            super().add_done_callback(callback, context=context)

        def cancel(self, msg=None):
            called.append(f"cancel({msg!r})")
            return super().cancel(msg)

        def get_loop(self):
            called.append("get_loop")
            return super().get_loop()

    future = Recording(loop=loop)

    async def main():
        await future

    task = loop.create_task(main())
    turn(loop)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert set(called) == {"add_done_callback", "cancel('enough')", "get_loop"}


def test_isfuture_asks_the_class_for_the_blocking_flag(namespace):
    class Stranger:
        _asyncio_future_blocking = False

    assert asyncio.isfuture(Stranger())
    assert not asyncio.isfuture(namespace.Future)
    assert not asyncio.isfuture(object())


@aioxide_only
def test_future_works_on_any_other_loop(namespace):
    other = asyncio.SelectorEventLoop()
    future = namespace.Future(loop=other)
    seen = []
    future.add_done_callback(seen.append)
    other.call_soon(future.set_result, "value")
    assert other.run_until_complete(future) == "value"
    assert seen == [future]
    assert future.get_loop() is other
    other.close()


def test_future_works_on_a_loop_of_bare_necessities(namespace):
    class Bare:
        def __init__(self):
            self.scheduled = []

        def get_debug(self):
            return False

        def call_soon(self, callback, *arguments, context=None):
            self.scheduled.append((callback, arguments, type(context)))

    bare = Bare()
    future = namespace.Future(loop=bare)
    future.add_done_callback(print)
    future.set_result(1)
    future.add_done_callback(len)
    assert bare.scheduled == [
        (print, (future,), contextvars.Context),
        (len, (future,), contextvars.Context),
    ]
