"""A soak: connects, cancels, resets, garbage, storms, for as long as asked, then the figures.

Run as a script: ``python -X dev -W error tests/soak.py --seconds 20 --loop aioxide``.  The work
comes in rounds; after each everything must be as before it: descriptors, threads, tasks, objects,
memory.  It stays on loopback, opens a bounded number of connections a second, and ends non-zero
on the first thing that is lost, leaked or reported and was not expected.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import functools
import gc
import importlib
import logging
import os
import random
import signal
import socket
import statistics
import sys
import threading
import time
import traceback

PATIENCE = 30.0  # Seconds after which something that must happen counts as lost.
WORKERS = 8  # Scenarios under way at once.
CONNECTIONS_PER_SECOND = 300  # Closed ones stay in the kernel for a while; it has 28,000 ports.
WARM_UP = 0.3  # The part of the rounds whose figures are not judged: caches fill, threads start.

# What may remain, over the whole judged part of a run, before it is called a leak.
OBJECTS_ALLOWED = 1000
RESIDENT_ALLOWED = 4 * 2**20
RESIDENT_ALLOWED_PER_HOUR = 12 * 2**20


class Lost(AssertionError):
    """Something that must happen did not, or came out wrong."""


class Garbage(Exception):
    """What our protocols raise on purpose; the loop must report it and go on."""


async def expect(what, awaitable):
    """The result of `awaitable`, which must come within the patience."""
    try:
        async with asyncio.timeout(PATIENCE) as patience:
            return await awaitable
    except TimeoutError:
        if patience.expired():
            raise Lost(f"{what}: nothing within {PATIENCE:.0f} seconds") from None
        raise


def check(truth, what):
    if not truth:
        raise Lost(what)


class Field:
    """What the scenarios share: the loop, its servers, and a count of what was done."""

    def __init__(self, namespace, loop, seed):
        self.namespace = namespace
        self.loop = loop
        self.chance = random.Random(seed)
        self.done = {}
        self.handlers = set()
        self.garbage_sent = 0
        self.garbage_reported = 0
        self.unexpected = []
        self.next_connection = 0.0
        self.servers = []

    async def open(self):
        start = functools.partial(self.namespace.start_server, host="127.0.0.1", port=0)
        create = functools.partial(self.loop.create_server, host="127.0.0.1", port=0)
        self.servers = [
            await start(self.echo_lines),
            await create(Echo, backlog=500),
            await create(BufferedEcho, backlog=500),
            await create(lambda: Picky(self)),
        ]
        addresses = [server.sockets[0].getsockname() for server in self.servers]
        self.lines, self.echo, self.buffered_echo, self.picky = addresses

    async def close(self):
        for server in self.servers:
            server.close()
            await expect("closing a server", server.wait_closed())

    async def pace(self):
        """Wait until another connection may be opened."""
        now = time.monotonic()
        self.next_connection = max(now, self.next_connection + 1 / CONNECTIONS_PER_SECOND)
        if self.next_connection > now:
            await asyncio.sleep(self.next_connection - now)

    async def connect(self, address):
        await self.pace()
        return await expect("a connection", self.namespace.open_connection(*address))

    async def echo_lines(self, reader, writer):
        """The handler of a streams server: sends every line back until the end."""
        self.handlers.add(task := asyncio.current_task())
        task.add_done_callback(self.handlers.discard)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def told(self, loop, context):
        """The loop's exception handler: only what we provoked is expected."""
        if isinstance(context.get("exception"), Garbage):
            self.garbage_reported += 1
        else:
            self.unexpected.append(context)

    async def quiet(self):
        """Wait until every handler has ended and every provoked error was reported."""
        limit = time.monotonic() + PATIENCE
        while self.handlers or self.garbage_reported < self.garbage_sent:
            check(time.monotonic() < limit, f"still busy: {len(self.handlers)} handlers")
            await asyncio.sleep(0.005)
        for _ in range(3):
            await asyncio.sleep(0)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and stops reading while its peer does not."""

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(high=50_000)

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class BufferedEcho(asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self):
        self.buffer = bytearray(10_000)

    connection_made = Echo.connection_made
    pause_writing = Echo.pause_writing
    resume_writing = Echo.resume_writing

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(bytes(self.buffer[:count]))


class Picky(asyncio.Protocol):
    """Raises on what does not begin with the right byte, in one callback or another."""

    def __init__(self, field):
        self.field = field

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not data.startswith(b"+"):
            self.field.garbage_sent += 1
            raise Garbage("data")
        self.transport.write(b"fine")


async def echoes(field, chance):
    """Bytes sent are the bytes that come back, whichever protocol serves."""
    reader, writer = await field.connect(chance.choice([field.echo, field.buffered_echo]))
    for _ in range(chance.randrange(1, 5)):
        payload = chance.randbytes(chance.choice([1, 100, 5000, 200_000]))
        writer.write(payload)
        answer = await expect("an echo", reader.readexactly(len(payload)))
        check(answer == payload, "an echo came back changed")
    if chance.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()
    await expect("the end of a connection", writer.wait_closed())


async def timeouts(field, chance):
    """Reads given up again and again lose no byte."""
    reader, writer = await field.connect(field.lines)
    sent, received = b"", b""
    for number in range(30):
        line = b"%d " % number * chance.randrange(1, 50) + b"\n"
        sent += line
        writer.write(line)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.choice([0, 0, 0.0002, 0.002])):
                received += await reader.read(chance.choice([1, 20, 1000]))
    writer.write_eof()
    received += await expect("the rest of the lines", reader.read())
    check(received == sent, "bytes were lost by reads that timed out")
    writer.close()
    await expect("the end of a connection", writer.wait_closed())


async def half_closes(field, chance):
    """The end of one direction leaves the other open until all has come back."""
    reader, writer = await field.connect(field.lines)
    payload = b"".join(b"%d\n" % chance.randrange(10**9) for _ in range(chance.randrange(3000)))
    writer.write(payload)
    writer.write_eof()
    answer = await expect("all lines after a half-close", reader.read())
    check(answer == payload, "a half-closed connection lost bytes")
    writer.close()
    await expect("the end of a connection", writer.wait_closed())


async def resets(field, chance):
    """Peers that reset at any moment harm nobody else."""
    for _ in range(chance.randrange(1, 5)):
        await field.pace()
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            address = chance.choice([field.echo, field.buffered_echo, field.lines])
            await expect("a raw connection", field.loop.sock_connect(sock, address))
            if chance.random() < 0.7:
                data = b"line\n" * chance.randrange(10_000)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.005):
                        await field.loop.sock_sendall(sock, data)


async def garbage(field, chance):
    """Protocols that raise lose their connection, and only theirs."""
    reader, writer = await field.connect(field.picky)
    if chance.random() < 0.3:
        writer.write(b"+")
        check(await expect("an answer", reader.readexactly(4)) == b"fine", "a wrong answer")
    writer.write(b"-" + chance.randbytes(chance.randrange(100_000)))
    with contextlib.suppress(ConnectionError):
        check(await expect("the end after garbage", reader.read()) == b"", "an answer to garbage")
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await expect("the end of a connection", writer.wait_closed())


async def cancelled_connects(field, chance):
    """A connect given up in any turn leaves no socket behind."""
    await field.pace()
    connecting = asyncio.ensure_future(field.loop.create_connection(Echo, *field.echo))
    for _ in range(chance.randrange(8)):
        await asyncio.sleep(0)
    connecting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        transport, _ = await expect("a cancelled connect", connecting)
        transport.abort()


async def socket_calls(field, chance):
    """sock_* on a pair of sockets, cancelled before anything came, lose nothing."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        for _ in range(20):
            receiving = asyncio.ensure_future(field.loop.sock_recv(near, 1000))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])
            await expect("a send", field.loop.sock_sendall(far, b"kept"))
            check(
                await expect("a receive", field.loop.sock_recv(near, 1000)) == b"kept",
                "a cancelled sock_recv took bytes",
            )
        seen = field.loop.create_future()
        field.loop.add_reader(near, lambda: seen.done() or seen.set_result(near.recv(9)))
        far.send(b"watched")
        check(await expect("a reader", seen) == b"watched", "a reader saw other bytes")
        check(field.loop.remove_reader(near) is True, "the reader was gone")


