"""loop.create_connection: its parameters, the order of its attempts, and its errors.

Run by pytest on asyncio and on aioxide.  Names are resolved by a stand-in for loop.getaddrinfo;
nothing asks a name server.
"""

import asyncio
import contextlib
import errno
import socket
import ssl

import pytest
from loopback import (
    Recorder,
    closed,
    listener,
    on_loop,
    read_exactly,
    refusing,
    until,
)


def resolve_to(loop, *addresses):
    """Let every name stand for these addresses, and remember what was asked."""
    asked = []

    async def getaddrinfo(host, port, **hints):
        asked.append((host, port, hints))
        return [
            (
                socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                address,
            )
            for address in addresses
        ]

    loop.getaddrinfo = getaddrinfo
    return asked


@contextlib.contextmanager
def unanswering_address():
    """An address of loopback where a connect neither succeeds nor fails: the queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(listener(backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield listening.getsockname()


def refusal(address):
    return f"[Errno {errno.ECONNREFUSED}] Connect call failed {address}"


async def first_byte_arrives(loop, transport, listening):
    accepted, _ = await loop.sock_accept(listening)
    with accepted:
        transport.write(b"x")
        assert await read_exactly(loop, accepted, 1) == b"x"


# Ways to say where


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@on_loop
async def test_connects_to_a_literal_or_a_name(loop, host):
    with listener("127.0.0.1" if host == "localhost" else host) as listening:
        port = listening.getsockname()[1]
        transport, protocol = await loop.create_connection(Recorder, host, port)
        assert transport.get_extra_info("peername") == listening.getsockname()
        assert protocol.transport is transport
        await first_byte_arrives(loop, transport, listening)
        await closed(transport)


@on_loop
async def test_a_port_may_be_text(loop):
    with listener() as listening:
        host, port = listening.getsockname()
        transport, _ = await loop.create_connection(Recorder, host, str(port))
        assert transport.get_extra_info("peername") == (host, port)
        await closed(transport)


@on_loop
async def test_a_socket_of_the_caller(loop):
    """Whether it was blocking or not, and of whatever family of streams."""
    for near, far in (socket.socketpair(), socket.socketpair(socket.AF_UNIX)):
        with far:
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            assert near.getblocking() is False
            assert transport.get_extra_info("socket").fileno() == near.fileno()
            far.send(b"hello")
            await protocol.has_bytes(5)
            await closed(transport)
            assert near.fileno() == -1


@on_loop
async def test_hints_are_passed_to_getaddrinfo(loop):
    with listener() as listening:
        address = listening.getsockname()
        asked = resolve_to(loop, address)
        transport, _ = await loop.create_connection(
            Recorder,
            "somewhere.test",
            "service",
            family=socket.AF_INET,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_ADDRCONFIG,
        )
        assert asked == [
            (
                "somewhere.test",
                "service",
                {
                    "family": socket.AF_INET,
                    "type": socket.SOCK_STREAM,
                    "proto": socket.IPPROTO_TCP,
                    "flags": socket.AI_ADDRCONFIG,
                },
            )
        ]
        await closed(transport)


# Several addresses


@on_loop
async def test_addresses_are_tried_in_order_until_one_answers(loop):
    with listener() as listening, listener() as unused, refusing("127.0.0.1") as [deaf]:
        resolve_to(loop, deaf, listening.getsockname(), unused.getsockname())
        transport, _ = await loop.create_connection(Recorder, "somewhere.test", 1)
        assert transport.get_extra_info("peername") == listening.getsockname()
        with pytest.raises(BlockingIOError):
            unused.accept()
        await closed(transport)


@on_loop
async def test_one_refusal_is_raised_as_it_is(loop):
    with refusing("127.0.0.1") as [address]:
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, *address)
        assert str(caught.value) == refusal(address)


@on_loop
async def test_different_errors_are_joined_in_one_message(loop):
    with refusing("127.0.0.1", "127.0.0.2") as addresses:
        resolve_to(loop, *addresses)
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, "somewhere.test", 1)
        assert type(caught.value) is OSError
        refusals = ", ".join(refusal(address) for address in addresses)
        assert str(caught.value) == f"Multiple exceptions: {refusals}"


@on_loop
async def test_equal_errors_are_raised_as_one(loop):
    with refusing("127.0.0.1") as [address]:
        resolve_to(loop, address, address)
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, "somewhere.test", 1)
        assert str(caught.value) == refusal(address)


@pytest.mark.parametrize("delay", [None, 0.01])
@on_loop
async def test_all_errors_come_as_a_group(loop, behaves_as, delay):
    if not behaves_as(3, 12):
        with pytest.raises(TypeError, match="all_errors"):
            await loop.create_connection(Recorder, "somewhere.test", 1, all_errors=True)
        return
    with refusing("127.0.0.1", "127.0.0.2") as addresses:
        resolve_to(loop, *addresses)
        with pytest.raises(ExceptionGroup) as caught:
            await loop.create_connection(
                Recorder, "somewhere.test", 1, all_errors=True, happy_eyeballs_delay=delay
            )
    assert caught.value.message == "create_connection failed"
    assert [str(error) for error in caught.value.exceptions] == [
        refusal(address) for address in addresses
    ]


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ({}, "6 6 6 4 4"),
        ({"interleave": 0}, "6 6 6 4 4"),
        ({"interleave": 1}, "6 4 6 4 6"),
        ({"interleave": 2}, "6 6 4 6 4"),
        ({"happy_eyeballs_delay": 0.01}, "6 4 6 4 6"),
        ({"happy_eyeballs_delay": 0.01, "interleave": 0}, "6 6 6 4 4"),
    ],
)
@on_loop
async def test_families_are_interleaved(loop, given, order):
    with refusing("::1", "::1", "::1", "127.0.0.1", "127.0.0.1") as addresses:
        resolve_to(loop, *addresses)
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, "somewhere.test", 1, **given)
    attempts = str(caught.value).removeprefix("Multiple exceptions: ").split("[Errno")[1:]
    assert " ".join("6" if "::1" in attempt else "4" for attempt in attempts) == order
    for family in ("::1", "127.0.0.1"):
        tried = [attempt for attempt in attempts if family in attempt]
        listed = [str(address) for address in addresses if address[0] == family]
        assert all(address in attempt for attempt, address in zip(tried, listed, strict=True))


@on_loop
async def test_happy_eyeballs_does_not_wait_for_an_address_that_does_not_answer(loop):
    with unanswering_address() as silent, listener() as listening:
        resolve_to(loop, silent, listening.getsockname())
        transport, _ = await loop.create_connection(
            Recorder, "somewhere.test", 1, happy_eyeballs_delay=0.05
        )
        assert transport.get_extra_info("peername") == listening.getsockname()
        await first_byte_arrives(loop, transport, listening)
        await closed(transport)


@on_loop
async def test_happy_eyeballs_goes_on_at_once_after_a_refusal(loop):
    with listener() as listening, refusing("127.0.0.1") as [deaf]:
        resolve_to(loop, deaf, listening.getsockname())
        transport, _ = await loop.create_connection(
            Recorder, "somewhere.test", 1, happy_eyeballs_delay=3600
        )
        assert transport.get_extra_info("peername") == listening.getsockname()
        await closed(transport)


@on_loop
async def test_without_happy_eyeballs_a_timeout_ends_the_wait_and_leaves_nothing(loop):
    with unanswering_address() as silent:
        resolve_to(loop, silent)
        for given in ({}, {"happy_eyeballs_delay": 0.01}):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await loop.create_connection(Recorder, "somewhere.test", 1, **given)


# A local address


@on_loop
async def test_local_address_is_bound(loop):
    with listener() as listening:
        transport, _ = await loop.create_connection(
            Recorder, *listening.getsockname(), local_addr=("127.0.0.7", 0)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.7"
        await closed(transport)


@on_loop
async def test_local_address_that_is_not_ours(loop, behaves_as):
    with listener() as listening:
        with pytest.raises(OSError) as caught:
            await loop.create_connection(
                Recorder, *listening.getsockname(), local_addr=("192.0.2.1", 0)
            )
    assert caught.value.errno == errno.EADDRNOTAVAIL
    prefix = "[errno 99] " if behaves_as(3, 13) else ""
    assert caught.value.strerror == (
        "error while attempting to bind on address ('192.0.2.1', 0): "
        f"{prefix}cannot assign requested address"
    )


@on_loop
async def test_local_address_of_another_family(loop):
    with listener() as listening:
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, *listening.getsockname(), local_addr=("::1", 0))
    assert "no matching local address with family=" in str(caught.value)
    assert "AF_INET" in str(caught.value)


@on_loop
async def test_the_local_address_of_the_right_family_is_chosen(loop):
    with listener() as listening:
        address = listening.getsockname()

        async def getaddrinfo(host, port, **hints):
            stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            if host == "local.test":
                return [
                    (socket.AF_INET6, *stream, ("::1", 0, 0, 0)),
                    (socket.AF_INET, *stream, ("127.0.0.9", 0)),
                ]
            return [(socket.AF_INET, *stream, address)]

        loop.getaddrinfo = getaddrinfo
        transport, _ = await loop.create_connection(
            Recorder, "somewhere.test", 1, local_addr=("local.test", 0)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.9"
        await closed(transport)


# Arguments that make no sense


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "host and port was not specified and no sock specified"),
        (
            {"host": "127.0.0.1", "port": 1, "server_hostname": "a"},
            "server_hostname is only meaningful with ssl",
        ),
        (
            {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
        (
            {"port": 1, "ssl": True},
            "You must set server_hostname when using ssl without a host",
        ),
    ],
)
@on_loop
async def test_arguments_that_contradict_each_other(loop, given, message):
    with pytest.raises(ValueError) as caught:
        await loop.create_connection(Recorder, **given)
    assert str(caught.value) == message


@on_loop
async def test_a_socket_and_an_address_exclude_each_other(loop):
    with socket.socket() as sock:
        for given in ({"host": "127.0.0.1", "port": 1}, {"port": 1}, {"host": "127.0.0.1"}):
            with pytest.raises(ValueError) as caught:
                await loop.create_connection(Recorder, sock=sock, **given)
            expected = "host/port and sock can not be specified at the same time"
            assert str(caught.value) == expected


@on_loop
async def test_a_datagram_socket_is_refused(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError) as caught:
            await loop.create_connection(Recorder, sock=sock)
        assert str(caught.value) == f"A Stream Socket was expected, got {sock!r}"
        assert sock.fileno() != -1


@on_loop
async def test_a_tls_socket_is_refused(loop):
    context = ssl.create_default_context()
    with context.wrap_socket(
        socket.socket(), server_hostname="a", do_handshake_on_connect=False
    ) as sock:
        with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
            await loop.create_connection(Recorder, sock=sock)


@on_loop
async def test_an_unconnected_socket_is_taken_but_soon_lost(loop):
    sock = socket.socket()
    transport, protocol = await loop.create_connection(Recorder, sock=sock)
    assert transport.get_extra_info("peername") is None
    await protocol.has("lost")
    await closed(transport)


@pytest.mark.parametrize(
    ("host", "given"),
    [
        ("127.0.0.1", {"family": socket.AF_INET6}),
        ("::1", {"family": socket.AF_INET}),
        ("not.a.number", {"flags": socket.AI_NUMERICHOST}),
    ],
)
@on_loop
async def test_what_cannot_be_resolved_is_a_gaierror(loop, host, given):
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, host, 9, **given)


@on_loop
async def test_a_name_that_stands_for_nothing(loop):
    resolve_to(loop)
    with pytest.raises(OSError, match=r"^getaddrinfo\(\) returned empty list$"):
        await loop.create_connection(Recorder, "nowhere.test", 1)


@on_loop
async def test_cancelling_closes_what_was_opened(loop):
    """At every turn between the first step and the connection."""
    with listener() as listening:
        for turns in range(12):
            connecting = asyncio.ensure_future(
                loop.create_connection(Recorder, *listening.getsockname())
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            try:
                transport, _ = await connecting
            except asyncio.CancelledError:
                continue
            await closed(transport)
        assert turns == 11


@on_loop
async def test_many_connections_at_once(loop):
    with listener(backlog=300) as listening:
        pairs = await asyncio.gather(
            *(loop.create_connection(Recorder, *listening.getsockname()) for _ in range(200))
        )
        names = {transport.get_extra_info("sockname") for transport, _ in pairs}
        assert len(names) == 200
        for transport, _ in pairs:
            transport.abort()
        await until(lambda: all(protocol.events == ["made", "lost"] for _, protocol in pairs))
