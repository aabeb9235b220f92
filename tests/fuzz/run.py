"""The fuzzer: random peers against random protocols, on every kind of transport, for a while.

Run as a script by ``dev.py fuzz``: ``python tests/fuzz/run.py --seconds 20 --seed 1``.  Cases are
numbered, and each draws all it does from the seed and its number.  The first broken invariant
ends the run with the command that repeats the case.  It stays on loopback.
"""

import argparse
import asyncio
import collections
import faulthandler
import gc
import importlib
import logging
import os
import random
import sys
import threading
import time
import traceback

from case import Case
from invariants import Broken, Mischief, children, descriptors, survivors
from scenarios import SCENARIOS

AT_ONCE = 8
BATCH = 40
REFUSED = "Error on transport creation for incoming connection"
STANDSTILL = 60.0  # Seconds without a turn of the loop after which it hangs.


class Watch:
    """What must stay as it was, and what must never be heard of."""

    def __init__(self, loop, said):
        self.loop, self.said = loop, said
        # asyncio's transports stumble over themselves when they are closed in certain callbacks.
        self.tolerant, self.tolerated = isinstance(loop, asyncio.SelectorEventLoop), 0
        self.reported, self.unexpected, self.mischief = 0, [], []
        self.last_beat, self.over = time.monotonic(), threading.Event()
        loop.set_exception_handler(self.told)
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()
        self.beat()

    def told(self, loop, context):
        error = context.get("exception")
        if context["message"] == REFUSED and isinstance(error, OSError | Mischief):
            return  # In debug mode a connection that fails as it begins is reported again.
        if isinstance(error, Mischief):
            self.reported += 1
            self.mischief.append(f"{context['message']} {error!r}")
        elif self.tolerant and isinstance(error, AttributeError | RuntimeError | AssertionError):
            self.tolerated += 1
        else:
            self.unexpected.append({key: repr(value)[:300] for key, value in context.items()})
            self.unexpected.append("".join(traceback.format_exception(error)))

    def beat(self):
        self.last_beat = time.monotonic()
        self.timer = self.loop.call_later(0.1, self.beat)

    def listen(self):
        while not self.over.wait(1):
            if time.monotonic() - self.last_beat > STANDSTILL:
                print(f"FAILED: the loop stood still for {STANDSTILL:.0f} s", flush=True)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(2)

    def stop(self):
        self.timer.cancel()
        self.over.set()
        self.thread.join()

    def check(self):
        if self.unexpected:
            raise Broken(f"reported to the exception handler: {self.unexpected[:2]}")
        if self.said:
            raise Broken(f"the interpreter or the logger said: {self.said[:3]}")


async def run_case(loop, options, number, done):
    """One case; what it breaks names it."""
    case = Case(loop, options.seed, number)
    chosen = [name for name in SCENARIOS if options.only in name.__name__]
    weights = [SCENARIOS[name] for name in chosen]
    scenario = case.chance.choices(chosen, weights)[0]
    try:
        await scenario(case)
        case.check()
    except Exception as error:
        error.add_note(f"case {number} ({scenario.__name__}); repeat it with --case {number}")
        for ledger in case.ledgers + case.peers:
            error.add_note(str(ledger))
        raise
    done[scenario.__name__] += 1
    return case


async def batch(loop, watch, options, numbers, done):
    """Some cases, a few at once; then nothing of them may be left."""
    before, offspring = descriptors(), children()
    reported, cases, numbers = watch.reported, [], iter(numbers)
    watch.mischief.clear()

    async def worker():
        for number in numbers:
            case = await run_case(loop, options, number, done)
            cases.append(case)

    async with asyncio.TaskGroup() as group:
        for _ in range(1 if options.case is not None else AT_ONCE):
            group.create_task(worker())
    for _ in range(500):
        # What a case scheduled may still come, and may raise.
        expected = reported + sum(case.raised() for case in cases)
        if watch.reported >= expected:
            break
        await asyncio.sleep(0.01)
    watch.check()
    for case in cases:
        case.check()
    if watch.reported != expected:
        raise Broken(f"{expected - reported} errors were raised, reported: {watch.mischief}")
    references = [reference for case in cases for reference in case.references]
    cases.clear()
    del case
    await asyncio.sleep(0.02)
    if left := survivors(references):
        raise Broken(f"{len(left)} objects are left: {left[:3]}")
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        raise Broken(f"tasks are left: {others}")
    if len(after := descriptors()) > len(before):
        raise Broken(f"descriptors are left: {after.items() - before.items()}")
    if len(children()) > len(offspring):
        raise Broken(f"children are left: {children()}")


async def fuzz(loop, watch, options, done):
    """Batches until the time is up, or one case as often as asked."""
    if options.case is not None:
        for _ in range(options.repeat):
            await batch(loop, watch, options, [options.case], done)
        return
    end, number = time.monotonic() + options.seconds, options.start
    while time.monotonic() < end:
        try:
            await batch(loop, watch, options, range(number, number + BATCH), done)
        except Broken as error:
            error.add_note(f"in cases {number} to {number + BATCH - 1}: --start {number}")
            raise
        number += BATCH


def listen_to_the_interpreter(said):
    """Whatever Python cannot raise, and whatever asyncio logs as an error."""
    sys.unraisablehook = lambda report: said.append(repr(report.exc_value))
    threading.excepthook = lambda report: said.append(repr(report.exc_value))
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    logger.propagate = False


def command_line():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    parser.add_argument("--loop", choices=["asyncio", "aioxide"], default="aioxide")
    parser.add_argument("--case", type=int, help="only this case, alone")
    parser.add_argument("--start", type=int, default=0, help="the first case")
    parser.add_argument("--repeat", type=int, default=50, help="how often --case is run")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    return parser


def main():
    options = command_line().parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    ours = options.loop == "aioxide"
    factory = importlib.import_module("aioxide").new_event_loop if ours else None
    print(
        f"fuzz: {options.loop}, CPython {sys.version.split()[0]}, seed {options.seed}", flush=True
    )
    said, done, failure = [], collections.Counter(), None
    listen_to_the_interpreter(said)
    faulthandler.enable()
    started = time.monotonic()
    with asyncio.Runner(loop_factory=factory or asyncio.SelectorEventLoop) as runner:
        watch = Watch(runner.get_loop(), said)
        try:
            runner.run(fuzz(runner.get_loop(), watch, options, done))
        except BaseException as error:
            failure = error
        watch.stop()
    gc.collect()
    print(
        f"did {sum(done.values())} cases in {time.monotonic() - started:.0f} s: "
        + ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
    )
    if failure is None and said:
        failure = Broken(f"at the end the interpreter said: {said[:3]}")
    if failure is not None:
        traceback.print_exception(failure)
        others = f" --loop {options.loop}" if not ours else ""
        others += f" --only {options.only}" if options.only else ""
        print(
            f"FAILED: repeat with: python3 dev.py fuzz --seed {options.seed}{others} and the "
            "--case or --start that is named above"
        )
        sys.exit(1)
    print("passed")


if __name__ == "__main__":
    main()
