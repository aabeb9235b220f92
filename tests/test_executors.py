"""run_in_executor: any executor, the default one, cancellation both ways, and shutting down.

Run by pytest on asyncio and on aioxide.  Threads wait for events of the test, never for time.
"""

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
import warnings
import weakref

import pytest
from loopback import DEADLINE, on_loop, until

WAIT = DEADLINE / 2


class Inline(concurrent.futures.Executor):
    """Makes the call at once; what it returns is done already."""

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class ByHand(concurrent.futures.Executor):
    """Hands out futures that the test completes itself."""

    kind = concurrent.futures.Future

    def __init__(self):
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        self.futures.append(self.kind())
        return self.futures[-1]


class OwnFuture(concurrent.futures.Future):
    """A future class of the program's own."""

    def result(self, timeout=None):
        return ("its own", super().result(timeout))


class OwnByHand(ByHand):
    kind = OwnFuture


@on_loop
async def test_many_calls_at_once_and_their_results_in_order(loop):
    results = await asyncio.gather(*(loop.run_in_executor(None, divmod, n, 7) for n in range(300)))
    assert results == [divmod(n, 7) for n in range(300)]
    await loop.shutdown_default_executor()


@on_loop
async def test_a_thread_of_the_default_executor_is_an_ordinary_thread(loop):
    def look():
        thread = threading.current_thread()
        return thread.name, thread.daemon, thread in threading.enumerate(), type(thread)

    name, daemon, is_listed, kind = await loop.run_in_executor(None, look)
    assert name.startswith("asyncio_")
    assert (daemon, is_listed, kind) == (False, True, threading.Thread)
    await loop.shutdown_default_executor()


@on_loop
async def test_a_thread_keeps_what_is_local_to_it(loop):
    local = threading.local()
    gate = threading.Barrier(3)

    def remember():
        gate.wait(WAIT)
        local.seen = getattr(local, "seen", 0) + 1
        return threading.current_thread().name, local.seen

    for turn in range(1, 4):
        first, second, _ = await asyncio.gather(
            loop.run_in_executor(None, remember),
            loop.run_in_executor(None, remember),
            asyncio.to_thread(gate.wait, WAIT),
        )
        assert first[0] != second[0]
        assert max(first[1], second[1]) >= turn - 1
    await loop.shutdown_default_executor()


@on_loop
async def test_threads_are_traced_as_threading_settrace_says(loop):
    traced = []
    threading.settrace(lambda frame, event, argument: traced.append(frame.f_code.co_name))
    try:
        await loop.run_in_executor(None, lambda: None)
    finally:
        threading.settrace(None)
    assert "<lambda>" in traced
    await loop.shutdown_default_executor()


@on_loop
async def test_the_default_executor_is_a_thread_pool_that_takes_work_from_others(loop):
    await loop.run_in_executor(None, int)
    pool = loop._default_executor
    assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
    submitted = [pool.submit(pow, 2, n) for n in range(50)]
    assert [future.result(WAIT) for future in submitted] == [2**n for n in range(50)]
    assert list(pool.map(abs, [-1, -2], timeout=WAIT)) == [1, 2]
    failing = pool.submit(int, "x")
    assert isinstance(failing.exception(WAIT), ValueError)
    assert await loop.run_in_executor(None, abs, -3) == 3
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(int)


