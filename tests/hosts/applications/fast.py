"""A FastAPI application: plain and async routes, threads, streams, background tasks, an error.

Imported by servers that the tests start.  Says which loop it runs on; never catches anything.
"""

import asyncio
import os
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
    kind = type(asyncio.get_running_loop()).__module__.split(".")[0]
    return {"loop": kind, "process": os.getpid()}


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
