"""Errors that nobody retrieved, and tasks that never finished: told soon, and once.

Run by pytest on aioxide alone, beside test_loop_reports.py, which has what asyncio says too.
"""

import asyncio
import gc
import sys

import pytest
from loopback import on_loop, until

import aioxide
from aioxide import reports


@pytest.fixture(params=["aioxide"])
def namespace(request):
    return aioxide


async def broken():
    raise ValueError("broken")


@on_loop
async def test_task_that_is_kept_is_reported_soon_with_the_line_that_made_it(loop, loop_errors):
    loop.set_unretrieved("soon")
    line = sys._getframe().f_lineno + 1
    kept = asyncio.create_task(broken())
    await until(lambda: loop_errors)
    (context,) = loop_errors.take()
    assert context["message"] == "Task exception was never retrieved"
    assert context["future"] is kept
    assert context["created_at"].startswith(f"{__file__}:{line} in ")
    assert repr(context["exception"]) == "ValueError('broken')"
    assert loop.metrics()["unretrieved_exceptions"] == 1
    del kept, context
    gc.collect()
    assert loop_errors == []


@on_loop
async def test_future_is_reported_soon_too(loop, loop_errors):
    loop.set_unretrieved("soon")
    future = loop.create_future()
    future.set_exception(ValueError())
    await until(lambda: loop_errors)
    (context,) = loop_errors.take()
    assert context["message"] == "Future exception was never retrieved"


@on_loop
async def test_exception_that_somebody_awaits_is_not_reported(loop, loop_errors):
    loop.set_unretrieved("soon")
    with pytest.raises(ValueError, match="broken"):
        await asyncio.create_task(broken())
    results = await asyncio.gather(broken(), broken(), return_exceptions=True)
    assert len(results) == 2
    await asyncio.sleep(reports.UNRETRIEVED_GRACE * 1.5)
    assert loop.metrics()["unretrieved_exceptions"] == 0


@on_loop
async def test_default_is_asyncios(loop, loop_errors):
    assert loop.get_unretrieved() == "collected"
    kept = asyncio.create_task(broken())
    await asyncio.sleep(reports.UNRETRIEVED_GRACE * 1.5)
    assert loop_errors == []
    del kept
    gc.collect()
    (context,) = loop_errors.take()
    assert "created_at" not in context


def test_choice_is_one_of_two(loop):
    loop.set_unretrieved("soon")
    assert loop.get_unretrieved() == "soon"
    loop.set_unretrieved("collected")
    assert loop.get_unretrieved() == "collected"
    with pytest.raises(ValueError, match="'collected' or 'soon' is expected, got 'never'"):
        loop.set_unretrieved("never")


def test_loop_that_closes_reports_at_once(loop, loop_errors):
    loop.set_unretrieved("soon")
    kept = loop.create_task(broken())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    (context,) = loop_errors.take()
    assert context["future"] is kept


def test_run_and_runner_take_the_choice():
    async def chosen():
        return asyncio.get_running_loop().get_unretrieved()

    assert aioxide.run(chosen()) == "collected"
    assert aioxide.run(chosen(), unretrieved="soon") == "soon"
    with aioxide.Runner(unretrieved="soon") as runner:
        assert runner.run(chosen()) == "soon"
    with pytest.raises(ValueError, match="expected, got 'later'"):
        aioxide.Runner(unretrieved="later")


def test_task_left_pending_says_where_it_waits(loop, loop_errors):
    async def inner(future):
        await future

    async def outer(future):
        await inner(future)

    task = loop.create_task(outer(loop.create_future()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    (context,) = loop_errors.take()
    assert context["task"] is task
    assert context["waiting_at"].startswith(f"{__file__}:")
    assert context["waiting_at"].endswith("inner")
    assert loop.metrics()["unfinished_tasks"] == 1


def test_place_in_asyncio_is_told_as_the_line_that_called_it(loop, loop_errors):
    async def consumer():
        await asyncio.sleep(60)

    loop.create_task(consumer())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    (context,) = loop_errors.take()
    assert context["waiting_at"].endswith("consumer")


def test_loop_that_was_never_closed_tells_of_its_tasks_at_exit(run_child):
    child = run_child(
        """
        async def forgotten():
            await asyncio.get_running_loop().create_future()

        loop = new_event_loop()
        task = loop.create_task(forgotten(), name="forgotten one")
        loop.run_until_complete(asyncio.sleep(0))
        """,
        arguments=(),
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr.count("Task was destroyed but it is pending!") == 1
    assert "waiting_at: '<string>:" in child.stderr
    assert "forgotten one" in child.stderr


def test_debug_run_raises_what_nobody_retrieved(run_child):
    child = run_child(
        """
        async def broken():
            raise ValueError("broken")

        async def main():
            kept = asyncio.create_task(broken())
            await asyncio.sleep(60)

        try:
            namespace.run(main(), debug=True)
        except namespace.UnretrievedExceptionWarning as error:
            print(type(error.__cause__).__name__, "created at" in str(error))
        """
    )
    assert child.stdout == "ValueError True\n", child.stderr


def test_debug_run_raises_what_is_left_when_it_ends(run_child):
    child = run_child(
        """
        async def broken():
            raise ValueError("broken")

        async def main():
            global kept
            kept = asyncio.create_task(broken())
            await asyncio.sleep(0)

        try:
            namespace.run(main(), debug=True)
        except namespace.LoopWarning as error:
            print(type(error).__name__)
        """
    )
    assert child.stdout == "UnretrievedExceptionWarning\n", child.stderr


def test_debug_run_without_filters_only_warns(run_child):
    child = run_child(
        """
        async def broken():
            raise ValueError("broken")

        async def main():
            global kept
            kept = asyncio.create_task(broken())
            await asyncio.sleep(0.3)
            return "went on"

        print(namespace.run(main(), debug=True))
        """,
        arguments=(),
    )
    assert child.stdout == "went on\n"
    assert child.stderr.count("UnretrievedExceptionWarning") == 1


LEAKS_A_TRANSPORT = """
    async def main():
        global transport
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, *address)
        server.close()
    """


def test_transport_that_nobody_closed_is_told_with_the_line_that_opened_it(run_child):
    child = run_child(
        LEAKS_A_TRANSPORT
        + """
    try:
        namespace.run(main(), debug=True)
    except namespace.UnclosedTransportWarning as error:
        print(str(error).count("opened at <string>:"), "opened by main")
    """,
        arguments=("-W", "error::RuntimeWarning"),
    )
    assert child.stdout == "1 opened by main\n", child.stderr


def test_transport_that_nobody_closed_is_counted(run_child):
    child = run_child(
        LEAKS_A_TRANSPORT
        + """
    loop = new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    print(loop.metrics()["unclosed_transports"] >= 1)
    """,
        arguments=(),
    )
    assert (child.stdout, child.stderr) == ("True\n", ""), child.stderr


def test_debug_of_asyncios_own_kind_warns_of_nothing(run_child):
    child = run_child(
        """
        import gc

        async def broken():
            raise ValueError("broken")

        async def main():
            task = asyncio.create_task(broken())
            await asyncio.sleep(0)
            del task
            gc.collect()

        namespace.run(main())
        """
    )
    assert child.returncode == 0
    assert "Warning" not in child.stderr
    assert "Task exception was never retrieved" in child.stderr
