"""Messages that concern no card: 0500 and 0520, 0800 with 201, and a 0600 that names nothing.

From a message to the request, and from the answer to the fields that only these replies have.
"""

from __future__ import annotations

from msgspec.structs import astuple

from fastpath.codec import Message
from fastpath.specs import DE
from rules.identity import content_fingerprint, request_key
from rules.money import POINTS_CURRENCY
from rules.responses import Response, Rule
from rules.settlement import CutOver, LastTransaction, Reconciled, Reconciliation, Totals
from switch.programme import AcquirerLink, TerminalEntry
from switch.wire.fields import card_number, read_batch_number, required
from switch.wire.private import parse_private
from switch.wire.translate import Refused, Translator

__all__ = [
    "TOTALS",
    "concerns_no_card",
    "is_cut_over",
    "read_request",
    "reconciliation_fields",
    "total_fields",
]

_STAN, _DATE, _PRIVATE, _RRN = DE.STAN, DE.SETTLEMENT_DATE, DE.PRIVATE, DE.RRN
_CURRENCY, _NET, _ORIGINAL = DE.SETTLEMENT_CURRENCY, DE.NET_SETTLEMENT, DE.ORIGINAL
_RECONCILIATION_CODE = int(DE.RECONCILIATION_CODE)
_RECONCILIATIONS = frozenset({"50", "52"})
_CUT_OVER = "201"
_IN_BALANCE, _OUT_OF_BALANCE = "1", "2"
TOTALS = (
    *(DE.CREDITS_NUMBER, DE.CREDITS_REVERSAL_NUMBER),
    *(DE.DEBITS_NUMBER, DE.DEBITS_REVERSAL_NUMBER),
    *(DE.CREDITS_AMOUNT, DE.CREDITS_REVERSAL_AMOUNT),
    *(DE.DEBITS_AMOUNT, DE.DEBITS_REVERSAL_AMOUNT),
)
"""In the order of `Totals`: four numbers (n10), four amounts (n16)."""
_NUMBERS = 4


Request = Reconciliation | CutOver | LastTransaction


def concerns_no_card(message: Message) -> bool:
    """Whether it is one of these: a reconciliation, a cut-over, a query that names nothing."""
    function = message.mti[1:3]
    if function == "60":
        return message.get(_ORIGINAL) is None
    return function in _RECONCILIATIONS or is_cut_over(message)


def is_cut_over(message: Message) -> bool:
    """A 0800 or 0820 with DE 70 = 201."""
    return message.mti[1] == "8" and message.get(DE.NETWORK_CODE) == _CUT_OVER


def read_request(
    translator: Translator,
    message: Message,
    terminal: TerminalEntry,
    link: AcquirerLink,
    transaction_id: str,
    now_s: int,
) -> Request:
    """What such a message asks for. Raises Refused and FormatError."""
    if message.mti[1] == "5":
        return _read_reconciliation(translator, message, terminal, link, transaction_id, now_s)
    if message.mti[1] == "8":
        return _read_cut_over(translator, message, terminal, link, transaction_id, now_s)
    return _read_last_transaction(translator, message, terminal, link, transaction_id)


