"""Child processes: how they are started, what their transports tell, and how they end.

Run by pytest on asyncio and on aioxide. Each test must leave no child, running or not. Streams of
`asyncio.subprocess` and cancellation are in test_subprocess_streams.py.
"""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from loopback import DEADLINE, on_loop, until, wait_until
from offspring import has_children, no_child_is_left

import aioxide
from aioxide import processes

__all__ = ("no_child_is_left",)

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL


class Recorder(asyncio.SubprocessProtocol):
    """Remembers what it was told, in order."""

    def __init__(self):
        self.events = []
        self.output = {1: bytearray(), 2: bytearray()}
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def pipe_data_received(self, fd, data):
        self.output[fd] += data
        self.events.append(("data", fd))

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("closed", fd, exc))

    def process_exited(self):
        self.events.append(("exited", self.transport.get_returncode()))

    def connection_lost(self, exc):
        self.events.append(("lost", exc))

    async def has(self, event):
        await until(lambda: event in self.events)


async def run(loop, *command, **options):
    """A child, and its protocol, once it has exited and all its pipes are closed."""
    options = {"stdin": None, "stdout": None, "stderr": None, **options}
    transport, protocol = await loop.subprocess_exec(Recorder, *command, **options)
    await protocol.has(("lost", None))
    transport.close()
    return transport, protocol


async def output(*command, **options):
    """What a program prints."""
    child = await asyncio.create_subprocess_exec(*command, stdout=PIPE, **options)
    printed, _ = await child.communicate()
    assert child.returncode == 0
    return printed


# What a program is told


@on_loop
async def test_a_protocol_is_told_everything_in_order(loop):
    transport, protocol = await loop.subprocess_shell(
        Recorder, "cat; echo problem >&2; exit 7", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert protocol.transport is transport
    assert protocol.events == ["made"]
    assert transport.get_returncode() is None
    assert transport.get_pid() == transport.get_extra_info("subprocess").pid
    assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
    assert transport.get_protocol() is protocol
    stdin = transport.get_pipe_transport(0)
    stdin.write(b"through")
    stdin.close()
    assert await transport._wait() == 7
    await protocol.has(("lost", None))
    assert (protocol.output[1], protocol.output[2]) == (b"through", b"problem\n")
    for fd in (1, 2):
        assert protocol.events.index(("data", fd)) < protocol.events.index(("closed", fd, None))
    assert ("closed", 0, None) in protocol.events
    assert ("exited", 7) in protocol.events
    assert protocol.events[-1] == ("lost", None)
    assert transport.get_returncode() == 7
    assert transport.get_protocol() is None
    assert not transport.is_closing()
    transport.close()
    assert transport.is_closing()
    transport.close()


@on_loop
async def test_names_that_tests_look_at(loop):
    transport, protocol = await loop.subprocess_exec(Recorder, "cat", stderr=None)
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert transport._proc is transport.get_extra_info("subprocess")
    assert (transport._protocol, transport._loop) == (protocol, loop)
    assert (transport._pid, transport._returncode) == (transport.get_pid(), None)
    assert sorted(transport._pipes) == [0, 1]
    assert transport._pipes[1].pipe is transport.get_pipe_transport(1)
    assert not transport._pipes[1].disconnected
    assert transport.get_pipe_transport(2) is None
    assert isinstance(transport.get_pipe_transport(0), asyncio.WriteTransport)
    assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
    assert f"pid={transport._pid} running" in repr(transport)
    transport.get_pipe_transport(0).close()
    await protocol.has(("lost", None))
    assert "returncode=0" in repr(transport)
    assert (transport._proc, transport._loop, transport._protocol) == (None, None, None)
    transport.close()
    assert "closed" in repr(transport)


@on_loop
async def test_another_protocol_takes_over(loop):
    transport, first = await loop.subprocess_exec(Recorder, "cat")
    second = Recorder()
    second.transport = transport
    transport.set_protocol(second)
    transport.get_pipe_transport(0).write(b"x")
    await until(lambda: second.output[1] == b"x")
    transport.get_pipe_transport(0).close()
    await second.has(("lost", None))
    assert first.events == ["made"]
    transport.close()


@on_loop
async def test_a_failing_protocol_is_reported_and_the_child_reaped(loop, loop_errors):
    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

        def pipe_data_received(self, fd, data):
            super().pipe_data_received(fd, data)
            raise ZeroDivisionError

        def pipe_connection_lost(self, fd, exc):
            super().pipe_connection_lost(fd, exc)
            raise ZeroDivisionError

        def process_exited(self):
            super().process_exited()
            raise ZeroDivisionError

    transport, protocol = await loop.subprocess_exec(Failing, "echo", "x", stdin=None, stderr=None)
    await protocol.has(("lost", None))
    transport.close()
    assert [type(it["exception"]) for it in loop_errors.take()] == [ZeroDivisionError] * 4


@pytest.mark.parametrize(("code", "returncode"), [("exit 0", 0), ("exit 255", 255)])
@on_loop
async def test_return_codes_are_what_a_child_exits_with(loop, code, returncode):
    transport, _ = await run(loop, "sh", "-c", code)
    assert transport.get_returncode() == returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGRTMIN + 1])
