"""From a message to a typed request, and what a message names: original, time, card, secrets.

Everything that can be refused without knowing the card is refused here, by raising `Refused`.
"""

from __future__ import annotations

import dataclasses

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

__all__ = ["Refused", "Translated", "Translator"]

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
_ADVICE = "22"
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
        """The typed request of an authenticated 01xx, 02xx or 04xx. Raises Refused, FormatError."""
        mti = message.mti
        message_class, function = mti[1], mti[2]
        code = _required(message, _PROCESSING_CODE)
        private_text = message.get(_PRIVATE)
        private = parse_private(private_text) if private_text else {}
        stan = _required(message, _STAN)
        pan = _card_number(message)
        reversal = message_class == "4" or mti[1:3] == "60"
        named = _OPERATIONS.get((message_class, code))
        if reversal:
            operation = Operation.REVERSAL if message_class == "4" else Operation.OUTCOME
            purse = _PURSES.get(code[2:4]) or _PURSES.get(code[4:])
            if purse is None and code != _ALL_PURSES:
                raise Refused(Response.INVALID_TRANSACTION, Rule.OPERATION)
        elif function == "2" and message_class == "2":
            operation = Operation.ADVICE
            purse = _PURSES.get(code[2:4]) or _PURSES.get(code[4:])
        elif named is None or function != "0":
            raise Refused(Response.INVALID_TRANSACTION, Rule.OPERATION)
        else:
            operation, purse = named
        purse = purse or Purse.ECASH
        if operation in _NETWORK_ONLY and not terminal.rules.network:
            raise Refused(Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION)
        currency = message.get(_CURRENCY)
        foreign_currency = currency is not None and currency != purse.currency(
            self.programme.currency
        )
        amount_minor = message.amount(_AMOUNT)
        advice = operation is Operation.ADVICE
        if foreign_currency and not advice:
            raise Refused(Response.INVALID_TRANSACTION, Rule.CURRENCY)
        if not amount_minor and not reversal and not advice and operation not in AMOUNT_OPTIONAL:
            raise Refused(Response.INVALID_AMOUNT, Rule.AMOUNT)
        instant_s, local = self._instant(message, private, terminal, now_s)
        oldest_s, latest_s = now_s - self._horizon_s, now_s + self._clock_ahead_s
        if instant_s and not reversal and not advice and not oldest_s <= instant_s <= latest_s:
            raise Refused(Response.INVALID_TRANSACTION, Rule.CLOCK)
        original_name = _original(message, stan) if reversal or advice else ""
        replacement = message.get(_REPLACEMENT) if reversal else None
        proven = reversal or advice  # what has happened needs no PIN and no code
        entry = Entry.READ if proven else _entry(message)
        card_id, digest = self._card(pan, private, entry)
        party = f"{link.acquirer_id}|{terminal.code}|{terminal.merchant_code}|{code}|{local}"
        # An advice for an unknown number is kept on its merchant's chain, and looked for there.
        about_advice = advice or operation is Operation.OUTCOME or original_name[:2] == _ADVICE
        card_unknown = about_advice and card_id < 0
        if card_unknown:
            card_id = suspense_card_id(terminal.rules.merchant_id)
            party += f"|{digest.hex()}"  # many numbers share that chain
        key = request_key(instant_s, f"{party}|{message_class}{function}|{stan}")
        request = CardRequest(
            operation=operation,
            key=key,
            fingerprint=content_fingerprint(
                f"{code}|{amount_minor}|{currency}|{replacement}|{message.get(_TO_ACCOUNT)}"
                f"|{private.get('OR')}"
            ),
            transaction_id=transaction_id,
            rrn=(message.get(_RRN) or "").strip(),
            card_digest=digest,
            card_unknown=card_unknown,
            terminal=terminal.rules,
            purse=purse,
            all_purses=code == _ALL_PURSES,
            amount_minor=amount_minor or 0,
            amount_given=bool(amount_minor),
            entry=entry,
            expiry=None if proven else message.get(_EXPIRY),
            pvv=None if proven else self._pvv(message, private, terminal, pan),
            code_digest=None if proven else self._code_digest(private, digest),
            partial_allowed=private.get("PA") == "1",
            original_transaction_id=private.get("OR", "") if not reversal else "",
            approval_code=message.get(_APPROVAL_CODE) or "" if advice else "",
            names_original=advice and message.get(_ORIGINAL) is not None,
            original_key=request_key(instant_s, f"{party}|{original_name}") if proven else b"",
            own_request_key=request_key(instant_s, f"{party}|20|{stan}") if advice else b"",
            foreign_content=_foreign_content(named, foreign=foreign_currency)
            if advice
            else Rule.NONE,
            bar_unknown=private.get("TB") == "1",
            reverses_nothing=reversal
            and (code[:2] in _ENQUIRY_TYPES or original_name.startswith("4")),
            reason=_reason(private.get("RE", "")),
            final_amount_minor=int(replacement[:12]) if replacement else None,
        )
        return Translated(request, card_id)

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
    ) -> bytes | None:
        """The verification value of the PIN entered; b"" for a block that opens to none."""
        block_0, block_4 = message.get_bytes(_PIN_BLOCK), private.get("PB")
        if block_0 is None and block_4 is None:
            return None
        is_format_0 = terminal.keys.pin_format is PinFormat.FORMAT_0
        if (block_4 is not None) is is_format_0 or (block_0 is not None) is not is_format_0:
            raise FormatError("not this terminal's PIN block format", field=int(_PIN_BLOCK))
        control = message.get(_SECURITY_CONTROL)
        key = terminal.keys.pin_key(int(control[2:4]) if control else None)
        if key is None:
            raise FormatError("no such PIN key version", field=int(_SECURITY_CONTROL))
        try:
            if block_0 is not None:
                pin = pinblock.decode_format0(block_0, pan, key)
            else:
                pin = pinblock.decode_format4(bytes.fromhex(block_4 or ""), pan, key)
            return self.programme.secrets.pvv(pin, pan).encode()
        except ValueError:
            return b""


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


def _entry(message: Message) -> Entry:
    """Read, unless DE 22 says otherwise. A mode that is none of the read ones is told nothing."""
    mode = message.get(_ENTRY_MODE)
    if mode is None or mode[:2] in _READ_MODES:
        return Entry.READ
    return Entry.KEYED


def _original(message: Message, stan: str) -> str:
    """Message class, function and STAN of the original: DE 90, else class 2 with the own STAN."""
    original = message.get(_ORIGINAL)
    if original is None:
        return f"20|{stan}"
    return f"{original[1]}{original[2]}|{original[4:10]}"


def _foreign_content(named: tuple[Operation, Purse] | None, *, foreign: bool) -> Rule:
    """Why an advice cannot be about this switch's cards: only sales in their currency are."""
    if named is None or named[0] is not Operation.REDEEM:
        return Rule.OPERATION
    return Rule.CURRENCY if foreign else Rule.NONE


def _reason(code: str) -> ReversalReason:
    """Customer and merchant reasons by their codes; all that machines do counts as a time-out."""
    if code == _MERCHANT_REASON:
        return ReversalReason.MERCHANT
    return ReversalReason.CUSTOMER if code in _CUSTOMER_REASONS else ReversalReason.TIME_OUT
