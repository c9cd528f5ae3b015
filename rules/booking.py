"""How a decision becomes a link of the card's chain: `approve` and `refuse`."""

from __future__ import annotations

import msgspec

from rules.cards import WorkingCard
from rules.identity import derived_transaction_id
from rules.ledger import AccountKind, Answer, Link, Posting
from rules.lots import LotMove, Origin
from rules.money import Counts
from rules.policy import DAY_S, PROMOTIONAL, Policy
from rules.requests import CardRequest, Operation
from rules.responses import Response, ReversalState, Rule
from rules.settlement import count

__all__ = [
    "Moment",
    "Policy",
    "approve",
    "card_to_giver",
    "card_to_merchant",
    "refuse",
    "unknown_card",
]

# Members that nearly every decision needs: Python 3.11 looks each up in 140 ns.
_CARD, _MERCHANT = AccountKind.CARD, AccountKind.MERCHANT
_PARTIAL = Response.PARTIAL
_WITHOUT_BALANCE = frozenset(
    {
        *(Operation.REVERSAL, Operation.ADVICE, Operation.COMPLETION),
        *(Operation.UPLOAD, Operation.RECEIPT),
        *(Operation.LOT_EXPIRY, Operation.LOT_RENEWAL, Operation.DORMANCY_FEE),
    }
)
"""DE 54 goes with the answers to authorizations and financial requests alone."""
_ACTIVITY = frozenset(
    {
        *(Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED, Operation.LOAD, Operation.REDEEM),
        *(Operation.RETURN, Operation.CASH_OUT, Operation.HOLD, Operation.COMPLETION),
        *(Operation.ADVICE, Operation.TRANSFER, Operation.RECEIPT),
    }
)
"""What shows that somebody uses the card."""


class Moment(msgspec.Struct, frozen=True, gc=False):
    """The instant of a batch: all its decisions are taken at one time."""

    now_s: int
    """UTC seconds."""
    year_month: str
    """YYMM of that instant, to compare with a card's expiry."""
    batch_id: int


def card_to_merchant(
    card: WorkingCard, request: CardRequest, amount_minor: int
) -> tuple[Posting, ...]:
    """The posting of value that moves between card and merchant: above 0 to the merchant."""
    merchant_id = request.terminal.merchant_id
    if amount_minor > 0:
        return (Posting(_CARD, card.card_id, _MERCHANT, merchant_id, amount_minor),)
    if amount_minor < 0:
        return (Posting(_MERCHANT, merchant_id, _CARD, card.card_id, -amount_minor),)
    return ()


def card_to_giver(
    card: WorkingCard, request: CardRequest, amount_minor: int, origin: Origin, sponsor_id: int
) -> tuple[Posting, ...]:
    """As `card_to_merchant`, with who gave such value: the sponsor, where it is promotional."""
    if origin not in PROMOTIONAL or not amount_minor:
        return card_to_merchant(card, request, amount_minor)
    own, sponsor = (AccountKind.CARD, card.card_id), (AccountKind.PROMO, sponsor_id)
    debit, credit = (own, sponsor) if amount_minor > 0 else (sponsor, own)
    return (Posting(*debit, *credit, abs(amount_minor)),)


def approve(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    *,
    amount_minor: int = 0,
    effect_minor: int = 0,
    held_minor: int = 0,
    moves: list[LotMove] | None = None,
    consumed: tuple[LotMove, ...] = (),
    postings: tuple[Posting, ...] = (),
    status_before: int,
    undoes: int = 0,
    response: Response = Response.APPROVED,
    rule: Rule = Rule.NONE,
    answered_minor: int | None = None,
    reversal_state: ReversalState = ReversalState.NONE,
    counted: tuple[Counts, int] | None = None,
    other: tuple[int, int] = (0, 0),
) -> Answer:
    """Append the link of an approval whose effect the card's state already shows.

    `effect_minor` has been applied to the lots by the caller (`moves`); here it is applied to the
    purse's available amount (and `held_minor` to the held one), and both must agree: ValueError
    otherwise, before anything is written. `other` is the card and version of the link that is one
    transaction with this one.
    """
    purse = card.state.purse(request.purse)
    purse.available_minor += effect_minor
    purse.held_minor += held_minor
    moved_minor = 0
    for move in moves or ():
        moved_minor += move.amount_minor
        if move.expires_day and move.amount_minor > 0:
            card.state.note_end(move.expires_day)
    if purse.available_minor < 0 or purse.held_minor < 0 or effect_minor != moved_minor:
        raise ValueError("a link's effect is not what its lots moved")
    tells_balance = request.operation not in _WITHOUT_BALANCE
    transaction_id = request.transaction_id
    answer = Answer(  # in their order: a name costs 100 ns here, and every message passes
        response,
        transaction_id,
        request.rrn or transaction_id,
        rule,
        transaction_id[-6:],
        answered_minor,
        card.balances(request.purse) if tells_balance else "",
        reversal_state,
        request.amount_minor if response is _PARTIAL else None,
    )
    link = _link(request, card, answer)
    link.amount_minor = amount_minor
    link.effect_minor = effect_minor
    link.moves = tuple(moves or ())
    link.consumed = consumed
    link.postings = postings
    link.status_before = status_before
    link.undoes = undoes
    if not request.foreign_currency:  # what is in no purse's currency is in no totals either
        link.counts, link.counted_minor = counted or count(request.operation, postings)
    link.other_card_id, link.other_version = other
    if request.terms is not None:
        link.order_reference = request.terms.order_reference
    if request.operation in _ACTIVITY:
        card.state.last_active_day = moment.now_s // DAY_S
    card.append(link, moment.batch_id)
    return answer


def refuse(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    response: Response,
    rule: Rule,
    reversal_state: ReversalState = ReversalState.NONE,
    resets_s: int = 0,
) -> Answer:
    """Append the link of a refusal: it moves nothing, and a repeat hears it again."""
    if response is Response.NO_SUCH_CARD:
        answer = unknown_card(request)
    else:
        transaction_id = request.transaction_id
        answer = Answer(
            response,
            transaction_id,
            request.rrn or transaction_id,
            rule,
            reversal_state=reversal_state,
            resets_s=resets_s,
        )
    link = _link(request, card, answer)
    link.status_before = card.state.status
    card.append(link, moment.batch_id)
    return answer


def unknown_card(request: CardRequest) -> Answer:
    """The answer to an unknown card, and to every other that must not be told from one.

    Its transaction id is made from the request alone, so that neither a first answer nor that of a
    repeat tells whether a chain was there to keep it.
    """
    transaction_id = derived_transaction_id(request.key + request.card_digest)
    return Answer(Response.NO_SUCH_CARD, transaction_id, request.rrn or transaction_id, Rule.CARD)


def _link(request: CardRequest, card: WorkingCard, answer: Answer) -> Link:
    terminal = request.terminal
    link = Link(
        card.card_id,
        card.state.version + 1,
        request.key,
        request.fingerprint,
        request.operation,
        answer,
        terminal.terminal_id,
        terminal.merchant_id,
        request.purse,
        request.amount_minor,
    )
    link.foreign_currency = request.foreign_currency
    link.batch_number = request.batch_number
    return link
