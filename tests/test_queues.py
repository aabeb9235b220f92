"""Queues: put and get, who waits and in which order, join, shutdown, and queues of others' making.

Run by pytest on asyncio first and then on aioxide; `shutdown` is asyncio's from 3.13 on. Random
interleavings against a model are in test_coordination_models.py.
"""

import asyncio
import collections
import gc
import heapq
import inspect
import math
import weakref

import pytest
from loopback import on_loop
from test_locks import ended, turns, wait_in_two_loops

aioxide_only = pytest.mark.parametrize("namespace", ["aioxide"], indirect=True)
QUEUES = {"Queue": [3, 1, 2], "LifoQueue": [2, 1, 3], "PriorityQueue": [1, 2, 3]}


@pytest.fixture
def shuts(behaves_as):
    """Leaves a test out where queues have no shutdown."""
    if not behaves_as(3, 13):
        pytest.skip("asyncio's queues have shutdown() from 3.13 on")


@pytest.fixture(params=QUEUES)
def queue_class(request, namespace):
    return getattr(namespace, request.param)


# Putting and getting.


@on_loop
async def test_the_order_of_items(loop, queue_class):
    queue = queue_class()
    for item in (3, 1, 2):
        await queue.put(item)
    assert queue.qsize() == 3
    assert [await queue.get() for _ in range(3)] == QUEUES[queue_class.__name__]
    assert queue.empty()


@on_loop
async def test_put_and_get_that_need_not_wait_take_no_turn(loop, queue_class):
    queue, ran = queue_class(1), []
    loop.call_soon(ran.append, "a turn")
    assert await queue.put("item") is None
    assert queue.full()
    assert await queue.get() == "item"
    assert ran == []
    await asyncio.sleep(0)


def test_nowait_says_full_and_empty(namespace, queue_class):
    queue = queue_class(1)
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    assert queue.put_nowait("item") is None
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait("other")
    assert queue.get_nowait() == "item"
    assert queue.maxsize == 1


@pytest.mark.parametrize(
    ("maxsize", "fits"), [(0, 50), (-1, 50), (2, 2), (1.3, 2), (math.inf, 50), (True, 1)]
)
def test_how_many_items_fit(namespace, maxsize, fits):
    queue = namespace.Queue(maxsize)
    for number in range(fits):
        assert not queue.full()
        queue.put_nowait(number)
    assert queue.full() is (fits < 50)
    assert queue.maxsize == maxsize
    queue._maxsize = 100
    assert not queue.full()


@on_loop
async def test_getters_and_putters_are_served_in_the_order_they_came(loop, namespace):
    queue, got = namespace.Queue(1), []

    async def get():
        got.append(await queue.get())

    getters = [asyncio.create_task(get()) for _ in range(3)]
    await turns()
    assert len(queue._getters) == 3
    putters = [asyncio.create_task(queue.put(number)) for number in range(6)]
    await asyncio.gather(*getters)
    assert got == [0, 1, 2]
    await turns()
    assert len(queue._putters) == 2
    assert [await queue.get() for _ in range(3)] == [3, 4, 5]
    await asyncio.gather(*putters)
    assert not queue._putters


@on_loop
async def test_every_item_arrives_once(loop, queue_class):
    queue, got = queue_class(3), []

    async def produce(first):
        for number in range(first, first + 50):
            await queue.put(number)

    async def consume():
        while True:
            got.append(await queue.get())
            queue.task_done()

    consumers = [asyncio.create_task(consume()) for _ in range(4)]
    await asyncio.gather(*(produce(first) for first in (0, 50, 100)))
    await queue.join()
    for task in consumers:
        task.cancel()
    await ended(*consumers)
    assert sorted(got) == list(range(150))


@on_loop
async def test_a_cancelled_getter_loses_no_item(loop, queue_class):
    queue = queue_class()
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await turns()
    queue.put_nowait("item")  # Wakes the first,
    first.cancel()  # which does not run before it is cancelled.
    assert await second == "item"
    assert isinstance((await ended(first))[0], asyncio.CancelledError)
    assert not queue._getters
    assert queue.empty()


