"""`make mutants`: each mutation of the catalogue, in a copy of the tree, and its tests must fail.

Never in the checkout itself. What has been seen is kept under `.mutants/` by the content of
mutation and tree: a run that was cut short goes on where it was. Exit 1 when a mutant lives, when
its line is no longer there, or when its tests are red without it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".mutants"
_TIMEOUT_S = 300
_ROOMS = ("rules", "switch", "fastpath", "hardware", "bench", "admin", "tests", "deploy", "docs")
_FILES = ("pyproject.toml", "setup.py", "README.md", "Makefile")


class Seen(NamedTuple):
    """What became of a mutant."""

    name: str
    verdict: str
    """killed, LIVES, or why it could not be tried."""
    seconds: float


def copy_tree(target: Path) -> None:
    """The tree as it stands in the checkout, with its compiled modules."""
    for room in _ROOMS:
        if (ROOT / room).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.c", ".data")
            shutil.copytree(ROOT / room, target / room, ignore=ignored)
    for name in _FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target / name)


def tree_digest() -> str:
    """Changes when any source or test does."""
    digest = hashlib.blake2b(digest_size=8)
    for room in (*_ROOMS[:3], "tests"):
        for path in sorted((ROOT / room).rglob("*")):
            mine = path.parent == Path(__file__).parent  # the mutant itself is part of the name
            if path.suffix in (".py", ".pyx", ".sql", ".lua", ".json") and not mine:
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def tests_pass(tree: Path, tests: Iterable[str]) -> bool | None:
    """Whether these tests are green in a tree; None when they could not be run at all."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False  # a mutant that hangs is seen, too
    return {0: True, 1: False}.get(done.returncode)


def is_its_own(tree: Path) -> bool:
    """Whether a copy imports itself, and not the checkout that is installed."""
    program = "import rules.cards, switch.pipeline; print(rules.cards.__file__, switch.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return all(name.startswith(str(tree)) for name in told)


def try_one(mutant: Mutant, tree: Path) -> str:
    """Change the line, run its tests, put the line back."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"its line stands {text.count(mutant.old)} times in {mutant.file}"
    if not tests_pass(tree, mutant.tests):
        return "its tests are red without it"
    try:
        path.write_text(text.replace(mutant.old, mutant.new))
        passed = tests_pass(tree, mutant.tests)
    finally:
        path.write_text(text)
    if passed is None:
        return "its tests could not be run"
    return "LIVES" if passed else "killed"


class Bench:
    """Copies of the tree, one per process, and what has been seen before."""

    def __init__(self, jobs: int) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="mutants-"))
        self._directory.chmod(0o755)
        self._trees: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            tree = self._directory / str(number)
            tree.mkdir()
            copy_tree(tree)
            if not is_its_own(tree):
                raise SystemExit("a copy of the tree would test the checkout")
            self._trees.put(tree)
        self._state = tree_digest()
        KEPT.mkdir(exist_ok=True)

    def close(self) -> None:
        """Remove the copies."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _memory(self, mutant: Mutant) -> Path:
        text = json.dumps([self._state, *mutant])
        return KEPT / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def look(self, mutant: Mutant) -> Seen:
        """Try a mutant, unless that was done before with the same tree."""
        memory = self._memory(mutant)
        if memory.exists():
            verdict, seconds = json.loads(memory.read_text())
            return Seen(mutant.name, verdict, seconds)
        tree = self._trees.get()
        started = time.monotonic()
        try:
            verdict = try_one(mutant, tree)
        finally:
            self._trees.put(tree)
        seconds = round(time.monotonic() - started, 1)
        memory.write_text(json.dumps([verdict, seconds]))
        return Seen(mutant.name, verdict, seconds)


def main() -> int:
    """1 unless every mutant was killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(w in m.name for w in options.words)]
    bench = Bench(options.jobs)
    alive = 0
    try:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for seen in pool.map(bench.look, chosen):
                alive += seen.verdict != "killed"
                print(f"{seen.verdict:8} {seen.seconds:6.1f} s  {seen.name}", flush=True)
    finally:
        bench.close()
    print(f"{len(chosen)} mutants, {len(chosen) - alive} killed, {alive} not")
    return 1 if alive or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
