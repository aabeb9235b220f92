"""Task: making it, its names and contexts, its errors, its stack, its repr, who is alive.

Run by pytest on asyncio first and then on aioxide. What a task awaits, cancellation, factories
with eager starts, and the life of tasks in memory have files of their own.
"""

import asyncio
import collections.abc
import contextvars
import gc
import io
import re
import threading
import types
import weakref

import pytest
from coroutines import answer, turn, wait_for_ever

TASKS = {
    "ours": lambda namespace: namespace.Task,
    "C": lambda namespace: asyncio.Task,
    "Python": lambda namespace: asyncio.tasks._PyTask,
}
every_task = pytest.mark.parametrize("task_class", TASKS.values(), ids=TASKS)


@pytest.fixture
def waiting(loop, survivors):
    """A task that waits and that the loop fixture cancels."""
    task = loop.create_task(wait_for_ever(), name="waiting")
    survivors.append(task)
    turn(loop)
    return task


# Making a task.


def test_task_is_asyncios(loop, namespace):
    task = loop.create_task(answer())
    assert type(task) is namespace.Task
    assert isinstance(task, asyncio.Task)
    assert isinstance(task, asyncio.Future)
    assert isinstance(task, namespace.Future)
    assert asyncio.isfuture(task)
    assert asyncio.ensure_future(task) is task
    assert task.get_loop() is loop
    assert isinstance(namespace.Task[int], types.GenericAlias)
    assert loop.run_until_complete(task) == 42


@pytest.mark.parametrize("wrong", [None, 1, "text", answer, lambda: None])
def test_task_needs_a_coroutine(loop, namespace, wrong):
    message = re.escape(f"a coroutine was expected, got {wrong!r}")
    with pytest.raises(TypeError, match=f"^{message}$"):
        namespace.Task(wrong, loop=loop)
    with pytest.raises(TypeError, match=f"^{message}$"):
        loop.create_task(wrong)


def test_a_generator_is_not_a_coroutine(loop):
    def generator():
        yield

    if asyncio.iscoroutine(generator()):
        pytest.skip("on this Python asyncio still takes generators for coroutines")
    with pytest.raises(TypeError, match=r"^a coroutine was expected, got <generator object"):
        loop.create_task(generator())


def test_task_takes_its_options_by_name_only(loop, namespace):
    coroutine = answer()
    for arguments, options in [((), {}), ((coroutine, loop), {}), ((coroutine,), {"other": 1})]:
        with pytest.raises(TypeError):
            namespace.Task(*arguments, **options)
    coroutine.close()


def test_task_finds_the_running_loop(loop, namespace):
    async def main():
        task = namespace.Task(answer())
        assert task.get_loop() is loop
        return await task

    assert loop.run_until_complete(main()) == 42


def test_task_runs_any_coroutine_object(loop):
    class Coroutine(collections.abc.Coroutine):
        """What Cython makes, in short: not a native coroutine, but it can do the same."""

        def __init__(self):
            self.left = 3

        def send(self, value):
            assert value is None
            self.left -= 1
            if not self.left:
                raise StopIteration("sent")

        def throw(self, *arguments):
            raise AssertionError("nobody throws")

        def __await__(self):
            return self

    assert loop.run_until_complete(loop.create_task(Coroutine())) == "sent"


def test_first_step_waits_for_the_loop(loop):
    ran = []

    async def main():
        task = loop.create_task(answer())
        task.add_done_callback(lambda _: ran.append("done"))
        loop.call_soon(ran.append, "after the first step")
        assert not task.done()
        await task

    loop.run_until_complete(main())
    assert ran == ["after the first step", "done"]


def test_subclass_may_extend_construction(loop, namespace):
    class Labelled(namespace.Task):
        def __init__(self, coroutine, *, label, **options):
            self.label = label
            super().__init__(coroutine, **options)

        def get_name(self):
            return f"{self.label} {super().get_name()}"

    task = Labelled(answer(), label="the", loop=loop, name="task")
    assert loop.run_until_complete(task) == 42
    assert repr(task).startswith("<Labelled finished name='the task' coro=<answer() done")


