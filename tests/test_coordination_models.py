"""Random programs on locks, semaphores, events, conditions and queues, against plain models.

Run by pytest on asyncio first and then on aioxide. Every decision is drawn from a seeded generator,
so a failure names the program that shows it. After each program nothing may be left over: no lock
held, no permit missing, no item lost or seen twice, nobody in a line.
"""

import asyncio
import collections
import random

import pytest
from loopback import on_loop
from test_locks import ended, turns

SEEDS = range(30)
TASKS = 12
STEPS = 60


class Chance:
    """One program's decisions."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    async def pause(self):
        for _ in range(self.random.choice([0, 0, 0, 1, 1, 2, 5])):
            await asyncio.sleep(0)

    def often(self, share):
        return self.random.random() < share


async def disturb(chance, tasks, start):
    """Cancels and replaces tasks at random; returns when the program has run its steps."""
    for _ in range(STEPS):
        await chance.pause()
        if chance.often(0.5):
            # Often at once, when a task was woken and has not run yet.
            chance.random.choice(tasks).cancel()
        if chance.often(0.4):
            tasks.append(start())


async def finish(tasks):
    """Everybody ends, by a cancellation or by what they set out to do."""
    results = await ended(*tasks)
    for result in results:
        assert result is None or isinstance(result, asyncio.CancelledError), result


# Limits: so many inside, in the order they came.


class Limit:
    """The model of a lock or a semaphore: how many tasks are inside, and in which order they came.

    Whoever was cancelled may be overtaken, since it gives up when it runs next.
    """

    def __init__(self, permits):
        self.permits = permits
        self.inside = 0
        self.line = collections.deque()

    def arrive(self, who):
        self.line.append(who)

    def enter(self, who):
        while self.line[0] is not who:
            gone = self.line.popleft()
            assert gone.cancelling(), "somebody was overtaken"
        self.line.popleft()
        self.inside += 1
        assert self.inside <= self.permits

    def leave(self):
        self.inside -= 1


async def visit(chance, lock, limit):
    for _ in range(chance.random.randrange(1, 4)):
        who = asyncio.current_task()
        limit.arrive(who)
        await lock.acquire()
        try:
            limit.enter(who)
            await chance.pause()
        finally:
            limit.leave()
            lock.release()
        await chance.pause()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "permits"),
    [("Lock", None), ("Semaphore", 1), ("Semaphore", 3), ("BoundedSemaphore", 2)],
)
@on_loop
async def test_a_limit_is_kept_and_nobody_is_overtaken(
    loop, namespace, behaves_as, name, permits, seed
):
    if name != "Lock" and not behaves_as(3, 13):
        pytest.skip("semaphores are fair from CPython 3.13 on")
    chance = Chance(seed)
    lock = getattr(namespace, name)(*([] if permits is None else [permits]))
    limit = Limit(permits or 1)

    def start():
        return asyncio.create_task(visit(chance, lock, limit))

    tasks = [start() for _ in range(TASKS)]
    await disturb(chance, tasks, start)
    await asyncio.wait_for(finish(tasks), 20)
    assert limit.inside == 0
    assert not lock._waiters
    assert not lock.locked()
    assert getattr(lock, "_value", None) == permits


@pytest.mark.parametrize("seed", SEEDS)
@on_loop
async def test_waits_that_are_closed_lose_no_permit(loop, namespace, behaves_as, seed):
    """Coroutines driven by hand: begun, left waiting, closed at any time."""
    if namespace is asyncio:
        pytest.skip("asyncio loses the permit of a waiter that is closed after it was woken")
    chance, semaphore = Chance(seed), namespace.Semaphore(2)
    waiting, held = [], 0
    for _ in range(STEPS):
        choice = chance.random.randrange(4)
        if choice == 0:
            acquiring = semaphore.acquire()
            try:
                acquiring.send(None)
                waiting.append(acquiring)
            except StopIteration:
                held += 1
        elif choice == 1 and held:
            semaphore.release()
            held -= 1
        elif choice == 2 and waiting:
            waiting.pop(chance.random.randrange(len(waiting))).close()
        elif waiting and semaphore._waiters[0].done():
            try:
                waiting.pop(0).send(None)
            except StopIteration:
                held += 1
        assert held <= 2
    for acquiring in waiting:
        acquiring.close()
    assert semaphore._value + held == 2
    assert not semaphore._waiters


# Events.


@pytest.mark.parametrize("seed", SEEDS)
@on_loop
async def test_everybody_who_waits_when_an_event_is_set_goes_on(loop, namespace, seed):
    chance, event = Chance(seed), namespace.Event()
    waiting = set()

    async def wait(number):
        if event.is_set():
            return
        waiting.add(number)
        try:
            assert await event.wait() is True
            assert number not in waiting, "it went on before the event was set"
        finally:
            waiting.discard(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(TASKS)]
    for number in range(STEPS):
        await chance.pause()
        if chance.often(0.3):
            waiting.clear()
            event.set()
            if chance.often(0.5):
                event.clear()
        if chance.often(0.3):
            chance.random.choice(tasks).cancel()
        tasks.append(asyncio.create_task(wait(TASKS + number)))
    waiting.clear()
    event.set()
    await asyncio.wait_for(finish(tasks), 20)
    assert not event._waiters


# Conditions.


@pytest.mark.parametrize("seed", SEEDS)
@on_loop
async def test_no_notification_is_lost(loop, namespace, behaves_as, seed):
    """Tokens are taken under a condition; each that is put is notified once, and all get taken."""
    if not behaves_as(3, 13):
        pytest.skip("conditions lose notifications before CPython 3.13")
    chance, condition = Chance(seed), namespace.Condition()
    tokens, taken, put = 0, 0, 0

    async def take():
        nonlocal tokens, taken
        async with condition:
            await condition.wait_for(lambda: tokens > 0)
            assert condition.locked()
            tokens -= 1
            taken += 1

    async def give():
        nonlocal tokens, put
        async with condition:
            tokens += 1
            put += 1
            condition.notify()

    takers = [asyncio.create_task(take()) for _ in range(TASKS)]
    for _ in range(STEPS):
        await chance.pause()
        if chance.often(0.4):
            await give()
        if chance.often(0.4):
            chance.random.choice(takers).cancel()
        if chance.often(0.4):
            takers.append(asyncio.create_task(take()))
    await turns(20)
    assert tokens == 0 or all(task.done() for task in takers), "somebody sleeps beside a token"
    for task in takers:
        task.cancel()
    await asyncio.wait_for(finish(takers), 20)
    assert put == taken + tokens
    assert not condition.locked()
    assert not condition._waiters


# Queues.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("maxsize", [0, 1, 3])
@pytest.mark.parametrize("name", ["Queue", "LifoQueue", "PriorityQueue"])
@on_loop
async def test_every_item_that_was_put_is_got_once(loop, namespace, name, maxsize, seed):
    chance, queue = Chance(seed), getattr(namespace, name)(maxsize)
    put, got, numbers = [], [], iter(range(100_000))

    async def produce():
        for _ in range(chance.random.randrange(1, 4)):
            number = next(numbers)
            await queue.put(number)
            put.append(number)
            assert not maxsize or queue.qsize() <= maxsize
            await chance.pause()

    async def consume():
        for _ in range(chance.random.randrange(1, 4)):
            got.append(await queue.get())
            queue.task_done()
            await chance.pause()

    def start():
        return asyncio.create_task(chance.random.choice([produce, consume])())

    tasks = [start() for _ in range(TASKS)]
    await disturb(chance, tasks, start)
    await turns(20)
    pending = [task for task in tasks if not task.done()]
    # Nobody may sleep while there is something for it: whoever is left waits for good.
    assert not (queue._getters and queue._queue)
    assert not (queue._putters and not queue.full())
    for task in pending:
        task.cancel()
    await asyncio.wait_for(finish(tasks), 20)
    left = [queue.get_nowait() for _ in range(queue.qsize())]
    assert sorted(got + left) == sorted(put)
    assert len(set(got)) == len(got)
    assert queue._unfinished_tasks == len(left)
    if name == "Queue":
        assert got + left == put
    assert not queue._getters
    assert not queue._putters


@pytest.mark.parametrize("seed", SEEDS)
@on_loop
async def test_a_shutdown_ends_everybody(loop, namespace, behaves_as, seed):
    if not behaves_as(3, 13):
        pytest.skip("asyncio's queues have shutdown() from 3.13 on")
    chance, queue = Chance(seed), namespace.Queue(2)
    put, got = [], []

    async def produce(number):
        try:
            await queue.put(number)
            put.append(number)
        except namespace.QueueShutDown:
            assert queue._is_shutdown

    async def consume():
        try:
            got.append(await queue.get())
        except namespace.QueueShutDown:
            assert queue._is_shutdown
            assert queue.empty()

    tasks = []
    for number in range(STEPS):
        tasks.append(
            asyncio.create_task(chance.random.choice([lambda n=number: produce(n), consume])())
        )
        await chance.pause()
        if chance.often(0.2):
            chance.random.choice(tasks).cancel()
        if number == STEPS - 10:
            queue.shutdown(immediate=False)
    await asyncio.wait_for(finish(tasks), 20)
    left = [queue.get_nowait() for _ in range(queue.qsize())]
    assert got + left == put
