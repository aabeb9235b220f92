"""What a beginner's first asyncio program does: coroutines, the loop, tasks and futures.

Run by test_guide.py under plain Python and under `python -m aioxide`; both must print the same.
It keeps the habits of tutorials on purpose, and asserts nothing itself.
"""

import asyncio


async def greet() -> str:
    print("greeting begins")
    await asyncio.sleep(0.01)
    print("greeting ends")
    return "good morning"


coroutine = greet()
print(type(coroutine))
print(asyncio.run(coroutine))


async def step(name: str, delay: float) -> None:
    print(f"step {name} begins")
    await asyncio.sleep(delay)
    print(f"step {name} ends")


async def two_tasks() -> None:
    loop = asyncio.get_running_loop()
    print(f"the loop is {loop}")
    first = asyncio.create_task(step("first", 0.04))
    second = asyncio.create_task(step("second", 0.01))
    await first
    await second


asyncio.run(two_tasks())


async def look_at_a_task() -> None:
    task = asyncio.create_task(greet())
    print(f"created: {task}")
    print(f"done: {task.done()}")
    result = await task
    print(f"done: {task.done()}, result: {result}, {task}")

    sleeper = asyncio.create_task(asyncio.sleep(10))
    sleeper.cancel()
    try:
        await sleeper
    except asyncio.CancelledError:
        print(f"cancelled: {sleeper}")


async def look_at_a_future() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    print(f"made {future}")

    async def provide() -> None:
        await asyncio.sleep(0.01)
        future.set_result("provided")

    asyncio.create_task(provide())  # noqa: RUF006 - as tutorials do: nobody keeps the task
    print(await future)
    print(f"now {future}")


asyncio.run(look_at_a_task())
asyncio.run(look_at_a_future())
print("end")
