"""Where a suite comes from and where it runs: its PyPI sdist, and an environment of its own.

suites/run.py calls it. Everything is kept in .venv beside the environments of dev.py and made
again only when a version or a requirement changes; nothing of a suite enters the repository.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIST = HERE / "suites.toml"
SERIES = sysconfig.get_python_version()
KEPT = ROOT / ".venv" / "suites"
# What the plugin and the limit of a test need, whatever the suite itself asks for.
ALWAYS = ("pytest-timeout>=2.4",)


class Unavailable(Exception):
    """A suite that cannot be had here; the message says why."""


@dataclass(frozen=True)
class Suite:
    """A table of suites.toml."""

    name: str
    version: str
    tests: list[str]
    requirements: list[str]
    aside: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    not_run: dict[str, str] = field(default_factory=dict)
    differences: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def source(self):
        """The unpacked sdist."""
        return KEPT / "sources" / f"{self.name}-{self.version}"

    @property
    def python(self):
        return KEPT / SERIES / self.name / "bin" / "python"


def read(path=LIST):
    return [Suite(name=name, **table) for name, table in tomllib.loads(path.read_text()).items()]


def pip(python, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        raise Unavailable("\n".join(done.stderr.strip().splitlines()[-8:]))


def fetch(suite):
    """Downloads and unpacks the sdist; what is installed as a wheel is put aside."""
    if suite.source.exists():
        return
    suite.source.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=suite.source.parent) as directory:
        requirement = f"{suite.name}=={suite.version}"
        own = ["--quiet", "--no-deps", "--no-binary", suite.name, "--dest", directory]
        pip(sys.executable, "download", *own, requirement)
        (archive,) = Path(directory).glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(directory, filter="data")
        (unpacked,) = (path for path in Path(directory).iterdir() if path.is_dir())
        for name in suite.aside:
            shutil.rmtree(unpacked / name, ignore_errors=True)
        unpacked.rename(suite.source)


def prepare(suite):
    """Makes the environment: the suite's package as a wheel, what it needs, and this project.

    Returns a digest of all that decides what a run of the suite is.
    """
    home = suite.python.parent.parent
    wanted = [f"{suite.name}=={suite.version}", *suite.requirements, *ALWAYS]
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    asked = hashlib.sha256(repr([suite, digest]).encode()).hexdigest()[:12]
    stamp = home / "prepared-for"
    if stamp.exists() and stamp.read_text() == digest:
        return asked
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
    pip(suite.python, "install", "--quiet", "--prefer-binary", *wanted)
    (site,) = home.glob("lib/python*/site-packages")
    # The compiled module lies beside the Python files after `maturin develop`.
    (site / "aioxide.pth").write_text(f"{ROOT / 'python'}\n")
    stamp.write_text(digest)
    return asked
