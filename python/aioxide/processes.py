"""Subprocesses: `subprocess_exec`, `subprocess_shell`, and the transport of a child process.

`subprocess.Popen` starts the child, pipe transports carry what it reads and writes, and a pidfd
tells the loop that it exited: no child watcher, no signal handler, no thread. What happens once
for each child is here; what happens once for each piece of its output is compiled.
"""

import asyncio
import errno
import functools
import os
import signal
import subprocess
import threading
import warnings
from asyncio import base_events, base_subprocess
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from . import _aioxide
from .pipes import connects_pipes_itself

__all__ = ("ProcessMixin", "SubprocessTransport")

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

logger = base_events.logger  # type: ignore[attr-defined]

# A kernel before 5.3, or a sandbox that forbids the call.
_NO_PIDFDS = {errno.ENOSYS, errno.EPERM, errno.EACCES}

# `send_signal` names its argument as asyncio does, and so hides the module.
_send_by_pidfd = signal.pidfd_send_signal

# What checks the arguments and makes the protocol is CPython's own: tools that look for calls which
# block know Popen's by the name and the file of the function above it.
_exec: Any = asyncio.BaseEventLoop.subprocess_exec
_shell: Any = asyncio.BaseEventLoop.subprocess_shell


class ProcessMixin:
    """Child processes of `EventLoop`."""

    __slots__ = ()

    async def subprocess_exec(
        self: Any,
        protocol_factory: Callable[[], _P],
        program: Any,
        *args: Any,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _P]:
        """Run `program` with `args`; the other arguments are those of `subprocess.Popen`.

        Returns `(transport, protocol)` once `connection_made` was called. Raises the OSError of a
        program that cannot be started, ValueError for what makes text of bytes.
        """
        self._check_closed()
        return await _exec(  # type: ignore[no-any-return]
            self,
            protocol_factory,
            program,
            *args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=universal_newlines,
            shell=shell,
            bufsize=bufsize,
            encoding=encoding,
            errors=errors,
            text=text,
            **kwargs,
        )

    async def subprocess_shell(
        self: Any,
        protocol_factory: Callable[[], _P],
        cmd: Any,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _P]:
        """Run `cmd`, a str or bytes, with the shell; otherwise as `subprocess_exec`."""
        self._check_closed()
        return await _shell(  # type: ignore[no-any-return]
            self,
            protocol_factory,
            cmd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=universal_newlines,
            shell=shell,
            bufsize=bufsize,
            encoding=encoding,
            errors=errors,
            text=text,
            **kwargs,
        )

    def _log_subprocess(self, what: str, stdin: Any, stdout: Any, stderr: Any) -> None:
        logger.debug(_described(what, stdin, stdout, stderr))

    async def _make_subprocess_transport(
        self: Any,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> "SubprocessTransport":
        waiter = self.create_future()
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter, extra, **kwargs
        )
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport


