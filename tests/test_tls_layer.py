"""The TLS layer itself: its transport's face, custom TLS objects, any cut of the stream, its death.

Run by pytest on asyncio and on aioxide. The stream is cut by a relay between two sockets that
forwards as many bytes as chance says.
"""

import asyncio
import contextlib
import gc
import logging
import random
import socket
import ssl
import weakref
from unittest import mock

import pytest
from loopback import BufferedRecorder, Recorder, connected_pair, on_loop, reset, until
from tls_ends import Echo, tls_pair, tls_server

PAYLOAD = random.Random(11).randbytes(200_000)


# Its face


@on_loop
async def test_names_that_programs_reach_for(loop, authority):
    context = authority.client()
    async with tls_pair(loop, authority, client=context) as ((near, _), _):
        assert near._start_tls_compatible is True
        assert near._sendfile_compatible is asyncio.constants._SendfileMode.FALLBACK
        assert near._ssl_protocol._sslcontext is context
        assert near._ssl_protocol._app_transport is near
        assert near._loop is loop
        assert near._protocol_paused is False
        assert isinstance(near, asyncio.Transport)
        assert isinstance(near._ssl_protocol, asyncio.BaseProtocol)
        assert weakref.ref(near)() is near


@on_loop
async def test_a_method_can_be_replaced_on_the_transport(loop, authority):
    async with tls_pair(loop, authority) as ((near, _), _):
        near.write = mock.Mock()
        near.write(b"x")
        near.write.assert_called_once_with(b"x")
        near.note = 5
        assert near.note == 5


@on_loop
async def test_only_bytes_are_written(loop, authority):
    async with tls_pair(loop, authority) as ((near, _), (_, far_protocol)):
        for wrong, name in (("text", "str"), (None, "NoneType"), ([b"x"], "list")):
            with pytest.raises(TypeError) as caught:
                near.write(wrong)
            assert str(caught.value) == f"data: expecting a bytes-like instance, got {name}"
        near.write(b"")
        near.write(memoryview(b"bytes"))
        await far_protocol.has_bytes(5)


@on_loop
async def test_limits_of_the_buffers(loop, authority):
    async with tls_pair(loop, authority) as ((near, _), _):
        assert near.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        assert near.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        assert near.get_read_buffer_size() == near.get_write_buffer_size() == 0
        for name in ("write", "read"):
            set_limits = getattr(near, f"set_{name}_buffer_limits")
            limits = getattr(near, f"get_{name}_buffer_limits")
            set_limits(high=4000)
            assert limits() == (1000, 4000)
            set_limits(low=100)
            assert limits() == (100, 400)
            for high, low in ((1, 2), (-1, None), (None, -1)):
                with pytest.raises(ValueError, match=r"must be >= low"):
                    set_limits(high=high, low=low)
            assert limits() == (100, 400)


@on_loop
async def test_writes_after_the_end_are_dropped_and_logged(loop, authority, caplog):
    async with tls_pair(loop, authority) as ((near, near_protocol), _):
        near.close()
        for _ in range(8):
            near.write(b"lost")
        await near_protocol.has("lost")
    said = [record.getMessage() for record in caplog.records]
    assert "SSL connection is closed" in said


@on_loop
async def test_closing_twice_and_aborting_then(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), (_, far_protocol)):
        near.close()
        near.close()
        assert near.is_closing()
        await near_protocol.has("lost")
        await far_protocol.has("lost")
        assert near_protocol.error is None
        near.abort()
        near.close()


@on_loop
async def test_what_is_known_of_a_connection_that_is_over(loop, authority):
    async with tls_pair(loop, authority) as ((near, near_protocol), _):
        tls = near.get_extra_info("ssl_object")
        near.close()
        await near_protocol.has("lost")
        assert near.get_extra_info("ssl_object") is tls
        assert near.get_extra_info("cipher")
        assert near.get_extra_info("peername", "gone") == "gone"
        assert near.get_protocol() is None


# What callbacks do


@on_loop
async def test_a_callback_that_raises_ends_the_connection(loop, authority, loop_errors):
    class Raising(Recorder):
        def data_received(self, data):
            raise ValueError("no")

    async with tls_server(loop, authority.server(), Raising) as (address, made):
        _, writer = await asyncio.open_connection(
            *address, ssl=authority.client(), server_hostname="localhost"
        )
        writer.write(b"x")
        await until(lambda: made and "lost" in made[0].events)
        assert isinstance(made[0].error, ValueError)
        writer.transport.abort()
    (context,) = loop_errors.take()
    assert context["message"] == "Fatal error on SSL protocol"


