"""add_reader, add_writer and their removal: what the loop tells about bare descriptors.

Run by pytest on asyncio and on aioxide.  Transports and sock_* calls, which also watch
descriptors, have modules of their own.
"""

import asyncio
import contextlib
import contextvars
import os
import re
import socket

import pytest
from loopback import Recorder, on_loop, pair_at, read_exactly, socket_pair, until, wired


def unwatch(loop, *descriptors):
    """Forget every watcher of these descriptors before they are closed."""
    for descriptor in descriptors:
        loop.remove_reader(descriptor)
        loop.remove_writer(descriptor)


@on_loop
async def test_reader_runs_when_bytes_arrive(loop):
    with socket_pair() as (near, far):
        got = loop.create_future()
        assert loop.add_reader(near, got.set_result, "readable") is None
        await asyncio.sleep(0)
        assert not got.done()
        far.send(b"x")
        assert await got == "readable"
        assert loop.remove_reader(near) is True


@on_loop
async def test_writer_runs_when_there_is_room(loop):
    with socket_pair() as (near, _):
        got = loop.create_future()
        assert loop.add_writer(near, lambda: got.done() or got.set_result("writable")) is None
        assert await got == "writable"
        assert loop.remove_writer(near) is True


@pytest.mark.parametrize("kind", ["reader", "writer"])
@on_loop
async def test_removal_says_whether_there_was_one(loop, kind):
    add, remove = getattr(loop, f"add_{kind}"), getattr(loop, f"remove_{kind}")
    with socket_pair() as (near, _):
        assert remove(near) is False
        add(near, lambda: None)
        assert remove(near) is True
        assert remove(near) is False
        assert remove(near.fileno()) is False


@on_loop
async def test_reader_and_writer_of_one_descriptor_are_independent(loop):
    with socket_pair() as (near, far):
        seen = set()
        loop.add_reader(near, seen.add, "read")
        loop.add_writer(near, seen.add, "write")
        far.send(b"x")
        await until(lambda: seen == {"read", "write"})
        assert loop.remove_reader(near) is True
        seen.clear()
        await until(lambda: seen == {"write"})
        loop.add_reader(near, seen.add, "read")
        assert loop.remove_writer(near) is True
        seen.clear()
        await until(lambda: seen == {"read"})
        assert loop.remove_writer(near) is False
        assert loop.remove_reader(near) is True


@on_loop
async def test_readiness_is_level_triggered(loop):
    """A reader that takes one byte of five is called for the other four too."""
    with socket_pair() as (near, far):
        taken = []
        loop.add_reader(near, lambda: taken.append(near.recv(1)))
        far.send(b"abcde")
        await until(lambda: len(taken) == 5)
        assert b"".join(taken) == b"abcde"
        assert loop.remove_reader(near) is True


@on_loop
async def test_a_reader_that_reads_nothing_is_called_again_and_again(loop):
    with socket_pair() as (near, far):
        calls = []
        loop.add_reader(near, calls.append, None)
        far.send(b"x")
        await until(lambda: len(calls) >= 10)
        assert loop.remove_reader(near) is True
        assert near.recv(2) == b"x"


@on_loop
async def test_eof_and_reset_make_a_descriptor_readable(loop):
    with socket_pair() as (near, far):
        got = loop.create_future()
        loop.add_reader(near, lambda: got.done() or got.set_result(near.recv(10)))
        far.shutdown(socket.SHUT_WR)
        assert await got == b""
        assert loop.remove_reader(near) is True


@on_loop
async def test_the_second_callback_replaces_the_first(loop):
    with socket_pair() as (near, far):
        seen = []
        loop.add_reader(near, seen.append, "first")
        loop.add_reader(near, seen.append, "second")
        far.send(b"x")
        await until(lambda: seen)
        assert set(seen) == {"second"}
        assert loop.remove_reader(near) is True
        assert loop.remove_reader(near) is False

        seen.clear()
        loop.add_writer(near, seen.append, "first")
        loop.add_writer(near, seen.append, "second")
        await until(lambda: seen)
        assert set(seen) == {"second"}
        assert loop.remove_writer(near) is True


