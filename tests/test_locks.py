"""Locks, events and semaphores: who goes on, in which order, and what a cancel leaves behind.

Run by pytest on asyncio first and then on aioxide. Condition and Barrier are in
test_conditions.py; random interleavings against a model in test_coordination_models.py.
"""

import asyncio
import collections
import contextlib
import gc
import inspect
import math
import re
import weakref

import pytest
from loopback import on_loop

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)
LOCKS = ["Lock", "Semaphore", "BoundedSemaphore"]


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def ended(*tasks):
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(params=LOCKS)
def lock(request, namespace):
    """One of each kind: all of them let one task in at a time."""
    return getattr(namespace, request.param)()


# What holds for locks and semaphores alike.


@on_loop
async def test_acquire_gives_true_and_async_with_gives_none(loop, lock):
    assert await lock.acquire() is True
    assert lock.locked()
    assert lock.release() is None
    async with lock as entered:
        assert entered is None
        assert lock.locked()
    assert not lock.locked()


@on_loop
async def test_what_is_free_is_taken_without_a_turn_of_the_loop(loop, lock):
    ran = []
    loop.call_soon(ran.append, "a turn")
    await lock.acquire()
    lock.release()
    async with lock:
        pass
    assert ran == []
    await asyncio.sleep(0)


@on_loop
async def test_acquire_does_nothing_before_it_is_awaited(loop, lock):
    waiting = lock.acquire()
    assert not lock.locked()
    assert await waiting is True
    assert lock.locked()


@on_loop
async def test_tasks_get_the_lock_in_the_order_they_came(loop, lock):
    order = []

    async def visit(name):
        async with lock:
            order.append(name)
            await turns()
            order.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(visit(name))
    assert order == list("aabbccdd")


@on_loop
async def test_who_comes_after_a_release_waits_behind_those_who_wait(loop, lock):
    order = []

    async def visit(name):
        async with lock:
            order.append(name)

    await lock.acquire()
    first = asyncio.create_task(visit("first"))
    await turns()
    lock.release()
    # The lock looks free, but it belongs to the one that was woken.
    await visit("second")
    await first
    assert order == ["first", "second"]


@on_loop
async def test_an_exception_inside_async_with_releases(loop, lock):
    with pytest.raises(LookupError):
        async with lock:
            raise LookupError
    assert not lock.locked()


@on_loop
async def test_a_cancelled_waiter_leaves_the_line(loop, lock):
    await lock.acquire()
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(3)]
    await turns()
    assert len(lock._waiters) == 3
    tasks[1].cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await tasks[1]
    assert len(lock._waiters) == 2
    lock.release()
    assert await tasks[0] is True
    assert not tasks[2].done()
    lock.release()
    assert await tasks[2] is True
    assert lock.locked()
    assert not lock._waiters


@on_loop
async def test_a_waiter_cancelled_when_it_is_woken_passes_the_turn_on(loop, lock):
    await lock.acquire()
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(3)]
    await turns()
    lock.release()  # Wakes the first,
    tasks[0].cancel()  # which does not run before it is cancelled.
    await turns()
    assert [task.done() for task in tasks] == [True, True, False]
    assert tasks[0].cancelled()
    lock.release()
    assert await tasks[2] is True
    lock.release()
    assert not lock.locked()


@on_loop
async def test_all_waiters_cancelled_leave_it_free(loop, lock):
    await lock.acquire()
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(5)]
    await turns()
    for task in tasks:
        task.cancel()
    lock.release()
    # Those who were cancelled still stand in line and bar nobody.
    assert await lock.acquire() is True
    lock.release()
    assert all(isinstance(error, asyncio.CancelledError) for error in await ended(*tasks))
    assert not lock.locked()


@on_loop
async def test_a_timeout_while_waiting_loses_nothing(loop, lock):
    await lock.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lock.acquire(), 0.001)
    lock.release()
    await asyncio.wait_for(lock.acquire(), 10)
    lock.release()
    assert not lock.locked()


