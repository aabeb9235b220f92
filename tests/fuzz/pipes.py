"""Pipes and child processes: a far end that cuts, a child that dies, ends told once and in order.

Called by run.py through scenarios.py.  Children are the shell and cat; none outlives its case.
"""

import asyncio
import contextlib
import os
import signal
import time

from case import expect, in_thread, until
from invariants import piece
from protocols import WildChild

PROGRAMS = (
    "exec cat",
    "head -c 1000",
    "exit 3",
    "kill -9 $$",
    "kill -TERM $$",
    "exec 1>&-; sleep 0.01",
    "exec 0<&-; sleep 0.01; echo late",
    "sleep 0.01; exec cat",
    "cat; echo done >&2; exit 7",
    "exec sleep 30",
)


class PipeEnd(asyncio.Protocol):
    """Either end of a pipe of ours."""

    def __init__(self, ledger, loop, chance):
        self.ledger, self.loop, self.chance = ledger, loop, chance
        ledger.current = self

    def connection_made(self, transport):
        self.transport = transport
        self.ledger.enter(self, "made")

    def data_received(self, data):
        self.ledger.enter(self, "data")
        self.ledger.data(data)
        if self.chance.random() < 0.2:
            self.transport.pause_reading()
            self.ledger.reading_paused = True
            self.loop.call_later(self.chance.random() * 0.003, self.resume)

    def resume(self):
        self.ledger.reading_paused = False
        self.transport.resume_reading()

    def eof_received(self):
        self.ledger.enter(self, "eof")
        self.ledger.end_of_file()

    def pause_writing(self):
        self.ledger.enter(self, "pause")
        self.ledger.pause(True)

    def resume_writing(self):
        self.ledger.enter(self, "resume")
        self.ledger.pause(False)

    def connection_lost(self, error):
        self.ledger.enter(self, "lost")
        self.ledger.gone(error)


async def pipes(case):
    """One pipe, the far end of which is a thread's."""
    chance = case.chance
    reading, writing = os.pipe()
    if chance.random() < 0.5:
        await read_pipe(case, os.fdopen(reading, "rb", 0), writing)
    else:
        await write_pipe(case, os.fdopen(writing, "wb", 0), reading)


async def read_pipe(case, file, far):
    loop, chance, ledger = case.loop, case.chance, case.ledger("read pipe")
    total = chance.choice([0, 1, 5000, 300_000])
    transport, protocol = await loop.connect_read_pipe(lambda: PipeEnd(ledger, loop, chance), file)
    case.remember(transport)
    case.remember(protocol)

    def feed():
        sent = 0
        with open(far, "wb", 0) as pipe, contextlib.suppress(BrokenPipeError):
            while sent < total:
                sent += pipe.write(piece("theirs", sent, min(total - sent, 7000)))
                if chance.random() < 0.1:
                    time.sleep(0.001)

    feeding = in_thread(loop, feed)
    if early := chance.random() < 0.2:
        await asyncio.sleep(chance.random() * 0.005)
        if not ledger.lost:
            ledger.ended = "abort"
            transport.close()
    await until(f"case {case.number}: the end of a pipe", lambda: ledger.lost)
    await expect("a feeder", feeding)
    if ledger.made != 1 or ledger.lost != 1 or ledger.error is not None:
        ledger.breaks(f"a pipe that ended was told {ledger.error!r}")
    if not early and (ledger.received != total or not ledger.eof):
        ledger.breaks(f"{ledger.received} bytes of {total} came through a pipe")


async def write_pipe(case, file, far):
    loop, chance, ledger = case.loop, case.chance, case.ledger("write pipe")
    total, leaves_at = 0, chance.choice([None, None, 0, 1000, 100_000])
    transport, protocol = await loop.connect_write_pipe(lambda: PipeEnd(ledger, loop, chance), file)
    case.remember(transport)
    case.remember(protocol)
    received = bytearray()

    def swallow():
        with open(far, "rb", 0) as pipe:
            while leaves_at is None or len(received) < leaves_at:
                data = pipe.read(chance.choice([1, 1000, 65_536]))
                if not data:
                    return
                received.extend(data)
                if chance.random() < 0.05:
                    time.sleep(0.001)

    swallowing = in_thread(loop, swallow)
    for _ in range(chance.randrange(10)):
        count = chance.choice([0, 1, 1000, 70_000])
        transport.write(piece("ours", total, count))
        total += count
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
    is_abort = chance.random() < 0.2
    if ledger.lost:
        pass  # asyncio's transport then raises AttributeError.
    elif is_abort:
        transport.abort()
    else:
        chance.choice([transport.close, transport.write_eof])()
    await until(f"case {case.number}: the end of a pipe", lambda: ledger.lost)
    await expect("a swallower", swallowing)
    if bytes(received) != piece("ours", 0, len(received)):
        ledger.breaks("the bytes of a pipe came out changed")
    if len(received) > total or (
        leaves_at is None and not is_abort and (len(received) < total or ledger.error is not None)
    ):
        ledger.breaks(f"{len(received)} bytes of {total} came through, told {ledger.error!r}")


async def programs(case):
    """A child, fed and killed by chance."""
    loop, chance, ledger = case.loop, case.chance, case.ledger("child")
    protocol = WildChild(ledger, loop, chance)
    case.remember(protocol)
    program = chance.choice(PROGRAMS)
    starting = asyncio.ensure_future(loop.subprocess_shell(lambda: protocol, program))
    if chance.random() < 0.1:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        if starting.cancelled():
            return
    transport, _ = await expect("a child", starting)
    case.remember(transport)
    stdin, sent = transport.get_pipe_transport(0), 0
    for _ in range(chance.randrange(5)):
        count = chance.choice([1, 1000, 100_000])
        if not stdin.is_closing():
            stdin.write(piece("ours", sent, count))
            sent += count
        await asyncio.sleep(chance.choice([0, 0.001, 0.005]))
    whole = program in ("exec cat", "sleep 0.01; exec cat")
    if chance.random() < 0.5 or program == "exec sleep 30":
        whole = False
        with contextlib.suppress(ProcessLookupError):
            act = chance.choice(
                [transport.kill, transport.terminate, lambda: transport.send_signal(signal.SIGINT)]
            )
            act()
        if program == "exec sleep 30" or chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                transport.kill()
    stdin.close()
    await until(f"case {case.number}: the end of a child ({program})", lambda: ledger.lost)
    if ledger.made != 1 or sorted(protocol.ends) != [0, 1, 2]:
        ledger.breaks(f"the pipes that ended are {sorted(protocol.ends)}")
    output = bytes(protocol.output[1])
    if whole and output != piece("ours", 0, sent):
        ledger.breaks(f"{len(output)} bytes of {sent} came back from cat")
    if program == "exit 3" and transport.get_returncode() not in (3, -2, -9, -15):
        ledger.breaks(f"a child that exits with 3 is said to have {transport.get_returncode()}")
    transport.close()
