"""Does a link follow from the state before it? The fold of its moves must be the state after it.

This is not how a link is made: rules/ decides forwards, from a request; here each link is taken at
its word, and what it says it moved has to explain the whole state that it left.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rules.cards import CardState, CardStatus, Hold
from rules.holds import split_pinned
from rules.ledger import Link
from rules.lots import Lot, LotMove
from rules.money import Purse
from rules.replay_life import ReplayFault, check_life
from rules.replay_life import agree as _agree
from rules.requests import Operation

__all__ = ["ReplayFault", "check_counterpart", "check_state", "first_state", "follow"]

_decode_state = msgspec.msgpack.Decoder(CardState).decode


_Facts = tuple[int, int, bool, int, int]
"""Of a lot, or of what came from one: amount, origin, cashable, expiry, sponsor."""


def first_state(link: Link) -> CardState:
    """The state before a card's first link."""
    state = CardState.new()
    state.status = CardStatus(link.status_before)
    return state


def follow(before: CardState, link: Link, batch_id: int, posted_s: int = 0) -> CardState:
    """The state after a link, where it follows from the one before. ReplayFault otherwise.

    `posted_s` is the UTC second of the link's batch, 0 where it is not known: then it is not looked
    whether value was past its last day.
    """
    try:
        after = _decode_state(link.state_after)
    except msgspec.DecodeError:
        raise ReplayFault("the state after it cannot be read") from None
    _agree("the version in its state", after.version, link.version)
    _agree("the batch in its state", after.batch_id, batch_id)
    _agree("the status in its state", after.status, link.status_after)
    _agree("the status before it", link.status_before, before.status)
    purse = after.purse(link.purse)
    _agree("the available amount in its state", purse.available_minor, link.available_after_minor)
    _agree("the held amount in its state", purse.held_minor, link.held_after_minor)
    moved_minor = sum(move.amount_minor for move in link.moves)
    _agree("the sum of its moves", moved_minor, link.effect_minor)
    if not link.approved:
        _agree("a refusal's moves", link.moves, ())
        _agree("a refusal's status", link.status_after, link.status_before)
    check_state(after)
    for kind in Purse:
        moves = link.moves if kind is link.purse else ()
        lots = _lots_after(before.purse(kind).lots, moves)
        _agree("its lots", _by_id(after.purse(kind).lots), lots)
    _agree("the count of lots made", after.lots_made, _lots_made_after(before, link))
    _check_holds(before, link, after)
    _check_tries(before, link, after)
    _check_status_before_block(before, link, after)
    _check_status_before_freeze(before, link, after)
    check_life(before, link, after, posted_s)
    return after


def check_counterpart(link: Link, other: Link | None) -> None:
    """Whether both halves of a transfer, or of its reversal, say the same. ReplayFault otherwise.

    `other` is the link that this one names, of the same batch; None where there is none. A link
    that names none is no half: then there is nothing to check but that it need not name one.
    """
    halves = {Operation.TRANSFER: Operation.RECEIPT, Operation.RECEIPT: Operation.TRANSFER}
    if not link.other_card_id:
        if link.approved and link.operation in halves:
            raise ReplayFault("it is half of a transfer and names no other half")
        return
    if other is None:
        raise ReplayFault("its other half is not there")
    _agree("the other half that it names", _names(link), (other.card_id, other.version))
    _agree("what its other half names", _names(other), (link.card_id, link.version))
    _agree("its other half", other.operation, halves.get(link.operation, Operation.REVERSAL))
    _agree("the amount of its other half", other.effect_minor, -link.effect_minor)
    _agree("the purse of its other half", other.purse, link.purse)
    if link.operation in halves:
        _agree("the kinds of value in its other half", _kinds(other, -1), _kinds(link, 1))


def _names(link: Link) -> tuple[int, int]:
    return link.other_card_id, link.other_version


def _kinds(link: Link, sign: int) -> list[_Facts]:
    """What a transfer moved, lot by lot."""
    return [
        (sign * m.amount_minor, int(m.origin), m.cashable, m.expires_day, m.sponsor_id)
        for m in link.moves
    ]


