"""What other fast loops get wrong and asyncio gets right: a test for each point.

Run by pytest on asyncio and on aioxide.  Each test is named for its point; those that another
module tests anyway (transports, signals, servers, TLS, socket calls) are not repeated here:
docs/peers.md has the whole list, with the test of each point.
"""

import asyncio
import contextvars
import inspect
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
from unittest import mock

import pytest
import trustme
from loopback import Recorder, closed, connected_pair, listener, on_loop, until

# Tasks


def test_a_task_factory_gets_a_keyword_only_when_the_caller_gave_it(loop, behaves_as):
    seen = []

    def factory(loop, coro, **given):
        seen.append(sorted(given))
        return asyncio.Task(coro, loop=loop, **given)

    async def main():
        await loop.create_task(asyncio.sleep(0), context=contextvars.copy_context())

    loop.set_task_factory(factory)
    loop.run_until_complete(main())
    assert seen == [[], ["context"]]


@on_loop
async def test_a_task_factory_of_two_arguments_will_do(loop):
    def factory(loop, coro):
        return asyncio.Task(coro, loop=loop)

    loop.set_task_factory(factory)
    assert await loop.create_task(asyncio.sleep(0, "done")) == "done"
    assert await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)) == [1, 2]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0, 3))
    assert task.result() == 3
    loop.set_task_factory(None)


@on_loop
async def test_the_eager_task_factory(loop, namespace):
    started = []

    async def child():
        started.append("child")

    if namespace is asyncio and sys.version_info < (3, 12):
        assert not hasattr(asyncio, "eager_task_factory")
        return
    loop.set_task_factory(namespace.eager_task_factory)
    task = loop.create_task(child())
    assert started == ["child"]
    await task
    loop.set_task_factory(None)


@on_loop
async def test_the_exception_handler_runs_in_the_context_of_the_task(loop, behaves_as):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    async def fail():
        variable.set("in the task")
        raise ZeroDivisionError

    loop.set_exception_handler(
        lambda loop, context: seen.append((variable.get(), type(context["exception"])))
    )
    task = loop.create_task(fail())
    await asyncio.wait([task])
    del task
    await until(lambda: seen)
    expected = "in the task" if behaves_as(3, 12) else "outside"
    assert seen == [(expected, ZeroDivisionError)]


# The loop as an object


def test_the_loop_is_an_asyncio_loop(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)


LOOK_AROUND_AN_IMPORT = """
import asyncio, asyncio.events, asyncio.sslproto, socket, ssl
modules = (asyncio, asyncio.events, asyncio.sslproto, socket, ssl, ssl.SSLContext, socket.socket)
before = [dict(vars(module)) for module in modules]
import {}
for module, names in zip(modules, before):
    after = vars(module)
    changed = [name for name in names if after.get(name) is not names[name]]
    assert changed == [], (module, changed)
print("untouched")
"""


def test_importing_patches_neither_asyncio_nor_ssl(namespace):
    """What the modules hold before the import is what they hold after it."""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOK_AROUND_AN_IMPORT.format(namespace.__name__)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "untouched\n", "")


@on_loop
async def test_loop_methods_are_coroutine_functions_that_give_coroutines(loop):
    near, far = connected_pair()
    with near, far, listener() as listening:
        coroutines = [
            loop.create_connection(Recorder, "127.0.0.1", 1),
            loop.create_server(Recorder, "127.0.0.1", 0),
            loop.sock_accept(listening),
            loop.sock_connect(near, ("127.0.0.1", 1)),
            loop.sock_recv(near, 1),
            loop.sock_sendall(near, b""),
            loop.getaddrinfo("127.0.0.1", 1),
            loop.shutdown_asyncgens(),
            loop.shutdown_default_executor(),
        ]
        for coroutine in coroutines:
            assert inspect.iscoroutine(coroutine)
            coroutine.close()
    for name in ("create_connection", "create_server", "sock_recv", "sock_connect", "getaddrinfo"):
        assert inspect.iscoroutinefunction(getattr(loop, name)), name


