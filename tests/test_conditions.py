"""Conditions and barriers: who is notified, and that the lock is held whenever a wait ends.

Run by pytest on asyncio first and then on aioxide, which has the newest CPython's behaviour on
every Python. The native locks under them are in test_locks.py.
"""

import asyncio
import inspect

import pytest
from loopback import on_loop
from test_locks import ended, turns

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


@on_loop
async def test_notify_wakes_so_many_in_order(loop, namespace):
    condition, woken = namespace.Condition(), []

    async def wait(number):
        async with condition:
            assert await condition.wait() is True
            assert condition.locked()
            woken.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(4)]
    await turns()
    async with condition:
        condition.notify()
    await turns(6)
    assert woken == [0]
    async with condition:
        condition.notify(2)
    await turns(6)
    assert woken == [0, 1, 2]
    async with condition:
        condition.notify_all()
    await asyncio.gather(*tasks)
    assert woken == [0, 1, 2, 3]
    assert not condition._waiters
    assert not condition.locked()


@on_loop
async def test_wait_for_looks_again_until_it_holds(loop, namespace):
    condition, state = namespace.Condition(), 0

    async def wait():
        async with condition:
            return await condition.wait_for(lambda: state >= 3 and "three")

    task = asyncio.create_task(wait())
    for state in (1, 2, 3):  # noqa: B007, the lambda reads it
        assert not task.done()
        await turns()
        async with condition:
            condition.notify_all()
        await turns(6)
    assert await task == "three"


@on_loop
async def test_without_the_lock_there_is_nothing_to_wait_for(loop, namespace):
    condition = namespace.Condition()
    with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
        await condition.wait()
    with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
        condition.notify()
    with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
        condition.notify_all()


@on_loop
async def test_a_cancelled_wait_ends_with_the_lock_held(loop, namespace):
    condition, held = namespace.Condition(), []

    async def wait():
        async with condition:
            try:
                await condition.wait()
            finally:
                held.append(condition.locked())

    task = asyncio.create_task(wait())
    await turns()
    await condition.acquire()
    task.cancel("first")
    await turns()
    task.cancel("second")  # While it waits for the lock.
    await turns()
    assert not task.done()
    condition.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held == [True]
    assert not condition.locked()
    assert not condition._waiters


@on_loop
async def test_a_notification_is_not_lost_with_a_cancelled_task(loop, namespace, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("fixed in CPython 3.13")
    condition = namespace.Condition()

    async def wait():
        async with condition:
            await condition.wait()

    first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
    await turns()
    async with condition:
        condition.notify()
        first.cancel()
    assert isinstance((await ended(first))[0], asyncio.CancelledError)
    await asyncio.wait_for(second, 10)


@on_loop
async def test_the_same_cancellation_comes_out_of_wait(loop, namespace, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("fixed in CPython 3.13")
    condition = namespace.Condition()

    async def wait():
        async with condition:
            await condition.wait()

    task = asyncio.create_task(wait())
    await turns()
    task.cancel("the reason")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("the reason",)


@on_loop
async def test_two_conditions_share_a_lock(loop, namespace):
    lock = namespace.Lock()
    full, empty = namespace.Condition(lock), namespace.Condition(lock)
    assert full._lock is lock
    slots = []

    async def produce():
        for number in range(20):
            async with empty:
                await empty.wait_for(lambda: not slots)
                slots.append(number)
                full.notify()

    async def consume():
        got = []
        while len(got) < 20:
            async with full:
                await full.wait_for(lambda: slots)
                got.append(slots.pop())
                empty.notify()
        return got

    _, got = await asyncio.gather(produce(), consume())
    assert got == list(range(20))
    assert not lock.locked()


@on_loop
async def test_condition_representation_and_isinstance(loop, namespace):
    condition = namespace.Condition()
    assert repr(condition).endswith("[unlocked]>")
    await condition.acquire()
    assert repr(condition).endswith("[locked]>")
    condition._waiters.append(loop.create_future())
    assert repr(condition).endswith("[locked, waiters:1]>")
    assert isinstance(condition, asyncio.Condition)


def contend(new_loop, begin, enter):
    """The error of `enter` in a loop, after `begin` waited in another."""
    loops = [new_loop(), new_loop()]
    task = loops[0].create_task(begin())
    loops[0].run_until_complete(turns())
    with pytest.raises(RuntimeError, match="is bound to a different event loop") as caught:
        loops[1].run_until_complete(enter())
    task.cancel()
    loops[0].run_until_complete(ended(task))
    for loop in loops:
        loop.close()
    return str(caught.value)


def test_a_condition_of_another_loop_is_refused(namespace, new_loop):
    condition = namespace.Condition()
    line = inspect.currentframe().f_lineno - 1

    async def wait():
        async with condition:
            await condition.wait()

    message = contend(new_loop, wait, wait)
    if namespace is not asyncio:
        assert f"it was made at {__file__}:{line}, in " in message


@aioxide_only
def test_the_lock_of_a_condition_names_the_line_that_made_the_condition(namespace, new_loop):
    condition = namespace.Condition()
    line = inspect.currentframe().f_lineno - 1

    async def hold():
        async with condition, condition:
            pass

    message = contend(new_loop, hold, condition.acquire)
    assert f"it was made at {__file__}:{line}, in " in message


# Barrier.


@on_loop
async def test_a_barrier_lets_all_go_at_once(loop, namespace):
    barrier = namespace.Barrier(3)
    assert barrier.parties == 3
    tasks = [asyncio.create_task(barrier.wait()) for _ in range(2)]
    await turns()
    assert barrier.n_waiting == 2
    assert not any(task.done() for task in tasks)
    async with barrier as position:
        assert position == 2
    assert sorted(await asyncio.gather(*tasks)) == [0, 1]
    assert barrier.n_waiting == 0
    assert not barrier.broken
    assert isinstance(barrier, asyncio.Barrier)


@on_loop
async def test_a_barrier_is_used_again(loop, namespace):
    barrier, rounds = namespace.Barrier(4), []

    async def visit():
        for number in range(5):
            await barrier.wait()
            rounds.append(number)
            await barrier.wait()

    await asyncio.gather(*(visit() for _ in range(4)))
    assert rounds == sorted(rounds)


@on_loop
async def test_abort_and_reset_end_the_waits(loop, namespace):
    barrier = namespace.Barrier(2)
    task = asyncio.create_task(barrier.wait())
    await turns()
    await barrier.reset()
    assert isinstance((await ended(task))[0], asyncio.BrokenBarrierError)
    assert not barrier.broken
    task = asyncio.create_task(barrier.wait())
    await turns()
    await barrier.abort()
    assert isinstance((await ended(task))[0], asyncio.BrokenBarrierError)
    assert barrier.broken
    with pytest.raises(asyncio.BrokenBarrierError):
        await barrier.wait()


@on_loop
async def test_a_cancelled_wait_at_a_barrier_counts_no_more(loop, namespace):
    barrier = namespace.Barrier(2)
    task = asyncio.create_task(barrier.wait())
    await turns()
    task.cancel()
    await ended(task)
    assert barrier.n_waiting == 0
    assert sorted(await asyncio.gather(barrier.wait(), barrier.wait())) == [0, 1]


def test_a_barrier_needs_parties(namespace):
    with pytest.raises(ValueError, match="parties must be > 0"):
        namespace.Barrier(0)
