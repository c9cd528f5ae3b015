"""From a message to a typed request, and what a message names: original, time, card, secrets.

Everything that can be refused without knowing the card is refused here, by raising `Refused`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
from typing import Any

import msgspec

from fastpath import pinblock
from fastpath.codec import Message
from fastpath.errors import FormatError
from fastpath.specs import DE
from fastpath.tokens import TokenTable
from rules.identity import content_fingerprint, request_key, suspense_card_id
from rules.money import Counts, Purse
from rules.requests import AMOUNT_OPTIONAL, CardRequest, CreditTerms, Entry, Operation
from rules.responses import Response, Rule
from switch.programme import AcquirerLink, Programme, TerminalEntry
from switch.terminal_keys import PinFormat
from switch.wire.clock import LocalClock
from switch.wire.fields import (
    card_number,
    credit_terms,
    entry_mode,
    is_card_number,
    read_batch_number,
    required,
    reversal_reason,
)
from switch.wire.private import parse_private

__all__ = [
    "ADVICE",
    "Refused",
    "Translated",
    "Translator",
    "card_number",
    "entry_mode",
    "read_batch_number",
    "required",
]

_PAN, _PROCESSING_CODE, _AMOUNT, _STAN = DE.PAN, DE.PROCESSING_CODE, DE.AMOUNT, DE.STAN
_TIME, _DATE, _EXPIRY, _ENTRY_MODE = DE.LOCAL_TIME, DE.LOCAL_DATE, DE.EXPIRY, DE.ENTRY_MODE
_APPROVAL_CODE = DE.APPROVAL_CODE
_ACQUIRER, _TRACK2, _RRN, _TRACK1 = DE.ACQUIRER, DE.TRACK2, DE.RRN, DE.TRACK1
_PRIVATE, _CURRENCY, _PIN_BLOCK = DE.PRIVATE, DE.CURRENCY, DE.PIN_BLOCK
_SECURITY_CONTROL, _ORIGINAL = DE.SECURITY_CONTROL, DE.ORIGINAL
_REPLACEMENT, _TO_ACCOUNT = DE.REPLACEMENT_AMOUNTS, DE.TO_ACCOUNT

_PURSES = {"60": Purse.ECASH, "80": Purse.VOUCHER, "90": Purse.POINTS}
_NETWORK_ONLY = frozenset({Operation.DEACTIVATE, Operation.BLOCK, Operation.UNBLOCK})
_ENQUIRY_TYPES = ("30", "31")
ADVICE, _UPLOAD = "22", "32"
"""Message class and function of an advice, and of an item of a batch upload."""
_ITEM_DEBITS = frozenset({Operation.REDEEM, Operation.CASH_OUT})
_ITEM_CREDITS = frozenset(
    {Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED, Operation.LOAD, Operation.RETURN}
)
_ALL_PURSES = "310000"
_MAKES_LOTS = frozenset({Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED, Operation.LOAD})


def _operations() -> dict[tuple[str, str], tuple[Operation, Purse]]:
    """(message class, DE 3) -> operation and purse, for every request that concerns a card."""
    table = {
        ("2", "910060"): (Operation.UNLOCK, Purse.ECASH),
        ("2", "900060"): (Operation.ACTIVATE, Purse.ECASH),
        ("2", "930060"): (Operation.ACTIVATE_PREVALUED, Purse.ECASH),
        ("2", "920060"): (Operation.DEACTIVATE, Purse.ECASH),
        ("2", "940060"): (Operation.BLOCK, Purse.ECASH),
        ("2", "950060"): (Operation.UNBLOCK, Purse.ECASH),
        ("1", _ALL_PURSES): (Operation.BALANCE, Purse.ECASH),
    }
    for code, purse in _PURSES.items():
        table["2", f"2100{code}"] = (Operation.LOAD, purse)
        table["2", f"00{code}00"] = (Operation.REDEEM, purse)
        table["2", f"2000{code}"] = (Operation.RETURN, purse)
        table["2", f"61{code}00"] = (Operation.CASH_OUT, purse)
        table["2", f"40{code}{code}"] = (Operation.TRANSFER, purse)
        table["1", f"00{code}00"] = (Operation.HOLD, purse)
        table["1", f"31{code}00"] = (Operation.BALANCE, purse)
        table["1", f"30{code}00"] = (Operation.BALANCE, purse)
    return table


_OPERATIONS = _operations()
_REFERRING = {"40": Operation.REVERSAL, "42": Operation.REVERSAL, "60": Operation.OUTCOME}
_TOLD = frozenset({Operation.REVERSAL, Operation.OUTCOME, Operation.ADVICE, Operation.UPLOAD})
_READ = Entry.READ
_HAS_OTHER = frozenset({Operation.TRANSFER, Operation.REVERSAL})
_NAMES_BY_ID = frozenset({Operation.RETURN, Operation.ADVICE})
Terms = CreditTerms | None


class Refused(Exception):
    """The message is refused before any card is looked at."""

    def __init__(self, response: Response, rule: Rule) -> None:
        super().__init__(f"{response.value} {rule.value}")
        self.response = response
        self.rule = rule


@dataclasses.dataclass(slots=True)
class Translated:
    """A request with the card it concerns; an id is below 0 for a number no card has.

    `other_id` is the card of DE 103; 0 where none is needed.
    """

    request: CardRequest
    card_id: int
    other_id: int = 0
    pin_version: int = 0
    """Of the PIN key that opened the PIN block; 0 where none did, or there is none."""


class Translator:
    """Makes requests of the messages of one worker."""

    def __init__(
        self, programme: Programme, tokens: TokenTable, *, horizon_s: int, clock_ahead_s: int
    ) -> None:
        self.programme = programme
        self._tokens = tokens
        self._clock = LocalClock()
        self._horizon_s = horizon_s
        self._clock_ahead_s = clock_ahead_s

    def translate(
        self,
        message: Message,
        terminal: TerminalEntry,
        link: AcquirerLink,
        transaction_id: str,
        now_s: int,
    ) -> Translated:
        """The typed request of an authenticated 01xx, 02xx, 0320, 04xx or 0600.

        Raises Refused and FormatError.
        """
        mti = message.mti
        code = required(message, _PROCESSING_CODE)
        tags = message.get(_PRIVATE)
        private = parse_private(tags) if tags else {}
        stan = required(message, _STAN)
        pan = card_number(message)
        operation, purse = _operation(mti, code)
        told = operation in _TOLD  # what has happened is not refused, nor does it need a PIN
        if operation in _NETWORK_ONLY and not terminal.rules.network:
            raise Refused(Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION)
        currency = message.get(_CURRENCY)
        foreign = currency is not None and currency != purse.currency(self.programme.currency)
        if foreign and not _is_about_advice(operation, message):
            raise Refused(Response.INVALID_TRANSACTION, Rule.CURRENCY)
        amount = message.amount(_AMOUNT)
        amount_minor = amount or 0
        if not amount_minor and not told and operation not in AMOUNT_OPTIONAL:
            raise Refused(Response.INVALID_AMOUNT, Rule.AMOUNT)
        instant_s, local = self.instant(message, private, terminal, now_s)
        if not told:
            self.check_clock(instant_s, now_s)
        entry = _READ if told else entry_mode(message)
        card_id, digest = self._card(pan, private, entry)
        party = f"{link.acquirer_id}|{terminal.code}|{terminal.merchant_code}|{code}|{local}"
        if card_unknown := card_id < 0 and _is_about_advice(operation, message):
            card_id = suspense_card_id(terminal.rules.merchant_id)
            party += f"|{digest.hex()}"  # many numbers share that chain
        pvv, pin_version = (None, 0) if told else self._pvv(message, private, terminal, pan)
        terms = credit_terms(private) if private and operation in _MAKES_LOTS else None
        to_account, rrn = message.get(_TO_ACCOUNT), message.get(_RRN)
        replacement = message.get(_REPLACEMENT) if told else None
        rest = (to_account, replacement, private.get("OR"))
        more = self._said_in_private(private, operation, digest, terms) if private else {}
        if told:
            more |= _reference(message, private, operation, instant_s, party)
            more["foreign_content"] = _foreign_content(mti, code, foreign=foreign)
            more |= {"card_unknown": card_unknown, "foreign_currency": currency if foreign else ""}
        request = CardRequest(
            operation=operation,
            key=request_key(instant_s, f"{party}|{mti[1:3]}|{stan}"),
            fingerprint=_fingerprint(f"{code}|{amount}|{currency}", rest, terms),
            transaction_id=transaction_id,
            rrn=rrn.strip() if rrn else "",
            card_digest=digest,
            terminal=terminal.rules,
            purse=purse,
            all_purses=code == _ALL_PURSES,
            amount_minor=amount_minor,
            amount_given=amount_minor != 0,
            entry=entry,
            expiry=None if told else message.get(_EXPIRY),
            pvv=pvv,
        )
        if more:
            request = msgspec.structs.replace(request, **more)
        other_id = self._other_card(operation, to_account, pan) if operation in _HAS_OTHER else 0
        return Translated(request, card_id, other_id, pin_version)

    def _said_in_private(
        self, private: dict[str, str], operation: Operation, digest: bytes, terms: Terms
    ) -> dict[str, Any]:
        """What tags of DE 48 say of a request."""
        return {
            "terms": terms,
            "code_digest": None if operation in _TOLD else self._code_digest(private, digest),
            "partial_allowed": operation not in _TOLD and private.get("PA") == "1",
            "batch_number": read_batch_number(private),
            "original_transaction_id": (private.get("OR", "") if operation in _NAMES_BY_ID else ""),
        }

    def check_clock(self, instant_s: int, now_s: int) -> None:
        """Refused (12, CLOCK) for an instant older than the horizon or too far ahead."""
        oldest_s, latest_s = now_s - self._horizon_s, now_s + self._clock_ahead_s
        if instant_s and not oldest_s <= instant_s <= latest_s:
            raise Refused(Response.INVALID_TRANSACTION, Rule.CLOCK)

    def business_date(self, text: str, now_s: int) -> datetime.date:
        """The day that a DE 15 (MMDD) names, the nearest to now. FormatError for none."""
        midnight_s = self._clock.midnight(text, now_s)
        return datetime.datetime.fromtimestamp(midnight_s, datetime.UTC).date()

    def card_id(self, pan: str) -> int:
        """The card's id; below 0 for a number that no card has."""
        return self._tokens.get(pan) or -1

    def instant(
        self, message: Message, private: dict[str, str], terminal: TerminalEntry, now_s: int
    ) -> tuple[int, str]:
        """The message's own instant; without DE 12 and 13 its batch number stands in for it."""
        time, date = message.get(_TIME), message.get(_DATE)
        if time is not None and date is not None:
            return self._clock.instant(date, time, terminal.utc_offset_min, now_s), ""
        batch_number = private.get("BN")
        if batch_number is None:
            raise FormatError("no time, no date, no batch number", field=int(_TIME))
        return 0, batch_number

    def _card(self, pan: str, private: dict[str, str], entry: Entry) -> tuple[int, bytes]:
        """The card's id and, where it is needed, its digest.

        A number that no card has gets an id of its own below 0: it goes the same way as a card.
        """
        card_id = self._tokens.get(pan)
        if card_id and entry is _READ and "CV" not in private:
            return card_id, b""
        try:
            digest = self._tokens.digest(pan)
        except ValueError:  # not 12 to 19 digits
            return -1, b""
        return card_id or _id_of_no_card(digest), digest

    def _other_card(self, operation: Operation, to_account: str | None, pan: str) -> int:
        """The card of DE 103, as far as it is needed: a transfer's, or its reversal's.

        A reversal need not name it: its original knows. Where it does, it is not asked for twice.
        """
        number = to_account or ""
        named = is_card_number(number)
        if operation is Operation.REVERSAL:
            return self._tokens.get(number) or 0 if named and number != pan else 0
        if not named:
            raise FormatError("no card number", field=int(_TO_ACCOUNT))
        if number == pan:
            raise Refused(Response.INVALID_TRANSACTION, Rule.TO_CARD)
        return self._tokens.get(number) or _id_of_no_card(self._tokens.digest(number))

    def _code_digest(self, private: dict[str, str], digest: bytes) -> bytes | None:
        code = private.get("CV")
        if code is None or not digest:
            return None if code is None else b""
        return self.programme.secrets.code_digest(digest, code)

    def _pvv(
        self, message: Message, private: dict[str, str], terminal: TerminalEntry, pan: str
    ) -> tuple[bytes | None, int]:
        """The verification value of the PIN entered, and the version of the key that opened it.

        b"" for a block that opens to none, under any key that it may be made with.
        """
        block_0, block_4 = message.get_bytes(_PIN_BLOCK), private.get("PB")
        if block_0 is None and block_4 is None:
            return None, 0
        is_format_0 = terminal.keys.pin_format is PinFormat.FORMAT_0
        if (block_4 is not None) is is_format_0 or (block_0 is not None) is not is_format_0:
            raise FormatError("not this terminal's PIN block format", field=int(_PIN_BLOCK))
        control = message.get(_SECURITY_CONTROL)
        keys = terminal.keys.pin_candidates(int(control[2:4]) if control else None)
        if not keys:
            raise FormatError("no such PIN key version", field=int(_SECURITY_CONTROL))
        for version, key in keys:
            with contextlib.suppress(ValueError):
                if block_0 is not None:
                    pin = pinblock.decode_format0(block_0, pan, key)
                else:
                    pin = pinblock.decode_format4(bytes.fromhex(block_4 or ""), pan, key)
                return self.programme.secrets.pvv(pin, pan).encode(), version
        return b"", 0


