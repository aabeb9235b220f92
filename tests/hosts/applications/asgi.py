"""An ASGI application without a framework, which every ASGI server of the tests serves.

Imported by servers that the tests start.  Says which loop it runs on; prints when it starts and
ends; never reports success for what it did not see.
"""

import asyncio
import json
import os


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await chat(receive, send)
    else:
        await ROUTES.get(scope["path"], nowhere)(receive, send)


async def live(receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    say(f"application started on {kind_of_loop()}")
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    say("application ended")
    await send({"type": "lifespan.shutdown.complete"})


async def chat(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})


def say(line):
    """In one system call, since workers share the output."""
    os.write(1, f"{line}\n".encode())


def kind_of_loop():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


async def answer(send, *parts, status=200):
    await send({"type": "http.response.start", "status": status, "headers": []})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def loop(receive, send):
    await answer(send, json.dumps({"loop": kind_of_loop(), "process": os.getpid()}).encode())


async def echo(receive, send):
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await answer(send, bytes(body))


async def stream(receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(100):
        await asyncio.sleep(0.0001)
        body = b"%d\n" % number
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def thread(receive, send):
    await answer(send, await asyncio.to_thread(b" ".join, [b"from", b"a", b"thread"]))


async def nowhere(receive, send):
    await answer(send, b"nothing here", status=404)


ROUTES = {"/loop": loop, "/echo": echo, "/stream": stream, "/thread": thread}
