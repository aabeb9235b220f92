"""A soak: mixed traffic with cancels and resets for as long as asked, then the figures.

Run as a script by ``dev.py soak``: ``python tests/soak/run.py --seconds 20 --loop aioxide``.  The
work comes in rounds; after each everything must be as before it.  It stays on loopback, and ends
non-zero on the first thing that is lost, leaked or reported and was not expected.
"""

import argparse
import asyncio
import faulthandler
import gc
import importlib
import logging
import os
import random
import sys
import tempfile
import threading
import time
import traceback

from field import PATIENCE, Field, check
from figures import Figures, descriptors
from traffic import TRAFFIC
from work import WORK, signals

WORKERS = 8  # Scenarios under way at once.


async def worker(field, number, until):
    """Run scenarios by chance until the end of the round; the first worker sends signals too."""
    chance = random.Random(field.chance.random())
    scenarios = TRAFFIC + WORK + [signals] * (number == 0)
    while time.monotonic() < until:
        scenario = chance.choice(scenarios)
        await scenario(field, chance)
        field.done[scenario.__name__] += 1


class Heartbeat:
    """A thread that ends the process when the loop has stopped turning altogether."""

    def __init__(self, loop):
        self.loop = loop
        self.last = time.monotonic()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def beat(self):
        self.last = time.monotonic()
        self.timer = self.loop.call_later(0.05, self.beat)

    def watch(self):
        while not self.over.wait(1):
            if time.monotonic() - self.last > PATIENCE:
                print(f"FAILED: the loop stood still for {PATIENCE:.0f} seconds", flush=True)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(2)

    def stop(self):
        self.timer.cancel()
        self.over.set()
        self.thread.join()


async def soak(field, options, figures):
    """Rounds of work until the time is up; the figures are taken while nothing is under way."""
    loop = field.loop
    loop.set_exception_handler(field.told)
    heartbeat = Heartbeat(loop)
    heartbeat.beat()
    await field.open()
    # Every thread the executor may have is started at once, so that later none is new.
    barrier = threading.Barrier(min(32, (os.cpu_count() or 1) + 4))
    await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(barrier.parties)))
    started = time.monotonic()
    length, told = max(0.5, min(10, options.seconds / 30)), started
    while time.monotonic() < started + options.seconds:
        until = time.monotonic() + length
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(worker(field, number, until))
        await field.quiet()
        check(field.unexpected == [], f"reported to the loop's handler: {field.unexpected[:3]}")
        lost = {
            kind: n - field.back[kind] - field.abandoned[kind] for kind, n in field.sent.items()
        }
        check(not any(lost.values()), f"messages that nobody accounts for: {lost}")
        figures.take()
        if time.monotonic() - told >= 60:
            told = time.monotonic()
            print(
                f"{told - started:5.0f} s: {sum(field.back.values()):,} messages back, "
                f"{figures.shown()}",
                flush=True,
            )
    await field.close()
    heartbeat.stop()


def first_cause(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def listen_to_the_interpreter(said):
    """Whatever Python cannot raise, and whatever asyncio logs as an error."""
    sys.unraisablehook = lambda report: said.append(repr(report.exc_value))
    threading.excepthook = lambda report: said.append(repr(report.exc_value))
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("asyncio").addHandler(handler)


def report(options, field, figures, complaints):
    """The block that docs/reliability.md takes over."""
    version = ".".join(map(str, sys.version_info[:3]))
    rounds = figures.rounds
    print(
        f"\nsoak: {options.loop}, CPython {version}, seed {options.seed}, "
        f"{options.seconds:.0f} s, {rounds} rounds"
    )
    print("did: " + ", ".join(f"{count:,} {name}" for name, count in sorted(field.done.items())))
    print("\n| messages | sent | came back | abandoned by us | lost |\n|---|---|---|---|---|")
    for kind, sent in sorted(field.sent.items()):
        back, abandoned = field.back[kind], field.abandoned[kind]
        print(f"| {kind} | {sent:,} | {back:,} | {abandoned:,} | {field.lost()[kind]} |")
    if rounds >= 6:
        print(
            "\n| figure | half-way | at the end | trend over the second half |\n|---|---|---|---|"
        )
        print("\n".join(figures.table()))
    for complaint in complaints:
        print(f"FAILED: {complaint}")
    if not complaints:
        print("\npassed")


def command_line():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--loop", choices=["asyncio", "aioxide"], default="aioxide")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main():
    options = command_line().parse_args()
    namespace = importlib.import_module(options.loop)
    ours = options.loop == "aioxide"
    factory = namespace.new_event_loop if ours else asyncio.SelectorEventLoop
    said, figures, complaints = [], Figures(), []
    listen_to_the_interpreter(said)
    faulthandler.dump_traceback_later(options.seconds * 1.2 + 4 * PATIENCE, exit=True)
    before = descriptors()
    with (
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner(loop_factory=factory) as runner,
    ):
        field = Field(namespace, runner.get_loop(), options.seed, directory)
        try:
            runner.run(soak(field, options, figures))
        except BaseException as error:
            complaints.append(f"{type(first_cause(error)).__name__}: {first_cause(error)}")
            traceback.print_exception(first_cause(error))
    gc.collect()
    faulthandler.cancel_dump_traceback_later()
    if not complaints:
        complaints += figures.complaints()
        if (after := descriptors()) > before:
            complaints.append(f"descriptors after the loop was closed: {before} -> {after}")
    complaints += [f"the interpreter or asyncio said: {message}" for message in said[:3]]
    report(options, field, figures, complaints)
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
