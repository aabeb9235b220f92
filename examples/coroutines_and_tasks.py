"""Coroutines, tasks and futures: what each of them is, and when it runs.

For a newcomer to read from top to bottom and run: python examples/coroutines_and_tasks.py
Needs nothing but aioxide, and never touches the network.
"""

import aioxide as asyncio


async def brew(drink: str, seconds: float) -> str:
    print(f"  {drink}: started")
    await asyncio.sleep(seconds)
    print(f"  {drink}: ready")
    return drink


async def coroutines() -> None:
    """Calling an `async def` makes a coroutine; nothing of it runs until somebody awaits it."""
    coroutine = brew("green tea", 0.02)
    print(f"made a {type(coroutine).__name__}, and nothing has run yet")
    served = await coroutine
    print(f"awaited it, and got {served!r}; a coroutine can be used only once")


async def tasks() -> None:
    """A task is a coroutine that the loop runs beside others."""
    slow = asyncio.create_task(brew("coffee", 0.04), name="slow")
    quick = asyncio.create_task(brew("juice", 0.01), name="quick")
    print(f"two tasks exist: {slow.get_name()} and {quick.get_name()}; done yet: {quick.done()}")
    await slow
    await quick
    print(f"both are done, in the time of the slower one: {slow.result()}, {quick.result()}")


async def keep_warm(started: asyncio.Event) -> None:
    started.set()
    try:
        await asyncio.sleep(3600)
    finally:
        print("  the plate is switched off")


async def cancellation() -> None:
    """Cancelling throws CancelledError into the task where it waits, so its clean-up runs.

    A task that is cancelled before its first step never runs at all, not even its `finally`.
    That is why this one says when it has started.
    """
    started = asyncio.Event()
    task = asyncio.create_task(keep_warm(started))
    await started.wait()
    task.cancel("closing time")
    try:
        await task
    except asyncio.CancelledError:
        # The same exception arrives when somebody cancels *us* while we wait. Swallowing that one
        # would make this function impossible to stop, so ask whose it is.
        if asyncio.current_task().cancelling():
            raise
    print(f"the task was cancelled: {task.cancelled()}")


async def never_started() -> None:
    task = asyncio.create_task(keep_warm(asyncio.Event()))
    task.cancel()
    await asyncio.wait([task])
    print(f"cancelled before its first step: {task.cancelled()}, and there was nothing to clean up")


async def futures() -> None:
    """A future is a result that somebody else will provide. Libraries make them, you rarely."""
    order = asyncio.get_running_loop().create_future()

    async def kitchen() -> None:
        await asyncio.sleep(0.01)
        order.set_result("two pancakes")

    # The group keeps the task and waits for it. A task whose reference is dropped has nobody to
    # tell its errors to, and asyncio may even collect it while it waits.
    async with asyncio.TaskGroup() as group:
        group.create_task(kitchen())
        print(f"the order is done: {order.done()}")
        print(f"the order is served: {await order}")


async def main() -> None:
    for step in (coroutines, tasks, cancellation, never_started, futures):
        print(f"-- {step.__name__.replace('_', ' ')}")
        await step()


if __name__ == "__main__":
    asyncio.run(main())
