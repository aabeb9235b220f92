"""run, Runner, install and the policy: the ways to put a program on aioxide's loop.

Run by pytest.  What asyncio has too runs on both; what only aioxide offers stands at the end.
"""

import asyncio
import contextvars
import os
import sys

import pytest
from loopback import listener

import aioxide


def module_of(loop):
    return type(loop).__module__.split(".")[0]


async def where():
    return module_of(asyncio.get_running_loop())


# What asyncio offers too


def test_runner_with_a_loop_factory(namespace, new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(where()) == namespace.__name__
        assert module_of(runner.get_loop()) == namespace.__name__
        assert runner.run(where()) == namespace.__name__
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.get_loop()


def test_runner_closes_its_loop_and_ends_what_is_left(new_loop):
    ended = []

    async def lingering():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def generator():
        try:
            yield 1
            yield 2
        finally:
            ended.append("generator")

    async def main():
        asyncio.current_task().lingering = asyncio.ensure_future(lingering())
        main.generator = generator()
        await anext(main.generator)
        await asyncio.get_running_loop().run_in_executor(None, sum, [1, 2])
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.run(main())
    assert loop.is_closed()
    assert sorted(ended) == ["generator", "task"]


def test_runner_keeps_its_context_between_runs(new_loop):
    variable = contextvars.ContextVar("variable", default=0)

    async def count():
        variable.set(variable.get() + 1)
        return variable.get()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert [runner.run(count()) for _ in range(3)] == [1, 2, 3]
        assert runner.run(count(), context=contextvars.Context()) == 1


def test_runner_passes_debug_on(new_loop):
    async def debug():
        return asyncio.get_running_loop().get_debug()

    for given in (True, False):
        with asyncio.Runner(loop_factory=new_loop, debug=given) as runner:
            assert runner.run(debug()) is given


def test_runner_refuses_what_is_no_coroutine(new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        for thing in (None, where, 5):
            with pytest.raises((ValueError, TypeError)):
                runner.run(thing)


def test_runner_raises_what_main_raises(new_loop):
    async def fail():
        raise ZeroDivisionError("in main")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        with pytest.raises(ZeroDivisionError, match="in main"):
            runner.run(fail())
        assert runner.run(asyncio.sleep(0, "goes on")) == "goes on"


# What aioxide offers


def test_run_returns_the_result_on_an_aioxide_loop():
    assert aioxide.run(where()) == "aioxide"
    assert aioxide.run(asyncio.sleep(0, 5)) == 5


def test_run_takes_a_loop_factory():
    assert aioxide.run(where(), loop_factory=asyncio.SelectorEventLoop) == "asyncio"
    assert aioxide.run(where(), loop_factory=aioxide.new_event_loop) == "aioxide"
    assert aioxide.run(where(), loop_factory=aioxide.EventLoop) == "aioxide"


def test_run_takes_debug():
    async def debug():
        return asyncio.get_running_loop().get_debug()

    assert aioxide.run(debug(), debug=True) is True
    assert aioxide.run(debug(), debug=False) is False


def test_run_takes_a_task_factory():
    made = []

    def factory(loop, coro, **given):
        made.append((coro.__name__, sorted(given)))
        return asyncio.Task(coro, loop=loop, **given)

    async def child():
        return "child"

    async def main():
        return await asyncio.get_running_loop().create_task(child(), name="named")

    assert aioxide.run(main(), task_factory=factory) == "child"
    assert made[0][0] == "main"
    assert made[1][0] == "child"


def test_run_with_eager_tasks():
    steps = []

    async def child():
        steps.append("child")

    async def main():
        task = asyncio.get_running_loop().create_task(child())
        steps.append("after")
        await task

    aioxide.run(main(), task_factory=aioxide.eager_task_factory)
    assert steps == ["child", "after"]
    steps.clear()
    aioxide.run(main())
    assert steps == ["after", "child"]


def test_run_refuses_a_running_loop():
    async def nested():
        coroutine = where()
        try:
            aioxide.run(coroutine)
        finally:
            coroutine.close()

    with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
        aioxide.run(nested())


def test_run_refuses_what_is_no_coroutine():
    for thing in (None, where, 5):
        with pytest.raises((ValueError, TypeError)):
            aioxide.run(thing)
    coroutine = where()
    with pytest.raises(TypeError):
        aioxide.run(coroutine, task_factory="not callable")
    coroutine.close()


def test_runner_of_aioxide():
    with aioxide.Runner() as runner:
        assert runner.run(where()) == "aioxide"
    with aioxide.Runner(debug=True, task_factory=aioxide.eager_task_factory) as runner:
        assert runner.get_loop().get_debug() is True
        assert runner.get_loop().get_task_factory() is aioxide.eager_task_factory


def test_new_event_loop_gives_a_new_asyncio_loop():
    first, second = aioxide.new_event_loop(), aioxide.new_event_loop()
    assert first is not second
    for loop in (first, second):
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(loop, aioxide.EventLoop)
        assert not loop.is_running()
        loop.close()


def test_importing_changes_nothing(run_child, namespace):
    """Not before install(): asyncio's own loop stays the default."""
    if namespace is asyncio:
        prefix = ""
    else:
        prefix = "import aioxide.runners, aioxide.event_loop\n"
    child = run_child(
        prefix
        + """
async def main():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]

print(asyncio.run(main()))
"""
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "asyncio\n", "")


def test_install_and_uninstall():
    before = asyncio.new_event_loop, asyncio.events.new_event_loop
    try:
        aioxide.install()
        aioxide.install()
        assert asyncio.run(where()) == "aioxide"
        with asyncio.Runner() as runner:
            assert runner.run(where()) == "aioxide"
        loop = asyncio.new_event_loop()
        assert module_of(loop) == "aioxide"
        loop.close()
    finally:
        aioxide.uninstall()
    aioxide.uninstall()
    assert (asyncio.new_event_loop, asyncio.events.new_event_loop) == before
    assert asyncio.run(where()) == "asyncio"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies are deprecated from 3.14 on")
def test_the_policy():
    policy = aioxide.EventLoopPolicy()
    assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
    loop = policy.new_event_loop()
    assert module_of(loop) == "aioxide"
    loop.close()
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(policy)
    try:
        assert asyncio.run(where()) == "aioxide"
    finally:
        asyncio.set_event_loop_policy(before)


def test_every_name_of_asyncio_is_here():
    missing = [name for name in asyncio.__all__ if not hasattr(aioxide, name)]
    assert missing == []
    assert set(asyncio.__all__) <= set(aioxide.__all__)
    for submodule in ("events", "futures", "sslproto", "trsock"):
        assert getattr(aioxide, submodule) is getattr(asyncio, submodule)
    for submodule in (
        "locks",
        "queues",
        "runners",
        "streams",
        "taskgroups",
        "tasks",
        "threads",
        "timeouts",
    ):
        ours, theirs = getattr(aioxide, submodule), getattr(asyncio, submodule)
        missing = [name for name in vars(theirs) if not hasattr(ours, name)]
        assert missing == []


def test_aioxide_under_the_name_of_asyncio(run_child, namespace):
    child = run_child(
        f"""
        import {namespace.__name__} as asyncio

        async def handle(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async def main():
            assert isinstance(asyncio.current_task(), asyncio.Task)
            lock, queue, event = asyncio.Lock(), asyncio.Queue(), asyncio.Event()
            async with lock, asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(queue.put("item"))
                group.create_task(event.wait())
                event.set()
            assert await asyncio.wait_for(queue.get(), 20) == "item"
            assert await asyncio.to_thread(sum, [1, 2]) == 3
            async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(
                    *server.sockets[0].getsockname()
                )
                writer.write(b"hello\\n")
                print((await reader.read()).decode(), end="")
                writer.close()
                await writer.wait_closed()

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "HELLO\n", "")


def test_a_thousand_runs_leave_nothing(namespace, new_loop):
    """Each run has a loop of its own, and watches a descriptor on it."""

    async def main():
        with listener() as listening:
            asyncio.get_running_loop().add_reader(listening, print)
            await asyncio.sleep(0)
            asyncio.get_running_loop().remove_reader(listening)

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(1000):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    assert descriptors() == before


@pytest.mark.parametrize("closed", [True, False])
def test_a_loop_that_lives_until_the_interpreter_ends(run_child, closed):
    """Whatever it holds, the end of the process is quiet."""
    child = run_child(
        f"""
        import socket

        async def main():
            loop = asyncio.get_running_loop()
            near, far = socket.socketpair()
            near.setblocking(False)
            loop.add_reader(near, print)
            loop.call_later(3600, print)
            loop.kept = near, far
            await loop.run_in_executor(None, sum, [1])

        loop = new_event_loop()
        loop.myself = loop
        loop.run_until_complete(main())
        if {closed}:
            for sock in loop.kept:
                loop.remove_reader(sock)
                sock.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        print("end")
        """,
        arguments=(),
    )
    assert (child.returncode, child.stdout) == (0, "end\n")
    assert "panicked" not in child.stderr
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize("ending", ["unclosed", "closed", "run and unclosed", "run and closed"])
@pytest.mark.parametrize(
    "kept",
    [
        "loop.create_future()",
        "asyncio.wrap_future(concurrent.futures.Future(), loop=loop)",
        "loop.create_task(asyncio.sleep(0))",
        "loop.call_later(3600, print)",
        "loop.run_in_executor(None, sum, [1])",
        "loop",
    ],
)
def test_a_cycle_that_lives_until_the_interpreter_ends(run_child, kept, ending):
    """The collector takes it apart when Python is on its way out: no abort, no message."""
    child = run_child(
        f"""
        import concurrent.futures

        loop = new_event_loop()
        cycle = [{kept}]
        cycle.append(cycle)
        if "run" in {ending!r}:
            loop.run_until_complete(asyncio.sleep(0.01))
        if " closed" in " " + {ending!r}:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        print("end", flush=True)
        """,
        arguments=(),
    )
    assert (child.returncode, child.stdout) == (0, "end\n"), child.stderr
    assert "panicked" not in child.stderr