def test_task_takes_attributes_weak_references_and_hashes(loop):
    task = loop.create_task(answer())
    task.anything = 1
    assert task.anything == 1
    assert weakref.ref(task)() is task
    assert task in {task}
    assert task != loop.create_task(answer())
    turn(loop)


def test_task_refuses_results_from_outside(loop):
    task = loop.create_task(answer())
    for method in ("set_result", "set_exception"):
        with pytest.raises(RuntimeError, match=rf"^Task does not support {method} operation$"):
            getattr(task, method)(ValueError())
    assert loop.run_until_complete(task) == 42


# Names and contexts.


def test_task_names(loop, namespace):
    default, other = loop.create_task(answer()), loop.create_task(answer())
    assert re.fullmatch(r"Task-\d+", default.get_name())
    assert default.get_name() == default.get_name() != other.get_name()
    assert loop.create_task(answer(), name="given").get_name() == "given"
    assert re.fullmatch(r"Task-\d+", loop.create_task(answer(), name=None).get_name())
    assert namespace.Task(answer(), loop=loop, name=7).get_name() == "7"
    default.set_name(("any", "thing"))
    assert default.get_name() == "('any', 'thing')"
    default.set_name(None)
    assert default.get_name() == "None"
    turn(loop)


def test_steps_run_in_a_copy_of_the_creators_context(loop, behaves_as):
    variable = contextvars.ContextVar("variable", default="outer")

    async def step():
        seen = [variable.get()]
        variable.set("task")
        await asyncio.sleep(0)
        return [*seen, variable.get()]

    token = variable.set("creator")
    task = loop.create_task(step())
    variable.reset(token)
    assert loop.run_until_complete(task) == ["creator", "task"]
    assert variable.get() == "outer"
    if behaves_as(3, 12):
        assert task.get_context()[variable] == "task"


def test_steps_and_callbacks_run_in_the_context_that_is_given(loop, behaves_as):
    variable = contextvars.ContextVar("variable", default="outer")
    context = contextvars.copy_context()
    context.run(variable.set, "given")

    async def step():
        seen = variable.get()
        variable.set("changed")
        await asyncio.sleep(0)
        return seen

    task = loop.create_task(step(), context=context)
    assert loop.run_until_complete(task) == "given"
    assert context[variable] == "changed"
    if behaves_as(3, 12):
        assert task.get_context() is context


def test_tasks_may_share_a_context(loop):
    variable = contextvars.ContextVar("variable", default=0)
    context = contextvars.copy_context()

    async def count():
        for _ in range(3):
            variable.set(variable.get() + 1)
            await asyncio.sleep(0)

    tasks = [loop.create_task(count(), context=context) for _ in range(4)]
    loop.run_until_complete(asyncio.wait(tasks))
    assert context[variable] == 12


# Errors.


def test_exception_of_a_task_is_its_outcome(loop):
    error = ValueError("failed")

    async def fail():
        await asyncio.sleep(0)
        raise error

    task = loop.create_task(fail())
    loop.run_until_complete(asyncio.wait([task]))
    assert task.exception() is error
    with pytest.raises(ValueError, match="failed"):
        task.result()


def test_stop_iteration_of_a_coroutine_becomes_a_runtime_error(loop):
    async def stop():
        raise StopIteration("value")

    with pytest.raises(RuntimeError, match=r"^coroutine raised StopIteration$") as caught:
        loop.run_until_complete(stop())
    assert type(caught.value.__cause__) is StopIteration


@pytest.mark.parametrize("interruption", [SystemExit, KeyboardInterrupt])
def test_interruption_in_a_task_leaves_the_loop_and_is_its_outcome(loop, interruption):
    async def interrupt():
        raise interruption("now")

    task, other = loop.create_task(interrupt()), loop.create_task(answer())
    with pytest.raises(interruption, match="now"):
        loop.run_forever()
    assert task.done()
    assert type(task.exception()) is interruption
    assert not loop.is_running()
    assert loop.run_until_complete(other) == 42


def test_other_base_exceptions_are_outcomes_and_the_loop_goes_on(loop):
    class Unusual(BaseException):
        pass

    async def fail():
        raise Unusual

    task = loop.create_task(fail())
    loop.run_until_complete(asyncio.wait([task]))
    assert type(task.exception()) is Unusual