@on_loop
async def test_a_callback_removed_in_the_same_turn_does_not_run(loop):
    """Two descriptors become ready at once; whoever runs first removes the other."""
    with socket_pair() as (near, far), socket_pair() as (other, away):
        ran = []

        def first(me, rival):
            ran.append(me)
            loop.remove_reader(rival)
            loop.remove_reader(me)

        loop.add_reader(near, first, near, other)
        loop.add_reader(other, first, other, near)
        far.send(b"x")
        away.send(b"x")
        await until(lambda: ran)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(ran) == 1


@on_loop
async def test_integers_and_socket_objects_name_the_same_descriptor(loop):
    with socket_pair() as (near, far):
        got = loop.create_future()
        loop.add_reader(near.fileno(), lambda: got.done() or got.set_result(True))
        far.send(b"x")
        await got
        assert loop.remove_reader(near) is True
        loop.add_writer(near, lambda: None)
        assert loop.remove_writer(near.fileno()) is True


@on_loop
async def test_any_object_with_fileno_will_do(loop):
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", 0) as reader, os.fdopen(write_end, "wb", 0) as writer:
        got = loop.create_future()
        loop.add_reader(reader, lambda: got.done() or got.set_result(reader.read(10)))
        writer.write(b"through a pipe")
        assert await got == b"through a "
        assert loop.remove_reader(reader) is True


