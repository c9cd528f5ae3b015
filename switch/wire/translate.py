"""From a message to a typed request, and what a message names: original, time, card, secrets.

Everything that can be refused without knowing the card is refused here, by raising `Refused`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from fastpath import pinblock
from fastpath.codec import Message
from fastpath.errors import FormatError
from fastpath.specs import DE
from fastpath.tokens import TokenTable
from rules.identity import content_fingerprint, request_key, suspense_card_id
from rules.money import Purse
from rules.requests import AMOUNT_OPTIONAL, CardRequest, Entry, Operation, ReversalReason
from rules.responses import Response, Rule
from switch.programme import AcquirerLink, Programme, TerminalEntry
from switch.terminal_keys import PinFormat
from switch.wire.clock import LocalClock
from switch.wire.private import parse_private

__all__ = ["ADVICE", "Refused", "Translated", "Translator", "entry_mode"]

_PAN, _PROCESSING_CODE, _AMOUNT, _STAN = DE.PAN, DE.PROCESSING_CODE, DE.AMOUNT, DE.STAN
_TIME, _DATE, _EXPIRY, _ENTRY_MODE = DE.LOCAL_TIME, DE.LOCAL_DATE, DE.EXPIRY, DE.ENTRY_MODE
_APPROVAL_CODE = DE.APPROVAL_CODE
_ACQUIRER, _TRACK2, _RRN, _TRACK1 = DE.ACQUIRER, DE.TRACK2, DE.RRN, DE.TRACK1
_PRIVATE, _CURRENCY, _PIN_BLOCK = DE.PRIVATE, DE.CURRENCY, DE.PIN_BLOCK
_SECURITY_CONTROL, _ORIGINAL, _REPLACEMENT = (
    DE.SECURITY_CONTROL,
    DE.ORIGINAL,
    DE.REPLACEMENT_AMOUNTS,
)
_TO_ACCOUNT = DE.TO_ACCOUNT

_PURSES = {"60": Purse.ECASH, "80": Purse.VOUCHER, "90": Purse.POINTS}
_KEYED_MODES = ("01", "81")
_READ_MODES = ("02", "03", "05", "07", "09")
_CUSTOMER_REASONS = ("4000", "4352", "4353")
_MERCHANT_REASON = "4351"
_NETWORK_ONLY = frozenset({Operation.DEACTIVATE, Operation.BLOCK, Operation.UNBLOCK})
_ENQUIRY_TYPES = ("30", "31")
ADVICE = "22"
"""Message class and function of an advice."""
_ALL_PURSES = "310000"


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
        table["1", f"00{code}00"] = (Operation.HOLD, purse)
        table["1", f"31{code}00"] = (Operation.BALANCE, purse)
        table["1", f"30{code}00"] = (Operation.BALANCE, purse)
    return table


_OPERATIONS = _operations()
_REFERRING = {"40": Operation.REVERSAL, "42": Operation.REVERSAL, "60": Operation.OUTCOME}
_TOLD = frozenset({Operation.REVERSAL, Operation.OUTCOME, Operation.ADVICE})
_NAMES_BY_ID = frozenset({Operation.RETURN, Operation.ADVICE})


class Refused(Exception):
    """The message is refused before any card is looked at."""

    def __init__(self, response: Response, rule: Rule) -> None:
        super().__init__(f"{response.value} {rule.value}")
        self.response = response
        self.rule = rule


@dataclasses.dataclass(slots=True)
class Translated:
    """A request with the card it concerns; the id is below 0 for a number no card has."""

    request: CardRequest
    card_id: int
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
        """The typed request of an authenticated 01xx, 02xx, 04xx or 0600.

        Raises Refused and FormatError.
        """
        code = _required(message, _PROCESSING_CODE)
        private = parse_private(message.get(_PRIVATE) or "")
        stan = _required(message, _STAN)
        pan = _card_number(message)
        operation, purse = _operation(message.mti, code)
        told = operation in _TOLD  # what has happened is not refused, nor does it need a PIN
        if operation in _NETWORK_ONLY and not terminal.rules.network:
            raise Refused(Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION)
        currency = message.get(_CURRENCY)
        foreign = currency is not None and currency != purse.currency(self.programme.currency)
        if foreign and not _is_about_advice(operation, message):
            raise Refused(Response.INVALID_TRANSACTION, Rule.CURRENCY)
        amount_minor = message.amount(_AMOUNT) or 0
        if not amount_minor and not told and operation not in AMOUNT_OPTIONAL:
            raise Refused(Response.INVALID_AMOUNT, Rule.AMOUNT)
        instant_s, local = self._instant(message, private, terminal, now_s)
        oldest_s, latest_s = now_s - self._horizon_s, now_s + self._clock_ahead_s
        if instant_s and not told and not oldest_s <= instant_s <= latest_s:
            raise Refused(Response.INVALID_TRANSACTION, Rule.CLOCK)
        entry = Entry.READ if told else entry_mode(message)
        card_id, digest = self._card(pan, private, entry)
        party = f"{link.acquirer_id}|{terminal.code}|{terminal.merchant_code}|{code}|{local}"
        card_unknown = card_id < 0 and _is_about_advice(operation, message)
        if card_unknown:
            card_id = suspense_card_id(terminal.rules.merchant_id)
            party += f"|{digest.hex()}"  # many numbers share that chain
        pvv, pin_version = (None, 0) if told else self._pvv(message, private, terminal, pan)
        if told:
            more = _reference(message, private, operation, instant_s, party)
            more["foreign_content"] = _foreign_content(message.mti, code, foreign=foreign)
        else:
            more = {
                "expiry": message.get(_EXPIRY),
                "pvv": pvv,
                "code_digest": self._code_digest(private, digest),
                "partial_allowed": private.get("PA") == "1",
            }
        content = f"{code}|{message.amount(_AMOUNT)}|{currency}|{message.get(_TO_ACCOUNT)}"
        content += f"|{message.get(_REPLACEMENT) if told else None}|{private.get('OR')}"
        request = CardRequest(
            operation=operation,
            key=request_key(instant_s, f"{party}|{message.mti[1:3]}|{stan}"),
            fingerprint=content_fingerprint(content),
            transaction_id=transaction_id,
            rrn=(message.get(_RRN) or "").strip(),
            card_digest=digest,
            card_unknown=card_unknown,
            terminal=terminal.rules,
            purse=purse,
            all_purses=code == _ALL_PURSES,
            amount_minor=amount_minor,
            amount_given=amount_minor != 0,
            foreign_currency=(currency or "") if foreign else "",
            entry=entry,
            original_transaction_id=private.get("OR", "") if operation in _NAMES_BY_ID else "",
            **more,
        )
        return Translated(request, card_id, pin_version)

    def _instant(
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
        if card_id and entry is Entry.READ and "CV" not in private:
            return card_id, b""
        try:
            digest = self._tokens.digest(pan)
        except ValueError:  # not 12 to 19 digits
            return -1, b""
        return card_id or -1 - (int.from_bytes(digest[:7], "big")), digest

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


def _required(message: Message, field: int) -> str:
    value = message.get(field)
    if value is None:
        raise FormatError("missing", field=int(field))
    return value


def _card_number(message: Message) -> str:
    """DE 2, else the number in track 2 or 1; FormatError when there is none or two that differ."""
    named = message.get(_PAN)
    track2, track1 = message.get(_TRACK2), message.get(_TRACK1)
    on_track = None
    if track2 is not None:
        on_track = track2.replace("D", "=").split("=", 1)[0]
    elif track1 is not None:
        on_track = track1.lstrip("%").removeprefix("B").split("^", 1)[0]
    if named is None and on_track is None:
        raise FormatError("no card number", field=int(_PAN))
    if named is not None and on_track is not None and named != on_track:
        raise FormatError("two different card numbers", field=int(_TRACK2))
    return named if named is not None else on_track or ""


def entry_mode(message: Message) -> Entry:
    """Read, unless DE 22 says otherwise. A mode that is none of the read ones is told nothing."""
    mode = message.get(_ENTRY_MODE)
    if mode is None or mode[:2] in _READ_MODES:
        return Entry.READ
    return Entry.KEYED


def _operation(mti: str, code: str) -> tuple[Operation, Purse]:
    """What is asked or told, and of which purse. Refused (12) where nothing is known by it."""
    named = _OPERATIONS.get((mti[1], code))
    if named is not None and mti[1:3] in ("10", "20"):
        return named
    purse = _PURSES.get(code[2:4]) or _PURSES.get(code[4:])
    if mti[1:3] == "22":  # always accepted; what it is about is looked at later
        return Operation.ADVICE, purse or Purse.ECASH
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
    replacement = message.get(_REPLACEMENT)
    code = message.get(_PROCESSING_CODE) or ""
    return {
        "original_key": request_key(instant_s, f"{party}|{named}"),
        "names_original": advice and message.get(_ORIGINAL) is not None,
        "approval_code": (message.get(_APPROVAL_CODE) or "") if advice else "",
        "own_request_key": request_key(instant_s, f"{party}|20|{stan}") if advice else b"",
        "bar_unknown": private.get("TB") == "1",
        "reverses_nothing": code[:2] in _ENQUIRY_TYPES or named.startswith("4"),
        "reason": _reason(private.get("RE", "")),
        "final_amount_minor": int(replacement[:12]) if replacement else None,
    }


def _original(message: Message) -> str:
    """Message class, function and STAN of the original: DE 90, else class 2 with the own STAN."""
    original = message.get(_ORIGINAL)
    if original is None:
        return f"20|{message.get(_STAN)}"
    return f"{original[1:3]}|{original[4:10]}"


def _is_about_advice(operation: Operation, message: Message) -> bool:
    """Whether it is an advice or about one: for those, unknown and foreign things are kept."""
    return operation in (Operation.ADVICE, Operation.OUTCOME) or (
        operation is Operation.REVERSAL and _original(message).startswith(ADVICE)
    )


def _foreign_content(mti: str, code: str, *, foreign: bool) -> Rule:
    """Why an advice cannot be about this switch's cards: only sales in their currency are."""
    named = _OPERATIONS.get((mti[1], code))
    if named is None or named[0] is not Operation.REDEEM:
        return Rule.OPERATION
    return Rule.CURRENCY if foreign else Rule.NONE


def _reason(code: str) -> ReversalReason:
    """Customer and merchant reasons by their codes; all that machines do counts as a time-out."""
    if code == _MERCHANT_REASON:
        return ReversalReason.MERCHANT
    return ReversalReason.CUSTOMER if code in _CUSTOMER_REASONS else ReversalReason.TIME_OUT
