"""Names that others' programs and tests reach for, private ones too.

Run by pytest on asyncio and on aioxide: each is there, says what asyncio's says, and can be set
where asyncio's can be set.  Methods of loops that are mocked are in test_peers_fail.py.
"""

import asyncio
import contextlib
import inspect
import socket
import ssl
import threading
from asyncio import base_events, trsock
from unittest import mock

import pytest
from loopback import Recorder, closed, on_loop, until


async def never():
    await asyncio.get_running_loop().create_future()


# Tasks and futures


@on_loop
async def test_what_a_task_waits_for(loop):
    waited = loop.create_future()

    async def wait():
        await waited

    task = loop.create_task(wait())
    assert task._fut_waiter is None
    await asyncio.sleep(0)
    assert task._fut_waiter is waited
    assert isinstance(task._fut_waiter, asyncio.Future)
    assert task._state == "PENDING"
    (entry,) = waited._callbacks
    assert callable(entry[0])
    waited.set_result(None)
    await task
    assert task._fut_waiter is None
    assert task._state == "FINISHED"


@on_loop
async def test_a_task_that_is_to_be_cancelled(loop):
    task = loop.create_task(never())
    assert (task._must_cancel, task.cancelling()) == (False, 0)
    assert task.cancel("why")
    assert (task._must_cancel, task.cancelling()) == (True, 1)
    assert getattr(task, "_num_cancels_requested", 1) == 1
    assert task._cancel_message == "why"
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert task._state == "CANCELLED"


@on_loop
async def test_the_outcome_of_a_future(loop):
    future = loop.create_future()
    assert (future._state, future._result, future._exception) == ("PENDING", None, None)
    assert future._callbacks in (None, [])
    assert future._loop is loop
    future.add_done_callback(print)
    assert [callback for callback, context in future._callbacks] == [print]
    future.remove_done_callback(print)
    future.set_result(5)
    assert (future._state, future._result) == ("FINISHED", 5)
    failed = loop.create_future()
    error = ValueError()
    failed.set_exception(error)
    assert failed._exception is error
    assert failed._log_traceback is True
    failed._log_traceback = False
    with pytest.raises(ValueError, match="_log_traceback can only be set to False"):
        failed._log_traceback = True


@on_loop
async def test_what_may_be_set_on_a_task(loop):
    task = loop.create_task(never())
    assert task._log_destroy_pending is True
    task._log_destroy_pending = False
    assert task._log_destroy_pending is False
    task._cancel_message = "told"
    assert task._cancel_message == "told"
    assert task._source_traceback is None
    assert task._asyncio_future_blocking is False
    assert inspect.iscoroutine(task._coro)
    assert task._coro is task.get_coro()
    task.note = "anything"
    assert task.note == "anything"
    for name in ("_state", "_fut_waiter", "_callbacks", "_result", "_exception", "_loop"):
        with pytest.raises(AttributeError):
            setattr(task, name, None)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# Transports and servers


@on_loop
async def test_methods_of_a_transport_can_be_replaced(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    assert isinstance(transport, asyncio.Transport)
    for name in ("write", "writelines", "close", "abort", "pause_reading", "get_extra_info"):
        with mock.patch.object(transport, name) as replaced:
            getattr(transport, name)("argument")
        replaced.assert_called_once_with("argument")
    transport.note = "anything"
    assert transport.note == "anything"
    transport.abort()
    await protocol.has("lost")
    server.close()
    for client in list(server._clients) if hasattr(server, "_clients") else ():
        client.abort()
    await server.wait_closed()


@on_loop
async def test_a_stream_writes_through_a_replaced_write(loop, namespace):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    _, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    written = []
    writer.transport.write = written.append
    writer.write(b"one")
    assert written == [b"one"]
    del writer.transport.write
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_what_a_server_holds(loop):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepted = []

    def accept():
        accepted.append(Recorder())
        return accepted[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0, backlog=7, ssl=None)
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server, base_events.Server)
    assert server._loop is loop
    assert server._protocol_factory is accept
    assert server._backlog == 7
    assert server._serving is True
    assert server._waiters == []
    assert server._ssl_context is None
    assert [type(sock) for sock in server._sockets] == [socket.socket]
    assert [type(sock) for sock in server.sockets] == [trsock.TransportSocket]
    assert type(server.sockets) is tuple
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    await until(lambda: accepted and "made" in accepted[0].events)
    count = server._active_count if hasattr(server, "_active_count") else len(server._clients)
    assert count == 1
    transport.close()
    await protocol.has("lost")
    await closed(transport)
    await accepted[0].has("lost")
    server.close()
    assert (server._sockets, server._serving, server.sockets) == (None, False, ())
    await server.wait_closed()
    assert server._waiters is None
    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=context, start_serving=False)
    assert server._ssl_context is context
    assert server._serving is False
    server.close()
    await server.wait_closed()


