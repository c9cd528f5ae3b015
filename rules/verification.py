"""PIN, code and expiry against the card, with the tries that are counted on its row.

Where the card was read, each failure has its own answer. Where its number was keyed or came from
the web, a wrong code, a missing one, a locked one and an unknown card all look alike: an answer
that told them apart would let numbers be guessed (the "no oracle" rule of the dialect).
"""

from __future__ import annotations

import hmac

from rules.booking import Moment, Policy, refuse
from rules.cards import WorkingCard
from rules.ledger import Answer
from rules.requests import CardRequest, Entry, Operation
from rules.responses import Response, Rule

__all__ = ["check_secrets"]

_READ = Entry.READ


def check_secrets(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy
) -> Answer | None:
    """None when what was entered is right (or nothing had to be), else the refusal, booked."""
    code_entered = request.code_digest is not None or _expiry_differs(request, card)
    pin_entered = request.pvv is not None
    if not code_entered and not pin_entered:
        if request.entry is not _READ:
            return refuse(request, card, moment, Response.NO_SUCH_CARD, Rule.CARD)
        return None
    refusal = _check_code(request, card, policy) if code_entered else None
    if refusal is None and pin_entered:
        refusal = _check_pin(request, card, policy)
    if refusal is not None:
        response, rule = refusal
        if request.entry is Entry.KEYED:
            response, rule = Response.NO_SUCH_CARD, Rule.CARD
        return refuse(request, card, moment, response, rule)
    if request.operation is not Operation.BALANCE:  # an approved enquiry changes nothing
        if request.code_digest is not None:
            card.state.code_tries = 0
        if pin_entered:
            card.state.pin_tries = 0
    return None


def _expiry_differs(request: CardRequest, card: WorkingCard) -> bool:
    return request.expiry is not None and request.expiry != card.facts.expiry


def _check_code(
    request: CardRequest, card: WorkingCard, policy: Policy
) -> tuple[Response, Rule] | None:
    if card.state.code_tries >= policy.code_tries_max:
        return Response.WRONG_CODE, Rule.CODE_LOCKED
    digest = request.code_digest
    right = digest is None or (
        card.facts.code_digest != b"" and hmac.compare_digest(digest, card.facts.code_digest)
    )
    if right and not _expiry_differs(request, card):
        return None
    card.state.code_tries += 1
    return Response.WRONG_CODE, Rule.CODE


def _check_pin(
    request: CardRequest, card: WorkingCard, policy: Policy
) -> tuple[Response, Rule] | None:
    if card.state.pin_tries >= policy.pin_tries_max:
        return Response.PIN_TRIES_EXCEEDED, Rule.PIN_LOCKED
    if card.facts.pvv and request.pvv and hmac.compare_digest(request.pvv, card.facts.pvv):
        return None
    card.state.pin_tries += 1
    return Response.WRONG_PIN, Rule.PIN
