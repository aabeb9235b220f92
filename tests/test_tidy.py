"""The house keeps its own rules: each rule on the real tree, and on a bad sample it must find.

Run by `dev.py test` with all other tests; the rules themselves are in house_rules.py.
Never looks at behaviour: that a name exists and is documented, not what it does.
"""

import asyncio
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import house_rules
import pytest
from house_rules import RULES, Tree

ROOT = Path(__file__).resolve().parent.parent
REAL = house_rules.read_tree(ROOT)

UNSAFE = "fn f() { unsafe { g() } }"
LONG_RUST = "fn long() -> [u8; 4] {\n" + "    step();\n" * 69 + "}\n"
LONG_PYTHON = "def long():\n" + "    step()\n" * 70
HOLDER = "struct State { waiters: Vec<Py<Task>> }\n"
CLASS = (
    '#[pyclass(frozen, name = "Lock")]\n/// A lock.\npub struct Lock { state: GilCell<State> }\n'
)
FACE = "#[pymethods]\nimpl Lock { fn __traverse__(&self) {} }\n"
MAP = "| crate | users | reason |\n| `slab` | engine | stable indices |\n"
NEEDS_SLAB = {"crates/engine/Cargo.toml": '[dependencies]\nslab = "0.4"\n'}
RENAMED = (
    '[workspace.dependencies]\ninnocent = { package = "tokio", version = "1" }\n',
    "[dependencies]\ninnocent.workspace = true\n",
)
STREET = (
    "```\naioxide/\n├── crates/\n│   └── engine/\n│       └── lib.rs   the engine\n└── {}\n```\n"
)
SOURCES = {"crates/engine/lib.rs": "", "dev.py": ""}