@on_loop
async def test_every_way_to_start_a_wait(loop, lock):
    await lock.acquire()
    loop.call_soon(lock.release)
    assert await asyncio.create_task(lock.acquire()) is True
    loop.call_soon(lock.release)
    assert await asyncio.gather(lock.acquire()) == [True]
    loop.call_soon(lock.release)
    assert await asyncio.ensure_future(lock.acquire()) is True
    loop.call_soon(lock.release)
    assert await asyncio.shield(lock.acquire()) is True
    loop.call_soon(lock.release)
    async with asyncio.timeout(10):
        assert await lock.acquire() is True
    lock.release()


@on_loop
async def test_the_wait_is_a_coroutine(loop, lock):
    waiting = lock.acquire()
    assert asyncio.iscoroutine(waiting)
    assert inspect.isawaitable(waiting)
    assert isinstance(waiting, collections.abc.Coroutine)
    assert waiting.__name__ == "acquire"
    assert await waiting
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await waiting


@on_loop
async def test_closing_a_wait_takes_it_out_of_the_line(loop, lock):
    await lock.acquire()
    waiting = lock.acquire()
    waiting.send(None)
    assert len(lock._waiters) == 1
    waiting.close()
    assert not lock._waiters
    lock.release()
    assert not lock.locked()


def test_a_wait_that_nobody_awaited_warns(loop, lock):
    waiting = lock.acquire()
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        del waiting
        gc.collect()


@pytest.mark.parametrize("name", LOCKS)
@on_loop
async def test_a_subclass_with_an_acquire_of_its_own_is_asked_by_async_with(loop, namespace, name):
    calls = []

    class Traced(getattr(namespace, name)):
        def __init__(self, label):
            super().__init__()
            self.label = label

        async def acquire(self):
            calls.append("acquire")
            return await super().acquire()

        def release(self):
            calls.append("release")
            super().release()

    lock = Traced("mine")
    async with lock as entered:
        assert lock.locked()
        assert entered is None
    assert calls == ["acquire", "release"]
    assert lock.label == "mine"
    assert not lock.locked()


@on_loop
async def test_methods_replaced_on_one_lock_are_used_by_async_with(loop, lock):
    calls = []
    lock.acquire = lambda original=lock.acquire: calls.append("acquire") or original()
    lock.release = lambda original=lock.release: calls.append("release") or original()
    async with lock:
        pass
    assert calls == ["acquire", "release"]


def test_a_lock_serves_one_loop_after_another_while_nobody_waits(namespace, new_loop, lock):
    async def use():
        async with lock:
            pass

    for _ in range(2):
        loop = new_loop()
        loop.run_until_complete(use())
        loop.close()


def wait_in_two_loops(new_loop, begin, wait):
    """The error of `wait`, begun in one loop and once more in another."""

    async def twice():
        begin()
        waiting = asyncio.ensure_future(wait())
        await turns()
        waiting.cancel()
        await ended(waiting)

    loops = [new_loop(), new_loop()]
    loops[0].run_until_complete(twice())
    with pytest.raises(RuntimeError, match="is bound to a different event loop") as caught:
        loops[1].run_until_complete(wait())
    for loop in loops:
        loop.close()
    return str(caught.value)


def test_waiting_in_another_loop_is_refused(namespace, new_loop, lock):
    def begin():
        with contextlib.suppress(StopIteration):
            lock.acquire().send(None)

    wait_in_two_loops(new_loop, begin, lock.acquire)


@aioxide_only
def test_the_refusal_names_both_loops_and_the_line_that_made_it(namespace, new_loop):
    lock = namespace.Lock()
    line = inspect.currentframe().f_lineno - 1

    def begin():
        with contextlib.suppress(StopIteration):
            lock.acquire().send(None)

    message = wait_in_two_loops(new_loop, begin, lock.acquire)
    assert len(re.findall(r"<EventLoop [^>]*>", message)) == 2
    assert message.endswith(
        f"it was made at {__file__}:{line}, in {inspect.currentframe().f_code.co_qualname}"
    )


