"""The watchdog names the line that blocks a loop, whoever holds the interpreter.

Run by pytest on aioxide alone, in processes of their own: asyncio says nothing outside of debug
mode, and in debug mode names the task once it is over, never the line, never while it lasts.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import aioxide

PRELUDE = """
import asyncio, faulthandler, logging, os, signal, sys, threading, time, warnings
import aioxide
logging.basicConfig(format="%(levelname)s %(name)s %(message)s", level=logging.WARNING)

"""


def line_of(code, text):
    """The number of the line that holds `text` in the program that `start` makes of `code`."""
    program = PRELUDE + textwrap.dedent(code)
    (number,) = [n for n, line in enumerate(program.splitlines(), 1) if text in line]
    return number


@pytest.fixture
def start(tmp_path):
    """Starts a program; its stderr can be read while it runs."""
    processes = []

    def begin(code, *flags):
        path = tmp_path / "program.py"
        path.write_text(PRELUDE + textwrap.dedent(code))
        process = subprocess.Popen(
            [sys.executable, *flags, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def ended(process):
    """What a program that went well has written."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output, errors


SLEEPS = """
async def main():
    time.sleep(1)  # blocks

aioxide.run(main())
"""

HOLDS_THE_INTERPRETER = """
async def main():
    sum(range(60_000_000))  # blocks

aioxide.run(main())
"""


@pytest.mark.parametrize("code", [SLEEPS, HOLDS_THE_INTERPRETER], ids=["sleep", "sum"])
def test_line_that_blocks_is_named_when_it_is_over(start, code):
    _, errors = ended(start(code))
    assert "WARNING asyncio The event loop was blocked for about" in errors
    assert f"program.py:{line_of(code, '# blocks')} in main" in errors
    assert errors.count("WARNING") == 1
    assert "run_forever" not in errors


# The program never comes to an end by itself, and gives the interpreter to nobody.
NEVER_ENDS = """
async def main():
    print(time.monotonic(), flush=True)
    while True:
        sum(range(10**12))  # blocks

aioxide.run(main())
"""


def test_stall_that_goes_on_is_told_while_it_lasts_without_the_interpreter(start):
    process = start(NEVER_ENDS)
    began = float(process.stdout.readline())
    assert "the event loop has been blocked for" in process.stderr.readline()
    seen = time.monotonic()
    assert f"line {line_of(NEVER_ENDS, '# blocks')}, in main" in process.stderr.readline()
    # A machine that is busy may be late; what is asked for here is "long before the end".
    assert seen - began < 20


def test_lock_that_is_never_released_is_told_too(start):
    code = """
    async def main():
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()  # blocks

    aioxide.run(main())
    """
    process = start(code)
    assert "has been blocked" in process.stderr.readline()
    assert f"line {line_of(code, '# blocks')}, in main" in process.stderr.readline()


def test_whole_stack_is_told_down_to_the_loop(start):
    code = """
    def inner():
        time.sleep(0.8)

    async def outer():
        inner()

    async def main():
        await outer()

    def program():
        aioxide.run(main())

    program()
    """
    _, errors = ended(start(code))
    log = errors[errors.index("WARNING") :]
    functions = [line.split(" in ")[1] for line in log.splitlines() if line.startswith("  File")]
    assert functions == ["main", "outer", "inner"]
    assert "    time.sleep(0.8)" in log


def test_loop_that_waits_or_is_busy_with_short_steps_is_left_alone(start):
    code = """
    async def main():
        asyncio.get_running_loop().set_stall_threshold(0.2)
        await asyncio.sleep(0.6)
        deadline = time.monotonic() + 0.6
        while time.monotonic() < deadline:
            await asyncio.sleep(0)

    aioxide.run(main())
    """
    assert ended(start(code)) == ("", "")