@on_loop
async def test_a_server_counts_what_is_attached_by_hand(loop, behaves_as):
    """As libraries do that hand accepted sockets over; before 3.13 without saying which."""
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    given = (mock.Mock(),) if behaves_as(3, 13) else ()
    server._attach(*given)
    waiting = loop.create_task(server.wait_closed())
    server.close()
    await asyncio.sleep(0)
    if behaves_as(3, 12):
        assert not waiting.done()
    server._detach(*given)
    await waiting


# Loops


@on_loop
async def test_what_a_loop_says_of_itself(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert loop._thread_id == threading.get_ident()
    assert (loop._closed, loop._stopping, loop._debug) == (False, False, False)
    assert loop._default_executor is None
    assert loop._task_factory is None
    assert loop._exception_handler is loop.get_exception_handler()
    assert 0 < loop._clock_resolution < 1
    assert len(loop._asyncgens) == 0
    assert loop._current_handle is None


@on_loop
async def test_debug_may_be_set_as_an_attribute(loop):
    loop._debug = True
    assert loop.get_debug()
    loop._debug = False
    assert not loop.get_debug()


@on_loop
async def test_what_is_ready_and_what_is_set(loop):
    ready = len(loop._ready)
    scheduled = len(loop._scheduled)
    handle = loop.call_soon(int)
    assert len(loop._ready) == ready + 1
    assert handle in loop._ready
    later = loop.call_later(2000, int)
    sooner = loop.call_later(1000, int)
    assert len(loop._scheduled) == scheduled + 2
    assert min(loop._scheduled) is loop._scheduled[0]
    assert {later, sooner} <= set(loop._scheduled)
    later.cancel()
    sooner.cancel()
    await asyncio.sleep(0)
    assert handle not in loop._ready


@on_loop
async def test_being_told_of_a_cancelled_timer_changes_nothing(loop):
    """asyncio's own TimerHandle tells its loop; a program may make one."""
    timer = asyncio.TimerHandle(loop.time() + 1000, print, (), loop)
    timer.cancel()
    loop._timer_handle_cancelled(timer)
    await asyncio.sleep(0)


@on_loop
async def test_a_loop_is_woken_by_its_old_name(loop):
    future = loop.create_future()

    def wake():
        loop._write_to_self()

    thread = threading.Thread(target=wake)
    thread.start()
    thread.join()
    loop.call_soon(future.set_result, None)
    await future


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create_connection", (Recorder, "127.0.0.1", 1)),
        ("create_server", (Recorder, "127.0.0.1", 0)),
        ("create_datagram_endpoint", (Recorder,)),
        ("create_unix_connection", (Recorder,)),
        ("create_unix_server", (Recorder,)),
        ("connect_accepted_socket", (Recorder, None)),
        ("connect_read_pipe", (Recorder, None)),
        ("connect_write_pipe", (Recorder, None)),
        ("subprocess_exec", (Recorder, "true")),
        ("subprocess_shell", (Recorder, "true")),
        ("start_tls", (None, None, None)),
        ("sendfile", (None, None)),
        ("sock_sendfile", (None, None)),
        ("sock_recv", (None, 1)),
        ("sock_recv_into", (None, bytearray(1))),
        ("sock_recvfrom", (None, 1)),
        ("sock_recvfrom_into", (None, bytearray(1))),
        ("sock_sendall", (None, b"")),
        ("sock_sendto", (None, b"", None)),
        ("sock_connect", (None, None)),
        ("sock_accept", (None,)),
        ("getaddrinfo", ("127.0.0.1", 1)),
        ("getnameinfo", (("127.0.0.1", 1),)),
        ("shutdown_asyncgens", ()),
        ("shutdown_default_executor", ()),
    ],
)
def test_what_waits_is_a_coroutine_function(loop, name, arguments):
    method = getattr(loop, name)
    assert inspect.iscoroutinefunction(method)
    coroutine = method(*arguments)
    assert inspect.iscoroutine(coroutine)
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()


def test_every_public_name_of_asyncios_loop_is_there(loop):
    reference = asyncio.SelectorEventLoop()
    public = {name for name in dir(reference) if not name.startswith("_")}
    reference.close()
    assert public - set(dir(loop)) == set()


def test_a_turn_by_hand(loop):
    """For those who drive a loop from another one's callbacks."""
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(lambda: loop.call_soon(ran.append, 2))
    loop._run_once()
    assert ran == [1]
    assert not loop.is_running()
    loop._run_once()
    assert ran == [1, 2]
    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, lambda: ran.append(near.recv(10)))
        far.send(b"3")
        while ran[-1] != b"3":
            loop._run_once()
        loop.remove_reader(near)