@pytest.mark.parametrize("ending", ["close", "abort"])
@on_loop
async def test_a_callback_that_ends_the_connection(loop, authority, ending):
    class Ending(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"last")
            getattr(self.transport, ending)()

    async with tls_server(loop, authority.server(), Ending) as (address, made):
        transport, protocol = await loop.create_connection(
            Recorder, *address, ssl=authority.client(), server_hostname="localhost"
        )
        transport.write(b"x")
        await protocol.has("lost")
        await made[0].has("lost")
        assert made[0].error is None and protocol.error is None
        # What was written before an abort was given to the kernel at once.
        assert protocol.received == b"last"


@on_loop
async def test_everything_a_callback_writes_arrives_in_order(loop, authority):
    class Chatty(Recorder):
        def data_received(self, data):
            super().data_received(data)
            for number in range(200):
                self.transport.write(b"%d " % number)
            self.transport.writelines([b"and ", b"", bytearray(b"more "), PAYLOAD])
            self.transport.write(b"end")

    expected = b"".join(b"%d " % number for number in range(200)) + b"and more " + PAYLOAD + b"end"
    async with tls_server(loop, authority.server(), Chatty) as (address, _):
        reader, writer = await asyncio.open_connection(
            *address, ssl=authority.client(), server_hostname="localhost", limit=2**20
        )
        writer.write(b"x")
        assert await reader.readexactly(len(expected)) == expected
        writer.transport.abort()


@on_loop
async def test_a_reset_reaches_connection_lost_with_its_number(loop, authority):
    near, far = connected_pair()
    serving = await loop.create_server(Recorder, "127.0.0.1", 0)
    serving.close()
    context = authority.server()

    async def serve():
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(far, outgoing.read())
                incoming.write(await loop.sock_recv(far, 65536))
        await loop.sock_sendall(far, outgoing.read())

    serving = asyncio.ensure_future(serve())
    _, protocol = await loop.create_connection(
        Recorder, sock=near, ssl=authority.client(), server_hostname="localhost"
    )
    await serving
    reset(far)
    await protocol.has("lost")
    assert isinstance(protocol.error, ConnectionResetError)
    assert protocol.error.errno is not None


# Objects of the program's own


class Counting(ssl.SSLObject):
    """A TLS object with Python methods, as libraries put in the place of Python's."""

    calls = 0

    def read(self, *args):
        type(self).calls += 1
        return super().read(*args)

    def write(self, data):
        type(self).calls += 1
        return super().write(data)


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@on_loop
async def test_the_contexts_own_class_is_used(loop, authority, protocol_class):
    client = authority.client()
    client.sslobject_class = Counting
    Counting.calls = 0
    async with tls_pair(loop, authority, protocol_class, client=client) as (
        (near, near_protocol),
        (far, far_protocol),
    ):
        assert type(near.get_extra_info("ssl_object")) is Counting
        near.write(PAYLOAD)
        far.write(PAYLOAD[:1000])
        await far_protocol.has_bytes(len(PAYLOAD))
        await near_protocol.has_bytes(1000)
        assert far_protocol.received == PAYLOAD
        assert near_protocol.received == PAYLOAD[:1000]
        near.close()
        await far_protocol.has("lost")
        await near_protocol.has("lost")
    assert Counting.calls > 2


# What came before the stream was cut


@contextlib.asynccontextmanager
async def cut_off(loop, authority, sent, caplog):
    """A paused server side that has yet to be told of `sent`, after which the peer said nothing."""
    loop.set_debug(True)  # It tells the log when the stream ends.
    caplog.set_level(logging.DEBUG, "asyncio")
    async with tls_pair(loop, authority, BufferedRecorder) as ((near, _), (far, protocol)):
        far.pause_reading()
        near.write(sent)
        await until(lambda: near.get_write_buffer_size() == 0)
        near.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await until(lambda: "received EOF" in caplog.text)
        yield far, protocol


@on_loop
async def test_a_buffered_protocol_gets_all_that_came_before_the_end(
    loop, namespace, authority, caplog
):
    sent = PAYLOAD[:20_000]
    async with cut_off(loop, authority, sent, caplog) as (far, protocol):
        far.resume_reading()
        await protocol.has("lost")
        # asyncio fills the buffer once more and loses the rest.
        kept = sent[: BufferedRecorder.size] if namespace is asyncio else sent
        assert bytes(protocol.received) == kept
        assert protocol.events == ["made", "data", "eof", "lost"]
        assert protocol.error is None


@pytest.mark.parametrize("ending", ["close", "abort"])
@on_loop
async def test_who_ends_it_while_more_is_there_is_not_told_the_rest(
    loop, authority, caplog, ending
):
    async with cut_off(loop, authority, PAYLOAD[:20_000], caplog) as (far, protocol):
        far.resume_reading()
        await protocol.has_bytes(BufferedRecorder.size)
        getattr(far, ending)()
        await protocol.has("lost")
        assert len(protocol.received) < 20_000


