"""Coroutines and a turn of the loop that the tests of tasks share.

Imported by test_tasks.py and its neighbours; nothing here asserts anything.
"""

import asyncio


async def answer(value=42):
    """Done at once."""
    return value


async def wait_for_ever():
    """Suspended until somebody cancels it."""
    await asyncio.get_running_loop().create_future()


def turn(loop):
    """Runs what is ready."""
    loop.call_soon(loop.stop)
    loop.run_forever()
