"""What a demo terminal says: a message for every verb, as section 3 of the dialect has them.

Pure: times and STANs come in as arguments, messages go out as `Outgoing`.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fastpath.codec import encode_unsealed, seal
from fastpath.pinblock import encode_format0, encode_format4
from fastpath.specs import DE
from rules.identity import Pan
from rules.money import POINTS_CURRENCY
from rules.settlement import NO_TOTALS, Totals
from switch.pos.demo import PosTerminal, UsageError
from switch.pos.state import Sent
from switch.pos.verbs import VERBS, Verb
from switch.wire.private import build_private, parse_private
from switch.wire.settling import total_fields

__all__ = [
    "EntryMode",
    "Order",
    "Outgoing",
    "build",
    "is_hold",
    "is_original",
    "may_be_original",
    "reply_mti",
    "seal_message",
]

Value = str | bytes

POINTS_PURSE: Final = "90"


class EntryMode(enum.Enum):
    """DE 22: how the card number came (digits 1-2), whether a PIN could (digit 3)."""

    READ = "021"
    BARCODE = "031"
    KEYED = "012"
    KEYED_WITH_PIN = "011"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the person at the terminal wants. Amounts in minor units."""

    verb: Verb
    card: Pan | None = None
    amount_minor: int | None = None
    purse: str = "60"
    entry: EntryMode = EntryMode.READ
    expiry: str | None = None
    pin: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    original_tx: str | None = None
    to_card: Pan | None = None
    partial_allowed: bool = False
    reason: str | None = None
    final_amount_minor: int | None = None
    bar_unknown: bool = False
    key: str | None = None
    """Key change: "mac" (also where it is None) or "pin"."""
    totals: Totals = NO_TOTALS
    batch_number: str = ""
    date: str | None = None
    """MMDD, the business date that begins; None: the terminal's own day."""


class Outgoing(NamedTuple):
    """A message that is about to be sealed and sent: MTI and fields, without the MAC."""

    mti: str
    fields: dict[int, Value]

    def __repr__(self) -> str:
        return f"<Outgoing {self.mti} {sorted(self.fields)}>"

    @property
    def stan(self) -> str:
        return str(self.fields[DE.STAN])


def reply_mti(mti: str) -> str:
    """The MTI of the answer: origin 1 (a repeat) is answered as origin 0."""
    return f"{mti[:2]}{int(mti[2]) + 1}0"


def may_be_original(mti: str, processing_code: str) -> bool:
    """Whether a reversal or an outcome query may name such a message: all but enquiries."""
    return mti[:2] in {"01", "02"} and not processing_code.startswith("3")


def is_original(sent: Sent) -> bool:
    """Whether a reversal or an outcome query may name this message."""
    return may_be_original(sent.mti, sent.fields[DE.PROCESSING_CODE])


def is_hold(sent: Sent) -> bool:
    """Whether a completion may name this message."""
    return sent.mti == "0100" and is_original(sent)


def seal_message(terminal: PosTerminal, message: Outgoing) -> bytes:
    """The bytes of a message with the terminal's MAC in its last field (dialect, section 5)."""
    unsealed = encode_unsealed(terminal.packager, message.mti, message.fields)
    return seal(terminal.packager, unsealed, terminal.mac_key.sign(unsealed))


def build(
    order: Order,
    terminal: PosTerminal,
    *,
    currency: str,
    stan: int,
    now: datetime.datetime,
    original: Sent | None = None,
) -> Outgoing:
    """The message for an order, sent at `now` (aware). `original` is what the order refers to.

    Raises `UsageError` when a reversal, repeat or completion has nothing to refer to.
    """
    if order.verb is Verb.REPEAT:
        return _repeat(order, terminal, now, original)
    fields = _clock_fields(terminal, now)
    fields[DE.STAN] = f"{stan:06d}"
    fields[DE.TERMINAL] = terminal.terminal_id
    fields[DE.MERCHANT] = terminal.merchant_id
    spec = VERBS[order.verb]
    _name_keys(fields, terminal.mac_version, terminal.pin_version)
    if spec.network_code:
        fields[DE.NETWORK_CODE] = spec.network_code
        _add_private(fields, {"KU": order.key.upper() if order.key else None})
        if order.verb is Verb.CUT_OVER:
            fields[DE.SETTLEMENT_DATE] = order.date or str(fields[DE.LOCAL_DATE])
    else:
        fill = _FILLERS.get(order.verb, _fill_card)
        fill(fields, order, terminal, currency, original)
    return Outgoing(spec.mti, fields)


