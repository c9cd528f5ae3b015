"""Messages for people and for scripts. No card number, PIN block or code leaves here in clear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fastpath.codec import Message
from fastpath.specs import DE
from rules.identity import Pan
from rules.responses import APPROVALS, Response, ReversalState
from switch.pos.fields import format_amount, mask_track, read_balances, read_private

__all__ = ["MEANINGS", "Style", "as_json", "reply_rows", "request_rows", "verdict"]

Row = tuple[str, str]

MEANINGS: Final[dict[str, str]] = {
    Response.APPROVED: "approved",
    Response.UNKNOWN_MERCHANT: "unknown merchant",
    Response.REFUSED: "refused by rule",
    Response.PARTIAL: "approved in part",
    Response.INVALID_TRANSACTION: "transaction or currency not possible",
    Response.INVALID_AMOUNT: "amount not possible",
    Response.NO_SUCH_CARD: "no such card, or wrong code",
    Response.NO_SUCH_ORIGINAL: "no such original message",
    Response.FORMAT_ERROR: "message not understood",
    Response.LOST: "card reported lost",
    Response.STOLEN: "card reported stolen",
    Response.INSUFFICIENT: "not enough value on the card",
    Response.EXPIRED: "card has expired",
    Response.WRONG_PIN: "wrong PIN",
    Response.NOT_PERMITTED_TO_CARD: "not permitted to this card (or active already)",
    Response.NOT_PERMITTED_TO_TERMINAL: "not permitted to this terminal",
    Response.SUSPECTED_FRAUD: "suspected fraud",
    Response.OVER_AMOUNT_LIMIT: "over the amount limit",
    Response.RESTRICTED: "card is restricted or frozen",
    Response.MAC_WRONG: "message authentication code wrong",
    Response.OVER_FREQUENCY_LIMIT: "used too often",
    Response.PIN_TRIES_EXCEEDED: "too many wrong PINs",
    Response.NOT_ACTIVATED: "card is not activated",
    Response.WRONG_CODE: "wrong card code",
    Response.CANNOT_DECIDE: "switch cannot decide now; nothing was done",
    Response.DUPLICATE_DIFFERS: "sent before with other content",
    Response.TOTALS_DIFFER: "totals differ",
    Response.FAULT: "fault in the switch",
}
"""Response codes (DE 39) in plain words."""

_REVERSAL_STATES: Final[dict[str, str]] = {
    ReversalState.REVERSED: "undone",
    ReversalState.PARTIAL: "undone in part",
    ReversalState.ALREADY: "was undone before",
    ReversalState.NOTHING: "there was nothing to undo",
    ReversalState.LATE: "too late; staff will see to it",
}

_PURSES: Final = {"80": "food voucher", "90": "points"}
_BALANCE_LABELS: Final = {"60": "E-cash", "80": "Voucher", "90": "Points"}
_AMOUNT_KINDS: Final = {"01": "balance", "02": "available"}

LINES: Final = (
    ("debits", DE.DEBITS_NUMBER, DE.DEBITS_AMOUNT),
    ("debit reversals", DE.DEBITS_REVERSAL_NUMBER, DE.DEBITS_REVERSAL_AMOUNT),
    ("credits", DE.CREDITS_NUMBER, DE.CREDITS_AMOUNT),
    ("credit reversals", DE.CREDITS_REVERSAL_NUMBER, DE.CREDITS_REVERSAL_AMOUNT),
)
"""The four lines of a reconciliation: words, the number's data element, the amount's."""

_PRIVATE_ROWS: Final = (
    ("WY", "Rule"),
    ("RT", "Resets"),
    ("OS", "State of original"),
    ("LR", "Reward earned"),
    ("LB", "Points balance"),
    ("OF", "Offer"),
    ("PR", "Receipt"),
)
_SECRET_TAGS: Final = frozenset({"CV", "PB", "KB"})
_HIDDEN: Final = "****"


class Style:
    """Colours for a terminal screen, or none."""

    def __init__(self, coloured: bool) -> None:
        self._coloured = coloured

    def _paint(self, codes: str, text: str) -> str:
        return f"\x1b[{codes}m{text}\x1b[0m" if self._coloured else text

    def title(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def good(self, text: str) -> str:
        return self._paint("1;32", text)

    def bad(self, text: str) -> str:
        return self._paint("1;31", text)

    def doubt(self, text: str) -> str:
        return self._paint("1;33", text)

    def table(self, rows: Iterable[Row]) -> str:
        """Rows of label and value, the values in one column."""
        return "\n".join(f"  {self.dim(f'{label:<18}')} {value}" for label, value in rows)


def verdict(reply: Message, style: Style) -> str:
    """The response in one line."""
    code = reply.get(DE.RESPONSE_CODE) or ""
    words = f"{code} {MEANINGS.get(code, 'a code this terminal does not know')}"
    if code in APPROVALS:
        return f"{style.good('APPROVED')}  {words}"
    return f"{style.bad('DECLINED')}  {words}"


def request_rows(request: Message, currency: str) -> list[Row]:
    """What a person wants to see of a request."""
    currency = request.get(DE.CURRENCY) or currency
    private = read_private(request.get(DE.PRIVATE) or "")
    rows = []
    if card := request.get(DE.PAN):
        rows.append(("Card", Pan(card).masked()))
    if to_card := request.get(DE.TO_ACCOUNT):
        rows.append(("To card", Pan(to_card.rstrip()).masked()))
    if (amount_minor := request.amount(DE.AMOUNT)) is not None:
        rows.append(("Amount", format_amount(amount_minor, currency)))
    if final := request.get(DE.REPLACEMENT_AMOUNTS):
        rows.append(("Final amount", format_amount(int(final[:12]), currency)))
    purse = _purse_of(request.get(DE.PROCESSING_CODE) or "")
    if purse:
        rows.append(("Purse", purse))
    if original := request.get(DE.ORIGINAL):
        rows.append(("Original", f"{original[:4]}, STAN {original[4:10]}"))
    if "OR" in private:
        rows.append(("Original", f"TX {private['OR']}"))
    rows += _total_rows(request, currency)
    if "BN" in private:
        rows.append(("Batch", private["BN"]))
    if date := request.get(DE.SETTLEMENT_DATE):
        rows.append(("Business date", f"{date[:2]}-{date[2:]}"))
    if "RE" in private:
        rows.append(("Reason", private["RE"]))
    rows.append(("STAN", request.get(DE.STAN) or ""))
    return rows


def reply_rows(request: Message, reply: Message, currency: str) -> list[Row]:
    """What a person wants to see of an answer, besides the verdict."""
    currency = reply.get(DE.CURRENCY) or request.get(DE.CURRENCY) or currency
    private = read_private(reply.get(DE.PRIVATE) or "")
    rows = _total_rows(reply, currency, request)
    asked, granted = request.amount(DE.AMOUNT), reply.amount(DE.AMOUNT)
    if "RQ" in private and private["RQ"].isdigit():
        asked = int(private["RQ"])
    if granted is not None and granted != asked:
        of_asked = "" if not asked else f" of {format_amount(asked, currency)} asked"
        rows.append(("Amount", format_amount(granted, currency) + of_asked))
    if state := private.get("RS"):
        rows.append(("Reversal", f"{state}: {_REVERSAL_STATES.get(state, 'unknown state')}"))
    if code := private.get("OC"):
        rows.append(("Original's answer", f"{code} {MEANINGS.get(code, '')}".rstrip()))
    if "KB" in private:
        version, check = private["KB"][9:11], private.get("KC", "")
        rows.append(("New key", f"version {version}, check value {check}"))
    rows += [(label, private[tag]) for tag, label in _PRIVATE_ROWS if tag in private]
    if approval := reply.get(DE.APPROVAL_CODE):
        rows.append(("Approval code", approval))
    if "TX" in private:
        rows.append(("TX", private["TX"]))
    if rrn := reply.get(DE.RRN):
        rows.append(("RRN", rrn))
    if (fee := reply.get(DE.FEE)) and fee[1:].isdigit():
        rows.append(("Fee", format_amount(int(fee[1:]), currency)))
    for balance in read_balances(reply.get(DE.ADDITIONAL_AMOUNTS) or ""):
        purse = _BALANCE_LABELS.get(balance.purse, f"Purse {balance.purse}")
        kind = _AMOUNT_KINDS.get(balance.kind, balance.kind)
        rows.append((f"{purse} {kind}", format_amount(balance.amount_minor, balance.currency)))
    return rows


def _total_rows(message: Message, currency: str, own: Message | None = None) -> list[Row]:
    """The four lines of a reconciliation, with the terminal's own where they differ."""
    rows = []
    currency = message.get(DE.SETTLEMENT_CURRENCY) or currency
    for words, number, amount in LINES:
        if message.get(number) is None:
            continue
        text = _line(message, number, amount, currency)
        if own is not None and _line(own, number, amount, currency) != text:
            text += f" (own: {_line(own, number, amount, currency)})"
        rows.append((words.capitalize(), text))
    return rows


