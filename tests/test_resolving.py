"""getaddrinfo and getnameinfo: results and errors equal to those of the socket module.

Run by pytest on asyncio and on aioxide.  Only literals and localhost are asked for; no name
server is needed.
"""

import asyncio
import socket
import threading

import pytest
from loopback import DEADLINE, Recorder, closed, listener, on_loop, until


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


@on_loop
async def test_an_ipv6_scope_is_kept(loop):
    name = socket.if_indextoname(1)
    expected = socket.getaddrinfo(f"fe80::1%{name}", 80, type=socket.SOCK_STREAM)
    assert expected[0][4][3] == 1
    assert await loop.getaddrinfo(f"fe80::1%{name}", 80, type=socket.SOCK_STREAM) == expected
    with pytest.raises(socket.gaierror):
        await loop.getaddrinfo("fe80::1%no-such-interface", 80)


@on_loop
async def test_a_port_may_be_a_service(loop):
    for port in ("http", b"http", "80", b"80", ""):
        expected = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
        assert await loop.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM) == expected


@pytest.mark.parametrize("port", ["0", b"0"])
@on_loop
async def test_a_port_written_as_digits_needs_no_getaddrinfo(loop, port):
    async def getaddrinfo(host, port, **hints):
        raise AssertionError("a literal was looked up")

    loop.getaddrinfo = getaddrinfo
    server = await loop.create_server(Recorder, "127.0.0.1", port)
    server.close()
    await server.wait_closed()


@on_loop
async def test_what_asks_for_an_address_uses_an_assigned_getaddrinfo(loop):
    asked = []
    with listener() as listening:
        address = listening.getsockname()

        async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
            asked.append((host, port, type, flags))
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

        loop.getaddrinfo = getaddrinfo
        sock = socket.socket()
        sock.setblocking(False)
        with sock:
            await loop.sock_connect(sock, ("made.up.test", 4321))
            assert sock.getpeername() == address
        assert [question[:2] for question in asked] == [("made.up.test", 4321)]
        asked.clear()

        address = ("127.0.0.1", 0)
        server = await loop.create_server(Recorder, "made.up.test", 0)
        assert asked == [("made.up.test", 0, socket.SOCK_STREAM, socket.AI_PASSIVE)]
        server.close()
        await server.wait_closed()


def test_a_subclass_may_have_its_own_getaddrinfo(namespace):
    base = asyncio.SelectorEventLoop if namespace is asyncio else namespace.EventLoop

    class Loop(base):
        async def getaddrinfo(self, host, port, **hints):
            return await super().getaddrinfo("127.0.0.1", port, **hints)

    async def main():
        with listener() as listening:
            port = listening.getsockname()[1]
            transport, _ = await asyncio.get_running_loop().create_connection(
                Recorder, "made.up.test", port
            )
            assert transport.get_extra_info("peername") == ("127.0.0.1", port)
            await closed(transport)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


@on_loop
async def test_a_name_that_stands_for_nothing_is_an_error(loop):
    async def getaddrinfo(host, port, **hints):
        return []

    loop.getaddrinfo = getaddrinfo
    with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
        await loop.create_connection(Recorder, "made.up.test", 1)
    with pytest.raises(OSError, match=r"getaddrinfo\('made.up.test'\) returned empty list"):
        await loop.create_server(Recorder, "made.up.test", 1)


# Look-ups at the same time


class Resolver:
    """Stands in the place of socket.getaddrinfo: it waits until it is let go."""

    def __init__(self, monkeypatch, error=None):
        self.calls, self.go, self.begun, self.error = (
            [],
            threading.Event(),
            threading.Event(),
            error,
        )
        self.answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, *arguments):
        self.calls.append(arguments)
        self.begun.set()
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        return self.answer

    async def asked(self, count=1):
        await until(lambda: len(self.calls) >= count)


@on_loop
async def test_one_name_is_looked_up_once_for_all_who_ask(loop, namespace, monkeypatch):
    resolver = Resolver(monkeypatch)
    asking = [asyncio.ensure_future(loop.getaddrinfo("one.test", 80)) for _ in range(20)]
    other = asyncio.ensure_future(loop.getaddrinfo("one.test", 81))
    await resolver.asked(2)
    resolver.go.set()
    answers = await asyncio.gather(*asking, other)
    assert answers == [resolver.answer] * 21
    assert len(resolver.calls) == (21 if namespace is asyncio else 2)
    if namespace is not asyncio:  # Each has a list of its own.
        assert len({id(answer) for answer in answers}) == 21
        assert await loop.getaddrinfo("one.test", 80) == resolver.answer
        assert len(resolver.calls) == 3, "an answer was kept"
    await loop.shutdown_default_executor()


