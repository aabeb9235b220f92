"""The fixtures every test starts from: one loop per test, on asyncio first and then on aioxide.

Each test thereby proves that it describes asyncio before it judges aioxide. After each test the
loop is closed and must have left nothing: no unexpected error, pending task or open descriptor.
"""

import asyncio
import gc
import importlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest

# Started in the background by a shell, a process ignores SIGINT and so do its children: Python
# then has no Ctrl-C to test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Takes what exists by now out of the collector's sight: a collection per test is cheap."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.passed = report.passed
    return report


@pytest.fixture(params=["asyncio", "aioxide"])
def namespace(request):
    """The module under test: asyncio, or aioxide, which offers every name of asyncio."""
    return importlib.import_module(request.param)


@pytest.fixture
def behaves_as(namespace):
    """Says whether the module under test has a behaviour that CPython has since a version.

    aioxide has the newest behaviour on every Python where versions differ only by a bug fix.
    """
    return lambda *version: namespace is not asyncio or sys.version_info >= version


class LoopErrors(list):
    """The contexts that reached the loop's exception handler, in order."""

    def take(self):
        """Returns them and forgets them: the test expected them."""
        contexts = self.copy()
        self.clear()
        return contexts

    @property
    def messages(self):
        return [context["message"] for context in self]


@pytest.fixture
def loop_errors():
    """What the loop's exception handler was told; a test that expects an error takes it out."""
    return LoopErrors()


@pytest.fixture(scope="session")
def authority():
    """A certificate authority of this run, for the tests of TLS."""
    from tls_ends import Authority

    return Authority()


@pytest.fixture
def survivors():
    """Tasks that a test leaves pending on purpose: it adds them, and they are cancelled for it."""
    return []


def new_event_loop(namespace):
    """A loop of the module under test, whatever event loop policy is installed."""
    return asyncio.SelectorEventLoop() if namespace is asyncio else namespace.new_event_loop()


@pytest.fixture
def new_loop(namespace):
    """Makes further loops of the kind under test, for a test that closes them itself."""
    return lambda: new_event_loop(namespace)


def open_descriptors():
    """Every open descriptor of this process and what it refers to; the watchdog's is left out,
    which the first loop opens and the process keeps."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # The descriptor that read the directory itself.
            continue
        if "aioxide-stacks" not in target:
            descriptors[int(name)] = target
    return descriptors


def pending_after(loop, survivors):
    """Ends the declared survivors, gives what is due its turns, and returns what still waits."""
    loop.set_task_factory(None)
    for task in survivors:
        task.cancel()
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))
    return {task for task in asyncio.all_tasks(loop) if not task.done()}


@pytest.fixture
def loop(request, namespace, loop_errors, survivors):
    """A loop that records unhandled errors, is closed afterwards, and must have leaked nothing."""
    descriptors_before = open_descriptors()
    loop = new_event_loop(namespace)
    loop.set_exception_handler(lambda loop, context: loop_errors.append(context))
    yield loop
    pending = set() if loop.is_closed() else pending_after(loop, survivors)
    messages = [repr(task) for task in pending]
    for task in pending:
        task.cancel()
    if pending:
        pending_after(loop, [])
    loop.close()
    survivors.clear()
    del pending, loop
    gc.collect()
    if not getattr(request.node, "passed", False):
        return
    assert messages == [], "tasks are still pending"
    assert loop_errors == [], "errors reached the loop's exception handler"
    left = open_descriptors().items() - descriptors_before.items()
    assert len(open_descriptors()) <= len(descriptors_before), f"descriptors were left open: {left}"


@pytest.fixture
def run_child(namespace):
    """Runs Python code in a child process under ``-X dev -W error``.

    The code finds the module under test as ``namespace`` and its loops as ``new_event_loop()``.
    """

    def run(code, *, arguments=("-X", "dev", "-W", "error"), environment=None, timeout=40):
        new = "asyncio.SelectorEventLoop" if namespace is asyncio else "namespace.new_event_loop"
        prelude = f"import asyncio, {namespace.__name__} as namespace\nnew_event_loop = {new}\n"
        return subprocess.run(
            [sys.executable, *arguments, "-c", prelude + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
            check=False,
        )

    return run


def resident_bytes():
    """How much memory this process occupies."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def resident_growth():
    """Measures by how many bytes repeating some work makes the process grow, after a warm-up."""

    def measure(work, *, warm_up=2, repeat=3):
        for _ in range(warm_up):
            work()
        gc.collect()
        before = resident_bytes()
        for _ in range(repeat):
            work()
        gc.collect()
        return resident_bytes() - before

    return measure
