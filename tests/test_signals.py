"""Signals: handlers of the loop, Ctrl-C through Runner and without it, exits from handlers.

Run by pytest on asyncio and on aioxide.  What could end the test run happens in a child process.
"""

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from loopback import DEADLINE, on_loop, until

import aioxide

SIGNAL = signal.SIGUSR1


def raise_later(number, delay=0.1):
    """Send this process a signal from a thread, when the loop has had time to fall asleep."""
    thread = threading.Timer(delay, os.kill, (os.getpid(), number))
    thread.start()
    return thread


# Handlers of the loop


@on_loop
async def test_a_handler_runs_with_its_arguments(loop):
    got = loop.create_future()
    assert loop.add_signal_handler(SIGNAL, lambda *given: got.set_result(given), 1, "two") is None
    os.kill(os.getpid(), SIGNAL)
    assert await got == (1, "two")
    assert loop.remove_signal_handler(SIGNAL) is True


@on_loop
async def test_a_signal_wakes_an_idle_loop_at_once(loop):
    got = loop.create_future()
    loop.add_signal_handler(SIGNAL, lambda: got.set_result(time.monotonic()))
    thread = raise_later(SIGNAL)
    await got
    thread.join()
    assert loop.remove_signal_handler(SIGNAL) is True


@on_loop
async def test_removal_says_whether_there_was_one_and_restores_the_default(loop):
    assert loop.remove_signal_handler(SIGNAL) is False
    loop.add_signal_handler(SIGNAL, print)
    assert signal.getsignal(SIGNAL) is not signal.SIG_DFL
    assert loop.remove_signal_handler(SIGNAL) is True
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL
    assert loop.remove_signal_handler(SIGNAL) is False
    loop.add_signal_handler(signal.SIGINT, print)
    assert loop.remove_signal_handler(signal.SIGINT) is True
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@on_loop
async def test_the_second_handler_replaces_the_first(loop):
    seen = []
    loop.add_signal_handler(SIGNAL, seen.append, "first")
    loop.add_signal_handler(SIGNAL, seen.append, "second")
    os.kill(os.getpid(), SIGNAL)
    await until(lambda: seen)
    assert seen == ["second"]
    assert loop.remove_signal_handler(SIGNAL) is True
    assert loop.remove_signal_handler(SIGNAL) is False


@on_loop
async def test_different_signals_have_different_handlers(loop):
    seen = set()
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD)
    for number in numbers:
        loop.add_signal_handler(number, seen.add, number)
    for number in numbers:
        os.kill(os.getpid(), number)
    await until(lambda: len(seen) == len(numbers))
    for number in numbers:
        assert loop.remove_signal_handler(number) is True


@on_loop
async def test_a_signal_may_come_many_times(loop):
    seen = []
    loop.add_signal_handler(SIGNAL, seen.append, None)
    for count in range(1, 101):
        os.kill(os.getpid(), SIGNAL)
        await until(lambda count=count: len(seen) == count)
    assert loop.remove_signal_handler(SIGNAL) is True


def test_a_signal_before_the_loop_runs_is_not_lost(loop):
    got = loop.create_future()
    loop.add_signal_handler(SIGNAL, got.set_result, "kept")
    os.kill(os.getpid(), SIGNAL)
    assert loop.run_until_complete(asyncio.wait_for(got, DEADLINE)) == "kept"
    # The same between two runs.
    got = loop.create_future()
    loop.add_signal_handler(SIGNAL, got.set_result, "kept again")
    os.kill(os.getpid(), SIGNAL)
    assert loop.run_until_complete(asyncio.wait_for(got, DEADLINE)) == "kept again"
    assert loop.remove_signal_handler(SIGNAL) is True


def test_whoever_watches_for_signals_is_left_in_peace(loop):
    """Twisted's reactor sets a wake-up descriptor, and has the loop watch it."""
    signal.signal(SIGNAL, lambda number, frame: None)
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        got = loop.create_future()
        loop.add_reader(far, lambda: got.done() or got.set_result(far.recv(1)))
        signal.set_wakeup_fd(near.fileno())
        try:
            loop.call_soon(os.kill, os.getpid(), SIGNAL)
            number = loop.run_until_complete(asyncio.wait_for(got, DEADLINE))
            assert number == bytes([SIGNAL])
        finally:
            assert signal.set_wakeup_fd(-1) == near.fileno()
            signal.signal(SIGNAL, signal.SIG_DFL)
        loop.remove_reader(far)


def test_who_begins_to_watch_while_the_loop_runs_stays(loop):
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        loop.call_soon(signal.set_wakeup_fd, near.fileno())
        loop.run_until_complete(asyncio.sleep(0))
        assert signal.set_wakeup_fd(-1) == near.fileno()


@on_loop
async def test_real_time_signals_have_handlers(loop):
    seen = []
    numbers = (signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX)
    for number in numbers:
        loop.add_signal_handler(number, seen.append, number)
        os.kill(os.getpid(), number)
    await until(lambda: sorted(seen) == list(numbers))
    for number in numbers:
        assert loop.remove_signal_handler(number) is True


