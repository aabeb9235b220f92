"""aiohttp on both sides: one request, a shared session, a client class, a retry decorator.

Run by test_guide.py under plain Python and under `python -m aioxide`; both must print the same.
The server runs on loopback in the same loop. Asserts nothing itself.
"""

import asyncio
from functools import wraps

import aiohttp
from aiohttp import web


async def fetch_url(url: str) -> str:
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            return await response.text()


async def fetch_one(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as response:
        return await response.text()


async def fetch_many(urls: list[str]) -> list[str]:
    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*[fetch_one(session, url) for url in urls])


class HttpClient:
    def __init__(self, base_url: str = "", timeout: int = 30, max_connections: int = 100) -> None:
        self.base_url = base_url
        connector = aiohttp.TCPConnector(
            limit=max_connections, limit_per_host=10, ttl_dns_cache=300
        )
        self.session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=timeout)
        )

    async def get(self, path: str, **options) -> dict:
        async with self.session.get(f"{self.base_url}{path}", **options) as response:
            response.raise_for_status()
            return await response.json()

    async def post(self, path: str, data: dict, **options) -> dict:
        async with self.session.post(f"{self.base_url}{path}", json=data, **options) as response:
            response.raise_for_status()
            return await response.json()

    async def close(self) -> None:
        await self.session.close()

    async def __aenter__(self) -> "HttpClient":
        return self

    async def __aexit__(self, *details) -> None:
        await self.close()


def retrying(max_attempts: int = 3, delay: float = 1.0, backoff: float = 2.0):
    def decorate(function):
        @wraps(function)
        async def wrapper(*args, **kwargs):
            pause = delay
            for attempt in range(max_attempts):
                try:
                    return await function(*args, **kwargs)
                except Exception as error:
                    if attempt == max_attempts - 1:
                        raise
                    print(f"attempt {attempt + 1} failed with {error.status}, pausing {pause} s")
                    await asyncio.sleep(pause)
                    pause *= backoff

        return wrapper

    return decorate


@retrying(max_attempts=3, delay=0.01)
async def unreliable(url: str) -> dict:
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as response:
            response.raise_for_status()
            return await response.json()


class Server:
    """The other side: pages, users, and a page that works the third time."""

    def __init__(self) -> None:
        self.asked = 0

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=f"this is page {request.match_info['number']}")

    async def user(self, request: web.Request) -> web.Response:
        return web.json_response({"id": int(request.match_info["number"])})

    async def new_user(self, request: web.Request) -> web.Response:
        return web.json_response({"created": await request.json()}, status=201)

    async def busy(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked % 3:
            raise web.HTTPServiceUnavailable
        return web.json_response({"asked": self.asked})

    async def start(self) -> web.AppRunner:
        application = web.Application()
        application.add_routes(
            [
                web.get("/page/{number}", self.page),
                web.get("/users/{number}", self.user),
                web.post("/users", self.new_user),
                web.get("/busy", self.busy),
            ]
        )
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner


async def main() -> None:
    runner = await Server().start()
    url = "http://{}:{}".format(*runner.addresses[0])
    print(await fetch_url(f"{url}/page/1"))
    print(await fetch_many([f"{url}/page/{number}" for number in range(30)]))
    async with HttpClient(url) as client:
        print(
            await asyncio.gather(
                client.get("/users/1"),
                client.get("/users/2"),
                client.post("/users", {"name": "Alice"}),
            )
        )
        try:
            await client.get("/nowhere")
        except aiohttp.ClientResponseError as error:
            print(f"refused: {error.status} {error.message}")
    print(await unreliable(f"{url}/busy"))
    try:
        await unreliable(f"{url}/nowhere")
    except aiohttp.ClientResponseError as error:
        print(f"given up: {error.status}")
    await runner.cleanup()


asyncio.run(main())
print("end")
