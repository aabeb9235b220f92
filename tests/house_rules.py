"""The house rules of ARCHITECTURE.md and CONTRIBUTING.md, as functions over the project's files.

Called by test_tidy.py, once with the real tree and once with a bad sample for each rule.
Reads text only: it never imports the package, never runs a program, never changes a file.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

Tree = Mapping[str, str]
"""The files of a project: the path from its root, and the text."""

LOCKED_ROOM = "crates/runtime/src/cpython/"
VERSIONS_OF_PYTHON = "python/aioxide/_compat.py"
LONGEST_FILE, LONGEST_TEST_FILE, LONGEST_FUNCTION, LONGEST_LINE = 600, 800, 70, 100
# A stub describes one compiled module, whose classes it cannot spread over several files.
LONGEST_STUB = 1200
MADE_BY_TOOLS = {".git", ".venv", "__pycache__", "dist"}
CODE = {".rs", ".py", ".pyi", ".c", ".h", ".sh"}
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc", "core", "base", "types"}

DEPENDENCIES = {
    ("engine", "dependencies"): {"memchr", "nix", "rustix", "slab"},
    ("runtime", "dependencies"): {"engine", "libc", "pyo3", "rustix", "slab"},
    ("runtime", "build-dependencies"): {"pyo3-build-config"},
    ("extension", "dependencies"): {"pyo3", "runtime"},
}
WHAT_CRATES_SAY_OF_UNSAFE = {
    "crates/engine/src/lib.rs": ("#![deny(unsafe_code)]", "#![forbid(unsafe_code)]"),
    "crates/runtime/src/lib.rs": ("#![deny(unsafe_code)]",),
    "crates/extension/src/lib.rs": ("#![forbid(unsafe_code)]",),
}

RUST_COMMENT_OR_TEXT = re.compile(
    r"""//[^\n]* | /\*.*?\*/
    | \b[bc]?r(?P<hashes>\#*)".*?"(?P=hashes)
    | "(?:\\.|[^"\\])*"
    | '(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'""",
    re.VERBOSE | re.DOTALL,
)
MACHINE_PATH = re.compile(
    r"(?<![\w.-])/(?:root|work|home/\w+|Users/\w+)(?![\w-])|\.pyenv[/]versions"
)
TREE_LINE = re.compile(r"(?P<indent>(?:│   |    )*)[├└]── (?P<name>\S+)")


def read_tree(root: Path) -> dict[str, str]:
    """Every text file of a clone; not what tools made there, which they mark themselves."""
    tree: dict[str, str] = {}
    for path in sorted(root.iterdir()):
        marks = ("CACHEDIR.TAG", "pyvenv.cfg")
        if path.name in MADE_BY_TOOLS or any((path / mark).exists() for mark in marks):
            continue
        if path.is_dir():
            tree |= {f"{path.name}/{below}": text for below, text in read_tree(path).items()}
        elif (text := text_or_none(path)) is not None:
            tree[path.name] = text
    return tree


def text_or_none(path: Path) -> str | None:
    """What a file says, if it is text."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return None


def rust_code(text: str) -> str:
    """Rust without comments and without what is quoted, every line in its place."""
    return RUST_COMMENT_OR_TEXT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def line_of(text: str, position: int) -> int:
    """The number of the line that a position stands on."""
    return text.count("\n", 0, position) + 1


def end_of_block(code: str, start: int) -> int | None:
    """Where the block that opens first after `start` ends; None if `;` comes before it."""
    depth = 0
    for found in re.compile(r"[][(){};]").finditer(code, start):
        sign = found[0]
        if sign == ";" and depth == 0:
            return None
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "}" and depth == 0:
            return found.end()
    return None


def files(tree: Tree, *suffixes: str) -> Iterator[tuple[str, str]]:
    """The files whose names end so."""
    return ((path, text) for path, text in tree.items() if PurePosixPath(path).suffix in suffixes)


def code_files(tree: Tree) -> Iterator[tuple[str, str]]:
    """The files that hold programs, in any language."""
    yield from files(tree, *CODE)
    yield from ((path, text) for path, text in tree.items() if path == ".ci/run")


def found_in_rust(tree: Tree, pattern: str, *, outside: str | None = None) -> Iterator[str]:
    """Each place where a pattern stands in Rust code, apart from one folder."""
    for path, text in files(tree, ".rs"):
        if outside is not None and path.startswith(outside):
            continue
        code = rust_code(text)
        for found in re.finditer(pattern, code):
            yield f"{path}:{line_of(code, found.start())}: {found[0].strip()}"


def unsafe_stays_in_the_locked_room(tree: Tree) -> Iterator[str]:
    """Law 6: `unsafe` has one folder, and every crate says so to the compiler."""
    yield from found_in_rust(tree, r"\bunsafe\b", outside=LOCKED_ROOM)
    for path, words in WHAT_CRATES_SAY_OF_UNSAFE.items():
        if path in tree and not any(word in rust_code(tree[path]) for word in words):
            yield f"{path}: does not say {' or '.join(words)}"
    for found in found_in_rust(tree, r"allow\s*\([^)]*\bunsafe_code\b", outside=LOCKED_ROOM):
        if not found.startswith("crates/runtime/src/lib.rs:"):
            yield found


