"""A graceful end: on SIGTERM stop accepting, let running requests finish, then cancel what is left.

For a newcomer to read and run: python examples/signals_and_shutdown.py
The program sends the signal to itself; outside, `kill` or your service manager does.
"""

import os
import signal

import aioxide as asyncio


class Service:
    """A server whose every request is a task it knows, so that it can wait for them at the end."""

    def __init__(self) -> None:
        self.requests: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self.finish = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request: `quick` waits for the word to finish, `stuck` would never end."""
        self.requests.add(asyncio.current_task())
        request = (await reader.readline()).decode().strip()
        try:
            self.arrived.release()
            if request == "stuck":
                await asyncio.Event().wait()
            await self.finish.wait()
            writer.write(b"done\n")
            await writer.drain()
        except asyncio.CancelledError:
            # The end of the task itself, so nothing above needs to hear of it; and until 3.12
            # asyncio's streams report a handler that ends with CancelledError as broken.
            print(f"service: {request} was cancelled, its work is put back")
        finally:
            writer.close()
            self.requests.discard(asyncio.current_task())

    async def run(self, stop: asyncio.Event, *, grace: float) -> None:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        print("service: ready")
        self.ready.set()
        await stop.wait()
        server.close()
        print(f"service: asked to stop, {len(self.requests)} requests are running")
        await self.end_requests(grace)
        await server.wait_closed()
        print("service: stopped")

    async def end_requests(self, grace: float) -> None:
        """First patience, then cancellation, and in the end somebody has awaited every task."""
        if self.requests:
            done, late = await asyncio.wait(self.requests, timeout=grace)
            print(f"service: {len(done)} finished by themselves, {len(late)} must be cancelled")
            for request in late:
                request.cancel("the service stops")
            await asyncio.gather(*done, *late, return_exceptions=True)


async def client(port: int, request: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode() + b"\n")
    answer = (await reader.read()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return f"{request}: {answer or 'no answer'}"


async def main() -> None:
    """Handlers run in the loop, between two steps of tasks, and may touch anything of ours.

    Ctrl-C without a handler cancels this coroutine, so `finally` and `async with` do their work.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(service.run(stop, grace=0.5))
        await service.ready.wait()
        clients = [
            group.create_task(client(service.port, name)) for name in ("first", "second", "stuck")
        ]
        for _ in clients:
            await service.arrived.acquire()
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        service.finish.set()
        await running
    for finished in clients:
        print(f"client: {finished.result()}")


if __name__ == "__main__":
    asyncio.run(main())