async def storms(field, chance):
    """Hundreds of tasks over locks, queues, events and timeouts; many are cancelled."""
    lock, queue, event = asyncio.Lock(), asyncio.Queue(10), asyncio.Event()
    finished = []

    async def work(number):
        async with asyncio.timeout(chance.choice([0, 0.001, PATIENCE])):
            await event.wait()
            async with lock:
                await asyncio.sleep(0)
            await queue.put(number)
            finished.append(number)

    async def drain():
        while await queue.get() is not None:
            pass

    draining = asyncio.ensure_future(drain())
    tasks = [asyncio.ensure_future(work(number)) for number in range(chance.randrange(300))]
    for task in tasks[::7]:
        task.cancel()
    field.loop.call_later(0.001, event.set)
    results = await expect("a storm of tasks", asyncio.gather(*tasks, return_exceptions=True))
    for result in results:
        if not isinstance(result, None | TimeoutError | asyncio.CancelledError):
            raise Lost(f"a task of a storm ended with {result!r}")
    check(len(finished) == results.count(None), "a finished task was not counted")
    await expect("the last item", queue.put(None))
    await expect("the end of a queue", draining)


async def threads(field, chance):
    """What other threads post arrives, all of it and in order."""
    count = chance.randrange(1, 200)
    arrived, complete = [], field.loop.create_future()

    def arrive(number):
        arrived.append(number)
        if number == count - 1:
            complete.set_result(None)

    def post():
        for number in range(count):
            field.loop.call_soon_threadsafe(arrive, number)
        return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, count), field.loop).result(
            PATIENCE
        )

    posted = await expect("a thread", asyncio.to_thread(post))
    await expect("what a thread posted", complete)
    check(posted == count and arrived == list(range(count)), "posts of a thread were lost")


