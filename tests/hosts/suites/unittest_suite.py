"""Tests as people write them for unittest, for test_pytest_plugins.py and unittest to run.

Expects the loop that EXPECTED names; one test must fail.
"""

import asyncio
import os
import unittest


class TestQueue(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.queue = asyncio.Queue()
        self.addAsyncCleanup(self.queue.put, "cleaned up")

    async def test_loop(self):
        kind = type(asyncio.get_running_loop()).__module__.split(".")[0]
        self.assertEqual(kind, os.environ["EXPECTED"])
        self.assertTrue(asyncio.get_running_loop().get_debug())

    async def test_queue(self):
        await self.queue.put(1)
        self.assertEqual(await self.queue.get(), 1)

    @unittest.expectedFailure
    async def test_failure(self):
        await asyncio.sleep(0)
        self.fail()


if __name__ == "__main__":
    unittest.main()
