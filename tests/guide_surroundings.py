"""What the printed guide leaves out of its programs: a model, an API to call, a database to open.

Imported by the programs that test_guide.py makes of the guide's blocks, in a child process.
It adapts addresses only: every option the guide gives reaches aiohttp and SQLAlchemy as it is.
"""

import os
import socket
import ssl
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp.connector
import sqlalchemy.ext.asyncio
from aiohttp import web
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

API = "api.example.com"


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    age: Mapped[int] = mapped_column(default=0)

    def __repr__(self) -> str:
        return f"User({self.id}, {self.name!r}, {self.age})"


class Folder:
    """A folder for the databases of one process, removed when the process ends."""

    kept = tempfile.TemporaryDirectory()
    path = Path(kept.name)


def database_url(name: str) -> str:
    """The database that the test started for this process, else a file of its own."""
    if given := os.environ.get("AIOXIDE_GUIDE_DATABASE"):
        return given
    return f"sqlite+aiosqlite:///{Folder.path / name}.sqlite"


def create_async_engine(url: str, **options: object) -> sqlalchemy.ext.asyncio.AsyncEngine:
    """An engine with the options of the guide, on a database of the test instead of somebody's."""
    return sqlalchemy.ext.asyncio.create_async_engine(database_url("elsewhere"), **options)


class Api:
    """The site that the guide talks to. The page /unreliable works every third time."""

    def __init__(self) -> None:
        self.asked = 0

    async def user(self, request: web.Request) -> web.Response:
        return web.json_response({"id": int(request.match_info["number"])})

    async def new_user(self, request: web.Request) -> web.Response:
        return web.json_response({"created": await request.json()}, status=201)

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=f"page {request.match_info['number']}")

    async def unreliable(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked % 3:
            raise web.HTTPServiceUnavailable
        return web.json_response({"asked": self.asked})

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/users/{number}", self.user),
                web.post("/users", self.new_user),
                web.get("/page/{number}", self.page),
                web.get("/unreliable", self.unreliable),
            ]
        )
        return application


class LoopbackResolver(aiohttp.abc.AbstractResolver):
    """Finds api.example.com at the port where this process serves it, and knows no other name."""

    port = 0

    def __init__(self, *_arguments: object, **_options: object) -> None:
        """aiohttp hands its loop to whatever resolver it makes."""

    async def resolve(self, host, port=0, family=socket.AF_INET):
        if host != API:
            raise OSError(f"unknown host {host}")
        found = {"hostname": host, "host": "127.0.0.1", "port": self.port}
        return [{**found, "family": socket.AF_INET, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def api():
    """Serves the API over HTTP, whose URL it gives, and over TLS as https://api.example.com.

    The certificate is made by the test; the client trusts it through SSL_CERT_FILE, as it would
    trust any other.
    """
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(os.environ["AIOXIDE_GUIDE_CERTIFICATE"])
    runner = web.AppRunner(Api().application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    plain, encrypted = (port for _, port in runner.addresses)
    LoopbackResolver.port = encrypted
    aiohttp.connector.DefaultResolver = LoopbackResolver
    try:
        yield f"http://127.0.0.1:{plain}"
    finally:
        await runner.cleanup()


async def create_tables(engine: sqlalchemy.ext.asyncio.AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def process_item(item: object) -> None:
    print(f"processed {item}")