def test_a_loop_coroutine_can_be_run_by_itself(new_loop):
    with listener() as listening, asyncio.Runner(loop_factory=new_loop) as runner:
        near, far = connected_pair()
        with near, far:
            far.send(b"x")
            assert runner.run(runner.get_loop().sock_recv(near, 10)) == b"x"
        server = runner.run(runner.get_loop().create_server(Recorder, "127.0.0.1", 0))
        server.close()
        runner.run(server.wait_closed())
        assert listening.fileno() != -1


@pytest.mark.parametrize(
    "name",
    [
        "call_soon",
        "call_later",
        "create_connection",
        "create_server",
        "create_task",
        "getaddrinfo",
        "run_in_executor",
        "sendfile",
        "sock_connect",
        "time",
    ],
)
def test_methods_of_a_loop_can_be_mocked(loop, name):
    with mock.patch.object(loop, name, mock.Mock()) as replaced:
        assert getattr(loop, name)("argument") is replaced.return_value
    replaced.assert_called_once_with("argument")
    assert getattr(loop, name) is not replaced
    loop.run_until_complete(asyncio.sleep(0))


def test_a_loop_takes_attributes(loop):
    loop.note = "anything"
    assert loop.note == "anything"
    assert "note" in vars(loop)
    loop.slow_callback_duration = 5
    assert loop.slow_callback_duration == 5


@on_loop
async def test_running_a_running_loop_is_an_error(loop, behaves_as):
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="This event loop is already running"):
        loop.run_until_complete(coroutine)
    coroutine.close()
    if behaves_as(3, 14):  # Before, asyncio forgets that it is running when this fails.
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_forever()
    assert loop.is_running()
    assert asyncio.get_running_loop() is loop


@on_loop
async def test_running_another_loop_inside_a_running_one_is_an_error(loop, new_loop):
    other = new_loop()
    coroutine = asyncio.sleep(0)
    message = "Cannot run the event loop while another loop is running"
    with pytest.raises(RuntimeError, match=message):
        other.run_until_complete(coroutine)
    coroutine.close()
    other.close()
    assert asyncio.get_running_loop() is loop


@on_loop
async def test_a_coroutine_that_a_nested_run_refuses_is_warned_about(loop):
    async def lost():
        pass

    with (
        pytest.warns(RuntimeWarning, match=r"coroutine '.*lost' was never awaited"),
        pytest.raises(RuntimeError, match="already running"),
    ):
        loop.run_until_complete(lost())


def test_thirty_loops_leave_no_descriptor(new_loop):
    def run_one():
        loop = new_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.call_soon_threadsafe(int)
        loop.run_until_complete(loop.run_in_executor(None, int))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    run_one()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        run_one()
    assert len(os.listdir("/proc/self/fd")) == before


@on_loop
async def test_what_a_callback_raises_to_end_the_program_ends_it(loop, new_loop):
    """A handler of SIGTERM that raises SystemExit, say, as aiohttp's does."""
    other = new_loop()

    def run():
        other.call_soon(sys.exit, 3)
        with pytest.raises(SystemExit):
            other.run_forever()
        other.close()

    await asyncio.to_thread(run)
    await loop.shutdown_default_executor()


# Processes


@on_loop
async def test_sigchld_belongs_to_the_program(loop):
    """A child of the subprocess module is reaped by it, whatever the loop does."""
    assert signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, signal.SIG_IGN)
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", "raise SystemExit(7)"], check=False
    )
    assert child.returncode == 7


# Servers and TLS


