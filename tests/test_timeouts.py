"""timeout, timeout_at and Timeout: when the body is cancelled, and what that becomes.

Run by pytest on asyncio first and then on aioxide. wait_for is in test_waiting.py.
"""

import asyncio
import contextlib

import pytest
from coroutines import answer, wait_for_ever
from loopback import on_loop

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


@on_loop
async def test_the_body_is_cancelled_when_its_time_is_over(loop, namespace):
    with pytest.raises(TimeoutError) as caught:
        async with namespace.timeout(0.001) as timeout:
            assert isinstance(timeout, namespace.Timeout)
            await wait_for_ever()
    assert timeout.expired()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert caught.value.__context__ is caught.value.__cause__
    assert asyncio.current_task().cancelling() == 0


@on_loop
async def test_a_body_that_is_done_in_time_is_left_alone(loop, namespace):
    async with namespace.timeout(60) as timeout:
        assert await answer() == 42
    assert not timeout.expired()
    async with namespace.timeout(None) as timeout:
        assert timeout.when() is None
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


@on_loop
async def test_no_timer_is_left(loop, namespace):
    async with namespace.timeout(1000) as timeout:
        when = timeout.when()
        (timer,) = (handle for handle in loop._scheduled if handle.when() == when)
        assert "_on_timeout" in repr(timer)
    left = (handle for handle in loop._scheduled if handle.when() == when)
    assert all(handle.cancelled() for handle in left)


@on_loop
async def test_entering_and_leaving_never_wait(loop, namespace):
    log = []
    loop.call_soon(log.append, "turn")
    async with namespace.timeout(60), namespace.timeout_at(loop.time() + 60):
        pass
    assert log == []


@pytest.mark.parametrize("delay", [0, -1, 0.0])
@on_loop
async def test_no_time_at_all_cancels_at_the_first_wait(loop, namespace, delay):
    log = []
    with pytest.raises(TimeoutError):
        async with namespace.timeout(delay):
            log.append("begun")
            await wait_for_ever()
    assert log == ["begun"]


@on_loop
async def test_a_body_that_does_not_wait_is_not_cancelled(loop, namespace):
    async with namespace.timeout(0) as timeout:
        pass
    assert not timeout.expired()
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


@on_loop
async def test_the_innermost_of_nested_timeouts_that_expires_raises(loop, namespace):
    async with namespace.timeout(60) as outer:
        with pytest.raises(TimeoutError):
            async with namespace.timeout(0.001) as inner:
                await wait_for_ever()
    assert (inner.expired(), outer.expired()) == (True, False)
    with pytest.raises(TimeoutError):
        async with namespace.timeout(0.001) as outer, namespace.timeout(60) as inner:
            await wait_for_ever()
    assert (inner.expired(), outer.expired()) == (False, True)


@on_loop
async def test_two_timeouts_that_expire_together_raise_both(loop, namespace):
    now = loop.time()
    with pytest.raises(TimeoutError):
        async with namespace.timeout_at(now) as outer:
            with pytest.raises(TimeoutError):
                async with namespace.timeout_at(now) as inner:
                    await wait_for_ever()
            await wait_for_ever()
    assert inner.expired()
    assert outer.expired()
    assert asyncio.current_task().cancelling() == 0


@on_loop
async def test_the_deadline_can_be_moved(loop, namespace):
    async with namespace.timeout(0.001) as timeout:
        timeout.reschedule(None)
        assert timeout.when() is None
        await asyncio.sleep(0.005)
        timeout.reschedule(loop.time() + 60)
        await asyncio.sleep(0)
    assert not timeout.expired()
    with pytest.raises(TimeoutError):
        async with namespace.timeout(None) as timeout:
            timeout.reschedule(loop.time() - 1)
            await wait_for_ever()


