"""The language of the stories can say no."""

from __future__ import annotations

import pytest

from .story import told


@pytest.mark.parametrize(
    "line",
    [
        "sell 500 -> 05",
        "sell 500 -> 00 REVERSED",
        "card 9999",
        "held 1",
        "status frozen",
        "owes shortfall 1",
        "lots 1:300",
        "links 1",
    ],
)
def test_what_is_not_so_is_seen(line: str) -> None:
    told("card 10000")
    with pytest.raises(AssertionError):
        told(line)


@pytest.mark.parametrize("line", ["sell 500 -> 00 REVERSE", "buy 500 -> 00", "write"])
def test_what_has_no_meaning_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        told(line)