@on_loop
async def test_a_server_knows_its_tls_context(loop):
    """Which web servers' own tests look at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=context)
    assert server._ssl_context is context
    server.close()
    await server.wait_closed()
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    assert server._ssl_context is None
    server.close()
    await server.wait_closed()


@on_loop
async def test_an_encrypted_key_that_was_loaded_and_deleted_serves_on(loop, tmp_path):
    from cryptography.hazmat.primitives import serialization

    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    files = {"key.pem": encrypted, "chain.pem": issued.cert_chain_pems[0].bytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem", "secret")
    for name in files:
        (tmp_path / name).unlink()

    accepted = Recorder()
    server = await loop.create_server(lambda: accepted, "127.0.0.1", 0, ssl=context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    transport, protocol = await loop.create_connection(
        Recorder, *server.sockets[0].getsockname(), ssl=client, server_hostname="localhost"
    )
    transport.write(b"hello")
    await accepted.has_bytes(5)
    server.close()
    for end in (protocol, accepted):
        end.transport.abort()
        await end.has("lost")
    await server.wait_closed()


@on_loop
async def test_an_empty_server_hostname_means_that_no_name_is_checked(loop):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("somebody.test").configure_cert(context)
    accepted = Recorder()
    server = await loop.create_server(lambda: accepted, "127.0.0.1", 0, ssl=context)
    client = ssl.create_default_context()
    client.check_hostname = False
    authority.configure_trust(client)
    transport, protocol = await loop.create_connection(
        Recorder, *server.sockets[0].getsockname(), ssl=client, server_hostname=""
    )
    transport.write(b"hello")
    await accepted.has_bytes(5)
    server.close()
    for end in (protocol, accepted):
        end.transport.abort()
        await end.has("lost")
    await server.wait_closed()


# Transports


@on_loop
async def test_an_accepted_connection_that_is_closed_ends_for_its_peer(loop, namespace):
    """At once, with a reader that waits for the end, and whichever side it was."""

    async def handle(reader, writer):
        writer.write(b"all of it")
        writer.close()

    server = await namespace.start_server(handle, "127.0.0.1", 0)
    for _ in range(20):
        reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b"all of it"
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_data_in_flight_for_an_aborted_transport(loop):
    """A thousand times, in every order that one turn can have."""
    for turn in range(200):
        near, far = connected_pair()
        with far:
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            far.send(b"in flight")
            if turn % 3 == 0:
                await asyncio.sleep(0)
            (transport.abort if turn % 2 else transport.close)()
            far.send(b"more")
            if turn % 5 == 0:
                transport.abort()
            await protocol.has("lost")
            assert protocol.events[-1] == "lost"
            assert protocol.events.count("lost") == 1
            await closed(transport)


@on_loop
async def test_a_cancelled_read_of_a_stream_loses_nothing(loop, namespace):
    """Bytes that arrive in the turn of the timeout are there for the next read."""
    sent = b"".join(number.to_bytes(2, "big") for number in range(1500))

    async def send(reader, writer):
        for start in range(0, len(sent), 30):
            writer.write(sent[start : start + 30])
            await asyncio.sleep(0)
        writer.close()

    server = await namespace.start_server(send, "127.0.0.1", 0)
    reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    received = b""
    delays = itertools.cycle([0, 0, 0.0001, 0.001])
    while not reader.at_eof():
        try:
            async with asyncio.timeout(next(delays)):
                received += await reader.read(17)
        except TimeoutError:
            continue
    assert received == sent
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_nothing_hangs_on_a_server_that_is_closing(loop, namespace):
    """Opening, reading and closing end, whether with an error or not."""

    async def handle(reader, writer):
        writer.transport.abort()

    async def visit(address):
        try:
            reader, writer = await namespace.open_connection(*address)
        except OSError:
            return
        try:
            await reader.read()
            writer.write(b"anybody there?")
            await writer.drain()
        except OSError:
            pass
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass

    for _ in range(10):
        server = await namespace.start_server(handle, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        visits = [asyncio.ensure_future(visit(address)) for _ in range(10)]
        await asyncio.sleep(0)
        server.close()
        await asyncio.gather(*visits)
        await server.wait_closed()


@on_loop
async def test_a_datagram_socket_sends_to_an_ipv6_address_of_four_parts(loop):
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other,
    ):
        for sock in (one, other):
            sock.bind(("::1", 0))
            sock.setblocking(False)
        assert len(other.getsockname()) == 4
        assert await loop.sock_sendto(one, b"hello", other.getsockname()) == 5
        assert await loop.sock_recvfrom(other, 10) == (b"hello", one.getsockname())
