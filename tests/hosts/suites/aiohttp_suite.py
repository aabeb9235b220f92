"""Tests as people write them for aiohttp's fixtures, for test_pytest_plugins.py to run.

Both plugins have these fixtures: pytest-aiohttp and aiohttp's own.  Expects the loop that EXPECTED
names; one test must fail.
"""

import asyncio
import os

import pytest
from aiohttp import web


async def loop(request):
    return web.Response(text=type(asyncio.get_running_loop()).__module__.split(".")[0])


@pytest.fixture
def application():
    application = web.Application()
    application.router.add_get("/loop", loop)
    return application


async def test_loop(aiohttp_client, application):
    client = await aiohttp_client(application)
    async with client.get("/loop") as response:
        assert await response.text() == os.environ["EXPECTED"]


async def test_server(aiohttp_server, application):
    server = await aiohttp_server(application)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"GET /loop HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(os.environ["EXPECTED"].encode())
    writer.close()
    await writer.wait_closed()


@pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
async def test_failure(aiohttp_client, application):
    await aiohttp_client(application)
    raise ZeroDivisionError