def test_stalls_are_counted(start):
    code = """
    async def main():
        loop = asyncio.get_running_loop()
        assert loop.get_stall_threshold() == 0.25
        time.sleep(0.9)
        await asyncio.sleep(0.5)
        time.sleep(0.9)
        await asyncio.sleep(0)
        metrics = loop.metrics()
        assert metrics["stalls"] == 2, metrics
        assert 0.25 <= metrics["longest_stall_seconds"] <= 2, metrics
        assert metrics["stalled_seconds"] >= metrics["longest_stall_seconds"], metrics

    logging.disable()
    aioxide.run(main())
    """
    ended(start(code))


def test_threshold_can_be_set_and_switched_off(start):
    code = """
    async def main(threshold):
        asyncio.get_running_loop().set_stall_threshold(threshold)
        time.sleep(0.6)

    aioxide.run(main(None))
    print("unwatched", file=sys.stderr, flush=True)
    aioxide.run(main(0.05))
    """
    _, errors = ended(start(code))
    before, after = errors.split("unwatched")
    assert before == ""
    assert "blocked" in after


@pytest.mark.parametrize(
    ("given", "threshold", "told"),
    [
        ("0.5", 0.5, ""),
        (" 3 ", 3.0, ""),
        ("0", None, ""),
        ("", 0.25, ""),
        ("soon", 0.25, 'must be a number of seconds, 0 to report nothing, not "soon"\n'),
        ("-1", 0.25, 'must be a number of seconds, 0 to report nothing, not "-1"\n'),
    ],
)
def test_threshold_of_a_process_comes_from_its_environment(
    monkeypatch, start, given, threshold, told
):
    monkeypatch.setenv("AIOXIDE_STALL_THRESHOLD", given)
    code = """
    async def main():
        print(asyncio.get_running_loop().get_stall_threshold())

    aioxide.run(main())
    aioxide.run(main())
    """
    output, errors = ended(start(code))
    assert output == f"{threshold}\n" * 2
    assert errors == (told and f"aioxide: AIOXIDE_STALL_THRESHOLD {told}")


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_threshold_must_be_a_positive_number(seconds):
    loop = aioxide.new_event_loop()
    try:
        with pytest.raises(ValueError, match="positive number of seconds or None is expected"):
            loop.set_stall_threshold(seconds)
        with pytest.raises(TypeError):
            loop.set_stall_threshold("soon")
        assert loop.get_stall_threshold() == 0.25
    finally:
        loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.set_stall_threshold(1)


def test_loop_in_another_thread_is_watched(start):
    code = """
    async def careless():
        time.sleep(0.9)  # blocks

    async def main():
        await asyncio.sleep(0)
        thread = threading.Thread(target=aioxide.run, args=(careless(),))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)

    aioxide.run(main())
    """
    _, errors = ended(start(code))
    assert f"program.py:{line_of(code, '# blocks')} in careless" in errors
    assert errors.count("WARNING") == 1


def test_users_own_faulthandler_works_on(start):
    code = """
    faulthandler.enable()
    dumped = open("/dev/null", "w")
    own = os.memfd_create("own")
    faulthandler.register(signal.SIGUSR1, file=own)

    async def main():
        later = os.memfd_create("later")
        faulthandler.dump_traceback_later(0.4, file=later)
        time.sleep(0.9)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert b"in main" in os.pread(own, 4000, 0)
        assert b"in main" in os.pread(later, 4000, 0)
        assert faulthandler.is_enabled()

    aioxide.run(main())
    """
    _, errors = ended(start(code))
    assert "WARNING asyncio The event loop was blocked" in errors


def test_signal_that_was_let_go_does_not_end_the_program(start):
    code = """
    async def main():
        await asyncio.sleep(0)
        for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
            faulthandler.unregister(number)
        time.sleep(0.9)

    aioxide.run(main())
    """
    _, errors = ended(start(code))
    assert "where is not known" in errors
    assert "The event loop was blocked for about" in errors


@pytest.mark.parametrize("doing", ["time.sleep(0.8)", "sum(range(3 * 10**7))"])
def test_program_lives_that_blocks_while_the_locals_of_a_function_are_dropped(start, doing):
    """CPython 3.13's faulthandler cannot read the frames there: it would end the process."""
    code = f"""
    class Slow:
        def __del__(self):
            {doing}

    def key(item):
        slow = Slow()
        return item

    async def main():
        asyncio.get_running_loop().set_stall_threshold(0.1)
        await asyncio.sleep(0.1)
        sorted([1], key=key)
        print("lives")

    aioxide.run(main())
    """
    output, errors = ended(start(code))
    assert output == "lives\n"
    assert "The event loop was blocked for about" in errors


