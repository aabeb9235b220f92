"""Debug mode: what is refused, what is remembered, and what is logged, in asyncio's words.

Run by pytest on asyncio and on aioxide.  Slow callbacks and handlers are in test_loop_reports.py,
what call_soon and its like refuse in test_loop.py.
"""

import asyncio
import logging
import socket
import threading

import pytest
from loopback import Recorder, closed, on_loop, until


@pytest.fixture
def loop(loop):
    """A loop in debug mode."""
    loop.set_debug(True)
    return loop


@pytest.fixture
def logged(caplog):
    """The messages of the asyncio logger, debug ones too."""
    caplog.set_level(logging.DEBUG, logger="asyncio")
    return lambda: [record.getMessage() for record in caplog.records]


async def coroutine_function():
    pass


# What is refused


@on_loop
async def test_another_thread_that_sets_a_result_is_refused(loop):
    future = loop.create_future()
    future.add_done_callback(print)
    refusals = []

    def elsewhere():
        try:
            future.set_result(None)
        except RuntimeError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(refusals) == 1
    assert refusals[0].startswith("Non-thread-safe operation")


@on_loop
async def test_call_soon_threadsafe_is_for_any_thread(loop):
    future = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 1))
    thread.start()
    assert await future == 1
    thread.join()


# What is remembered


@on_loop
async def test_everything_knows_where_it_was_made(loop):
    handle = loop.call_soon(int)
    timer = loop.call_later(1000, print)
    task = loop.create_task(coroutine_function())
    future = loop.create_future()
    for made in (handle, timer, task, future, asyncio.Future()):
        stack = made._source_traceback
        # asyncio's create_future is a frame of its own.
        places = [(entry.name, entry.filename) for entry in stack[-2:]]
        assert ("test_everything_knows_where_it_was_made", __file__) in places, made
    assert "created at" in repr(handle)
    assert "created at" in repr(task)
    await task
    timer.cancel()
    loop.set_debug(False)
    handle = loop.call_soon(int)
    assert handle._source_traceback is None
    assert loop.create_future()._source_traceback is None


@on_loop
async def test_a_report_shows_where_the_handle_was_made_that_made_it(loop, logged):
    loop.set_exception_handler(None)
    running = []

    def report():
        running.append(loop._current_handle)
        loop.call_exception_handler({"message": "something happened"})

    handle = loop.call_soon(report)
    await until(running.__len__)
    assert running == [handle]
    (text,) = (text for text in logged() if text.startswith("something happened"))
    assert "Handle created at (most recent call last):" in text
    assert "loop.call_soon(report)" in text
    assert loop._current_handle is not handle


# What is logged


def test_closing_is_logged(new_loop, logged):
    loop = new_loop()
    loop.set_debug(True)
    loop.close()
    loop.close()
    (text,) = (text for text in logged() if text.startswith("Close "))
    assert text == f"Close {loop!r}"


@on_loop
async def test_connections_are_logged(loop, logged):
    accepted = []

    def accept():
        accepted.append(Recorder())
        return accepted[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Recorder, host, port)
    await until(lambda: accepted and "made" in accepted[0].events)
    texts = logged()
    assert f"{server!r} is serving" in texts
    connected = f"connected to {host}:{port!r}: ("
    assert any(connected in text and repr(protocol) in text for text in texts)
    peer = transport.get_extra_info("sockname")
    assert any(
        text.startswith(f"{server!r} got a new connection from {peer!r}: ") for text in texts
    )
    transport.pause_reading()
    transport.resume_reading()
    accepted[0].transport.close()
    await protocol.has("lost")
    texts = [text.split("> ")[-1] for text in logged()]
    for said in ("pauses reading", "resumes reading", "received EOF"):
        assert said in texts
    await closed(transport)
    server.close()
    await server.wait_closed()


@on_loop
async def test_a_slow_protocol_is_named(loop, logged):
    loop.slow_callback_duration = 0

    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)

    server = await loop.create_server(Slow, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"x")
    shown = "ransport"
    await until(lambda: any(text.startswith("Executing <") and shown in text for text in logged()))
    transport.abort()
    await protocol.has("lost")
    server.close()
    server.close_clients() if hasattr(server, "close_clients") else None
    await server.wait_closed()


@on_loop
async def test_look_ups_are_logged_and_slow_ones_louder(loop, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, logger="asyncio")
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: answer)
    for limit, level in ((1000, logging.DEBUG), (0, logging.INFO)):
        caplog.clear()
        loop.slow_callback_duration = limit
        found = await loop.getaddrinfo("name.test", 80, type=socket.SOCK_STREAM)
        assert found == answer
        loop.slow_callback_duration = 1000
        texts = [record.getMessage() for record in caplog.records]
        asked = f"name.test:80, type={socket.SOCK_STREAM!r}"
        assert f"Get address info {asked}" in texts
        (record,) = (
            record
            for record in caplog.records
            if record.getMessage().startswith(f"Getting address info {asked} took ")
        )
        assert record.getMessage().endswith(f"ms: {answer!r}")
        assert record.levelno == level
    await loop.shutdown_default_executor()
