"""tornado: its HTTP server and client, TCP, websockets, subprocesses and threads on our loop.

Run by pytest on asyncio and on aioxide, in programs of their own.  tornado lays its IOLoop over
the asyncio loop that runs.
"""

import sys

import pytest
from starting import PYTHON, chat, factory, needs, run, started, try_out, under

pytestmark = needs("tornado")

SERVER = """
import asyncio
import json
import os
import signal
from tornado import httpserver, netutil, web, websocket
import {module}

def kind():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]

class Loop(web.RequestHandler):
    def get(self):
        self.write(json.dumps({{"loop": kind(), "process": os.getpid()}}))

class Echo(web.RequestHandler):
    def post(self):
        self.write(self.request.body)

class Stream(web.RequestHandler):
    async def get(self):
        for number in range(100):
            await asyncio.sleep(0.0001)
            self.write(b"%d\\n" % number)
            await self.flush()

class Thread(web.RequestHandler):
    async def get(self):
        self.write(await asyncio.to_thread(b" ".join, [b"from", b"a", b"thread"]))

class Chat(websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message.upper())

async def main():
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    routes = [("/loop", Loop), ("/echo", Echo), ("/stream", Stream), ("/thread", Thread)]
    server = httpserver.HTTPServer(web.Application([*routes, ("/chat", Chat)]))
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print("listening on", sockets[0].getsockname()[1])
    await ended.wait()
    server.stop()
    await server.close_all_connections()
    print("ended")

with asyncio.Runner(loop_factory={module}.{name}) as runner:
    runner.run(main())
"""


def test_a_server_of_tornado(namespace, tmp_path):
    module, name = factory(namespace).split(":")
    (tmp_path / "server.py").write_text(SERVER.format(module=module, name=name))
    with started([*PYTHON, "server.py"], tmp_path) as program:
        port = int(program.wait_for(r"listening on (\d+)")[1])
        try_out(port, namespace)
        chat(port, namespace)
        assert program.stop() == 0
        assert program.output.endswith("ended\n")
        assert "Traceback" not in program.output


PROGRAM = """
import asyncio
import sys
from datetime import timedelta
import {module}
from tornado import gen, httpclient, ioloop, iostream, tcpclient, tcpserver
from tornado.platform.asyncio import AsyncIOMainLoop
from tornado.process import Subprocess

CHILD = "import sys; print(sys.stdin.read().upper()); print('noise', file=sys.stderr); sys.exit(3)"

class Server(tcpserver.TCPServer):
    async def handle_stream(self, stream, address):
        try:
            while True:
                await stream.write((await stream.read_until(b"\\n")).upper())
        except iostream.StreamClosedError:
            pass

async def main():
    loop = ioloop.IOLoop.current()
    print(type(loop).__name__, type(loop.asyncio_loop).__module__.split(".")[0])
    server = Server()
    server.listen(0, "127.0.0.1")
    port = next(iter(server._sockets.values())).getsockname()[1]
    stream = await tcpclient.TCPClient().connect("127.0.0.1", port)
    for number in range(100):
        await stream.write(b"line %d\\n" % number)
        assert await stream.read_until(b"\\n") == b"LINE %d\\n" % number
    await stream.write(b"x" * 3_000_000 + b"\\n")
    assert len(await stream.read_until(b"\\n")) == 3_000_001
    stream.close()
    server.stop()

    child = Subprocess(
        [sys.executable, "-c", CHILD],
        stdin=Subprocess.STREAM,
        stdout=Subprocess.STREAM,
        stderr=Subprocess.STREAM,
    )
    await child.stdin.write(b"to a child")
    child.stdin.close()
    print(await gen.multi([child.stdout.read_until_close(), child.stderr.read_until_close()]))
    print("exit", await child.wait_for_exit(raise_error=False))
    Subprocess.uninitialize()
    try:
        await gen.with_timeout(timedelta(seconds=0.01), loop.asyncio_loop.create_future())
    except gen.TimeoutError:
        print("timed out")
    print(await loop.run_in_executor(None, sum, [1, 2, 3]))
    ticks = []
    ticking = ioloop.PeriodicCallback(lambda: ticks.append(1), 1)
    ticking.start()
    while len(ticks) < 5:
        await gen.sleep(0.001)
    ticking.stop()
    done = loop.asyncio_loop.create_future()
    loop.add_callback(done.set_result, "a callback")
    print(await done)

{start}
"""

WITH_A_RUNNER = """
with asyncio.Runner(loop_factory={module}.{name}) as runner:
    runner.run(main())
"""
ON_THE_MAIN_LOOP = """
asyncio.set_event_loop({module}.{name}())
AsyncIOMainLoop().install()
ioloop.IOLoop.current().run_sync(main)
ioloop.IOLoop.current().close()
"""


@pytest.mark.parametrize("start", [WITH_A_RUNNER, ON_THE_MAIN_LOOP], ids=["runner", "main loop"])
def test_a_program_of_tornado(namespace, tmp_path, start):
    module, name = factory(namespace).split(":")
    start = start.format(module=module, name=name)
    (tmp_path / "program.py").write_text(PROGRAM.format(module=module, start=start))
    # tornado itself deprecates what puts its IOLoop over the main thread's loop.
    warnings = ["-W", "error", "-W", "ignore:make_current:DeprecationWarning"]
    code, output = run([*PYTHON, *warnings, "program.py"], tmp_path)
    assert_says(namespace, code, output)


def test_a_program_of_tornado_under_python_m(namespace, tmp_path):
    start = "ioloop.IOLoop.current().run_sync(main)\nioloop.IOLoop.current().close()"
    (tmp_path / "program.py").write_text(PROGRAM.format(module="asyncio", start=start))
    code, output = run([*under(namespace, sys.executable), "program.py"], tmp_path)
    assert_says(namespace, code, output)


def assert_says(namespace, code, output):
    first, *rest = output.splitlines()
    assert first.split()[-1] == namespace.__name__
    expected = ["[b'TO A CHILD\\n', b'noise\\n']", "exit 3", "timed out", "6", "a callback"]
    assert (code, rest) == (0, expected)
