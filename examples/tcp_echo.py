"""TCP with protocols: a line echo server and its client, with flow control; then with streams.

For a newcomer to read and run: python examples/tcp_echo.py
Server and client share one loop on loopback; nothing leaves this machine.
"""

import aioxide as asyncio


class Lines(asyncio.Protocol):
    """Cuts what arrives into lines. TCP carries bytes: a read may end anywhere in a line."""

    def __init__(self) -> None:
        self.unfinished = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.unfinished = (self.unfinished + data).split(b"\n")
        for line in lines:
            self.line_received(line)

    def line_received(self, line: bytes) -> None:
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(error)


class EchoServer(Lines):
    """Answers each line in capitals. When the client reads too slowly, it stops reading as well."""

    def line_received(self, line: bytes) -> None:
        self.transport.write(line.upper() + b"\n")

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class EchoClient(Lines):
    """Sends lines, and gives for each a future of its answer: answers come in order."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[asyncio.Future[bytes]] = []

    def ask(self, line: bytes) -> "asyncio.Future[bytes]":
        answer = asyncio.get_running_loop().create_future()
        self.expected.append(answer)
        self.transport.write(line + b"\n")
        return answer

    def line_received(self, line: bytes) -> None:
        self.expected.pop(0).set_result(line)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for answer in self.expected:
            answer.cancel("the connection is closed")


async def by_protocol(port: int) -> None:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(EchoClient, "127.0.0.1", port)
    print(f"client: {(await client.ask(b'hello')).decode()}")
    answers = await asyncio.gather(*(client.ask(b"line %d" % number) for number in range(1000)))
    print(f"client: 1000 lines sent at once, the last answer is {answers[-1].decode()!r}")
    transport.close()
    print(f"client: closed, error: {await client.closed}")


async def by_streams(port: int) -> None:
    """The same conversation as a coroutine: easier to read, at some cost for each line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello from a stream\n")
    await writer.drain()
    print(f"stream: {(await reader.readline()).decode().strip()}")
    writer.write_eof()
    print(f"stream: end of file from the server: {await reader.read() == b''}")
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoServer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"server: listening on {host}, {len(server.sockets)} socket")
    async with server:
        await by_protocol(port)
        await by_streams(port)
    print(f"server: closed, still serving: {server.is_serving()}")


if __name__ == "__main__":
    asyncio.run(main())
