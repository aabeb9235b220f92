"""Accepting: more connections than one turn takes, and a process that is out of descriptors.

Run by pytest on asyncio and on aioxide. Parameters of create_server: test_create_server.py.
"""

import asyncio
import contextlib
import socket

import pytest
from loopback import DEADLINE, Recorder, closed, on_loop, until

OUT_OF_DESCRIPTORS = """
    import os, resource, socket

    RETRIES = 3
    reports, delays = [], []

    class Answer(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"hello")
            transport.close()

    async def main(loop):
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        later = loop.call_later

        def call_later(delay, callback, *arguments):
            delays.append(delay)
            if len(delays) == RETRIES:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return later(0.001, callback, *arguments)

        server = await loop.create_server(Answer, "127.0.0.1", 0, backlog=1)
        address = server.sockets[0].getsockname()
        client = socket.socket()
        client.setblocking(False)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, limits[1]))
        loop.call_later = call_later
        await loop.sock_connect(client, address)
        received = await loop.sock_recv(client, 100)
        loop.call_later = later
        client.close()
        server.close()
        await server.wait_closed()
        print(received, set(delays), len(delays) >= RETRIES, len(reports))
        for context in reports:
            assert context["message"] == "socket.accept() out of system resource", context
            assert context["exception"].errno == 24, context
            assert context["socket"].getsockname, context

    loop = new_event_loop()
    loop.run_until_complete(main(loop))
    loop.close()
"""


def test_out_of_descriptors_it_waits_says_so_and_goes_on(run_child, namespace):
    child = run_child(OUT_OF_DESCRIPTORS)
    assert child.returncode == 0, child.stderr
    said = child.stdout.split()
    assert said[:3] in (["b'hello'", "{1}", "True"], ["b'hello'", "{1.0}", "True"])
    # asyncio says so at every try.
    assert int(said[3]) == 1 or namespace is asyncio
    assert child.stderr == ""


@on_loop
async def test_as_many_clients_as_the_backlog_holds(loop):
    made = []

    def remember():
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(remember, "127.0.0.1", 0, backlog=5)
    address = server.sockets[0].getsockname()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(6)]
        await until(lambda: sum("made" in it.events for it in made) == len(clients))
        peers = {protocol.transport.get_extra_info("peername") for protocol in made}
        assert peers == {client.getsockname() for client in clients}
    for protocol in made:
        await closed(protocol.transport)
    server.close()
    await server.wait_closed()


@on_loop
async def test_a_client_that_is_gone_before_it_is_accepted(loop):
    made = []

    def remember():
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(remember, "127.0.0.1", 0)
    for _ in range(10):
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    with socket.create_connection(server.sockets[0].getsockname()):
        await until(lambda: len(made) == 11 and all(it.transport for it in made))
    await until(lambda: all(it.events[-1] == "lost" for it in made))
    server.close()
    await server.wait_closed()


@on_loop
async def test_a_factory_that_closes_the_server_stops_accepting(loop, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio loses the connection and its socket")
    made = []

    def once():
        server.close()
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(once, "127.0.0.1", 0, backlog=10)
    address = server.sockets[0].getsockname()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
        connecting = (loop.sock_connect(client, address) for client in clients)
        await asyncio.gather(*connecting, return_exceptions=True)
        await until(lambda: made and made[0].transport is not None)
        await closed(made[0].transport)
    async with asyncio.timeout(DEADLINE):
        await server.wait_closed()


@pytest.mark.parametrize("reuse", [True, False, None])
@on_loop
async def test_reuse_port(loop, reuse):
    first = await loop.create_server(Recorder, "127.0.0.1", 0, reuse_port=reuse)
    address = first.sockets[0].getsockname()
    try:
        if reuse:
            second = await loop.create_server(Recorder, *address, reuse_port=True)
            second.close()
            await second.wait_closed()
        else:
            with pytest.raises(OSError, match="error while attempting to bind on address"):
                await loop.create_server(Recorder, *address)
    finally:
        first.close()
        await first.wait_closed()