# Each rule, a sample that breaks it, and words of what it must say.
BAD = [
    ("unsafe_stays_in_the_locked_room", {"crates/runtime/src/handles.rs": UNSAFE}, "rs:1: unsafe"),
    ("unsafe_stays_in_the_locked_room", {"crates/engine/src/lib.rs": "mod a;"}, "does not say"),
    ("unsafe_stays_in_the_locked_room", {"a.rs": "#[allow(unsafe_code)] mod b;"}, "unsafe_code"),
    ("python_versions_have_two_files", {"a.rs": "\n#[cfg(Py_3_12)]\nfn a() {}"}, "a.rs:2: Py_3_12"),
    ("python_versions_have_two_files", {"a.rs": "py.version_info() >= (3, 12)"}, "version_info"),
    ("python_versions_have_two_files", {"python/a.py": "import sys\nsys.version_info"}, "a.py:2"),
    ("python_versions_have_two_files", {"python/a.py": "from sys import hexversion"}, "hexversion"),
    ("dependencies_point_down", {"crates/engine/Cargo.toml": '[dependencies]\npyo3 = "1"'}, "pyo3"),
    (
        "dependencies_point_down",
        {"crates/runtime/Cargo.toml": '[target."cfg(unix)".dependencies]\nmio = "1"'},
        "mio is not among the dependencies of runtime",
    ),
    (
        "dependencies_point_down",
        {"Cargo.toml": RENAMED[0], "crates/engine/Cargo.toml": RENAMED[1]},
        "tokio",
    ),
    ("dependencies_point_down", {"crates/new/Cargo.toml": '[dev-dependencies]\na = "1"'}, "of new"),
    ("dependencies_have_a_reason", {"ARCHITECTURE.md": "`slab`: why?", **NEEDS_SLAB}, "slab"),
    ("dependencies_have_a_reason", {"ARCHITECTURE.md": "| `slab` | a | |", **NEEDS_SLAB}, "slab"),
    ("rust_never_awaits", {"a.rs": "pub async fn a() {}"}, "a.rs:1: async"),
    ("rust_never_awaits", {"a.rs": "let a = async move { 1 };"}, "async"),
    ("rust_never_awaits", {"a.rs": "b()\n    .await"}, "a.rs:2: .await"),
    ("rust_never_awaits", {"a.rs": "use tokio::runtime::Runtime;"}, "tokio"),
    ("holders_of_python_objects_serve_the_collector", {"a.rs": HOLDER + CLASS}, "Lock has no"),
    (
        "holders_of_python_objects_serve_the_collector",
        {"a.rs": CLASS, "state.rs": HOLDER},
        "a.rs:1: Lock has no __traverse__",
    ),
    (
        "holders_of_python_objects_serve_the_collector",
        {"a.rs": "#[pyclass] struct A(Py<PyAny>);\n" + FACE},
        "A has no __traverse__",
    ),
    ("files_are_short", {"a.py": "\n" * 601}, "a.py: 601 lines, 600 at most"),
    ("files_are_short", {"tests/test_a.py": "\n" * 801}, "800 at most"),
    ("files_are_short", {"a.pyi": "\n" * 1201}, "1200 at most"),
    ("lines_are_short", {"a.rs": "\n" + "x" * 101}, "a.rs:2: 101 columns"),
    ("lines_are_short", {".ci/run": "x" * 101}, "101 columns"),
    ("functions_are_short", {"a.py": LONG_PYTHON}, "a.py:1: long has 71 lines"),
    ("functions_are_short", {"a.rs": "\n" + LONG_RUST}, "a.rs:2: long has 71 lines"),
    ("files_say_what_they_are_for", {"a.rs": "// Not about the file.\n"}, "a.rs: does not open"),
    ("files_say_what_they_are_for", {"a.py": "import sys  # what a.py is for\n"}, "a.py: does not"),
    ("files_say_what_they_are_for", {"tests/__init__.py": ""}, "__init__.py: does not"),
    ("files_say_what_they_are_for", {".ci/run": "#!/bin/bash\nset -e\n"}, ".ci/run: does not"),
    ("files_say_what_they_are_for", {"a.c": "#include <stdio.h>\n"}, "a.c: does not"),
    ("no_drawers", {"crates/engine/src/utils.rs": ""}, "utils.rs is a drawer"),
    ("no_drawers", {"python/aioxide/common/__init__.py": ""}, "common is a drawer"),
    ("no_drawers", {"tests/test_helpers.py": ""}, "test_helpers.py is a drawer"),
    ("no_paths_of_a_machine", {"a.md": "\n\nsee /" + "root/notes"}, "a.md:3"),
    ("no_paths_of_a_machine", {"a.py": 'open("/' + 'work/main/a")'}, "a.py:1"),
    ("no_paths_of_a_machine", {"run.sh": "/" + "home/ada/bin/python"}, "home/ada"),
    ("no_paths_of_a_machine", {".ci/run": "~/.pyenv" + "/versions/3.13.0"}, "versions"),
    ("architecture_names_what_exists", {"README.md": ""}, "there is no ARCHITECTURE.md"),
    ("architecture_names_what_exists", {"ARCHITECTURE.md": "see `src/a.rs`"}, "no src/a.rs"),
    ("architecture_names_what_exists", {"ARCHITECTURE.md": "see `turn.rs`"}, "there is no turn.rs"),
    ("architecture_names_what_exists", {"ARCHITECTURE.md": "in `crates/wire/`"}, "crates/wire/"),
    (
        "architecture_names_what_exists",
        {"ARCHITECTURE.md": STREET.format("gone.py"), **SOURCES},
        "ARCHITECTURE.md:6: there is no gone.py",
    ),
    (
        "architecture_names_what_exists",
        {"ARCHITECTURE.md": STREET.format("dev.py"), "crates/engine/other.rs": "", "dev.py": ""},
        "there is no crates/engine/lib.rs",
    ),
]

# What a rule must leave in peace although it looks like a breach.
GOOD = [
    ("unsafe_stays_in_the_locked_room", {"crates/runtime/src/cpython/cell.rs": UNSAFE}),
    ("unsafe_stays_in_the_locked_room", {"a.rs": '// unsafe\nlet a = "unsafe"; /* unsafe */'}),
    ("unsafe_stays_in_the_locked_room", {"a.rs": 'let q = \'"\'; let b = r#" " unsafe"#;'}),
    (
        "python_versions_have_two_files",
        {"python/aioxide/_compat.py": "import sys\nsys.version_info"},
    ),
    ("python_versions_have_two_files", {"python/a.py": '"""Never asks version_info."""'}),
    ("dependencies_point_down", NEEDS_SLAB),
    ("dependencies_have_a_reason", {"ARCHITECTURE.md": MAP, **NEEDS_SLAB}),
    ("rust_never_awaits", {"a.rs": '// async fn, .await\nlet awaits = "tokio";'}),
    ("holders_of_python_objects_serve_the_collector", {"a.rs": HOLDER + CLASS + FACE}),
    ("holders_of_python_objects_serve_the_collector", {"a.rs": CLASS, "face.rs": FACE + HOLDER}),
    (
        "holders_of_python_objects_serve_the_collector",
        {"a.rs": CLASS + "struct State { count: usize }", "b.rs": HOLDER},
    ),
    ("functions_are_short", {"a.rs": "trait T { fn a(&self); }\n" + "\n" * 80}),
    ("files_are_short", {"tests/test_a.py": "\n" * 700, "docs/page.md": "\n" * 2000}),
    ("no_drawers", {"python/aioxide/handles.py": "", "base_events.md": ""}),
    ("no_paths_of_a_machine", {"a.md": "see https://example.org/workers and /proc/self/fd"}),
    ("files_say_what_they_are_for", {".ci/run": "#!/usr/bin/env bash\n# All that must pass.\n"}),
    ("architecture_names_what_exists", {"ARCHITECTURE.md": STREET.format("dev.py"), **SOURCES}),
    ("architecture_names_what_exists", {"ARCHITECTURE.md": "`engine/lib.rs`, `a.b`", **SOURCES}),
]


