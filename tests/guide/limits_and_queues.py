"""Semaphore, Queue with None at the end, Lock and Event, used the way tutorials use them.

Run by test_guide.py under plain Python and under `python -m aioxide`; both must print the same.
Asserts nothing itself.
"""

import asyncio


async def fetch(url: str, semaphore: asyncio.Semaphore) -> dict[str, str]:
    async with semaphore:
        print(f"fetching {url}")
        await asyncio.sleep(0.01)
        return {"url": url}


async def limited() -> None:
    semaphore = asyncio.Semaphore(3)
    tasks = [fetch(f"url{number}", semaphore) for number in range(7)]
    print(await asyncio.gather(*tasks))


async def producer(queue: asyncio.Queue, name: int) -> None:
    for number in range(5):
        item = f"item {name}-{number}"
        await queue.put(item)
        print(f"producer {name} produced {item}")
        await asyncio.sleep(0)


async def consumer(queue: asyncio.Queue, name: int) -> None:
    while True:
        item = await queue.get()
        if item is None:
            break
        print(f"consumer {name} has {item}")
        await asyncio.sleep(0)
        queue.task_done()


async def producers_and_consumers() -> None:
    queue: asyncio.Queue = asyncio.Queue(maxsize=4)
    producers = [asyncio.create_task(producer(queue, name)) for name in range(2)]
    consumers = [asyncio.create_task(consumer(queue, name)) for name in range(3)]
    await asyncio.gather(*producers)
    await queue.join()
    for _ in consumers:
        await queue.put(None)
    await asyncio.gather(*consumers)
    print(f"the queue is {queue}")


class Counter:
    def __init__(self) -> None:
        self.value = 0
        self.lock = asyncio.Lock()

    async def increment(self) -> None:
        async with self.lock:
            current = self.value
            await asyncio.sleep(0.0002)
            self.value = current + 1


async def counting() -> None:
    counter = Counter()
    tasks = [counter.increment() for _ in range(100)]
    await asyncio.gather(*tasks)
    print(f"counted to {counter.value}")


async def wait_for_it(event: asyncio.Event, name: str) -> None:
    print(f"{name} waits")
    await event.wait()
    print(f"{name} goes on")


async def set_it(event: asyncio.Event) -> None:
    await asyncio.sleep(0.02)
    print("setting the event")
    event.set()


async def notifying() -> None:
    event = asyncio.Event()
    waiters = [asyncio.create_task(wait_for_it(event, f"waiter {n}")) for n in range(3)]
    setter = asyncio.create_task(set_it(event))
    await asyncio.gather(*waiters, setter)


async def main() -> None:
    for part in (limited, producers_and_consumers, counting, notifying):
        await part()


asyncio.run(main())
print("end")