@on_loop
async def test_a_cancelled_putter_puts_nothing_and_passes_its_turn_on(loop, queue_class):
    queue = queue_class(1)
    queue.put_nowait("full")
    first, second = (asyncio.create_task(queue.put(name)) for name in ("first", "second"))
    await turns()
    assert queue.get_nowait() == "full"  # Wakes the first,
    first.cancel()  # which does not run before it is cancelled.
    await second
    assert isinstance((await ended(first))[0], asyncio.CancelledError)
    assert queue.get_nowait() == "second"
    assert queue.empty()
    assert not queue._putters


@on_loop
async def test_cancelled_waiters_leave_the_line(loop, namespace):
    queue = namespace.Queue(1)
    getter = asyncio.create_task(queue.get())
    await turns()
    getter.cancel()
    await ended(getter)
    assert len(queue._getters) == 0
    queue.put_nowait("item")
    putter = asyncio.create_task(queue.put("other"))
    await turns()
    putter.cancel()
    await ended(putter)
    assert len(queue._putters) == 0
    assert queue.get_nowait() == "item"


@on_loop
async def test_every_way_to_start_a_wait(loop, namespace):
    queue = namespace.Queue()
    for start in (asyncio.create_task, asyncio.ensure_future, asyncio.shield):
        loop.call_soon(queue.put_nowait, "item")
        assert await start(queue.get()) == "item"
    loop.call_soon(queue.put_nowait, "item")
    assert await asyncio.wait_for(queue.get(), 10) == "item"
    assert await asyncio.gather(queue.put(1), queue.get()) == [None, 1]
    waiting = queue.put(1)
    assert asyncio.iscoroutine(waiting)
    assert isinstance(waiting, collections.abc.Coroutine)
    waiting.close()
    assert queue.empty()


@on_loop
async def test_closing_a_wait_takes_it_out_of_the_line(loop, namespace):
    queue = namespace.Queue()
    waiting = queue.get()
    waiting.send(None)
    assert len(queue._getters) == 1
    waiting.close()
    assert not queue._getters


# join and task_done.


@on_loop
async def test_join_waits_for_task_done(loop, queue_class):
    queue = queue_class()
    assert await queue.join() is None
    queue.put_nowait(1)
    queue.put_nowait(2)
    joined = [asyncio.create_task(queue.join()) for _ in range(2)]
    queue.get_nowait()
    queue.task_done()
    await turns()
    assert not any(task.done() for task in joined)
    assert queue._unfinished_tasks == 1
    queue.get_nowait()
    assert queue.task_done() is None
    assert await asyncio.gather(*joined) == [None, None]
    assert queue._finished.is_set()


def test_one_task_done_too_many(namespace, queue_class):
    queue = queue_class()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        queue.task_done()
    queue.put_nowait("item")
    queue.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        queue.task_done()


@on_loop
async def test_a_cancelled_join_leaves_the_others_waiting(loop, namespace):
    queue = namespace.Queue()
    queue.put_nowait("item")
    tasks = [asyncio.create_task(queue.join()) for _ in range(2)]
    await turns()
    tasks[0].cancel()
    await ended(tasks[0])
    queue.task_done()
    assert await tasks[1] is None
    assert not queue._finished._waiters


# shutdown.


@on_loop
async def test_shutdown_lets_what_is_there_be_got(loop, queue_class, namespace, shuts):
    queue = queue_class()
    queue.put_nowait("item")
    assert queue.shutdown() is None
    with pytest.raises(namespace.QueueShutDown):
        await queue.put("other")
    with pytest.raises(namespace.QueueShutDown):
        queue.put_nowait("other")
    assert await queue.get() == "item"
    with pytest.raises(namespace.QueueShutDown):
        await queue.get()
    with pytest.raises(namespace.QueueShutDown):
        queue.get_nowait()
    queue.task_done()
    await queue.join()
    assert queue._is_shutdown