def test_program_lives_that_is_asked_where_it_is_all_the_time(start):
    """Wherever a signal finds it: in calls from C, generators, finalizers, exceptions."""
    code = """
    class Dropped:
        def __del__(self):
            pass

    def dropping(item):
        dropped = [Dropped(), Dropped()]
        return item

    def numbers():
        yield from (dropping(number) for number in range(5))

    async def main():
        asyncio.get_running_loop().set_stall_threshold(0.001)
        for _ in range(300):
            until = time.monotonic() + 0.005
            while time.monotonic() < until:
                sorted(numbers(), key=dropping)
            await asyncio.sleep(0)
        print("lives")

    logging.disable()
    aioxide.run(main())
    """
    output, _ = ended(start(code))
    assert output == "lives\n"


def test_names_that_are_not_ascii_are_told_as_they_are(start):
    code = """
    def größe():
        time.sleep(0.9)

    async def main():
        größe()

    aioxide.run(main())
    """
    _, errors = ended(start(code, "-X", "utf8"))
    assert "in größe" in errors[errors.index("WARNING") :]


def test_debugger_is_no_stall(start):
    code = """
    async def main():
        breakpoint()
        print("went on")

    aioxide.run(main())
    """
    process = start(code)
    # Waits at the prompt for longer than any threshold; nothing else could show that it is silent.
    shown = ""
    while not shown.endswith("(Pdb) "):
        shown += process.stdout.read(1) or pytest.fail(shown)
    time.sleep(1)
    process.stdin.write("continue\n")
    process.stdin.flush()
    output, errors = ended(process)
    assert "went on" in output
    assert errors == ""


def test_child_after_a_fork_has_a_watchdog_of_its_own(start):
    code = """
    async def careless():
        time.sleep(0.9)

    async def brief():
        await asyncio.sleep(0.01)

    aioxide.run(brief())
    pid = os.fork()
    if pid == 0:
        aioxide.run(careless())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print("parent", file=sys.stderr, flush=True)
    aioxide.run(careless())
    """
    _, errors = ended(start(code, "-W", "error"))
    child, parent = errors.split("parent\n")
    assert "WARNING asyncio The event loop was blocked" in child
    assert "WARNING asyncio The event loop was blocked" in parent


def test_loop_that_forks_is_watched_afterwards(start):
    code = """
    async def main():
        await asyncio.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(0.9)

    aioxide.run(main())
    """
    _, errors = ended(start(code, "-W", "error"))
    assert "WARNING asyncio The event loop was blocked" in errors


def test_interpreter_exits_while_a_daemon_thread_blocks_its_loop(start):
    code = """
    blocked = threading.Event()

    async def careless():
        blocked.set()
        time.sleep(60)

    threading.Thread(target=aioxide.run, args=(careless(),), daemon=True).start()
    blocked.wait()
    """
    ended(start(code))


def test_stop_and_continue_of_the_process_is_no_stall(start):
    code = """
    async def main():
        asyncio.get_running_loop().set_stall_threshold(2)
        print("ready", flush=True)
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            pass

    aioxide.run(main())
    """
    process = start(code)
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    # The time that passes must be longer than the threshold, as the clock sees it.
    time.sleep(3)
    os.kill(process.pid, signal.SIGCONT)
    assert ended(process) == ("", "")


def test_debug_run_makes_a_warning_that_can_be_raised(start):
    code = """
    async def main():
        time.sleep(0.9)
        await asyncio.sleep(0)
        await asyncio.sleep(10)

    try:
        aioxide.run(main(), debug=True)
    except aioxide.BlockedLoopWarning as error:
        print(error)
    """
    output, _ = ended(start(code, "-W", "error"))
    assert output.startswith("The event loop was blocked for about")