@on_loop
async def test_callback_runs_in_the_context_of_its_add(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    with socket_pair() as (near, _):
        got = loop.create_future()
        variable.set("at add")
        loop.add_writer(near, lambda: got.done() or got.set_result(variable.get()))
        variable.set("later")
        assert await got == "at add"
        assert loop.remove_writer(near) is True


@on_loop
async def test_an_error_in_a_callback_is_reported_and_the_watch_goes_on(loop, loop_errors):
    with socket_pair() as (near, far):
        calls = []

        def fail():
            calls.append(near.recv(1))
            raise ZeroDivisionError("in a reader")

        loop.add_reader(near, fail)
        far.send(b"ab")
        await until(lambda: len(calls) == 2)
        await until(lambda: len(loop_errors) == 2)
        for context in loop_errors.take():
            assert isinstance(context["exception"], ZeroDivisionError)
            assert context["message"].startswith("Exception in callback ")
            assert "fail()" in context["message"]
            assert isinstance(context["handle"], asyncio.Handle)
        assert loop.remove_reader(near) is True


@pytest.mark.parametrize("kind", ["add_reader", "add_writer"])
def test_regular_file_is_refused(loop, tmp_path, kind):
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(PermissionError):
            getattr(loop, kind)(file, print)
        assert loop.remove_reader(file) is False
        assert loop.remove_writer(file) is False


@pytest.mark.parametrize("kind", ["add_reader", "add_writer"])
def test_closed_descriptor_number_is_refused(loop, kind):
    with socket_pair() as (near, _):
        number = near.fileno()
    with pytest.raises(OSError) as caught:
        getattr(loop, kind)(number, print)
    assert caught.value.errno == 9


@pytest.mark.parametrize("name", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
@pytest.mark.parametrize("thing", [None, "3", 1.5, object()])
def test_what_is_no_descriptor_is_refused(loop, name, thing):
    arguments = (print,) if name.startswith("add") else ()
    with pytest.raises(ValueError, match=re.escape(f"Invalid file object: {thing!r}")):
        getattr(loop, name)(thing, *arguments)


@pytest.mark.parametrize("name", ["add_reader", "add_writer"])
def test_closed_socket_object_is_refused(loop, name):
    with socket_pair() as (near, _):
        pass
    with pytest.raises(ValueError, match="-1"):
        getattr(loop, name)(near, print)


@pytest.mark.parametrize("kind", ["reader", "writer"])
@on_loop
async def test_a_socket_closed_too_early_is_still_found(loop, kind):
    add, remove = getattr(loop, f"add_{kind}"), getattr(loop, f"remove_{kind}")
    with socket_pair() as (near, _):
        add(near, print)
        near.close()
        assert remove(near) is True
        with pytest.raises(ValueError, match="-1"):
            remove(near)


@pytest.mark.parametrize("name", ["add_reader", "add_writer"])
def test_callback_is_required(loop, name):
    with socket_pair() as (near, _):
        with pytest.raises(TypeError):
            getattr(loop, name)(near)


@on_loop
async def test_descriptor_of_a_transport_is_refused(loop):
    async with wired(loop, Recorder()) as (transport, peer):
        sock = transport.get_extra_info("socket")
        for name in ("add_reader", "add_writer", "remove_reader", "remove_writer"):
            arguments = (print,) if name.startswith("add") else ()
            for descriptor in (sock, sock.fileno()):
                expected = f"File descriptor {descriptor!r} is used by transport "
                with pytest.raises(RuntimeError) as caught:
                    getattr(loop, name)(descriptor, *arguments)
                assert str(caught.value).startswith(expected)
        transport.write(b"undisturbed")
        assert await read_exactly(loop, peer, 11) == b"undisturbed"


@pytest.mark.parametrize("name", ["add_reader", "add_writer"])
def test_closed_loop_refuses(loop, name):
    with socket_pair() as (near, _):
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            getattr(loop, name)(near, print)


@pytest.mark.parametrize("name", ["remove_reader", "remove_writer"])
def test_closed_loop_has_nothing_to_remove(loop, name):
    with socket_pair() as (near, _):
        loop.close()
        assert getattr(loop, name)(near) is False


@on_loop
async def test_a_reused_number_hears_only_its_own_news(loop):
    """Bytes wait on a descriptor that is closed and whose number its successor takes."""
    for _ in range(20):
        calls = []
        with socket_pair() as (near, far):
            number = near.fileno()
            loop.add_reader(near, calls.append, "predecessor")
            far.send(b"old")
            loop.remove_reader(near)
            near.close()
            with pair_at(number) as (successor, away):
                loop.add_reader(successor, calls.append, "successor")
                for _ in range(3):
                    await asyncio.sleep(0)
                assert calls == []
                away.send(b"new")
                await until(lambda calls=calls: calls)
                assert set(calls) == {"successor"}
                assert successor.recv(10) == b"new"
                assert loop.remove_reader(successor) is True


@on_loop
async def test_readiness_collected_for_the_predecessor_is_not_given_to_the_successor(loop):
    """Both are ready in one turn; the first callback closes the second and reuses its number."""
    with (
        socket_pair() as (near, far),
        socket_pair() as (other, away),
        contextlib.ExitStack() as opened,
    ):
        ran = []

        def reuse(me, rival):
            loop.remove_reader(me)
            if not loop.remove_reader(rival):
                return
            number = rival.fileno()
            rival.close()
            successor, _ = opened.enter_context(pair_at(number))
            loop.add_reader(successor, ran.append, "successor")
            opened.callback(loop.remove_reader, successor)
            ran.append("reused")

        loop.add_reader(near, reuse, near, other)
        loop.add_reader(other, reuse, other, near)
        far.send(b"x")
        away.send(b"x")
        await until(lambda: ran)
        for _ in range(5):
            await asyncio.sleep(0)
        assert ran == ["reused"]


@on_loop
async def test_many_descriptors_each_hear_their_own_bytes(loop):
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(socket_pair()) for _ in range(100)]
        heard = {}
        for number, (near, far) in enumerate(pairs):

            def read(number=number, near=near):
                heard[number] = near.recv(100)
                loop.remove_reader(near)

            loop.add_reader(near, read)
            far.send(b"for %d" % number)
        await until(lambda: len(heard) == 100)
        assert heard == {number: b"for %d" % number for number in range(100)}


def test_watchers_left_behind_do_not_outlive_the_loop(loop):
    with socket_pair() as (near, far):
        calls = []
        loop.add_reader(near, calls.append, None)
        loop.add_writer(far, calls.append, None)
        loop.close()
        assert calls == []
        far.send(b"still a good descriptor")
        assert near.recv(100) == b"still a good descriptor"


@on_loop
async def test_watching_does_not_change_the_descriptor(loop):
    """The loop watches; it neither closes the descriptor nor makes it non-blocking."""
    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, print)
        assert near.getblocking() is True
        assert loop.remove_reader(near) is True
        unwatch(loop, far)
        far.send(b"x")
        assert near.recv(1) == b"x"
