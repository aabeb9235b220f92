"""Connection pools, for HTTP and for a database: what they save, and what one that is empty does.

For a newcomer to read and run: python examples/connection_pools.py
aiohttp serves itself on loopback, SQLite lives in a temporary folder.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import sqlalchemy
from aiohttp import web
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import aioxide as asyncio


class Site:
    """Answers at once, or holds a request until the gate is opened; counts its connections."""

    def __init__(self) -> None:
        self.connections: set[object] = set()
        self.held = 0
        self.holding = asyncio.Event()
        self.gate = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        return web.Response(text="at once")

    async def hold(self, request: web.Request) -> web.Response:
        self.held += 1
        self.holding.set()
        await self.gate.wait()
        return web.Response(text="at last")

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        application = web.Application()
        application.add_routes([web.get("/", self.answer), web.get("/hold", self.hold)])
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def read(session: aiohttp.ClientSession, path: str) -> str:
    async with session.get(path) as response:
        return await response.text()


async def a_session_for_each_request(site: Site, url: str) -> None:
    """Each session has a pool of its own, so every request pays for a new connection."""
    site.connections.clear()
    for _ in range(20):
        async with aiohttp.ClientSession(url) as session:
            await read(session, "/")
    print(f"20 requests opened {len(site.connections)} connections")


async def one_session_for_all(site: Site, url: str) -> None:
    """`limit` bounds the whole pool, `limit_per_host` each server's share of it.

    Addresses are looked up again after `ttl_dns_cache` seconds; keep it short where servers move.
    """
    site.connections.clear()
    connector = aiohttp.TCPConnector(limit=20, limit_per_host=5, ttl_dns_cache=10)
    async with (
        aiohttp.ClientSession(url, connector=connector) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(200):
            group.create_task(read(session, "/"))
    print(f"200 requests shared at most 5 connections: {len(site.connections) <= 5}")


async def an_empty_http_pool(site: Site, url: str) -> None:
    """aiohttp's `total` runs while a request waits for a connection, before anything is sent.

    Let requests queue before the pool, and the clock starts when it is their turn.
    """
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        aiohttp.ClientSession(url, connector=connector) as session,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(read(session, "/hold"))
        await site.holding.wait()
        try:
            async with session.get("/", timeout=aiohttp.ClientTimeout(total=0.05)):
                pass
        except TimeoutError:
            print(f"a healthy server, and yet a timeout: it saw only {site.held} request")
        site.gate.set()
        print(f"the first request was answered: {await first}")

        turn = asyncio.Semaphore(1)

        async def in_turn() -> str:
            async with turn, session.get("/", timeout=aiohttp.ClientTimeout(total=30)) as response:
                return await response.text()

        waiting = [group.create_task(in_turn()) for _ in range(50)]
    print(f"50 more waited their turn and were answered: {all(task.result() for task in waiting)}")


@asynccontextmanager
async def opened(path: Path, *, patience: float) -> AsyncIterator[AsyncEngine]:
    """An engine with at most three connections: two that stay and one for busy moments.

    Either ping a connection before each use (pool_pre_ping) or replace it when it is old
    (pool_recycle): both at once cost a round trip for nothing. And multiply the size by the number
    of processes before you compare it with what the server allows.
    """
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", pool_size=2, max_overflow=1, pool_timeout=patience
    )
    try:
        yield engine
    finally:
        await engine.dispose()


async def query(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(sqlalchemy.text("SELECT 1"))).scalar_one()


async def a_database_pool(path: Path) -> None:
    """Connections are opened when first needed, and then serve any number of tasks in turn."""
    connections: list[object] = []
    async with opened(path, patience=30) as engine, asyncio.TaskGroup() as group:
        event.listen(engine.sync_engine, "connect", lambda new, _record: connections.append(new))
        for _ in range(60):
            group.create_task(query(engine))
    print(f"60 queries shared at most 3 connections: {len(connections) <= 3}")


async def an_empty_database_pool(path: Path) -> None:
    """`pool_timeout` says how long to wait for a connection, and the error says what it was."""
    async with opened(path, patience=0.05) as engine:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(engine.connect())
            print(f"{engine.pool.checkedout()} connections are in use")
            try:
                await query(engine)
            except sqlalchemy.exc.TimeoutError as error:
                print(f"no fourth one: {str(error).split(',')[0]}")
        print(f"given back: {engine.pool.checkedout()} in use, query says {await query(engine)}")


async def main() -> None:
    site = Site()
    async with site.served() as url:
        for step in (a_session_for_each_request, one_session_for_all, an_empty_http_pool):
            print(f"-- {step.__name__.replace('_', ' ')}")
            await step(site, url)
    with TemporaryDirectory() as folder:
        for step in (a_database_pool, an_empty_database_pool):
            print(f"-- {step.__name__.replace('_', ' ')}")
            await step(Path(folder, "pool.sqlite"))


if __name__ == "__main__":
    asyncio.run(main())
