"""The test clients of Starlette and FastAPI, which run an application in a thread of their own.

Run by pytest on asyncio and on aioxide, through the option `loop_factory` of anyio's backend.
"""

import asyncio
import importlib

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starting import APPLICATIONS, needs

pytestmark = needs("httpx2")


def loop_kind():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


async def loop(request):
    return JSONResponse({"loop": loop_kind()})


async def chat(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text.upper())


STARLETTE = Starlette(routes=[Route("/loop", loop), WebSocketRoute("/chat", chat)])


@pytest.fixture
def backend_options(namespace):
    factory = asyncio.SelectorEventLoop if namespace is asyncio else namespace.new_event_loop
    return {"loop_factory": factory}


@pytest.fixture
def fastapi_app(monkeypatch):
    monkeypatch.syspath_prepend(APPLICATIONS)
    return importlib.import_module("fast").app


def test_starlette_under_its_test_client(namespace, backend_options):
    with TestClient(STARLETTE, backend_options=backend_options) as client:
        assert client.get("/loop").json() == {"loop": namespace.__name__}
        with client.websocket_connect("/chat") as socket:
            for number in range(20):
                socket.send_text(f"message {number}")
                assert socket.receive_text() == f"MESSAGE {number}"


def test_fastapi_under_its_test_client(namespace, backend_options, fastapi_app, capfd):
    with TestClient(fastapi_app, backend_options=backend_options) as client:
        assert client.get("/loop").json()["loop"] == namespace.__name__
        assert client.get("/thread/7").json() == {"number": 7}
        assert client.post("/echo", content=b"x" * 100_000).content == b"x" * 100_000
        assert client.get("/slow").json() == "slow"
        with pytest.raises(ZeroDivisionError):
            client.get("/error")
    assert "shut down after" in capfd.readouterr().out


def test_a_test_client_without_a_lifespan(namespace, backend_options):
    """Each request gets a loop of its own, in a thread of its own."""
    client = TestClient(STARLETTE, backend_options=backend_options)
    for _ in range(10):
        assert client.get("/loop").json() == {"loop": namespace.__name__}
