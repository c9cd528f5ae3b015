"""The house rules for code: who imports whom, how long things are, what is never written.

Each rule is a function from a file's name and text to complaints, so that it is shown here, on
made-up files, that it can complain at all.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from tidy_tree import (
    CODE,
    ROOMS,
    ROOT,
    files,
    functions_of,
    imports_of,
    module_of,
    of_rooms,
    text_of,
)

Check = Callable[[str, str], list[str]]


def tidy(check: Check, names: Iterable[str]) -> None:
    """Hold a rule over these files (there must be some), and fail with all that it says."""
    looked_at = list(names)
    assert looked_at
    found = [f"{name}: {fault}" for name in looked_at for fault in check(name, text_of(name))]
    assert not found, "\n" + "\n".join(found)


# Who imports whom

OF_OURS: Mapping[str, tuple[str, ...]] = {
    "rules": (),
    "fastpath": (),
    "switch": ("rules", "fastpath"),
    "hardware": ("fastpath", "switch.wire"),
    "bench": ("fastpath", "rules", "switch"),
    "admin": ("rules", "fastpath", "switch.wire"),
}
"""What a room may import of the others."""

FOREIGN: Mapping[str, frozenset[str]] = {
    "rules": frozenset({"msgspec"}),
    "fastpath": frozenset({"msgspec", "cython", "cpython", "libc"}),
    "switch": frozenset(
        {
            *("asyncpg", "cryptography", "hiredis", "msgspec", "prometheus_client", "redis"),
            *("trio", "trio_asyncio"),
        }
    ),
    "hardware": frozenset({"smartcard", "trio"}),
    # measured against: a naive switch's asyncpg, redis and bridge, and the fast path's peers
    "bench": frozenset(
        {
            *(
                "asyncpg",
                "gevent",
                "hiredis",
                "locust",
                "matplotlib",
                "msgspec",
                "psutil",
                "redis",
                "trio",
            ),
            *("cryptography", "iso8583", "psec", "trio_asyncio"),
        }
    ),
    "admin": frozenset({"asyncpg"}),
}
"""What a room may import of others' libraries, besides the standard library."""

DOORS: Mapping[str, tuple[str, ...]] = {
    "asyncpg": ("switch/journal/bridge.py",),
    "trio_asyncio": ("switch/journal/bridge.py",),
    "hiredis": ("switch/reservation/connection.py",),
    "redis": ("switch/reservation/connection.py",),
    "cryptography": ("switch/keyblock.py", "switch/keys.py", "switch/signing.py"),
    "prometheus_client": ("switch/metrics.py", "switch/supervised_metrics.py"),
}
"""The only files of switch/ that know these libraries."""

LATE: Mapping[str, frozenset[str]] = {"fastpath": frozenset({"yaml"})}
"""What may be imported inside a function only: optional dependencies."""