async def timers(field, chance):
    """Timers come in order and never early; cancelled ones never."""
    due, cancelled, ran = [], [], []
    start = field.loop.time()

    def run(when):
        check(field.loop.time() + 1e-6 >= when, "a timer ran early")
        ran.append(when)

    for _ in range(chance.randrange(1, 200)):
        when = start + chance.random() * 0.02
        handle = field.loop.call_at(when, run, when)
        (cancelled if chance.random() < 0.5 else due).append((when, handle))
    for _, handle in cancelled:
        handle.cancel()
    limit = time.monotonic() + PATIENCE
    while len(ran) < len(due):
        check(time.monotonic() < limit, "a timer was lost")
        await asyncio.sleep(0.005)
    check(ran == sorted(when for when, _ in due), "timers ran out of order")


async def short_servers(field, chance):
    """Servers that are opened, visited and closed, sometimes with the visitor still there."""
    server = await field.loop.create_server(Echo, "127.0.0.1", 0)
    visits = [await field.connect(server.sockets[0].getsockname()) for _ in range(3)]
    for reader, writer in visits:
        writer.write(b"hello")
        await expect("an echo of a short server", reader.readexactly(5))
    server.close()
    if hasattr(server, "abort_clients") and chance.random() < 0.5:
        server.abort_clients()
    for _, writer in visits:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await expect("the end of a visit", writer.wait_closed())
    await expect("the end of a short server", server.wait_closed())


async def signals(field, chance):
    """A signal is heard; only one worker sends any."""
    heard = field.loop.create_future()
    field.loop.add_signal_handler(signal.SIGUSR1, heard.set_result, None)
    if chance.random() < 0.5:
        os.kill(os.getpid(), signal.SIGUSR1)
    else:
        field.loop.call_later(0.001, os.kill, os.getpid(), signal.SIGUSR1)
    await expect("a signal", heard)
    check(field.loop.remove_signal_handler(signal.SIGUSR1) is True, "the handler was gone")


async def crowds(field, chance):
    """Many connections at once."""

    async def visit(number):
        reader, writer = await field.connect(field.echo)
        writer.write(b"%d" % number)
        size = len(str(number))
        check(
            await expect("an echo in a crowd", reader.readexactly(size)) == b"%d" % number,
            "one got the bytes of another",
        )
        writer.transport.abort()
        await expect("the end of a connection", writer.wait_closed())

    await asyncio.gather(*(visit(number) for number in range(chance.randrange(20, 60))))


SCENARIOS = [
    echoes,
    timeouts,
    half_closes,
    resets,
    garbage,
    cancelled_connects,
    socket_calls,
    storms,
    threads,
    timers,
    short_servers,
    crowds,
]


async def worker(field, number, until):
    """Run scenarios by chance until the end of the round; the first worker sends signals too."""
    chance = random.Random(field.chance.random())
    while time.monotonic() < until:
        scenario = chance.choice([*SCENARIOS, signals] if number == 0 else SCENARIOS)
        await scenario(field, chance)
        field.done[scenario.__name__] = field.done.get(scenario.__name__, 0) + 1