def _read_reconciliation(
    translator: Translator,
    message: Message,
    terminal: TerminalEntry,
    link: AcquirerLink,
    transaction_id: str,
    now_s: int,
) -> Reconciliation:
    """A 0500 or 0520. A total that is absent is 0. Raises Refused and FormatError."""
    private_text = message.get(_PRIVATE)
    private = parse_private(private_text) if private_text else {}
    stan = required(message, _STAN)
    number = read_batch_number(private)
    date = message.get(_DATE)
    if date is not None:
        translator.business_date(date, now_s)
    programme_currency = translator.programme.currency
    currency = message.get(_CURRENCY) or programme_currency
    if currency not in (programme_currency, POINTS_CURRENCY):
        raise Refused(Response.INVALID_TRANSACTION, Rule.CURRENCY)
    instant_s, local = translator.instant(message, private, terminal, now_s)
    translator.check_clock(instant_s, now_s)
    party = f"{link.acquirer_id}|{terminal.code}|{terminal.merchant_code}||{local}"
    texts = [message.get(field) for field in TOTALS]
    net = message.get(_NET)
    content = [date or "", currency, number, *(text or "" for text in texts), net or ""]
    return Reconciliation(
        key=request_key(instant_s, f"{party}|{message.mti[1:3]}|{stan}"),
        fingerprint=content_fingerprint("|".join(content)),
        transaction_id=transaction_id,
        rrn=(message.get(_RRN) or "").strip(),
        terminal=terminal.rules,
        currency=currency,
        batch_number=number,
        settlement_date=date or "",
        totals=Totals(*(int(text or 0) for text in texts)),
        net_minor=None if net is None else int(net[1:]) * (-1 if net[0] == "D" else 1),
    )


def reconciliation_fields(message: Message, answer: Reconciled) -> dict[int, str | bytes]:
    """DE 50 as sent, DE 66, and the switch's totals."""
    totals = answer.totals
    assert totals is not None
    fields: dict[int, str | bytes] = {}
    currency = message.get(_CURRENCY)
    if currency is not None:
        fields[int(_CURRENCY)] = currency
    in_balance = answer.response is Response.APPROVED
    fields[_RECONCILIATION_CODE] = _IN_BALANCE if in_balance else _OUT_OF_BALANCE
    return fields | total_fields(totals)


def total_fields(totals: Totals) -> dict[int, str | bytes]:
    """DE 74 to 77, 86 to 89, and 97: C or D and the net amount."""
    fields: dict[int, str | bytes] = {}
    for at, (field, value) in enumerate(zip(TOTALS, astuple(totals), strict=True)):
        fields[int(field)] = f"{value:010d}" if at < _NUMBERS else f"{value:016d}"
    sign = "C" if totals.net_minor >= 0 else "D"
    fields[int(_NET)] = f"{sign}{abs(totals.net_minor):016d}"
    return fields


def _read_cut_over(
    translator: Translator,
    message: Message,
    terminal: TerminalEntry,
    link: AcquirerLink,
    transaction_id: str,
    now_s: int,
) -> CutOver:
    """A 0800 with DE 70 = 201. Its key needs neither DE 12 nor DE 13: the date is its own."""
    stan = required(message, _STAN)
    date = required(message, _DATE)
    day = translator.business_date(date, now_s)
    party = f"{link.acquirer_id}|{terminal.code}|{terminal.merchant_code}"
    instant = f"{message.get(DE.LOCAL_DATE)}{message.get(DE.LOCAL_TIME)}"
    return CutOver(
        key=request_key(0, f"{party}|{message.mti[1:3]}|{day.year}|{instant}|{stan}"),
        transaction_id=transaction_id,
        rrn=(message.get(_RRN) or "").strip(),
        terminal_id=terminal.rules.terminal_id,
        link=link.name,
        business_date=day,
    )


def _read_last_transaction(
    translator: Translator,
    message: Message,
    terminal: TerminalEntry,
    link: AcquirerLink,
    transaction_id: str,
) -> LastTransaction:
    """A 0600 without DE 90; a card is optional, DE 3 is not looked at."""
    stan = required(message, _STAN)
    text = message.get(_PRIVATE)
    if text:
        parse_private(text)
    card_id = None
    if any(message.get(field) is not None for field in (DE.PAN, DE.TRACK2, DE.TRACK1)):
        card_id = translator.card_id(card_number(message))
    return LastTransaction(
        key=request_key(0, f"{link.acquirer_id}|{terminal.code}|last|{transaction_id}|{stan}"),
        transaction_id=transaction_id,
        rrn=(message.get(_RRN) or "").strip(),
        terminal=terminal.rules,
        card_id=card_id,
    )
