"""Task factories and eager starts: who makes the task, which keywords it gets, what runs at once.

Run by pytest on asyncio first and then on aioxide, which starts tasks eagerly on every Python;
asyncio does since 3.12. The rest of Task is in test_tasks.py.
"""

import asyncio
import contextvars
import gc
import threading

import pytest
from coroutines import answer, turn, wait_for_ever

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)


# Factories.


def test_task_factory_is_none_until_it_is_set(loop):
    def factory(loop, coroutine):
        raise AssertionError("nobody makes a task")

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None


@pytest.mark.parametrize("wrong", [1, "factory", object()])
def test_task_factory_must_be_callable_or_none(loop, wrong):
    with pytest.raises(TypeError, match=r"^task factory must be a callable or None$"):
        loop.set_task_factory(wrong)
    assert loop.get_task_factory() is None


@pytest.mark.parametrize("way", ["create_task", "asyncio.create_task", "ensure_future", "gather"])
def test_factory_makes_every_task(loop, namespace, way):
    made = []

    def factory(loop, coroutine, **options):
        made.append(coroutine.__name__)
        return namespace.Task(coroutine, loop=loop, **options)

    async def main():
        ways = {
            "create_task": lambda: loop.create_task(answer()),
            "asyncio.create_task": lambda: asyncio.create_task(answer()),
            "ensure_future": lambda: asyncio.ensure_future(answer()),
            "gather": lambda: asyncio.gather(answer()),
        }
        return await ways[way]()

    loop.set_task_factory(factory)
    assert loop.run_until_complete(main()) in (42, [42])
    assert made == ["main", "answer"]


def test_factory_gets_a_keyword_only_when_the_caller_gave_it(loop, namespace):
    seen = []

    def factory(loop, coroutine, **options):
        seen.append(options)
        return namespace.Task(coroutine, loop=loop)

    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    loop.create_task(answer())
    loop.create_task(answer(), name=None, context=None)
    loop.create_task(answer(), context=context)
    assert seen[0] == {}
    assert seen[1].keys() <= {"name", "context"}
    assert set(seen[1].values()) <= {None}
    assert seen[2] == {"context": context}
    turn(loop)


def test_factory_that_takes_no_keywords_still_names_its_tasks(loop, namespace, behaves_as):
    if behaves_as(3, 14) and namespace is asyncio:
        pytest.skip("since 3.14 asyncio passes the name on and such a factory fails")
    loop.set_task_factory(lambda loop, coroutine: namespace.Task(coroutine, loop=loop))
    assert loop.create_task(answer(), name="given").get_name() == "given"
    turn(loop)


def test_factory_that_takes_keywords_names_its_tasks(loop, namespace, behaves_as):
    loop.set_task_factory(lambda loop, coro, **options: namespace.Task(coro, loop=loop, **options))
    assert loop.create_task(answer(), name="given").get_name() == "given"
    if behaves_as(3, 14):  # asyncio of 3.13.0 names the other one "None".
        assert loop.create_task(answer()).get_name().startswith("Task-")
    turn(loop)


@aioxide_only
def test_eager_start_reaches_the_factory_only_when_it_is_given(loop, namespace):
    seen = []

    def factory(loop, coroutine, **options):
        seen.append(options)
        return namespace.Task(coroutine, loop=loop, **options)

    async def main():
        del seen[:]
        await loop.create_task(answer())
        task = loop.create_task(answer(), eager_start=True)
        assert task.done()
        await loop.create_task(answer(), eager_start=False)

    loop.set_task_factory(factory)
    loop.run_until_complete(main())
    assert seen == [{}, {"eager_start": True}, {"eager_start": False}]


