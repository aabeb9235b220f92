"""Contexts and transports of the program's own: subclasses of SSLContext, keys with a password,
and TLS over a transport that is not the loop's.

Run by pytest on asyncio and on aioxide. Certificates are made by trustme for each run.
"""

import asyncio
import contextlib
import ssl

import pytest
from cryptography.hazmat.primitives import serialization
from loopback import BufferedRecorder, Recorder, connected_pair, on_loop, until
from tls_ends import Authority, handshakes_failed, tls_pair, tls_server

PAYLOAD = bytes(range(256)) * 2000
SECRET = "pass für immer"


@on_loop
async def test_a_host_name_that_tls_refuses_leaves_no_socket(loop, namespace, authority):
    near, far = connected_pair()
    with far, near:
        with pytest.raises(ValueError, match="label empty"):
            await loop.create_connection(
                Recorder, sock=near, ssl=authority.client(), server_hostname=".bad"
            )
        # asyncio leaves it to the collector.
        assert (near.fileno() == -1) is (namespace is not asyncio)


# A private key that is encrypted


@pytest.fixture
def encrypted(authority, tmp_path):
    """The files of the server's certificate and of its key, which wants a password."""
    key = serialization.load_pem_private_key(authority.certificate.private_key_pem.bytes(), None)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(SECRET.encode()),
        )
    )
    chain = b"".join(blob.bytes() for blob in authority.certificate.cert_chain_pems)
    (tmp_path / "chain.pem").write_bytes(chain)
    return tmp_path / "chain.pem", tmp_path / "key.pem"


@pytest.mark.parametrize("convert", [str, str.encode, lambda secret: bytearray(secret.encode())])
@on_loop
async def test_a_key_whose_password_is_asked_for(loop, authority, encrypted, convert):
    asked = []

    def password():
        asked.append(1)
        return convert(SECRET)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*encrypted, password)
    async with tls_pair(loop, authority, server=context) as ((near, near_protocol), (far, _)):
        far.write(b"hello")
        await near_protocol.has_bytes(5)
        assert near.get_extra_info("peercert")["subjectAltName"]
    # Once for the context, not for each connection.
    assert asked == [1]


@on_loop
async def test_the_password_can_be_asked_for_in_a_thread_while_the_loop_turns(
    loop, authority, encrypted
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def password():
        return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, SECRET), loop).result()

    await loop.run_in_executor(None, context.load_cert_chain, *encrypted, password)
    async with tls_pair(loop, authority, server=context) as ((near, _), (_, far_protocol)):
        near.write(b"hello")
        await far_protocol.has_bytes(5)


@on_loop
async def test_a_wrong_password_leaves_a_server_that_can_talk_to_nobody(
    loop, authority, encrypted, loop_errors
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(*encrypted, lambda: "wrong")
    async with tls_server(loop, context) as (address, made):
        with pytest.raises(OSError):
            await loop.create_connection(
                Recorder, *address, ssl=authority.client(), server_hostname="localhost"
            )
        await until(lambda: made)
        assert made[0].events == []
    await handshakes_failed(loop_errors)


# A subclass that lets another context do the work, as packages do that ask the system's store


class Judging(ssl.SSLObject):
    """Asks its context's judge for a verdict once OpenSSL has accepted the peer."""

    def do_handshake(self):
        super().do_handshake()
        self.context.judge(self.server_hostname, self.getpeercert(binary_form=True))


class Inner(ssl.SSLContext):
    sslobject_class = Judging


class Delegating(ssl.SSLContext):
    """Its own settings are never used: those of `inner` are, which verifies less than the judge."""

    def __new__(cls, judge):
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, judge):
        self.inner = Inner(ssl.PROTOCOL_TLS_CLIENT)
        self.inner.check_hostname = False
        self.inner.verify_mode = ssl.CERT_NONE
        self.inner.judge = judge
        self.wrapped = []

    @property
    def verify_mode(self):
        return ssl.CERT_REQUIRED

    @property
    def check_hostname(self):
        return True

    def wrap_bio(self, incoming, outgoing, server_side=False, server_hostname=None, session=None):
        self.wrapped.append((server_side, server_hostname, session))
        return self.inner.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@on_loop
