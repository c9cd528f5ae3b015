"""Random traffic of one till, counted by plain dicts from the answers that the till hears.

The switch counts in SQL what its journal says; the model knows the dialect page and the replies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client.demo import Demo
from tests.client.messages import Card, Reason, Reply
from tests.client.terminal import Terminal
from tests.client.till_totals import TillTotals, told_totals

DEBITS = {"redeem", "cash_out", "advise", "complete"}
_numbers = itertools.count(400_001)


@dataclass
class Done:
    """Something the till may refer to later; `left` is what returns and reversals have left."""

    kind: str
    reply: Reply
    card: Card
    amount: int
    left: int
    sale: Done | None = None
    reversed: bool = False


@dataclass
class Model:
    """The till's memory: entries that no closed batch has, as (number, side, amount)."""

    entries: list[tuple[str, str, int]] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    done: list[Done] = field(default_factory=list)
    holds: list[tuple[Reply, int]] = field(default_factory=list)

    def batch(self, number: str) -> TillTotals:
        """What the batch of this number amounts to now."""
        totals = TillTotals()
        count: dict[str, Callable[[int], None]] = {
            "debit": totals.debit,
            "credit": totals.credit,
            "debit undone": totals.undo_debit,
            "credit undone": totals.undo_credit,
        }
        for _, side, amount in self._of(number):
            count[side](amount)
        return totals

    def close(self, number: str) -> None:
        kept = [entry for entry in self.entries if entry not in self._of(number)]
        self.entries = kept
        self.closed.add(number)

    def _of(self, number: str) -> list[tuple[str, str, int]]:
        return [
            entry for entry in self.entries if entry[0] in ("", number) or entry[0] in self.closed
        ]


class Till:
    """Sends what is drawn, and counts what it hears."""

    def __init__(self, terminal: Terminal, cards: list[Card]) -> None:
        self.terminal = terminal
        self.cards = cards
        self.model = Model()
        self.number = ""
        self.next_number()

    def next_number(self) -> None:
        self.number = f"{next(_numbers)}"

    def tag(self, which: str) -> dict[str, Any]:
        """The number that a message carries: none, the open batch's, or a closed one's."""
        closed = sorted(self.model.closed)
        number = {"none": "", "open": self.number, "late": closed[0] if closed else ""}[which]
        return {"BN": number or None}

    def counted(self, tag: dict[str, Any], side: str, amount: int) -> None:
        self.model.entries.append((tag["BN"] or "", side, amount))

    def request(self, kind: str, card: Card, amount: int, tag: dict[str, Any]) -> None:
        """redeem, load, cash_out, advise"""
        verb = getattr(self.terminal, kind)
        more = {"PA": "1"} if kind == "redeem" and amount % 2 else {}
        reply = verb(card, **tag) if kind == "cash_out" else verb(card, amount, **tag, **more)
        if not reply.approved:
            return
        amount = amount if kind == "advise" else reply.amount_minor
        self.counted(tag, "debit" if kind in DEBITS else "credit", amount)
        self.model.done.append(Done(kind, reply, card, amount, amount))

    def hold(self, card: Card, amount: int) -> None:
        reply = self.terminal.hold(card, amount)
        if reply.approved:
            self.model.holds.append((reply, amount))

    def complete(self, at: int, amount: int, tag: dict[str, Any]) -> None:
        if not self.model.holds:
            return
        reply, _ = self.model.holds[at % len(self.model.holds)]
        done = self.terminal.complete(reply, amount, **tag)
        assert done.code == "00"
        if done.why != "DONEBEFORE":
            self.counted(tag, "debit", amount)
            assert reply.request is not None and reply.request.card is not None
            self.model.done.append(Done("complete", done, reply.request.card, amount, amount))

    def give_back(self, at: int, amount: int, tag: dict[str, Any]) -> None:
        sales = [one for one in self.model.done if one.kind == "redeem"]
        if not sales:
            return
        sale = sales[at % len(sales)]
        reply = self.terminal.refund(sale.card, amount, sale.reply, **tag)
        if reply.approved:
            self.counted(tag, "credit", amount)
            sale.left -= amount
            self.model.done.append(Done("refund", reply, sale.card, amount, amount, sale))

    def reverse(self, at: int, share: int, reason: Reason, tag: dict[str, Any]) -> None:
        # A return whose sale was reversed meanwhile is left alone: nothing moves, then.
        may = [d for d in self.model.done if d.sale is None or not d.sale.reversed]
        if not may:
            return
        one = may[at % len(may)]
        final = one.left * share // 4
        reply = self.terminal.reverse(one.reply, reason, final_minor=final or None, de4=None, **tag)
        if reply.state not in ("REVERSED", "PARTIAL") or reply.code != "00":
            return
        undone = one.left - final
        side = "debit" if one.kind in DEBITS else "credit"
        self.counted(tag, f"{side} undone", undone)
        one.left, one.reversed = final, True
        if one.sale is not None:
            one.sale.left += undone

    def repeat(self, at: int) -> None:
        if self.model.done:
            self.terminal.repeat(self.model.done[at % len(self.model.done)].reply)

    def close(self, *, rightly: bool) -> None:
        expected = self.model.batch(self.number)
        if rightly:
            reply = self.terminal.reconcile(expected, self.number)
            assert (reply.code, told_totals(reply)) == ("00", expected)
            self.model.close(self.number)
            self.next_number()
            return
        reply = self.terminal.reconcile(TillTotals(debits_undone=77), self.number)
        assert (reply.code, told_totals(reply)) == ("95", expected)


TAGS = st.sampled_from(["none", "open", "late"])
AMOUNTS = st.one_of(st.integers(1, 6000), st.integers(9000, 12000))
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["redeem", "redeem", "load", "cash_out", "advise"]),
            st.integers(0, 1),
            AMOUNTS,
            TAGS,
        ),
        st.tuples(st.just("hold"), st.integers(0, 1), AMOUNTS),
        st.tuples(st.just("complete"), st.integers(0, 9), AMOUNTS, TAGS),
        st.tuples(st.just("refund"), st.integers(0, 9), st.integers(1, 3000), TAGS),
        st.tuples(
            st.just("reverse"),
            st.integers(0, 99),
            st.integers(0, 3),
            st.sampled_from(list(Reason)),
            TAGS,
        ),
        st.tuples(st.just("repeat"), st.integers(0, 99)),
        st.tuples(st.just("close"), st.booleans()),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def terminal(switch: Demo) -> Iterator[Terminal]:
    """A terminal with an empty batch, whatever others have done at it."""
    entry = [e for e in switch.pos_entries if e["mac"] == "aes-cmac"][-3]
    with switch.pos(entry) as found:
        first = found.reconcile(TillTotals(debits=999_999))
        assert found.reconcile(told_totals(first)).code == "00"
        yield found


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_the_tills_count_is_the_switchs(
    switch: Demo, terminal: Terminal, steps: list[tuple[Any, ...]]
) -> None:
    till = Till(terminal, [switch.cards.active(), switch.cards.active()])
    for kind, *values in steps:
        match kind:
            case "hold":
                till.hold(till.cards[values[0]], values[1])
            case "complete":
                till.complete(values[0], values[1], till.tag(values[2]))
            case "refund":
                till.give_back(values[0], values[1], till.tag(values[2]))
            case "reverse":
                till.reverse(*values[:3], till.tag(values[3]))
            case "repeat":
                till.repeat(values[0])
            case "close":
                till.close(rightly=values[0])
            case _:
                till.request(kind, till.cards[values[0]], values[1], till.tag(values[2]))
    till.close(rightly=True)
