"""Writes docs/conformance.md: CPython's tests on every Python of .venv and on every loop it has.

    python tests/conformance/publish.py [--again | --kept] [--jobs 2] [--page docs/conformance.md]

Runs run.py once for each, aioxide always and the others where no result of theirs is kept in
.venv/conformance (--again: always; --kept: it runs nothing that has a result). It judges nothing
and is no part of the tests.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import report

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / ".venv" / "conformance"
RUN = pathlib.Path(__file__).with_name("run.py")
PEERS = ("uvloop", "rloop", "rsloop")


def has(python, module):
    """The version of a loop in an environment, or None."""
    code = f"import importlib.metadata, {module}; print(importlib.metadata.version('{module}'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def result(python, series, loop, options):
    """What run.py says of a loop on a Python, asked or kept."""
    kept = KEPT / f"{loop}-{series}.json"
    stale = options.again or (loop == "aioxide" and not options.kept)
    if stale or not kept.exists():
        command = [python, RUN, f"--loop={loop}", f"--jobs={options.jobs}", f"--json={kept}"]
        if loop != "aioxide":
            command.append("--cases=loop")
        # run.py ends with 1 when something is wrong with the results: they are told all the same.
        subprocess.run(command, check=False)
    return json.loads(kept.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="run the other loops too")
    parser.add_argument("--kept", action="store_true", help="run only what has no result")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs" / "conformance.md")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    results, versions, missing = [], {}, {}
    for directory in sorted(ROOT.glob(".venv/3.*")):
        python, series = directory / "bin" / "python", directory.name
        if not has(python, "aioxide"):
            continue
        for loop in ("asyncio", *PEERS, "aioxide"):
            if loop in PEERS:
                if (version := has(python, loop)) is None:
                    missing.setdefault(loop, []).append(series)
                    continue
                versions[loop] = version
            results.append(result(python, series, loop, options))
    if not results:
        sys.exit("no environment of .venv has aioxide: run dev.py test first")
    said = [f"{loop} {version}" for loop, version in versions.items()]
    absent = f"\nThe peers: {', '.join(said)}." if said else ""
    for loop, pythons in missing.items():
        absent += f" {loop} does not install here on {', '.join(pythons)}."
    options.page.write_text(report.markdown(results, absent.strip() and absent + "\n"))


if __name__ == "__main__":
    main()