class Figures:
    """What is counted after each round, and what the counts must not do."""

    def __init__(self):
        self.samples = []

    def take(self):
        for _ in range(2):
            gc.collect()
        with open("/proc/self/statm") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.samples.append(
            {
                "descriptors": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "tasks": len(asyncio.all_tasks()),
                "objects": len(gc.get_objects()),
                "resident": resident,
            }
        )

    def judged(self, name):
        """The samples of one figure after the warm-up."""
        return [sample[name] for sample in self.samples[int(len(self.samples) * WARM_UP) :]]

    def growth(self, name):
        """By how much a figure grew over the judged rounds, by the line through all of them."""
        values = self.judged(name)
        slope, _ = statistics.linear_regression(range(len(values)), values)
        return slope * (len(values) - 1)

    def complaints(self, seconds):
        for name in ("descriptors", "threads", "tasks"):
            values = self.judged(name)
            if values[-1] > values[0]:
                yield f"{name} grew from {values[0]} to {values[-1]}"
        if self.growth("objects") > OBJECTS_ALLOWED:
            yield f"objects grew by {self.growth('objects'):.0f}"
        allowed = RESIDENT_ALLOWED + RESIDENT_ALLOWED_PER_HOUR * seconds / 3600
        if self.growth("resident") > allowed:
            yield f"resident memory grew by {self.growth('resident') / 2**20:.1f} MiB"

    def lines(self):
        for name in ("descriptors", "threads", "tasks"):
            yield f"{name} {self.judged(name)[0]} -> {self.judged(name)[-1]}"
        values = self.judged("objects")
        yield f"objects {values[0]} -> {values[-1]} ({self.growth('objects'):+.0f} by trend)"
        values = [value / 2**20 for value in self.judged("resident")]
        trend = self.growth("resident") / 2**20
        yield f"resident {values[0]:.1f} -> {values[-1]:.1f} MiB ({trend:+.2f} by trend)"


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


async def soak(field, seconds, figures):
    """Rounds of work until the time is up; the figures are taken while nothing is under way."""
    loop = field.loop
    loop.set_exception_handler(field.told)
    heartbeat = Heartbeat(loop)
    heartbeat.beat()
    await field.open()
    # Every thread the executor may have is started at once, so that later none is new.
    barrier = threading.Barrier(min(32, (os.cpu_count() or 1) + 4))
    await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(barrier.parties)))
    end = time.monotonic() + seconds
    length = max(0.5, min(10, seconds / 30))
    while time.monotonic() < end:
        until = time.monotonic() + length
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(worker(field, number, until))
        await field.quiet()
        check(field.unexpected == [], f"reported to the loop's handler: {field.unexpected[:3]}")
        figures.take()
    await field.close()
    heartbeat.stop()


def first_cause(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--loop", choices=["asyncio", "aioxide"], default="aioxide")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    namespace = importlib.import_module(options.loop)
    ours = options.loop == "aioxide"
    factory = namespace.new_event_loop if ours else asyncio.SelectorEventLoop
    interpreter_said, logged, figures = [], [], Figures()
    sys.unraisablehook = lambda report: interpreter_said.append(repr(report.exc_value))
    threading.excepthook = lambda report: interpreter_said.append(repr(report.exc_value))
    logger = logging.getLogger("asyncio")
    logger.setLevel(logging.ERROR)
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logger.addHandler(handler)
    faulthandler.dump_traceback_later(options.seconds + 4 * PATIENCE, exit=True)

    before = len(os.listdir("/proc/self/fd"))
    complaints = []
    with asyncio.Runner(loop_factory=factory) as runner:
        field = Field(namespace, runner.get_loop(), options.seed)
        try:
            runner.run(soak(field, options.seconds, figures))
        except Exception as error:
            complaints.append(f"{type(first_cause(error)).__name__}: {first_cause(error)}")
            traceback.print_exception(first_cause(error))
    gc.collect()
    faulthandler.cancel_dump_traceback_later()

    if len(figures.samples) >= 4:
        complaints += figures.complaints(options.seconds)
    elif not complaints:
        complaints.append("too few rounds to judge")
    after = len(os.listdir("/proc/self/fd"))
    if after > before and not complaints:
        complaints.append(f"descriptors after the loop was closed: {before} -> {after}")
    complaints += [f"the interpreter said: {message}" for message in interpreter_said[:3]]
    complaints += [f"asyncio logged: {message}" for message in logged[:3]]
    version = ".".join(map(str, sys.version_info[:3]))
    print(
        f"soak: {options.loop} on CPython {version}, seed {options.seed}, "
        f"{options.seconds:.0f} s, {len(figures.samples)} rounds"
    )
    print("did: " + ", ".join(f"{count} {name}" for name, count in sorted(field.done.items())))
    if len(figures.samples) >= 4:
        print("kept: " + ", ".join(figures.lines()))
    for complaint in complaints:
        print(f"FAILED: {complaint}")
    if not complaints:
        print("passed")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