def _clock_fields(terminal: PosTerminal, now: datetime.datetime) -> dict[int, Value]:
    utc = now.astimezone(datetime.UTC)
    local = utc + datetime.timedelta(minutes=terminal.utc_offset_min)
    return {
        DE.TRANSMISSION_TIME: utc.strftime("%m%d%H%M%S"),
        DE.LOCAL_TIME: local.strftime("%H%M%S"),
        DE.LOCAL_DATE: local.strftime("%m%d"),
    }


def _fill_card(
    fields: dict[int, Value],
    order: Order,
    terminal: PosTerminal,
    currency: str,
    original: Sent | None,
) -> None:
    """A 0100 or 0200 about the card in hand."""
    if order.card is None:
        raise UsageError(f"{order.verb} needs --card PAN")
    code = VERBS[order.verb].processing_code.format("00" if order.purse == "all" else order.purse)
    if order.verb is Verb.ACTIVATE and order.amount_minor is None:
        code = "930060"
    private: dict[str, str | None] = {
        "CV": order.code,
        "PA": "1" if order.partial_allowed else None,
        "OR": order.original_tx,
    }
    fields[DE.PAN] = str(order.card)
    fields[DE.PROCESSING_CODE] = code
    fields[DE.ENTRY_MODE] = order.entry.value
    fields[DE.CURRENCY] = POINTS_CURRENCY if order.purse == POINTS_PURSE else currency
    if order.amount_minor is not None:
        fields[DE.AMOUNT] = f"{order.amount_minor:012d}"
    if order.expiry is not None:
        fields[DE.EXPIRY] = order.expiry
    if order.to_card is not None:
        fields[DE.TO_ACCOUNT] = str(order.to_card)
    _add_pin(fields, private, order, terminal)
    _add_private(fields, private)


def _fill_completion(
    fields: dict[int, Value],
    order: Order,
    terminal: PosTerminal,
    currency: str,
    original: Sent | None,
) -> None:
    """A 0220 that ends a hold: named by its TX where that is known, else by DE 90 and its time."""
    card = order.card or (Pan(original.fields[DE.PAN]) if original else None)
    transaction = order.original_tx or (original.tx if original else "")
    if card is None:
        raise UsageError("complete needs --card PAN, or a hold of this terminal (--stan)")
    if not transaction and original is None:
        raise UsageError("this terminal knows no such hold: name it with --or TX or --stan")
    fields[DE.PAN] = str(card)
    fields[DE.PROCESSING_CODE] = VERBS[order.verb].processing_code.format(order.purse)
    fields[DE.ENTRY_MODE] = order.entry.value
    fields[DE.CURRENCY] = POINTS_CURRENCY if order.purse == POINTS_PURSE else currency
    if original is not None:
        _copy(fields, original, DE.PROCESSING_CODE, DE.ENTRY_MODE, DE.CURRENCY)
    if order.amount_minor is not None:
        fields[DE.AMOUNT] = f"{order.amount_minor:012d}"
    if transaction:
        _add_private(fields, {"OR": transaction})
    elif original is not None:
        _copy(fields, original, DE.LOCAL_TIME, DE.LOCAL_DATE)
        fields[DE.ORIGINAL] = _original_data(original)


def _fill_reversal(
    fields: dict[int, Value],
    order: Order,
    terminal: PosTerminal,
    currency: str,
    original: Sent | None,
) -> None:
    """A 0400: what identifies the original, as it was sent, and its MTI and STAN in DE 90."""
    if original is None:
        raise UsageError("this terminal has sent nothing that could be reversed")
    _copy(fields, original, *_OF_THE_ORIGINAL)
    if DE.AMOUNT not in fields and original.approved_amount:
        fields[DE.AMOUNT] = original.approved_amount
    fields[DE.ORIGINAL] = _original_data(original)
    if order.final_amount_minor is not None:
        # actual amounts (transaction, settlement), then fees of the same two, each with C or D
        fields[DE.REPLACEMENT_AMOUNTS] = f"{order.final_amount_minor:012d}{0:012d}C{0:08d}C{0:08d}"
    _add_private(fields, {"RE": order.reason})


