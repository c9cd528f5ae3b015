"""What can still be restored of an original: approved - returned - reversed.

A return that was itself reversed counts as never given, so the sum looks at what undid the undoers
too. Chains of that kind end, since each link undoes an earlier one.
"""

from __future__ import annotations

import msgspec

from rules.cards import WorkingCard
from rules.ledger import Link
from rules.lots import LotMove, net
from rules.requests import Operation
from rules.responses import ReversalState, Rule

__all__ = ["is_reversed", "restorable_minor", "restoring_moves"]

_ADVICES = frozenset({Operation.ADVICE, Operation.COMPLETION})


def restorable_minor(card: WorkingCard, original: Link) -> int:
    """The amount of an approved original that neither a return nor a reversal has undone.

    An advice was approved with all that it asked for, also with what it left in suspense.
    """
    approved_minor = original.amount_minor
    if original.operation in _ADVICES and original.answer.rule is not Rule.DONE_BEFORE:
        approved_minor = original.requested_minor
    undone_minor = sum(restorable_minor(card, link) for link in card.undoers(original.version))
    return approved_minor - undone_minor


def is_reversed(card: WorkingCard, original: Link) -> bool:
    """Whether reversals have left nothing of an approved original.

    What a completion took of a hold, or its expiry gave back, no reversal has undone.
    """
    undoers = card.undoers(original.version)
    reversals = [link for link in undoers if link.operation is Operation.REVERSAL]
    if any(link.answer.reversal_state is ReversalState.REVERSED for link in reversals):
        return True
    of_hold = original.operation is Operation.HOLD
    return bool(reversals) and not of_hold and restorable_minor(card, original) == 0


def restoring_moves(card: WorkingCard, original: Link) -> list[LotMove]:
    """The lot moves of all that undid the original, and of what undid those.

    A return that was undone when its value had been spent gave back less than it no longer counts
    for; the rest is a shortfall, and owed to the return's own lots.
    """
    moves: list[LotMove] = []
    for link in card.undoers(original.version):
        part = net([*link.moves, *restoring_moves(card, link)])
        moves.extend(part)
        missing_minor = sum(move.amount_minor for move in part) - restorable_minor(card, link)
        for move in part:
            share_minor = min(move.amount_minor, missing_minor)
            if share_minor > 0:
                missing_minor -= share_minor
                moves.append(msgspec.structs.replace(move, amount_minor=-share_minor))
    return moves
