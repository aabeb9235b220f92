"""Random programs of tasks and futures, run on asyncio and on aioxide: their logs must be the same.

Run by pytest. Each seed is one program, so a failure names the program that shows it. Nothing here
uses time or descriptors: everything that happens is decided by the order in which the loop runs.
"""

import asyncio
import random

import pytest

SEEDS_PER_TEST = 40
DEEPEST = 3
MOST_TASKS = 60


class Program:
    """One random program: it grows tasks and futures, lets them meet, and writes down what happens.

    Every decision is drawn from one generator at the moment it is made, so two loops that run
    things in the same order draw the same program.
    """

    def __init__(self, loop, task_class, seed, *, eager):
        self.loop = loop
        self.task_class = task_class
        self.random = random.Random(seed)
        self.eager = eager
        self.log = []
        self.futures = [loop.create_future() for _ in range(3)]
        self.tasks = []
        self.actions = [
            self.turn,
            self.await_future,
            self.await_future,
            self.await_task,
            self.finish_future,
            self.spawn,
            self.cancel_task,
            self.cancel_task,
            self.watch,
            self.gather,
            self.shield,
            self.wait,
            self.scope,
            self.fail,
        ]

    def note(self, *entry):
        self.log.append(entry)

    def start(self, depth):
        """A further task, eagerly started at times where the program allows it."""
        number = len(self.tasks)
        self.tasks.append(None)
        eager = self.eager and self.random.random() < 0.4
        options = {"eager_start": True} if eager else {}
        task = self.task_class(
            self.life(number, depth), loop=self.loop, name=f"task {number}", **options
        )
        self.tasks[number] = task
        return task

    async def life(self, number, depth):
        self.note(number, "starts", asyncio.current_task().get_name())
        for _ in range(self.random.randint(1, 6)):
            action = self.random.choice(self.actions)
            self.note(number, action.__name__)
            try:
                self.note(number, "got", await action(number, depth))
            except asyncio.CancelledError as error:
                self.note(number, "cancelled", error.args, asyncio.current_task().cancelling())
                if self.random.random() < 0.7:
                    raise
            except (ValueError, RuntimeError, asyncio.InvalidStateError) as error:
                self.note(number, type(error).__name__, error.args[:1])
        if self.random.random() < 0.2:
            raise ValueError(number)
        return number

    # What a task may do in one action.

    async def turn(self, number, depth):
        await asyncio.sleep(0)

    async def await_future(self, number, depth):
        return await self.random.choice(self.futures)

    async def await_task(self, number, depth):
        # Only a younger one, so that no two tasks ever wait for each other.
        return await self.younger(number)

    def younger(self, number):
        known = [task for task in self.tasks[number + 1 :] if task is not None]
        return self.random.choice(known or self.futures)

    async def finish_future(self, number, depth):
        return self.finish()

    def finish(self):
        place = self.random.randrange(len(self.futures))
        future = self.futures[place]
        how = self.random.choice(["set_result", "set_exception", "cancel"])
        if future.done():  # A cancelled task cancelled it.
            how = "done"
        if how == "set_result":
            future.set_result(place)
        elif how == "set_exception":
            future.set_exception(ValueError(place))
        elif how == "cancel":
            self.note("cancel", place, future.cancel(f"future {place}"))
        self.futures[place] = self.loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return how

    async def spawn(self, number, depth):
        if depth < DEEPEST and len(self.tasks) < MOST_TASKS:
            task = self.start(depth + 1)
            return task.done()
        return None

    async def cancel_task(self, number, depth):
        known = [place for place, task in enumerate(self.tasks) if task is not None]
        if not known:
            return None
        place = self.random.choice(known)
        return place, self.tasks[place].cancel(f"by {number}"), self.tasks[place].cancelling()

    async def watch(self, number, depth):
        watched = self.random.choice([task for task in self.tasks if task] or self.futures)
        watched.add_done_callback(lambda done: self.note(number, "saw", done.cancelled()))
        if self.random.random() < 0.3:
            watched.add_done_callback(self.unwanted)
            return watched.remove_done_callback(self.unwanted)
        return None

    def unwanted(self, done):
        self.note("unwanted", done.cancelled())

    async def gather(self, number, depth):
        awaited = [self.younger(number), self.random.choice(self.futures)]
        errors = self.random.random() < 0.5
        return len(await asyncio.gather(*awaited, return_exceptions=errors))

    async def shield(self, number, depth):
        shielded = asyncio.shield(self.younger(number))
        return await shielded

    async def wait(self, number, depth):
        awaited = {self.younger(number), self.random.choice(self.futures)}
        done, pending = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        return len(done), len(pending)

    async def scope(self, number, depth):
        async with asyncio.timeout(None):
            return await self.random.choice(self.futures)

    async def fail(self, number, depth):
        raise ValueError(f"failure of {number}")

    # The run.

    def run(self):
        """Runs the program, pushes it to its end when it finds none, and returns its log."""
        for _ in range(4):
            self.loop.call_soon(self.start, 0)
        for turn in range(400):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            living = [task for task in self.tasks if task is not None and not task.done()]
            if turn > 2 and not living:
                break
            if turn % 5 == 4:
                self.note("pushed", self.finish())
            if turn > 200:
                for task in living:
                    task.cancel()
        for future in self.futures:
            future.cancel()
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        for number, task in enumerate(self.tasks):
            outcome = "cancelled" if task.cancelled() else repr(task.exception() or task.result())
            self.note(number, "ended", outcome, task.cancelling())
        return self.log


def watched(loop):
    """The loop with call_soon replaced on the instance, as monitoring tools do it."""
    original = loop.call_soon
    loop.call_soon = lambda callback, *arguments, context=None: original(
        callback, *arguments, context=context
    )
    return loop


def debugged(loop):
    """The loop in debug mode, saying nothing of slow callbacks."""
    loop.set_debug(True)
    loop.slow_callback_duration = 3600
    return loop


# How a program is run: on which loop, and with tasks of which class.
KINDS = {
    "plain": lambda namespace: (new_loop(namespace), namespace.Task),
    "watched": lambda namespace: (watched(new_loop(namespace)), namespace.Task),
    "debug": lambda namespace: (debugged(new_loop(namespace)), namespace.Task),
    "C tasks": lambda namespace: (new_loop(namespace), asyncio.Task),
    "asyncio's loop": lambda namespace: (new_loop(asyncio), namespace.Task),
}


def new_loop(namespace):
    return asyncio.SelectorEventLoop() if namespace is asyncio else namespace.new_event_loop()


def log_of(loop, task_class, seed, *, eager):
    """The log of one program, run on a fresh loop that is closed afterwards."""
    # asyncio.shield and gather report errors that come after their own end; not of interest here.
    loop.set_exception_handler(lambda loop, context: None)
    try:
        return Program(loop, task_class, seed, eager=eager).run()
    finally:
        loop.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("first", range(0, 200, SEEDS_PER_TEST))
@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_random_programs_run_as_on_asyncio(namespace, kind, first, eager):
    if eager and not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("asyncio has no eager tasks to compare with before 3.12")
    for seed in range(first, first + SEEDS_PER_TEST):
        expected = log_of(new_loop(asyncio), asyncio.Task, seed, eager=eager)
        assert log_of(*kind(namespace), seed, eager=eager) == expected, f"seed {seed}"
