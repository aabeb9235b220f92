"""Flow control of stream transports: water marks, pausing either side, and bytes kept in order.

Run by pytest on asyncio and on aioxide.  The random runs are seeded: a failure repeats itself.
"""

import asyncio
import random

import pytest
from loopback import (
    BufferedRecorder,
    Recorder,
    closed,
    connected_pair,
    on_loop,
    read_exactly,
    read_to_eof,
    until,
    wired,
)

LARGE = bytes(range(256)) * 2048  # 512 KiB
SMALL_BUFFERS = {"send_buffer": 4096, "receive_buffer": 4096}

protocols = pytest.mark.parametrize("protocol_class", [Recorder, BufferedRecorder])


# Water marks


@on_loop
async def test_default_water_marks(loop):
    async with wired(loop, Recorder()) as (transport, _):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, (16384, 65536)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 1000}, (1000, 4000)),
        ({"high": 1000, "low": 10}, (10, 1000)),
        ({"high": 0}, (0, 0)),
        ({"low": 0}, (0, 0)),
        ({"high": 7, "low": 7}, (7, 7)),
        ({"high": 2**40}, (2**38, 2**40)),
    ],
)
@on_loop
async def test_water_marks_follow_from_each_other(loop, given, limits):
    async with wired(loop, Recorder()) as (transport, _):
        transport.set_write_buffer_limits(high=1, low=1)
        assert transport.set_write_buffer_limits(**given) is None
        assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"high": 1, "low": 2}, r"^high \(1\) must be >= low \(2\) must be >= 0$"),
        ({"high": 1, "low": -1}, r"^high \(1\) must be >= low \(-1\) must be >= 0$"),
        ({"low": -1}, r"^high \(-4\) must be >= low \(-1\) must be >= 0$"),
    ],
)
@on_loop
async def test_impossible_water_marks_are_refused(loop, given, message):
    async with wired(loop, Recorder()) as (transport, _):
        with pytest.raises(ValueError, match=message):
            transport.set_write_buffer_limits(**given)
        assert transport.get_write_buffer_limits() == (16384, 65536)


# The writing side


@protocols
@on_loop
async def test_each_crossing_is_told_exactly_once(loop, protocol_class):
    protocol = protocol_class()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.set_write_buffer_limits(high=50_000, low=10_000)
        total = 0
        for crossing in range(1, 4):
            while protocol.events.count("pause") < crossing:
                transport.write(b"x" * 20_000)
                total += 20_000
            assert transport.get_write_buffer_size() > 50_000
            for _ in range(5):
                transport.write(b"x" * 20_000)
                total += 20_000
            assert protocol.events.count("pause") == crossing
            assert protocol.events.count("resume") == crossing - 1
            assert await read_exactly(loop, peer, total) == b"x" * total
            total = 0
            await until(lambda: transport.get_write_buffer_size() == 0)
            assert protocol.events.count("resume") == crossing
        marks = [event for event in protocol.events if event in ("pause", "resume")]
        assert marks == ["pause", "resume"] * 3


@on_loop
async def test_pause_is_told_above_the_high_mark_and_resume_at_the_low(loop):
    sizes = []

    class Sizes(Recorder):
        def pause_writing(self):
            super().pause_writing()
            sizes.append(self.transport.get_write_buffer_size())

        def resume_writing(self):
            super().resume_writing()
            sizes.append(self.transport.get_write_buffer_size())

    protocol = Sizes()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.set_write_buffer_limits(high=30_000, low=20_000)
        sent = 0
        while transport.get_write_buffer_size() <= 30_000:
            assert sizes == []
            transport.write(b"x" * 1000)
            sent += 1000
        assert sizes == [transport.get_write_buffer_size()]
        await read_exactly(loop, peer, sent)
        await protocol.has("resume")
        assert 30_000 < sizes[0] <= 31_000
        assert sizes[1] <= 20_000


@on_loop
async def test_pause_is_told_from_within_write(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, _):
        transport.write(LARGE)
        assert protocol.events == ["made", "pause"]


@on_loop
async def test_writelines_pauses_too(loop, behaves_as):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.writelines([LARGE, LARGE])
        if behaves_as(3, 14):
            assert protocol.events == ["made", "pause"]
        received = await read_exactly(loop, peer, 2 * len(LARGE))
        assert received == LARGE + LARGE
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert protocol.events.count("resume") == protocol.events.count("pause")