def _id_of_no_card(digest: bytes) -> int:
    """An id below 0 that stands for a number which no card has."""
    return -1 - int.from_bytes(digest[:7], "big")


@functools.lru_cache(maxsize=1024)
def _operation(mti: str, code: str) -> tuple[Operation, Purse]:
    """What is asked or told, and of which purse. Refused (12) where nothing is known by it."""
    named = _OPERATIONS.get((mti[1], code))
    if named is not None and mti[1:3] in ("10", "20"):
        return named
    purse = _PURSES.get(code[2:4]) or _PURSES.get(code[4:])
    if mti[1:3] in (ADVICE, _UPLOAD):  # always accepted; what it is about is looked at later
        advice = mti[1:3] == ADVICE
        return Operation.ADVICE if advice else Operation.UPLOAD, purse or Purse.ECASH
    operation = _REFERRING.get(mti[1:3])
    if operation is None or (purse is None and code != _ALL_PURSES):
        raise Refused(Response.INVALID_TRANSACTION, Rule.OPERATION)
    return operation, purse or Purse.ECASH


def _reference(
    message: Message,
    private: dict[str, str],
    operation: Operation,
    instant_s: int,
    party: str,
) -> dict[str, Any]:
    """What a message says of an earlier one: which it is, and what is to become of it."""
    stan = message.get(_STAN)
    named = _original(message)
    advice = operation is Operation.ADVICE
    twin = f"20|{stan}" if advice else ""
    if operation is Operation.UPLOAD:
        twin = {"20": f"22{named[2:]}", "22": f"20{named[2:]}"}.get(named[:2], "")
    replacement = message.get(_REPLACEMENT)
    code = message.get(_PROCESSING_CODE) or ""
    return {
        "original_key": request_key(instant_s, f"{party}|{named}"),
        "names_original": advice and message.get(_ORIGINAL) is not None,
        "approval_code": (message.get(_APPROVAL_CODE) or "") if advice else "",
        "own_request_key": request_key(instant_s, f"{party}|{twin}") if twin else b"",
        "item_counts": _item_counts(code, named) if operation is Operation.UPLOAD else Counts.NONE,
        "bar_unknown": private.get("TB") == "1",
        "reverses_nothing": code[:2] in _ENQUIRY_TYPES or named.startswith("4"),
        "reason": reversal_reason(private.get("RE", "")),
        "final_amount_minor": int(replacement[:12]) if replacement else None,
    }