def test_exception_that_nobody_asked_for_is_reported_with_the_task(loop, loop_errors):
    async def fail():
        raise ValueError("unseen")

    task = loop.create_task(fail(), name="careless")
    turn(loop)
    assert loop_errors == []
    del task
    gc.collect()
    (context,) = loop_errors.take()
    assert sorted(context) == ["exception", "future", "message"]
    assert context["message"] == "Task exception was never retrieved"
    assert type(context["exception"]) is ValueError
    assert context["future"].get_name() == "careless"


def test_origin_of_a_task_is_known_in_debug_mode(loop, loop_errors):
    async def fail():
        raise ValueError

    loop.set_debug(True)
    task = loop.create_task(fail())
    assert task._source_traceback[-1].filename == __file__
    assert re.search(rf"created at {re.escape(__file__)}:\d+>$", repr(task))
    turn(loop)
    del task
    gc.collect()
    assert loop_errors.take()[0]["source_traceback"][-1].filename == __file__


# Stack and repr.


def test_stack_of_a_task_that_waits_is_where_it_waits(loop, waiting):
    (frame,) = waiting.get_stack()
    assert frame.f_code is wait_for_ever.__code__
    assert waiting.get_stack(limit=0) == []
    with pytest.raises(TypeError):
        waiting.get_stack(1)
    output = io.StringIO()
    waiting.print_stack(file=output)
    first, second, third, *_ = output.getvalue().splitlines()
    assert first == f"Stack for {waiting!r} (most recent call last):"
    file = wait_for_ever.__code__.co_filename
    assert second == f'  File "{file}", line {frame.f_lineno}, in wait_for_ever'
    assert third == "    await asyncio.get_running_loop().create_future()"


def test_stack_of_a_task_that_failed_is_its_traceback(loop):
    def inner():
        raise ValueError("failed")

    async def outer():
        inner()

    task = loop.create_task(outer())
    turn(loop)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["outer", "inner"]
    assert [frame.f_code.co_name for frame in task.get_stack(limit=1)] == ["outer"]
    output = io.StringIO()
    task.print_stack(file=output, limit=5)
    lines = output.getvalue().splitlines()
    assert lines[0] == f"Traceback for {task!r} (most recent call last):"
    assert lines[-1] == "ValueError: failed"
    assert str(task.exception()) == "failed"


def test_stack_of_a_running_task_ends_with_the_running_frame(loop):
    async def main():
        return [frame.f_code.co_name for frame in asyncio.current_task().get_stack()]

    assert loop.run_until_complete(main())[-1] == "main"


def test_stack_of_a_finished_task_is_empty(loop):
    task = loop.create_task(answer())
    turn(loop)
    assert task.get_stack() == []
    output = io.StringIO()
    task.print_stack(file=output)
    assert output.getvalue() == f"No stack for {task!r}\n"


def test_representation_follows_the_life_of_a_task(loop):
    future = loop.create_future()

    async def life():
        await future

    place = rf"{re.escape(__file__)}:\d+"
    name = re.escape(life.__qualname__)
    task = loop.create_task(life(), name="mine")
    coroutine = rf"coro=<{name}\(\) running at {place}>"
    assert re.fullmatch(rf"<Task pending name='mine' {coroutine}>", repr(task))
    turn(loop)
    waiting = r"wait_for=<Future pending cb=\[.+\]>"
    assert re.fullmatch(rf"<Task pending name='mine' {coroutine} {waiting}>", repr(task))
    task.add_done_callback(print)
    waiting = rf"{waiting} cb=\[print\(\)\]"
    assert re.fullmatch(rf"<Task pending name='mine' {coroutine} {waiting}>", repr(task))
    task.remove_done_callback(print)
    task.cancel()
    assert repr(task).startswith("<Task cancelling name='mine' coro=")
    turn(loop)
    turn(loop)
    coroutine = rf"coro=<{name}\(\) done, defined at {place}>"
    assert re.fullmatch(rf"<Task cancelled name='mine' {coroutine}>", repr(task))


def test_representation_shows_the_outcome(loop):
    async def fail():
        raise ValueError("failed")

    done, failed = loop.create_task(answer()), loop.create_task(fail())
    turn(loop)
    assert repr(done).endswith(" result=42>")
    assert repr(failed).endswith(" exception=ValueError('failed')>")
    assert failed.exception() is not None