NOT_PURE = frozenset(
    {
        *("asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets"),
        *("selectors", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time"),
    }
)
"""Of the standard library: what waits, reads a clock, draws lots or touches the outside."""

NOT_SANS_IO = frozenset(
    {
        *("asyncio", "multiprocessing", "select", "selectors", "signal", "socket", "ssl"),
        *("subprocess", "threading", "time", "trio", "trio_asyncio"),
        *("asyncpg", "hiredis", "redis"),
    }
)


def import_faults(name: str, text: str) -> list[str]:
    """Imports that the room of a file does not have."""
    room = name.partition("/")[0]
    found = []
    for line, imported, at_once in imports_of(name, text):
        top = imported.partition(".")[0]
        allowed = any(f"{imported}.".startswith(f"{part}.") for part in OF_OURS[room])
        if imported.startswith("."):
            found.append(f"{line}: {imported}: relative")
        elif top in ROOMS:
            if top != room and not allowed:
                found.append(f"{line}: {imported} is in a room that is not open to {room}")
        elif top in sys.stdlib_module_names:
            pure = room == "rules" and top in NOT_PURE
            quiet = name.startswith("switch/wire/") and top in NOT_SANS_IO
            if pure or quiet:
                found.append(f"{line}: {imported} does more than compute")
        elif top not in FOREIGN[room] and (at_once or top not in LATE.get(room, ())):
            found.append(f"{line}: {imported} is not among the libraries of {room}")
        elif room == "switch" and name not in DOORS.get(top, (name,)):
            found.append(f"{line}: {imported} has one door, {' and '.join(DOORS[top])}")
        elif name.startswith("switch/wire/") and top in NOT_SANS_IO:
            found.append(f"{line}: {imported} in the sans-I/O part")
    return found


def test_rooms_import_what_the_table_allows() -> None:
    tidy(import_faults, of_rooms(".py", ".pyi", ".pyx", ".pxd"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rules/x.py", "import fastpath.codec"),
        ("rules/x.py", "from switch import config"),
        ("rules/x.py", "import time"),
        ("rules/x.py", "import trio"),
        ("fastpath/x.py", "from rules.money import Purse"),
        ("fastpath/x.py", "import yaml"),
        ("fastpath/x.pyx", "from rules.money import Purse"),
        ("fastpath/x.pyx", "    cimport numpy"),
        ("switch/x.py", "import asyncpg"),
        ("switch/x.py", "def f():\n    import trio_asyncio"),
        ("switch/x.py", "from redis.asyncio import Redis"),
        ("switch/x.py", "import psutil"),
        ("switch/x.py", "from bench import load"),
        ("switch/wire/x.py", "import trio"),
        ("switch/wire/x.py", "import socket"),
        ("switch/wire/x.py", "from . import link"),
        ("hardware/x.py", "from switch.keys import MasterKey"),
        ("hardware/x.py", "from rules.money import Purse"),
        ("admin/x.py", "from switch import pipeline"),
    ],
)
def test_a_foreign_import_is_seen(name: str, text: str) -> None:
    assert len(import_faults(name, text)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fastpath/x.py", "def f():\n    import yaml"),
        ("fastpath/x.pyx", "from libc.stdint cimport uint8_t\nimport enum"),
        ("switch/x.py", "import trio\nfrom fastpath.codec import decode"),
        ("switch/journal/bridge.py", "import asyncpg, trio_asyncio"),
        ("hardware/x.py", "from switch.wire import link\nfrom switch.wire.link import Link"),
    ],
)
def test_an_allowed_import_is_not_complained_of(name: str, text: str) -> None:
    assert import_faults(name, text) == []


def test_the_wire_brings_no_event_loop_and_no_store_with_it() -> None:
    """Not even through what it imports: whoever uses it (gevent, too) has chosen otherwise."""
    program = (
        "import sys, importlib, pkgutil, switch.wire\n"
        "for module in pkgutil.iter_modules(switch.wire.__path__):\n"
        "    importlib.import_module('switch.wire.' + module.name)\n"
        "print(*sorted(sys.modules))"
    )
    modules = _python("-c", program).stdout.split()
    assert "switch.wire.translate" in modules
    assert NOT_SANS_IO & set(modules) <= {"select", "selectors", "signal", "threading", "time"}


def met(one: str, other: str, sources: Mapping[str, str]) -> list[str]:
    """Modules of ours that bring both of two libraries into their process."""
    direct = {
        module_of(name): {each.name for each in imports_of(name, text)}
        for name, text in sources.items()
    }

    def brought(module: str, seen: set[str]) -> set[str]:
        libraries = set()
        for imported in direct[module]:
            libraries.add(imported.partition(".")[0])
            for ours in (imported, imported.rpartition(".")[0]):
                if ours in direct and ours not in seen:
                    seen.add(ours)
                    libraries |= brought(ours, seen)
        return libraries

    return [module for module in direct if {one, other} <= brought(module, {module})]


def test_locust_never_meets_trio() -> None:
    """Its gevent patches the whole process, which Trio does not survive."""
    assert met("locust", "trio", {name: text_of(name) for name in of_rooms(".py")}) == []
    made_up = {
        "bench/users.py": "import locust\nfrom bench.common import pack",
        "bench/common.py": "import trio",
    }
    assert met("locust", "trio", made_up) == ["bench.users"]


# How long things are

