"""`asyncio.subprocess` on the loop: streams, communicate, and a cancel in each of their awaits.

Run by pytest on asyncio and on aioxide. Each test must leave no child, running or not.
"""

import asyncio
import gc
import os
import signal
import sys

import pytest
from loopback import on_loop, until
from offspring import has_children, no_child_is_left

__all__ = ("no_child_is_left",)

PIPE = asyncio.subprocess.PIPE
LARGE = bytes(range(256)) * 40_000  # 10 MB


async def cat():
    """A child that repeats what it is told, and stays until it is told no more."""
    return await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)


async def finished(child):
    """The child is gone and its transport has given everything up."""
    await child.wait()
    await until(lambda: child._transport._proc is None)


async def cancelled(awaitable, *, turns=1):
    """Cancels `awaitable` after some turns of the loop, and lets the cancel arrive."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(turns):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_loop
async def test_streams_carry_a_conversation(loop):
    child = await cat()
    for line in (b"first\n", b"second\n"):
        child.stdin.write(line)
        await child.stdin.drain()
        assert await child.stdout.readline() == line
    assert child.returncode is None
    child.stdin.close()
    await child.stdin.wait_closed()
    assert await child.stdout.read() == b""
    assert await child.wait() == 0
    assert child.returncode == 0


@on_loop
async def test_communicate_carries_much_both_ways(loop):
    child = await cat()
    printed, errors = await child.communicate(LARGE)
    assert printed == LARGE
    assert errors is None
    assert child.returncode == 0


@on_loop
async def test_communicate_reads_both_outputs_at_once(loop):
    code = "import os; [os.write(fd, bytes(100_000)) for _ in range(10) for fd in (1, 2)]"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-ISc", code, stdout=PIPE, stderr=PIPE
    )
    printed, errors = await child.communicate()
    assert (len(printed), len(errors)) == (1_000_000, 1_000_000)


@on_loop
async def test_communicate_ignores_a_child_that_does_not_read(loop):
    child = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    assert await child.communicate(LARGE) == (b"", None)
    assert child.returncode == 0


@on_loop
async def test_a_child_that_closes_its_stdin_breaks_the_pipe(loop):
    child = await asyncio.create_subprocess_shell(
        "exec <&-; echo closed; exec sleep 1000", stdin=PIPE, stdout=PIPE
    )
    assert await child.stdout.readline() == b"closed\n"
    child.stdin.write(LARGE)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await child.stdin.drain()
    child.kill()
    await finished(child)


@on_loop
async def test_a_slow_reader_slows_the_child(loop):
    """What nobody reads stays in the pipe: the transport stops reading at twice the limit."""
    child = await asyncio.create_subprocess_exec("yes", stdout=PIPE, limit=1000)
    transport = child._transport.get_pipe_transport(1)
    await until(lambda: not transport.is_reading())
    buffered = len(child.stdout._buffer)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert len(child.stdout._buffer) == buffered < 1_000_000
    assert await child.stdout.readline() == b"y\n"
    child.kill()
    await child.stdout.read()
    await finished(child)


@on_loop
async def test_a_line_beyond_the_limit_says_what_was_exceeded(loop):
    child = await cat()
    child.stdin.write(b"x" * 70_000 + b"\nnext\n")
    with pytest.raises(ValueError, match=r"^Separator is (not )?found, (but|and) chunk .* limit$"):
        await child.stdout.readline()
    child.stdin.close()
    await child.stdout.read()
    await finished(child)
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, limit=100_000)
    child.stdin.write(b"x" * 70_000 + b"\n")
    assert len(await child.stdout.readline()) == 70_001
    child.stdin.close()
    await finished(child)


@on_loop
async def test_many_may_wait(loop):
    child = await asyncio.create_subprocess_exec("sleep", "1000")
    waiting = [asyncio.ensure_future(child.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    child.terminate()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert type(results.pop(3)) is asyncio.CancelledError
    assert results == [-signal.SIGTERM] * 9
    assert await child.wait() == -signal.SIGTERM


# Cancelled


@pytest.mark.parametrize("streams", [{}, {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}])
@on_loop
async def test_a_cancelled_start_leaves_no_child(loop, streams):
    await cancelled(asyncio.create_subprocess_exec("sleep", "1000", **streams))
    await until(lambda: not has_children())
    for _ in range(3):  # asyncio's pipes are closed in the turns after.
        await asyncio.sleep(0)


@on_loop
async def test_a_start_cancelled_twice_leaves_no_child(loop):
    task = asyncio.ensure_future(asyncio.create_subprocess_exec("sleep", "1000", stdout=PIPE))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not has_children())
    for _ in range(3):
        await asyncio.sleep(0)


@on_loop
async def test_a_cancelled_wait_leaves_the_child_running(loop):
    child = await cat()
    await cancelled(child.wait())
    assert child.returncode is None
    child.stdin.close()
    await finished(child)
    assert child.returncode == 0


@on_loop
async def test_a_cancelled_read_loses_nothing(loop):
    child = await cat()
    await cancelled(child.stdout.readline())
    child.stdin.write(b"half")
    await until(lambda: child.stdout._buffer)
    await cancelled(child.stdout.readline())
    child.stdin.write(b" and half\n")
    assert await child.stdout.readline() == b"half and half\n"
    child.stdin.close()
    await finished(child)


@on_loop
async def test_a_cancelled_drain_loses_nothing(loop):
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, limit=2**24)
    child.send_signal(signal.SIGSTOP)
    child.stdin.write(LARGE)
    await cancelled(child.stdin.drain())
    child.send_signal(signal.SIGCONT)
    await child.stdin.drain()
    child.stdin.close()
    assert await child.stdout.read() == LARGE
    await finished(child)


@pytest.mark.parametrize("given", [None, LARGE])
@on_loop
async def test_a_cancelled_communicate_leaves_a_child_that_can_be_killed(loop, given):
    child = await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE)
    await cancelled(child.communicate(given), turns=3)
    assert child.returncode is None
    child.kill()
    await finished(child)
    assert child.returncode == -signal.SIGKILL


@on_loop
async def test_a_timeout_around_communicate_ends_in_time(loop):
    child = await asyncio.create_subprocess_exec("sleep", "1000", stdout=PIPE)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await child.communicate()
    child.kill()
    await finished(child)


def test_a_run_that_ends_while_a_child_starts_does_not_hang(namespace, run_child):
    """The cancel of all tasks at the end of a run meets a start half done (CPython gh-125502)."""
    if namespace is asyncio:
        pytest.skip("asyncio hangs here until 3.13.1")
    done = run_child("""
        import os

        async def start():
            child = await asyncio.create_subprocess_exec("sleep", "1000", stdout=-1)
            await child.communicate()

        async def main(turns):
            task = asyncio.ensure_future(start())
            for _ in range(turns):
                await asyncio.sleep(0)

        for turns in range(6):
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main(turns))
            import gc, warnings
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
        print("done")
    """)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@on_loop
async def test_descriptors_do_not_add_up(loop):
    async def use():
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await child.communicate(b"x")
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/missing", stdin=PIPE, stdout=PIPE)
        await cancelled(asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE))
        await until(lambda: not has_children())
        for _ in range(3):
            await asyncio.sleep(0)

    await use()
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        await use()
    gc.collect()
    assert os.listdir("/proc/self/fd") == before
