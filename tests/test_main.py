"""`python -m aioxide`: programs run as under python itself, on aioxide's loop.

Run by pytest.  Each program runs twice, under `python` and under `python -m aioxide`, and must
print the same, fail the same and end the same; only the loop differs.
"""

import os
import py_compile
import re
import subprocess
import sys
import textwrap

import pytest

DEADLINE = 60


def run(*arguments, directory, under=(), stdin="", flags=("-X", "dev")):
    """A child python: its exit code, output and errors."""
    child = subprocess.run(
        [sys.executable, *flags, *under, *arguments],
        cwd=directory,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return child.returncode, child.stdout, child.stderr


def same(*arguments, directory, stdin="", **given):
    """What a program does, having checked that it does it under both."""
    plain = run(*arguments, directory=directory, stdin=stdin, **given)
    ours = run(*arguments, directory=directory, stdin=stdin, under=("-m", "aioxide"), **given)
    assert ours == plain
    return ours


def write(directory, name, code):
    (directory / name).write_text(textwrap.dedent(code))
    return name


LOOP_OF_RUN = """
import asyncio

async def main():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]

if __name__ == "__main__":
    print(asyncio.run(main()))
"""


# Which loop


def test_asyncio_run_is_on_aioxide(tmp_path):
    script = write(tmp_path, "program.py", LOOP_OF_RUN)
    module = ("-m", "program")
    code = ("-c", LOOP_OF_RUN)
    for arguments in ((script,), module, code):
        plain = run(*arguments, directory=tmp_path)
        ours = run(*arguments, directory=tmp_path, under=("-m", "aioxide"))
        assert plain == (0, "asyncio\n", "")
        assert ours == (0, "aioxide\n", "")


def test_every_way_to_get_a_loop(tmp_path):
    script = write(
        tmp_path,
        "program.py",
        """
        import asyncio

        def module_of(loop):
            return type(loop).__module__.split(".")[0]

        async def main():
            return module_of(asyncio.get_running_loop())

        with asyncio.Runner() as runner:
            print("Runner", runner.run(main()))
            print("get_loop", module_of(runner.get_loop()))
        loop = asyncio.new_event_loop()
        print("new_event_loop", module_of(loop))
        loop.close()
        loop = asyncio.events.new_event_loop()
        print("events.new_event_loop", module_of(loop))
        loop.close()
        """,
    )
    code, output, errors = run(
        script, directory=tmp_path, under=("-m", "aioxide"), flags=("-X", "dev", "-W", "error")
    )
    assert (code, errors) == (0, "")
    assert {line.split()[-1] for line in output.splitlines()} == {"aioxide"}


def test_spawned_children_run_on_aioxide(tmp_path):
    script = write(
        tmp_path,
        "program.py",
        """
        import asyncio
        import concurrent.futures
        import multiprocessing

        async def main():
            return type(asyncio.get_running_loop()).__module__.split(".")[0]

        def child(depth):
            found = [asyncio.run(main())]
            if depth:
                context = multiprocessing.get_context("spawn")
                with context.Pool(1) as pool:
                    found += pool.apply(grandchild)
            return found

        def grandchild():
            return [asyncio.run(main())]

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                print(*pool.submit(child, 1).result())
                print(*pool.map(child, [0, 0]))
        """,
    )
    assert run(script, directory=tmp_path)[1] == "asyncio asyncio\n['asyncio'] ['asyncio']\n"
    code, output, errors = run(script, directory=tmp_path, under=("-m", "aioxide"))
    assert (code, errors) == (0, "")
    assert output == "aioxide aioxide\n['aioxide'] ['aioxide']\n"


def test_forkserver_and_fork_children_run_on_aioxide(tmp_path):
    script = write(
        tmp_path,
        "program.py",
        """
        import asyncio
        import multiprocessing
        import sys

        async def main():
            return type(asyncio.get_running_loop()).__module__.split(".")[0]

        def child(queue):
            queue.put(asyncio.run(main()))

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            print(queue.get(timeout=30))
            process.join()
        """,
    )
    for method in ("fork", "forkserver"):
        code, output, errors = run(
            script, method, directory=tmp_path, under=("-m", "aioxide"), flags=()
        )
        assert (method, code, output, errors) == (method, 0, "aioxide\n", "")


# The same as python


def test_a_script_sees_what_it_sees_under_python(tmp_path):
    script = write(
        tmp_path,
        "program.py",
        """
        import sys
        print(sys.argv, __name__, __file__, __doc__, __package__)
        print(sys.path[0], sys.modules["__main__"].__dict__ is globals())
        import neighbour
        print(neighbour.name, sys.flags.dev_mode)
        class Here:
            pass
        print(Here.__module__, type(__builtins__).__name__)
        print(sys.stdin.read())
        """,
    )
    write(tmp_path, "neighbour.py", "name = __name__")
    arguments = ("one", "--two", "-c", "-m", "three")
    assert same(script, *arguments, directory=tmp_path, stdin="input")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    assert same(f"../{script}", *arguments, directory=tmp_path / "elsewhere")[0] == 0
    assert same(str(tmp_path / script), directory=tmp_path / "elsewhere")[0] == 0
    (tmp_path / "elsewhere" / "link.py").symlink_to(tmp_path / script)
    assert same("./elsewhere/link.py", directory=tmp_path)[0] == 0
    safe = {"directory": tmp_path, "flags": ("-P",)}
    assert same("-c", "import sys; print(sys.path[0])", **safe)[0] == 0


def test_a_module_sees_what_it_sees_under_python(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    write(
        package,
        "__init__.py",
        """
        print("package", __name__)
        """,
    )
    write(
        package,
        "__main__.py",
        """
        import sys
        from . import part
        print(sys.argv, __name__, __file__, __package__, __spec__.name, part.name)
        """,
    )
    write(
        package,
        "part.py",
        "name = __name__\nimport sys\nif __name__ == '__main__': print(sys.argv)",
    )
    assert same("-m", "package", "a", "--b", directory=tmp_path)[0] == 0
    assert same("-m", "package.part", "-x", directory=tmp_path)[0] == 0
    assert same("-m", "json.tool", directory=tmp_path, stdin='{"a": 1}')[0] == 0


def test_code_sees_what_it_sees_under_python(tmp_path):
    code = "import sys; print(sys.argv, __name__, sys.path[0], '__file__' in globals())"
    assert same("-c", code, "a", "-b", directory=tmp_path)[0] == 0


def test_a_directory_and_a_zip_file_are_programs(tmp_path):
    program = tmp_path / "program"
    program.mkdir()
    write(program, "__main__.py", "import sys, other; print(sys.argv, other.name)")
    write(program, "other.py", "name = 'other'")
    assert same("program", "argument", directory=tmp_path)[0] == 0
    assert same("./program/", directory=tmp_path)[0] == 0
    assert same(".", directory=program)[0] == 0
    subprocess.run([sys.executable, "-m", "zipapp", "program"], cwd=tmp_path, check=True)
    assert same("program.pyz", "argument", directory=tmp_path)[0] == 0


@pytest.mark.parametrize(
    "ending",
    [
        "raise SystemExit",
        "raise SystemExit(3)",
        "raise SystemExit('a message')",
        "import sys; sys.exit(None)",
        "import os; os._exit(9)",
        "import asyncio\nasync def main(): raise SystemExit(4)\nasyncio.run(main())",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import atexit; atexit.register(print, 'at exit')",
    ],
)
def test_exit_codes(tmp_path, ending):
    script = write(tmp_path, "program.py", "")
    (tmp_path / script).write_text(f"print('begun', flush=True)\n{ending}\n")
    assert same(script, directory=tmp_path)[1].startswith("begun\n")
    same("-m", "program", directory=tmp_path)
    same("-c", (tmp_path / script).read_text(), directory=tmp_path)


@pytest.mark.parametrize(
    "failing",
    [
        "1 / 0",
        "def inner():\n    raise ValueError('deep')\ndef outer():\n    inner()\nouter()",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError('second')",
        "raise ExceptionGroup('group', [ValueError(1), TypeError(2)])",
        "import no_such_module",
        "raise KeyboardInterrupt",
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError('alone') from None",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError from error",
        "def fail():\n    raise OSError\ntry:\n    fail()\nexcept OSError as error:\n"
        "    raise ExceptionGroup('group', [error, ExceptionGroup('inner', [ValueError(3)])])",
        "raise RuntimeError('shown') from RuntimeError('never raised')",
    ],
)
def test_tracebacks(tmp_path, failing):
    script = write(tmp_path, "program.py", "")
    (tmp_path / script).write_text(f"{failing}\n")
    for arguments in ((script,), ("-c", failing)):
        code, output, errors = same(*arguments, directory=tmp_path)
        assert code != 0
        assert output == ""
        assert "Traceback" in errors
        assert "aioxide" not in errors
    assert "aioxide" not in same("-m", "program", directory=tmp_path)[2]


def test_a_hook_for_uncaught_exceptions_sees_what_it_sees_under_python(tmp_path):
    script = write(
        tmp_path,
        "program.py",
        """
        import sys
        import traceback

        def hook(kind, error, trace):
            assert error.__traceback__ is trace is sys.last_traceback
            print(kind.__name__, error, [frame.name for frame in traceback.extract_tb(trace)])

        def fail():
            raise ValueError("told to the hook")

        assert sys.excepthook is sys.__excepthook__
        sys.excepthook = hook
        fail()
        """,
    )
    assert same(script, directory=tmp_path) == (
        1,
        "ValueError told to the hook ['<module>', 'fail']\n",
        "",
    )


def test_the_main_module_has_what_it_has_under_python(tmp_path):
    code = (
        "for name, value in sorted(globals().items()):\n"
        "    if name not in {'__annotations__', 'value', 'name'}:\n"
        "        print(name, getattr(value, '__name__', type(value)))\n"
    )
    script = write(tmp_path, "program.py", code)
    for arguments in ((script,), ("-m", "program"), ("-c", code)):
        assert same(*arguments, directory=tmp_path)[0] == 0


def test_a_compiled_file_is_a_program(tmp_path):
    script = write(tmp_path, "program.py", "print(__file__)\n1 / 0\n")
    py_compile.compile(tmp_path / script, tmp_path / "compiled.pyc")
    code, output, _ = same("compiled.pyc", directory=tmp_path)
    assert (code, output) == (1, f"{tmp_path / 'compiled.pyc'}\n")


def test_a_traceback_through_asyncio_run(tmp_path):
    """The frames of the loop differ; the program's own and the error do not."""
    script = write(
        tmp_path,
        "program.py",
        """
        import asyncio

        async def inner():
            await asyncio.sleep(0)
            raise ValueError("deep")

        async def main():
            await inner()

        asyncio.run(main())
        """,
    )
    plain = run(script, directory=tmp_path)
    ours = run(script, directory=tmp_path, under=("-m", "aioxide"))
    assert plain[:2] == ours[:2] == (1, "")

    def own_frames(errors):
        return re.findall(r'File ".*program\.py", line \d+, in \S+\n.*', errors)

    assert own_frames(ours[2]) == own_frames(plain[2])
    assert len(own_frames(ours[2])) == 3
    assert ours[2].splitlines()[-1] == "ValueError: deep"


def test_a_syntax_error(tmp_path):
    text = "print('never')\ndef broken(:\n"
    script = write(tmp_path, "program.py", text)
    for arguments in ((script,), ("-m", "program"), ("-c", text)):
        code, output, errors = same(*arguments, directory=tmp_path)
        assert (code, output) == (1, "")
        assert errors.splitlines()[-1].startswith("SyntaxError")


def test_a_script_that_does_not_exist(tmp_path):
    code, output, errors = same("missing.py", directory=tmp_path)
    assert (code, output) == (2, "")
    assert "can't open file" in errors
    assert "missing.py" in errors
    code, output, errors = same("-m", "no_such_module", directory=tmp_path)
    assert (code, output) == (1, "")
    assert "No module named no_such_module" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [("-m",), ("-c",), ("--no-such-option",), ("-x",)])
def test_a_command_line_that_makes_no_sense(tmp_path, arguments):
    code, output, errors = run(*arguments, directory=tmp_path, under=("-m", "aioxide"))
    assert (code, output) == (2, "")
    assert "python -m aioxide" in errors
    assert "Traceback" not in errors


def test_help_and_programs_without_docstrings(tmp_path):
    ours = {"directory": tmp_path, "under": ("-m", "aioxide")}
    for flags in ((), ("-OO",)):
        code, output, errors = run("--help", flags=flags, **ours)
        assert (code, errors) == (0, "")
        assert "python -m aioxide [--debug] script.py args" in output
        assert run("-c", "print(__doc__)", flags=flags, **ours) == (0, "None\n", "")


def test_debug_mode(tmp_path):
    code = (
        "import asyncio\n"
        "async def main(): return asyncio.get_running_loop().get_debug()\n"
        "print(asyncio.run(main()))"
    )
    ours = {"directory": tmp_path, "under": ("-m", "aioxide"), "flags": ()}
    assert run("-c", code, **ours) == (0, "False\n", "")
    assert run("--debug", "-c", code, **ours) == (0, "True\n", "")


def test_the_repl_is_on_aioxide(tmp_path):
    session = """
import asyncio
print("answer", await asyncio.sleep(0, 42))
print("loop", type(asyncio.get_running_loop()).__module__.split(".")[0])
1 / 0
print("still", "here")
"""
    code, output, errors = run(directory=tmp_path, under=("-m", "aioxide"), stdin=session)
    assert code == 0
    assert "answer 42" in output
    assert "loop aioxide" in output
    assert "ZeroDivisionError" in errors
    assert "still here" in output


def test_unittest_runs_under_it(tmp_path):
    write(
        tmp_path,
        "test_program.py",
        """
        import asyncio
        import unittest

        class Case(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                self.queue = asyncio.Queue()

            async def test_loop(self):
                module = type(asyncio.get_running_loop()).__module__
                self.assertEqual(module.split(".")[0], "aioxide")
                await self.queue.put(1)
                self.assertEqual(await self.queue.get(), 1)
        """,
    )
    code, _, errors = run(
        "-m", "unittest", "-q", "test_program", directory=tmp_path, under=("-m", "aioxide")
    )
    assert code == 0, errors
    assert "OK" in errors
