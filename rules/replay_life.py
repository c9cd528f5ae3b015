"""The replay of what time does to a card: lots that end, fees, the day's totals."""

from __future__ import annotations

from rules.cards import CardState, DayTotals
from rules.ledger import Link
from rules.lots import net
from rules.money import Purse
from rules.policy import DAY_S
from rules.requests import Operation

__all__ = ["ReplayFault", "agree", "check_life"]

_SLACK_S = 14 * 3600
"""A programme's day ends at most so much before or after UTC's."""
_ENDS = frozenset({Operation.LOT_EXPIRY, Operation.LOT_RENEWAL})
_SPENDS = frozenset(
    {*(Operation.REDEEM, Operation.CASH_OUT, Operation.HOLD, Operation.TRANSFER), Operation.ADVICE}
)
_GIVES_BACK = frozenset({Operation.REVERSAL, Operation.COMPLETION})
_USES = frozenset(
    {
        *(Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED, Operation.LOAD, Operation.RETURN),
        *(Operation.ISSUE, Operation.RECEIPT, Operation.COMPLETION, *_SPENDS),
    }
)


class ReplayFault(ValueError):
    """Why a link does not follow; the text holds no card data."""


def agree(what: str, found: object, expected: object) -> None:
    """ReplayFault unless both are the same."""
    if found != expected:
        raise ReplayFault(f"{what} is not what follows from the link before it")


def check_life(before: CardState, link: Link, after: CardState, posted_s: int) -> None:
    """ReplayFault where a link ends what is not over, spends what is, or counts another day."""
    if link.operation in _ENDS:
        _check_end(before, link, posted_s)
    elif posted_s:
        _check_spent(link, posted_s)
    _check_fee(before, link, after)
    _check_day(before, link, after)
    if after.last_active_day != before.last_active_day and not (
        link.approved and link.operation in _USES
    ):
        raise ReplayFault("a link that is no use of the card moves its last use on")


def _check_end(before: CardState, link: Link, posted_s: int) -> None:
    """A lot ends wholly, after its last day; a renewed one goes on in one that is all alike."""
    ended, *heirs = link.moves or (None,)
    if ended is None or not link.approved:
        raise ReplayFault("an expiry without a lot")
    lots = {lot.lot_id: lot for lot in before.purse(link.purse).lots}
    lot = lots.get(ended.lot_id)
    whole_minor = lot.available_minor if lot is not None else 0
    agree("what ends of a lot", -ended.amount_minor, whole_minor)
    earliest_s = (ended.expires_day + 1) * DAY_S - _SLACK_S
    if not ended.expires_day or (posted_s and posted_s < earliest_s):
        raise ReplayFault("a lot ends before its last day is over")
    if link.operation is Operation.LOT_EXPIRY:
        agree("what comes of an expired lot", heirs, [])
        return
    agree("the number of heirs of a lot", len(heirs), 1)
    heir = heirs[0]
    agree("the heir of a lot", heir.lot_id, before.lots_made + 1)
    agree("the value of an heir", heir.amount_minor, whole_minor)
    kind = (heir.origin, heir.cashable, heir.sponsor_id)
    agree("the kind of an heir", kind, (ended.origin, ended.cashable, ended.sponsor_id))
    if heir.expires_day <= ended.expires_day:
        raise ReplayFault("an heir that ends no later")


def _check_spent(link: Link, posted_s: int) -> None:
    """Nothing is taken out of a lot that was over, wherever the programme's day begins.

    What a completion takes of its pins comes out of its hold: `net` leaves what came of it.
    """
    for move in net(link.moves):
        over_s = (move.expires_day + 1) * DAY_S + _SLACK_S
        if move.amount_minor < 0 and move.expires_day and posted_s > over_s:
            raise ReplayFault("it takes value that is past its last day")


def _check_fee(before: CardState, link: Link, after: CardState) -> None:
    """A fee is the month's first, and only a fee moves the month on."""
    if link.operation is not Operation.DORMANCY_FEE:
        agree("the month of its last fee", after.fee_month, before.fee_month)
    elif after.fee_month <= before.fee_month or link.effect_minor >= 0:
        raise ReplayFault("a second fee for one month, or none at all")


def _check_day(before: CardState, link: Link, after: CardState) -> None:
    """What is spent is added, what is undone is given back, a new day is empty.

    A card whose days are not limited (any more) counts nothing.
    """
    was, now = before.spent, after.spent
    if now is None:
        return
    begins = was is None or was.day != now.day
    if was is None or begins:
        if was is not None and now.day < was.day:
            raise ReplayFault("the day that it counts goes back")
        agree("where its day begins", now.from_version, before.version)
        was = DayTotals(now.day, before.version)
    else:
        agree("where its day begins", now.from_version, was.from_version)
    for kind in Purse:
        (was_minor, was_count), (now_minor, now_count) = was.of(kind), now.of(kind)
        counted = now_minor - was_minor, now_count - was_count
        operation = link.operation if link.approved and kind is link.purse else None
        if kind is Purse.POINTS:
            continue
        spent_minor = _spent_minor(link)
        if operation in _SPENDS and spent_minor is not None:
            agree("what it counts as spent today", counted, (spent_minor, 1))
        elif operation in _GIVES_BACK:
            least_minor, most_minor = -_undone_minor(before, link), max(-link.effect_minor, 0)
            most_minor = most_minor if operation is Operation.COMPLETION else 0
            if not least_minor <= counted[0] <= most_minor or counted[1] not in (0, -1):
                raise ReplayFault("it gives back more of the day's total than it undoes")
        else:
            agree("what it counts as spent today", counted, (0, 0))


def _spent_minor(link: Link) -> int | None:
    """What a link adds to the day's total; None where it adds nothing, as an advice in suspense."""
    if link.operation is Operation.ADVICE and link.effect_minor == 0:
        return None
    return -link.effect_minor


def _undone_minor(before: CardState, link: Link) -> int:
    if link.operation is Operation.COMPLETION:
        holds = {hold.version: hold.amount_minor for hold in before.holds}
        return holds.get(link.undoes, 0)
    return max(link.effect_minor, 0)
