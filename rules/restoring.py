"""What can still be restored of an original: approved - returned - reversed.

A return that was itself reversed counts as never given, so the sum looks at what undid the undoers
too. Chains of that kind end, since each link undoes an earlier one.
"""

from __future__ import annotations

import msgspec

from rules.cards import WorkingCard
from rules.ledger import Link
from rules.lots import LotMove, net

__all__ = ["restorable_minor", "restoring_moves"]


def restorable_minor(card: WorkingCard, original: Link) -> int:
    """The amount of an approved original that neither a return nor a reversal has undone."""
    undone_minor = sum(restorable_minor(card, link) for link in card.undoers(original.version))
    return original.amount_minor - undone_minor


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