@on_loop
async def test_shutdown_ends_all_who_wait(loop, namespace, shuts):
    full, empty = namespace.Queue(1), namespace.Queue()
    full.put_nowait("item")
    tasks = [asyncio.create_task(full.put(number)) for number in range(2)]
    tasks += [asyncio.create_task(empty.get()) for _ in range(2)]
    await turns()
    full.shutdown()
    empty.shutdown()
    results = await ended(*tasks)
    assert {type(result) for result in results} == {namespace.QueueShutDown}
    assert full.get_nowait() == "item"
    assert not full._putters
    assert not empty._getters


@on_loop
async def test_immediate_shutdown_drops_what_is_there(loop, queue_class, namespace, shuts):
    queue = queue_class()
    for number in range(3):
        queue.put_nowait(number)
    queue.get_nowait()
    joined = asyncio.create_task(queue.join())
    await turns()
    queue.shutdown(immediate=True)
    assert queue.empty()
    with pytest.raises(namespace.QueueShutDown):
        await queue.get()
    await turns()
    assert not joined.done()
    queue.task_done()
    await joined
    assert repr(queue).endswith(" shutdown>")


def test_the_exception_of_shutdown_has_one_name(namespace, shuts):
    assert issubclass(namespace.QueueShutDown, Exception)
    assert namespace.QueueShutDown is getattr(asyncio, "QueueShutDown", namespace.QueueShutDown)


# What others see of a queue, and what they make of it.


@on_loop
async def test_representation(loop, namespace):
    queue = namespace.Queue(2)
    assert repr(queue) == f"<Queue at {id(queue):#x} maxsize=2>"
    getter = asyncio.create_task(queue.get())
    await turns()
    assert str(queue) == "<Queue maxsize=2 _getters[1]>"
    await queue.put(0)
    await getter
    for item in (1, "two"):
        await queue.put(item)
    putter = asyncio.create_task(queue.put(3))
    await turns()
    assert str(queue) == "<Queue maxsize=2 _queue=[1, 'two'] _putters[1] tasks=3>"
    assert queue._format() == str(queue)[7:-1]
    queue.get_nowait()
    await putter


def test_attributes_subscripts_and_isinstance(namespace, queue_class):
    queue = queue_class()
    queue.name = "jobs"
    queue.put_nowait(1)
    assert queue.get_nowait() == 1
    assert weakref.ref(queue)() is queue
    assert isinstance(queue, getattr(asyncio, queue_class.__name__))
    assert isinstance(queue, namespace.Queue)
    assert queue_class[int].__origin__ is queue_class
    assert str(inspect.signature(queue_class)) == "(maxsize=0)"


@on_loop
async def test_the_container_of_the_items_is_alive(loop, namespace):
    queue, stack = namespace.Queue(), namespace.LifoQueue()
    for number in range(4):
        queue.put_nowait(number)
        stack.put_nowait(number)
    assert isinstance(queue._queue, collections.deque)
    assert isinstance(stack._queue, list)
    queue._queue.remove(0)
    queue._queue.appendleft("first")
    stack._queue.remove(3)
    assert queue.qsize() == 4
    assert [queue.get_nowait() for _ in range(4)] == ["first", 1, 2, 3]
    assert [stack.get_nowait() for _ in range(3)] == [2, 1, 0]
    queue.put_nowait("more")
    assert list(queue._queue) == ["more"]
    queue._queue.clear()
    assert queue.empty()


@on_loop
async def test_what_others_append_to_the_lines_is_woken(loop, namespace):
    queue = namespace.Queue()
    getter = loop.create_future()
    queue._getters.append(getter)
    queue.put_nowait("item")
    assert getter.done()
    assert getter.result() is None
    assert not queue._getters


