"""The catalogue fits the tree: every line is there once, every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from . import __main__ as bench
from .catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutation_applies(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert changed != text
    if mutant.file.endswith(".py"):
        ast.parse(changed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_tests_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for node in mutant.tests:
        file, _, name = node.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), node


def test_names_are_unique_and_many() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 35


def test_the_bench_tells_a_killed_one_from_one_that_lives(tmp_path: Path) -> None:
    """On a made-up tree of one module and its test."""
    (tmp_path / "money.py").write_text("LIMIT = 5\nNAME = 'a'\n")
    (tmp_path / "test_money.py").write_text(
        "import money\n\ndef test_limit():\n    assert money.LIMIT == 5\n"
    )
    tests = ("test_money.py::test_limit",)

    def tried(old: str, new: str, *, tests: tuple[str, ...] = tests) -> str:
        verdict = bench.try_one(Mutant("x", "money.py", old, new, tests), tmp_path)
        assert (tmp_path / "money.py").read_text() == "LIMIT = 5\nNAME = 'a'\n"
        return verdict

    assert tried("LIMIT = 5", "LIMIT = 6") == "killed"
    assert tried("LIMIT = 5", "LIMIT = ") == "its tests could not be run"
    assert tried("NAME = 'a'", "NAME = 'b'") == "LIVES"
    assert "0 times" in tried("LIMIT = 7", "LIMIT = 8")
    nowhere = ("test_money.py::test_nowhere",)
    assert tried("LIMIT = 5", "LIMIT = 6", tests=nowhere) == "its tests are red without it"


def test_the_page_of_proof_lists_them_all() -> None:
    page = (ROOT / "docs" / "proof.md").read_text()
    rows = [f"| {mutant.name} | `{mutant.file}` |" for mutant in MUTANTS]
    assert [row for row in rows if row not in page] == []
    listed = re.findall(r"^\| (.+?) \| `[\w/.]+` \| `tests/", page, re.MULTILINE)
    assert listed == [mutant.name for mutant in MUTANTS]
