"""What `install()` puts in asyncio's place, and how it gets on with those who wrap the same names.

About aioxide alone; that the replaced functions do what asyncio's do is tested where they are.
"""

import asyncio
import asyncio.locks
import asyncio.tasks
import functools
import importlib
import inspect
import types
from unittest import mock

import pytest

import aioxide
from aioxide import replacing


def places():
    """Every place that install() writes a name to, and what is there at the moment."""
    return {
        (place.__name__, name): getattr(place, name)
        for module, names in replacing.NAMES.items()
        for name in names
        for place in (importlib.import_module(module), asyncio)
        if hasattr(place, name)
    }


@pytest.fixture
def uninstalled():
    """asyncio as it is without us, and again afterwards."""
    aioxide.uninstall()
    before = places()
    yield before
    aioxide.uninstall()
    for (place, name), value in before.items():
        setattr(importlib.import_module(place), name, value)


def test_every_name_is_replaced_at_both_of_its_paths_and_given_back(uninstalled):
    aioxide.install()
    aioxide.install()
    assert places() == {key: getattr(aioxide, key[1]) for key in uninstalled}
    assert asyncio.tasks.gather is asyncio.gather is aioxide.gather
    aioxide.uninstall()
    assert places() == uninstalled
    aioxide.uninstall()
    assert places() == uninstalled


def test_nothing_is_replaced_before_install(uninstalled):
    assert all(value is not getattr(aioxide, name) for (_, name), value in uninstalled.items())


class Wrapper:
    """As wrapt's function wrappers are: a callable that passes for what it wraps."""

    def __init__(self, wrapped, calls):
        self.__wrapped__ = wrapped
        self.__module__ = getattr(wrapped, "__module__", None)
        self.calls = calls

    def __call__(self, *args, **kwargs):
        self.calls.append(self.__wrapped__.__name__)
        return self.__wrapped__(*args, **kwargs)

    def __get__(self, instance, owner):
        return self if instance is None else types.MethodType(self, instance)


async def answer():
    return 42


@pytest.mark.parametrize("kind", ["proxy", "function"])
def test_a_function_wrapped_before_is_left_to_its_wrapper(uninstalled, kind):
    calls = []
    original = asyncio.gather
    if kind == "proxy":
        wrapper = Wrapper(original, calls)
    else:

        @functools.wraps(original)
        def wrapper(*args, **kwargs):
            calls.append("gather")
            return original(*args, **kwargs)

    asyncio.gather = wrapper
    aioxide.install()
    assert asyncio.gather is wrapper
    assert asyncio.tasks.gather is aioxide.gather

    async def main():
        return await asyncio.gather(answer(), answer())

    assert asyncio.run(main()) == [42, 42]
    assert calls == ["gather"]
    aioxide.uninstall()
    assert asyncio.gather is wrapper
    assert asyncio.tasks.gather is original


@pytest.mark.parametrize("kind", ["proxy", "function"])
def test_a_class_with_a_wrapped_method_is_left_to_its_wrapper(uninstalled, monkeypatch, kind):
    calls = []
    original = asyncio.TaskGroup.create_task
    if kind == "proxy":
        wrapper = Wrapper(original, calls)
    else:

        def wrapper(self, coro):
            calls.append("create_task")
            return original(self, coro)

    monkeypatch.setattr(asyncio.TaskGroup, "create_task", wrapper)
    group = asyncio.TaskGroup
    aioxide.install()
    assert asyncio.TaskGroup is asyncio.taskgroups.TaskGroup is group

    async def main():
        async with asyncio.TaskGroup() as group:
            task = group.create_task(answer())
        return task.result()

    assert asyncio.run(main()) == 42
    assert calls == ["create_task"]


def test_a_wrapper_that_came_later_sees_every_call_and_stays(uninstalled, monkeypatch):
    aioxide.install()
    calls = []
    for place, name in [(asyncio, "gather"), (asyncio.tasks, "wait_for"), (asyncio, "create_task")]:
        monkeypatch.setattr(place, name, Wrapper(getattr(place, name), calls))
    monkeypatch.setattr(
        asyncio.TaskGroup, "create_task", Wrapper(asyncio.TaskGroup.create_task, calls)
    )

    async def main():
        await asyncio.gather(answer(), answer())
        await asyncio.tasks.wait_for(answer(), 1)
        await asyncio.create_task(answer())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(answer())
        return task.result()

    seen = ["gather", "wait_for", "create_task", "create_task"]
    assert asyncio.run(main()) == 42
    assert calls == seen
    aioxide.uninstall()
    assert isinstance(asyncio.gather, Wrapper)
    assert asyncio.tasks.gather is uninstalled["asyncio.tasks", "gather"]
    loop = asyncio.SelectorEventLoop()
    assert loop.run_until_complete(main_on_asyncio()) == [42]
    loop.close()
    assert calls == [*seen, "gather"]


async def main_on_asyncio():
    return await asyncio.gather(answer())


def test_asyncios_own_code_uses_what_was_installed(uninstalled):
    aioxide.install()

    async def main():
        queue = asyncio.Queue()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.001)
        condition = asyncio.Condition()
        async with condition:
            assert type(condition._lock) is aioxide.Lock
        return "done"

    assert asyncio.run(main()) == "done"


def test_tools_see_coroutine_functions_where_asyncio_has_them(uninstalled):
    """`mock.patch` makes an AsyncMock of them, and frameworks await what they return."""
    aioxide.install()
    for (_, name), original in uninstalled.items():
        ours = getattr(asyncio, name, None) or getattr(asyncio.timeouts, name)
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(original), name
        assert inspect.isclass(ours) == inspect.isclass(original), name
    with mock.patch("asyncio.sleep") as sleep, mock.patch("asyncio.gather") as gather:
        assert isinstance(sleep, mock.AsyncMock)
        assert not isinstance(gather, mock.AsyncMock)


def test_signatures_take_what_asyncios_take(uninstalled):
    for (_, name), original in uninstalled.items():
        if inspect.isclass(original):
            continue
        theirs = inspect.signature(original).parameters
        ours = inspect.signature(getattr(aioxide, name)).parameters
        if any(it.kind is it.VAR_KEYWORD for it in ours.values()):
            continue
        assert [(it.name, it.kind, it.default) for it in ours.values()] == [
            (it.name, it.kind, it.default) for it in theirs.values()
        ], name
