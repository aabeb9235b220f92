"""Every Python block of README.md and of docs/ is a program that works: it is run here.

Run by pytest, one child process for each block. A block marked `python no-run` is only compiled,
one marked `python logs` writes to stderr; an `output` block after a program is what it prints.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)(?P<marks>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Program:
    """A Python block, where it stands, and what the page says it prints."""

    place: str
    text: str
    runs: bool
    logs: bool
    output: str | None


def fences(page):
    """The fenced blocks of a page: language, marks, text without its indentation, and position."""
    for found in FENCE.finditer(page):
        indent = len(found["indent"])
        text = "".join(line[indent:] for line in found["text"].splitlines(keepends=True))
        yield found["language"], found["marks"].split(), text, found.span()


def programs_of(name, page):
    """The Python blocks of a page, each with the output block that follows it directly."""
    blocks = list(fences(page))
    for number, (language, marks, text, (start, end)) in enumerate(blocks):
        if language != "python":
            continue
        output = None
        if number + 1 < len(blocks):
            next_language, _, next_text, (next_start, _) = blocks[number + 1]
            if next_language == "output" and not page[end:next_start].strip():
                output = next_text
        line = page.count("\n", 0, start) + 1
        yield Program(f"{name}:{line}", text, "no-run" not in marks, "logs" in marks, output)


PROGRAMS = [
    program
    for path in PAGES
    for program in programs_of(str(path.relative_to(ROOT)), path.read_text("utf-8"))
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.place)
def test_program_of_a_page_works(program, tmp_path):
    compile(program.text, program.place, "exec")
    if not program.runs:
        assert program.output is None, "what is not run prints nothing"
        return
    script = tmp_path / "program.py"
    script.write_text(program.text, "utf-8")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if not program.logs:
        # A busy machine takes long for what needs no time.
        environment["AIOXIDE_STALL_THRESHOLD"] = "0"
    finished = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert bool(finished.stderr) == program.logs, finished.stderr
    if program.output is not None:
        assert finished.stdout == program.output


def test_the_first_pages_show_programs_that_run():
    shown = {program.place.partition(":")[0] for program in PROGRAMS if program.runs}
    assert {"README.md", "docs/guide/getting-started.md"} <= shown


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(path):
    without_code = FENCE.sub("", path.read_text("utf-8"))
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", without_code)
    broken = [
        target for target in targets if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


def test_blocks_are_found_with_their_marks_and_outputs():
    page = (
        "# A page\n```python\nprint(1)\n```\n\n```output\n1\n```\n```console\n$ ls\n```\n"
        "- a list\n\n  ```python no-run\n  if x:\n      y()\n  ```\n```python logs\npass\n```\n"
        "text\n```output\nnot of the block above\n```\n"
    )
    assert list(programs_of("page.md", page)) == [
        Program("page.md:2", "print(1)\n", True, False, "1\n"),
        Program("page.md:14", "if x:\n    y()\n", False, False, None),
        Program("page.md:18", "pass\n", True, True, None),
    ]


def named_tests(page):
    """Each `test_file::test_name` that a page names."""
    return re.findall(r"`(test_\w+)::(test_\w+)`", page)


def has_test(module, name):
    pattern = re.compile(rf"^(?:async )?def {name}\(", re.MULTILINE)
    sources = (ROOT / "tests").rglob(f"{module}.py")
    return any(pattern.search(source.read_text(encoding="utf-8")) for source in sources)


def test_every_test_that_the_page_of_peers_names_exists():
    named = named_tests((ROOT / "docs" / "peers.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    missing = [f"{module}::{name}" for module, name in named if not has_test(module, name)]
    assert missing == []
    assert not has_test("test_docs", "test_that_nobody_wrote")