def _fill_outcome(
    fields: dict[int, Value],
    order: Order,
    terminal: PosTerminal,
    currency: str,
    original: Sent | None,
) -> None:
    """A 0600: the original named as in a reversal, or the terminal's last transaction."""
    if order.card is not None:
        fields[DE.PAN] = str(order.card)
    if original is not None:
        _copy(fields, original, *_OF_THE_ORIGINAL)
        fields[DE.ORIGINAL] = _original_data(original)
    _add_private(fields, {"TB": "1" if order.bar_unknown else None})


def _fill_reconciliation(
    fields: dict[int, Value],
    order: Order,
    terminal: PosTerminal,
    currency: str,
    original: Sent | None,
) -> None:
    """A 0500: the totals of a batch, its number, the terminal's day."""
    totals = order.totals
    fields[DE.SETTLEMENT_DATE] = str(fields[DE.LOCAL_DATE])
    fields[DE.SETTLEMENT_CURRENCY] = currency
    fields.update(total_fields(totals))
    _add_private(fields, {"BN": order.batch_number})


def _repeat(
    order: Order, terminal: PosTerminal, now: datetime.datetime, original: Sent | None
) -> Outgoing:
    """The same message again, as xx01 or xx21: all as it was but the time of this sending."""
    if original is None:
        raise UsageError("this terminal has sent nothing that could be repeated")
    fields: dict[int, Value] = dict(original.fields)
    private: dict[str, str | None] = {**parse_private(original.fields.get(DE.PRIVATE, ""))}
    if original.pin_block:
        fields[DE.PIN_BLOCK] = bytes.fromhex(original.pin_block)
    if order.code is not None:
        private["CV"] = order.code
    pin_version = int(original.fields.get(DE.SECURITY_CONTROL, "0000")[2:4])
    if order.pin is not None:
        _add_pin(fields, private, order, terminal)
        pin_version = terminal.pin_version
    _name_keys(fields, terminal.mac_version, pin_version)
    _add_private(fields, private)
    fields[DE.TRANSMISSION_TIME] = _clock_fields(terminal, now)[DE.TRANSMISSION_TIME]
    return Outgoing(f"{original.mti[:3]}1", fields)


_Filler = Callable[[dict[int, Value], Order, PosTerminal, str, Sent | None], None]
_FILLERS: Final[dict[Verb, _Filler]] = {
    Verb.COMPLETE: _fill_completion,
    Verb.REVERSE: _fill_reversal,
    Verb.OUTCOME: _fill_outcome,
    Verb.RECONCILE: _fill_reconciliation,
}

_OF_THE_ORIGINAL: Final = (
    DE.PAN,
    DE.PROCESSING_CODE,
    DE.AMOUNT,
    DE.LOCAL_TIME,
    DE.LOCAL_DATE,
    DE.ENTRY_MODE,
    DE.CURRENCY,
    DE.TO_ACCOUNT,
)


def _copy(fields: dict[int, Value], original: Sent, *elements: int) -> None:
    fields.update({de: original.fields[de] for de in elements if de in original.fields})


def _original_data(original: Sent) -> str:
    """DE 90 (n42): MTI, STAN and DE 7 of the original, no acquirer and forwarder."""
    sent = original.fields
    return f"{original.mti}{sent[DE.STAN]}{sent[DE.TRANSMISSION_TIME]}{0:022d}"


def _add_pin(
    fields: dict[int, Value],
    private: dict[str, str | None],
    order: Order,
    terminal: PosTerminal,
) -> None:
    """The PIN block of the terminal's format: 0 in DE 52, 4 as `PB` in DE 48."""
    if order.pin is None:
        return
    pan = str(fields[DE.PAN])
    if terminal.pin_format == 4:
        private["PB"] = encode_format4(order.pin, pan, terminal.pin_key).hex().upper()
    else:
        fields[DE.PIN_BLOCK] = encode_format0(order.pin, pan, terminal.pin_key)


def _name_keys(fields: dict[int, Value], mac_version: int, pin_version: int) -> None:
    """DE 53 names the keys by version, where the terminal knows their versions."""
    fields.pop(DE.SECURITY_CONTROL, None)
    if mac_version or pin_version:
        fields[DE.SECURITY_CONTROL] = f"{mac_version:02d}{pin_version:02d}{0:012d}"


def _add_private(fields: dict[int, Value], private: Mapping[str, str | None]) -> None:
    text = build_private({tag: value for tag, value in private.items() if value is not None})
    if text:
        fields[DE.PRIVATE] = text