def check_state(state: CardState) -> None:
    """Whether a state holds together: amounts are the sums of lots and of holds."""
    for kind in Purse:
        purse = state.purse(kind)
        lots = [lot.available_minor for lot in purse.lots]
        if min(lots, default=1) <= 0:
            raise ReplayFault("a lot in its state is empty")
        _agree("the available amount", purse.available_minor, sum(lots))
        held = [hold for hold in state.holds if hold.purse is kind]
        _agree("the held amount", purse.held_minor, sum(hold.amount_minor for hold in held))
    first_end = state.first_end()
    if first_end and not 0 < state.ends_from <= first_end:
        raise ReplayFault("a lot of it ends before any is looked for")
    for hold in state.holds:
        pinned_minor = -sum(move.amount_minor for move in hold.pinned)
        _agree("what a hold has pinned", pinned_minor, hold.amount_minor)


def _by_id(lots: Iterable[Lot]) -> dict[int, _Facts]:
    return {
        lot.lot_id: (
            *(lot.available_minor, int(lot.origin), lot.cashable, lot.expires_day),
            lot.sponsor_id,
        )
        for lot in lots
    }


def _lots_after(before: Iterable[Lot], moves: Iterable[LotMove]) -> dict[int, _Facts]:
    """The lots before with the moves applied one after the other; what is empty is gone."""
    lots = _by_id(before)
    for move in moves:
        facts = (int(move.origin), move.cashable, move.expires_day, move.sponsor_id)
        known = lots.get(move.lot_id, (0, *facts))
        if known[1:] != facts:
            raise ReplayFault("a move names a lot of another kind")
        left_minor = known[0] + move.amount_minor
        if left_minor < 0:
            raise ReplayFault("a move takes more than its lot has")
        lots[move.lot_id] = (left_minor, *facts)
    return {lot_id: facts for lot_id, facts in lots.items() if facts[0]}


def _lots_made_after(before: CardState, link: Link) -> int:
    return max([before.lots_made, *(move.lot_id for move in link.moves)])


def _check_holds(before: CardState, link: Link, after: CardState) -> None:
    """Only a hold makes a hold; what undoes one ends it, or a reversal leaves a part of it."""
    expected = {hold.version: hold for hold in before.holds}
    made = {hold.version: hold for hold in after.holds}
    if link.operation is Operation.HOLD and link.approved:
        hold = made.get(link.version)
        if hold is None:
            raise ReplayFault("the hold it made is not in its state")
        # Its end is the programme's choice and stands nowhere else.
        expected[link.version] = Hold(
            link.version, link.purse, link.amount_minor, hold.expires_s, link.moves
        )
    elif link.undoes in expected and link.approved:
        hold = expected.pop(link.undoes)
        left_minor = hold.amount_minor - link.amount_minor
        if link.operation is Operation.REVERSAL and left_minor > 0:
            kept, _ = split_pinned(hold, left_minor)
            expected[hold.version] = msgspec.structs.replace(
                hold, amount_minor=left_minor, pinned=tuple(kept)
            )
    _agree("its open holds", made, expected)


def _check_tries(before: CardState, link: Link, after: CardState) -> None:
    """Tries are counted by refusals and forgotten by approvals."""
    for was, now in ((before.pin_tries, after.pin_tries), (before.code_tries, after.code_tries)):
        if now != was and now != (0 if link.approved else was + 1) and now != 0:
            raise ReplayFault(
                "the count of wrong tries is not what follows from the link before it"
            )


def _check_status_before_block(before: CardState, link: Link, after: CardState) -> None:
    """It is noted by a block; while blocked, a freeze or an undone activation changes it."""
    expected = before.status_before_block
    if link.operation is Operation.BLOCK and link.approved:
        expected = before.status
    possible = [expected]
    if after.status is CardStatus.BLOCKED and link.approved:
        possible.append(CardStatus.FROZEN)
        if link.operation is Operation.REVERSAL and link.undoes and expected is CardStatus.ACTIVE:
            possible += [CardStatus.ISSUED, CardStatus.UNLOCKED]
    if after.status_before_block not in possible:
        _agree("the status before a block", after.status_before_block, expected)


def _check_status_before_freeze(before: CardState, link: Link, after: CardState) -> None:
    """What freezes a card notes what it was; a thaw makes it that again."""
    if link.approved and link.operation is Operation.UNBLOCK and before.status is CardStatus.FROZEN:
        _agree("the status of a thawed card", after.status, before.status_before_freeze)
    expected = before.status_before_freeze
    possible = [expected]
    if link.approved and CardStatus.FROZEN in (after.status, after.status_before_block):
        possible += [before.status, before.status_before_block]
    if after.status_before_freeze not in possible:
        _agree("the status before a freeze", after.status_before_freeze, expected)
