"""Which Python `make` builds with: `deploy/which-python`, among Pythons made for the test."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "deploy" / "which-python"
FIRST = "python3"


def fake(path: Path, *, usable: bool, optimized: bool) -> None:
    """A program that answers the script's two questions, which it tells apart by their imports."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'#!/bin/sh\ncase "$2" in *ensurepip*) exit {int(not usable)};; esac\n'
        f"exit {int(not optimized)}\n"
    )
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("usable", "optimized", "own_usable", "chosen"),
    [
        (True, True, True, FIRST),
        (True, False, True, "own"),
        (True, False, False, FIRST),
        (False, True, True, "own"),
        (False, False, False, FIRST),  # what is missing is said where it is asked for
    ],
)
def test_the_first_python_is_taken_unless_the_distributions_own_is_better(
    tmp_path: Path, usable: bool, optimized: bool, own_usable: bool, chosen: str
) -> None:
    first, own = tmp_path / "path" / FIRST, tmp_path / "own" / FIRST
    fake(first, usable=usable, optimized=optimized)
    fake(own, usable=own_usable, optimized=False)
    told = subprocess.run(
        [SCRIPT, own],
        env={"PATH": f"{first.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"{own if chosen == 'own' else FIRST}\n"


def test_real_pythons_are_judged_without_an_error() -> None:
    told = subprocess.run([SCRIPT, "/nonexistent"], capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == (f"{FIRST}\n", "")