@on_loop
async def test_lowering_the_mark_below_what_waits_pauses_at_once(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, _):
        transport.set_write_buffer_limits(high=2**30)
        transport.write(LARGE)
        assert protocol.events == ["made"]
        transport.set_write_buffer_limits(high=1000)
        assert protocol.events == ["made", "pause"]


@on_loop
async def test_a_high_mark_of_zero_pauses_whenever_anything_waits(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"small")
        assert protocol.events == ["made"]
        transport.write(LARGE)
        assert protocol.events == ["made", "pause"]
        await read_exactly(loop, peer, 5 + len(LARGE))
        await protocol.has("resume")
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_resume_may_write_more(loop):
    rounds = 20

    class Producer(Recorder):
        left = rounds

        def connection_made(self, transport):
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=10_000, low=5_000)
            self.produce()

        def produce(self):
            while self.left and self.events[-1] != "pause":
                self.left -= 1
                self.transport.write(bytes([self.left]) * 15_000)

        def resume_writing(self):
            super().resume_writing()
            self.produce()
            if not self.left:
                self.transport.write_eof()

    protocol = Producer()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (_, peer):
        received = await read_to_eof(loop, peer)
        assert received == b"".join(bytes([n]) * 15_000 for n in reversed(range(rounds)))


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
@on_loop
async def test_an_error_in_pausing_or_resuming_is_reported_and_the_connection_lives(
    loop, loop_errors, method
):
    failure = ZeroDivisionError(method)

    def fail():
        raise failure

    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, peer):
        setattr(protocol, method, fail)
        transport.write(LARGE)
        assert await read_exactly(loop, peer, len(LARGE)) == LARGE
        await until(lambda: loop_errors)
        (context,) = loop_errors.take()
        assert context["message"] == f"protocol.{method}() failed"
        assert context["exception"] is failure
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert not transport.is_closing()
        transport.write(b"alive")
        assert await read_exactly(loop, peer, 5) == b"alive"


@on_loop
async def test_resume_is_not_told_after_an_abort(loop):
    protocol = Recorder()
    async with wired(loop, protocol, **SMALL_BUFFERS) as (transport, _):
        transport.write(LARGE)
        transport.abort()
        await protocol.has("lost")
        assert protocol.events == ["made", "pause", "lost"]


# The reading side


@protocols
@on_loop
async def test_nothing_is_received_while_reading_is_paused(loop, protocol_class):
    protocol = protocol_class()
    async with wired(loop, protocol) as (transport, peer):
        assert transport.is_reading()
        assert transport.pause_reading() is None
        assert not transport.is_reading()
        peer.send(b"patience")
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert protocol.received == b""
        assert transport.resume_reading() is None
        assert transport.is_reading()
        await protocol.has_bytes(8)
        assert protocol.received == b"patience"


@on_loop
async def test_eof_waits_while_reading_is_paused(loop):
    protocol = Recorder()
    async with wired(loop, protocol) as (transport, peer):
        transport.pause_reading()
        peer.send(b"end")
        peer.close()
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert protocol.events == ["made"]
        transport.resume_reading()
        await protocol.has("lost")
        assert protocol.events == ["made", "data", "eof", "lost"]


@on_loop
async def test_pausing_and_resuming_twice_changes_nothing(loop):
    protocol = Recorder()
    async with wired(loop, protocol) as (transport, peer):
        transport.resume_reading()
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        assert transport.is_reading()
        transport.resume_reading()
        peer.send(b"x")
        await protocol.has_bytes(1)


