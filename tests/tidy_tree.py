"""The project's files as the tidy tests see them: which there are, and what each imports."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rules", "fastpath", "switch", "admin", "hardware", "bench")
CODE = frozenset({".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".sql", ".lua"})
_NOT_OURS = frozenset({".git", ".venv", ".data", "build", "dist", "__pycache__", ".hypothesis"})


@functools.cache
def files() -> tuple[str, ...]:
    """Every file of the project, relative to its root: what git keeps, or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.split("\0")
    else:  # an unpacked archive
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
        names = [name for name in names if not _NOT_OURS & set(Path(name).parts)]
    return tuple(sorted({name for name in names if name and (ROOT / name).is_file()}))


def text_of(name: str) -> str:
    """A file's text; "" for what is no text."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def of_rooms(*suffixes: str, rooms: tuple[str, ...] = ROOMS) -> Iterator[str]:
    """The files of some rooms that end so."""
    for name in files():
        if name.partition("/")[0] in rooms and name.endswith(suffixes):
            yield name


class Import(NamedTuple):
    """One name that a module imports, in full, and whether as soon as it is imported itself."""

    line: int
    name: str
    at_once: bool


_CYTHON_IMPORT = re.compile(
    r"^(?P<indent>\s*)(?:from\s+(?P<source>[\w.]+)\s+c?import\s+(?P<what>[\w., *(]+)"
    r"|c?import\s+(?P<modules>[\w., ]+))"
)


def imports_of(name: str, text: str) -> list[Import]:
    """What a Python or Cython module imports."""
    if name.endswith((".pyx", ".pxd")):
        return _cython_imports(text)
    found: list[Import] = []
    tree = ast.parse(text)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_once = id(node) not in inside
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, at_once) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found += [
                Import(node.lineno, f"{source}.{alias.name}", at_once) for alias in node.names
            ]
    return found


def _cython_imports(text: str) -> list[Import]:
    found: list[Import] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _CYTHON_IMPORT.match(line)
        if match is None:
            continue
        at_once = not match["indent"]
        if match["source"]:
            found.append(Import(number, f"{match['source']}.*", at_once))
        else:
            found += [
                Import(number, module.split(" as ")[0].strip(), at_once)
                for module in match["modules"].split(",")
            ]
    return found


def module_of(name: str) -> str:
    """The dotted name of a module's file."""
    parts = list(Path(name).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def functions_of(name: str, text: str) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of each function, decorators and all."""
    if name.endswith((".pyx", ".pxd")):
        return _cython_functions(text)
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            found.append((node.name, first, (node.end_lineno or first) - first + 1))
    return found


_CYTHON_FUNCTION = re.compile(
    r"(?P<indent>\s*)(?:def|cdef|cpdef)\s+(?!class\b|enum\b|extern\b|struct\b)[^=(]*?(?P<name>\w+)\("
)


def _cython_functions(text: str) -> list[tuple[str, int, int]]:
    """A function ends before the next line that is indented no deeper than its head."""
    lines = text.splitlines()
    found = []
    for at, line in enumerate(lines):
        match = _CYTHON_FUNCTION.match(line)
        if match is None:
            continue
        last = at
        for below in range(at + 1, len(lines)):
            body = lines[below]
            indent = len(body) - len(body.lstrip())
            if (
                body.strip()
                and indent <= len(match["indent"])
                and not body.lstrip().startswith(")")
            ):
                break
            if body.strip():
                last = below
        found.append((match["name"], at + 1, last - at + 1))
    return found
