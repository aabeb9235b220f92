"""Running several coroutines together: gather, wait, as_completed and TaskGroup.

For a newcomer who wonders which one to take: python examples/gather_wait_taskgroup.py
The answer is TaskGroup unless you have a reason. Needs nothing but aioxide, and no network.
"""

import aioxide as asyncio

finished: list[str] = []


async def load(page: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    finished.append(page)
    return f"{page} loaded"


async def break_down(seconds: float) -> str:
    await asyncio.sleep(seconds)
    raise ValueError("the page is torn")


async def gathering() -> None:
    """gather gives the results in the order of its arguments, whichever came first."""
    print(await asyncio.gather(load("slow", 0.03), load("quick", 0.01)))


async def gathering_with_an_error() -> None:
    """gather tells the first error at once, but leaves the others running, unsupervised."""
    gate = asyncio.Event()
    survivor = asyncio.create_task(gate.wait())
    try:
        await asyncio.gather(survivor, break_down(0.01))
    except ValueError as error:
        print(f"gather failed: {error}; the other one still runs: {not survivor.done()}")
    gate.set()
    await survivor


async def gathering_errors_too() -> None:
    """return_exceptions=True waits for everybody and hands errors over as results.

    Test them against BaseException: a child that was cancelled gives a CancelledError, which is
    not an Exception and would pass for a success.
    """
    cancelled = asyncio.create_task(load("cancelled", 3600))
    asyncio.get_running_loop().call_later(0.01, cancelled.cancel)
    outcomes = await asyncio.gather(
        load("good", 0.01), break_down(0.01), cancelled, return_exceptions=True
    )
    for outcome in outcomes:
        failed = isinstance(outcome, BaseException)
        print(f"  {'failed' if failed else 'worked'}: {outcome!r}")


async def grouping() -> None:
    """Past the end of the `async with`, every task of the group is done."""
    async with asyncio.TaskGroup() as group:
        first = group.create_task(load("first", 0.02))
        second = group.create_task(load("second", 0.01))
    print(f"all done: {first.result()}, {second.result()}")


async def grouping_with_an_error() -> None:
    """If one task of a group fails, the others are cancelled and awaited: nothing is left over."""
    finished.clear()
    try:
        async with asyncio.TaskGroup() as group:
            sibling = group.create_task(load("sibling", 3600))
            group.create_task(break_down(0.01))
    except* ValueError as errors:
        print(
            f"the group failed: {errors.exceptions[0]}; the sibling was cancelled: "
            f"{sibling.cancelled()}"
        )
    print(f"finished behind our back: {finished}")


async def waiting() -> None:
    """wait gives sets, which have no order, and never raises: ask each task, in your own order."""
    tasks = [
        asyncio.create_task(load(page, seconds))
        for page, seconds in (("north", 0.05), ("south", 0.001), ("east", 3600))
    ]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    print(f"the first to finish: {[task.result() for task in tasks if task in done]}")
    done, pending = await asyncio.wait(pending, timeout=0.2)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    for task in tasks:
        print(f"  {'gave up' if task.cancelled() else task.result()}")


async def one_by_one() -> None:
    """as_completed hands out results as they come, so work can begin with the first."""
    for earliest in asyncio.as_completed([load("late", 0.05), load("early", 0.001)]):
        print(f"  {await earliest}")


async def main() -> None:
    for step in (
        gathering,
        gathering_with_an_error,
        gathering_errors_too,
        grouping,
        grouping_with_an_error,
        waiting,
        one_by_one,
    ):
        print(f"-- {step.__name__.replace('_', ' ')}")
        await step()


if __name__ == "__main__":
    asyncio.run(main())
