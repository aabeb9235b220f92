"""loop.create_datagram_endpoint: its arguments, what it refuses, and cancelling it.

Run by pytest on asyncio and on aioxide. What endpoints do is told in test_datagrams.py.
"""

import asyncio
import errno
import logging
import pathlib
import socket

import pytest
from loopback import on_loop, until
from test_datagrams import Receiver, address_of, endpoint


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({}, ValueError, "unexpected address family"),
        ({"local_addr": "localhost"}, TypeError, "2-tuple is expected"),
        ({"local_addr": ("localhost", 1, 2, 3)}, TypeError, "2-tuple is expected"),
        ({"remote_addr": "localhost"}, TypeError, "2-tuple is expected"),
        ({"reuse_address": True}, TypeError, "unexpected keyword argument 'reuse_address'"),
        ({"family": socket.AF_UNIX, "local_addr": b"/x"}, TypeError, "string is expected"),
        ({"family": socket.AF_UNIX, "remote_addr": ("a", 1)}, TypeError, "string is expected"),
        (
            {"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 1)},
            ValueError,
            "can not get address information",
        ),
    ],
)
@on_loop
async def test_arguments_that_are_refused(loop, given, kind, message):
    with pytest.raises(kind, match=message):
        await loop.create_datagram_endpoint(Receiver, **given)


@on_loop
async def test_a_stream_socket_is_refused(loop):
    with socket.socket() as sock:
        with pytest.raises(ValueError, match=r"A (datagram|UDP) [Ss]ocket was expected, got"):
            await loop.create_datagram_endpoint(Receiver, sock=sock)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"local_addr": ("127.0.0.1", 0)}, "local_addr=('127.0.0.1', 0)"),
        ({"remote_addr": ("127.0.0.1", 1)}, "remote_addr=('127.0.0.1', 1)"),
        ({"family": 1, "proto": 2}, "family=1, proto=2"),
        ({"flags": 4}, "flags=4"),
        ({"reuse_port": True, "allow_broadcast": True}, "reuse_port=True, allow_broadcast=True"),
    ],
)
@on_loop
async def test_a_socket_excludes_what_would_make_one(loop, given, shown):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError) as caught:
            await loop.create_datagram_endpoint(Receiver, sock=sock, **given)
        assert str(caught.value) == (
            f"socket modifier keyword arguments can not be used when sock is specified. ({shown})"
        )


@on_loop
async def test_a_family_alone(loop):
    async with endpoint(loop, local=None, family=socket.AF_INET) as (transport, _):
        assert address_of(transport) == ("0.0.0.0", 0)
        assert transport.get_extra_info("socket").family == socket.AF_INET


@on_loop
async def test_reuse_port_lets_two_share_an_address(loop):
    async with endpoint(loop, reuse_port=True) as (first, _):
        address = address_of(first)
        async with endpoint(loop, local=address, reuse_port=True) as (second, _):
            assert address_of(second) == address
        sock = first.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@on_loop
async def test_an_address_in_use(loop):
    async with endpoint(loop) as (first, _):
        with pytest.raises(OSError) as caught:
            await loop.create_datagram_endpoint(Receiver, local_addr=address_of(first))
        assert caught.value.errno == errno.EADDRINUSE


@on_loop
async def test_broadcast_with_a_remote_address_is_not_connected(loop):
    async with endpoint(loop) as (server, receiver):
        address = address_of(server)
        async with endpoint(loop, local=None, remote_addr=address, allow_broadcast=True) as (
            client,
            _,
        ):
            sock = client.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
            assert client.get_extra_info("peername") is None
            assert client._address == address
            client.sendto(b"x")
            await receiver.has(1)
            with pytest.raises(ValueError, match="Invalid address: must be None or"):
                client.sendto(b"x", ("127.0.0.1", 1))


@on_loop
async def test_local_and_remote_address(loop):
    async with endpoint(loop) as (server, receiver):
        given = {"remote_addr": address_of(server), "local_addr": ("127.0.0.1", 0)}
        client, protocol = await loop.create_datagram_endpoint(Receiver, **given)
        client.sendto(b"x")
        await receiver.has(1)
        assert receiver.received[0][1] == address_of(client)
        client.close()
        await until(lambda: "lost" in protocol.events)


@on_loop
async def test_a_file_that_is_no_socket_stays(loop, tmp_path):
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(OSError) as caught:
        await loop.create_datagram_endpoint(Receiver, local_addr=str(path), family=socket.AF_UNIX)
    assert caught.value.errno == errno.EADDRINUSE
    assert _read(path) == "mine"


def _read(path):
    return pathlib.Path(path).read_text(encoding="ascii")


@on_loop
async def test_a_factory_that_raises(loop, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio leaves the socket open")

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await loop.create_datagram_endpoint(fail, local_addr=("127.0.0.1", 0))


@on_loop
async def test_cancelled_before_the_endpoint_begins(loop):
    made = []

    def remember():
        made.append(Receiver())
        return made[-1]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        task = loop.create_task(loop.create_datagram_endpoint(remember, sock=sock))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: sock.fileno() == -1)
    assert made[0].events == ["made", "lost"]


@on_loop
async def test_cancelled_while_the_name_is_looked_up(loop):
    asked = loop.create_future()

    async def never(host, port, **given):
        asked.set_result(host)
        await loop.create_future()

    loop.getaddrinfo = never
    task = loop.create_task(
        loop.create_datagram_endpoint(Receiver, remote_addr=("name.invalid", 9))
    )
    assert await asked == "name.invalid"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_loop
async def test_debug_mode_tells_of_an_endpoint(loop, caplog):
    loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        async with endpoint(loop):
            assert "created: (<" in caplog.text
        async with endpoint(loop, local=None, remote_addr=("127.0.0.1", 9)):
            assert "Datagram endpoint remote_addr=('127.0.0.1', 9) created" in caplog.text
