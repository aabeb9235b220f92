"""An HTTP client that behaves: one session, honest time limits, clear results, careful retries.

For a newcomer to read and run: python examples/http_client.py
aiohttp is both client and server here, on loopback; nothing leaves this machine.
"""

import json
import logging
import random
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import aiohttp
from aiohttp import web

import aioxide as asyncio

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Site:
    """The server: users, a page that is busy twice, and a count of what it was asked."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.connections: set[object] = set()
        self.users = {"1": "Ada", "2": "Grace"}

    @web.middleware
    async def count(self, request: web.Request, handler) -> web.StreamResponse:
        self.requests[request.path] = self.requests.get(request.path, 0) + 1
        self.connections.add(request.transport)
        return await handler(request)

    async def get_user(self, request: web.Request) -> web.Response:
        user = request.match_info["user"]
        if user not in self.users:
            raise web.HTTPNotFound
        return web.json_response({"id": user, "name": self.users[user]})

    async def add_user(self, request: web.Request) -> web.Response:
        user = str(len(self.users) + 1)
        self.users[user] = (await request.json())["name"]
        return web.json_response({"id": user}, status=201)

    async def get_report(self, request: web.Request) -> web.Response:
        if self.requests[request.path] <= 2:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "0"})
        return web.json_response({"report": "ready at last"})

    async def get_slow(self, request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    @asynccontextmanager
    async def served(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Serves on a free port of loopback, with a certificate if there is one; gives the URL."""
        application = web.Application(middlewares=[self.count])
        application.add_routes(
            [
                web.get("/users/{user}", self.get_user),
                web.post("/users", self.add_user),
                web.get("/report", self.get_report),
                web.get("/slow", self.get_slow),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        try:
            yield f"{'https' if tls else 'http'}://{host}:{port}"
        finally:
            await runner.cleanup()


def worth_another_try(error: Exception) -> bool:
    """A busy or broken connection may work next time; a 404 or a TypeError never will."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in {429, 502, 503, 504}
    return isinstance(error, aiohttp.ClientConnectionError | TimeoutError)


def pause_before_retry(error: Exception, attempt: int, shortest: float, longest: float) -> float:
    """What the server asks for; else anything up to a bound that doubles, so clients spread out."""
    headers = getattr(error, "headers", None) or {}
    asked = headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    return random.uniform(0, min(longest, shortest * 2**attempt))


def retry(
    *, attempts: int = 3, within: float = 10, shortest: float = 0.05, longest: float = 2.0
) -> Callable[[Callable[Parameters, Awaitable[Result]]], Callable[Parameters, Awaitable[Result]]]:
    """Repeats a call that is safe to repeat: at most so many attempts, within so many seconds.

    A cancellation is never retried: CancelledError is not an Exception.
    """
    if attempts < 1:
        raise ValueError("attempts must be at least 1")

    def decorate(
        function: Callable[Parameters, Awaitable[Result]],
    ) -> Callable[Parameters, Awaitable[Result]]:
        @wraps(function)
        async def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(within) as deadline:
                attempt = 1
                while True:
                    try:
                        return await function(*args, **kwargs)
                    except Exception as error:
                        pause = pause_before_retry(error, attempt, shortest, longest)
                        too_late = loop.time() + pause >= (deadline.when() or 0)
                        if attempt == attempts or too_late or not worth_another_try(error):
                            raise
                        log.info("  attempt %d failed, once more in %.2f s", attempt, pause)
                    await asyncio.sleep(pause)
                    attempt += 1

        return call

    return decorate


async def read_json(
    response: aiohttp.ClientResponse, *, at_most: int = 1_000_000
) -> dict[str, str]:
    """The answer, unless it is too long: `response.json()` would read on until memory ends."""
    body = bytearray()
    async for piece in response.content.iter_chunked(65536):
        body += piece
        if len(body) > at_most:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {at_most} bytes")
    return json.loads(body)


@dataclass(frozen=True)
class Failed:
    """What stands in the place of a result; it cannot be mistaken for one."""

    path: str
    error: Exception


class Client:
    """One session, and so one pool of connections, for as long as the client is open.

    The session is opened in `__aenter__`, because aiohttp wants a running loop. A request waits for
    its turn at the semaphore, outside aiohttp, so the time limit counts the request only.
    """

    def __init__(
        self,
        base_url: str,
        *,
        at_once: int = 4,
        seconds: float = 5,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.base_url = base_url
        self.at_once = at_once
        self.tls = tls
        self.turn = asyncio.Semaphore(at_once)
        self.timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=1)

    async def __aenter__(self) -> "Client":
        connector = aiohttp.TCPConnector(limit=self.at_once, ssl=self.tls or True)
        self.session = aiohttp.ClientSession(
            self.base_url, connector=connector, timeout=self.timeout, raise_for_status=True
        )
        return self

    async def __aexit__(self, *exception_details: object) -> None:
        await self.session.close()

    async def get(self, path: str) -> dict[str, str]:
        async with self.turn, self.session.get(path) as response:
            return await read_json(response)

    async def post(self, path: str, body: dict[str, str]) -> dict[str, str]:
        """Without a retry: a POST that got no answer may have been carried out all the same."""
        async with self.turn, self.session.post(path, json=body) as response:
            return await read_json(response)

    get_patiently = retry(attempts=3, within=5)(get)

    async def get_each(self, paths: list[str]) -> list[dict[str, str] | Failed]:
        """All results in order; what failed is a Failed and spoils none of the others."""

        async def get_one(path: str) -> dict[str, str] | Failed:
            try:
                return await self.get(path)
            except (aiohttp.ClientError, TimeoutError) as error:
                return Failed(path, error)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(get_one(path)) for path in paths]
        return [task.result() for task in tasks]


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    log.setLevel(logging.INFO)
    site = Site()
    async with site.served() as url, Client(url, at_once=4) as client:
        print("-- one session for everything")
        print(await client.get("/users/1"), await client.post("/users", {"name": "Barbara"}))
        answers = await client.get_each(["/users/1", "/users/9", "/users/3"] * 20)
        failures = [answer for answer in answers if isinstance(answer, Failed)]
        print(
            f"{len(answers)} answers, {len(failures)} failed, the first: {failures[0].error.status}"
        )
        print(f"more than 60 requests used at most 4 connections: {len(site.connections) <= 4}")

        print("-- retries, where they help")
        print(await client.get_patiently("/report"), f"after {site.requests['/report']} requests")
        try:
            await client.get_patiently("/users/404")
        except aiohttp.ClientResponseError as error:
            print(f"{error.status} is final: asked {site.requests['/users/404']} time")

        print("-- time limits")
        async with Client(url, seconds=0.05) as hasty:
            [answer] = await hasty.get_each(["/slow"])
            print(f"gave up on {answer.path} in time: {isinstance(answer.error, TimeoutError)}")


if __name__ == "__main__":
    asyncio.run(main())