@pytest.mark.parametrize("kind", ["C", "Python", "subclass"])
def test_factory_may_return_other_tasks_and_everything_works(loop, namespace, kind):
    class Special(namespace.Task):
        pass

    make = {"C": asyncio.Task, "Python": asyncio.tasks._PyTask, "subclass": Special}[kind]

    async def failing():
        await asyncio.sleep(0)
        raise ValueError("failed")

    async def main():
        assert type(asyncio.current_task()) is make
        queue, event = asyncio.Queue(), asyncio.Event()
        children = [asyncio.create_task(queue.get()), asyncio.create_task(event.wait())]
        loop.call_soon(queue.put_nowait, 1)
        loop.call_soon(event.set)
        assert await asyncio.gather(*children) == [1, True]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_for_ever(), 0.001)
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                cancelled = group.create_task(wait_for_ever())
                group.create_task(failing())
        assert cancelled.cancelled()
        assert type(cancelled) is make
        return "worked"

    loop.set_task_factory(lambda loop, coro, **options: make(coro, loop=loop, **options))
    assert loop.run_until_complete(main()) == "worked"


def test_factory_that_fails_lets_its_error_through(loop):
    def factory(loop, coroutine, **options):
        coroutine.close()
        raise LookupError("no task today")

    loop.set_task_factory(factory)
    with pytest.raises(LookupError, match="no task today"):
        loop.create_task(answer())
    with pytest.raises(LookupError, match="no task today"):
        loop.run_until_complete(answer())


@aioxide_only
def test_run_takes_a_task_factory(namespace):
    made = []

    def factory(loop, coroutine, **options):
        made.append(asyncio.Task(coroutine, loop=loop, **options))
        return made[-1]

    async def main():
        return await asyncio.create_task(answer())

    assert namespace.run(main(), task_factory=factory) == 42
    assert [type(task) for task in made[:2]] == [asyncio.Task, asyncio.Task]


# Eager starts: four ways to ask for one, which must not differ.


def by_argument(loop, namespace, coroutine, **options):
    if namespace is asyncio:  # loop.create_task takes eager_start since 3.14.
        return asyncio.Task(coroutine, loop=loop, eager_start=True, **options)
    return loop.create_task(coroutine, eager_start=True, **options)


def by_class(loop, namespace, coroutine, **options):
    return namespace.Task(coroutine, loop=loop, eager_start=True, **options)


def by_factory(loop, namespace, coroutine, **options):
    return namespace.eager_task_factory(loop, coroutine, **options)


def by_own_factory(loop, namespace, coroutine, **options):
    class Special(namespace.Task):
        pass

    return namespace.create_eager_task_factory(Special)(loop, coroutine, **options)


