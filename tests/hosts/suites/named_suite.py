"""A test that names its loop by pytest-asyncio's marker, for test_pytest_plugins.py to run."""

import asyncio

import pytest


@pytest.mark.asyncio(loop_factories=["aioxide"])
async def test_loop():
    assert type(asyncio.get_running_loop()).__module__.split(".")[0] == "aioxide"
