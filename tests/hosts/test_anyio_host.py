"""anyio: `anyio.run` with our loop, its tasks, streams, threads, processes' pipes and signals.

Run by pytest on asyncio and on aioxide, through its option `loop_factory`.
"""

import asyncio
import signal
import sys

import anyio
import anyio.to_thread
import pytest
from loopback import DEADLINE


def test_anyio(namespace):
    async def main():
        loop = asyncio.get_running_loop()
        assert type(loop).__module__.split(".")[0] == namespace.__name__
        done = []

        async def handle(reader, writer):
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()

        async def work(number):
            with anyio.move_on_after(0.001 * (number % 3)) as scope:
                await anyio.sleep(0.001)
            done.append(scope.cancelled_caught)

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for number in range(30):
                    group.start_soon(work, number)
            stream = await anyio.connect_tcp(*server.sockets[0].getsockname())
            async with stream:
                await stream.send(b"over tcp\n")
                assert await stream.receive() == b"OVER TCP\n"
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            assert await anyio.to_thread.run_sync(sum, [1, 2, 3]) == 6
            echo = "import sys; print(sys.stdin.read().upper(), end='')"
            child = await anyio.run_process([sys.executable, "-c", echo], input=b"to a child")
            assert (child.returncode, child.stdout) == (0, b"TO A CHILD")
            async with await anyio.open_process([sys.executable, "-c", "input()"]) as process:
                process.terminate()
                assert await process.wait() == -signal.SIGTERM
            sender, receiver = anyio.create_memory_object_stream(5)
            async with sender, receiver:
                sender.send_nowait("item")
                assert await receiver.receive() == "item"
        server.close()
        await server.wait_closed()
        assert len(done) == 30 and any(done)
        return "finished"

    factory = asyncio.SelectorEventLoop if namespace is asyncio else namespace.new_event_loop
    assert anyio.run(main, backend_options={"loop_factory": factory}) == "finished"