def python_versions_have_two_files(tree: Tree) -> Iterator[str]:
    """Law 6: nothing outside the locked room and _compat.py asks which Python this is."""
    asked_in_rust = r"\bPy_(?:3_\d+|GIL_DISABLED|LIMITED_API)\b|\bversion_info\b"
    yield from found_in_rust(tree, asked_in_rust, outside=LOCKED_ROOM)
    asked_in_python = {"version_info", "hexversion", "python_version", "python_version_tuple"}
    for path, text in files(tree, ".py", ".pyi"):
        if not path.startswith("python/") or path == VERSIONS_OF_PYTHON:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                names = {node.attr}
            else:
                continue
            for name in asked_in_python & names:
                yield f"{path}:{node.lineno}: {name}"


def manifests(tree: Tree) -> Iterator[tuple[str, str, str, str]]:
    """Each dependency of each crate: manifest, crate, section, and the package's real name."""
    shared = tomllib.loads(tree.get("Cargo.toml", "")).get("workspace", {}).get("dependencies", {})
    for path, text in tree.items():
        if re.fullmatch(r"crates/[^/]+/Cargo\.toml", path) is None:
            continue
        manifest = tomllib.loads(text)
        for tables in (manifest, *manifest.get("target", {}).values()):
            for section in ("dependencies", "build-dependencies", "dev-dependencies"):
                for name, details in tables.get(section, {}).items():
                    if isinstance(details, dict) and details.get("workspace"):
                        details = shared.get(name)
                    real = details.get("package", name) if isinstance(details, dict) else name
                    yield path, path.split("/")[1], section, real


def dependencies_point_down(tree: Tree) -> Iterator[str]:
    """Law 3: a crate depends on nothing but what its row of the table lists."""
    for path, crate, section, name in manifests(tree):
        if name not in DEPENDENCIES.get((crate, section), set()):
            yield f"{path}: {name} is not among the {section} of {crate}"


def dependencies_have_a_reason(tree: Tree) -> Iterator[str]:
    """A dependency is a decision: its row in ARCHITECTURE.md says why it is there."""
    crates = {path.split("/")[1] for path in tree if path.startswith("crates/")}
    reasons = re.findall(
        r"^\| `([\w-]+)` \|[^|]*\|[^|\n]*\w", tree.get("ARCHITECTURE.md", ""), re.M
    )
    for name in sorted({name for *_, name in manifests(tree)} - crates):
        if name not in reasons:
            yield f"ARCHITECTURE.md: no row gives the reason for {name}"


def rust_never_awaits(tree: Tree) -> Iterator[str]:
    """Law 1: Python waits. No Rust future, no executor, no second runtime."""
    runtimes = r"\b(?:tokio|async_std|smol|futures_executor|pollster|block_on)\b"
    yield from found_in_rust(tree, rf"\basync\b|\.\s*await\b|{runtimes}")


def holders_of_python_objects_serve_the_collector(tree: Tree) -> Iterator[str]:
    """A class that reaches a Python object through its fields has `__traverse__`."""
    item = re.compile(r"\b(?:struct|enum)\s+(\w+)")
    sources = {path: rust_code(text) for path, text in files(tree, ".rs")}
    bodies = {
        (path, found[1]): fields(code, found.end())
        for path, code in sources.items()
        for found in item.finditer(code)
    }
    holders = {key for key, body in bodies.items() if re.search(r"\bPy(?:<|Object\b)", body)}
    while True:
        names = {name for _, name in holders}
        reached = {
            (path, name)
            for (path, name), body in bodies.items()
            for word in names.intersection(re.findall(r"\w+", body))
            # A name means the file's own type where the file has one.
            if (path, word) in holders or (path, word) not in bodies
        }
        if reached <= holders:
            break
        holders |= reached
    for path, code in sources.items():
        for found in re.finditer(r"#\s*\[\s*(?:pyo3::)?pyclass\b", code):
            declared = item.search(code, found.end())
            if declared is None or (path, declared[1]) not in holders:
                continue
            if not any(has_traverse(source, declared[1]) for source in sources.values()):
                yield f"{path}:{line_of(code, found.start())}: {declared[1]} has no __traverse__"


def fields(code: str, start: int) -> str:
    """The fields of a struct, in braces or in parentheses, or the variants of an enum."""
    end = end_of_block(code, start)
    return code[start : code.find(";", start) if end is None else end]


def has_traverse(code: str, name: str) -> bool:
    """Whether a class's Python face in this file lets the collector in."""
    attribute = r"#\s*\[[^\]]*\]\s*"
    face = rf"#\s*\[\s*(?:pyo3::)?pymethods\s*\]\s*(?:{attribute})*impl\s+{name}\b"
    faces = re.finditer(face, code)
    return any(
        "fn __traverse__" in code[face.start() : end_of_block(code, face.end())] for face in faces
    )