LINES_MAX = 400
TEST_LINES_MAX = 820
FUNCTION_LINES_MAX = 70

LONGER: Mapping[str, tuple[int, str]] = {
    "fastpath/mac.pyx": (490, "one compile unit, so that keys, batches and ciphers share their C"),
    "fastpath/batch.pyx": (440, "one compile unit, so that all that is done to a message inlines"),
    "fastpath/codec.pyx": (540, "one compile unit, so that rows, cursor and message inline"),
}
"""Files that are longer, how long they may be, and why."""


def length_faults(name: str, text: str) -> list[str]:
    """A file over its length, or an exception that is not needed any more."""
    usual = TEST_LINES_MAX if name.startswith("tests/") else LINES_MAX
    most = LONGER.get(name, (usual, ""))[0]
    lines = len(text.splitlines())
    if lines > most:
        return [f"{lines} lines, at most {most}"]
    if most > usual >= lines:
        return [f"{lines} lines: needs no exception any more"]
    return []


def function_faults(name: str, text: str) -> list[str]:
    """Functions over their length. A test's table of cases may stand above it."""
    return [
        f"{line}: {function} has {lines} lines, at most {FUNCTION_LINES_MAX}"
        for function, line, lines in functions_of(name, text)
        if lines > FUNCTION_LINES_MAX and not function.startswith("test_")
    ]


def test_files_are_short() -> None:
    code = [name for name in files() if Path(name).suffix in CODE]
    tidy(length_faults, code)
    assert set(LONGER) <= set(code)


def test_functions_are_short() -> None:
    code = [name for name in files() if name.endswith((".py", ".pyx", ".pxd"))]
    tidy(function_faults, code)


def test_a_long_file_and_a_long_function_are_seen() -> None:
    assert length_faults("switch/x.py", "a = 1\n" * 401) == ["401 lines, at most 400"]
    assert length_faults("tests/x.py", "a = 1\n" * 401) == []
    assert length_faults("fastpath/mac.pyx", "a = 1\n" * 300) != []
    body = "    a = 1\n" * 69
    for head in ("def f():\n", "async def f(\n) -> None:\n"):
        assert function_faults("switch/x.py", head + body + "    b = 1\n") != []
    assert function_faults("switch/x.py", "def f():\n" + body) == []
    for head in ("cdef int f(int a) except -1:\n", "cdef class A:\n    def f(self):\n"):
        deeper = body.replace("    a", "        a")
        text = head + deeper + "        b = 1\n\nc = 2\n"
        assert function_faults("fastpath/x.pyx", text) != []
    assert function_faults("fastpath/x.pyx", "cdef object f(a):\n" + body + "\nc = 2\n") == []


# Compiled modules

COMPILED = tuple(Path(name).stem for name in files() if re.fullmatch(r"fastpath/\w+\.pyx", name))


def test_compiled_modules_are_found() -> None:
    assert set(COMPILED) >= {"codec", "framing", "mac", "tokens"}


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_module_has_its_types_and_its_tests(name: str) -> None:
    assert f"fastpath/{name}.pyi" in files()
    assert f"tests/fastpath/test_fastpath_{name}.py" in files()