def test_attributes_weak_references_and_isinstance(namespace, lock):
    lock.colour = "red"
    assert lock.colour == "red"
    assert weakref.ref(lock)() is lock
    assert isinstance(lock, getattr(asyncio, type(lock).__name__))
    with pytest.raises(TypeError):
        type(lock)(loop=None)


@on_loop
async def test_a_lock_and_its_waiters_are_collected(loop, namespace):
    lock = namespace.Lock()
    await lock.acquire()
    waiting = lock.acquire()
    waiting.send(None)
    lock.cycle = waiting
    gone = weakref.ref(lock)
    del lock, waiting
    gc.collect()
    assert gone() is None


# Lock alone.


@on_loop
async def test_lock_release_without_acquire(loop, namespace):
    lock = namespace.Lock()
    with pytest.raises(RuntimeError, match=r"^Lock is not acquired\.$"):
        lock.release()
    await lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError, match=r"^Lock is not acquired\.$"):
        lock.release()


@on_loop
async def test_another_task_may_release(loop, namespace):
    lock = namespace.Lock()
    await lock.acquire()

    async def release():
        lock.release()

    await asyncio.create_task(release())
    assert not lock.locked()


@on_loop
async def test_lock_representation(loop, namespace):
    lock = namespace.Lock()
    assert re.fullmatch(r"<[\w.]+ object at 0x[0-9a-f]+ \[unlocked\]>", repr(lock))
    await lock.acquire()
    assert "[locked]" in repr(lock)
    task = asyncio.create_task(lock.acquire())
    await turns()
    assert "[locked, waiters:1]" in repr(lock)
    lock.release()
    await task


@on_loop
async def test_what_others_append_to_the_line_is_woken(loop, namespace):
    lock = namespace.Lock()
    await lock.acquire()
    task = asyncio.create_task(lock.acquire())
    await turns()
    foreign = loop.create_future()
    lock._waiters.appendleft(foreign)
    lock.release()
    assert foreign.done()
    lock._waiters.remove(foreign)
    lock._wake_up_first()
    assert await task is True
    lock.release()


# Event.


@on_loop
async def test_event_wakes_all_who_wait_in_order(loop, namespace):
    event, order = namespace.Event(), []

    async def wait(number):
        assert await event.wait() is True
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(5)]
    await turns()
    assert len(event._waiters) == 5
    event.set()
    event.set()
    assert order == []
    await asyncio.gather(*tasks)
    assert order == list(range(5))
    assert event.is_set()
    assert not event._waiters


@on_loop
async def test_a_set_event_is_not_waited_for(loop, namespace):
    event, ran = namespace.Event(), []
    event.set()
    loop.call_soon(ran.append, "a turn")
    assert await event.wait() is True
    assert ran == []
    await asyncio.sleep(0)


@on_loop
async def test_who_was_woken_goes_on_although_the_event_is_cleared(loop, namespace):
    event = namespace.Event()
    woken = asyncio.create_task(event.wait())
    await turns()
    event.set()
    event.clear()
    late = asyncio.create_task(event.wait())
    assert await woken is True
    await turns()
    assert not late.done()
    event.set()
    assert await late is True


@on_loop
async def test_a_cancelled_wait_for_an_event_leaves_the_line(loop, namespace):
    event = namespace.Event()
    tasks = [asyncio.create_task(event.wait()) for _ in range(3)]
    await turns()
    tasks[0].cancel()
    await ended(tasks[0])
    assert len(event._waiters) == 2
    event.set()
    tasks[1].cancel()
    results = await ended(*tasks)
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] is True
    assert not event._waiters


