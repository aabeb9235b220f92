"""What asyncio loses without a word, and what aioxide does of the same program.

Run by pytest, each program once on asyncio, which shows the loss, and once on aioxide. What each
report says in detail is tested in test_watchdog.py, test_cancel_info.py and test_reports.py.
"""

import sys

import pytest

QUIET = ()


@pytest.fixture
def is_aioxide(namespace):
    return namespace.__name__ == "aioxide"


def test_task_that_nobody_holds_is_finished(run_child, is_aioxide):
    child = run_child(
        """
        import gc

        async def wait_for_nobody():
            await asyncio.get_running_loop().create_future()

        async def main():
            asyncio.create_task(wait_for_nobody())
            await asyncio.sleep(0)
            gc.collect()
            print(len(asyncio.all_tasks()) - 1, "alive")

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    assert child.stdout == ("1 alive\n" if is_aioxide else "0 alive\n")


def test_exception_of_a_task_that_is_kept_is_told(run_child, is_aioxide):
    soon = ', unretrieved="soon"' if is_aioxide else ""
    child = run_child(
        f"""
        import os
        tasks = []

        async def broken():
            raise ValueError("lost")

        async def main():
            tasks.append(asyncio.create_task(broken()))
            await asyncio.sleep(0.3)
            os._exit(0)  # What the collector would say in the end comes too late.

        namespace.run(main(){soon})
        """,
        arguments=QUIET,
    )
    assert ("ValueError: lost" in child.stderr) == is_aioxide
    assert ("created_at: '<string>:" in child.stderr) == is_aioxide


def test_task_that_refuses_to_end_is_named(run_child, is_aioxide):
    impatient = "from aioxide import reports; reports.CANCEL_GRACE = 0.1" if is_aioxide else ""
    child = run_child(
        f"""
        import logging, os, threading
        {impatient}
        logging.basicConfig()

        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(60)
                except BaseException:
                    pass

        async def main():
            asyncio.create_task(stubborn(), name="stubborn one")
            await asyncio.sleep(0)
            threading.Timer(1, os._exit, [7]).start()

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    assert child.returncode == 7
    assert ("'stubborn one' goes on" in child.stderr) == is_aioxide
    if not is_aioxide:
        assert child.stderr == ""


def test_generator_is_closed_in_its_own_context(run_child, is_aioxide):
    child = run_child(
        """
        import contextvars, gc
        variable = contextvars.ContextVar("variable")

        async def generator():
            token = variable.set(1)
            try:
                yield 1
            finally:
                variable.reset(token)

        async def use():
            async for _ in generator():
                break

        async def main():
            await asyncio.create_task(use())
            gc.collect()
            await asyncio.sleep(0.01)

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    assert ("was created in a different Context" in child.stderr) != is_aioxide


def test_line_that_blocks_the_loop_is_named(run_child, is_aioxide):
    child = run_child(
        """
        import time

        async def main():
            time.sleep(0.9)

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    assert ("The event loop was blocked" in child.stderr) == is_aioxide
    assert ("in main" in child.stderr) == is_aioxide


def test_what_was_written_before_the_end_is_sent(run_child, is_aioxide):
    """The peer reads when the program has returned from its main coroutine, and not before."""
    child = run_child(
        """
        import socket, threading

        listener = socket.create_server(("127.0.0.1", 0))
        returned = threading.Event()

        def receive():
            peer, _ = listener.accept()
            returned.wait()
            received = 0
            while data := peer.recv(1 << 20):
                received += len(data)
            print(received)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()

        class Told(asyncio.Protocol):
            def connection_lost(self, error):
                print("told", error)

        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(Told, *listener.getsockname())
            transport.write(bytes(50_000_000))
            transport.close()
            returned.set()

        namespace.run(main())
        if namespace is not asyncio:
            thread.join()
        """,
        arguments=QUIET,
    )
    if is_aioxide:
        assert sorted(child.stdout.splitlines()) == ["50000000", "told None"]
    else:
        assert "told" not in child.stdout


def test_transport_that_outlives_its_loop_does_not_fail(run_child, is_aioxide):
    child = run_child(
        """
        import gc

        async def main():
            global process
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)

        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        del process
        gc.collect()
        """,
        arguments=QUIET,
    )
    if not is_aioxide and sys.version_info < (3, 13) and "Event loop is closed" not in child.stderr:
        pytest.skip("subprocesses of this asyncio need the main thread's child watcher")
    assert ("RuntimeError: Event loop is closed" in child.stderr) != is_aioxide


def test_cancellation_of_a_wait_that_is_just_over_arrives(run_child, is_aioxide):
    child = run_child(
        """
        async def main():
            async def wait():
                await namespace.wait_for(future, 60)
                await asyncio.get_running_loop().create_future()

            future = asyncio.get_running_loop().create_future()
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            future.set_result(1)
            waiting.cancel()
            done, lost = await asyncio.wait({waiting}, timeout=0.2)
            print("arrived" if done else "lost")
            waiting.cancel()

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    is_right = is_aioxide or sys.version_info >= (3, 12)
    assert child.stdout == ("arrived\n" if is_right else "lost\n")


def test_cancellation_of_a_group_that_is_failing_arrives(run_child, is_aioxide):
    child = run_child(
        """
        async def fail():
            raise ValueError

        async def end_slowly():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0.05)

        async def main():
            async def wait():
                try:
                    async with namespace.TaskGroup() as group:
                        group.create_task(end_slowly())
                        group.create_task(fail())
                except* ValueError:
                    pass
                await asyncio.get_running_loop().create_future()

            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0.02)
            waiting.cancel()
            done, lost = await asyncio.wait({waiting}, timeout=0.2)
            print("arrived" if done else "lost")
            waiting.cancel()

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    is_right = is_aioxide or sys.version_info >= (3, 13)
    assert child.stdout == ("arrived\n" if is_right else "lost\n")


def test_permit_of_a_waiter_that_is_closed_is_passed_on(run_child, is_aioxide):
    child = run_child(
        """
        async def main():
            semaphore = namespace.Semaphore()
            await semaphore.acquire()
            waiting = semaphore.acquire()
            waiting.send(None)
            semaphore.release()
            waiting.close()
            print(1 - semaphore._value, "lost")

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    assert child.stdout == ("0 lost\n" if is_aioxide else "1 lost\n")


def test_group_can_be_cancelled(run_child, is_aioxide):
    child = run_child(
        """
        async def main():
            async with namespace.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                await asyncio.sleep(0)
                group.cancel()
            print("over")

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    is_right = is_aioxide or sys.version_info >= (3, 15)
    assert (child.stdout == "over\n") == is_right


def test_message_in_many_pieces_costs_one_wake_up(run_child, is_aioxide):
    child = run_child(
        """
        async def main():
            reader = namespace.StreamReader(loop=asyncio.get_running_loop())
            reading = asyncio.ensure_future(reader.readexactly(100))
            await asyncio.sleep(0)
            waiters = []
            for _ in range(100):
                if reader._waiter not in waiters:
                    waiters.append(reader._waiter)
                reader.feed_data(b"x")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            await reading
            print(len(waiters), "times")

        namespace.run(main())
        """,
        arguments=QUIET,
    )
    assert child.stdout == ("1 times\n" if is_aioxide else "100 times\n")