def test_coroutine_of_a_task_is_its_own(loop):
    coroutine = answer()
    task = loop.create_task(coroutine)
    assert task.get_coro() is coroutine
    assert task._coro is coroutine
    turn(loop)
    assert task.get_coro() is coroutine


# Who runs and who is alive.


def test_current_task_is_the_one_whose_step_runs(loop):
    seen = []

    async def inner():
        seen.append(asyncio.current_task().get_name())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task().get_name())

    async def main():
        assert asyncio.current_task() is asyncio.current_task(loop)
        tasks = [loop.create_task(inner(), name=name) for name in ("one", "two")]
        loop.call_soon(lambda: seen.append(asyncio.current_task()))
        await asyncio.wait(tasks)
        tasks[0].add_done_callback(lambda _: seen.append(asyncio.current_task()))
        await asyncio.sleep(0)
        return asyncio.current_task().get_name()

    assert loop.run_until_complete(loop.create_task(main(), name="main")) == "main"
    assert seen == ["one", "two", None, "one", "two", None]
    assert asyncio.current_task(loop) is None
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.current_task()


@every_task
def test_current_task_knows_tasks_of_every_kind(loop, namespace, task_class):
    async def inner():
        return asyncio.current_task()

    async def main():
        task = task_class(namespace)(inner(), loop=loop)
        assert await task is task
        return asyncio.current_task()

    task = task_class(namespace)(main(), loop=loop)
    assert loop.run_until_complete(task) is task


def test_current_task_can_be_asked_from_another_thread(loop):
    seen = []

    async def main():
        thread = threading.Thread(target=lambda: seen.append(asyncio.current_task(loop)))
        thread.start()
        thread.join()
        return asyncio.current_task()

    assert [loop.run_until_complete(main())] == seen


def test_two_tasks_cannot_be_entered_at_once(loop, waiting):
    async def main():
        with pytest.raises(RuntimeError, match=r"^Cannot enter into task <Task .* while another"):
            asyncio.tasks._enter_task(loop, waiting)
        with pytest.raises(RuntimeError, match=r"(Leaving|leave) task"):
            asyncio.tasks._leave_task(loop, waiting)
        return asyncio.current_task()

    task = loop.create_task(main())
    assert loop.run_until_complete(task) is task


def test_all_tasks_are_those_that_are_not_done(loop, new_loop, waiting):
    async def main():
        others = [loop.create_task(answer()) for _ in range(3)]
        assert asyncio.all_tasks() == {waiting, asyncio.current_task(), *others}
        await asyncio.wait(others)
        return asyncio.all_tasks()

    other = new_loop()
    foreign = other.create_task(answer())
    task = loop.create_task(main())
    assert loop.run_until_complete(task) == {waiting, task}
    assert asyncio.all_tasks(loop) == {waiting}
    assert asyncio.all_tasks(other) == {foreign}
    other.run_until_complete(foreign)
    assert asyncio.all_tasks(other) == set()
    other.close()


def test_all_tasks_lists_tasks_of_every_kind(loop, namespace, survivors):
    tasks = {make(namespace)(wait_for_ever(), loop=loop) for make in TASKS.values()}
    survivors.extend(tasks)
    turn(loop)
    assert asyncio.all_tasks(loop) == tasks


def test_all_tasks_can_be_asked_from_another_thread(loop, waiting):
    problems, counts, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                tasks = asyncio.all_tasks(loop)
                counts.append(len(tasks))
                assert waiting in tasks
            except BaseException as problem:
                problems.append(problem)

    async def main():
        for _ in range(300):
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(20)))

    thread = threading.Thread(target=ask)
    thread.start()
    loop.run_until_complete(main())
    stop.set()
    thread.join()
    assert problems == []
    assert counts


def test_all_tasks_lists_what_others_register(loop):
    class ThirdParty:
        """A task of another library, as gevent's or curio's bridges make them."""

        def done(self):
            return False

        def get_loop(self):
            return loop

    task = ThirdParty()
    asyncio._register_task(task)
    assert task in asyncio.all_tasks(loop)
    asyncio._unregister_task(task)
    assert task not in asyncio.all_tasks(loop)