def test_the_types_of_the_compiled_modules_are_true() -> None:
    """Each stub says what its module has: no more, no less."""
    modules = [f"fastpath.{name}" for name in COMPILED]
    answer = _python("-m", "mypy.stubtest", *modules, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("name", COMPILED)
def test_without_a_compiled_module_the_import_fails_loudly(name: str, tmp_path: Path) -> None:
    """There is no slow path that nobody would notice."""
    copied = tmp_path / "fastpath"
    copied.mkdir()
    for path in (ROOT / "fastpath").iterdir():
        compiled = path.name.endswith(tuple(EXTENSION_SUFFIXES))
        if path.suffix == ".py" or (compiled and path.name.partition(".")[0] != name):
            shutil.copy(path, copied)
    # -S: without the installation, which would find the module left out
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import fastpath"
    answer = _python("-I", "-S", "-c", program, check=False)
    assert answer.returncode != 0
    assert answer.stderr.splitlines()[-1].startswith("ImportError: the compiled modules")
    assert f"not built: {name}." in answer.stderr


# What is never written


def float_faults(name: str, text: str) -> list[str]:
    """Whatever could bring a float near money: literals, the type, true division."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            found.append(f"{node.lineno}: {node.value}")
        elif isinstance(node, ast.Name) and node.id in ("float", "complex"):
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            found.append(f"{node.lineno}: a division that makes a float")
    return found


def test_no_float_comes_near_money() -> None:
    tidy(float_faults, of_rooms(".py", rooms=("rules",)))
    for text in ("a = 0.1", "a = float(b)", "a: float", "a = b / c", "a /= b"):
        assert len(float_faults("rules/x.py", text)) == 1
    assert float_faults("rules/x.py", "a = b // c") == []


def async_faults(name: str, text: str) -> list[str]:
    """Anything that waits."""
    kinds = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    return [
        f"{n.lineno}: {type(n).__name__}" for n in ast.walk(ast.parse(text)) if isinstance(n, kinds)
    ]


def test_rules_and_bytes_wait_for_nothing() -> None:
    pure = [*of_rooms(".py", rooms=("rules", "fastpath")), *_within("switch/wire/")]
    tidy(async_faults, pure)
    assert async_faults("rules/x.py", "async def f(): await g()") != []


_ASKED_BY_NUMBER = frozenset({"get", "get_bytes", "amount", "span"})


def number_faults(name: str, text: str) -> list[str]:
    """Data elements by number: only fastpath/specs.py has numbers, everybody else `DE.STAN`."""
    return [
        f"{node.lineno}: data element {node.args[0].value} by its number"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _ASKED_BY_NUMBER
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and type(node.args[0].value) is int
    ]


def test_data_elements_go_by_their_names() -> None:
    rooms = tuple(room for room in ROOMS if room != "fastpath")
    tidy(number_faults, of_rooms(".py", rooms=rooms))
    assert number_faults("switch/x.py", "message.get(11)") != []
    assert number_faults("switch/x.py", "message.get(DE.STAN)") == []


# Written so that none of them matches itself.
UNFINISHED = re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X]|HAC[K])\b")
ONE_MACHINE = re.compile(
    r"(?<![\w.])/(?:wor[k]|roo[t]|hom[e]/\w+|tmp/pla[n])\b"  # somebody's directories
    r"|(?<![\w&#/])#(?!0{6}\b)\d+\b|\bissu[e] (?:no\. ?)?#?\d"  # a tracker's numbers; black is none
    r"|\b(?:sub-?)?agen[t]s?\b"
)
IN_DOCUMENTS = re.compile(r"\bhelper[s]\b|\b(?:this|last|earlier|next|another) sessio[n]\b")


def word_faults(name: str, text: str) -> list[str]:
    """Unfinished work, and words that mean nothing to whoever reads this elsewhere."""
    patterns = [UNFINISHED, ONE_MACHINE]
    if Path(name).suffix not in CODE:
        patterns.append(IN_DOCUMENTS)
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for pattern in patterns
        for match in pattern.finditer(text)
    ]


def test_nothing_is_unfinished_and_nothing_names_one_machine() -> None:
    tidy(word_faults, [name for name in files() if name != "LICENSE"])


@pytest.mark.parametrize(
    "parts",
    [
        ("# TO", "DO: later"),
        ("see ", "/wor", "k/main"),
        ("/roo", "t/.venv"),
        ("/hom", "e/anna/cards"),
        ("fixes #", "12"),
        ("issu", "e 7"),
        ("two agen", "ts"),
    ],
)
def test_such_words_are_seen(parts: tuple[str, ...]) -> None:
    assert len(word_faults("docs/x.md", "".join(parts))) == 1


def test_other_words_are_not() -> None:
    fine = "/usr/lib/postgresql, &#160;, #cards, a/work, /var/lib, issue 'a card', User-Agentur"
    assert word_faults("docs/x.md", fine) == []


def _within(folder: str) -> list[str]:
    return [name for name in files() if name.startswith(folder) and name.endswith(".py")]


def _python(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )
