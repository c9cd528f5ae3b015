"""Lots: every credit on a card keeps its origin, its expiry and whether it may be paid out.

Spending takes the soonest-expiring lot first, then promotional before paid value, then the oldest.
What takes value away from lots says so in `LotMove`s, so that a return or a reversal can put it
back into the very lots it came from.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

__all__ = [
    "Lot",
    "LotMove",
    "Origin",
    "give_back",
    "net",
    "restorable",
    "take",
    "take_all",
    "take_back",
]


class Origin(enum.IntEnum):
    """Where a lot's value comes from. The numbers are stored."""

    PAID = 1
    PROMO = 2
    REWARD = 3
    REFUND = 4
    GOODWILL = 5


_NO_EXPIRY = 1 << 31


class Lot(msgspec.Struct, array_like=True, gc=False):
    """What is left of one credit."""

    lot_id: int
    """Counts up per card."""
    available_minor: int
    origin: Origin = Origin.PAID
    cashable: bool = True
    expires_day: int = 0
    """Days since 1970-01-01 of the last day it can be spent; 0 for never."""
    sponsor_id: int = 0
    """Who pays for promotional value; 0 for nobody."""

    def is_over(self, today: int) -> bool:
        """Whether its last day was before this one."""
        return 0 < self.expires_day < today


class LotMove(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Value that left a lot (amount below zero) or came into one (above)."""

    lot_id: int
    amount_minor: int
    origin: Origin
    cashable: bool
    expires_day: int
    sponsor_id: int

    def with_amount(self, amount_minor: int) -> LotMove:
        """The same lot with another amount."""
        return msgspec.structs.replace(self, amount_minor=amount_minor)


def _move(lot: Lot, amount_minor: int) -> LotMove:
    return LotMove(
        lot.lot_id, amount_minor, lot.origin, lot.cashable, lot.expires_day, lot.sponsor_id
    )


def _spending_order(lot: Lot) -> tuple[int, bool, int]:
    return (lot.expires_day or _NO_EXPIRY, lot.origin is Origin.PAID, lot.lot_id)


def take(lots: list[Lot], amount_minor: int, *, cashable_only: bool = False) -> list[LotMove]:
    """Take an amount out of the lots, in place, and say from where.

    The caller has checked that the amount is there; ValueError otherwise.
    """
    if len(lots) == 1 and 0 < amount_minor < lots[0].available_minor and not cashable_only:
        lots[0].available_minor -= amount_minor  # as below, for what most cards are
        return [_move(lots[0], -amount_minor)]
    moves = []
    for lot in sorted(lots, key=_spending_order):
        if amount_minor == 0:
            break
        if cashable_only and not lot.cashable:
            continue
        part = min(lot.available_minor, amount_minor)
        if part:
            lot.available_minor -= part
            amount_minor -= part
            moves.append(_move(lot, -part))
    if amount_minor:
        raise ValueError("the lots hold less than what is taken")
    lots[:] = [lot for lot in lots if lot.available_minor]
    return moves


def take_all(lots: list[Lot], *, cashable_only: bool = False) -> list[LotMove]:
    """Empty all lots, or all that may be paid out."""
    amount = sum(lot.available_minor for lot in lots if lot.cashable or not cashable_only)
    return take(lots, amount, cashable_only=cashable_only)


def take_back(lots: list[Lot], given: Iterable[LotMove], amount_minor: int) -> list[LotMove]:
    """Take an amount out of the very lots it was given to, in place, the last of them first.

    What they no longer hold of it is taken out of the others, in the order of spending. The caller
    has checked that the lots hold the amount; ValueError otherwise.
    """
    moves = []
    for move in reversed(list(given)):
        lot = next((lot for lot in lots if lot.lot_id == move.lot_id), None)
        part = min(move.amount_minor, lot.available_minor, amount_minor) if lot else 0
        if lot and part > 0:
            lot.available_minor -= part
            amount_minor -= part
            moves.append(_move(lot, -part))
    return net([*moves, *take(lots, amount_minor)])


def restorable(taken: Iterable[LotMove], restored: Iterable[LotMove]) -> list[LotMove]:
    """What was taken and has not been put back, per lot, as moves of what may still come back.

    `restored` are the moves of all that undid the original so far, and of what undid those: a
    return that was undone may have been taken out of other lots than it went into, and these are
    owed then. The last lot that was touched comes first: a partial return refills what would have
    been spent last.
    """
    owed = [move for move in net([*taken, *restored]) if move.amount_minor < 0]
    return [move.with_amount(-move.amount_minor) for move in reversed(owed)]


def net(moves: Iterable[LotMove]) -> list[LotMove]:
    """The sum of the moves per lot, without zeros, in the order the lots were first touched."""
    sums: dict[int, LotMove] = {}
    for move in moves:
        before = sums.get(move.lot_id)
        amount_minor = move.amount_minor + (before.amount_minor if before else 0)
        sums[move.lot_id] = move.with_amount(amount_minor)
    return [move for move in sums.values() if move.amount_minor]


def give_back(lots: list[Lot], sources: Iterable[LotMove], amount_minor: int) -> list[LotMove]:
    """Put an amount back into the very lots named, in place; a lot that was used up returns.

    ValueError when the sources cannot hold the amount: the caller has checked that.
    """
    moves = []
    for source in sources:
        if amount_minor == 0:
            break
        part = min(source.amount_minor, amount_minor)
        amount_minor -= part
        lot = next((lot for lot in lots if lot.lot_id == source.lot_id), None)
        if lot is None:
            lot = Lot(
                source.lot_id,
                0,
                source.origin,
                source.cashable,
                source.expires_day,
                source.sponsor_id,
            )
            lots.append(lot)
        lot.available_minor += part
        moves.append(_move(lot, part))
    if amount_minor:
        raise ValueError("more is given back than was taken")
    return moves
