"""`python -m aioxide`: runs a program, unchanged, with aioxide's loop as asyncio's default.

    python -m aioxide [--debug] script.py args…
    python -m aioxide [--debug] -m module args…
    python -m aioxide [--debug] -c code args…
    python -m aioxide                            the asyncio REPL on aioxide's loop

What is run sees `sys.argv`, `__main__` and `sys.path` as under `python` itself, and so do
processes that it spawns.
"""

import io
import os
import runpy
import sys
import types
from typing import Any

from . import __version__
from .children import follow_children

USAGE = (__doc__ or "").split("\n\n")[1]


def _trim_tracebacks() -> None:
    """Leave the frames of this file out of what an uncaught exception prints."""
    original = sys.excepthook
    own = {__file__, runpy.__file__}

    def hook(kind: Any, error: Any, traceback: Any) -> None:
        while (
            traceback is not None
            and traceback.tb_next is not None
            and traceback.tb_frame.f_code.co_filename in own | {"<frozen runpy>"}
        ):
            traceback = traceback.tb_next
        original(kind, error.with_traceback(traceback), traceback)

    sys.excepthook = hook


def _new_main(name: str | None) -> dict[str, Any]:
    """A `__main__` module of the program's own; this file's stays alive in our frames."""
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    namespace.update(__builtins__=__builtins__, __spec__=None, __loader__=None)
    if name is not None:
        namespace.update(__file__=name, __cached__=None)
    sys.modules["__main__"] = module
    return namespace


def _run_script(path: str, arguments: list[str]) -> None:
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        sys.argv[:] = [path, *arguments]
        sys.path[0] = path
        runpy.run_path(path, run_name="__main__")
        return
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        command = f"{sys.executable} -m aioxide"
        print(
            f"{command}: can't open file {os.path.abspath(path)!r}: "
            f"[Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    sys.argv[:] = [path, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    code = compile(source, path, "exec", dont_inherit=True)
    exec(code, _new_main(os.path.abspath(path)))


def _run_code(code: str, arguments: list[str]) -> None:
    sys.argv[:] = ["-c", *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = ""
    exec(compile(code + "\n", "<string>", "exec", dont_inherit=True), _new_main(None))


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv[:] = [name, *arguments]
    # What `python -m name` itself calls: runs in the real `__main__`.
    runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _fail(message: str) -> None:
    print(f"{message}\n\n{USAGE}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Parse the command line up to the program, and run it."""
    arguments = sys.argv[1:]
    while arguments and arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option == "--debug":
            os.environ["PYTHONASYNCIODEBUG"] = "1"
        elif option == "--help":
            print(__doc__)
            return
        elif option == "--version":
            print(f"aioxide {__version__}")
            return
        else:
            _fail(f"unknown option {option}")
    if arguments and arguments[0] in {"-h", "-V"}:
        print(__doc__ if arguments[0] == "-h" else f"aioxide {__version__}")
        return
    follow_children()
    _trim_tracebacks()
    if not arguments:
        _run_module("asyncio", [])
        return
    first, rest = arguments[0], arguments[1:]
    if first in {"-m", "-c"}:
        if not rest:
            _fail(f"argument expected for the {first} option")
        run = _run_module if first == "-m" else _run_code
        run(rest[0], rest[1:])
    elif first.startswith("-"):
        _fail(f"unknown option {first}")
    else:
        _run_script(first, rest)


main()
