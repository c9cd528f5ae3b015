"""What can still be restored of an original: approved - returned - reversed.

A return that was itself reversed counts as never given, so the sum looks at what undid the undoers
too. Chains of that kind end, since each link undoes an earlier one.
"""

from __future__ import annotations

from rules.cards import WorkingCard
from rules.ledger import Link
from rules.lots import LotMove

__all__ = ["restorable_minor", "restoring_moves"]


def restorable_minor(card: WorkingCard, original: Link) -> int:
    """The amount of an approved original that neither a return nor a reversal has undone."""
    undone_minor = sum(restorable_minor(card, link) for link in card.undoers(original.version))
    return original.amount_minor - undone_minor


def restoring_moves(card: WorkingCard, original: Link) -> list[LotMove]:
    """The lot moves of all that undid the original, and of what undid those."""
    moves: list[LotMove] = []
    for link in card.undoers(original.version):
        moves.extend(link.moves)
        moves.extend(restoring_moves(card, link))
    return moves
