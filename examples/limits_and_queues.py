"""Semaphore, Queue, Lock and Event: at most so many, one after the other, not before the signal.

For a newcomer to read and run: python examples/limits_and_queues.py
Needs nothing but aioxide, and never touches the network.
"""

from collections.abc import Iterable

import aioxide as asyncio


class Kitchen:
    """Counts how many cooks work at the same time, so that the limits can be seen."""

    def __init__(self) -> None:
        self.busy = 0
        self.most = 0

    async def cook(self, dish: str) -> str:
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(0.005)
            return f"{dish} served"
        finally:
            self.busy -= 1


async def a_semaphore() -> None:
    """Ten tasks, of which at most three are inside at any time.

    All ten exist from the start. For ten it does not matter; for a million use a queue, below.
    """
    kitchen, stoves = Kitchen(), asyncio.Semaphore(3)

    async def order(number: int) -> str:
        async with stoves:
            return await kitchen.cook(f"dish {number}")

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(order(number)) for number in range(10)]
    print(
        f"{len(tasks)} dishes, the last is {tasks[-1].result()!r}; "
        f"at most {kitchen.most} were cooked at once"
    )


class Closing:
    """The end of a queue. A type of its own, so that None and any other item may travel safely."""


CLOSING = Closing()
Orders = asyncio.Queue[str | None | Closing]


async def take(orders: Orders, table: int) -> None:
    for dish in ("soup", None, "cake"):
        await orders.put(dish and f"{dish} for table {table}")


async def serve(orders: Orders, served: list[str]) -> None:
    """Works until the end comes by, and hands the end on to the next consumer.

    Putting it back cannot block: its own place in the queue has just become free.
    """
    while not isinstance(order := await orders.get(), Closing):
        await asyncio.sleep(0.002)
        if order == "poison":
            raise ValueError("the kitchen refuses this order")
        served.append(order or "nothing, as ordered")
    orders.put_nowait(order)


async def serve_all(tables: Iterable[int], at_the_door: Iterable[str] = ()) -> list[str]:
    """Producers and consumers in task groups: whoever fails, everybody stops, nobody hangs.

    The inner group ends when all producers are done; only then is the end put into the queue.
    On Python 3.13 and later, `orders.shutdown()` does what CLOSING does here on every version.
    """
    orders: Orders = asyncio.Queue(maxsize=4)
    served: list[str] = []
    async with asyncio.TaskGroup() as consumers:
        for _ in range(3):
            consumers.create_task(serve(orders, served))
        async with asyncio.TaskGroup() as producers:
            for order in at_the_door:
                await orders.put(order)
            for table in tables:
                producers.create_task(take(orders, table))
        await orders.put(CLOSING)
    return served


async def a_queue() -> None:
    served = await serve_all(range(4))
    print(f"{len(served)} orders served, {served.count('nothing, as ordered')} of them None")
    try:
        await serve_all(range(1000), at_the_door=["poison"])
    except* ValueError as errors:
        print(f"a consumer failed and everything stopped: {errors.exceptions[0]}")


async def waiting_until_empty() -> None:
    """`join` waits until each item was declared done, so declare it in a `finally`.

    Without that, an item whose handling fails is never done, and `join` waits for ever.
    """
    orders: asyncio.Queue[int] = asyncio.Queue()
    failed: list[int] = []

    async def worker() -> None:
        while True:
            number = await orders.get()
            try:
                await asyncio.sleep(0.001)
                if number % 4 == 3:
                    raise ValueError(number)
            except ValueError:
                failed.append(number)
            finally:
                orders.task_done()

    for number in range(8):
        orders.put_nowait(number)
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker()) for _ in range(2)]
        await orders.join()
        for task in workers:
            task.cancel()
    print(f"the queue is empty; these failed: {sorted(failed)}")


async def a_lock() -> None:
    """Between a read and a write there may be an await; a lock keeps others out meanwhile.

    Make it inside the program that runs: once tasks have queued for it, it belongs to their loop.
    """
    balance, unsafe_balance, lock = 0, 0, asyncio.Lock()

    async def pay_in() -> None:
        nonlocal balance, unsafe_balance
        seen = unsafe_balance
        async with lock:
            read = balance
            await asyncio.sleep(0)
            balance = read + 1
        unsafe_balance = seen + 1

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(pay_in())
    print(f"with the lock: {balance}, without: {unsafe_balance}")


async def an_event() -> None:
    """Any number of tasks wait for one signal."""
    start, runners = asyncio.Event(), asyncio.Queue[str]()

    async def run(name: str) -> None:
        await start.wait()
        await runners.put(name)

    async with asyncio.TaskGroup() as group:
        for name in ("Ada", "Grace", "Barbara"):
            group.create_task(run(name))
        await asyncio.sleep(0.01)
        print(f"on their marks, none has left: {runners.empty()}")
        start.set()
    print(f"all have left: {[runners.get_nowait() for _ in range(3)]}")


async def main() -> None:
    for step in (a_semaphore, a_queue, waiting_until_empty, a_lock, an_event):
        print(f"-- {step.__name__.replace('_', ' ')}")
        await step()


if __name__ == "__main__":
    asyncio.run(main())
