"""aiohttp: its server under `run_app(loop=…)`, its client on the loop under test, TLS, cancelling.

Run by pytest on asyncio and on aioxide.  gunicorn's aiohttp workers are in test_gunicorn.py.
"""

import asyncio
import os
import signal
import ssl

import aiohttp
import pytest
import trustme
from aiohttp import web
from loopback import DEADLINE, on_loop, until
from starting import PYTHON, assert_clean, chat, factory, started, try_out, under

SERVER = """
from aiohttp import web
from web import application
import {module}

web.run_app(application, host="127.0.0.1", port=0, loop={module}.{name}())
"""
LISTENS = r"http://127\.0\.0\.1:(\d+)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_aiohttp_server(namespace, tmp_path, number):
    module, name = factory(namespace).split(":")
    (tmp_path / "server.py").write_text(SERVER.format(module=module, name=name))
    with started([*PYTHON, "server.py"], tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        try_out(port, namespace)
        chat(port, namespace)
        assert program.stop(number) == 0
        assert_clean(program, "application ended")


def test_aiohttp_server_that_takes_the_default_loop(namespace, tmp_path):
    code = "from aiohttp import web; from web import application as app; "
    code += "web.run_app(app, host='127.0.0.1', port=0)"
    with started([*under(namespace), "-c", code], tmp_path) as program:
        port = int(program.wait_for(LISTENS)[1])
        try_out(port, namespace)
        assert program.stop() == 0
        assert_clean(program, "application ended")


@on_loop
async def test_aiohttp_over_https(loop, loop_errors):
    loop.set_debug(True)
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def echo(request):
        return web.Response(body=await request.read())

    app = web.Application(client_max_size=10**8)
    app.add_routes([web.post("/echo", echo)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=serving)
    await site.start()
    port = runner.addresses[0][1]
    payload = os.urandom(900_000)
    connector = aiohttp.TCPConnector(ssl=trusting)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(3):
            url = f"https://localhost:{port}/echo"
            async with session.post(url, data=payload) as response:
                assert await response.read() == payload
    distrusting = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(connector=distrusting) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.post(f"https://localhost:{port}/echo", data=payload)
    await until(lambda: loop_errors)
    (context,) = loop_errors.take()
    assert isinstance(context["exception"], OSError)
    await runner.cleanup()


@on_loop
async def test_aiohttp_timeouts_and_cancellation(loop):
    """A client that gives up in every possible moment, and a server that does not mind."""

    async def slow(request):
        await asyncio.sleep(float(request.query["delay"]))
        return web.Response(text="late")

    app = web.Application()
    app.add_routes([web.get("/slow", slow)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/slow"

    async def get(session, delay, patience):
        try:
            async with asyncio.timeout(patience):
                async with session.get(url, params={"delay": delay}) as response:
                    return await response.text()
        except TimeoutError:
            return None

    async with aiohttp.ClientSession() as session:
        given_up = await asyncio.gather(*(get(session, 0.5, number / 1000) for number in range(50)))
        assert given_up == [None] * 50
        assert await get(session, 0, DEADLINE) == "late"
    await runner.cleanup()
