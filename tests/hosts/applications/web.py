"""An aiohttp application with the same routes as asgi.py, for servers of aiohttp.

Imported by servers that the tests start.  Says which loop it runs on; prints when it starts and
ends.
"""

import asyncio
import json
import os

from aiohttp import web


def say(line):
    """In one system call, since workers share the output."""
    os.write(1, f"{line}\n".encode())


def kind_of_loop():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


async def loop(request):
    return web.Response(text=json.dumps({"loop": kind_of_loop(), "process": os.getpid()}))


async def echo(request):
    return web.Response(body=await request.read())


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(100):
        await asyncio.sleep(0.0001)
        await response.write(b"%d\n" % number)
    return response


async def thread(request):
    return web.Response(body=await asyncio.to_thread(b" ".join, [b"from", b"a", b"thread"]))


async def chat(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data.upper())
    return socket


async def start(app):
    say(f"application started on {kind_of_loop()}")


async def end(app):
    say("application ended")


application = web.Application(client_max_size=10**8)
application.add_routes(
    [
        web.get("/loop", loop),
        web.post("/echo", echo),
        web.get("/stream", stream),
        web.get("/thread", thread),
        web.get("/chat", chat),
    ]
)
application.on_startup.append(start)
application.on_cleanup.append(end)