@on_loop
async def test_a_handler_of_sigchld_is_the_programs_own(loop):
    """As tornado's Subprocess has one; the loop's own children need none."""
    seen = []
    loop.add_signal_handler(signal.SIGCHLD, seen.append, "child")
    try:
        child = await asyncio.create_subprocess_exec("true")
        assert await child.wait() == 0
        await until(lambda: seen)
        other = subprocess.Popen(["true"])  # noqa: ASYNC220  # not the loop's
        await until(lambda: other.poll() is not None and len(seen) > 1)
        assert other.returncode == 0
    finally:
        assert loop.remove_signal_handler(signal.SIGCHLD) is True


@contextlib.contextmanager
def another_wakeup():
    """Somebody else's wake-up descriptor, as other event loops and libraries set one."""
    theirs, writing = socket.socketpair()
    with theirs, writing:
        theirs.setblocking(False)
        writing.setblocking(False)
        before = signal.set_wakeup_fd(writing.fileno())
        try:
            yield theirs, writing.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_another_wakeup_descriptor_is_there_again_after_a_run(loop):
    with another_wakeup() as (_, fd):
        loop.run_until_complete(asyncio.sleep(0))
        assert signal.set_wakeup_fd(fd) == fd


def test_another_wakeup_descriptor_hears_what_a_handler_hears():
    """asyncio takes its place for good; ours passes the signals on, and gives it back."""
    loop = aioxide.new_event_loop()
    with another_wakeup() as (theirs, fd):
        got = loop.create_future()
        loop.add_signal_handler(SIGNAL, got.set_result, "heard")
        os.kill(os.getpid(), SIGNAL)
        assert loop.run_until_complete(got) == "heard"
        assert theirs.recv(10) == bytes([SIGNAL])
        assert loop.remove_signal_handler(SIGNAL) is True
        assert signal.set_wakeup_fd(fd) == fd
    loop.close()


def test_another_wakeup_descriptor_closed_during_a_run_is_given_up(loop):
    theirs, writing = socket.socketpair()
    with theirs:
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno())
        loop.call_soon(writing.close)
        loop.run_until_complete(asyncio.sleep(0))
        signal.set_wakeup_fd(-1)