@on_loop
async def test_pausing_in_connection_made_holds_the_first_bytes_back(loop):
    class Shy(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    near, far = connected_pair()
    with far:
        far.send(b"already here")
        transport, protocol = await loop.create_connection(Shy, sock=near)
        assert not transport.is_reading()
        for _ in range(10):
            await asyncio.sleep(0)
        assert protocol.events == ["made"]
        transport.resume_reading()
        await protocol.has_bytes(12)
        await closed(transport)


@protocols
@on_loop
async def test_pausing_within_a_callback_holds_the_rest_back(loop, protocol_class):
    class Sipping(protocol_class):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    protocol = Sipping()
    async with wired(loop, protocol) as (transport, peer):
        peer.send(b"one")
        await protocol.has_bytes(3)
        peer.send(b"two")
        for _ in range(10):
            await asyncio.sleep(0)
        assert protocol.received == b"one"
        transport.resume_reading()
        await protocol.has_bytes(6)


@on_loop
async def test_a_closing_transport_is_not_reading(loop):
    async with wired(loop, Recorder(), **SMALL_BUFFERS) as (transport, _):
        transport.write(LARGE)
        transport.close()
        assert not transport.is_reading()
        transport.resume_reading()
        assert not transport.is_reading()
        transport.pause_reading()


@on_loop
async def test_writing_goes_on_while_reading_is_paused(loop):
    async with wired(loop, Recorder(), **SMALL_BUFFERS) as (transport, peer):
        transport.pause_reading()
        transport.write(LARGE)
        assert await read_exactly(loop, peer, len(LARGE)) == LARGE
        assert not transport.is_reading()


# Random cuts


async def send_in_random_parts(transport, protocol, payload, chance):
    """Write `payload` in parts of random size and kind, and stop wherever it is told to."""
    rest = memoryview(payload)
    while rest:
        if protocol.events.count("pause") > protocol.events.count("resume"):
            await until(lambda: protocol.events.count("pause") == protocol.events.count("resume"))
        size = chance.choice([1, 10, 1000, 5000, 40_000, 200_000])
        part, rest = rest[:size], rest[size:]
        way = chance.randrange(4)
        if way == 0:
            transport.write(bytes(part))
        elif way == 1:
            transport.write(bytearray(part))
        elif way == 2:
            transport.write(part)
        else:
            middle = chance.randrange(len(part) + 1)
            transport.writelines([piece for piece in (part[:middle], part[middle:]) if piece])
        if chance.random() < 0.2:
            await asyncio.sleep(0)


async def pause_at_random(transport, chance, done):
    """Pause and resume reading until `done`, always leaving it resumed."""
    while not done():
        transport.pause_reading()
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        transport.resume_reading()
        await asyncio.sleep(chance.choice([0, 0, 0.001]))


@pytest.mark.parametrize("seed", range(4))
@protocols
@on_loop
async def test_bytes_arrive_whole_and_in_order_whatever_the_cuts(loop, protocol_class, seed):
    chance = random.Random(seed)
    sender, receiver = Recorder(), protocol_class()
    receiver.size = chance.choice([4096, 65536])
    near, far = connected_pair(**SMALL_BUFFERS)
    transport, _ = await loop.create_connection(lambda: sender, sock=near)
    other, _ = await loop.create_connection(lambda: receiver, sock=far)
    transport.set_write_buffer_limits(high=chance.choice([0, 100, 30_000, 300_000]))
    payload = chance.randbytes(1_000_000)

    pausing = asyncio.ensure_future(
        pause_at_random(other, chance, lambda: len(receiver.received) == len(payload))
    )
    await send_in_random_parts(transport, sender, payload, chance)
    transport.close()
    await receiver.has("lost")
    await pausing
    assert receiver.received == payload
    assert receiver.events == ["made", "data", "eof", "lost"]
    assert sender.events[-1] == "lost"
    await closed(transport)
    await closed(other)


@pytest.mark.parametrize("seed", range(3))
@on_loop
async def test_both_directions_at_once_whatever_the_cuts(loop, seed):
    chance = random.Random(seed)
    pair = connected_pair(**SMALL_BUFFERS)
    ends = [await loop.create_connection(Recorder, sock=sock) for sock in pair]
    (first, first_protocol), (second, second_protocol) = ends
    payloads = [chance.randbytes(300_000) for _ in ends]
    await asyncio.gather(
        send_in_random_parts(first, first_protocol, payloads[0], chance),
        send_in_random_parts(second, second_protocol, payloads[1], chance),
    )
    await first_protocol.has_bytes(300_000)
    await second_protocol.has_bytes(300_000)
    assert second_protocol.received == payloads[0]
    assert first_protocol.received == payloads[1]
    for transport, _ in ends:
        await closed(transport)
