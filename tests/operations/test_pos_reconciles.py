"""`cardswitch pos` closes its batch with the totals it has counted itself."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.client.demo import Cards, Demo
from tests.client.till_totals import TillTotals, told_totals

WORDS = {"debits": (76, 88), "debit undone": (77, 89), "credits": (74, 86), "undone": (75, 87)}


class CommandLine:
    """A terminal at the command line; each call is a process of its own."""

    def __init__(self, switch: Demo, terminal: str) -> None:
        self._switch = switch
        self._terminal = terminal

    def __call__(self, *words: str, status: int = 0) -> dict[str, Any]:
        """The reply's data elements."""
        where = ["--data", str(self._switch.data), "--terminal", self._terminal, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "switch", "pos", *words, *where],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stderr + done.stdout
        reply: dict[str, Any] = json.loads(done.stdout)["reply"]
        return reply

    def text(self, *words: str) -> str:
        where = ["--data", str(self._switch.data), "--terminal", self._terminal]
        return subprocess.run(
            [sys.executable, "-m", "switch", "pos", *words, *where],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout


@pytest.fixture
def pos_line(switch: Demo) -> CommandLine:
    """With an empty batch, whatever others have done at this terminal."""
    entry = [e for e in switch.pos_entries if e["mac"] == "aes-cmac"][-4]
    with switch.pos(entry) as till:
        first = till.reconcile(TillTotals(debits=999_999))
        assert till.reconcile(told_totals(first)).code == "00"
    return CommandLine(switch, entry["id"])


def told(reply: dict[str, Any]) -> list[tuple[int, int]]:
    return [(int(reply[str(n)]), int(reply[str(a)])) for n, a in WORDS.values()]


def test_it_closes_with_what_it_has_counted(pos_line: CommandLine, cards: Cards) -> None:
    card = cards.active().pan
    sale = pos_line("redeem", "--card", card, "--amount", "10")
    pos_line("repeat")
    pos_line("return", "--card", card, "--amount", "2.50", "--or", sale["48"]["TX"])
    pos_line("reverse", "--stan", sale["11"])
    pos_line("reverse", "--stan", sale["11"])  # once more: ALREADY
    pos_line("load", "--card", card, "--amount", "5")
    pos_line("redeem", "--card", card, "--amount", "999", status=1)
    pos_line("balance", "--card", card)
    pos_line("hold", "--card", card, "--amount", "30")
    pos_line("complete", "--amount", "20")
    expected = [(2, 3000), (1, 750), (2, 750), (0, 0)]
    wrong = pos_line("reconcile", "--debits", "1:0.01", status=1)
    assert (wrong["39"], wrong["66"], told(wrong)) == ("95", "2", expected)
    right = pos_line("reconcile")
    assert (right["39"], right["66"], told(right)) == ("00", "1", expected)
    assert pos_line("repeat")["48"]["TX"] == right["48"]["TX"]
    pos_line("redeem", "--card", card, "--amount", "1")
    assert told(pos_line("reconcile"))[0] == (1, 100)


def test_a_difference_is_shown_in_words(pos_line: CommandLine, cards: Cards) -> None:
    pos_line("reconcile")
    pos_line("redeem", "--card", cards.active().pan, "--amount", "10")
    text = pos_line.text("reconcile", "--credits", "1:2.00", "--batch", "TEXT")
    assert "95 totals differ" in text
    assert "1, 10.00 EUR (own: 0, 0.00 EUR)" in text
    assert "0, 0.00 EUR (own: 1, 2.00 EUR)" in text
    assert told(pos_line("reconcile"))[0] == (1, 1000)


def test_the_outcome_of_the_last_one_needs_no_memory(pos_line: CommandLine, cards: Cards) -> None:
    card = cards.active().pan
    sale = pos_line("redeem", "--card", card, "--amount", "10")
    asked = pos_line("outcome")
    assert (asked["48"]["OC"], asked["48"]["OS"]) == ("00", "APPROVED")
    assert asked["37"] == sale["37"]
    named = pos_line("outcome", "--stan", sale["11"])
    assert named["48"]["OS"] == "APPROVED"


def test_the_business_date_is_moved_on(switch: Demo) -> None:
    line = CommandLine(switch, switch.network_entries[1]["id"])
    today = f"{datetime.now(UTC):%m%d}"
    far = line("cutover", "--date", "0101" if today > "0201" else "0801", status=1)
    assert (far["39"], far["48"]["WY"]) == ("12", "CLOCK")
