"""Programs and servers of other people on our loop, through the hooks they offer.

Run by pytest on asyncio and on aioxide: nothing of theirs is changed, and each says on which
loop it ran.  Servers run as child processes and are spoken to over real sockets.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import textwrap
import threading

import aiohttp
import anyio
import anyio.to_thread
import pytest
import trustme
from aiohttp import web
from loopback import DEADLINE, on_loop, until
from sqlalchemy import String, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CHILD = [sys.executable, "-X", "dev"]


class Served:
    """A server in a child process: where it listens, what it printed, how it ended."""

    def __init__(self, command, directory):
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.watchdog = threading.Timer(DEADLINE, self.process.kill)
        self.watchdog.start()
        self.output = ""
        self.port = None

    def wait_for(self, pattern):
        """Read what it prints up to a line that matches, and return the match."""
        for line in self.process.stdout:
            self.output += line
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"the server ended early:\n{self.output}")

    def stop(self, number=signal.SIGTERM):
        """Ask it to end, and return its exit code."""
        self.process.send_signal(number)
        self.output += self.process.stdout.read()
        code = self.process.wait()
        self.close()
        return code

    def close(self):
        self.watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def served(command, directory):
    server = Served(command, directory)
    try:
        yield server
    finally:
        server.close()


def request(port, method, path, body=None):
    """One request over a connection of its own: the status and the body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


FASTAPI_APP = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse

done = []

@asynccontextmanager
async def lifespan(app):
    await asyncio.sleep(0)
    yield
    print("shut down after", len(done), flush=True)

app = FastAPI(lifespan=lifespan)

@app.get("/loop")
async def loop():
    return type(asyncio.get_running_loop()).__module__

@app.get("/thread/{number}")
def thread(number: int):
    return {"number": number}

@app.post("/echo")
async def echo(request: Request, background: BackgroundTasks):
    body = await request.body()
    background.add_task(done.append, len(body))
    return StreamingResponse(iter([body[:5], body[5:]]), media_type="text/plain")

@app.get("/error")
async def error():
    raise ZeroDivisionError

@app.get("/slow")
async def slow():
    async with asyncio.timeout(20):
        await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(100)))
    return "slow"
"""


def test_uvicorn_serves_fastapi(namespace, tmp_path):
    (tmp_path / "application.py").write_text(FASTAPI_APP)
    command = [*CHILD, "-m", "uvicorn", "application:app", "--port", "0"]
    command += ["--loop", f"{namespace.__name__}:new_event_loop"]
    with served(command, tmp_path) as server:
        port = int(server.wait_for(r"running on http://127\.0\.0\.1:(\d+)")[1])
        status, body = request(port, "GET", "/loop")
        assert (status, json.loads(body).split(".")[0]) == (200, namespace.__name__)
        assert request(port, "GET", "/thread/5") == (200, b'{"number":5}')
        payload = b"x" * 1_000_000
        assert request(port, "POST", "/echo", payload) == (200, payload)
        assert request(port, "GET", "/nowhere")[0] == 404
        assert request(port, "GET", "/slow") == (200, b'"slow"')

        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        for number in range(50):
            kept.request("GET", f"/thread/{number}")
            assert json.loads(kept.getresponse().read()) == {"number": number}
        kept.close()

        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        ) as broken:
            broken.connect()
            broken.sock.sendall(b"\x00garbage that is no HTTP\r\n\r\n")
            assert broken.sock.recv(100).startswith(b"HTTP/1.1 400")

        assert "Traceback" not in server.output
        assert request(port, "GET", "/error")[0] == 500
        assert server.stop() in (0, -signal.SIGTERM)
        assert "shut down after 1" in server.output
        assert "ZeroDivisionError" in server.output
        assert "ResourceWarning" not in server.output
        assert "Finished server process" in server.output


def test_uvicorn_ends_on_ctrl_c(namespace, tmp_path):
    (tmp_path / "application.py").write_text(FASTAPI_APP)
    command = [*CHILD, "-m", "uvicorn", "application:app", "--port", "0"]
    command += ["--loop", f"{namespace.__name__}:new_event_loop"]
    with served(command, tmp_path) as server:
        port = int(server.wait_for(r"running on http://127\.0\.0\.1:(\d+)")[1])
        assert request(port, "GET", "/thread/5")[0] == 200
        server.stop(signal.SIGINT)
        assert "shut down after 0" in server.output
        assert "Finished server process" in server.output


AIOHTTP_SERVER = """
import asyncio
import sys
from aiohttp import web
import {namespace}