WAYS = {
    "argument": by_argument,
    "class": by_class,
    "factory": by_factory,
    "own factory": by_own_factory,
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def start(request, loop, namespace, behaves_as):
    """Starts a coroutine eagerly as a task of the loop, in one of the ways."""
    if not behaves_as(3, 12):
        pytest.skip("asyncio has no eager tasks before 3.12")
    return lambda coroutine, **options: request.param(loop, namespace, coroutine, **options)


def test_eager_task_runs_at_once_up_to_its_first_suspension(loop, start):
    steps = []

    async def child():
        steps.append("first")
        await asyncio.sleep(0)
        steps.append("second")
        return "result"

    async def main():
        task = start(child())
        assert steps == ["first"]
        assert not task.done()
        return await task

    assert loop.run_until_complete(main()) == "result"
    assert steps == ["first", "second"]


def test_eager_task_that_never_suspends_is_done_at_once(loop, start, behaves_as):
    error = ValueError("failed")

    async def fail():
        raise error

    async def main():
        done, failed = start(answer()), start(fail())
        assert done.done()
        assert done.result() == 42
        assert failed.exception() is error
        assert asyncio.all_tasks() == {asyncio.current_task()}
        turned = []
        loop.call_soon(turned.append, 1)
        assert await done == 42
        assert turned == []
        if behaves_as(3, 13):  # asyncio of 3.12.1 crashes here.
            assert done.get_coro() is None
            assert done.get_stack() == []
            assert "finished" in repr(done)

    loop.run_until_complete(main())


def test_callbacks_of_an_eager_task_that_is_done_wait_for_the_loop(loop, start):
    seen = []

    async def main():
        task = start(answer())
        task.add_done_callback(seen.append)
        assert seen == []
        await asyncio.sleep(0)
        assert seen == [task]

    loop.run_until_complete(main())


def test_eager_task_is_the_current_one_in_its_start_and_later(loop, start):
    async def child():
        first = asyncio.current_task()
        assert first in asyncio.all_tasks()
        await asyncio.sleep(0)
        return first is asyncio.current_task()

    async def main():
        me = asyncio.current_task()
        task = start(child())
        assert asyncio.current_task() is me
        assert asyncio.all_tasks() == {me, task}
        return await task

    assert loop.run_until_complete(main())


def test_nested_eager_starts_restore_the_current_task(loop, start):
    order = []

    async def inner():
        order.append(asyncio.current_task().get_name())

    async def outer():
        order.append(asyncio.current_task().get_name())
        start(inner(), name="inner")
        order.append(asyncio.current_task().get_name())

    async def main():
        start(outer(), name="outer")
        order.append(asyncio.current_task().get_name())

    loop.run_until_complete(loop.create_task(main(), name="main"))
    assert order == ["outer", "inner", "outer", "main"]


def test_eager_start_from_a_plain_callback(loop, start):
    seen = []

    def callback():
        task = start(answer())
        seen.append((task.result(), asyncio.current_task()))
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    assert seen == [(42, None)]


def test_eager_start_needs_a_running_loop_and_else_waits_for_it(loop, start):
    ran = []

    async def child():
        ran.append("ran")

    task = start(child())
    assert ran == []
    assert asyncio.all_tasks(loop) == {task}
    loop.run_until_complete(task)
    assert ran == ["ran"]


def test_eager_start_has_name_and_context(loop, start):
    variable = contextvars.ContextVar("variable", default="outer")
    given = contextvars.copy_context()
    given.run(variable.set, "given")

    async def child():
        seen = asyncio.current_task().get_name(), variable.get()
        variable.set("child")
        await asyncio.sleep(0)
        return (*seen, variable.get())

    async def main():
        variable.set("creator")
        copied, entered = start(child(), name="one"), start(child(), name="two", context=given)
        assert variable.get() == "creator"
        return await copied, await entered

    assert loop.run_until_complete(main()) == (
        ("one", "creator", "child"),
        ("two", "given", "child"),
    )
    assert given[variable] == "child"


def test_eager_task_that_cancels_itself_is_cancelled_where_it_waits(loop, start):
    async def child():
        asyncio.current_task().cancel("self")
        await wait_for_ever()

    async def main():
        task = start(child())
        assert task.cancelling() == 1
        with pytest.raises(asyncio.CancelledError, match="self"):
            await task
        return task.cancelled()

    assert loop.run_until_complete(main())


def test_eager_task_can_be_cancelled_after_its_start(loop, start):
    async def main():
        task = start(wait_for_ever())
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        return task.cancelled()

    assert loop.run_until_complete(main())


@pytest.mark.parametrize("interruption", [SystemExit, KeyboardInterrupt])
def test_interruption_in_an_eager_start_leaves_through_the_creator(
    loop, loop_errors, start, interruption
):
    async def child():
        raise interruption("now")

    async def main():
        me = asyncio.current_task()
        with pytest.raises(interruption, match="now"):
            start(child())
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        return "went on"

    assert loop.run_until_complete(main()) == "went on"
    gc.collect()
    for context in loop_errors.take():  # Nobody holds the task, so it may say so, and no more.
        assert context["message"].endswith("exception was never retrieved")


def test_bad_yield_in_an_eager_start_is_raised_in_the_coroutine(loop, start, new_loop):
    other = new_loop()
    foreign = other.create_future()

    async def child():
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await foreign
        return "went on"

    async def main():
        return await start(child())

    assert loop.run_until_complete(main()) == "went on"
    other.close()


def test_eager_task_is_reported_when_its_error_is_never_seen(loop, loop_errors, start):
    async def fail():
        raise ValueError("unseen")

    async def main():
        start(fail())

    loop.run_until_complete(main())
    gc.collect()
    (context,) = loop_errors.take()
    assert context["message"].endswith("exception was never retrieved")


def test_eager_factory_of_the_loop_starts_every_task_at_once(loop, namespace, behaves_as):
    if not behaves_as(3, 12):
        pytest.skip("asyncio has no eager tasks before 3.12")
    started = []

    async def child(name):
        started.append(name)
        await asyncio.sleep(0)
        return name

    async def main():
        task = asyncio.create_task(child("create_task"))
        assert started == ["create_task"]
        gathered = asyncio.gather(child("gather one"), child("gather two"))
        assert started[1:] == ["gather one", "gather two"]
        async with asyncio.TaskGroup() as group:
            member = group.create_task(child("group"))
            assert started[-1] == "group"
        return [await task, *await gathered, member.result()]

    loop.set_task_factory(namespace.eager_task_factory)
    assert loop.run_until_complete(main()) == started


def test_eager_factory_of_asyncio_works_on_every_loop(loop):
    if not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("asyncio has no eager tasks before 3.12")

    async def child():
        await asyncio.sleep(0)
        return asyncio.current_task()

    async def main():
        done, waiting = loop.create_task(answer()), loop.create_task(child())
        assert done.done()
        assert type(waiting) is asyncio.Task
        assert await waiting is waiting
        return await done

    loop.set_task_factory(asyncio.eager_task_factory)
    assert loop.run_until_complete(main()) == 42


# Defects of CPython that were found and fixed lately; ours must not have them on any Python.


def test_name_is_known_in_an_eager_start_through_the_loop(loop, namespace, behaves_as):
    if not behaves_as(3, 14):
        pytest.skip("before 3.14 asyncio sets the name too late (gh-128308)")

    async def child():
        return asyncio.current_task().get_name()

    async def main():
        return loop.create_task(child(), name="early").result()

    loop.set_task_factory(namespace.eager_task_factory)
    assert loop.run_until_complete(main()) == "early"


def test_eager_start_finds_the_running_loop_by_itself(loop, namespace, behaves_as):
    if not behaves_as(3, 14, 1):
        pytest.skip("asyncio's C task needs loop= here (gh-154695)")

    async def main():
        return namespace.Task(answer(), eager_start=True).result()

    assert loop.run_until_complete(main()) == 42


@pytest.mark.parametrize("eager", [False, True])
def test_context_that_is_none_is_refused_at_once(loop, namespace, behaves_as, eager):
    if not behaves_as(3, 15):
        pytest.skip("asyncio takes any object, and with eager_start the loop hangs (gh-157301)")

    async def main():
        coroutine = answer()
        with pytest.raises(TypeError, match="Context"):
            namespace.Task(coroutine, loop=loop, context=2.14, eager_start=eager)
        coroutine.close()
        await asyncio.sleep(0)
        return asyncio.all_tasks() == {asyncio.current_task()}

    assert loop.run_until_complete(main())


def test_eager_start_in_an_entered_context_fails_and_the_loop_goes_on(loop, start, behaves_as):
    if not behaves_as(3, 15):
        pytest.skip("asyncio stays inside the failed task and the loop hangs (gh-157301)")
    ran = []

    async def child():
        ran.append("ran")

    async def main():
        me = asyncio.current_task()
        coroutine = child()
        with pytest.raises(RuntimeError, match="already entered"):
            start(coroutine, context=current)
        coroutine.close()
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {me}
        return "went on"

    current = contextvars.copy_context()
    task = loop.create_task(main(), context=current)
    assert loop.run_until_complete(task) == "went on"
    assert ran == []


def test_eager_start_in_another_thread_is_refused(loop, start, behaves_as):
    if not behaves_as(3, 14):
        pytest.skip("asyncio runs the step there and corrupts its current task (gh-155338)")
    ran, errors = [], []

    async def child():
        ran.append(threading.get_ident())

    def intrude():
        coroutine = child()
        try:
            start(coroutine)
        except RuntimeError as error:
            errors.append(error)
        finally:
            coroutine.close()

    async def main():
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        return asyncio.all_tasks() == {me}

    me = loop.create_task(main())
    assert loop.run_until_complete(me)
    assert ran == []
    assert len(errors) == 1
