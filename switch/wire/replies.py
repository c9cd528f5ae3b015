"""From an answer to the fields of a reply message."""

from __future__ import annotations

import datetime
import functools

from fastpath.codec import Message
from fastpath.specs import DE
from rules.ledger import Answer
from rules.requests import Entry
from rules.responses import APPROVALS, Response, Rule
from rules.settlement import Reconciled
from switch.wire.fields import entry_mode
from switch.wire.private import build_private
from switch.wire.settling import reconciliation_fields
from switch.wire.translate import ADVICE

__all__ = ["ECHOED", "ReplyTime", "plain_answer", "reply_fields", "reply_mti"]

ECHOED = tuple(
    int(field)
    for field in (
        DE.PAN,
        DE.PROCESSING_CODE,
        DE.AMOUNT,
        DE.STAN,
        DE.LOCAL_TIME,
        DE.LOCAL_DATE,
        DE.SETTLEMENT_DATE,
        DE.NII,
        DE.ACQUIRER,
        DE.FORWARDER,
        DE.TERMINAL,
        DE.MERCHANT,
        DE.CURRENCY,
        DE.SECURITY_CONTROL,
        DE.TRANSPORT,
        DE.RECONCILIATION_CODE,
        DE.NETWORK_CODE,
        DE.TO_ACCOUNT,
    )
)
"""What a reply repeats as its request had it, unless `reply_fields` says otherwise."""
_AMOUNT, _TRANSMISSION_TIME = int(DE.AMOUNT), int(DE.TRANSMISSION_TIME)
_TIME, _DATE, _RRN = int(DE.LOCAL_TIME), int(DE.LOCAL_DATE), int(DE.RRN)
_APPROVAL_CODE, _RESPONSE = int(DE.APPROVAL_CODE), int(DE.RESPONSE_CODE)
_PRIVATE, _BALANCES = int(DE.PRIVATE), int(DE.ADDITIONAL_AMOUNTS)

_CODES = {response: response.value for response in Response}
_APPROVING_CLASSES = frozenset("124")
_BALANCE_MTIS = frozenset({"0100", "0101", "0200", "0201"})


@functools.lru_cache(maxsize=256)
def reply_mti(mti: str) -> str | None:
    """The MTI of the reply; None for a message that is itself a reply or a notification.

    An origin of 1 (a repeat) is answered as an origin of 0.
    """
    if mti[2] not in "02" or mti[3] not in "01":
        return None
    return f"{mti[:2]}{int(mti[2]) + 1}0"


def plain_answer(transaction_id: str, response: Response, rule: Rule, rrn: str = "") -> Answer:
    """An answer that no card had a part in."""
    return Answer(response, transaction_id, rrn or transaction_id, rule)


class ReplyTime:
    """The instant of a batch of replies as they tell it; `now` is in UTC."""

    __slots__ = ("_locals", "_now", "transmission")

    def __init__(self, now: datetime.datetime) -> None:
        self._now = now
        self._locals: dict[int, tuple[str, str]] = {}
        self.transmission = now.strftime("%m%d%H%M%S")
        """DE 7."""

    def local(self, utc_offset_min: int) -> tuple[str, str]:
        """DE 12 and DE 13 at a terminal with this offset."""
        known = self._locals.get(utc_offset_min)
        if known is None:
            local = self._now + datetime.timedelta(minutes=utc_offset_min)
            known = self._locals[utc_offset_min] = local.strftime("%H%M%S"), local.strftime("%m%d")
        return known


def reply_fields(
    message: Message, mti: str, answer: Answer, time: ReplyTime, utc_offset_min: int
) -> dict[int, str | bytes]:
    """What the reply says besides its MAC and what it repeats of its request (ECHOED).

    `mti` is the message's.
    """
    fields: dict[int, str | bytes] = {_TRANSMISSION_TIME: time.transmission}
    if _TIME not in message or _DATE not in message:
        local_time, local_date = time.local(utc_offset_min)
        if _TIME not in message:
            fields[_TIME] = local_time
        if _DATE not in message:
            fields[_DATE] = local_date
    if answer.amount_minor is not None:
        fields[_AMOUNT] = f"{answer.amount_minor:012d}"
    fields[_RRN] = message.get(_RRN) or answer.rrn
    response = answer.response
    fields[_RESPONSE] = _CODES[response]
    if response in APPROVALS and mti[1] in _APPROVING_CLASSES:
        fields[_APPROVAL_CODE] = answer.approval_code
        if answer.balances and mti in _BALANCE_MTIS:
            fields[_BALANCES] = answer.balances
    elif answer.original_state and answer.approval_code:  # an outcome query tells the original's
        fields[_APPROVAL_CODE] = answer.approval_code
        if answer.balances:
            fields[_BALANCES] = answer.balances
    if isinstance(answer, Reconciled) and answer.totals is not None:
        fields.update(reconciliation_fields(message, answer))
    private = {}
    if answer.original_response:
        private["OC"] = answer.original_response
    if answer.original_state:
        private["OS"] = answer.original_state.value
    if answer.reversal_state:
        private["RS"] = answer.reversal_state.value
    if answer.rule and not _would_be_an_oracle(message, answer):
        private["WY"] = answer.rule.value
    if answer.resets_s:
        resets = datetime.datetime.fromtimestamp(answer.resets_s, datetime.UTC)
        private["RT"] = resets.strftime("%Y%m%d%H%M%S")
    if answer.requested_minor is not None:
        private["RQ"] = f"{answer.requested_minor:012d}"
    tx = answer.transaction_id
    text = f"TX{len(tx):03d}{tx}"  # first of all, and in every reply
    fields[_PRIVATE] = text + build_private(private) if private else text
    return fields


def _would_be_an_oracle(message: Message, answer: Answer) -> bool:
    """An accepted advice for a keyed number says nothing of the card, nor whether there is one."""
    accepted = message.mti[1:3] == ADVICE and answer.response is Response.APPROVED
    return accepted and entry_mode(message) is Entry.KEYED
