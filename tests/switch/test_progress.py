"""Where a long work is: a line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from switch.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_taken_away_again() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.tell("first", 1, 10)
    progress.tell("second")
    progress.clear()
    text = stream.getvalue()
    assert "\n" not in text
    assert text.count("\r\x1b[K") == 3
    assert text.endswith("\r\x1b[K")
    assert "first: 1 of 10" in text


def test_elsewhere_each_phase_ends_in_a_line_with_count_and_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(0, 31_000, 1_000):
        progress.tell("digests", done, 30_000)
        now[0] += 1.0
    progress.tell("rows", 5)
    progress.clear()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "digests: 10,000 of 30,000, 1,000/s, 10.0 s",
        "digests: 20,000 of 30,000, 1,000/s, 20.0 s",
        "digests: 30,000 of 30,000, 1,000/s, 30.0 s",
        "rows: 5, 0.0 s",
    ]
    assert all(re.search(r", \d+\.\d s$", line) for line in lines)
