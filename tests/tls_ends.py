"""Certificates and TLS connections that the TLS tests share.

Called by the test modules whose names begin with test_tls and test_start_tls. Certificates are
made by trustme for each run; nothing here reaches another machine.
"""

import contextlib
import ssl

import trustme
from loopback import Recorder, until


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
        context = ssl.create_default_context()
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