@on_loop
async def test_a_subclass_that_keeps_items_its_own_way(loop, namespace):
    class Newest(namespace.Queue):
        """Holds one item of each key, and the newest at that."""

        def _init(self, maxsize):
            self.items = {}
            self.sizes = maxsize

        def _put(self, item):
            self.items[item[0]] = item

        def _get(self):
            return self.items.pop(next(iter(self.items)))

        def qsize(self):
            return len(self.items)

        def empty(self):
            return not self.items

    queue = Newest(2)
    assert queue.sizes == 2
    await queue.put(("a", 1))
    await queue.put(("a", 2))
    await queue.put(("b", 3))
    putter = asyncio.create_task(queue.put(("c", 4)))
    await turns()
    assert not putter.done()
    assert await queue.get() == ("a", 2)
    await putter
    assert [queue.get_nowait() for _ in range(2)] == [("b", 3), ("c", 4)]
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()


@on_loop
async def test_a_subclass_that_only_puts_in_its_own_way(loop, namespace):
    class Urgent(namespace.Queue):
        def _put(self, item):
            if item < 0:
                self._queue.appendleft(item)
            else:
                super()._put(item)

    queue = Urgent()
    for number in (1, 2, -1):
        queue.put_nowait(number)
    assert [await queue.get() for _ in range(3)] == [-1, 1, 2]


@on_loop
async def test_a_subclass_with_another_container(loop, namespace):
    class Heap(namespace.Queue):
        def _init(self, maxsize):
            self._queue = []

        def _put(self, item):
            heapq.heappush(self._queue, item)

        def _get(self):
            return heapq.heappop(self._queue)

    queue = Heap()
    for number in (3, 1, 2):
        await queue.put(number)
    assert repr(queue).startswith("<Heap at ")
    assert "_queue=[1, 3, 2]" in repr(queue)
    assert [await queue.get() for _ in range(3)] == [1, 2, 3]


@on_loop
async def test_a_subclass_is_asked_by_put_and_get(loop, namespace):
    calls = []

    class Counted(namespace.Queue):
        def put_nowait(self, item):
            calls.append("put")
            super().put_nowait(item)

        def get_nowait(self):
            calls.append("get")
            return super().get_nowait()

    queue = Counted()
    await queue.put(1)
    assert await queue.get() == 1
    assert calls == ["put", "get"]
    patched = namespace.Queue()
    patched.put_nowait = lambda item, put=patched.put_nowait: put(item * 2)
    await patched.put(4)
    assert await patched.get() == 8


@on_loop
async def test_a_subclass_that_waits_by_itself(loop, namespace):
    class Peekable(namespace.Queue):
        async def peek(self):
            while self.empty():
                waiter = self._get_loop().create_future()
                self._getters.append(waiter)
                await waiter
            self._wakeup_next(self._getters)
            return self._queue[0]

    queue = Peekable()
    peeking = asyncio.create_task(queue.peek())
    getting = asyncio.create_task(queue.get())
    await turns()
    queue.put_nowait("item")
    assert await peeking == "item"
    assert await getting == "item"


@on_loop
async def test_items_that_cannot_be_compared(loop, namespace):
    queue = namespace.PriorityQueue()
    queue.put_nowait((1, {}))
    with pytest.raises(TypeError):
        queue.put_nowait((1, {"other": 1}))


def test_waiting_in_another_loop_is_refused(namespace, new_loop):
    queue = namespace.Queue()
    wait_in_two_loops(new_loop, lambda: None, queue.get)


@on_loop
async def test_a_queue_and_its_items_are_collected(loop, queue_class):
    class Item:
        def __lt__(self, other):
            return True

    queue, item = queue_class(), Item()
    item.queue = queue
    queue.put_nowait(item)
    gone = weakref.ref(queue), weakref.ref(item)
    del queue, item
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@aioxide_only
@pytest.mark.parametrize("maxsize", ["5", [1]])
def test_a_size_that_is_no_number_is_refused(namespace, maxsize):
    with pytest.raises(TypeError, match="maxsize of a queue is a number"):
        namespace.Queue(maxsize)
