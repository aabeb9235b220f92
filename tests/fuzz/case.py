"""A case of the fuzzer: its number, its chance, its ledgers, and how it waits.

Made by run.py for each case, handed to a scenario.  Every wait has a limit, which only turns a
hang into a broken invariant.
"""

import asyncio
import random
import threading
import weakref

from invariants import Broken, Ledger
from protocols import CALM, VIOLENT, Wild, WildBuffered

PATIENCE = 30.0


class Case:
    """A number, the chance that belongs to it, and what it must leave behind: nothing."""

    def __init__(self, loop, seed, number):
        self.loop, self.seed, self.number = loop, seed, number
        self.chance = random.Random(f"{seed}:{number}")
        self.ledgers, self.peers, self.references = [], [], []
        self.is_ours = not isinstance(loop, asyncio.SelectorEventLoop)

    def ledger(self, name, is_tls=False):
        self.ledgers.append(Ledger(f"case {self.number}, {name}", is_tls))
        return self.ledgers[-1]

    def protocol(self, ledger, gentle=False):
        """A wild protocol for one connection."""
        chance = random.Random(self.chance.random())
        temper = CALM if gentle or chance.random() < 0.5 else VIOLENT
        if ledger.is_tls and not self.is_ours:
            temper = CALM  # asyncio's TLS raises AttributeError and RuntimeError out of itself.
        kind = chance.choice([Wild, WildBuffered])
        made = kind(ledger, self.loop, chance, temper)
        self.references.append(weakref.ref(made))
        return made

    def raised(self):
        return sum(ledger.raised for ledger in self.ledgers)

    def check(self):
        for ledger in self.ledgers:
            if ledger.broken:
                raise Broken("; ".join(ledger.broken))

    def remember(self, thing):
        """Something that must be gone when the case is over."""
        if thing is not None:
            self.references.append(weakref.ref(thing))


async def expect(what, awaitable, patience=PATIENCE):
    """The result, which must come within the patience."""
    try:
        async with asyncio.timeout(patience) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise Broken(f"{what}: nothing within {patience:.0f} seconds") from None
        raise


async def until(what, condition):
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise Broken(f"{what}: not within {PATIENCE:.0f} seconds")


def in_thread(loop, function, *arguments):
    """Run a peer in a thread of its own; its end as a future."""
    future = loop.create_future()

    def work():
        failure = None
        try:
            function(*arguments)
        except BaseException as error:
            failure = error
        loop.call_soon_threadsafe(finish, failure)

    def finish(failure):
        if future.cancelled():
            return
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)

    threading.Thread(target=work, daemon=True).start()
    return future
