"""What single fields of a message say, the same for every operation."""

from __future__ import annotations

from collections.abc import Mapping

from fastpath.codec import Message
from fastpath.errors import FormatError
from fastpath.specs import DE
from rules.requests import Entry, ReversalReason

__all__ = [
    "card_number",
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


def is_card_number(text: str) -> bool:
    """12 to 19 digits."""
    return 12 <= len(text) <= 19 and text.isascii() and text.isdigit()


def read_batch_number(private: Mapping[str, str]) -> str:
    """`BN`; empty where there is none. FormatError for one that is too long."""
    number = private.get("BN", "")
    if len(number) > _BATCH_NUMBER_MAX:
        raise FormatError("batch number too long", field=int(_PRIVATE))
    return number


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
