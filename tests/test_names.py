"""getaddrinfo and getnameinfo: results and errors equal to those of the socket module.

Run by pytest on asyncio and on aioxide.  Only literals and localhost are asked for; no name
server is needed.
"""

import asyncio
import socket
import threading

import pytest
from loopback import Recorder, closed, listener, on_loop


@pytest.mark.parametrize(
    ("host", "port", "hints"),
    [
        ("127.0.0.1", 80, {}),
        ("127.0.0.1", "80", {"type": socket.SOCK_STREAM}),
        ("::1", 80, {"type": socket.SOCK_DGRAM}),
        ("localhost", 80, {"type": socket.SOCK_STREAM}),
        ("localhost", None, {"family": socket.AF_INET}),
        (None, 80, {"flags": socket.AI_PASSIVE}),
        (None, 0, {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}),
        (b"127.0.0.1", 80, {}),
        ("127.0.0.1", 80, {"flags": socket.AI_NUMERICHOST}),
    ],
)
@on_loop
async def test_getaddrinfo_answers_as_the_socket_module_does(loop, host, port, hints):
    expected = socket.getaddrinfo(host, port, **hints)
    assert await loop.getaddrinfo(host, port, **hints) == expected


@pytest.mark.parametrize(
    ("host", "port", "hints"),
    [
        ("not.a.number", 80, {"flags": socket.AI_NUMERICHOST}),
        ("127.0.0.1", "no such service", {}),
        ("127.0.0.1", 80, {"family": socket.AF_INET6}),
        (None, None, {}),
    ],
)
@on_loop
async def test_getaddrinfo_fails_as_the_socket_module_does(loop, host, port, hints):
    with pytest.raises(socket.gaierror) as expected:
        socket.getaddrinfo(host, port, **hints)
    with pytest.raises(socket.gaierror) as caught:
        await loop.getaddrinfo(host, port, **hints)
    assert caught.value.args == expected.value.args


@on_loop
async def test_getaddrinfo_takes_its_hints_by_name_only(loop):
    with pytest.raises(TypeError):
        await loop.getaddrinfo("127.0.0.1", 80, socket.AF_INET)
    with pytest.raises(TypeError):
        await loop.getaddrinfo(5, 80)


@on_loop
async def test_getnameinfo_answers_as_the_socket_module_does(loop):
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    for address in (("127.0.0.1", 80), ("::1", 80, 0, 0)):
        expected = socket.getnameinfo(address, numeric)
        assert await loop.getnameinfo(address, numeric) == expected
    expected = socket.getnameinfo(("127.0.0.1", 80), 0)
    assert await loop.getnameinfo(("127.0.0.1", 80)) == expected


@on_loop
async def test_getnameinfo_fails_as_the_socket_module_does(loop):
    with pytest.raises(socket.gaierror) as expected:
        socket.getnameinfo(("not an address", 80), socket.NI_NUMERICHOST)
    with pytest.raises(socket.gaierror) as caught:
        await loop.getnameinfo(("not an address", 80), socket.NI_NUMERICHOST)
    assert caught.value.args == expected.value.args
    with pytest.raises(TypeError):
        await loop.getnameinfo("not even a tuple")


@on_loop
async def test_both_are_coroutines(loop):
    for coroutine in (loop.getaddrinfo("127.0.0.1", 1), loop.getnameinfo(("127.0.0.1", 1))):
        assert asyncio.iscoroutine(coroutine)
        coroutine.close()


@on_loop
async def test_names_are_resolved_beside_the_loop(loop, monkeypatch):
    """While one name is being resolved the loop runs on."""
    asked, release = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(*arguments):
        asked.set()
        assert release.wait(30)
        return real("127.0.0.1", 80)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolving = asyncio.ensure_future(loop.getaddrinfo("slow.test", 80))
    turns = 0
    while not asked.is_set() or turns < 100:
        await asyncio.sleep(0)
        turns += 1
    assert not resolving.done()
    release.set()
    assert await resolving


@on_loop
async def test_many_names_at_once(loop):
    answers = await asyncio.gather(
        *(loop.getaddrinfo(f"127.0.0.{number}", number) for number in range(1, 100))
    )
    for number, answer in enumerate(answers, 1):
        assert answer[0][4] == (f"127.0.0.{number}", number)


@on_loop
async def test_create_connection_uses_an_assigned_getaddrinfo(loop):
    asked = []
    with listener() as listening:
        address = listening.getsockname()

        async def getaddrinfo(host, port, **hints):
            asked.append((host, port))
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

        loop.getaddrinfo = getaddrinfo
        transport, _ = await loop.create_connection(Recorder, "made.up.test", 4321)
        assert transport.get_extra_info("peername") == address
        assert asked == [("made.up.test", 4321)]
        await closed(transport)
        del loop.getaddrinfo
        assert await loop.getaddrinfo("127.0.0.1", 80)


@on_loop
async def test_a_literal_needs_no_getaddrinfo(loop):
    async def getaddrinfo(host, port, **hints):
        raise AssertionError("a literal was looked up")

    loop.getaddrinfo = getaddrinfo
    for host in ("127.0.0.1", "::1"):
        with listener(host) as listening:
            transport, _ = await loop.create_connection(Recorder, host, listening.getsockname()[1])
            await closed(transport)
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