def is_test(path: str) -> bool:
    """Whether a file holds tests, which may be longer."""
    return path.startswith("tests/") or "/tests/" in path or path.endswith("_tests.rs")


def files_are_short(tree: Tree) -> Iterator[str]:
    """A file that nears its limit asks for the noun that is missing."""
    for path, text in code_files(tree):
        length, limit = text.count("\n"), LONGEST_TEST_FILE if is_test(path) else LONGEST_FILE
        if path.endswith(".pyi"):
            limit = LONGEST_STUB
        if length > limit:
            yield f"{path}: {length} lines, {limit} at most"


def lines_are_short(tree: Tree) -> Iterator[str]:
    """Two files fit beside each other on a screen."""
    for path, text in code_files(tree):
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LONGEST_LINE:
                yield f"{path}:{number}: {len(line)} columns, {LONGEST_LINE} at most"


def functions_are_short(tree: Tree) -> Iterator[str]:
    """A function is seen whole."""
    for path, text in files(tree, ".py"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines"
    for path, text in files(tree, ".rs"):
        code = rust_code(text)
        for found in re.finditer(r"\bfn\s+(\w+)", code):
            end = end_of_block(code, found.end())
            length = code.count("\n", found.start(), end) + 1 if end is not None else 0
            if length > LONGEST_FUNCTION:
                yield f"{path}:{line_of(code, found.start())}: {found[1]} has {length} lines"


def files_say_what_they_are_for(tree: Tree) -> Iterator[str]:
    """A file opens with its purpose: what it is for, who calls it, what it never does."""
    openings = {".rs": ("//!",), ".c": ("/*", "//"), ".h": ("/*", "//")}
    for path, text in code_files(tree):
        suffix = PurePosixPath(path).suffix
        if suffix == ".py":
            head = ast.get_docstring(ast.parse(text)) or ""
        elif suffix == ".pyi":
            head = ast.get_docstring(ast.parse(text)) or text.partition("\n")[0]
        else:
            lines = [line for line in text.splitlines() if line and not line.startswith("#!/")]
            opening = openings.get(suffix, ("#",))
            head = "\n".join(lines[:2]) if lines and lines[0].startswith(opening) else ""
        if len(re.findall(r"\w+", head)) < 4:
            yield f"{path}: does not open with a sentence about its purpose"


def no_drawers(tree: Tree) -> Iterator[str]:
    """A file or folder name that would fit anything means that a noun is missing."""
    for path in tree:
        for part in path.split("/"):
            if part.split(".")[0].lower().removeprefix("test_") in DRAWERS:
                yield f"{path}: {part} is a drawer"


def no_paths_of_a_machine(tree: Tree) -> Iterator[str]:
    """The project knows nobody's home directory."""
    for path, text in tree.items():
        for found in MACHINE_PATH.finditer(text):
            yield f"{path}:{line_of(text, found.start())}: {found[0]}"


def architecture_names_what_exists(tree: Tree) -> Iterator[str]:
    """The map shows no street that is not there: every path in its text and in its tree."""
    text = tree.get("ARCHITECTURE.md", "the map is `ARCHITECTURE.md`")
    existing = {str(above) for path in tree for above in (path, *PurePosixPath(path).parents)}
    parts = [path.split("/") for path in existing]
    endings = {"/".join(names[first:]) for names in parts for first in range(len(names))}
    for found in re.finditer(r"`([\w.][\w./-]*)`", text):
        name = found[1]
        is_path = "/" in name or re.search(r"\w\.(?:rs|pyi?|toml|md|txt|c)$", name)
        if is_path and name.rstrip("/") not in endings:
            yield f"ARCHITECTURE.md:{line_of(text, found.start())}: there is no {name}"
    above: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if (entry := TREE_LINE.match(line)) is None:
            continue
        above[len(entry["indent"]) // 4 :] = [entry["name"].rstrip("/")]
        if "/".join(above) not in existing:
            yield f"ARCHITECTURE.md:{number}: there is no {'/'.join(above)}"


def undocumented(names: set[str], tree: Tree) -> Iterator[str]:
    """The names that no page under docs/ shows as code."""
    shown = ""
    for path, text in files(tree, ".md"):
        if path.startswith("docs/"):
            shown += " ".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    for name in sorted(names):
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", shown) is None:
            yield f"docs/: {name} is not mentioned"


def missing_from_stub(names: set[str], stub: str) -> Iterator[str]:
    """The names that a stub does not define at its top level."""
    defined: set[str] = set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for name in sorted(names - defined):
        yield f"python/aioxide/_aioxide.pyi: {name} is missing"


RULES: tuple[Callable[[Tree], Iterator[str]], ...] = (
    unsafe_stays_in_the_locked_room,
    python_versions_have_two_files,
    dependencies_point_down,
    dependencies_have_a_reason,
    rust_never_awaits,
    holders_of_python_objects_serve_the_collector,
    files_are_short,
    lines_are_short,
    functions_are_short,
    files_say_what_they_are_for,
    no_drawers,
    no_paths_of_a_machine,
    architecture_names_what_exists,
)
