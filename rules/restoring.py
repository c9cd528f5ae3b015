"""What can still be restored of an original: approved - returned - reversed.

A return that was itself reversed counts as never given. What a reversal has settled stays settled,
though: an original comes to no more than its last reversal left of it, also when a return is undone
only afterwards. So it does not matter which of the two reversals arrives first.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rules.cards import WorkingCard
from rules.ledger import Link
from rules.lots import LotMove, net
from rules.requests import Operation
from rules.responses import ReversalState, Rule

__all__ = [
    "Course",
    "approved_minor",
    "course_of",
    "is_reversed",
    "restorable_minor",
    "restoring_moves",
    "reversed_minor",
    "settled_minor",
]

_ADVICES = frozenset({Operation.ADVICE, Operation.COMPLETION})


class Course(msgspec.Struct, gc=False):
    """What has become of an original so far."""

    left_minor: int
    """What neither a return nor a reversal has undone."""
    ceiling_minor: int
    """What its last reversal left of it: no undone return lifts it above that."""
    relieved_minor: int = 0
    """What of a sale's undoing went to suspense and shortfall instead of the card."""

    def undo(self, link: Link) -> None:
        """A return or a reversal of the original itself."""
        self.left_minor -= link.amount_minor
        if link.operation is Operation.REVERSAL:
            self.ceiling_minor = self.left_minor
            self.relieved_minor += link.amount_minor - link.effect_minor

    def reopen(self, link: Link) -> None:
        """A reversal of one of its returns."""
        settled_minor = self.settled_minor(link.amount_minor)
        self.left_minor += link.amount_minor - settled_minor
        due_minor = link.amount_minor - settled_minor
        self.relieved_minor += max(-link.effect_minor - due_minor, 0)

    def settled_minor(self, undone_minor: int) -> int:
        """How much of a return that is undone now stays on the card."""
        return max(self.left_minor + undone_minor - self.ceiling_minor, 0)


def approved_minor(original: Link) -> int:
    """An advice was approved with all that it asked for, also with what it left in suspense."""
    if original.operation in _ADVICES and original.answer.rule is not Rule.DONE_BEFORE:
        return original.requested_minor
    return original.amount_minor


def course_of(card: WorkingCard, original: Link) -> Course:
    """All that undid an approved original, and what undid its returns, as it came."""
    return _course(card, original.version, approved_minor(original))


def _course(card: WorkingCard, version: int, amount_minor: int) -> Course:
    course = Course(amount_minor, amount_minor)
    for _, link, reopens in sorted(_steps(card, version), key=lambda step: step[0]):
        if reopens:
            course.reopen(link)
        else:
            course.undo(link)
    return course


def _steps(card: WorkingCard, version: int) -> Iterator[tuple[int, Link, bool]]:
    for link in card.undoers(version):
        yield link.version, link, False
        if link.operation is Operation.RETURN:
            for reversal in card.undoers(link.version):
                yield reversal.version, reversal, True


def restorable_minor(card: WorkingCard, original: Link) -> int:
    """The amount of an approved original that neither a return nor a reversal has undone."""
    return course_of(card, original).left_minor


def settled_minor(card: WorkingCard, back: Link, undone_minor: int) -> int:
    """How much of a return's undoing its sale's reversal has settled already."""
    # Relative to what was approved: the sale itself need not be known.
    return _course(card, back.undoes, 0).settled_minor(undone_minor) if back.undoes else 0


def reversed_minor(card: WorkingCard, original: Link) -> int:
    """What reversals have undone of an approved original, without what returns have."""
    undone_minor = approved_minor(original) - restorable_minor(card, original)
    for link in card.undoers(original.version):
        if link.operation is Operation.RETURN:
            undone_minor -= restorable_minor(card, link)
    return undone_minor


def is_reversed(card: WorkingCard, original: Link) -> bool:
    """Whether reversals have left nothing of an approved original.

    What a completion took of a hold, or its expiry gave back, no reversal has undone.
    """
    undoers = card.undoers(original.version)
    states = {x.answer.reversal_state for x in undoers if x.operation is Operation.REVERSAL}
    if ReversalState.REVERSED in states:
        return True
    if not states or original.operation is Operation.HOLD or restorable_minor(card, original):
        return False
    return ReversalState.PARTIAL in states or reversed_minor(card, original) > 0


def restoring_moves(card: WorkingCard, original: Link) -> list[LotMove]:
    """The lot moves of all that undid the original, and of what undid those.

    A return that was undone when its value had been spent took less than it had given: the rest
    stays restored, and is its merchant's shortfall.
    """
    moves: list[LotMove] = []
    for link in card.undoers(original.version):
        moves.extend(net([*link.moves, *restoring_moves(card, link)]))
    return moves