def rule(name: str) -> Callable[[Tree], Iterator[str]]:
    """One of the rules, by name."""
    return next(function for function in RULES if function.__name__ == name)


@pytest.mark.parametrize("name", [function.__name__ for function in RULES])
def test_the_house_keeps_the_rule(name: str) -> None:
    found = list(rule(name)(REAL))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("name", "sample", "words"), BAD)
def test_the_rule_finds_a_breach(name: str, sample: Tree, words: str) -> None:
    found = list(rule(name)(sample))
    assert any(words in sentence for sentence in found), found


@pytest.mark.parametrize(("name", "sample"), GOOD)
def test_the_rule_leaves_the_innocent_in_peace(name: str, sample: Tree) -> None:
    assert list(rule(name)(sample)) == []


def test_every_rule_is_proved_able_to_fail() -> None:
    assert {name for name, *_ in BAD} == {function.__name__ for function in RULES}


def test_the_tree_is_read_whole_and_without_what_tools_made(tmp_path: Path) -> None:
    kept = ("dev.py", ".ci/run", "crates/engine/src/lib.rs")
    made = ("target/CACHEDIR.TAG", "target/a.rs", ".venv/3.13/pyvenv.cfg", ".git/config", "dist/a")
    for name in (*kept, *made):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "module.so").write_bytes(b"\xff\xfe\x00")
    assert set(house_rules.read_tree(tmp_path)) == set(kept)
    assert {"dev.py", "pyproject.toml", "tests/test_tidy.py", "crates/engine/src/lib.rs"} <= set(
        REAL
    )


def test_every_verb_that_is_called_or_promised_exists() -> None:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None and spec.loader is not None
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    pages = [page for page in REAL if page == ".ci/run" or page.endswith(".md")]
    named = {page: set(re.findall(r"dev\.py ([a-z]+)", REAL[page])) for page in pages}
    assert {"check", "test", "wheel", "fuzz", "soak"} <= named[".ci/run"]
    unknown = {page: verbs - set(dev.VERBS) for page, verbs in named.items()}
    assert {page: verbs for page, verbs in unknown.items() if verbs} == {}


def test_every_name_of_asyncio_is_offered() -> None:
    import aioxide

    # On 3.11 the list forgets TaskGroup, which is as public there as later.
    assert {*asyncio.__all__, "TaskGroup"} - set(dir(aioxide)) == set()


def test_every_compiled_name_is_in_the_stub() -> None:
    from aioxide import _aioxide

    compiled = {name for name in dir(_aioxide) if not name.startswith("_")}
    assert compiled, "the compiled module offers nothing"
    stub = REAL["python/aioxide/_aioxide.pyi"]
    assert list(house_rules.missing_from_stub(compiled, stub)) == []


def test_a_name_that_the_stub_lacks_is_found() -> None:
    stub = "class Task:\n    def step(self) -> None: ...\ndef run() -> None: ...\nlimit: int\n"
    found = house_rules.missing_from_stub({"Task", "run", "limit", "Future", "step"}, stub)
    assert [re.sub(r".*: ", "", line) for line in found] == ["Future is missing", "step is missing"]


def test_every_public_name_of_our_own_is_in_the_docs() -> None:
    import aioxide

    own = {name for name in aioxide.__all__ if name not in asyncio.__all__}
    assert {"install", "uninstall"} <= own
    assert list(house_rules.undocumented(own, REAL)) == []


def test_a_name_that_the_docs_lack_is_found() -> None:
    pages = {
        "docs/guide.md": "To install it, use `aioxide.uninstall()`.\n```python\nnew_loop()\n```\n",
        "README.md": "`install`",
    }
    found = list(house_rules.undocumented({"install", "uninstall", "new_loop"}, pages))
    assert found == ["docs/: install is not mentioned"]