@on_loop
async def test_a_signal_is_a_negative_return_code(loop, number):
    child = await asyncio.create_subprocess_exec("sleep", "1000")
    child.send_signal(number)
    assert await child.wait() == -number


@on_loop
async def test_signals_to_a_child_that_is_gone_reach_nobody(loop):
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    await until(lambda: child._transport._proc is None)
    for send in (child.kill, child.terminate, lambda: child.send_signal(0)):
        with pytest.raises(ProcessLookupError):
            send()


@on_loop
async def test_a_stopped_child_has_not_exited(loop):
    child = await asyncio.create_subprocess_exec("sleep", "1000")
    child.send_signal(signal.SIGSTOP)
    await asyncio.sleep(0.01)
    assert child.returncode is None
    child.send_signal(signal.SIGCONT)
    child.kill()
    assert await child.wait() == -signal.SIGKILL


# How a child is started


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"bufsize": 4096}, "bufsize must be 0"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
    ],
)
@on_loop
async def test_text_is_refused(loop, given, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        await loop.subprocess_exec(Recorder, "true", **given)
    with pytest.raises(ValueError, match=f"^{message}$"):
        await loop.subprocess_shell(Recorder, "true", **given)


@on_loop
async def test_a_shell_is_where_it_was_asked_for(loop):
    with pytest.raises(ValueError, match=r"^shell must be False$"):
        await loop.subprocess_exec(Recorder, "true", shell=True)
    with pytest.raises(ValueError, match=r"^shell must be True$"):
        await loop.subprocess_shell(Recorder, "true", shell=False)
    with pytest.raises(ValueError, match=r"^cmd must be a string$"):
        await loop.subprocess_shell(Recorder, ["true"])


@pytest.mark.parametrize("streams", [{}, {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}])
@on_loop
async def test_a_program_that_cannot_be_started_leaves_nothing(loop, streams, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as caught:
        await asyncio.create_subprocess_exec(missing, **streams)
    assert str(caught.value.filename) == str(missing)
    with pytest.raises(PermissionError):
        await asyncio.create_subprocess_exec(tmp_path, **streams)
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("true", cwd=missing, **streams)
    with pytest.raises(subprocess.SubprocessError):
        await asyncio.create_subprocess_exec("true", preexec_fn=lambda: 1 / 0, **streams)
    with pytest.raises(TypeError):
        await asyncio.create_subprocess_exec("true", no_such_argument=1, **streams)
    assert not has_children()


@on_loop
async def test_arguments_of_popen_reach_it(loop, tmp_path):
    where = await output("pwd", cwd=tmp_path)
    assert where == f"{tmp_path}\n".encode()
    assert await output("sh", "-c", "echo $WORD", env={"WORD": "given"}) == b"given\n"
    session = await output(
        sys.executable, "-ISc", "import os; print(os.getsid(0) == os.getpid())",
        start_new_session=True,
    )  # fmt: skip
    assert session == b"True\n"
    assert await output("sh", "-c", "umask", umask=0o027) == b"0027\n"
    await output("true", preexec_fn=lambda: None)
    assert await output(b"echo", b"bytes") == b"bytes\n"
    assert await output("sleep", "0", executable="/bin/true") == b""


@on_loop
async def test_descriptors_are_passed_on_where_asked(loop):
    out, into = os.pipe()
    printed = await output("sh", "-c", f"echo through >/proc/self/fd/{into}", pass_fds=(into,))
    os.close(into)
    assert printed == b""
    with open(out, "rb") as pipe:  # noqa: ASYNC230  # everything is there already
        assert pipe.read() == b"through\n"


@on_loop
async def test_a_child_inherits_no_descriptor_of_the_loop(loop):
    async def descriptors(**options):
        code = "import os; print(len(os.listdir('/proc/self/fd')))"
        return int(await output(sys.executable, "-ISc", code, stdin=DEVNULL, **options))

    first = await descriptors(close_fds=False)
    others = [await asyncio.create_subprocess_exec("cat", stdin=PIPE) for _ in range(3)]
    assert await descriptors(close_fds=False) == first
    for other in others:
        other.stdin.close()
        await other.wait()


@on_loop
async def test_streams_may_be_files_and_sockets(loop, tmp_path):
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        await run(loop, "cat", stdin=stdin, stdout=stdout)
    assert (tmp_path / "out").read_bytes() == b"from a file"
    near, far = socket.socketpair()
    with near, far:
        await run(loop, "echo", "by socket", stdout=far)
        assert near.recv(100) == b"by socket\n"
    _, protocol = await run(loop, "cat", stdin=DEVNULL, stdout=PIPE)
    assert protocol.output[1] == b""
    _, protocol = await run(loop, "sh", "-c", "echo a; echo b >&2", stdout=PIPE, stderr=STDOUT)
    assert protocol.output == {1: b"a\nb\n", 2: b""}
    transport, protocol = await run(loop, "sh", "-c", "echo unseen >&2", stderr=DEVNULL)
    assert transport.get_pipe_transport(2) is None


@on_loop
async def test_a_child_can_open_its_stdin_by_name(loop, behaves_as):
    if not behaves_as(3, 12):
        pytest.skip("asyncio gave children a socket until 3.12")
    child = await asyncio.create_subprocess_exec("cat", "/dev/stdin", stdin=PIPE, stdout=PIPE)
    assert await child.communicate(b"opened") == (b"opened", None)


# Many


def test_many_children_at_once(loop):
    async def one(number):
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        printed, _ = await child.communicate(b"%d" % number)
        assert (int(printed), child.returncode) == (number, 0)

    async def main():
        await asyncio.gather(*map(one, range(200)))

    loop.run_until_complete(main())


def test_loops_of_other_threads_have_children_too(new_loop):
    async def one():
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        printed, _ = await child.communicate(b"x")
        return printed, child.returncode

    def in_thread(results):
        loop = new_loop()
        try:
            results.append(loop.run_until_complete(one()))
        finally:
            loop.close()

    results = []
    threads = [threading.Thread(target=in_thread, args=(results,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [(b"x", 0)] * 5


def test_nothing_takes_sigchld(loop):
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        transport, _ = loop.run_until_complete(run(loop, "true"))
        assert transport.get_returncode() == 0
        assert signal.getsignal(signal.SIGCHLD) is handler
        wait_until(lambda: seen)
    finally:
        signal.signal(signal.SIGCHLD, before)


# Who ends


@on_loop
async def test_close_kills_a_running_child(loop):
    transport, protocol = await loop.subprocess_exec(Recorder, "cat")
    transport.close()
    assert transport.is_closing()
    assert await transport._wait() == -signal.SIGKILL
    await protocol.has(("lost", None))
    assert {("closed", fd, None) for fd in range(3)} < set(protocol.events)


def end(pid):
    """Ends a child, and leaves it to be reaped."""
    os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):  # A thread of asyncio's may reap it, on 3.11.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def reap(pid):
    """Takes a child that ended from the loop that started it."""
    os.waitpid(pid, 0)


@on_loop
async def test_close_spares_a_child_that_has_exited(loop, monkeypatch):
    transport, protocol = await loop.subprocess_exec(Recorder, "sleep", "1000")
    popen, killed = transport.get_extra_info("subprocess"), []
    monkeypatch.setattr(popen, "kill", lambda: killed.append(popen.pid))
    end(popen.pid)
    assert transport.get_returncode() is None
    transport.close()
    assert killed == []
    await protocol.has(("lost", None))


@on_loop
async def test_an_exit_is_noticed_although_a_grandchild_keeps_the_pipes(loop):
    transport, protocol = await loop.subprocess_shell(
        Recorder, "sleep 1000 & echo $!", stdin=None, stderr=None
    )
    await until(lambda: transport.get_returncode() is not None)
    await protocol.has(("exited", 0))
    assert ("closed", 1, None) not in protocol.events
    assert await transport._wait() == 0
    await until(lambda: protocol.output[1].endswith(b"\n"))
    os.kill(int(protocol.output[1]), signal.SIGKILL)
    await protocol.has(("lost", None))
    transport.close()


@on_loop
async def test_a_group_of_processes_is_killed_together(loop):
    child = await asyncio.create_subprocess_shell(
        "sleep 1000 & sleep 1000", stdout=PIPE, start_new_session=True
    )
    await asyncio.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    assert await child.communicate() == (b"", None)
    assert child.returncode == -signal.SIGKILL


def test_a_child_may_outlive_the_loop(new_loop):
    loop = new_loop()
    transport, _ = loop.run_until_complete(
        loop.subprocess_exec(Recorder, "sleep", "1000", stdin=None, stdout=None, stderr=None)
    )
    popen = transport.get_extra_info("subprocess")
    loop.close()
    assert popen.poll() is None
    transport.close()
    popen.wait()


def test_an_unclosed_transport_warns_and_kills(loop):
    transport, protocol = loop.run_until_complete(
        loop.subprocess_exec(Recorder, "sleep", "1000", stdin=None, stdout=None, stderr=None)
    )
    transport._protocol = protocol.transport = None
    transport._proc, popen = None, transport._proc
    with pytest.warns(ResourceWarning, match="unclosed transport <.*SubprocessTransport"):
        transport.__del__()
    popen.kill()
    transport._proc, transport._protocol, protocol.transport = popen, protocol, transport
    loop.run_until_complete(protocol.has(("lost", None)))


# aioxide's own


def test_a_child_that_outlives_loop_and_transport_is_killed():
    loop = aioxide.new_event_loop()
    transport, _ = loop.run_until_complete(
        loop.subprocess_exec(asyncio.SubprocessProtocol, "cat", stdout=None, stderr=None)
    )
    popen = transport.get_extra_info("subprocess")
    loop.close()
    del loop
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport
        gc.collect()
    assert popen.wait() == -signal.SIGKILL


@pytest.fixture
def own_loop():
    loop = aioxide.new_event_loop()
    yield loop
    loop.close()


def test_a_child_reaped_by_somebody_else_has_255(own_loop, caplog):
    async def main():
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        end(child.pid)
        reap(child.pid)
        assert await child.wait() == 255
        return child.pid

    pid = own_loop.run_until_complete(main())
    (message,) = caplog.messages
    assert message.startswith(f"child process pid {pid} exit status already read")


def test_a_child_reaped_through_its_popen_has_its_return_code(own_loop, caplog):
    async def main():
        child = await asyncio.create_subprocess_shell("exit 3")
        popen = child._transport.get_extra_info("subprocess")
        wait_until(lambda: popen.poll() is not None)
        assert await child.wait() == 3

    own_loop.run_until_complete(main())
    assert caplog.messages == []


def test_where_sigchld_is_ignored_an_exit_is_noticed_all_the_same(own_loop, caplog):
    async def main():
        child = await asyncio.create_subprocess_exec("true")
        return await child.wait()

    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert own_loop.run_until_complete(main()) == 255
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_wait_ends_with_the_process_and_not_with_its_pipes(own_loop):
    async def main():
        child = await asyncio.create_subprocess_shell("read line; sleep 1000 & echo $!", -1, -1)
        waiting = asyncio.ensure_future(child.wait())
        await asyncio.sleep(0)
        child.stdin.write(b"go\n")
        assert await waiting == 0
        assert not child.stdout.at_eof()
        os.kill(int(await child.stdout.readline()), signal.SIGKILL)
        assert await child.stdout.read() == b""

    own_loop.run_until_complete(main())


def test_child_watchers_are_not_consulted(own_loop, monkeypatch):
    def fail():
        raise AssertionError("asked for a child watcher")

    monkeypatch.setattr(asyncio.events, "get_child_watcher", fail, raising=False)
    threads = threading.active_count()

    async def main():
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        assert threading.active_count() == threads
        child.stdin.close()
        return await child.wait()

    assert own_loop.run_until_complete(main()) == 0


def test_without_pidfds_a_thread_waits(own_loop, monkeypatch):
    class NoPidfds:
        def watch(self, loop, pid, on_exit):
            raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(processes._aioxide, "Child", NoPidfds())

    async def main():
        child = await asyncio.create_subprocess_exec("sleep", "1000")
        child.kill()
        assert await child.wait() == -signal.SIGKILL
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert await child.communicate(b"x") == (b"x", None)

    own_loop.run_until_complete(main())


def test_a_child_that_cannot_be_watched_is_taken_back(own_loop, monkeypatch):
    pids = []

    class Exhausted:
        def watch(self, loop, pid, on_exit):
            pids.append(pid)
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(processes._aioxide, "Child", Exhausted())
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Too many open files"):
        own_loop.run_until_complete(own_loop.subprocess_exec(Recorder, "cat"))
    assert pids
    assert not has_children()
    assert os.listdir("/proc/self/fd") == before


def test_a_pid_that_is_none_is_refused(own_loop):
    for pid in (0, -1):
        with pytest.raises(ValueError, match="pid must be above 0"):
            aioxide._aioxide.Child.watch(own_loop, pid, print)


def test_a_replaced_connect_that_fails_leaves_nothing(own_loop):
    async def refuse(factory, pipe):
        raise ZeroDivisionError

    own_loop.connect_read_pipe = refuse
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ZeroDivisionError):
        own_loop.run_until_complete(own_loop.subprocess_exec(Recorder, "cat"))
    own_loop.run_until_complete(asyncio.sleep(0))
    assert os.listdir("/proc/self/fd") == before


def test_debug_mode_says_what_is_started(own_loop, caplog):
    own_loop.set_debug(True)
    caplog.set_level("DEBUG", "asyncio")
    transport, protocol = own_loop.run_until_complete(
        own_loop.subprocess_exec(Recorder, "echo", "secret", stdin=DEVNULL, stderr=STDOUT)
    )
    own_loop.run_until_complete(protocol.has(("lost", None)))
    transport.close()
    texts = "\n".join(caplog.messages)
    assert "execute program 'echo' stdin=-3 stdout=stderr=<pipe>" in texts
    assert f"process 'echo' created: pid {transport.get_pid()}" in texts
    assert "exited with return code 0" in texts
    assert "secret" not in texts


def test_time_is_not_spent_polling(own_loop):
    """A loop that waits for a child sleeps in the kernel."""

    async def main():
        child = await asyncio.create_subprocess_exec("sleep", "0.3")
        began = time.process_time()
        await child.wait()
        return time.process_time() - began

    assert own_loop.run_until_complete(main()) < 0.1


@pytest.mark.parametrize("kind", ["exec", "shell"])
@on_loop
async def test_popen_runs_where_tools_expect_it(loop, kind, monkeypatch):
    # They allow its blocking read by the file and the function that stand above it.
    above = set()
    read = os.read

    def noting(*args):
        frame = sys._getframe()
        while frame := frame.f_back:
            above.add((frame.f_code.co_filename.rpartition("/asyncio/")[2], frame.f_code.co_name))
        return read(*args)

    monkeypatch.setattr(os, "read", noting)
    if kind == "exec":
        starting = asyncio.create_subprocess_exec("true", start_new_session=True)
    else:
        starting = asyncio.create_subprocess_shell("true", start_new_session=True)
    process = await starting
    monkeypatch.undo()
    assert await process.wait() == 0
    assert ("base_events.py", f"subprocess_{kind}") in above
