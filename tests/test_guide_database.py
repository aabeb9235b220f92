"""The guide's database sections on SQLAlchemy, asyncpg and a real PostgreSQL, on both loops.

Run by pytest. A server is started for these tests alone (postgres.py); where none can be had they
are skipped and say what is missing. With AIOXIDE_GUIDE the guide's own blocks are run as well.
"""

import asyncio
import itertools

import asyncpg
import pytest
from postgres import NoServer, running_postgres
from test_guide import BLOCKS, HERE, WAYS, finish_alike, run_printed_block

NUMBERS = itertools.count()
SECTIONS = [block for block in BLOCKS if block.name in {"database", "connection pools"}]


@pytest.fixture(scope="module")
def server():
    try:
        with running_postgres() as server:
            yield server
    except NoServer as reason:
        pytest.skip(str(reason))


@pytest.fixture
def databases(server):
    """An empty database for each way of running a program."""
    names = {way: f"guide_{way}_{next(NUMBERS)}" for way in WAYS}

    async def create():
        connection = await asyncpg.connect(server.url("postgresql"))
        for name in names.values():
            await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return {way: server.url(database=name) for way, name in names.items()}


def test_the_sections_are_those_of_the_guide():
    assert len(SECTIONS) == 2


@pytest.mark.parametrize("program", ["database", "connection_pools"])
def test_program_prints_the_same_on_both_loops(program, databases):
    said = finish_alike(HERE / "guide" / f"{program}.py", databases=databases)
    assert said[-1] == "end"


def test_a_cancelled_query_leaves_the_connection_usable(loop, server):
    async def cancel():
        connection = await asyncpg.connect(server.url("postgresql"))
        try:
            with pytest.raises(TimeoutError):
                await connection.fetch("SELECT pg_sleep(60)", timeout=0.1)
            return await connection.fetchval("SELECT 7")
        finally:
            await connection.close()

    assert loop.run_until_complete(cancel()) == 7


@pytest.mark.parametrize("block", SECTIONS, ids=lambda block: block.name.replace(" ", "-"))
def test_printed_block_runs_unchanged(block, databases, tmp_path):
    assert "end" in run_printed_block(block, tmp_path, databases=databases)


def test_asyncpg_works_over_the_unix_socket(loop, server):
    async def listen():
        one, two = [
            await asyncpg.connect(
                host=server.socket_directory, port=server.port, user=server.user, timeout=30
            )
            for _ in range(2)
        ]
        heard = loop.create_future()
        await one.add_listener("news", lambda *told: heard.set_result(told[-1]))
        await two.execute("NOTIFY news, 'of the day'")
        assert await asyncio.wait_for(heard, 30) == "of the day"
        rows = await two.fetch("SELECT number FROM generate_series(1, 50000) AS number")
        assert sum(row["number"] for row in rows) == 50_000 * 50_001 // 2
        await one.close()
        await two.close()

    loop.run_until_complete(listen())
