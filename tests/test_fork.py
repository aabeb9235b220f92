"""After a fork: the child's inherited loop is dead, and nothing that the parent uses is touched.

Run by pytest on aioxide: asyncio's own loop lets both processes share it, and breaks both.
"""

import pytest

PRELUDE = """
import os, socket, sys, threading, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)

def in_child(work):
    '''Forks; the child does `work()` and leaves: 0 when it went well. Returns its exit code.'''
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def run_forking(namespace, run_child):
    """Runs code in a process of its own, which forks; what it prints must be "fine"."""
    if namespace.__name__ == "asyncio":
        pytest.skip("asyncio's loop is shared with a forked child")

    def run(code):
        child = run_child(PRELUDE + code, arguments=())
        assert (child.returncode, child.stdout) == (0, "fine\n"), child.stderr

    return run


LOOK_UPS_THAT_RUN = """
begun, go = threading.Semaphore(0), threading.Event()

def getaddrinfo(*arguments):
    begun.release()
    assert go.wait(30)
    return [arguments]

async def look_up(names=8):
    '''Starts look-ups: four of them run, the others are queued.'''
    socket.getaddrinfo = getaddrinfo
    asking = [asyncio.ensure_future(loop.getaddrinfo(f"{n}.test", 80)) for n in range(names)]
    for _ in range(4):
        while not begun.acquire(blocking=False):
            await asyncio.sleep(0)
    return asking
"""


def test_a_child_forked_while_names_are_looked_up_closes_its_loop_and_makes_another(run_forking):
    run_forking(
        LOOK_UPS_THAT_RUN
        + """
async def main():
    asking = await look_up()
    blocked = loop.run_in_executor(None, go.wait, 30)

    def child():
        asyncio._set_running_loop(None)
        for refused in (loop.call_soon, loop.call_soon_threadsafe):
            try:
                refused(print)
            except RuntimeError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError("the parent's loop took a callback")
        new = namespace.new_event_loop()

        async def work():
            go.set()
            assert await new.run_in_executor(None, abs, -1) == 1
            return await new.getaddrinfo("child.test", 80)

        assert new.run_until_complete(work()) == [("child.test", 80, 0, 0, 0, 0)]
        new.run_until_complete(new.shutdown_default_executor())
        new.close()

    assert in_child(child) == 0
    go.set()
    assert len(await asyncio.gather(*asking)) == 8
    await blocked

loop = new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
print("fine")
"""
    )


def test_closing_the_inherited_loop_is_safe(run_forking):
    run_forking(
        LOOK_UPS_THAT_RUN
        + """
def readable(fd):
    os.read(fd, 1)
    heard.append(fd)

heard = []
loop = new_event_loop()
reading, writing = os.pipe()
loop.add_reader(reading, readable, reading)
asking = loop.run_until_complete(look_up())

def child():
    loop.remove_signal_handler(10)
    loop.close()
    assert loop.is_closed()
    loop.close()

loop.add_signal_handler(10, print)
assert in_child(child) == 0

async def main():
    go.set()
    assert len(await asyncio.gather(*asking)) == 8
    os.write(writing, b"x")
    while not heard:
        await asyncio.sleep(0)

loop.run_until_complete(main())
loop.remove_reader(reading)
loop.close()
print("fine")
"""
    )


def test_a_child_that_leaves_by_itself_does_not_wait_for_its_parents_threads(run_forking):
    """sys.exit() in a task: the interpreter's whole way out."""
    run_forking(
        LOOK_UPS_THAT_RUN
        + """
async def main():
    asking = await look_up()
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    go.set()
    await asyncio.gather(*asking)
    return code

loop = new_event_loop()
assert loop.run_until_complete(main()) == 7
loop.close()
print("fine")
"""
    )


def test_a_child_that_goes_on_as_a_task_is_told(run_forking):
    run_forking(
        """
async def main():
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

loop = new_event_loop()
parent = os.getpid()
try:
    code = loop.run_until_complete(main())
except RuntimeError as error:
    assert os.getpid() != parent
    assert "fork" in str(error), error
    os._exit(5)
assert code == 5, code
loop.close()
print("fine")
"""
    )


def test_a_runner_in_a_child_closes_what_it_inherited(run_forking):
    run_forking(
        """
async def main():
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

parent = os.getpid()
try:
    code = namespace.run(main())
except RuntimeError as error:
    assert os.getpid() != parent
    os._exit(5 if "fork" in str(error) else 6)
assert code == 5, code
print("fine")
"""
    )


def test_connections_of_the_parent_survive_a_child_that_drops_everything(run_forking):
    run_forking(
        """
import gc

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async def ask():
        writer.write(b"hello")
        return await reader.readexactly(5)
    assert await ask() == b"hello"

    def child():
        global loop
        asyncio._set_running_loop(None)
        writer.transport.abort()
        server.close()
        loop = None
        gc.collect()

    assert in_child(child) == 0
    assert await ask() == b"hello"
    assert await ask() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    reader, writer = None, None

loop = new_event_loop()
loop.run_until_complete(main())
loop.close()
print("fine")
"""
    )
