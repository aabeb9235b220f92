"""Programs as a guide to asyncio prints them run unchanged under `python -m aioxide`.

Run by pytest: each program of guide/ is run by plain Python and by `python -m aioxide`, and must
print the same. With AIOXIDE_GUIDE=path/to/guide.md the blocks of that guide are run too.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

HERE = Path(__file__).resolve().parent
PROGRAMS = sorted(path.stem for path in (HERE / "guide").glob("*.py"))
WAYS = {"asyncio": [], "aioxide": ["-m", "aioxide"]}

WHICH_LOOP = "import asyncio; asyncio.run(asyncio.sleep(0)); print(type(asyncio.new_event_loop()))"


@dataclass(frozen=True)
class Block:
    """A Python block of the guide: the names it uses without defining them, and how to call it."""

    name: str
    missing: str
    calls: str
    ordered: bool = True


SHOW = """
async def show(*coroutines):
    for coroutine in coroutines:
        name = coroutine.__qualname__
        try:
            print(name, "→", await coroutine)
        except Exception as error:
            print(name, "raised", repr(error))
"""

BLOCKS = [
    Block(
        "core concepts",
        "",
        """
        asyncio.run(show(understand_event_loop(), understand_tasks(), understand_future()))
        """,
    ),
    Block(
        "async and await",
        "import asyncio",
        """
        asyncio.run(show(process_data(), sequential_execution(), concurrent_execution()))
        asyncio.run(show(async_iteration(), use_async_context(), consume_async_generator()))
        """,
    ),
    Block(
        "concurrent execution",
        "",
        """
        asyncio.run(show(gather_example(), gather_vs_wait(), error_handling()))
        asyncio.run(show(task_group_example(), with_timeout()))
        """,
    ),
    # Whether a task that is let in begins before or after another one ends in the same
    # millisecond is nobody's promise, and the lines of this block depend on it.
    Block(
        "limits and queues",
        "import asyncio",
        """
        asyncio.run(show(limited_concurrency(), producer_consumer_pattern()))
        asyncio.run(show(test_lock(), event_pattern()))
        """,
        ordered=False,
    ),
    Block(
        "HTTP client",
        "from guide_surroundings import api",
        """
        async def call_all():
            async with api() as url:
                pages = [f"{url}/page/{number}" for number in range(20)]
                await show(fetch_url(pages[0]), fetch_multiple_urls(pages), use_client())
                async with AsyncHTTPClient(url, max_connections=2) as client:
                    await show(*(client.get(f"/users/{number}") for number in range(5)))
                    await show(client.post("/users", {"name": "Bob"}), client.get("/none"))
                await show(unreliable_request(f"{url}/unreliable"))
        asyncio.run(call_all())
        """,
    ),
    Block(
        "database",
        "import asyncio\nfrom typing import Dict, List\nfrom guide_surroundings import *",
        """
        async def call_all():
            db = AsyncDatabase(database_url("guide"))
            await create_tables(db.engine)
            users = UserRepository(db)
            await show(users.create({"name": "Alice", "age": 30}), users.get_by_id(1))
            await show(users.update(1, {"age": 31}), users.update(99, {"age": 1}))
            await show(users.get_by_id(99), users.get_by_id(1))
            await show(bulk_insert(db, [{"name": f"user {n}", "age": n} for n in range(100)]))
            await show(bulk_update(db, [{"id": n, "data": {"age": 1}} for n in range(2, 90)]))
            await show(users.get_all(), users.get_all(limit=3), users.delete(1), users.delete(1))
            print(await asyncio.gather(*(users.get_by_id(n) for n in range(2, 60))))
            await db.close()
        asyncio.run(call_all())
        """,
    ),
    Block(
        "connection pools",
        "import asyncio\nimport aiohttp\nfrom typing import List\n"
        "from guide_surroundings import api, create_async_engine",
        """
        async def call_all():
            from sqlalchemy import text
            async with api() as url:
                client = OptimizedHTTPClient()
                await show(client.fetch_batch([f"{url}/page/{n}" for n in range(60)]))
                await show(client.fetch_batch(["http://127.0.0.1:1/", f"{url}/page/0"]))
                await client.session.close()
            async with engine.connect() as connection:
                print(await connection.scalar(text("SELECT 1")))
            await engine.dispose()
        asyncio.run(call_all())
        """,
    ),
    Block(
        "batches",
        "import asyncio\nfrom typing import Any, List\nfrom guide_surroundings import process_item",
        """
        asyncio.run(show(process_in_batches(list(range(25)), 10)))
        asyncio.run(show(process_with_rate_limit(list(range(40)), 20)))
        """,
    ),
]


def start(way, program, **environment):
    """Starts a program the given way, in a child process that finds the surroundings."""
    return subprocess.Popen(
        [sys.executable, *WAYS[way], program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
            # A busy machine takes long for what needs no time.
            "AIOXIDE_STALL_THRESHOLD": "0",
            **environment,
        },
    )


def alike(text):
    """The text without what may differ between two runs: loop, addresses, ports, dates, set order.

    Nor in which file a function of asyncio is defined, which may be ours.

    Pool events are logged with connections of two libraries' choosing, so only results count.
    """
    text = re.sub(r"<\w*EventLoop (running=)", r"<the loop \1", text)
    text = re.sub(r"'Date': '[^']*'", "'Date': …", text)
    text = re.sub(r"\b0x[0-9a-f]+\b", "0x…", text)
    text = re.sub(r"defined at \S*/tasks\.py:\d+", "defined at …", text)
    text = re.sub(r"127\.0\.0\.1:\d{4,5}", "127.0.0.1:…", text)
    lines = [line for line in text.splitlines() if "INFO sqlalchemy.pool" not in line]
    return [
        " ".join(sorted(re.findall(r"\{.*?\}", line))) if line.startswith("Wait results") else line
        for line in lines
    ]


def finish_alike(program, *, ordered=True, databases=None, **environment):
    """Runs a program both ways, and checks that both end well, in silence, with the same output.

    `databases` names, for each way, the database that the program is to use.
    """
    given = {way: {"AIOXIDE_GUIDE_DATABASE": url} for way, url in (databases or {}).items()}
    children = {way: start(way, program, **environment, **given.get(way, {})) for way in WAYS}
    try:
        outputs = {way: child.communicate(timeout=50) for way, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
    for way, child in children.items():
        assert (outputs[way][1], child.returncode) == ("", 0), way
    arrange = list if ordered else sorted
    expected, got = (arrange(alike(outputs[way][0])) for way in WAYS)
    assert got == expected
    return got


@pytest.mark.parametrize("way", WAYS)
def test_program_runs_on_the_loop_it_is_started_with(way):
    command = [sys.executable, *WAYS[way], "-c", WHICH_LOOP]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert finished.stdout.startswith(f"<class '{way}.")


def test_there_is_a_program_for_each_section_with_code():
    assert len(PROGRAMS) == len(BLOCKS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_prints_the_same_on_both_loops(program):
    assert finish_alike(HERE / "guide" / f"{program}.py")[-1] == "end"


def printed_blocks():
    """The Python blocks of the guide that AIOXIDE_GUIDE names, by the names they have here."""
    path = os.environ.get("AIOXIDE_GUIDE")
    if not path:
        pytest.skip("AIOXIDE_GUIDE names no guide")
    text = Path(path).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(BLOCKS), "this is another guide"
    return dict(zip((block.name for block in BLOCKS), blocks, strict=True))


def run_printed_block(block, tmp_path, **options):
    """Runs a block of the printed guide both ways; what it said."""
    printed = printed_blocks()[block.name]
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate = authority.issue_cert("api.example.com").private_key_and_cert_chain_pem
    certificate.write_to_path(tmp_path / "certificate.pem")
    calls = "\n".join(line.removeprefix(" " * 8) for line in block.calls.splitlines())
    program = tmp_path / "program.py"
    parts = [block.missing, printed, SHOW, calls, 'print("end")']
    program.write_text("\n".join(parts), encoding="utf-8")
    return finish_alike(
        program,
        ordered=block.ordered,
        SSL_CERT_FILE=str(tmp_path / "authority.pem"),
        AIOXIDE_GUIDE_CERTIFICATE=str(tmp_path / "certificate.pem"),
        **options,
    )


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name.replace(" ", "-"))
def test_printed_block_runs_unchanged(block, tmp_path):
    assert "end" in run_printed_block(block, tmp_path)
