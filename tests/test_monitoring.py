"""Monitoring tools put their own functions on a loop; what the loop does goes through them.

Run by pytest on asyncio and on aioxide.  aiocop, sentry, prometheus exporters and test helpers
replace methods of the running loop's instance in this way.
"""

import asyncio
import contextvars
import functools
import time

import pytest
from loopback import Recorder, closed, on_loop, until

PATCHED = ("call_soon", "call_soon_threadsafe", "call_later", "call_at")


class Monitor:
    """Wraps each scheduled callback and counts what ran, as aiocop does."""

    def __init__(self, loop):
        self.scheduled, self.ran = [], []
        for name in PATCHED:
            setattr(loop, name, self.patched(name, getattr(loop, name)))
        self.loop = loop

    def patched(self, name, original):
        position = 1 if name in ("call_later", "call_at") else 0

        def schedule(*args, context=None):
            callback = args[position]
            self.scheduled.append((name, callback))
            wrapped = functools.partial(self.run, name, callback, *args[position + 1 :])
            return original(*args[:position], wrapped, context=context)

        return schedule

    def run(self, name, callback, *args):
        began = time.perf_counter()
        try:
            return callback(*args)
        finally:
            self.ran.append((name, callback, time.perf_counter() - began))

    def off(self):
        for name in PATCHED:
            delattr(self.loop, name)

    def count(self, name):
        return sum(1 for entry in self.ran if entry[0] == name)


@on_loop
async def test_every_step_of_a_task_is_seen(loop):
    monitor = Monitor(loop)

    async def steps():
        for _ in range(5):
            await asyncio.sleep(0)
        return "done"

    assert await loop.create_task(steps()) == "done"
    # Its first step and five more; the step of this task that was woken still runs.
    assert monitor.count("call_soon") == 6
    assert [name for name, _ in monitor.scheduled] == ["call_soon"] * 7
    monitor.off()
    await loop.create_task(steps())
    assert len(monitor.scheduled) == 7


@on_loop
async def test_steps_run_in_the_context_of_their_task(loop):
    variable = contextvars.ContextVar("variable")
    monitor = Monitor(loop)

    async def main():
        variable.set("mine")
        await asyncio.sleep(0)
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
        return variable.get()

    assert await loop.create_task(main()) == "mine"
    monitor.off()


@on_loop
async def test_futures_timers_and_timeouts_are_seen(loop):
    monitor = Monitor(loop)
    await asyncio.sleep(0.001)
    assert monitor.count("call_later") == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await loop.create_future()
    # A call_later is a call_at too.
    assert [name for name, _ in monitor.scheduled].count("call_at") == 2
    future = loop.create_future()
    seen = []
    future.add_done_callback(seen.append)
    future.set_result(None)
    await until(lambda: seen)
    assert any(callback == seen.append for _, callback, _ in monitor.ran)
    monitor.off()


@on_loop
async def test_cancelling_works_through_a_monitor(loop):
    monitor = Monitor(loop)

    async def wait():
        await loop.create_future()

    task = loop.create_task(wait())
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    timer = loop.call_later(1000, print)
    timer.cancel()
    assert timer.cancelled()
    monitor.off()


@on_loop
async def test_streams_and_executors_work_under_a_monitor(loop, namespace):
    monitor = Monitor(loop)

    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await namespace.start_server(echo, "127.0.0.1", 0)
    reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    assert await reader.read() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert await asyncio.to_thread(abs, -1) == 1
    await loop.shutdown_default_executor()
    assert monitor.ran
    monitor.off()


def test_a_subclass_sees_every_step(namespace):
    base = asyncio.SelectorEventLoop if namespace is asyncio else namespace.EventLoop
    seen = []

    class Loop(base):
        def call_soon(self, callback, *args, context=None):
            seen.append(callback)
            return super().call_soon(callback, *args, context=context)

        def call_at(self, when, callback, *args, context=None):
            seen.append(callback)
            return super().call_at(when, callback, *args, context=context)

    async def main():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert len(seen) >= 5


@on_loop
async def test_a_replaced_exception_handler_method_hears_of_everything(loop):
    heard = []
    loop.call_exception_handler = heard.append

    class Broken(asyncio.Protocol):
        def data_received(self, data):
            raise ZeroDivisionError

    def fail():
        raise LookupError

    loop.call_soon(fail)
    await until(lambda: heard)
    server = await loop.create_server(Broken, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"x")
    await protocol.has("lost")
    await closed(transport)
    server.close()
    await server.wait_closed()

    task = loop.create_task(nothing_but(ValueError("nobody looks")))
    await asyncio.wait([task])
    del task
    await until(lambda: len(heard) == 3)
    kinds = [type(context["exception"]) for context in heard]
    assert kinds == [LookupError, ZeroDivisionError, ValueError]
    del loop.call_exception_handler


async def nothing_but(error):
    raise error


@on_loop
async def test_replaced_makers_are_used_by_what_builds_on_them(loop, namespace):
    made = []

    def watch(name):
        original = getattr(loop, name)

        def replacement(*args, **kwargs):
            made.append(name)
            return original(*args, **kwargs)

        setattr(loop, name, replacement)

    names = (
        "create_task",
        "run_in_executor",
        "create_server",
        "create_connection",
        "getaddrinfo",
        "create_future",
        "time",
    )
    for name in names:
        watch(name)
    server = await namespace.start_server(lambda reader, writer: writer.close(), "localhost", 0)
    reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(abs, -1))
    await asyncio.create_task(asyncio.sleep(0.001))
    assert set(names) <= set(made)
    for name in names:
        delattr(loop, name)
    await loop.shutdown_default_executor()


def test_time_that_stands_still_for_a_test(loop):
    """As virtual clocks do it."""
    now = [1000.0]
    loop.time = lambda: now[0]
    fired = []
    handle = loop.call_later(50, fired.append, "later")
    assert handle.when() == 1050
    loop.run_until_complete(asyncio.sleep(0))
    assert fired == []
    now[0] += 49.9
    loop.run_until_complete(asyncio.sleep(0))
    assert fired == []
    now[0] += 0.2
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert fired == ["later"]
    del loop.time
