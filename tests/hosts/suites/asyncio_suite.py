"""Tests as people write them for pytest-asyncio, for test_pytest_plugins.py to run.

Expects the loop that EXPECTED names; one test must fail.
"""

import asyncio
import os

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio


def loop_kind():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


@pytest_asyncio.fixture
async def queue():
    queue = asyncio.Queue()
    await queue.put(loop_kind())
    yield queue
    assert queue.empty()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


async def test_loop(queue):
    assert loop_kind() == await queue.get() == os.environ["EXPECTED"]


@pytest.mark.asyncio(loop_scope="module")
async def test_server_of_a_module(server):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"hello\n")
    assert await reader.read() == b"HELLO\n"
    writer.close()
    await writer.wait_closed()


async def test_tasks():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(10)]
    assert [task.result() for task in tasks] == list(range(10))


@pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
async def test_failure():
    await asyncio.sleep(0)
    raise ZeroDivisionError
