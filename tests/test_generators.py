"""Asynchronous generators: closed in the end, each in the context it was first iterated in.

Run by pytest on asyncio and on aioxide.  asyncio closes them in whatever context the last reference
went away in, which tests of the difference say; shutdown and warnings are in test_loop.py.
"""

import asyncio
import contextvars
import gc
import sys
import threading
import warnings

import pytest
from loopback import on_loop, until

variable = contextvars.ContextVar("variable", default="outside")


async def spans(log):
    """As tracing libraries do it: a token is made when it starts and given back when it ends."""
    token = variable.set("inside")
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        try:
            variable.reset(token)
        except ValueError as error:
            log.append(str(error))
        else:
            log.append("reset")


def verdict(log, namespace):
    """What became of each token."""
    if namespace is asyncio:
        return all(entry.endswith("was created in a different Context") for entry in log)
    return all(entry == "reset" for entry in log)


@on_loop
async def test_a_generator_left_in_a_loop_gives_its_token_back(loop, namespace):
    log = []

    async def leave():
        async for number in spans(log):
            return number

    assert await loop.create_task(leave()) == 1
    gc.collect()
    await until(lambda: log)
    assert len(log) == 1
    assert verdict(log, namespace), log


@on_loop
async def test_each_of_several_has_its_own_context(loop, namespace):
    log = []
    kept = []

    async def begin():
        generator = spans(log)
        await anext(generator)
        kept.append(generator)

    await asyncio.gather(*(begin() for _ in range(10)))
    assert variable.get() == "outside"
    kept.clear()
    gc.collect()
    await until(lambda: len(log) == 10)
    assert verdict(log, namespace), log


def test_shutdown_closes_each_in_its_context(loop, namespace, loop_errors):
    log, kept = [], []

    async def begin():
        generator = spans(log)
        await anext(generator)
        kept.append(generator)

    loop.run_until_complete(begin())
    loop.run_until_complete(begin())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert len(log) == 2
    assert verdict(log, namespace), log
    assert loop_errors == []


@pytest.mark.parametrize("takes", ["everything", "a coroutine", "an eager start"])
def test_shutdown_inside_the_task_that_iterated(loop, namespace, takes):
    """Its context is in use there; whatever the task factory takes, the clean-up waits for it."""
    log = []
    if takes == "an eager start":
        if namespace is asyncio and sys.version_info < (3, 12):
            return
        loop.set_task_factory(namespace.eager_task_factory)
    elif takes == "a coroutine":
        loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))

    async def main():
        generator = spans(log)
        await anext(generator)
        await loop.shutdown_asyncgens()

    loop.run_until_complete(main())
    loop.set_task_factory(None)
    assert len(log) == 1
    assert verdict(log, namespace), log


@on_loop
async def test_the_context_is_that_of_the_iteration_even_inside_another(loop, namespace):
    log = []
    inner = contextvars.copy_context()

    def iterate(generator):
        with pytest.raises(StopIteration):
            generator.__anext__().send(None)

    generator = spans(log)
    inner.run(iterate, generator)
    assert inner[variable] == "inside"
    del generator
    gc.collect()
    await until(lambda: log)
    assert verdict(log, namespace), log
    if namespace is not asyncio:
        assert variable not in inner


@on_loop
async def test_the_last_reference_may_go_in_another_thread(loop, namespace):
    log = []
    holder = [spans(log)]
    await anext(holder[0])
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    gc.collect()
    await until(lambda: log)
    assert verdict(log, namespace), log


def test_one_that_outlives_its_loop_dies_in_silence(new_loop):
    unraisable = []

    async def numbers():
        yield 1

    generator = numbers()
    loop = new_loop()
    loop.run_until_complete(anext(generator))
    loop.close()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del generator
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert unraisable == []


@on_loop
async def test_hooks_that_somebody_kept_and_set_again_still_close(loop):
    log = []
    kept = sys.get_asyncgen_hooks()
    generators = []
    for _ in range(3):
        sys.set_asyncgen_hooks(*kept)
        generators.append(spans(log))
        await anext(generators[-1])
    generators.clear()
    gc.collect()
    await until(lambda: len(log) == 3)


@on_loop
async def test_a_generator_that_ends_by_itself_is_forgotten(loop):
    async def numbers():
        yield 1

    before = len(loop._asyncgens)
    generators = [numbers() for _ in range(10)]
    for generator in generators:
        assert [number async for number in generator] == [1]
    del generator
    generators.clear()
    gc.collect()
    assert len(loop._asyncgens) == before


@on_loop
async def test_an_error_while_closing_is_reported(loop, loop_errors):
    async def stubborn():
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    generator = stubborn()
    await anext(generator)
    del generator
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    await until(lambda: loop_errors)
    (context,) = loop_errors.take()
    assert isinstance(context["exception"], ZeroDivisionError)