@on_loop
async def test_a_deadline_that_is_moved_once_it_is_due_counts_as_moved(loop, namespace):
    async with namespace.timeout(0) as timeout:
        timeout.reschedule(loop.time() + 60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not timeout.expired()
        timeout.reschedule(loop.time() - 1)
        timeout.reschedule(None)
        await asyncio.sleep(0)
        assert not timeout.expired()
        timeout.reschedule(loop.time() - 1)
        timeout.reschedule(loop.time() - 1)
        with contextlib.suppress(asyncio.CancelledError):
            await wait_for_ever()
        assert asyncio.current_task().cancelling() == 1
    assert timeout.expired()


@on_loop
async def test_misuse_is_refused(loop, namespace):
    timeout = namespace.timeout(60)
    with pytest.raises(RuntimeError, match="Timeout has not been entered"):
        timeout.reschedule(1)
    async with timeout:
        with pytest.raises(RuntimeError, match="Timeout has already been entered"):
            await timeout.__aenter__()
    with pytest.raises(RuntimeError, match="Cannot change state of finished Timeout"):
        timeout.reschedule(1)
    with pytest.raises(RuntimeError, match="Timeout has already been entered"):
        await timeout.__aenter__()
    with contextlib.suppress(TimeoutError):
        async with namespace.timeout(0) as timeout:
            try:
                await wait_for_ever()
            finally:
                with pytest.raises(RuntimeError, match="Cannot change state of expiring Timeout"):
                    timeout.reschedule(1)
    with pytest.raises(RuntimeError, match="Cannot change state of expired Timeout"):
        timeout.reschedule(1)


def test_it_needs_a_loop_and_a_task(loop, namespace):
    with pytest.raises(RuntimeError, match="no running event loop"):
        namespace.timeout(1)

    def enter():
        with pytest.raises(RuntimeError, match="Timeout should be used inside a task"):
            namespace.timeout(1).__aenter__().send(None)

    loop.call_soon(enter)
    loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("delay", ["1", object()])
@on_loop
async def test_a_delay_that_is_no_number_is_refused(loop, namespace, delay):
    with pytest.raises(TypeError):
        namespace.timeout(delay)


@on_loop
async def test_what_it_shows(loop, namespace):
    timeout = namespace.timeout_at(1.23456)
    assert repr(timeout) == "<Timeout [created]>"
    assert timeout.when() == 1.23456
    with pytest.raises(TimeoutError):
        async with timeout:
            assert repr(timeout) == "<Timeout [active] when=1.235>"
            try:
                await wait_for_ever()
            finally:
                assert repr(timeout) == "<Timeout [expiring]>"
    assert repr(timeout) == "<Timeout [expired]>"
    async with namespace.timeout(None) as timeout:
        assert repr(timeout) == "<Timeout [active] when=None>"
    assert repr(timeout) == "<Timeout [finished]>"


@on_loop
async def test_whole_seconds_stay_what_they_are(loop, namespace):
    assert repr(namespace.timeout_at(5).when()) == "5"
    assert isinstance(namespace.timeout(5).when(), float)


# Cancelled from outside, failing in between


@on_loop
async def test_a_cancellation_from_outside_stays_one(loop, namespace):
    async def main():
        async with namespace.timeout(60):
            await wait_for_ever()

    task = loop.create_task(main())
    await asyncio.sleep(0)
    task.cancel("outside")
    with pytest.raises(asyncio.CancelledError, match="outside"):
        await task


@on_loop
async def test_a_cancellation_from_outside_wins_over_the_expiry(loop, namespace):
    """Both in one turn: it is not swallowed, and no TimeoutError takes its place."""

    async def main():
        async with namespace.timeout(0) as timeout:
            timeouts.append(timeout)
            await wait_for_ever()

    timeouts = []
    task = loop.create_task(main())
    await asyncio.sleep(0)
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert timeouts[0].expired()


@on_loop
async def test_a_task_that_was_cancelled_before_it_entered(loop, namespace):
    async def main():
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            with pytest.raises(TimeoutError):
                async with namespace.timeout(0.001):
                    await wait_for_ever()
            return asyncio.current_task().cancelling()

    task = loop.create_task(main())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == 1


@on_loop
async def test_another_exception_of_the_body_is_raised_and_names_the_expiry(
    loop, namespace, behaves_as
):
    with pytest.raises(ValueError) as caught:
        async with namespace.timeout(0.001) as timeout:
            try:
                await wait_for_ever()
            finally:
                raise ValueError
    assert timeout.expired()
    if behaves_as(3, 13):
        assert isinstance(caught.value.__context__, TimeoutError)
        assert isinstance(caught.value.__context__.__cause__, asyncio.CancelledError)
    assert asyncio.current_task().cancelling() == 0


@on_loop
async def test_exceptions_of_a_group_name_the_expiry_too(loop, namespace, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio does since 3.13")

    async def fails():
        try:
            await wait_for_ever()
        finally:
            raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        async with namespace.timeout(0.001), namespace.TaskGroup() as group:
            group.create_task(fails())
    (error,) = caught.value.exceptions
    assert isinstance(error.__context__, asyncio.CancelledError | TimeoutError)


@on_loop
async def test_a_swallowed_expiry_is_no_error(loop, namespace):
    async with namespace.timeout(0.001) as timeout:
        with contextlib.suppress(asyncio.CancelledError):
            await wait_for_ever()
    assert timeout.expired()
    assert asyncio.current_task().cancelling() == 0


# Foreign loops and replaced methods


@on_loop
async def test_a_replaced_call_at_sees_the_timer(loop, namespace):
    seen, original = [], loop.call_at

    def call_at(when, callback, *args, context=None):
        seen.append(when)
        return original(when, callback, *args, context=context)

    loop.call_at = call_at
    try:
        async with namespace.timeout(60) as timeout:
            assert seen == [timeout.when()]
    finally:
        loop.call_at = original


@aioxide_only
def test_a_replaced_clock_decides(loop, namespace):
    """Test suites with a clock of their own do this."""
    now = 100.0

    async def main():
        nonlocal now
        async with namespace.timeout(10) as timeout:
            assert timeout.when() == 110.0
            await asyncio.sleep(0)
            assert not timeout.expired()
            now = 111.0
            with contextlib.suppress(asyncio.CancelledError):
                await wait_for_ever()
        return timeout.expired()

    loop.time = lambda: now
    try:
        assert loop.run_until_complete(main())
    finally:
        del loop.time


@aioxide_only
def test_timeouts_work_on_asyncios_loop_too(namespace):
    loop = asyncio.SelectorEventLoop()

    async def main():
        with pytest.raises(TimeoutError):
            async with namespace.timeout(0.001):
                await wait_for_ever()
        with pytest.raises(TimeoutError):
            async with namespace.timeout(0):
                await wait_for_ever()
        async with namespace.timeout(60):
            return await answer()

    try:
        assert loop.run_until_complete(main()) == 42
    finally:
        loop.close()


@on_loop
async def test_an_asyncio_task_can_be_timed_out(loop, namespace):
    async def main():
        with pytest.raises(TimeoutError):
            async with namespace.timeout(0.001):
                await wait_for_ever()
        return asyncio.current_task().cancelling()

    assert await asyncio.Task(main(), loop=loop) == 0
