"""After all that the other scenarios did: the journal still holds together."""

from __future__ import annotations

import pytest

from tests.client.demo import Cards, Demo
from tests.client.messages import Card
from tests.client.terminal import Terminal


@pytest.mark.at_the_end
def test_the_journal_of_the_whole_session_holds(
    switch: Demo, pos: Terminal, cards: Cards, card: Card
) -> None:
    # Alone, too, this test leaves every kind of link behind it.
    hold = pos.hold(card, 3000)
    assert pos.complete(hold, 2000).code == "00"
    assert pos.advise(card, 1000).code == "00"
    assert pos.reverse(pos.hold(card, 500)).state == "REVERSED"
    sent = pos.transfer(card, cards.active(), 1500)
    assert pos.reverse(sent, final_minor=500).state == "PARTIAL"
    ended = switch.verify()
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert "broken" not in ended.stdout