async def test_a_context_that_delegates(loop, authority, protocol_class):
    verdicts = []
    context = Delegating(lambda *given: verdicts.append(given))
    async with tls_pair(loop, authority, protocol_class, client=context) as (
        (near, near_protocol),
        (far, far_protocol),
    ):
        assert context.wrapped == [(False, "localhost", None)]
        ((name, certificate),) = verdicts
        assert name == "localhost" and certificate.startswith(b"\x30")
        assert near.get_extra_info("sslcontext") is context
        tls = near.get_extra_info("ssl_object")
        assert type(tls) is Judging and tls.context is context.inner
        near.write(PAYLOAD)
        far.write(PAYLOAD[::-1])
        await far_protocol.has_bytes(len(PAYLOAD))
        await near_protocol.has_bytes(len(PAYLOAD))
        assert far_protocol.received == PAYLOAD
        assert near_protocol.received == PAYLOAD[::-1]
        near.close()
        await near_protocol.has("lost")
        await far_protocol.has("lost")
        assert near_protocol.error is None


@on_loop
async def test_a_judge_that_refuses(loop, authority, loop_errors):
    def refuse(name, certificate):
        raise ssl.SSLCertVerificationError(f"{name} is not in the store")

    protocol = Recorder()
    async with tls_server(loop, authority.server()) as (address, made):
        with pytest.raises(ssl.SSLCertVerificationError, match="localhost is not in the store"):
            await loop.create_connection(
                lambda: protocol, *address, ssl=Delegating(refuse), server_hostname="localhost"
            )
        assert protocol.events == []
        # TLS 1.3 lets the server believe for a moment that all is well.
        await until(lambda: loop_errors or (made and "lost" in made[0].events))
    loop_errors.clear()


@on_loop
async def test_start_tls_with_a_context_that_delegates(loop, authority):
    verdicts = []
    context = Delegating(lambda *given: verdicts.append(given))
    pairs = [await loop.create_connection(Recorder, sock=sock) for sock in connected_pair()]
    client, _ = await asyncio.gather(
        loop.start_tls(*pairs[0], context, server_hostname="server.test"),
        loop.start_tls(*pairs[1], authority.server(), server_side=True),
    )
    assert [name for name, _ in verdicts] == ["server.test"]
    client.write(b"hello")
    await pairs[1][1].has_bytes(5)
    client.close()
    for _, protocol in pairs:
        await protocol.has("lost")


@on_loop
async def test_a_context_that_cannot_wrap(loop, authority):
    class Refusing(ssl.SSLContext):
        def wrap_bio(self, *args, **kwargs):
            raise LookupError("no store on this machine")

    near, far = connected_pair()
    with near, far:
        with pytest.raises(LookupError, match="no store on this machine"):
            await loop.create_connection(
                Recorder,
                sock=near,
                ssl=Refusing(ssl.PROTOCOL_TLS_CLIENT),
                server_hostname="localhost",
            )


# A transport that is not the loop's


class Wire(asyncio.Transport):
    """One of two ends in memory; what one writes is due at the other a turn of the loop later."""

    _start_tls_compatible = True
    limit = 20_000

    def __init__(self, loop, protocol, piece):
        super().__init__({"wire": self})
        self.loop, self.protocol, self.piece = loop, protocol, piece
        self.far = None
        self.queue = bytearray()
        self.ended = self.closing = self.lost = self.paused = self.full = self.due = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def is_closing(self):
        return self.closing

    def is_reading(self):
        return not self.paused

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False
        self._soon()

    def write(self, data):
        assert isinstance(data, (bytes, bytearray, memoryview))
        if self.closing:
            return
        self.far.queue += data
        if len(self.far.queue) > self.limit and not self.full:
            self.full = True
            self.protocol.pause_writing()
        self.far._soon()

    def close(self):
        if not self.closing:
            self._force_close(None)

    def abort(self):
        self._force_close(None)

    def _force_close(self, exc):
        if not self.lost:
            self.closing = self.lost = True
            self.loop.call_soon(self.protocol.connection_lost, exc)
            self.far.ended = True
            self.far._soon()

    def _soon(self):
        if not self.due:
            self.due = True
            self.loop.call_soon(self._deliver)

    def _deliver(self):
        self.due = False
        if self.paused or self.lost:
            return
        if self.queue:
            data = bytes(self.queue[: self.piece])
            del self.queue[: self.piece]
            self._feed(data)
            if self.far.full and not self.queue:
                self.far.full = False
                self.far.protocol.resume_writing()
            self._soon()
        elif self.ended:
            self.ended = False
            if not self.protocol.eof_received():
                self.close()

    def _feed(self, data):
        if not isinstance(self.protocol, asyncio.BufferedProtocol):
            self.protocol.data_received(data)
            return
        while data:
            room = memoryview(self.protocol.get_buffer(len(data)))
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self.protocol.buffer_updated(count)
            data = data[count:]


