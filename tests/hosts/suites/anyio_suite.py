"""Tests as people write them for anyio's plugin, for test_pytest_plugins.py to run.

Expects the loop that EXPECTED names; one test must fail.
"""

import asyncio
import os

import anyio
import anyio.lowlevel
import pytest

pytestmark = pytest.mark.anyio


def loop_kind():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


@pytest.fixture
async def pair():
    sender, receiver = anyio.create_memory_object_stream(10)
    async with sender, receiver, anyio.create_task_group() as group:
        group.start_soon(sender.send, loop_kind())
        yield receiver


async def test_loop(pair):
    assert loop_kind() == await pair.receive() == os.environ["EXPECTED"]


async def test_cancel_scope():
    with anyio.move_on_after(0.001) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
async def test_failure():
    await anyio.lowlevel.checkpoint()
    raise ZeroDivisionError
