"""gather, wait, errors, TaskGroup and timeouts, used the way tutorials use them.

Run by test_guide.py under plain Python and under `python -m aioxide`; both must print the same.
Asserts nothing itself.
"""

import asyncio


async def fetch_page(page: int, delay: float) -> dict[str, object]:
    await asyncio.sleep(delay)
    return {"page": page, "data": f"data of page {page}"}


async def failing() -> None:
    await asyncio.sleep(0.01)
    raise ValueError("it failed")


async def gathering() -> None:
    results = await asyncio.gather(
        fetch_page(1, 0.02), fetch_page(2, 0.01), fetch_page(3, 0.03), fetch_page(4, 0.015)
    )
    print(f"gathered {results}")


async def waiting() -> None:
    tasks = [
        asyncio.create_task(fetch_page(1, 0.02)),
        asyncio.create_task(fetch_page(2, 0.01)),
    ]
    done, pending = await asyncio.wait(tasks)
    results = [task.result() for task in done]
    print(f"waited for {sorted(results, key=lambda result: result['page'])}, pending: {pending}")


async def errors() -> None:
    try:
        await asyncio.gather(fetch_page(1, 0.01), failing(), fetch_page(2, 0.01))
    except ValueError as error:
        print(f"gather raised {error!r}")
    results = await asyncio.gather(
        fetch_page(1, 0.01), failing(), fetch_page(2, 0.01), return_exceptions=True
    )
    for number, result in enumerate(results):
        if isinstance(result, Exception):
            print(f"{number} failed: {result!r}")
        else:
            print(f"{number} succeeded: {result}")


async def grouping() -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch_page(page, 0.01 * page)) for page in (1, 2, 3)]
    print(f"the group is done: {[task.result() for task in tasks]}")
    try:
        async with asyncio.TaskGroup() as group:
            long = group.create_task(fetch_page(1, 10))
            group.create_task(failing())
    except* ValueError as group_error:
        print(f"the group raised {group_error.exceptions!r}; the rest was cancelled {long}")


async def deadlines() -> None:
    try:
        await asyncio.wait_for(fetch_page(1, 10), timeout=0.02)
    except asyncio.TimeoutError as error:  # noqa: UP041 - the old name is what tutorials use
        print(f"wait_for gave up: {error!r}")
    try:
        async with asyncio.timeout(0.02):
            await fetch_page(1, 10)
    except asyncio.TimeoutError as error:  # noqa: UP041
        print(f"timeout gave up: {error!r}")
    print(await asyncio.wait_for(fetch_page(2, 0.01), timeout=10))


async def main() -> None:
    for part in (gathering, waiting, errors, grouping, deadlines):
        await part()
    print(f"tasks left over: {asyncio.all_tasks() - {asyncio.current_task()}}")


asyncio.run(main())
print("end")
