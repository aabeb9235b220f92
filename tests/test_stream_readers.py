"""`StreamReader` by itself: what each read gives, when it waits, and what cancelling it leaves.

Run by pytest on asyncio and on aioxide. The bytes come from the tests, by `feed_data`; streams
over connections are in test_streams_tcp.py and test_stream_connections.py.
"""

import asyncio
import random
from unittest import mock

import pytest
from loopback import on_loop

SIXTY_FOUR_KIB = 2**16


@pytest.fixture
def reader(loop, namespace):
    return namespace.StreamReader(loop=loop)


def at_once(coroutine):
    """What a coroutine returns that has nothing to wait for: at its first step."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("it waited")


def waits(coroutine):
    """Start a coroutine that has to wait; whatever drives it is left to the caller."""
    coroutine.send(None)
    return coroutine


# What is there


def test_reading_what_is_there_takes_no_turn_of_the_loop(reader):
    reader.feed_data(b"one\ntwo;exact!rest")
    assert at_once(reader.readline()) == b"one\n"
    assert at_once(reader.readuntil(b";")) == b"two;"
    assert at_once(reader.readexactly(6)) == b"exact!"
    assert at_once(reader.read(2)) == b"re"
    assert at_once(reader.read(100)) == b"st"
    assert at_once(reader.read(0)) == b""
    assert at_once(reader.readexactly(0)) == b""


def test_what_is_read_is_bytes_whatever_was_fed(reader):
    for data in (b"bytes", bytearray(b"array"), memoryview(b"view")):
        reader.feed_data(data)
        got = at_once(reader.read(100))
        assert type(got) is bytes
        assert got == bytes(data)


def test_a_fed_array_that_changes_later_does_not_change_what_is_read(reader):
    data = bytearray(b"before")
    reader.feed_data(data)
    data[:] = b"after!"
    assert at_once(reader.read(100)) == b"before"


def test_the_end(reader):
    reader.feed_data(b"last")
    reader.feed_eof()
    assert not reader.at_eof()
    assert at_once(reader.read()) == b"last"
    assert reader.at_eof()
    assert at_once(reader.read()) == b""
    assert at_once(reader.read(1)) == b""
    assert at_once(reader.readline()) == b""
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        at_once(reader.readexactly(3))
    assert (caught.value.partial, caught.value.expected) == (b"", 3)
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        at_once(reader.readuntil(b"x"))
    assert (caught.value.partial, caught.value.expected) == (b"", None)
    with pytest.raises(AssertionError, match="feed_data after feed_eof"):
        reader.feed_data(b"more")


def test_an_incomplete_read_takes_what_there_is(reader):
    reader.feed_data(b"part")
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        at_once(reader.readexactly(10))
    assert (caught.value.partial, caught.value.expected) == (b"part", 10)
    assert reader.at_eof()


@on_loop
async def test_lines_without_an_end_come_last(loop, reader):
    reader.feed_data(b"a\n\nb")
    reader.feed_eof()
    assert [line async for line in reader] == [b"a\n", b"\n", b"b"]


def test_wrong_arguments_are_told_when_awaited(reader):
    for coroutine, error in (
        (reader.readexactly(-1), "readexactly size can not be less than zero"),
        (reader.readuntil(b""), "Separator should be at least one-byte string"),
    ):
        with pytest.raises(ValueError, match=error):
            at_once(coroutine)


def test_a_limit_must_be_positive(loop, namespace):
    for limit in (0, -1):
        with pytest.raises(ValueError, match="Limit cannot be <= 0"):
            namespace.StreamReader(limit=limit, loop=loop)
    assert namespace.StreamReader(limit=2**80, loop=loop).at_eof() is False


# Separators


def test_several_separators(reader, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio takes several separators from 3.13 on")
    reader.feed_data(b"a,b;c\r\nd")
    assert at_once(reader.readuntil((b";", b","))) == b"a,"
    assert at_once(reader.readuntil((b"\r\n", b";"))) == b"b;"
    assert at_once(reader.readuntil((b"\n", b"\r\n"))) == b"c\r\n"
    for separators, error in (((), "at least one element"), ((b"x", b""), "at least one-byte")):
        with pytest.raises(ValueError, match=error):
            at_once(reader.readuntil(separators))


def test_the_shortest_answer_wins(reader, behaves_as):
    if not behaves_as(3, 13):
        pytest.skip("asyncio takes several separators from 3.13 on")
    reader.feed_data(b"xxABCDyy")
    assert at_once(reader.readuntil((b"ABCD", b"BC"))) == b"xxABC"


@on_loop
async def test_a_separator_that_comes_in_pieces(loop, reader):
    reading = asyncio.ensure_future(reader.readuntil(b"<end>"))
    for byte in b"<en<endd<end>rest":
        await asyncio.sleep(0)
        reader.feed_data(bytes([byte]))
    assert await reading == b"<en<endd<end>"
    assert at_once(reader.read(10)) == b"rest"


# Limits


def test_a_line_that_is_too_long_is_dropped(loop, namespace):
    reader = namespace.StreamReader(limit=5, loop=loop)
    reader.feed_data(b"123456\nok\n")
    with pytest.raises(ValueError, match="Separator is found, but chunk is longer than limit"):
        at_once(reader.readline())
    assert at_once(reader.readline()) == b"ok\n"
    reader.feed_data(b"1234567")
    with pytest.raises(ValueError, match="Separator is not found, and chunk exceed the limit"):
        at_once(reader.readline())
    assert at_once(reader.read(0)) == b""
    reader.feed_data(b"12345\n")
    assert at_once(reader.readline()) == b"12345\n"


def test_readuntil_leaves_what_is_too_long(loop, namespace):
    reader = namespace.StreamReader(limit=5, loop=loop)
    reader.feed_data(b"123456;")
    with pytest.raises(asyncio.LimitOverrunError, match="is found") as caught:
        at_once(reader.readuntil(b";"))
    assert caught.value.consumed == 6
    assert at_once(reader.readexactly(7)) == b"123456;"
    reader.feed_data(b"1234567")
    with pytest.raises(asyncio.LimitOverrunError, match="is not found") as caught:
        at_once(reader.readuntil(b"ab"))
    assert caught.value.consumed == 6
    assert at_once(reader.read(100)) == b"1234567"


def test_the_error_of_a_limit_says_how_to_raise_it(loop, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio does not say it")
    reader = namespace.StreamReader(limit=5, loop=loop)
    reader.feed_data(b"1234567\n")
    with pytest.raises(ValueError, match=r"limit of 5 bytes: give .* a larger limit="):
        at_once(reader.readline())


def test_a_transport_is_paused_above_twice_the_limit(loop, namespace):
    reader = namespace.StreamReader(limit=10, loop=loop)
    transport = mock.Mock()
    reader.set_transport(transport)
    reader.feed_data(b"x" * 20)
    assert not transport.pause_reading.called
    reader.feed_data(b"x")
    assert transport.pause_reading.call_count == 1
    reader.feed_data(b"x")
    assert transport.pause_reading.call_count == 1
    assert at_once(reader.read(11)) == b"x" * 11
    assert not transport.resume_reading.called
    assert at_once(reader.read(1)) == b"x"
    assert transport.resume_reading.call_count == 1


def test_a_transport_that_cannot_pause_is_not_asked_again(loop, namespace):
    reader = namespace.StreamReader(limit=1, loop=loop)
    transport = mock.Mock()
    transport.pause_reading.side_effect = NotImplementedError
    reader.set_transport(transport)
    reader.feed_data(b"abc")
    reader.feed_data(b"def")
    assert transport.pause_reading.call_count == 1
    assert at_once(reader.read(10)) == b"abcdef"


@on_loop
async def test_one_who_waits_for_more_than_the_limit_is_not_left_waiting(loop, namespace):
    reader = namespace.StreamReader(limit=10, loop=loop)
    transport = mock.Mock()
    reader.set_transport(transport)
    reader.feed_data(b"x" * 21)
    assert transport.pause_reading.called
    reading = asyncio.ensure_future(reader.readexactly(1000))
    await asyncio.sleep(0)
    assert transport.resume_reading.call_count == 1
    for _ in range(99):
        reader.feed_data(b"x" * 10)
        await asyncio.sleep(0)
    assert await reading == b"x" * 1000


# Waiting


READS = {
    "read": lambda reader: reader.read(4),
    "readline": lambda reader: reader.readline(),
    "readuntil": lambda reader: reader.readuntil(b"\n"),
    "readexactly": lambda reader: reader.readexactly(4),
    "anext": lambda reader: anext(reader),
}


@pytest.mark.parametrize("kind", READS)
@on_loop
async def test_a_read_waits_for_bytes(loop, reader, kind):
    reading = asyncio.ensure_future(READS[kind](reader))
    await asyncio.sleep(0)
    assert not reading.done()
    reader.feed_data(b"abc\n")
    assert await reading == b"abc\n"


@pytest.mark.parametrize("kind", READS)
@on_loop
async def test_cancelling_a_read_loses_nothing(loop, reader, kind):
    for early in (False, True):
        reading = asyncio.ensure_future(READS[kind](reader))
        await asyncio.sleep(0)
        if early:
            reader.feed_data(b"ab")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        if not early:
            reader.feed_data(b"ab")
        reader.feed_data(b"c\n")
        assert at_once(READS[kind](reader)) == b"abc\n"


@pytest.mark.parametrize("kind", READS)
@on_loop
async def test_cancelling_a_read_that_has_its_bytes_already_loses_nothing(loop, reader, kind):
    reading = asyncio.ensure_future(READS[kind](reader))
    await asyncio.sleep(0)
    reader.feed_data(b"abc\n")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert at_once(READS[kind](reader)) == b"abc\n"


@on_loop
async def test_cancelling_a_read_of_everything_loses_nothing(loop, reader, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio loses what came until then")
    reading = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    reader.feed_data(b"a" * 3 * SIXTY_FOUR_KIB)
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    reader.feed_eof()
    assert len(at_once(reader.read())) == 3 * SIXTY_FOUR_KIB


@pytest.mark.parametrize("kind", READS)
@on_loop
async def test_two_tasks_cannot_wait_at_once(loop, reader, kind):
    first = asyncio.ensure_future(reader.read(4))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="called while another coroutine is already waiting"):
        await READS[kind](reader)
    reader.feed_data(b"1234")
    assert await first == b"1234"


@on_loop
async def test_one_who_is_woken_for_bytes_that_another_took_waits_on(loop, reader, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio's read() returns b'', as if the stream had ended")
    first = asyncio.ensure_future(reader.read(4))
    await asyncio.sleep(0)
    reader.feed_data(b"1")
    assert at_once(reader.read(4)) == b"1"
    await asyncio.sleep(0)
    assert not first.done()
    reader.feed_data(b"2")
    assert await first == b"2"


@on_loop
async def test_one_who_was_cancelled_does_not_take_the_place_of_the_next(loop, reader, namespace):
    if namespace is asyncio:
        pytest.skip("in asyncio the next one is never woken")
    first = asyncio.ensure_future(reader.readexactly(4))
    await asyncio.sleep(0)
    reader.feed_data(b"1234")
    assert at_once(reader.read(4)) == b"1234"
    second = waits(reader.read(4))
    first.cancel()
    await asyncio.wait([first])
    assert reader._waiter is not None
    reader.feed_data(b"5678")
    assert at_once(second) == b"5678"


@pytest.mark.parametrize("kind", READS)
@on_loop
async def test_an_exception_ends_this_and_every_later_read(loop, reader, kind):
    reading = asyncio.ensure_future(READS[kind](reader))
    await asyncio.sleep(0)
    error = ConnectionResetError("gone")
    reader.set_exception(error)
    with pytest.raises(ConnectionResetError) as caught:
        await reading
    assert caught.value is error
    assert reader.exception() is error
    reader.feed_data(b"abc\n")
    with pytest.raises(ConnectionResetError):
        await READS[kind](reader)


@on_loop
async def test_the_end_wakes_who_waits(loop, reader):
    reading = asyncio.ensure_future(reader.read(4))
    await asyncio.sleep(0)
    reader.feed_eof()
    assert await reading == b""


@on_loop
async def test_the_pieces_of_one_message_wake_its_reader_once(loop, reader, namespace):
    if namespace is asyncio:
        pytest.skip("asyncio's wakes up for each piece")
    reading = asyncio.ensure_future(reader.readexactly(100))
    await asyncio.sleep(0)
    waiter = reader._waiter
    for _ in range(99):
        reader.feed_data(b"x")
        await asyncio.sleep(0)
        assert reader._waiter is waiter
    reader.feed_data(b"x")
    assert await reading == b"x" * 100


# What others look at


def test_a_reader_is_one_of_asyncios(reader):
    assert isinstance(reader, asyncio.StreamReader)
    coroutine = reader.read()
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()


def test_private_names(loop, namespace):
    reader = namespace.StreamReader(limit=100, loop=loop)
    assert (reader._limit, reader._loop, reader._eof, reader._waiter) == (100, loop, False, None)
    assert (reader._exception, reader._transport, reader._paused) == (None, None, False)
    reader.feed_data(b"unread")
    assert reader._buffer == b"unread"
    assert isinstance(reader._buffer, bytearray)
    reader._limit = 3
    reader.feed_data(b"\n")
    with pytest.raises(ValueError):
        at_once(reader.readline())
    reader.feed_eof()
    assert reader._eof is True


def test_the_buffer_is_the_buffer(loop, namespace):
    """Some programs peek into it, take from it, or put something back."""
    reader = namespace.StreamReader(loop=loop)
    reader.feed_data(b"one two")
    buffer = reader._buffer
    reader.feed_data(b" three")
    assert buffer == b"one two three"
    del buffer[:4]
    assert at_once(reader.readexactly(3)) == b"two"
    assert buffer == b" three"
    buffer[:0] = b"and"
    assert at_once(reader.read(100)) == b"and three"
    assert (buffer, reader.at_eof()) == (b"", False)
    reader._buffer = replaced = bytearray(b"line\nrest")
    assert at_once(reader.readline()) == b"line\n"
    assert replaced == b"rest"
    reader.feed_eof()
    replaced.clear()
    assert reader.at_eof()


@on_loop
async def test_a_connection_goes_on_after_a_look_into_its_buffer(loop, namespace):
    async def answer(reader, writer):
        assert reader._buffer == b""
        writer.write(await reader.readexactly(200_000))
        writer.close()

    server = await namespace.start_server(answer, "127.0.0.1", 0)
    reader, writer = await namespace.open_connection(*server.sockets[0].getsockname())
    assert reader._buffer == b""
    writer.write(bytes(200_000))
    received = await reader.read()
    assert (len(received), reader._buffer) == (200_000, b"")
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def test_how_a_reader_is_shown(loop, namespace):
    reader = namespace.StreamReader(loop=loop)
    assert repr(reader) == "<StreamReader>"
    reader.feed_data(b"data")
    reader.feed_eof()
    reader.set_exception(ValueError("v"))
    assert repr(reader) == "<StreamReader 4 bytes eof exception=ValueError('v')>"
    assert repr(namespace.StreamReader(limit=7, loop=loop)) == "<StreamReader limit=7>"


def test_a_class_derived_from_it(loop, namespace):
    class Counting(namespace.StreamReader):
        def __init__(self, name, **given):
            super().__init__(**given)
            self.name, self.fed = name, 0

        def feed_data(self, data):
            self.fed += len(data)
            super().feed_data(data)

    reader = Counting("mine", limit=10, loop=loop)
    reader.feed_data(b"abc")
    assert (reader.name, reader.fed, at_once(reader.read(3))) == ("mine", 3, b"abc")


@on_loop
async def test_what_a_derived_class_waits_with(loop, reader):
    waiting = asyncio.ensure_future(reader._wait_for_data("mine"))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"^mine\(\) called while another"):
        await reader._wait_for_data("mine")
    reader.feed_data(b"x")
    assert await waiting is None


def test_the_loop_is_the_current_one_unless_given(loop, namespace):
    async def make():
        return namespace.StreamReader()

    assert loop.run_until_complete(make())._loop is loop


# Against a model


class Model:
    """A reader that is a bytearray, with no waiting: what a read gives, or None if it waits."""

    def __init__(self, limit):
        self.data, self.ended, self.limit = bytearray(), False, limit

    def take(self, count):
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    def read(self, count):
        return self.take(count) if self.data or self.ended or not count else None

    def readexactly(self, count):
        if len(self.data) >= count:
            return self.take(count)
        return self.incomplete() if self.ended else None

    def readuntil(self, separator):
        place = self.data.find(separator)
        if place > self.limit or (place < 0 and self.beginning(separator) > self.limit):
            return asyncio.LimitOverrunError
        if place >= 0:
            return self.take(place + len(separator))
        return self.incomplete() if self.ended else None

    def beginning(self, separator):
        return max(0, len(self.data) + 1 - len(separator))

    def incomplete(self):
        self.data.clear()
        return asyncio.IncompleteReadError


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_reads_is_that_of_the_model(loop, namespace, seed):
    chance = random.Random(seed)
    limit = chance.choice([5, 40, SIXTY_FOUR_KIB])
    reader, model = namespace.StreamReader(limit=limit, loop=loop), Model(limit)
    waiting, expected_call = None, None
    for step in range(400):
        kind = chance.randrange(8)
        if kind < 4 and not model.ended:
            data = bytes(chance.choices(b"abc;\n", k=chance.choice([0, 1, 3, 20])))
            reader.feed_data(data)
            model.data += data
        elif step == 350:
            reader.feed_eof()
            model.ended = True
        elif waiting is not None and kind == 4:
            waiting.close()
            waiting = None
        elif waiting is None:
            name, argument = chance.choice(
                [
                    ("read", 3),
                    ("read", 50),
                    ("readexactly", 7),
                    ("readuntil", b";\n"),
                    ("readuntil", b"\n"),
                    ("readexactly", 0),
                ]
            )
            coroutine = getattr(reader, name)(argument)
            expected_call = (name, argument)
            waiting = settle(coroutine, getattr(model, name)(argument))
            continue
        if waiting is not None and reader._waiter is None:
            name, argument = expected_call
            waiting = settle(waiting, getattr(model, name)(argument))
    if waiting is not None:
        waiting.close()
    assert bytes(reader._buffer) == model.data


def settle(coroutine, expected):
    """Step the coroutine: it gives or raises what the model says, or waits as the model does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        assert end.value == expected
        return None
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        assert type(error) is expected
        return None
    assert expected is None
    return coroutine