def test_closing_the_loop_removes_its_handlers(loop):
    loop.add_signal_handler(SIGNAL, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


@on_loop
async def test_a_handler_runs_in_the_context_of_its_add(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    got = loop.create_future()
    variable.set("at add")
    loop.add_signal_handler(SIGNAL, lambda: got.set_result(variable.get()))
    variable.set("later")
    os.kill(os.getpid(), SIGNAL)
    assert await got == "at add"
    assert loop.remove_signal_handler(SIGNAL) is True


@on_loop
async def test_an_error_in_a_handler_is_reported_and_the_handler_stays(loop, loop_errors):
    def fail():
        raise ZeroDivisionError("in a handler")

    loop.add_signal_handler(SIGNAL, fail)
    for count in (1, 2):
        os.kill(os.getpid(), SIGNAL)
        await until(lambda count=count: len(loop_errors) == count)
    for context in loop_errors.take():
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["message"].startswith("Exception in callback ")
    assert loop.remove_signal_handler(SIGNAL) is True


def test_python_s_own_handlers_run_while_the_loop_is_idle(loop):
    """As uvicorn and others set them, with signal.signal()."""
    got = loop.create_future()
    previous = signal.signal(
        SIGNAL, lambda number, frame: loop.call_soon_threadsafe(got.set_result, number)
    )
    try:
        thread = raise_later(SIGNAL)
        assert loop.run_until_complete(asyncio.wait_for(got, DEADLINE)) == SIGNAL
        thread.join()
    finally:
        signal.signal(SIGNAL, previous)


def test_an_error_from_python_s_own_handler_leaves_an_idle_loop(loop):
    def fail(number, frame):
        raise ZeroDivisionError("in a handler")

    previous = signal.signal(SIGNAL, fail)
    try:
        thread = raise_later(SIGNAL)
        with pytest.raises(ZeroDivisionError):
            loop.run_forever()
        thread.join()
        assert not loop.is_running()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        signal.signal(SIGNAL, previous)


# What is refused


@pytest.mark.parametrize("method", ["add_signal_handler", "remove_signal_handler"])
@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (100_000, ValueError, "invalid signal number 100000"),
        (0, ValueError, "invalid signal number 0"),
        (-1, ValueError, "invalid signal number -1"),
        ("SIGTERM", TypeError, "sig must be an int, not 'SIGTERM'"),
        (None, TypeError, "sig must be an int, not None"),
        (1.5, TypeError, "sig must be an int, not 1.5"),
    ],
)
def test_what_is_no_signal(loop, method, number, kind, message):
    arguments = (number, print) if method.startswith("add") else (number,)
    with pytest.raises(kind) as caught:
        getattr(loop, method)(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_cannot_be_caught(loop, number):
    with pytest.raises(RuntimeError) as caught:
        loop.add_signal_handler(number, print)
    assert str(caught.value) == f"sig {int(number)} cannot be caught"
    assert loop.remove_signal_handler(number) is False


def test_coroutines_are_no_handlers(loop):
    async def handler():
        pass

    coroutine = handler()
    for callback in (handler, coroutine):
        with pytest.raises(TypeError) as caught:
            loop.add_signal_handler(SIGNAL, callback)
        assert str(caught.value) == "coroutines cannot be used with add_signal_handler()"
    coroutine.close()
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL


def test_only_the_main_thread_may_add_one(loop):
    errors = []

    def add():
        try:
            loop.add_signal_handler(SIGNAL, print)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    (error,) = errors
    assert isinstance(error, RuntimeError)
    assert "main thread" in str(error)
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL


def test_a_closed_loop_refuses(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(SIGNAL, print)
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL


# In a process of its own

INTERRUPT_WHEN_IDLE = """
import os, signal, sys, threading, time

def interrupt_when_idle(*delays):
    def send():
        for delay in delays:
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=send, daemon=True).start()
"""


def outcome(child):
    return child.returncode, child.stdout, child.stderr


def test_sigterm_ends_a_program_in_good_order(run_child):
    child = run_child(
        """
        import os, signal

        async def main():
            loop = asyncio.get_running_loop()
            stopped = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, stopped.set)
            loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(stopped.wait(), 30)
            print("in good order")

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert outcome(child) == (0, "in good order\n", "")


def test_ctrl_c_cancels_the_main_task(run_child):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + """
async def main():
    interrupt_when_idle(0.1)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", asyncio.current_task().cancelling())
        await asyncio.sleep(0)
        print("cleaned up")
        raise

try:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert outcome(child) == (0, "cancelled 1\ncleaned up\ninterrupted\n", "")


def test_the_second_ctrl_c_interrupts_at_once(run_child):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + """
async def main():
    interrupt_when_idle(0.1, 0.1)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("not so fast")
            if asyncio.current_task().cancelling() > 1:
                raise

try:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert outcome(child) == (0, "not so fast\nnot so fast\ninterrupted\n", "")


def test_a_main_that_swallows_ctrl_c_may_finish(run_child):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + """
async def main():
    interrupt_when_idle(0.1)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return "finished anyway"

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    print(runner.run(main()))
"""
    )
    assert outcome(child) == (0, "finished anyway\n", "")


def test_ctrl_c_while_the_loop_is_busy(run_child):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + """
async def main():
    # A busy machine may hold a step for as long as debug mode warns of, which this is not about.
    asyncio.get_running_loop().slow_callback_duration = 60
    interrupt_when_idle(0.1)
    while True:
        await asyncio.sleep(0)

try:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert outcome(child) == (0, "interrupted\n", "")


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_leaves_a_plain_run_forever(run_child, busy):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + f"""
loop = new_event_loop()
loop.slow_callback_duration = 60

def again():
    loop.call_soon(again)

if {busy}:
    again()
interrupt_when_idle(0.1)
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted", loop.is_running())
loop.run_until_complete(asyncio.sleep(0))
loop.close()
"""
    )
    assert outcome(child) == (0, "interrupted False\n", "")


def test_an_uncaught_ctrl_c_ends_the_process_as_python_does(run_child):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + """
async def main():
    interrupt_when_idle(0.1)
    await asyncio.sleep(60)

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""
    )
    assert child.returncode == -signal.SIGINT
    assert child.stderr.rstrip().endswith("KeyboardInterrupt")


def test_a_handler_of_sigint_takes_the_place_of_ctrl_c(run_child):
    child = run_child(
        INTERRUPT_WHEN_IDLE
        + """
async def main():
    loop = asyncio.get_running_loop()
    got = loop.create_future()
    loop.add_signal_handler(signal.SIGINT, got.set_result, "handled")
    interrupt_when_idle(0.1)
    print(await asyncio.wait_for(got, 30))

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""
    )
    assert outcome(child) == (0, "handled\n", "")


@pytest.mark.parametrize("exit_kind", ["SystemExit(7)", "GracefulExit()"])
def test_an_exit_raised_in_a_handler_leaves_the_loop_without_a_word(run_child, exit_kind):
    """As aiohttp's run_app does on SIGTERM."""
    child = run_child(
        f"""
        import os, signal

        class GracefulExit(SystemExit):
            code = 7

        def leave():
            raise {exit_kind}

        loop = new_event_loop()
        told = []
        loop.set_exception_handler(lambda loop, context: told.append(context))
        loop.add_signal_handler(signal.SIGTERM, leave)
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        try:
            loop.run_forever()
        finally:
            assert told == [], told
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        """
    )
    assert outcome(child) == (7, "", "")


def test_an_exit_raised_in_a_task_leaves_the_loop(run_child):
    child = run_child(
        """
        async def main():
            raise SystemExit(5)

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert outcome(child) == (5, "", "")


def test_a_signal_that_nobody_handles_ends_the_process(run_child):
    child = run_child(
        """
        import os, signal

        async def main():
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert outcome(child) == (-signal.SIGTERM, "", "")
