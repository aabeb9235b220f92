"""pytest: `pytest --aioxide` runs the tests on our loop.

Loaded by pytest itself, which finds it as an entry point; it does nothing unless the flag is given
or the ini option `aioxide` is true. Then asyncio's default loop is ours until the session ends,
which reaches unittest's, anyio's, aiohttp's and pytest-asyncio's tests and whatever a test starts
with `asyncio.run`. A loop that a test suite chooses by itself is left to it.
"""

import asyncio
from collections.abc import Callable

import pytest

from .. import __version__
from ..runners import install, new_event_loop, uninstall


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flag and the ini option."""
    text = "run tests on aioxide's event loop"
    parser.getgroup("aioxide").addoption("--aioxide", action="store_true", default=False, help=text)
    parser.addini("aioxide", text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is there before somebody asks for it: no hook, no patch."""
    if config.getoption("--aioxide") or config.getini("aioxide"):
        config.pluginmanager.register(_TestsOnAioxide(), "aioxide-loop")
        install()
        config.add_cleanup(uninstall)


class _TestsOnAioxide:
    """What a session has that asked for our loop."""

    def pytest_report_header(self) -> str:
        return f"aioxide: {__version__}, the event loop of all tests"

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        """pytest-asyncio's hook, from 1.4 on: the loop gets a name that markers may select."""
        return {"aioxide": new_event_loop}
