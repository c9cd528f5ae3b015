"""What single fields of a message say, the same for every operation."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from fastpath.codec import Message
from fastpath.errors import FormatError
from fastpath.specs import DE
from rules.lots import Origin
from rules.requests import Entry, ReversalReason

__all__ = [
    "card_number",
    "credit_terms",
    "entry_mode",
    "is_card_number",
    "read_batch_number",
    "required",
    "reversal_reason",
]

_PAN, _TRACK2, _TRACK1, _ENTRY_MODE = DE.PAN, DE.TRACK2, DE.TRACK1, DE.ENTRY_MODE
_PRIVATE = DE.PRIVATE
_READ_MODES = ("02", "03", "05", "07", "09")
_CUSTOMER_REASONS = ("4000", "4352", "4353")
_MERCHANT_REASON = "4351"
_BATCH_NUMBER_MAX = 20
_SPONSOR_MAX = 9
_EPOCH = datetime.date(1970, 1, 1)


def is_card_number(text: str) -> bool:
    """12 to 19 digits."""
    return 12 <= len(text) <= 19 and text.isascii() and text.isdigit()


def read_batch_number(private: Mapping[str, str]) -> str:
    """`BN`; empty where there is none. FormatError for one that is too long."""
    number = private.get("BN", "")
    if len(number) > _BATCH_NUMBER_MAX:
        raise FormatError("batch number too long", field=int(_PRIVATE))
    return number


def credit_terms(private: Mapping[str, str]) -> tuple[Origin, int, int]:
    """`OG`, `XD`, `SP`: origin, last day since 1970-01-01 (0: none said), sponsor (0: none).

    FormatError for what is none of these.
    """
    origin, last_day, sponsor = private.get("OG"), private.get("XD"), private.get("SP")
    if origin is not None and origin not in Origin.__members__:
        raise FormatError("no such origin", field=int(_PRIVATE))
    day = 0
    if last_day is not None:
        if len(last_day) != 8 or not (last_day.isascii() and last_day.isdigit()):
            raise FormatError("no last day", field=int(_PRIVATE))
        try:
            parts = int(last_day[:4]), int(last_day[4:6]), int(last_day[6:])
            day = (datetime.date(*parts) - _EPOCH).days
        except ValueError:
            raise FormatError("no last day", field=int(_PRIVATE)) from None
        if day <= 0:
            raise FormatError("no last day", field=int(_PRIVATE))
    if sponsor is not None and not (
        len(sponsor) <= _SPONSOR_MAX and sponsor.isascii() and sponsor.isdigit()
    ):
        raise FormatError("no sponsor", field=int(_PRIVATE))
    return Origin[origin or "PAID"], day, int(sponsor or 0)


def required(message: Message, field: int) -> str:
    """A field that must be there; FormatError where it is not."""
    value = message.get(field)
    if value is None:
        raise FormatError("missing", field=int(field))
    return value


def card_number(message: Message) -> str:
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


def reversal_reason(code: str) -> ReversalReason:
    """Customer and merchant reasons by their codes; all that machines do counts as a time-out."""
    if code == _MERCHANT_REASON:
        return ReversalReason.MERCHANT
    return ReversalReason.CUSTOMER if code in _CUSTOMER_REASONS else ReversalReason.TIME_OUT