def _fingerprint(content: str, rest: tuple[str | None, ...], terms: Terms) -> bytes:
    """Over what a repeat must have in common with its original."""
    content += "|None|None|None" if rest == (None, None, None) else "|{}|{}|{}".format(*rest)
    if terms is not None:
        content = "|".join((content, *map(str, msgspec.structs.astuple(terms))))
    return content_fingerprint(content)


def _original(message: Message) -> str:
    """Message class, function and STAN of the original: DE 90, else class 2 with the own STAN."""
    original = message.get(_ORIGINAL)
    if original is None:
        return f"20|{message.get(_STAN)}"
    return f"{original[1:3]}|{original[4:10]}"


def _is_about_advice(operation: Operation, message: Message) -> bool:
    """Whether it is an advice or about one: for those, unknown and foreign things are kept."""
    return operation in (Operation.ADVICE, Operation.OUTCOME, Operation.UPLOAD) or (
        operation is Operation.REVERSAL and _original(message).startswith(ADVICE)
    )


def _item_counts(code: str, named: str) -> Counts:
    """What an item of an upload counts as: by its DE 3, and by the kind of message it was."""
    operation = _OPERATIONS.get(("2", code), (None,))[0]
    if named[0] not in "24" or operation is None:
        return Counts.NONE
    reversal = named.startswith("4")
    if operation in _ITEM_DEBITS:
        return Counts.DEBIT_REVERSAL if reversal else Counts.DEBIT
    if operation in _ITEM_CREDITS:
        return Counts.CREDIT_REVERSAL if reversal else Counts.CREDIT
    return Counts.NONE


def _foreign_content(mti: str, code: str, *, foreign: bool) -> Rule:
    """Why an advice cannot be about this switch's cards: only sales in their currency are."""
    named = _OPERATIONS.get((mti[1], code))
    if named is None or named[0] is not Operation.REDEEM:
        return Rule.OPERATION
    return Rule.CURRENCY if foreign else Rule.NONE
