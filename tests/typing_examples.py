"""What a type checker must understand of programs on aioxide.

Checked by test_stubs.py with `mypy --strict`, never run. `assert_type` fails when a type is lost,
and a `type: ignore` that is not needed fails too, so each mistake here must be found.
"""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, assert_type

import aioxide
import aioxide as asyncio_by_another_name
from aioxide import CancelledError, Queue, TaskGroup, gather, sleep, timeout
from aioxide._aioxide import StreamTransport


async def answer() -> int:
    await sleep(0)
    return 42


async def word() -> str:
    return await sleep(0, "word")


def running() -> None:
    assert_type(aioxide.run(answer()), int)
    assert_type(aioxide.run(word(), debug=True, loop_factory=aioxide.EventLoop), str)
    assert_type(aioxide.run(answer(), task_factory=aioxide.eager_task_factory), int)
    aioxide.run(answer)  # type: ignore[arg-type]
    aioxide.run(answer(), debugging=True)  # type: ignore[call-arg]
    with aioxide.Runner(task_factory=aioxide.eager_task_factory) as runner:
        assert_type(runner.run(word()), str)
        assert_type(runner.get_loop(), asyncio.AbstractEventLoop)
    assert_type(asyncio_by_another_name.run(answer()), int)
    assert_type(asyncio.Runner(loop_factory=aioxide.new_event_loop).run(answer()), int)
    assert_type(aioxide.install(), None)
    assert_type(aioxide.__version__, str)


def using_a_loop(callback: Callable[[int, str], None]) -> None:
    loop = aioxide.new_event_loop()
    assert_type(loop, aioxide.EventLoop)
    same_to_asyncio: asyncio.AbstractEventLoop = loop
    same_to_asyncio.set_debug(True)
    assert_type(loop.run_until_complete(answer()), int)
    assert_type(loop.create_task(word(), name="word", eager_start=True), asyncio.Task[str])
    handle: aioxide.Handle = loop.call_soon(callback, 1, "one", context=contextvars.copy_context())
    timer: aioxide.TimerHandle = loop.call_later(0.5, callback, 1, "one")
    assert_type(timer.when(), float)
    handle.cancel()
    loop.call_soon(callback, "one", 1)  # type: ignore[arg-type]
    loop.call_later("soon", callback, 1, "one")  # type: ignore[arg-type]
    assert_type(loop.run_in_executor(None, len, "word"), asyncio.Future[int])
    assert_type(loop.remove_reader(0), bool)
    loop.add_signal_handler(15, callback, 1, "one")
    loop.set_task_factory(aioxide.create_eager_task_factory(aioxide.Task))


async def using_tasks_and_futures() -> None:
    task: aioxide.Task[int] = aioxide.create_task(answer())
    assert_type(await task, int)
    assert_type(task.cancelling(), int)
    assert_type(await gather(answer(), word()), tuple[int, str])
    future: aioxide.Future[str] = aioxide.Future()
    future.add_done_callback(lambda done: print(done.result().upper()))
    future.set_result("word")
    future.set_result(1)  # type: ignore[arg-type]
    assert_type(await future, str)
    async with timeout(1), TaskGroup() as group:
        assert_type(group.create_task(word()), asyncio.Task[str])
    queue: Queue[bytes] = Queue()
    try:
        assert_type(await queue.get(), bytes)
    except CancelledError:
        raise


async def using_connections(protocol: asyncio.Protocol) -> None:
    reader, writer = await aioxide.open_connection("localhost", 80)
    assert_type(reader, asyncio.StreamReader)
    assert_type(writer, asyncio.StreamWriter)
    server: aioxide.Server = await aioxide.start_server(lambda reader, writer: None, "localhost")
    assert_type(server.is_serving(), bool)


def using_a_transport(transport: StreamTransport) -> None:
    same_to_asyncio: asyncio.Transport = transport
    same_to_asyncio.write(b"bytes")
    transport.write("text")  # type: ignore[arg-type]
    assert_type(transport.get_write_buffer_limits(), tuple[int, int])
    assert_type(transport.get_extra_info("peername"), Any)
