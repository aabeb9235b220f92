"""The steps of the tour: each does real work, says what came of it, and times the work alone.

tour.py runs them, once aloud and then silently on both loops. They use the other examples and
third-party packages as they are. No step leaves this machine or knows which loop it runs on.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import sqlalchemy
import trustme
from batches_and_rates import Pace, most_within, sliding_window
from connection_pools import opened, query
from database import Database, Users
from http_client import Client, Failed, Site
from tcp_echo import EchoClient, EchoServer

import aioxide as asyncio


class Stage:
    """Where a step reports what it did and how long its work took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts what is done inside as the step's work; preparations stay outside."""
        began = perf_counter()
        yield
        self.seconds += perf_counter() - began


Step = Callable[[Stage], Awaitable[None]]


async def pass_on(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def tasks_and_futures(stage: Stage) -> None:
    with stage.timed():
        total = 0
        for number in range(4000):
            total += await asyncio.create_task(pass_on(number))
    stage.say(f"4,000 tasks were created and awaited; their numbers add up to {total:,}")
    loop = asyncio.get_running_loop()
    parcel = loop.create_future()
    loop.call_later(0.005, parcel.set_result, "a parcel")
    stage.say(f"a future waited for {await parcel}")
    task = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    stage.say(f"a task that wanted to sleep for an hour was cancelled: {task.cancelled()}")


async def countdown(start: int) -> AsyncIterator[int]:
    for number in range(start, 0, -1):
        await asyncio.sleep(0)
        yield number


async def asynchronous_iteration(stage: Stage) -> None:
    with stage.timed():
        counted = [number async for number in countdown(8000)]
    stage.say(f"async for counted from {counted[0]:,} down to {counted[-1]}")
    async with aclosing(countdown(10)) as numbers:
        async for number in numbers:
            if number == 7:
                break
    stage.say(f"another generator was left at {number}, and closed behind us")


async def many_at_once(stage: Stage) -> None:
    with stage.timed():
        gathered = await asyncio.gather(*map(pass_on, range(2000)))
        done, _ = await asyncio.wait([asyncio.create_task(pass_on(n)) for n in range(1000)])
        async with asyncio.TaskGroup() as group:
            grouped = [group.create_task(pass_on(number)) for number in range(2000)]
    stage.say(
        f"gather kept the order: {gathered == sorted(gathered)}; wait gave {len(done):,} tasks"
    )
    stage.say(f"a task group of {len(grouped):,} left no task behind")
    try:
        async with asyncio.TaskGroup() as group:
            sibling = group.create_task(asyncio.sleep(3600))
            await asyncio.sleep(0)
            raise ValueError("a stumble")
    except* ValueError as errors:
        stage.say(f"{errors.exceptions[0]} cancelled the rest of its group: {sibling.cancelled()}")


async def deadlines(stage: Stage) -> None:
    with stage.timed():
        for number in range(2000):
            async with asyncio.timeout(60):
                await pass_on(number)
        for number in range(1000):
            await asyncio.wait_for(pass_on(number), 60)
    stage.say("3,000 calls kept their deadline")
    try:
        async with asyncio.timeout(0.01) as deadline:
            await asyncio.sleep(3600)
    except TimeoutError:
        stage.say(f"one did not, and was cut off after 10 ms: {deadline.expired()}")


async def locks_and_events(stage: Stage) -> None:
    stoves, lock, start = asyncio.Semaphore(10), asyncio.Lock(), asyncio.Event()
    cooking = most = balance = 0

    async def cook() -> None:
        nonlocal cooking, most, balance
        await start.wait()
        async with stoves:
            cooking += 1
            most = max(most, cooking)
            await asyncio.sleep(0)
            cooking -= 1
        async with lock:
            read = balance
            await asyncio.sleep(0)
            balance = read + 1

    with stage.timed():
        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(cook())
            await asyncio.sleep(0)
            start.set()
    stage.say(f"an event started 1,000 cooks, a semaphore let {most} at the stoves at a time")
    stage.say(f"a lock kept their account in order: {balance:,}")


async def queues(stage: Stage) -> None:
    orders: asyncio.Queue[int] = asyncio.Queue(maxsize=16)
    served = 0

    async def produce(count: int) -> None:
        for number in range(count):
            await orders.put(number)

    async def consume() -> None:
        nonlocal served
        while True:
            await orders.get()
            served += 1
            orders.task_done()

    with stage.timed():
        async with asyncio.TaskGroup() as group:
            consumers = [group.create_task(consume()) for _ in range(3)]
            async with asyncio.TaskGroup() as producers:
                for _ in range(2):
                    producers.create_task(produce(5000))
            await orders.join()
            for consumer in consumers:
                consumer.cancel()
    stage.say(f"2 producers and 3 consumers passed {served:,} items through a queue of 16 places")


async def tcp_by_protocol(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoServer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        transport, client = await loop.create_connection(EchoClient, "127.0.0.1", port)
        with stage.timed():
            for _ in range(1500):
                answer = await client.ask(b"echo")
        transport.close()
        await client.closed
    stage.say(f"1,500 lines went there and back, one at a time; the last was {answer.decode()!r}")


async def http_by_aiohttp(stage: Stage) -> None:
    site = Site()
    async with site.served() as url, Client(url, at_once=8) as client:
        await client.get("/users/1")
        with stage.timed():
            answers = await client.get_each(["/users/1", "/users/2"] * 150)
        names = {answer["name"] for answer in answers if not isinstance(answer, Failed)}
        stage.say(f"{len(answers)} requests, answered with {' and '.join(sorted(names))}")
        stage.say(f"they shared a pool of at most 8 connections: {len(site.connections) <= 8}")
        report = (await client.get_patiently("/report"))["report"]
        stage.say(f"a busy page was {report}, at attempt {site.requests['/report']}")


async def https_by_aiohttp(stage: Stage) -> None:
    """The certificate is made here, by an authority that exists for these few milliseconds."""
    authority = trustme.CA()
    of_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(of_server)
    of_client = ssl.create_default_context()
    authority.configure_trust(of_client)
    async with Site().served(of_server) as url, Client(url, at_once=4, tls=of_client) as client:
        await client.get("/users/1")
        with stage.timed():
            answers = await client.get_each(["/users/1"] * 100)
    failures = sum(isinstance(answer, Failed) for answer in answers)
    stage.say(f"{len(answers)} requests over TLS with a verified certificate, {failures} failed")


async def sqlite_by_sqlalchemy(stage: Stage) -> None:
    with TemporaryDirectory() as folder:
        async with Database(Path(folder, "tour.sqlite")) as database:
            users = Users(database)
            with stage.timed():
                await users.add_many([{"name": f"user {n}", "points": 0} for n in range(500)])
                everybody = await users.page(limit=500)
                await users.set_points([{"id": user.id, "points": 7} for user in everybody])
                for user in everybody[:40]:
                    await users.find(user.id)
            async with database.reading() as session:
                points = await session.scalar(sqlalchemy.text("SELECT sum(points) FROM users"))
    stage.say(f"{len(everybody)} rows inserted, updated and read back; their points: {points:,}")
    stage.say(f"{database.statements} statements in all: bulk work is one statement each")


async def database_pool(stage: Stage) -> None:
    with TemporaryDirectory() as folder:
        async with opened(Path(folder, "pool.sqlite"), patience=60) as engine:
            await query(engine)
            with stage.timed():
                answers = await asyncio.gather(*(query(engine) for _ in range(100)))
            stage.say(f"{sum(answers)} queries took turns at 3 connections")


async def batches_and_rates(stage: Stage) -> None:
    with stage.timed():
        outcomes = await sliding_window(pass_on, iter(range(5000)), at_once=50)
    stage.say(f"{len(outcomes):,} items went through a window of 50")
    pace, moments = Pace(per_second=500), []

    async def start(_item: int) -> None:
        moments.append(await pace.turn())

    await sliding_window(start, range(30), at_once=5)
    within_limit = most_within(0.02, moments) <= 10
    stage.say(f"a pace of 500 per second: never more than 10 starts within 20 ms: {within_limit}")


STEPS: tuple[Step, ...] = (
    tasks_and_futures,
    asynchronous_iteration,
    many_at_once,
    deadlines,
    locks_and_events,
    queues,
    tcp_by_protocol,
    http_by_aiohttp,
    https_by_aiohttp,
    sqlite_by_sqlalchemy,
    database_pool,
    batches_and_rates,
)


def title(step: Step) -> str:
    """tasks_and_futures → Tasks and futures, with the names that are spelt their own way."""
    words = step.__name__.replace("_", " ")
    for name in ("TCP", "HTTPS", "HTTP", "SQLite", "SQLAlchemy"):
        words = " ".join(name if word == name.lower() else word for word in words.split())
    return words[0].upper() + words[1:]
