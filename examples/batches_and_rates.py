"""Many items: a sliding window instead of batches, and a rate limit that limits the rate.

For a newcomer to read and run: python examples/batches_and_rates.py
`sliding_window` and `Pace` are small enough to take along. No network, nothing but aioxide.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

import aioxide as asyncio

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result or an error, never a mixture of both."""

    item: Item
    result: Result | None = None
    error: Exception | None = None


async def sliding_window(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], *, at_once: int
) -> list[Outcome[Item, Result]]:
    """Handles each item, at most so many at once, and gives the outcomes in the items' order.

    The workers draw from one iterator, so an item is taken only when there is a hand free for it:
    `items` may be a generator of millions, and only `at_once` tasks ever exist.
    """
    numbered = enumerate(items)
    outcomes: dict[int, Outcome[Item, Result]] = {}

    async def worker() -> None:
        for number, item in numbered:
            try:
                outcomes[number] = Outcome(item, result=await work(item))
            except Exception as error:
                outcomes[number] = Outcome(item, error=error)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return [outcomes[number] for number in sorted(outcomes)]


class Pace:
    """Lets callers through in order, with at least `1 / per_second` between any two of them.

    So there are never more than `per_second` starts in any second, whether the work is quick, slow
    or fails. After a late wake-up nobody hurries to catch up: that would be the burst to avoid.
    """

    def __init__(self, per_second: float) -> None:
        if per_second <= 0:
            raise ValueError("per_second must be positive")
        self.interval = 1 / per_second
        self.next = float("-inf")
        self.queue = asyncio.Lock()

    async def turn(self) -> float:
        """Waits for the caller's turn and gives its moment, in the loop's time."""
        loop = asyncio.get_running_loop()
        async with self.queue:
            while (moment := loop.time()) < self.next:
                await asyncio.sleep(self.next - moment)
            self.next = moment + self.interval
            return moment


async def handle(item: int) -> int:
    """Every tenth item takes twenty times as long as the others, and the seventh cannot be done."""
    await asyncio.sleep(0.04 if item % 10 == 0 else 0.002)
    if item == 7:
        raise ValueError("item 7 is broken")
    return item * item


async def in_batches(items: Sequence[int]) -> int:
    """What many write first: every batch waits for its slowest item while all hands are idle."""
    done = 0
    for start in range(0, len(items), 10):
        batch = items[start : start + 10]
        outcomes = await asyncio.gather(*map(handle, batch), return_exceptions=True)
        done += sum(not isinstance(outcome, BaseException) for outcome in outcomes)
    return done


async def windows() -> None:
    began = perf_counter()
    done = await in_batches(range(60))
    print(f"in batches of 10: {done} of 60 done in {(perf_counter() - began) * 1000:.0f} ms")
    began = perf_counter()
    outcomes = await sliding_window(handle, iter(range(60)), at_once=10)
    milliseconds = (perf_counter() - began) * 1000
    failed = [outcome for outcome in outcomes if outcome.error]
    print(f"in a window of 10: {60 - len(failed)} of 60 done in {milliseconds:.0f} ms")
    print(f"failed: {[(outcome.item, str(outcome.error)) for outcome in failed]}")


def most_within(seconds: float, moments: list[float]) -> int:
    """How many of these moments fall into the fullest window of that length."""
    almost = seconds - 1e-6
    return max(sum(first <= other < first + almost for other in moments) for first in moments)


async def a_semaphore_is_no_rate() -> None:
    """A semaphore limits how many run at once. Quick work goes through it far too fast."""
    moments: list[float] = []
    slots = asyncio.Semaphore(100)

    async def work() -> None:
        async with slots:
            moments.append(asyncio.get_running_loop().time())
            await asyncio.sleep(1 / 100)

    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(work())
    print(f"a semaphore of 100: {most_within(0.1, moments)} starts within 100 ms")


async def a_pace() -> None:
    """The pace is shared by everybody who must keep it, and failures count like successes."""
    pace, moments = Pace(per_second=100), []

    async def work(item: int) -> None:
        moments.append(await pace.turn())
        if item % 2:
            raise ValueError("failed at once")

    outcomes = await sliding_window(work, range(30), at_once=8)
    within_limit = most_within(0.1, moments) <= 10
    print(f"a pace of 100 per second: never more than 10 starts within 100 ms: {within_limit}")
    print(f"{sum(outcome.error is not None for outcome in outcomes)} of {len(outcomes)} failed")


async def main() -> None:
    for step in (windows, a_semaphore_is_no_rate, a_pace):
        print(f"-- {step.__name__.replace('_', ' ')}")
        await step()


if __name__ == "__main__":
    asyncio.run(main())