@on_loop
async def test_the_context_is_not_copied(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set by the task")
    for executor in (None, Inline()):
        seen = await loop.run_in_executor(executor, variable.get)
        assert seen == ("unset" if executor is None else "set by the task")
    assert await asyncio.to_thread(variable.get) == "set by the task"
    await loop.shutdown_default_executor()


def test_a_call_begins_although_the_loop_does_not_turn(loop):
    """A callback may wait for it, wrong as that is; so may code that has not run the loop yet."""
    begun = threading.Event()
    before = loop.run_in_executor(None, begun.set)
    assert begun.wait(WAIT)

    async def main():
        inside = threading.Event()
        future = loop.run_in_executor(None, inside.set)
        assert inside.wait(WAIT)
        await future
        await before

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("make", [lambda: None, Inline, concurrent.futures.ThreadPoolExecutor])
@on_loop
async def test_whatever_the_call_raises_is_raised_to_who_awaits_it(loop, error, make):
    def fail():
        raise error

    executor = make()
    future = loop.run_in_executor(executor, fail)
    await asyncio.wait([future])
    assert future.exception() is error
    if executor is not None:
        executor.shutdown()
    await loop.shutdown_default_executor()


@pytest.mark.parametrize("executor", [None, Inline()])
@on_loop
async def test_errors_of_concurrent_futures_become_asyncios(loop, executor):
    for theirs, ours in (
        (concurrent.futures.CancelledError("why"), asyncio.CancelledError),
        (concurrent.futures.InvalidStateError("why"), asyncio.InvalidStateError),
    ):

        def fail(error=theirs):
            raise error

        future = loop.run_in_executor(executor, fail)
        await asyncio.wait([future])
        assert not future.cancelled()
        assert type(future.exception()) is ours
        assert future.exception().args == ("why",)
    await loop.shutdown_default_executor()


@pytest.mark.parametrize("make", [ByHand, OwnByHand])
@on_loop
async def test_a_concurrent_future_is_followed_whoever_completes_it(loop, make):
    executor = make()
    results = [loop.run_in_executor(executor, print) for _ in range(3)]
    first, second, third = executor.futures

    def complete():
        first.set_result(1)
        second.set_exception(LookupError("no"))
        third.cancel()
        third.set_running_or_notify_cancel()

    thread = threading.Thread(target=complete)
    thread.start()
    await asyncio.wait(results)
    thread.join()
    assert results[0].result() == (1 if make is ByHand else ("its own", 1))
    assert isinstance(results[1].exception(), LookupError)
    assert results[2].cancelled()


@on_loop
async def test_a_future_of_the_loop_never_changes_while_its_code_runs(loop):
    """The outcome comes from another thread and arrives with a turn of the loop, not before."""
    executor = ByHand()
    future = loop.run_in_executor(executor, print)
    thread = threading.Thread(target=executor.futures[0].set_result, args=("done",))
    thread.start()
    thread.join()
    assert not future.done()
    assert await future == "done"


@on_loop
async def test_cancelling_reaches_the_concurrent_future(loop):
    executor = ByHand()
    future = loop.run_in_executor(executor, print)
    source = executor.futures[0]
    assert future.cancel()
    await until(source.cancelled)
    assert not source.set_running_or_notify_cancel()
    assert future.cancelled()


@on_loop
async def test_a_task_cancelled_while_its_call_runs_goes_on_at_once(loop, loop_errors):
    for executor in (None, concurrent.futures.ThreadPoolExecutor(1)):
        begun, release = threading.Event(), threading.Event()

        def block(begun=begun, release=release):
            begun.set()
            assert release.wait(WAIT)
            raise ZeroDivisionError

        async def wait(executor=executor, block=block):
            await loop.run_in_executor(executor, block)

        task = loop.create_task(wait())
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        if executor is not None:
            executor.shutdown()
    await loop.shutdown_default_executor()
    await asyncio.sleep(0)
    assert loop_errors == []


@on_loop
async def test_a_call_that_is_cancelled_before_it_begins_is_never_made(loop):
    release, made = threading.Event(), []
    await loop.run_in_executor(None, int)
    blockers = [
        loop.run_in_executor(None, release.wait, WAIT)
        for _ in range(loop._default_executor._max_workers)
    ]
    waiting = loop.run_in_executor(None, made.append, 1)
    assert waiting.cancel()
    last = loop.run_in_executor(None, made.append, 2)
    # asyncio tells the executor of the cancellation with the next turn.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*blockers, last)
    assert made == [2]
    await loop.shutdown_default_executor()


@on_loop
async def test_no_more_threads_are_started_than_there_is_work_for(loop):
    for _ in range(200):
        await loop.run_in_executor(None, int)
    assert len(loop._default_executor._threads) <= loop._default_executor._max_workers
    await loop.shutdown_default_executor()


@pytest.mark.parametrize("make", [lambda: None, concurrent.futures.ThreadPoolExecutor])
@on_loop
async def test_what_was_called_is_let_go(loop, make):
    class Argument:
        pass

    executor = make()
    argument = Argument()
    died = weakref.ref(argument)
    assert await loop.run_in_executor(executor, isinstance, argument, Argument)
    del argument
    await until(lambda: gc.collect() is not None and died() is None)
    if executor is not None:
        executor.shutdown()
    await loop.shutdown_default_executor()


def test_an_outcome_that_comes_after_the_loop_was_closed_is_dropped(new_loop):
    for make in (lambda: None, concurrent.futures.ThreadPoolExecutor):
        executor = make()
        loop = new_loop()
        begun, release = threading.Event(), threading.Event()

        def work(begun=begun, release=release):
            begun.set()
            release.wait(WAIT)

        loop.run_in_executor(executor, work)
        assert begun.wait(WAIT)
        threads = set((executor or loop._default_executor)._threads)
        loop.close()
        release.set()
        for thread in threads:
            if executor is not None:
                executor.shutdown()
            thread.join(WAIT)
            assert not thread.is_alive()


def test_threads_end_with_their_loop(new_loop):
    """Closing tells them; nobody needs to wait for them."""
    loop = new_loop()
    loop.run_until_complete(loop.run_in_executor(None, int))
    threads = set(loop._default_executor._threads)
    loop.close()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


@on_loop
async def test_shutdown_with_cancel_futures_cancels_what_is_queued(loop):
    release = threading.Event()
    await loop.run_in_executor(None, int)
    pool = loop._default_executor
    blockers = [loop.run_in_executor(None, release.wait, WAIT) for _ in range(pool._max_workers)]
    queued = [loop.run_in_executor(None, int) for _ in range(3)]
    direct = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    release.set()
    await asyncio.wait([*blockers, *queued])
    assert [future.cancelled() for future in queued] == [True] * 3
    assert direct.cancelled()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()


@on_loop
async def test_an_executor_that_refuses_is_heard(loop):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        loop.run_in_executor(executor, int)


def test_a_process_pool(run_child):
    child = run_child(
        """
        import concurrent.futures, multiprocessing
        async def main(loop):
            spawn = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as executor:
                print(await loop.run_in_executor(executor, pow, 2, 5))
                try:
                    await loop.run_in_executor(executor, int, "x")
                except ValueError as error:
                    print(error)
        if __name__ == "__main__":
            loop = new_event_loop()
            loop.run_until_complete(main(loop))
            loop.close()
        """,
    )
    assert child.stdout == "32\ninvalid literal for int() with base 10: 'x'\n", child.stderr
    assert child.returncode == 0


# Shutting down


@on_loop
async def test_a_cancelled_shutdown_can_be_repeated(loop, behaves_as):
    if not behaves_as(3, 13):  # Before, asyncio sets the result of a Future that was cancelled.
        return
    begun, release = threading.Event(), threading.Event()

    def block():
        begun.set()
        release.wait(WAIT)

    work = loop.run_in_executor(None, block)
    await until(begun.is_set)
    shutdown = loop.create_task(loop.shutdown_default_executor())
    await asyncio.sleep(0)
    shutdown.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shutdown
    release.set()
    await work
    await loop.shutdown_default_executor()
    for thread in loop._default_executor._threads:
        assert not thread.is_alive()


def stay(begun, release):
    begun.set()
    release.wait(WAIT)


@on_loop
async def test_the_warning_of_a_shutdown_in_vain_names_who_is_stuck_where(
    loop, namespace, behaves_as
):
    if not behaves_as(3, 13):  # Before, asyncio waits for ever in spite of its limit.
        return
    begun, release = threading.Event(), threading.Event()
    await loop.run_in_executor(None, int)
    work = loop.run_in_executor(None, stay, begun, release)
    await until(begun.is_set)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await loop.shutdown_default_executor(timeout=0.01)
    release.set()
    await work
    (text,) = (str(warning.message) for warning in caught)
    first, *rest = text.split("\n")
    assert first == "The executor did not finishing joining its threads within 0.01 seconds."
    if namespace is asyncio:
        assert rest == []
    else:
        (line,) = rest
        assert line.startswith("  thread asyncio_")
        assert f"stay ({__file__}:" in line
    for thread in loop._default_executor._threads:
        thread.join(WAIT)


def test_a_stuck_thread_does_not_hold_a_runner_for_ever(run_child, namespace, behaves_as):
    """Where CPython's Runner waits 300 seconds; here the constant is made smaller."""
    if not behaves_as(3, 13):  # Before, asyncio waits for ever in spite of its limit.
        return
    child = run_child(
        """
        import os, threading, warnings, sys
        asyncio.constants.THREAD_JOIN_TIMEOUT = 0.05
        if namespace is not asyncio:
            import aioxide.executors
            defaults = aioxide.executors.ExecutorMixin.shutdown_default_executor
            if defaults.__defaults__ == (300,):
                defaults.__defaults__ = (0.05,)
        begun = threading.Event()
        def stay():
            begun.set()
            threading.Event().wait()
        async def main():
            asyncio.get_running_loop().run_in_executor(None, stay)
            while not begun.is_set():
                await asyncio.sleep(0)
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        print("left", flush=True)
        os._exit(0)
        """,
    )
    assert child.stdout == "left\n"
    assert "did not finishing joining its threads within 0.05 seconds" in child.stderr


def test_a_program_ends_although_its_loop_was_never_closed(run_child):
    child = run_child(
        """
        loop = new_event_loop()
        async def main():
            await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(20)))
        loop.run_until_complete(main())
        print("done")
        """,
        arguments=("-W", "ignore"),
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "done\n", "")


def test_a_forked_child_exits_although_the_parents_threads_are_not_there(run_child):
    child = run_child(
        """
        import os, threading, warnings
        warnings.simplefilter("ignore")
        loop = new_event_loop()
        async def main():
            release = threading.Event()
            blocked = loop.run_in_executor(None, release.wait)
            await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(20)))
            pid = os.fork()
            if pid == 0:
                raise SystemExit(7)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            release.set()
            await blocked
            return status
        print(loop.run_until_complete(main()))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
    )
    assert (child.returncode, child.stdout) == (0, "7\n"), child.stderr
