"""Work without a connection: tasks, timers, threads, signals, executors, look-ups, children, pipes.

Called by run.py, many at once.  Each checks its own results and leaves nothing.
"""

import asyncio
import os
import signal
import socket
import time

from field import PATIENCE, Lost, check, expect, given_up


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


async def executors(field, chance):
    """Calls handed to threads come back with their own results, or are given up."""
    numbers = range(chance.randrange(1, 30))
    calls = [asyncio.ensure_future(asyncio.to_thread(pow, number, 2)) for number in numbers]
    for _ in range(chance.randrange(3)):
        await asyncio.sleep(0)
    given = [call for call in calls if chance.random() < 0.2 and call.cancel()]
    results = await expect("executors", asyncio.gather(*calls, return_exceptions=True))
    for number, call, result in zip(numbers, calls, results, strict=True):
        if call in given:
            continue
        check(result == number**2, f"a thread answered {result!r} to {number}")


async def look_ups(field, chance):
    """getaddrinfo and getnameinfo of loopback, some cancelled."""
    name = chance.choice(["127.0.0.1", "localhost", "::1"])
    looking = field.loop.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    if chance.random() < 0.3:
        await given_up(chance, looking)
        return
    found = await expect("a look-up", looking)
    check(all(entry[4][1] == 80 for entry in found) and found, f"{name} was found at {found}")
    host, _ = await expect("a name", field.loop.getnameinfo(("127.0.0.1", 80), 3))
    check(host == "127.0.0.1", f"127.0.0.1 is called {host}")


async def programs(field, chance):
    """Children that answer, are killed, or are given up, each waited for."""
    ending = chance.choice(["answer", "answer", "exit", "kill", "cancel"])
    command = {"exit": ("sh", "-c", "exit 7"), "kill": ("sleep", "60")}.get(ending, ("cat",))
    pipe = asyncio.subprocess.PIPE
    child = await expect(
        "a child", asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    )
    message = b"%d\n" % chance.randrange(10**9) * chance.choice([1, 100, 20_000])
    if ending == "kill":
        child.kill()
        check(await expect("a killed child", child.wait()) == -signal.SIGKILL, "not killed")
    elif ending == "exit":
        check(await expect("a child's end", child.wait()) == 7, "a wrong exit code")
    elif ending == "cancel":
        await given_up(chance, child.communicate(message))
        # Closed, not only killed: wait() would wait for the output that nobody reads.
        child._transport.close()
        await expect("a child given up", child.wait())
    else:
        field.sent["child"] += 1
        output, _ = await expect("a child's answer", child.communicate(message))
        check(output == message and child.returncode == 0, "a child lost bytes")
        field.back["child"] += 1
    child._transport.close()
    # What the child's pipes still hold is told before the round is over.
    await asyncio.sleep(0)


async def pipes(field, chance):
    """Numbered lines through a pipe, both ends of which are ours."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    source, _ = await field.loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
    )
    sink, _ = await field.loop.connect_write_pipe(asyncio.Protocol, os.fdopen(writing, "wb", 0))
    count = chance.choice([1, 100, 20_000])
    sink.write(b"".join(b"%d\n" % number for number in range(count)))
    sink.close()
    field.sent["pipe"] += count
    for number in range(count):
        line = await expect("a line from a pipe", reader.readline())
        check(line == b"%d\n" % number, f"a pipe gave {line!r} for {number}")
    field.back["pipe"] += count
    check(await expect("the end of a pipe", reader.read()) == b"", "a pipe gave more")
    source.close()
    await asyncio.sleep(0)


WORK = [socket_calls, storms, threads, timers, executors, look_ups, programs, pipes]