async def loop(request):
    return web.Response(text=type(asyncio.get_running_loop()).__module__)

async def echo(request):
    return web.Response(body=await request.read())

async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data.upper())
    return socket

async def ended(app):
    print("cleaned up", flush=True)

app = web.Application(client_max_size=10**8)
app.add_routes([web.get("/loop", loop), web.post("/echo", echo), web.get("/chat", chat)])
app.on_cleanup.append(ended)
web.run_app(app, host="127.0.0.1", port=0, loop={namespace}.new_event_loop())
"""


@on_loop
async def _talk_to_aiohttp(loop, port, module):
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE)) as session:
        async with session.get(f"{url}/loop") as response:
            assert (await response.text()).split(".")[0] == module

        async def echo(number):
            payload = os.urandom(1000 * number)
            async with session.post(f"{url}/echo", data=payload) as response:
                assert response.status == 200
                assert await response.read() == payload

        await asyncio.gather(*(echo(number) for number in range(1, 100)))
        async with session.ws_connect(f"{url}/chat") as chat:
            for number in range(20):
                await chat.send_str(f"message {number}")
                assert await chat.receive_str() == f"MESSAGE {number}"


def test_aiohttp_server_and_client(loop, namespace, tmp_path):
    (tmp_path / "server.py").write_text(AIOHTTP_SERVER.format(namespace=namespace.__name__))
    with served([*CHILD, "server.py"], tmp_path) as server:
        port = int(server.wait_for(r"http://127\.0\.0\.1:(\d+)")[1])
        _talk_to_aiohttp(loop=loop, port=port, module=namespace.__name__)
        assert server.stop() == 0
        assert "cleaned up" in server.output
        assert "Traceback" not in server.output


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


def test_pytest_asyncio_through_its_loop_factories(namespace, tmp_path):
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            f"""
            import {namespace.__name__}

            def pytest_asyncio_loop_factories(config, item):
                return {{"chosen": {namespace.__name__}.new_event_loop}}
            """
        )
    )
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            f"""
            import asyncio
            import pytest
            import pytest_asyncio

            pytestmark = pytest.mark.asyncio

            @pytest_asyncio.fixture
            async def queue():
                queue = asyncio.Queue()
                await queue.put("from the fixture")
                yield queue
                assert queue.empty()

            async def test_loop(queue):
                module = type(asyncio.get_running_loop()).__module__
                assert module.split(".")[0] == {namespace.__name__!r}
                assert await queue.get() == "from the fixture"

            async def test_tasks():
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(10)]
                assert [task.result() for task in tasks] == list(range(10))

            @pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
            async def test_failure():
                await asyncio.sleep(0)
                1 / 0
            """
        )
    )
    ini = ["-c", os.devnull, "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    ini += ["-o", "asyncio_default_fixture_loop_scope=function", "-W", "error", "-q"]
    child = subprocess.run(
        [*CHILD, "-m", "pytest", *ini, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert "2 passed, 1 xfailed" in child.stdout


@on_loop
async def test_sqlalchemy_with_aiosqlite(loop, tmp_path):
    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50), unique=True)

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/users.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with sessions.begin() as session:
        session.add_all([User(name=f"user {number}") for number in range(100)])

    async def read(number):
        async with sessions() as session:
            query = select(User).where(User.name == f"user {number}")
            return (await session.scalars(query)).one().id

    ids = await asyncio.gather(*(read(number) for number in range(20)))
    assert len(set(ids)) == 20
    with pytest.raises(IntegrityError):
        async with sessions.begin() as session:
            session.add(User(name="user 1"))
    async with sessions() as session:
        result = await session.stream(select(User.name).order_by(User.id))
        assert [name async for (name,) in result] == [f"user {number}" for number in range(100)]
    await engine.dispose()
