"""A hold that nobody completes is given back when its time is over: once, and by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tests.client.demo import Demo, eventually, running_demo
from tests.client.messages import Card

HOLD_EXPIRY = 16


@pytest.fixture(scope="module")
def brief() -> Iterator[Demo]:
    """A switch whose holds last two seconds."""
    with running_demo("brief-", settings="hold_lasts_s = 2\n") as demo:
        yield demo


def balances(demo: Demo, card: Card) -> tuple[int, int]:
    """Ledger and available amount."""
    with demo.pos() as terminal:
        amounts = terminal.balance(card).purses["60"]
        return amounts.ledger_minor, amounts.available_minor


def links(demo: Demo, tx: str) -> list[dict[str, Any]]:
    """The chain of the card that this transaction is on."""

    async def read() -> list[Any]:
        connection = await asyncpg.connect(demo.json["postgres"])
        try:
            return list(
                await connection.fetch(
                    "select l.* from link l join link h using (card_id) where h.tx = $1"
                    " order by l.version",
                    tx,
                )
            )
        finally:
            await connection.close()

    return [dict(row) for row in asyncio.run(read())]


def test_it_is_given_back_once(brief: Demo) -> None:
    card = brief.cards.active()
    with brief.pos() as terminal:
        held = terminal.hold(card, 3000)
        assert held.code == "00"
        assert balances(brief, card) == (10000, 7000)
        eventually(lambda: balances(brief, card) == (10000, 10000), 30)
        # a completion that comes too late is a sale of its own
        late = terminal.complete(held, 2500)
        assert late.code == "00"
    assert balances(brief, card) == (7500, 7500)
    time.sleep(3)
    found = [link for link in links(brief, held.tx) if link["operation"] == HOLD_EXPIRY]
    assert [(link["response"], link["amount_minor"]) for link in found] == [(0, 3000)]
    assert found[0]["terminal_id"] == 0


def test_what_was_completed_in_time_does_not_expire(brief: Demo) -> None:
    card = brief.cards.active()
    with brief.pos() as terminal:
        held = terminal.hold(card, 3000)
        assert terminal.complete(held, 2500).code == "00"
    time.sleep(4)
    assert balances(brief, card) == (7500, 7500)
    assert HOLD_EXPIRY not in [link["operation"] for link in links(brief, held.tx)]


def test_it_expires_also_when_workers_die_meanwhile(brief: Demo) -> None:
    cards = [brief.cards.active() for _ in range(8)]
    with brief.pos() as terminal:
        holds = [terminal.hold(card, 1000) for card in cards]
    for _ in range(3):
        time.sleep(0.8)
        for worker in brief.json["pids"]["workers"]:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    eventually(lambda: all(balances(brief, card) == (10000, 10000) for card in cards), 60)
    for held in holds:
        expired = [link for link in links(brief, held.tx) if link["operation"] == HOLD_EXPIRY]
        assert [link["response"] for link in expired] == [0]
