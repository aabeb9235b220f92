"""Certificates and TLS connections that the TLS tests share.

Called by the test modules whose names begin with test_tls and test_start_tls. Certificates are
made by trustme for each run; nothing here reaches another machine.
"""

import asyncio
import contextlib
import ssl

import trustme
from loopback import Recorder, reset, until


class Authority:
    """A certificate authority, and contexts that trust it."""

    def __init__(self):
        self.ca = trustme.CA()
        self.certificate = self.ca.issue_cert("localhost", "127.0.0.1", "server.test")

    def server(self, certificate=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.certificate).configure_cert(context)
        return context

    def client(self):
        # The default context would also read the system's authorities, which takes long.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context


@contextlib.asynccontextmanager
async def tls_pair(loop, authority, protocol_class=Recorder, server=None, client=None, **given):
    """Two transports with TLS between them: (client, its protocol), (server, its protocol)."""
    accepted = protocol_class()
    serving = await loop.create_server(
        lambda: accepted, "127.0.0.1", 0, ssl=server or authority.server()
    )
    given.setdefault("server_hostname", "localhost")
    transport, protocol = await loop.create_connection(
        protocol_class,
        *serving.sockets[0].getsockname(),
        ssl=client or authority.client(),
        **given,
    )
    await accepted.has("made")
    try:
        yield (transport, protocol), (accepted.transport, accepted)
    finally:
        serving.close()
        for end in (protocol, accepted):
            end.transport.abort()
            await end.has("lost")
        await serving.wait_closed()


@contextlib.asynccontextmanager
async def tls_server(loop, context, factory=Recorder, **given):
    """The address of a server, and its protocols; it runs in debug mode."""
    loop.set_debug(True)
    made = []

    def remember():
        made.append(factory())
        return made[-1]

    server = await loop.create_server(remember, "127.0.0.1", 0, ssl=context, **given)
    try:
        yield server.sockets[0].getsockname(), made
    finally:
        server.close()
        for protocol in made:
            if protocol.transport is not None:
                protocol.transport.abort()
                await protocol.has("lost")
        await server.wait_closed()


async def handshakes_failed(loop_errors, count=1):
    """In debug mode the handler is told of every handshake that fails at the server."""
    await until(lambda: len(loop_errors) >= count)
    for context in loop_errors.take():
        assert context["message"] == "Error on transport creation for incoming connection"
        assert isinstance(context["exception"], OSError)


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class ByHand:
    """An end of TLS over a plain socket: it says what the test tells it to, and no more."""

    def __init__(self, loop, sock, context, **given):
        self.loop, self.sock = loop, sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **given)

    async def _do(self, call, *arguments):
        while True:
            done = result = None
            with contextlib.suppress(ssl.SSLWantReadError):
                result = call(*arguments)
                done = True
            await self.loop.sock_sendall(self.sock, self.outgoing.read())
            if done:
                return result
            self.incoming.write(await self.loop.sock_recv(self.sock, 65536))

    async def handshake(self):
        await self._do(self.tls.do_handshake)

    async def send(self, data):
        await self._do(self.tls.write, data)

    async def receive(self):
        return await self._do(self.tls.read, 65536)

    async def say_goodbye(self):
        """Answer the goodbye of the other end, which was received."""
        await self._do(self.tls.unwrap)

    async def send_part_of_a_record(self):
        self.tls.write(bytes(1000))
        await self.loop.sock_sendall(self.sock, self.outgoing.read()[:500])

    def reset(self):
        reset(self.sock)


@contextlib.asynccontextmanager
async def client_of_hand(loop, authority, sockets, factory=Recorder, **given):
    """A client's transport and protocol, and the peer by hand that it has shaken hands with."""
    near, far = sockets
    peer = ByHand(loop, far, authority.server(), server_side=True)
    shaking = asyncio.ensure_future(peer.handshake())
    with far:
        transport, protocol = await loop.create_connection(
            factory, sock=near, ssl=authority.client(), server_hostname="localhost", **given
        )
        await shaking
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            await protocol.has("lost")
