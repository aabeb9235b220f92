#!/usr/bin/env python3
"""The project's commands: build, run, test, check, measure. Standard library only.

Called by people and by .ci/run, with any CPython from 3.11 on; `python3 dev.py` lists the verbs.
It works in environments of its own, .venv/3.X beside this file, one for each Python, and in
the Cargo target directory; it never installs anything anywhere else.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)

# Asked before the first annotation that an older Python could not read.
if sys.version_info < OLDEST_PYTHON:
    sys.exit("dev.py: CPython 3.11 or newer is needed; this is " + sys.version.split()[0])

Command = list[str | Path]

# The crates that know no Python: `cargo test` is theirs, pytest tests the others.
CRATES_WITHOUT_PYTHON = ("engine", "wire")

# Asked of an interpreter before it is used; one line of JSON comes back.
PROBE = """
import importlib.util, json, sys
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": sys.version_info[:3],
    "executable": sys.executable,
    "home": sys.base_prefix,
    "ensurepip": importlib.util.find_spec("ensurepip") is not None,
}))
"""

# What a release wheel must manage in an environment that holds nothing but the wheel.
WHEEL_PROGRAM = """
import importlib.metadata, importlib.util, pathlib, sys
import aioxide

assert not any(name.startswith("aioxide.integrations") for name in sys.modules), "unasked for"
import aioxide.integrations.unittest

