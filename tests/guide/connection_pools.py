"""Pools as tutorials set them up: a connector with limits, an engine with all its pool options.

Run by test_guide.py and test_guide_database.py under plain Python and under `python -m aioxide`;
both must print the same. Server and database are local; AIOXIDE_GUIDE_DATABASE may name the
database. Asserts nothing itself.
"""

import asyncio
import os
import tempfile

import aiohttp
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


class PooledClient:
    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=100, limit_per_host=30, ttl_dns_cache=300)
        self.session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=30)
        )

    async def fetch_batch(self, urls: list[str]) -> list[str]:
        return await asyncio.gather(*map(self.fetch_one, urls), return_exceptions=True)

    async def fetch_one(self, url: str) -> str:
        try:
            async with self.session.get(url) as response:
                return await response.text()
        except Exception as error:
            return f"error: {type(error).__name__}"


async def over_http() -> None:
    connections = set()

    async def answer(request: web.Request) -> web.Response:
        connections.add(request.transport)
        await asyncio.sleep(0.01)
        return web.Response(text=request.path)

    application = web.Application()
    application.add_routes([web.get("/{name}", answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}".format(*runner.addresses[0])
    client = PooledClient()
    paths = [f"{url}/{number}" for number in range(90)]
    print(await client.fetch_batch([*paths, "http://127.0.0.1:1/refused"]))
    print(f"no more connections than the limit: {len(connections) <= 30}")
    await client.session.close()
    await runner.cleanup()


async def into_a_database() -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_async_engine(
            os.environ.get("AIOXIDE_GUIDE_DATABASE", f"sqlite+aiosqlite:///{folder}/pool.sqlite"),
            pool_size=4,
            max_overflow=2,
            pool_timeout=30,
            pool_recycle=3600,
            pool_pre_ping=True,
        )

        async def ask(number: int) -> int:
            async with engine.connect() as connection:
                twice = text("SELECT CAST(:number AS INTEGER) * 2")
                return await connection.scalar(twice, {"number": number})

        print(await asyncio.gather(*map(ask, range(40))))
        print(f"all given back: {engine.pool.checkedout()}")
        await engine.dispose()


async def main() -> None:
    await over_http()
    await into_a_database()


asyncio.run(main())
print("end")