@on_loop
async def test_event_representation_and_attributes(loop, namespace):
    event = namespace.Event()
    assert repr(event).endswith("[unset]>")
    assert event._value is False
    task = asyncio.create_task(event.wait())
    await turns()
    assert repr(event).endswith("[unset, waiters:1]>")
    event.set()
    await task
    assert repr(event).endswith("[set]>")
    assert event._value is True
    assert event.clear() is None
    assert not event.is_set()
    assert isinstance(event, asyncio.Event)


def test_waiting_for_an_event_in_another_loop_is_refused(namespace, new_loop):
    event = namespace.Event()
    wait_in_two_loops(new_loop, lambda: None, event.wait)


# Semaphore and BoundedSemaphore.


@on_loop
async def test_semaphore_lets_so_many_in(loop, namespace):
    semaphore, inside, most = namespace.Semaphore(3), 0, 0

    async def visit():
        nonlocal inside, most
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await turns()
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(visit())
    assert most == 3
    assert semaphore._value == 3
    assert not semaphore._waiters


@on_loop
async def test_semaphore_counts_up_without_bound(loop, namespace):
    semaphore = namespace.Semaphore(0)
    assert semaphore.locked()
    for _ in range(3):
        semaphore.release()
    assert semaphore._value == 3
    assert repr(semaphore).endswith("[unlocked, value:3]>")
    for _ in range(3):
        assert await semaphore.acquire() is True
    assert repr(semaphore).endswith("[locked]>")


@on_loop
async def test_a_woken_waiter_holds_its_permit_already(loop, namespace):
    semaphore = namespace.Semaphore(0)
    tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
    await turns()
    semaphore.release()
    assert semaphore._value == 0
    semaphore.release()
    assert semaphore._value == 0
    assert await ended(*tasks) == [True, True]
    semaphore.release()
    assert semaphore._value == 1


@on_loop
async def test_all_woken_waiters_cancelled_give_their_permits_back(loop, namespace, behaves_as):
    semaphore = namespace.Semaphore(0)
    tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(4)]
    await turns()
    for _ in range(3):
        semaphore.release()
    for task in tasks[:3]:
        task.cancel()
    results = await ended(*tasks)
    assert results[3] is True
    assert semaphore._value == 2
    assert not semaphore._waiters


@on_loop
async def test_bounded_semaphore_refuses_one_release_too_many(loop, namespace):
    semaphore = namespace.BoundedSemaphore(2)
    assert semaphore._bound_value == 2
    with pytest.raises(ValueError, match="BoundedSemaphore released too many times"):
        semaphore.release()
    await semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="BoundedSemaphore released too many times"):
        semaphore.release()
    assert isinstance(semaphore, namespace.Semaphore)
    assert isinstance(semaphore, asyncio.BoundedSemaphore)


@pytest.mark.parametrize("name", ["Semaphore", "BoundedSemaphore"])
def test_negative_permits_are_refused(namespace, name):
    with pytest.raises(ValueError, match="Semaphore initial value must be >= 0"):
        getattr(namespace, name)(-1)
    with pytest.raises(TypeError):
        getattr(namespace, name)("many")


@on_loop
async def test_a_semaphore_without_limit(loop, namespace):
    semaphore = namespace.Semaphore(math.inf)
    for _ in range(100):
        await semaphore.acquire()
    assert not semaphore.locked()
    semaphore.release()
    assert semaphore._value == math.inf


@on_loop
async def test_permits_that_others_set(loop, namespace):
    semaphore = namespace.Semaphore(1)
    semaphore._value += 2
    for _ in range(3):
        await semaphore.acquire()
    assert semaphore.locked()
    semaphore._value = 1
    assert not semaphore.locked()


@aioxide_only
@pytest.mark.parametrize("value", [1.5, math.nan, -math.inf])
def test_permits_that_cannot_be_counted_are_refused(namespace, value):
    with pytest.raises(ValueError, match="whole permits"):
        namespace.Semaphore(value)
