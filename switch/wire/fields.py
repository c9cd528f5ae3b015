"""What single fields of a message say, the same for every operation."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping

from fastpath.codec import Message
from fastpath.errors import FormatError
from fastpath.specs import DE
from rules.lots import Origin
from rules.requests import CreditTerms, Entry, ReversalReason

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
_READ = Entry.READ
_READ_MODES = ("02", "03", "05", "07", "09")
_CUSTOMER_REASONS = ("4000", "4352", "4353")
_MERCHANT_REASON = "4351"
_BATCH_NUMBER_MAX = 20
_SPONSOR_MAX = 9
_REFERENCE_MAX = 40
_TERMS = frozenset({"OG", "SP", "XD", "CA"})
_EPOCH = datetime.date(1970, 1, 1)


def is_card_number(text: str) -> bool:
    """12 to 19 digits."""
    return 12 <= len(text) <= 19 and _is_number(text)


def read_batch_number(private: Mapping[str, str]) -> str:
    """`BN`; empty where there is none. FormatError for one that is too long."""
    number = private.get("BN", "")
    if len(number) > _BATCH_NUMBER_MAX:
        raise FormatError("batch number too long", field=int(_PRIVATE))
    return number


def credit_terms(private: Mapping[str, str]) -> CreditTerms | None:
    """`OG`, `SP`, `XD`, `CA`, and of a refund `IN`; None where none of the first four is there.

    FormatError for what is none of these.
    """
    if not _TERMS & private.keys():
        return None
    origin, sponsor, cashable = private.get("OG"), private.get("SP", ""), private.get("CA")
    if origin is not None and origin not in Origin.__members__:
        raise FormatError("no such origin", field=int(_PRIVATE))
    if "SP" in private and not (len(sponsor) <= _SPONSOR_MAX and _is_number(sponsor)):
        raise FormatError("no sponsor", field=int(_PRIVATE))
    if cashable not in (None, "0", "1"):
        raise FormatError("neither cashable nor not", field=int(_PRIVATE))
    reference = private.get("IN", "") if origin == Origin.REFUND.name else ""
    if len(reference) > _REFERENCE_MAX:
        raise FormatError("order reference too long", field=int(_PRIVATE))
    return CreditTerms(
        origin=Origin[origin or "PAID"],
        sponsor_id=int(sponsor or 0),
        last_day=_last_day(private["XD"]) if "XD" in private else 0,
        cashable=None if cashable is None else cashable == "1",
        order_reference=reference,
    )


def _last_day(text: str) -> int:
    """YYYYMMDD as a day since 1970-01-01."""
    if len(text) == 8 and _is_number(text):
        with contextlib.suppress(ValueError):
            day = datetime.date(int(text[:4]), int(text[4:6]), int(text[6:])) - _EPOCH
            if day.days > 0:
                return day.days
    raise FormatError("no last day", field=int(_PRIVATE))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


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
        return _READ
    return Entry.KEYED


def reversal_reason(code: str) -> ReversalReason:
    """Customer and merchant reasons by their codes; all that machines do counts as a time-out."""
    if code == _MERCHANT_REASON:
        return ReversalReason.MERCHANT
    return ReversalReason.CUSTOMER if code in _CUSTOMER_REASONS else ReversalReason.TIME_OUT
