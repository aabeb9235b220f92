"""Every cancellation carries who, when and why, and one that was swallowed says where.

Run by pytest on aioxide alone: asyncio's tasks have no `cancel_info`.
"""

import asyncio
import gc
import logging
import time
import weakref

import pytest
from loopback import on_loop, until

import aioxide
from aioxide import reports


@pytest.fixture(params=["aioxide"])
def namespace(request):
    return aioxide


@pytest.fixture
def no_grace(monkeypatch):
    """Whoever does not listen to a cancellation is reported at once."""
    monkeypatch.setattr(reports, "CANCEL_GRACE", 0.0)


def here(offset=0):
    """The line that calls this."""
    import sys

    return sys._getframe(1).f_lineno + offset


async def forever():
    await asyncio.get_running_loop().create_future()


@on_loop
async def test_request_says_who_when_why_and_from_which_line(loop):
    task = asyncio.create_task(forever())
    asyncio.current_task().set_name("the boss")
    await asyncio.sleep(0)
    assert task.cancel_info() == []
    before = time.monotonic()
    line = here(1)
    task.cancel("no longer needed")
    (request,) = task.cancel_info()
    assert request.by == "the boss"
    assert before <= request.when <= time.monotonic()
    assert request.message == "no longer needed"
    assert request.site[:2] == (__file__, line)
    assert request.site.function.endswith("from_which_line")
    assert (request.caught, request.swallowed) == (None, False)
    await asyncio.wait([task])
    assert task.cancel_info() == [request]


@on_loop
async def test_request_of_a_callback_has_no_task_behind_it(loop):
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    loop.call_soon(lambda: task.cancel())
    await asyncio.wait([task])
    (request,) = task.cancel_info()
    assert request.by is None
    assert request.site.function.endswith("<lambda>")


@on_loop
async def test_lines_of_asyncio_are_passed_over(loop):
    async def child():
        raise ValueError

    sibling = None
    try:
        async with asyncio.TaskGroup() as group:
            sibling = group.create_task(forever())
            await asyncio.sleep(0)
            group.create_task(child())
    except* ValueError:
        pass
    (request,) = sibling.cancel_info()
    assert request.site is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(inner := asyncio.create_task(forever()), 0)
    assert len(inner.cancel_info()) == 1


@on_loop
async def test_request_is_seen_by_every_task_of_a_chain(loop):
    inner = asyncio.create_task(forever())

    async def outer():
        await inner

    task = asyncio.create_task(outer())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel("stop")
    await asyncio.wait([task])
    assert inner.cancel_info() == task.cancel_info()
    assert inner.cancel_info()[0].message == "stop"


@on_loop
async def test_at_most_eight_requests_are_kept_the_first_and_the_last_among_them(loop):
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    for number in range(50):
        task.cancel(number)
    messages = [request.message for request in task.cancel_info()]
    assert len(messages) == 8
    assert (messages[0], messages[-1]) == (0, 49)
    await asyncio.wait([task])


@on_loop
async def test_task_that_ends_as_if_nothing_were_is_noted_with_the_line(loop):
    lines = []

    async def deaf():
        try:
            lines.append(here(1))
            await forever()
        except asyncio.CancelledError:
            return "done"

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "done"
    (request,) = task.cancel_info()
    assert request.swallowed
    assert request.caught[:2] == (__file__, lines[0])
    assert request.caught.function.endswith("deaf")
    metrics = loop.metrics()
    assert metrics["cancellations"] == 1
    assert metrics["cancellations_caught"] == 1
    assert metrics["cancellations_swallowed"] == 1


@on_loop
async def test_clean_up_that_waits_swallows_nothing(loop):
    async def tidy():
        try:
            await forever()
        finally:
            await asyncio.sleep(0)

    task = asyncio.create_task(tidy())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    (request,) = task.cancel_info()
    assert request.caught is not None
    assert not request.swallowed
    assert task.cancelled()
    assert loop.metrics()["cancellations_swallowed"] == 0


@on_loop
async def test_clean_up_that_waits_and_then_forgets_to_raise_swallows(loop):
    async def forgetful():
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    task = asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert task.cancel_info()[0].swallowed


@on_loop
async def test_timeouts_and_task_groups_take_their_requests_back(loop):
    async def child():
        raise ValueError

    async def user():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await forever()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                await forever()
        except* ValueError:
            pass

    await asyncio.create_task(user())
    assert loop.metrics()["cancellations_swallowed"] == 0


@on_loop
async def test_task_that_goes_on_is_reported_once(loop, caplog, no_grace, survivors):
    caplog.set_level(logging.WARNING, logger="asyncio")
    stop = loop.create_future()

    async def deaf():
        while not stop.done():
            try:
                await stop
            except BaseException:
                await asyncio.shield(stop)

    task = asyncio.create_task(deaf(), name="deaf one")
    await asyncio.sleep(0)
    task.cancel("shutting down")
    stop = loop.create_future()
    await until(lambda: caplog.messages)
    for _ in range(10):
        await asyncio.sleep(0)
    (message,) = caplog.messages
    assert message.startswith("Task 'deaf one' goes on ")
    assert "(shutting down), caught at " in message
    assert f"{__file__}:" in message
    assert task.cancel_info()[0].swallowed
    assert loop.metrics()["cancellations_swallowed"] == 1
    stop.set_result(None)
    await task
    assert loop.metrics()["cancellations_swallowed"] == 1


@on_loop
async def test_task_that_ended_meanwhile_is_not_reported(loop, caplog, no_grace):
    caplog.set_level(logging.WARNING, logger="asyncio")

    async def tidy():
        try:
            await forever()
        finally:
            await asyncio.sleep(0)

    task = asyncio.create_task(tidy())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    for _ in range(10):
        await asyncio.sleep(0)
    assert caplog.messages == []


def test_notes_keep_no_task_alive(loop):
    async def deaf():
        try:
            await forever()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise

    async def main():
        task = asyncio.create_task(deaf())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return weakref.ref(task)

    reference = loop.run_until_complete(main())
    gc.collect()
    assert reference() is None


def test_shutdown_that_hangs_names_the_task_and_the_line(run_child):
    child = run_child(
        """
        import sys, logging
        from aioxide import reports
        reports.CANCEL_GRACE = 0.1
        logging.basicConfig()

        async def deaf(release):
            try:
                await asyncio.get_running_loop().create_future()
            except BaseException:
                await release.wait()

        async def main():
            release = asyncio.Event()
            asyncio.create_task(deaf(release), name="deaf one")
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(1, release.set)

        namespace.run(main())
        """,
        arguments=(),
    )
    assert child.returncode == 0, child.stderr
    assert "Task 'deaf one' goes on" in child.stderr
    assert "caught at <string>:" in child.stderr
    assert "it waits at <string>:" in child.stderr


def test_debug_run_makes_a_warning_of_it(run_child):
    child = run_child(
        """
        from aioxide import reports
        reports.CANCEL_GRACE = 0

        async def deaf():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(60)

        async def main():
            task = asyncio.create_task(deaf())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(60)

        try:
            namespace.run(main(), debug=True)
        except namespace.SwallowedCancellationWarning as error:
            print(error)
        """
    )
    assert child.stdout.startswith("Task 'Task-2' goes on"), child.stderr
