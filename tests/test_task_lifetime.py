"""The life of tasks in memory: who keeps them, what is left of them, what the loop counts of them.

Run by pytest on asyncio first and then on aioxide. A live loop of aioxide keeps its tasks until
they are done; asyncio's forgets them when nobody else holds them.
"""

import asyncio
import gc
import time
import weakref

import pytest
from coroutines import turn, wait_for_ever

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


async def await_and_drop(count):
    """Awaits futures and lets go of them, so that the next ones may be made of recycled memory."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


class Token:
    """Something whose life can be watched."""


# Who keeps a task.


@aioxide_only
def test_live_loop_keeps_a_task_that_nobody_else_holds(loop, survivors):
    async def forgotten(token):
        await loop.create_future()

    token = Token()
    watched = weakref.ref(token)
    loop.create_task(forgotten(token))
    del token
    turn(loop)
    gc.collect()
    assert watched() is not None
    survivors.extend(asyncio.all_tasks(loop))
    assert len(survivors) == 1


def test_finished_task_is_freed_at_once(loop):
    async def child(token):
        await asyncio.sleep(0)

    gc.disable()
    try:
        token = Token()
        watched = weakref.ref(token)
        task = loop.create_task(child(token))
        reference = weakref.ref(task)
        del token
        loop.run_until_complete(task)
        del task
        turn(loop)
        assert watched() is None
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["finished", "failed", "cancelled"])
def test_cycle_through_a_finished_task_is_collected(loop, how):
    async def child(holder):
        if how == "failed":
            raise ValueError
        if how == "cancelled":
            await loop.create_future()
        return holder

    holder = Token()
    watched = weakref.ref(holder)
    holder.task = loop.create_task(child(holder))
    holder.task.holder = holder
    holder.task.add_done_callback(lambda task, holder=holder: holder)
    turn(loop)
    if how == "cancelled":
        holder.task.cancel()
        turn(loop)
    turn(loop)
    assert holder.task.done()
    if how == "failed":
        assert holder.task.exception() is not None
    del holder
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("where", ["argument", "future", "callback", "attribute"])
def test_task_that_is_suspended_when_its_loop_closes_is_collected(loop, loop_errors, where):
    async def child(*arguments):
        future = loop.create_future()
        if where == "future":
            future.holder = arguments[0]
        await future

    loop.run_until_complete(await_and_drop(5))
    holder = Token()
    watched = weakref.ref(holder)
    task = loop.create_task(child(holder))
    if where == "callback":
        task.add_done_callback(lambda task, holder=holder: holder)
    elif where == "attribute":
        holder.task, task.holder = task, holder
    reference = weakref.ref(task)
    turn(loop)
    loop.close()
    del task, holder
    gc.collect()
    loop_errors.take()
    gc.collect()
    assert reference() is None
    assert watched() is None


def test_task_that_never_started_when_its_loop_closes_is_collected(loop, loop_errors):
    coroutine = wait_for_ever()
    task = loop.create_task(coroutine)
    reference = weakref.ref(task)
    loop.close()
    coroutine.close()
    del task, coroutine
    gc.collect()
    loop_errors.take()
    gc.collect()
    assert reference() is None


# Survivors.


@aioxide_only
def test_close_reports_every_survivor_once_by_name(loop, loop_errors):
    for name in ("first", "second"):
        loop.create_task(wait_for_ever(), name=name)
    turn(loop)
    loop.close()
    loop.close()
    gc.collect()
    contexts = loop_errors.take()
    assert sorted(context["task"].get_name() for context in contexts) == ["first", "second"]
    assert {context["message"] for context in contexts} == {"Task was destroyed but it is pending!"}
    for context in contexts:
        assert f"wait_for_ever() running at {wait_for_ever.__code__.co_filename}" in repr(
            context["task"]
        )
    contexts.clear()
    del context
    gc.collect()
    assert loop_errors == []


@aioxide_only
def test_report_of_a_survivor_shows_where_it_was_made_in_debug_mode(loop, loop_errors):
    loop.set_debug(True)
    loop.create_task(wait_for_ever())
    turn(loop)
    loop.close()
    (context,) = loop_errors.take()
    line = context["source_traceback"][-1]
    name = test_report_of_a_survivor_shows_where_it_was_made_in_debug_mode.__name__
    assert (line.filename, line.name) == (__file__, name)


@aioxide_only
def test_survivors_are_logged_when_there_is_no_handler(loop, caplog):
    loop.set_exception_handler(None)
    loop.create_task(wait_for_ever(), name="left")
    turn(loop)
    loop.close()
    gc.collect()
    (message,) = caplog.messages
    assert message.startswith("Task was destroyed but it is pending!\ntask: <Task pending")
    assert "name='left'" in message


@aioxide_only
def test_survivor_that_asked_for_silence_is_not_reported(loop):
    task = loop.create_task(wait_for_ever())
    task._log_destroy_pending = False
    turn(loop)
    loop.close()
    # The loop fixture finds any report.


# Growth.


@pytest.mark.parametrize("kind", ["finished", "yielding", "failed", "cancelled", "awaited"])
def test_hundred_thousand_tasks_leave_nothing(loop, resident_growth, kind):
    async def child():
        if kind == "failed":
            raise ValueError
        if kind == "cancelled":
            await loop.create_future()
        if kind == "yielding":
            await asyncio.sleep(0)

    async def batch():
        tasks = [loop.create_task(child()) for _ in range(1000)]
        if kind == "cancelled":
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
        if kind == "awaited":
            for task in tasks:
                await task
        await asyncio.gather(*tasks, return_exceptions=True)

    def work():
        for _ in range(10):
            loop.run_until_complete(batch())

    # 3 + 7 rounds of ten thousand: a leak of 100 bytes a task would be 7 MB.
    assert resident_growth(work, warm_up=3, repeat=7) < 3 * 1024 * 1024
    assert asyncio.all_tasks(loop) == set()


def test_switching_tasks_leaves_nothing(loop, resident_growth):
    async def pass_on(count):
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(pass_on(500) for _ in range(10)))

    def work():
        loop.run_until_complete(main())

    assert resident_growth(work, warm_up=2, repeat=5) < 2 * 1024 * 1024


# What the loop counts.


@aioxide_only
def test_counters_follow_the_states_of_a_task(loop):
    future, seen = loop.create_future(), []

    async def child():
        seen.append(asyncio.current_task()._counters())
        await asyncio.sleep(0)
        await future

    task = loop.create_task(child())
    states = [task._counters()]
    turn(loop)
    states.append(task._counters())
    turn(loop)
    states.append(task._counters())
    future.set_result(None)
    states.append(task._counters())
    loop.run_until_complete(task)
    states.append(task._counters())
    assert seen[0]["state"] == "running"
    assert [counters["state"] for counters in states] == [
        "ready",
        "ready",
        "waiting",
        "ready",
        "finished",
    ]
    assert [counters["steps"] for counters in states] == [0, 1, 2, 2, 3]
    assert [counters["waiting_on"] for counters in states] == [None, None, future, None, None]


@aioxide_only
def test_counters_tell_cancelled_tasks_apart(loop):
    task = loop.create_task(wait_for_ever())
    turn(loop)
    task.cancel()
    turn(loop)
    turn(loop)
    assert task._counters()["state"] == "cancelled"


def burn(seconds):
    """Holds the processor, as a slow callback does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@aioxide_only
def test_counters_tell_busy_time_from_waiting_for_a_turn(loop):
    async def busy():
        burn(0.02)

    async def patient():
        await asyncio.sleep(0)

    first, second = loop.create_task(busy()), loop.create_task(patient())
    turn(loop)
    turn(loop)
    busy_counters, patient_counters = first._counters(), second._counters()
    assert busy_counters["busy_ns"] >= 20_000_000
    assert patient_counters["scheduled_ns"] >= 20_000_000  # It waited for the busy one.
    assert patient_counters["busy_ns"] < busy_counters["busy_ns"]
    assert first.done()
    assert second.done()


@aioxide_only
@pytest.mark.parametrize("step", ["eager", "debug"])
def test_counters_count_eager_and_debug_steps(loop, step):
    loop.set_debug(step == "debug")

    async def child():
        burn(0.002)
        await asyncio.sleep(0)

    async def main():
        task = loop.create_task(child(), eager_start=step == "eager")
        await task
        return task._counters()

    counters = loop.run_until_complete(main())
    assert counters["steps"] == 2
    assert counters["busy_ns"] >= 2_000_000