def wires(loop, protocol_class=Recorder, piece=5000):
    """Two ends that are connected, and whose protocols know it."""
    near, far = (Wire(loop, protocol_class(), piece) for _ in range(2))
    near.far, far.far = far, near
    for wire in (near, far):
        wire.protocol.connection_made(wire)
    return (near, near.protocol), (far, far.protocol)


@contextlib.asynccontextmanager
async def tls_over_wires(loop, authority, *given):
    near, far = wires(loop, *given)
    client, server = await asyncio.gather(
        loop.start_tls(*near, authority.client(), server_hostname="localhost"),
        loop.start_tls(*far, authority.server(), server_side=True),
    )
    try:
        yield (client, *near), (server, *far)
    finally:
        for _, wire, protocol in ((client, *near), (server, *far)):
            wire.abort()
            await protocol.has("lost")


@pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("piece", [1000, 100_000])
@on_loop
async def test_tls_over_a_foreign_transport(loop, authority, protocol_class, piece):
    async with tls_over_wires(loop, authority, protocol_class, piece) as (near, far):
        client, wire, protocol = near
        server, _, far_protocol = far
        assert client.get_extra_info("wire") is wire
        assert client.get_extra_info("peercert")
        client.write(PAYLOAD)
        client.writelines([b"and ", bytearray(b"more")])
        server.write(PAYLOAD[::-1])
        await far_protocol.has_bytes(len(PAYLOAD) + 8)
        await protocol.has_bytes(len(PAYLOAD))
        assert far_protocol.received == PAYLOAD + b"and more"
        assert protocol.received == PAYLOAD[::-1]
        client.close()
        for ended in (protocol, far_protocol):
            await ended.has("lost")
            assert ended.error is None
        assert far_protocol.events.count("eof") == 1
        assert wire.closing and wire.far.closing


@on_loop
async def test_flow_control_over_a_foreign_transport(loop, authority):
    async with tls_over_wires(loop, authority) as (near, far):
        client, wire, protocol = near
        server, far_wire, far_protocol = far
        wire.limit = 500_000
        server.pause_reading()
        sent = 0
        while "pause" not in protocol.events:
            client.write(PAYLOAD[:50_000])
            sent += 50_000
            await asyncio.sleep(0)
        # The layer holds the transport back while too much is waiting for the program.
        await until(lambda: far_wire.paused)
        server.resume_reading()
        await protocol.has("resume")
        await far_protocol.has_bytes(sent)
        assert not far_wire.paused


@on_loop
async def test_a_foreign_transport_that_is_lost(loop, authority):
    async with tls_over_wires(loop, authority) as ((client, wire, protocol), (_, _, far_protocol)):
        reason = ConnectionResetError(104, "the wire is cut")
        wire._force_close(reason)
        await protocol.has("lost")
        assert protocol.error is reason
        assert client.is_closing()
        await far_protocol.has("lost")
        assert far_protocol.error is None


@on_loop
async def test_a_foreign_transport_that_is_lost_in_the_handshake(loop, authority):
    near, far = wires(loop)
    starting = asyncio.ensure_future(
        loop.start_tls(*near, authority.client(), server_hostname="localhost")
    )
    await far[1].has("data")
    reason = ConnectionResetError(104, "the wire is cut")
    near[0]._force_close(reason)
    with pytest.raises(ConnectionResetError) as caught:
        await starting
    assert caught.value is reason
    await far[1].has("lost")


@on_loop
async def test_a_refused_certificate_over_a_foreign_transport(loop):
    near, far = wires(loop)
    serving = asyncio.ensure_future(loop.start_tls(*far, Authority().server(), server_side=True))
    with pytest.raises(ssl.SSLCertVerificationError):
        await loop.start_tls(*near, Authority().client(), server_hostname="localhost")
    with pytest.raises(OSError):
        await serving
    assert near[0].closing and far[0].closing


@on_loop
async def test_cancelling_over_a_foreign_transport(loop, authority):
    for turns in range(12):
        near, far = wires(loop)
        ends = [
            loop.create_task(
                loop.start_tls(*near, authority.client(), server_hostname="localhost")
            ),
            loop.create_task(loop.start_tls(*far, authority.server(), server_side=True)),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled = [end for end in ends if end.cancel()]
        assert cancelled or turns > 3
        for end in cancelled:
            with pytest.raises(asyncio.CancelledError):
                await end
        for wire, _ in (near, far):
            # A task that never ran could not close anything.
            assert wire.closing or turns == 0 or not cancelled
            wire.abort()