class SubprocessTransport(asyncio.SubprocessTransport):
    """A child process and its pipes (`asyncio.SubprocessTransport`)."""

    _closed = True  # Until `__init__` began: then there is nothing to warn of.

    def __init__(
        self,
        loop: Any,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        waiter: Any = None,
        extra: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(extra)
        self._closed = False
        self._protocol: Any = protocol
        self._loop: Any = loop
        self._proc: Any = None
        self._pid: int | None = None
        self._returncode: int | None = None
        self._exit_waiters: list[Any] = []
        # What happened before the protocol knows the process; None from then on.
        self._pending_calls: deque[Any] | None = deque()
        self._finished = False
        self._child: _aioxide.Child | None = None
        streams = enumerate((stdin, stdout, stderr))
        self._pipes: dict[int, Any] = {
            fd: None for fd, stream in streams if stream == subprocess.PIPE
        }
        try:
            self._start(args, shell, stdin, stdout, stderr, bufsize, kwargs)
            if connects_pipes_itself(loop):
                self._open_pipes()
                self._announce(waiter)
            else:
                loop.create_task(self._connect_pipes(waiter))
        except BaseException:
            self._give_up()
            raise

    def _start(
        self,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        kwargs: dict[str, Any],
    ) -> None:
        # The child's stdin is a real pipe: a child may open /dev/stdin, which no socket allows.
        self._proc = subprocess.Popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )
        self._pid = self._proc.pid
        self._extra["subprocess"] = self._proc  # type: ignore[attr-defined]
        self._watch()
        if self._loop.get_debug():
            program = args if isinstance(args, bytes | str) else args[0]
            logger.debug("process %r created: pid %s", program, self._pid)

    def _watch(self) -> None:
        pid = self._proc.pid
        try:
            self._child = _aioxide.Child.watch(self._loop, pid, self._child_exited)
        except ProcessLookupError:  # Reaped already: where SIGCHLD is ignored, by the kernel.
            self._loop.call_soon(self._child_exited, None)
        except OSError as error:
            if error.errno not in _NO_PIDFDS:
                raise
            _watch_by_thread(self._loop, pid, self._child_exited)

    def _open_pipes(self) -> None:
        """The transports of the child's pipes, at once: nothing of them has to be waited for."""
        proc, loop = self._proc, self._loop
        for fd, file in enumerate((proc.stdin, proc.stdout, proc.stderr)):
            if file is None:
                continue
            os.set_blocking(file.fileno(), False)
            make: Any = _aioxide.ReadPipeTransport if fd else _aioxide.WritePipeTransport
            pipe = _aioxide.ChildPipe(self, fd)
            pipe.connection_made(make(loop, file, pipe, of_child=True))
            self._pipes[fd] = pipe

    async def _connect_pipes(self, waiter: Any) -> None:
        """As `_open_pipes`, by the loop's own methods: somebody replaced them."""
        try:
            proc, loop = self._proc, self._loop
            for fd, file in enumerate((proc.stdin, proc.stdout, proc.stderr)):
                if file is None:
                    continue
                connect = loop.connect_read_pipe if fd else loop.connect_write_pipe
                _, self._pipes[fd] = await connect(_pipe_protocol_factory(self, fd), file)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            for fd in [fd for fd, pipe in self._pipes.items() if pipe is None]:
                del self._pipes[fd]
                (self._proc.stdin, self._proc.stdout, self._proc.stderr)[fd].close()
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        self._announce(waiter)

    def _announce(self, waiter: Any) -> None:
        self._loop.call_soon(self._protocol.connection_made, self)
        self._loop.call_soon(self._begin, waiter)

    def _begin(self, waiter: Any) -> None:
        """The protocol knows the process: what its pipes and its end tell goes there from now."""
        for pipe in self._pipes.values():
            if type(pipe) is _aioxide.ChildPipe:
                pipe.pipe._begin()
        pending, self._pending_calls = self._pending_calls, None
        for callback, data in pending or ():
            self._loop.call_soon(callback, *data)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _give_up(self) -> None:
        """What could not be set up whole is taken apart: no child, no zombie, no descriptor."""
        self._closed = True
        proc = self._proc
        if proc is None:
            return
        proc.kill()
        proc.wait()
        self._returncode = proc.returncode
        for file in (proc.stdin, proc.stdout, proc.stderr):
            if file is not None:
                file.close()

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._closed:
            info.append("closed")
        if self._pid is not None:
            info.append(f"pid={self._pid}")
        if self._returncode is not None:
            info.append(f"returncode={self._returncode}")
        elif self._pid is not None:
            info.append("running")
        else:
            info.append("not started")
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            pipe = self._pipes.get(fd)
            if pipe is not None:
                info.append(f"{name}={pipe.pipe}")
        return f"<{' '.join(info)}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not self._closed:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close()

    # What a program asks and tells.

    def set_protocol(self, protocol: Any) -> None:
        """Tell `protocol` from now on."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """Who is told; None once the child exited and its pipes are closed."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def get_pid(self) -> int | None:  # type: ignore[override]
        """The child's process identifier."""
        return self._pid

    def get_returncode(self) -> int | None:
        """What the child exited with; -N after signal N; None while it runs."""
        return self._returncode

    def get_pipe_transport(self, fd: int) -> Any:
        """The transport of the child's descriptor 0, 1 or 2; None where that is no pipe."""
        return self._pipes[fd].pipe if fd in self._pipes else None

    def send_signal(self, signal: int) -> None:
        """Send a signal to the child; nothing happens when it has exited.

        Raises ProcessLookupError once its transport is finished.
        """
        if self._proc is None:
            raise ProcessLookupError()
        pidfd = -1 if self._child is None else self._child.fileno()
        try:
            if pidfd >= 0:
                _send_by_pidfd(pidfd, signal)
            elif self._returncode is None:
                self._proc.send_signal(signal)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes, and kill the child if it still runs; does nothing a second time."""
        if self._closed:
            return
        self._closed = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            for pipe in self._pipes.values():
                if pipe is not None:
                    pipe.pipe.close()
        # A child that exited, of which the loop was not told yet, is not killed.
        if self._proc is None or self._returncode is not None or self._proc.poll() is not None:
            return
        if loop.get_debug():
            logger.warning("Close running child process: kill %r", self)
        try:
            self._proc.kill()
        except (ProcessLookupError, PermissionError):
            pass  # It has just exited, or runs as another user.

    async def _wait(self) -> int:
        """Wait until the child exited; returns its return code."""
        if self._returncode is None:
            waiter = self._loop.create_future()
            self._exit_waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._exit_waiters:
                    self._exit_waiters.remove(waiter)
        return self._returncode  # type: ignore[return-value]

    # What the pipes and the pidfd tell.

    def _call(self, callback: Any, *data: Any) -> None:
        if self._pending_calls is not None:
            self._pending_calls.append((callback, data))
        else:
            self._loop.call_soon(callback, *data)

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        self._call(self._protocol.pipe_data_received, fd, data)

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _child_exited(self, returncode: int | None) -> None:
        if returncode is None:
            # Somebody else reaped it. Whoever did so through the Popen object left the answer.
            returncode = self._proc.returncode
        if returncode is None:
            returncode = 255
            logger.warning(
                "child process pid %d exit status already read:  will report returncode 255",
                self._pid,
            )
        self._process_exited(returncode)

    def _process_exited(self, returncode: int) -> None:
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, returncode)
        self._returncode = returncode
        if self._proc.returncode is None:
            self._proc.returncode = returncode
        # `wait()` is about the process: a grandchild may keep its pipes open (CPython gh-119710).
        waiters, self._exit_waiters = self._exit_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(returncode)
        self._call(self._protocol.process_exited)
        self._try_finish()

    def _try_finish(self) -> None:
        if self._returncode is None or self._finished:
            return
        if all(pipe is not None and pipe.disconnected for pipe in self._pipes.values()):
            self._finished = True
            self._call(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._loop = None
            self._proc = None
            self._protocol = None
            self._child = None


def _pipe_protocol_factory(transport: SubprocessTransport, fd: int) -> Callable[[], Any]:
    name = "ReadSubprocessPipeProto" if fd else "WriteSubprocessPipeProto"
    return functools.partial(getattr(base_subprocess, name), transport, fd)


def _watch_by_thread(loop: Any, pid: int, on_exit: Callable[[int | None], None]) -> None:
    """Where there are no pidfds, a thread waits for this one child."""

    def wait() -> None:
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            returncode = None
        else:
            returncode = os.waitstatus_to_exitcode(status)
        try:
            loop.call_soon_threadsafe(on_exit, returncode)
        except RuntimeError:
            pass  # The loop was closed before its child exited.

    threading.Thread(target=wait, name=f"aioxide-child-{pid}", daemon=True).start()


def _described(what: str, stdin: Any, stdout: Any, stderr: Any) -> str:
    """What is started, and where its streams go, for the log of debug mode."""
    words = [what]
    if stdin is not None:
        words.append(f"stdin={_named(stdin)}")
    if stdout is not None and stderr == subprocess.STDOUT:
        words.append(f"stdout=stderr={_named(stdout)}")
    else:
        if stdout is not None:
            words.append(f"stdout={_named(stdout)}")
        if stderr is not None:
            words.append(f"stderr={_named(stderr)}")
    return " ".join(words)


def _named(stream: Any) -> str:
    names = {subprocess.PIPE: "<pipe>", subprocess.STDOUT: "<stdout>"}
    return names.get(stream, repr(stream)) if isinstance(stream, int) else repr(stream)
