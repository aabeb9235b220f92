"""A plain test that starts a loop itself, for test_pytest_plugins.py to run."""

import asyncio
import os


async def kind_of_loop():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


def test_loop():
    assert asyncio.run(kind_of_loop()) == os.environ["EXPECTED"]
