"""`python -m aioxide`: runs a program, unchanged, with aioxide's loop as asyncio's default.

Run by people. What it runs sees `sys.argv`, `__main__` and `sys.path` as under `python` itself and
ends as it does there, and so do processes that it starts with `multiprocessing`.
"""

import functools
import importlib.machinery
import io
import os
import pkgutil
import runpy
import sys
import types
from typing import Any, NoReturn

from . import __version__, _compat
from .children import follow_children

# No docstring: there is none under `python -OO`.
ABOUT = "Runs a program, unchanged, with aioxide's event loop as asyncio's default."
USAGE = """\
    python -m aioxide [--debug] script.py args…
    python -m aioxide [--debug] -m module args…
    python -m aioxide [--debug] -c code args…
    python -m aioxide                            the asyncio REPL on aioxide's loop"""


def _new_main() -> types.ModuleType:
    """A `__main__` module of the program's own; this file's stays alive in our frames."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    vars(module).update(__builtins__=sys.modules["builtins"])
    vars(module).update(__loader__=importlib.machinery.BuiltinImporter)
    return module


def _set_first_path(entry: str) -> None:
    """Put the program's directory where `python -m aioxide` has the current one."""
    if sys.flags.safe_path:
        return
    sys.path[0] = entry


def _run_script(path: str, arguments: list[str]) -> None:
    sys.argv[:] = [path, *arguments]
    file = os.getcwd() if path == "." else os.path.join(os.getcwd(), path)
    if pkgutil.get_importer(file) is not None:
        # A directory or a zip file: python runs the `__main__` inside.
        if sys.flags.safe_path:
            sys.path.insert(0, file)
        _set_first_path(file)
        _run_module_as_main("__main__", alter_argv=False)
        return
    source = _read(file)
    _set_first_path(os.path.dirname(os.path.realpath(file)))
    main = _new_main()
    main.__file__ = file
    vars(main)["__cached__"] = None
    compiled = pkgutil.read_code(io.BytesIO(source))
    if compiled is None:
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", file)
        compiled = compile(source, file, "exec", dont_inherit=True)
    else:
        main.__loader__ = importlib.machinery.SourcelessFileLoader("__main__", file)
    exec(compiled, vars(main))


def _read(path: str) -> bytes:
    try:
        with io.open_code(path) as file:
            return file.read()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
    print(f"{sys.executable}: can't open file {path!r}: {reason}", file=sys.stderr)
    raise SystemExit(2)


def _run_code(code: str, arguments: list[str]) -> None:
    sys.argv[:] = ["-c", *arguments]
    _set_first_path("")
    compiled = compile(code + "\n", "<string>", "exec", dont_inherit=True)
    _compat.show_source(compiled, code + "\n")
    exec(compiled, vars(_new_main()))


def _run_module(name: str, arguments: list[str]) -> None:
    # runpy puts the module's file in the place of "-m" once it has found it.
    sys.argv[:] = ["-m", *arguments]
    _run_module_as_main(name, alter_argv=True)


def _run_module_as_main(name: str, alter_argv: bool) -> None:
    """What python itself calls to run a module: it runs in the `__main__` it finds."""
    _new_main()
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


def _report(hook: Any, kind: Any, error: BaseException, traceback: Any) -> None:
    """Show an exception that nobody caught, beginning with the program's own frames.

    Above them are those that run this file and those of this file; an exception that it holds as
    its cause or in a group was caught further down and has none of them.
    """
    while traceback is not None and not _is_own(traceback):
        traceback = traceback.tb_next
    while traceback is not None and _is_own(traceback):
        traceback = traceback.tb_next
    sys.excepthook = hook
    sys.last_traceback = traceback
    hook(kind, error.with_traceback(traceback), traceback)


def _is_own(traceback: types.TracebackType) -> bool:
    return traceback.tb_frame.f_code.co_filename == __file__


def _run(first: str, rest: list[str]) -> None:
    try:
        if first == "-m":
            _run_module(rest[0], rest[1:])
        elif first == "-c":
            _run_code(rest[0], rest[1:])
        else:
            _run_script(first, rest)
    except SystemExit:
        raise
    except BaseException:
        # Python ends as it does for any program; only the frames to be shown are chosen here.
        sys.excepthook = functools.partial(_report, sys.excepthook)
        raise


def _fail(message: str) -> NoReturn:
    print(f"{message}\n\n{USAGE}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Parse the command line up to the program, and run it."""
    arguments = sys.argv[1:]
    while arguments and arguments[0] == "--debug":
        os.environ["PYTHONASYNCIODEBUG"] = "1"
        del arguments[0]
    first, *rest = arguments or ["-m", "asyncio"]
    if first in {"-h", "--help"}:
        print(f"{ABOUT}\n\n{USAGE}")
    elif first in {"-V", "--version"}:
        print(f"aioxide {__version__}")
    elif first in {"-m", "-c"} and not rest:
        _fail(f"argument expected for the {first} option")
    elif first.startswith("-") and first not in {"-m", "-c"}:
        _fail(f"unknown option {first}")
    else:
        follow_children()
        _run(first, rest)


if __name__ == "__main__":
    main()
