"""What is counted while nothing is under way, and the judgement over the second half of a run.

Called by run.py after each round.  Counts must not grow at all; memory is judged by the straight
line through its samples, and a growth counts only as far as the line is certain of it.
"""

import array
import asyncio
import collections
import ctypes
import gc
import math
import os
import re
import sys
import threading
import time

MIB = 2**20
COUNTS = ("descriptors", "threads", "tasks", "children")
# Growth over the judged half that is allowed: what does not depend on time, and per hour.
ALLOWED = {"objects": (200, 0), "blocks": (4000, 2000), "resident": (1.5 * MIB, 1 * MIB)}
ALLOWED |= {"malloc": (0.5 * MIB, 0.5 * MIB)}
# A shorter run is judged while caches fill and malloc's heaps still spread: then it is only a
# gross leak that resident memory shows, and objects and blocks show the others.
WARM = 300.0
RESIDENT_WHILE_COLD = 24 * MIB
FEWEST_SAMPLES = 6
IN_BYTES = ("resident", "malloc", "malloc free")


def malloc_figures():
    """(bytes given out, bytes kept free) by malloc over all its heaps; zeros without glibc.

    mallinfo2 would know of the main heap only, and every thread may have one of its own.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_info"):
        return 0, 0
    library.open_memstream.restype = ctypes.c_void_p
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    stream = ctypes.c_void_p(library.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    library.malloc_info(0, stream)
    library.fclose(stream)
    totals = (text.value or b"").rpartition(b"</heap>")[2]
    library.free(text)
    found = dict(re.findall(rb'type="(\w+)"(?: count="\d+")? size="(\d+)"', totals))
    free = int(found[b"fast"]) + int(found[b"rest"])
    return int(found[b"current"]) - free + int(found[b"mmap"]), free


def give_back():
    """Asks malloc to return to the kernel what it keeps free; what stays resident is held."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


def descriptors():
    """How many are open, but for the one that a process keeps once a loop has run for 50 ms.

    It is the watchdog's, made once and shared by all loops that the process will ever have.
    """
    return sum(not of_the_watchdog(number) for number in os.listdir("/proc/self/fd"))


def of_the_watchdog(number):
    try:
        return "memfd:aioxide-stacks" in os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:  # The one by which the directory itself was read.
        return False


def take():
    """One sample."""
    for _ in range(2):
        gc.collect()
    given_out, kept = malloc_figures()
    return {
        "time": time.monotonic(),
        "descriptors": descriptors(),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "children": children(),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "malloc": given_out,
        "malloc free": kept,
        "resident": resident(),
    }


def line(times, values):
    """The slope of the straight line through the samples, and the standard error of the slope."""
    count = len(values)
    middle, mean = sum(times) / count, sum(values) / count
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * value for at, value in zip(times, values, strict=True)) / spread
    misses = (value - mean - slope * (at - middle) for at, value in zip(times, values, strict=True))
    return slope, math.sqrt(sum(miss**2 for miss in misses) / (count - 2) / spread)


class Figures:
    """The samples of a run, kept so that keeping them allocates nothing that would be counted."""

    def __init__(self):
        self.columns = collections.defaultdict(lambda: array.array("d"))

    def take(self):
        self.add(take())

    def add(self, sample):
        for name, value in sample.items():
            self.columns[name].append(value)

    @property
    def rounds(self):
        return len(self.columns["time"])

    def judged(self, name):
        """One figure over the second half; the first half warms up caches and allocators."""
        return self.columns[name][self.rounds // 2 :]

    def growth(self, name):
        """(growth over the judged half by the line, twice its standard error), in its unit."""
        times = self.judged("time")
        slope, error = line(times, self.judged(name))
        return slope * (times[-1] - times[0]), 2 * error * (times[-1] - times[0])

    def complaints(self):
        if len(self.judged("time")) < FEWEST_SAMPLES // 2:
            yield f"{self.rounds} rounds are too few to judge"
            return
        for name in COUNTS:
            values = self.judged(name)
            if values[-1] > values[0]:
                yield f"{name} grew from {values[0]:.0f} to {values[-1]:.0f}"
        times = self.judged("time")
        hours = (times[-1] - times[0]) / 3600
        for name, (once, hourly) in ALLOWED.items():
            if name == "resident" and times[-1] - times[0] < WARM:
                once = RESIDENT_WHILE_COLD
            growth, error = self.growth(name)
            if growth - error > once + hourly * hours:
                yield (
                    f"{name} grew by {growth:,.0f} ± {error:,.0f} over the second half; "
                    f"{once + hourly * hours:,.0f} are allowed"
                )

    def shown(self):
        """The last sample in one line."""
        last = {name: column[-1] for name, column in self.columns.items()}
        counts = ", ".join(f"{last[name]:.0f} {name}" for name in COUNTS)
        return (
            f"{counts}, {last['objects']:,.0f} objects, {last['blocks']:,.0f} blocks, "
            f"malloc {last['malloc'] / MIB:.2f} MiB and {last['malloc free'] / MIB:.2f} free, "
            f"resident {last['resident'] / MIB:.2f} MiB"
        )

    def table(self):
        """Rows for docs/reliability.md."""
        for name in COUNTS:
            values = self.judged(name)
            yield f"| {name} | {values[0]:.0f} | {values[-1]:.0f} | |"
        for name in (*ALLOWED, "malloc free"):
            values, (growth, error) = self.judged(name), self.growth(name)
            unit, form = (MIB, ",.2f") if name in IN_BYTES else (1, ",.0f")
            numbers = (format(value / unit, form) for value in (values[0], values[-1]))
            label = f"{name}, MiB" if unit == MIB else name
            trend = f"{growth / unit:+{form}} ± {error / unit:{form}}"
            yield f"| {label} | {' | '.join(numbers)} | {trend} |"
        give_back()
        yield f"| resident after malloc_trim, MiB | | {resident() / MIB:,.2f} | |"