def _line(message: Message, number: int, amount: int, currency: str) -> str:
    count, amount_minor = message.get(number) or "0", message.get(amount) or "0"
    return f"{int(count)}, {format_amount(int(amount_minor), currency)}"


def _purse_of(processing_code: str) -> str:
    """The purse a DE 3 names, in words; "" for e-cash, which goes without saying."""
    for account_type in (processing_code[2:4], processing_code[4:6]):
        if account_type in _PURSES:
            return _PURSES[account_type]
    return ""


def as_json(message: Message) -> dict[str, object]:
    """A message by DE numbers ("0" is the MTI), DE 48 by its tags. Secrets are masked."""
    values: dict[str, object] = {"0": message.mti}
    for number, value in message.items():
        values[str(number)] = _json_value(number, value)
    return values


def _json_value(number: int, value: str | bytes) -> object:
    if number == DE.PIN_BLOCK:
        return _HIDDEN
    if isinstance(value, bytes):
        return value.hex().upper()
    if number in {DE.PAN, DE.TO_ACCOUNT}:
        return Pan(value.rstrip()).masked()
    if number == DE.TRACK2:
        return mask_track(value)
    if number == DE.TRACK1:
        return _HIDDEN
    if number == DE.PRIVATE:
        private = read_private(value)
        return {tag: _HIDDEN if tag in _SECRET_TAGS else text for tag, text in private.items()}
    return value