async def answer(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()
    await writer.wait_closed()

async def main():
    server = await aioxide.start_server(answer, "127.0.0.1", 0)
    async with server:
        reader, writer = await aioxide.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\\n")
        line = await aioxide.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
    return line, aioxide.get_running_loop()

line, loop = aioxide.run(main())
assert line == b"HELLO\\n", line
assert isinstance(loop, aioxide.EventLoop), loop
assert pathlib.Path(aioxide.__file__).is_relative_to(sys.prefix), aioxide.__file__
assert not importlib.metadata.requires("aioxide"), "a mandatory dependency"
(plugin,) = importlib.metadata.entry_points(group="pytest11", name="aioxide")
for host in (plugin.value, "aioxide.integrations.gunicorn", "aioxide.integrations.ipython"):
    assert importlib.util.find_spec(host), host
try:
    import aioxide.integrations.granian
except ImportError as error:
    assert "pip install granian" in str(error), error
print("the wheel works in an empty environment of CPython", sys.version.split()[0])
"""


def fail(message: str, code: int = 1) -> NoReturn:
    """Ends dev.py with a sentence instead of a traceback."""
    print(f"dev.py: {message}", file=sys.stderr)
    sys.exit(code)


def run(command: Command, variables: dict[str, str]) -> None:
    """Shows a command and runs it from the project's root; ends dev.py if it fails."""
    words = [str(word) for word in command]
    shown = shlex.join(word.removeprefix(f"{ROOT}/") if "\n" not in word else "…" for word in words)
    print(f"$ {shown}", flush=True)
    try:
        code = subprocess.run(words, cwd=ROOT, env=variables).returncode
    except FileNotFoundError:
        fail(f"there is no program {words[0]}", 127)
    if code < 0:
        fail(f"killed by signal {-code}: {shown}", 128 - code)
    if code > 0:
        fail(f"failed with code {code}: {shown}", code)


class Interpreter:
    """A CPython of this machine, as it describes itself."""

    def __init__(self, path: str) -> None:
        try:
            answer = subprocess.run([path, "-c", PROBE], capture_output=True, text=True)
        except OSError as error:
            fail(f"cannot run the Python interpreter {path}: {error.strerror}")
        if answer.returncode != 0:
            reason = (answer.stderr.strip() or "no message").splitlines()[-1]
            fail(f"{path} does not work as a Python interpreter: {reason}")
        facts = json.loads(answer.stdout)
        self.version = ".".join(map(str, facts["version"]))
        self.series = ".".join(map(str, facts["version"][:2]))
        self.executable: str = facts["executable"]
        self.home: str = facts["home"]
        self.has_ensurepip: bool = facts["ensurepip"]
        if facts["implementation"] != "cpython" or tuple(facts["version"]) < OLDEST_PYTHON:
            fail(
                f"aioxide needs CPython 3.11 or newer; {path} is "
                f"{facts['implementation']} {self.version}. Name another with --python PATH."
            )


class Environment:
    """The virtual environment of one Python, and what programs started in it are told."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.directory = ROOT / ".venv" / interpreter.series
        self.python = self.directory / "bin" / "python"
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()
        self.target_without_python = target / "rust"
        # PyO3 is compiled for one interpreter: in a directory that two of them share, it and all
        # that stands on it would be compiled again at every change from one to the other.
        target_of_this_python = target / f"py{interpreter.series}"
        # Without VIRTUAL_ENV maturin installs into whichever environment it finds first.
        self.variables = {
            **os.environ,
            "VIRTUAL_ENV": str(self.directory),
            "PATH": os.pathsep.join(
                [str(self.python.parent), str(cargo_directory()), os.environ.get("PATH", "")]
            ),
            "CARGO_TARGET_DIR": str(target_of_this_python),
            "PYO3_PYTHON": str(self.python),
        }
        for foreign in ("CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH"):
            self.variables.pop(foreign, None)

    def prepare(self, *requirements: str) -> None:
        """Creates the environment if need be, and installs what is listed."""
        self._create_unless_it_is_there()
        for name in requirements:
            self._install(ROOT / name)
        print(f"CPython {self.interpreter.version} in .venv/{self.directory.name}", flush=True)

    def _create_unless_it_is_there(self) -> None:
        """A Python that was replaced, or a clone that was moved, makes an environment stale."""
        stamp = self.directory / "created-for"
        origin = f"{self.interpreter.home} {self.interpreter.version} {self.directory}"
        if self.python.exists() and stamp.exists() and stamp.read_text() == origin:
            return
        host = self.interpreter.executable
        create: Command = [host, "-m", "venv", "--clear", self.directory]
        if self.interpreter.has_ensurepip:
            run(create, self.variables)
        else:
            run([*create, "--without-pip"], self.variables)
            self._bring_pip(host)
        stamp.write_text(origin)

    def _bring_pip(self, host: str) -> None:
        """Debian ships Python without ensurepip: the pip of the machine then installs ours."""
        programs = [[host, "-m", "pip"], ["pip3"], ["pip"]]
        for pip in programs:
            if shutil.which(pip[0]) is None:
                continue
            if subprocess.run([*pip, "--version"], capture_output=True).returncode == 0:
                run([*pip, "--python", self.python, "install", "--quiet", "pip"], self.variables)
                return
        fail(
            f"{host} has neither ensurepip nor pip to fill an environment with. "
            "On Debian: apt install python3-pip"
        )

    def _install(self, requirements: Path) -> None:
        """Installs a requirements file, unless this very content is installed."""
        digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
        stamp = self.directory / f"{requirements.parent.name}-{requirements.stem}-installed"
        if stamp.exists() and stamp.read_text() == digest:
            return
        command: Command = [self.python, "-m", "pip", "install", "--quiet"]
        command += ["--requirement", requirements]
        if requirements.stem.endswith("optional"):
            command.append("--only-binary=:all:")
            if subprocess.run(command, cwd=ROOT, env=self.variables).returncode != 0:
                print(f"going on without {requirements.relative_to(ROOT)}", flush=True)
        else:
            run(command, self.variables)
        stamp.write_text(digest)

    def use(self, module: str, *arguments: str | Path) -> None:
        """Runs a module of the environment: as a module, since scripts hold absolute paths."""
        run([self.python, "-m", module, *arguments], self.variables)

    def cargo(self, *arguments: str) -> None:
        """Runs cargo for this Python's build of the crates."""
        run(["cargo", *arguments], self.variables)

    def build(self, profile: str) -> None:
        """Compiles the extension and installs the package, editable, into the environment."""
        self.use("maturin", "develop", "--profile", profile)


def cargo_directory() -> Path:
    """Where cargo is, even in a shell that was opened before Rust was installed."""
    installed = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "bin" / "cargo"
    found = shutil.which("cargo") or (installed if installed.exists() else None)
    if found is None:
        oldest = re.search(r'rust-version = "(.+)"', (ROOT / "Cargo.toml").read_text())
        version = f" {oldest[1]} or newer" if oldest else ""
        fail(f"there is no cargo: install Rust{version} (https://rustup.rs), then try again")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        fail("there is no C compiler, which Rust links with. On Debian: apt install gcc libc6-dev")
    return Path(found).parent


def run_tour(environment: Environment, options: argparse.Namespace) -> None:
    """build, then the tour: every part at work, beside asyncio"""
    environment.prepare("tests/requirements.txt")
    environment.build("release")
    run([environment.python, "examples/tour.py", *options.passed_on], environment.variables)


def test(environment: Environment, options: argparse.Namespace) -> None:
    """everything that must pass: cargo test, the checked build, pytest"""
    environment.prepare("tests/requirements.txt", "tests/requirements-hosts.txt")
    crates = [name for name in CRATES_WITHOUT_PYTHON if (ROOT / "crates" / name).is_dir()]
    without_python = {
        **environment.variables,
        "CARGO_TARGET_DIR": str(environment.target_without_python),
    }
    run(["cargo", "test", *(f"--package={name}" for name in crates)], without_python)
    environment.build("checked")
    environment.use("pytest", "-q", *options.passed_on)
    print(f"CPython {environment.interpreter.version}: all tests passed")


def check(environment: Environment, options: argparse.Namespace) -> None:
    """rustfmt, clippy, ruff and mypy; changes nothing"""
    environment.prepare("tests/requirements.txt")
    environment.cargo("fmt", "--all", "--check")
    environment.cargo("clippy", "--workspace", "--all-targets", "--", "-D", "warnings")
    environment.use("ruff", "format", "--check", ".")
    environment.use("ruff", "check", ".")
    environment.use("mypy", "--strict", "python/")


def bench(environment: Environment, options: argparse.Namespace) -> None:
    """the benches on the release build, beside asyncio and other loops"""
    benches = ("benches/requirements.txt", "benches/requirements-optional.txt")
    environment.prepare("tests/requirements.txt", *benches)
    environment.build("release")
    run([environment.python, "benches/run.py", *options.passed_on], environment.variables)


def fmt(environment: Environment, options: argparse.Namespace) -> None:
    """rustfmt and ruff, in place"""
    environment.prepare("tests/requirements.txt")
    environment.cargo("fmt", "--all")
    environment.use("ruff", "check", "--select", "I", "--fix", ".")
    environment.use("ruff", "format", ".")


def soak(environment: Environment, options: argparse.Namespace) -> None:
    """mixed traffic with cancels and resets, for --seconds N, watched for leaks and losses"""
    environment.prepare("tests/requirements.txt")
    environment.build("release")
    run_for_a_while(environment, options, "tests/soak/run.py")


def fuzz(environment: Environment, options: argparse.Namespace) -> None:
    """random peers against random protocols, for --seconds N; --seed and --case repeat"""
    environment.prepare("tests/requirements.txt")
    environment.build("checked")
    run_for_a_while(environment, options, "tests/fuzz/run.py", "-X", "dev", "-W", "error")


def run_for_a_while(
    environment: Environment, options: argparse.Namespace, script: str, *flags: str
) -> None:
    """Starts a script that takes a duration, a seed and a loop."""
    given = ["--seconds", str(options.seconds), "--loop", options.loop]
    for name in ("seed", "case"):
        if getattr(options, name, None) is not None:
            given += [f"--{name}", str(getattr(options, name))]
    command: Command = [environment.python, *flags, script, *given, *options.passed_on]
    run(command, environment.variables)


def suites(environment: Environment, options: argparse.Namespace) -> None:
    """other projects' test suites, on asyncio and on aioxide (names of suites after --)"""
    environment.prepare("tests/requirements.txt")
    environment.build("checked")
    run([environment.python, "tests/suites/run.py", *options.passed_on], environment.variables)


def wheel(environment: Environment, options: argparse.Namespace) -> None:
    """build the release wheel into dist/ and try it in an empty environment"""
    environment.prepare("tests/requirements.txt")
    with tempfile.TemporaryDirectory() as name:
        empty, built = Path(name) / "empty", Path(name) / "built"
        build: Command = ["build", "--release", "--interpreter", environment.python, "--out", built]
        environment.use("maturin", *build)
        (package,) = built.glob("*.whl")
        host = environment.interpreter.executable
        run([host, "-m", "venv", "--without-pip", empty], environment.variables)
        alone: Command = ["install", "--quiet", "--no-deps", "--no-index", package]
        environment.use("pip", "--python", empty / "bin" / "python", *alone)
        run([empty / "bin" / "python", "-I", "-c", WHEEL_PROGRAM], environment.variables)
        (ROOT / "dist").mkdir(exist_ok=True)
        kept = ROOT / "dist" / package.name
        shutil.move(package, kept)
        print(f"{kept.relative_to(ROOT)}: {kept.stat().st_size / 1e6:.1f} MB")


VERBS = {
    "run": run_tour,
    "test": test,
    "check": check,
    "bench": bench,
    "fmt": fmt,
    "soak": soak,
    "fuzz": fuzz,
    "suites": suites,
    "wheel": wheel,
}
PASS_ARGUMENTS_ON = {"run", "test", "bench", "soak", "fuzz", "suites"}


def command_line() -> argparse.ArgumentParser:
    """The verbs and their options; arguments after `--` belong to the program that is started."""
    choice = argparse.ArgumentParser(add_help=False)
    choice.add_argument(
        "--python",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="the CPython to work with (default: the one that runs dev.py)",
    )
    parser = argparse.ArgumentParser(
        prog="dev.py",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
        description="Builds, runs, tests and measures aioxide.",
        epilog="Arguments after -- go on to pytest (test), the tour, benches, soak or suites.",
        parents=[choice],
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, action in VERBS.items():
        verb = verbs.add_parser(name, help=action.__doc__, parents=[choice], allow_abbrev=False)
        if name in ("soak", "fuzz"):
            verb.add_argument("--seconds", metavar="N", type=int, default=600)
            verb.add_argument("--seed", metavar="N", type=int)
            verb.add_argument("--loop", choices=["aioxide", "asyncio"], default="aioxide")
        if name == "fuzz":
            verb.add_argument("--case", metavar="N", type=int)
    return parser


def main(arguments: list[str]) -> None:
    """Carries out one verb."""
    own, passed_on = arguments, []
    if "--" in arguments:
        border = arguments.index("--")
        own, passed_on = arguments[:border], arguments[border + 1 :]
    parser = command_line()
    options = parser.parse_args(own)
    if options.verb is None:
        parser.print_help()
        return
    if passed_on and options.verb not in PASS_ARGUMENTS_ON:
        parser.error(f"{options.verb} takes no arguments after --")
    options.passed_on = passed_on
    interpreter = Interpreter(getattr(options, "python", sys.executable))
    VERBS[options.verb](Environment(interpreter), options)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
