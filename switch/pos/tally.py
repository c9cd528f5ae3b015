"""What a demo terminal counts for its reconciliation, from what it sent and what it heard.

In the demo's currency alone: points are a batch of their own, whose totals are given by hand.
"""

from __future__ import annotations

import re
from typing import Final

from fastpath.specs import DE
from rules.money import Counts
from rules.responses import APPROVALS, ReversalState, Rule
from rules.settlement import Totals
from switch.pos.demo import UsageError
from switch.pos.fields import parse_amount
from switch.pos.messages import is_original
from switch.pos.state import Sent, TerminalState

__all__ = ["add_answer", "parse_line", "totals_of"]

_ORDER = (Counts.CREDIT, Counts.CREDIT_REVERSAL, Counts.DEBIT, Counts.DEBIT_REVERSAL)
_SIDES: Final = {
    **dict.fromkeys(("00", "61"), Counts.DEBIT),
    **dict.fromkeys(("20", "21", "90", "93"), Counts.CREDIT),
}
_HAD_EFFECT = frozenset({ReversalState.REVERSED, ReversalState.PARTIAL})


def add_answer(
    state: TerminalState, sent: Sent, private: dict[str, str], approved_amount: str, currency: str
) -> None:
    """Count an answered message, once: a repeat's answer is the first one again."""
    if sent.counted or sent.response not in APPROVALS:
        return
    if sent.fields.get(DE.CURRENCY, currency) != currency:
        return
    if sent.mti.startswith("04"):
        if private.get("RS") in _HAD_EFFECT:
            _add_reversal(state, sent)
        return
    side = _SIDES.get(sent.fields.get(DE.PROCESSING_CODE, "")[:2])
    if sent.mti[:2] != "02" or side is None or private.get("WY") == Rule.DONE_BEFORE:
        return
    amount_minor = int(approved_amount or sent.fields.get(DE.AMOUNT) or 0)
    sent.counted, sent.left_minor = True, amount_minor
    named = _sale_named(sent)
    if named:
        sale = state.find(None, lambda other: other.tx == named)
        if sale is not None:
            sale.left_minor -= amount_minor
    _add(state, side, amount_minor)


def _sale_named(sent: Sent) -> str:
    """The `TX` of the sale that a return names; empty where it names none."""
    found = re.search(r"OR012([0-9A-Z]{12})", sent.fields.get(DE.PRIVATE, ""))
    return found[1] if found and sent.fields[DE.PROCESSING_CODE].startswith("20") else ""


def _add_reversal(state: TerminalState, sent: Sent) -> None:
    """A reversal that had effect: what was left of its original, down to DE 95."""
    original = state.find(int(sent.fields[DE.ORIGINAL][4:10]), is_original)
    if original is None or not original.counted:
        return
    final_minor = int(sent.fields.get(DE.REPLACEMENT_AMOUNTS, "")[:12] or 0)
    undone_minor = original.left_minor - final_minor
    original.left_minor = final_minor
    sent.counted = True
    side = _SIDES[original.fields[DE.PROCESSING_CODE][:2]]
    _add(
        state,
        Counts.DEBIT_REVERSAL if side is Counts.DEBIT else Counts.CREDIT_REVERSAL,
        undone_minor,
    )


def _add(state: TerminalState, side: Counts, amount_minor: int) -> None:
    at = _ORDER.index(side)
    state.totals[at] += 1
    state.totals[at + 4] += amount_minor


def parse_line(text: str | None, option: str, currency: str) -> tuple[int, int]:
    """A number and an amount as given by hand ("3:37.50"). UsageError says what is wrong."""
    if text is None:
        return 0, 0
    number, colon, amount = text.partition(":")
    if not colon or re.fullmatch("[0-9]{1,10}", number, re.ASCII) is None:
        raise UsageError(f"{option} must be a number and an amount, such as 3:37.50")
    try:
        return int(number), parse_amount(amount, currency)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def totals_of(lines: dict[Counts, tuple[int, int]]) -> Totals:
    """Totals out of their four lines."""
    return Totals(*(lines[side][at] for at in (0, 1) for side in _ORDER))