@on_loop
async def test_who_asks_while_an_answer_is_being_told_gets_one_too(loop, monkeypatch):
    go_on, named = threading.Event(), threading.Event()
    real = socket.getnameinfo

    def slow_name(*question):
        go_on.wait(DEADLINE)
        named.set()
        return real(*question)

    monkeypatch.setattr(socket, "getaddrinfo", lambda *question: [go_on.wait(DEADLINE)])
    monkeypatch.setattr(socket, "getnameinfo", slow_name)

    async def ask_later():
        await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        return await loop.getaddrinfo("localhost", 80)

    asking = [loop.create_task(loop.getaddrinfo("localhost", 80)), loop.create_task(ask_later())]
    await asyncio.sleep(0.01)
    go_on.set()
    # Both answers come while the loop is held, and so are told in one turn.
    named.wait(DEADLINE)
    threading.Event().wait(0.2)
    assert await asyncio.wait_for(asyncio.gather(*asking), DEADLINE) == [[True]] * 2


@on_loop
async def test_who_gives_up_takes_nobody_else_with_him(loop, monkeypatch):
    resolver = Resolver(monkeypatch)
    asking = [asyncio.ensure_future(loop.getaddrinfo("one.test", 80)) for _ in range(3)]
    await resolver.asked()
    asking[0].cancel()
    asking[2].cancel()
    await asyncio.wait([asking[0], asking[2]])
    assert asking[0].cancelled()
    assert not asking[1].done()
    resolver.go.set()
    assert await asking[1] == resolver.answer
    await loop.shutdown_default_executor()


@on_loop
async def test_each_who_asks_gets_an_error_of_his_own(loop, monkeypatch):
    resolver = Resolver(monkeypatch, socket.gaierror(socket.EAI_NONAME, "no such name"))
    asking = [asyncio.ensure_future(loop.getaddrinfo("one.test", 80)) for _ in range(3)]
    await resolver.asked()
    resolver.error, error = type(resolver.error)(*resolver.error.args), resolver.error
    resolver.go.set()
    await asyncio.wait(asking)
    errors = [task.exception() for task in asking]
    assert {type(one) for one in errors} == {socket.gaierror}
    assert {one.args for one in errors} == {error.args}
    await loop.shutdown_default_executor()


@on_loop
async def test_when_all_gave_up_nothing_is_left_to_report(loop, loop_errors, monkeypatch):
    resolver = Resolver(monkeypatch, socket.gaierror(socket.EAI_NONAME, "no such name"))
    asking = [asyncio.ensure_future(loop.getaddrinfo("one.test", 80)) for _ in range(3)]
    await resolver.asked()
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    again = asyncio.ensure_future(loop.getaddrinfo("one.test", 80))
    resolver.go.set()
    with pytest.raises(socket.gaierror):
        await again
    assert len(resolver.calls) >= 2, "an abandoned look-up was joined"
    await loop.shutdown_default_executor()
    assert loop_errors == []


def test_look_ups_leave_the_default_executor_alone(loop, namespace):
    """And so a full executor does not stop them."""
    release = threading.Event()

    async def main():
        await loop.getaddrinfo("localhost", 80)
        if namespace is asyncio:
            return
        assert loop._default_executor is None
        await loop.run_in_executor(None, int)
        blocked = [
            loop.run_in_executor(None, release.wait, 30)
            for _ in range(loop._default_executor._max_workers)
        ]
        assert await loop.getaddrinfo("localhost", 80)
        release.set()
        await asyncio.gather(*blocked)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_at_most_four_names_are_looked_up_at_once(loop, namespace, monkeypatch):
    if namespace is asyncio:
        return
    resolver = Resolver(monkeypatch)

    async def main():
        asking = [asyncio.ensure_future(loop.getaddrinfo(f"{n}.test", 80)) for n in range(12)]
        await resolver.asked(4)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(resolver.calls) == 4
        asking[11].cancel()
        await asyncio.wait([asking[11]])
        resolver.go.set()
        await asyncio.gather(*asking[:11])
        # One that was cancelled in the queue is not made at all.
        assert len(resolver.calls) == 11

    loop.run_until_complete(main())


def test_a_look_up_that_never_returns_does_not_hold_close_for_ever(new_loop, monkeypatch):
    resolver = Resolver(monkeypatch)
    loop = new_loop()

    async def main():
        task = asyncio.ensure_future(loop.getaddrinfo("never.test", 80))
        await resolver.asked()
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(main())
    loop.close()
    assert loop.is_closed()
    resolver.go.set()


def test_the_interpreter_ends_in_order_after_a_look_up_that_outlived_its_loop(run_child):
    child = run_child(
        """
        import atexit, socket, threading
        begun, go = threading.Event(), threading.Event()
        def getaddrinfo(*arguments):
            begun.set()
            go.wait()
            return []
        socket.getaddrinfo = getaddrinfo
        async def main():
            task = asyncio.ensure_future(loop.getaddrinfo("slow.test", 80))
            while not begun.is_set():
                await asyncio.sleep(0)
            task.cancel()
        loop = new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        threading.Timer(0.1, go.set).start()
        """,
        arguments=(),
    )
    assert (child.returncode, child.stderr) == (0, "")