# Any cut of the stream


async def relay(loop, source, target, chance):
    """Forward everything, cut where chance says."""
    with contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(
            source, chance.choice([1, 3, 5, 6, 100, 20_000, 70_000])
        ):
            await loop.sock_sendall(target, data)
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("seed", range(4))
@on_loop
async def test_any_cut_of_the_records_gives_the_same_bytes(loop, authority, protocol_class, seed):
    chance = random.Random(seed)
    near, near_relay = connected_pair()
    far, far_relay = connected_pair()
    ends = []
    with near_relay, far_relay:
        relays = [
            asyncio.ensure_future(relay(loop, near_relay, far_relay, random.Random(seed))),
            asyncio.ensure_future(relay(loop, far_relay, near_relay, random.Random(seed + 100))),
        ]
        plain, server_protocol = await loop.create_connection(protocol_class, sock=far)
        server_protocol.size = 5_000
        turning = asyncio.ensure_future(
            loop.start_tls(plain, server_protocol, authority.server(), server_side=True)
        )
        client, client_protocol = await loop.create_connection(
            protocol_class, sock=near, ssl=authority.client(), server_hostname="localhost"
        )
        client_protocol.size = 5_000
        server = await turning
        ends = [
            (client, client_protocol, server_protocol),
            (server, server_protocol, client_protocol),
        ]
        sent = {client: bytearray(), server: bytearray()}
        while min(map(len, sent.values())) < 150_000:
            transport, protocol, _ = chance.choice(ends)
            message = chance.randbytes(chance.choice([1, 17, 1_000, 16_384, 50_000]))
            transport.write(message)
            sent[transport] += message
            if chance.random() < 0.2:
                transport.pause_reading()
                await asyncio.sleep(0)
                transport.resume_reading()
        for transport, _, receiver in ends:
            await receiver.has_bytes(len(sent[transport]))
            assert receiver.received == sent[transport]
        client.close()
        for _, protocol, _ in ends:
            await protocol.has("lost")
            assert protocol.error is None
        await asyncio.gather(*relays)


# Its death


@on_loop
async def test_no_cycle_keeps_a_closed_connection_alive(loop, authority):
    gc.collect()
    gc.disable()
    try:
        context = authority.client()
        async with tls_server(loop, authority.server(), Echo) as (address, made):
            transport, protocol = await loop.create_connection(
                Recorder, *address, ssl=context, server_hostname="localhost"
            )
            transport.write(b"x")
            await protocol.has_bytes(1)
            watched = weakref.ref(transport.get_extra_info("ssl_object"))
            transport.close()
            await protocol.has("lost")
            protocol.transport = None
            await until(lambda: made[0].events[-1] == "lost")
        del transport, protocol, context
        await asyncio.sleep(0)
        assert watched() is None
    finally:
        gc.enable()


def test_an_unclosed_transport_warns(namespace, run_child):
    done = run_child(
        """
        import gc, socket, ssl, warnings
        warnings.simplefilter("always")
        context = ssl.create_default_context()
        loop = new_event_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        loop._make_ssl_transport(near, asyncio.Protocol(), context, server_hostname="x")
        for _ in range(5):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        del loop, near
        gc.collect()
        """,
        arguments=("-X", "dev"),
    )
    assert "ResourceWarning: unclosed transport" in done.stderr
    assert done.returncode == 0


class Public(asyncio.Transport):
    """Somebody's transport over another: asyncio's public methods, and leave to start TLS on it."""

    _start_tls_compatible = True

    def __init__(self, below):
        super().__init__()
        self.below = below

    def __getattribute__(self, name):
        public = {"write", "writelines", "close", "abort", "is_closing", "get_extra_info"}
        public |= {"pause_reading", "resume_reading", "set_protocol", "get_protocol"}
        return getattr(self.below, name) if name in public else super().__getattribute__(name)


@on_loop
async def test_tls_that_fails_over_somebody_elses_transport_aborts_it(
    loop, namespace, authority, loop_errors
):
    if namespace is asyncio:
        pytest.skip("asyncio calls a private method that such a transport does not have")
    ours, theirs = connected_pair()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    starting = asyncio.ensure_future(
        loop.start_tls(Public(transport), asyncio.Protocol(), authority.client())
    )
    await loop.sock_sendall(theirs, b"this is no hello of a server\r\n" * 10)
    with pytest.raises(ssl.SSLError):
        await starting
    await until(lambda: transport.get_extra_info("socket").fileno() == -1)
    assert not loop_errors
    theirs.close()
