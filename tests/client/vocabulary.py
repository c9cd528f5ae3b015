"""The words of the dialect: operations, entry modes, reasons, cards, terminals."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .dialect import MacKind, Packager

__all__ = ["Card", "Entry", "HoldName", "Identity", "NetworkCode", "Processing", "Reason", "Seal"]


class Processing(enum.StrEnum):
    """DE 3 of the operations (account type 60, the e-cash purse)."""

    UNLOCK = "910060"
    ACTIVATE = "900060"
    ACTIVATE_PREVALUED = "930060"
    LOAD = "210060"
    REDEEM = "006000"
    REFUND = "200060"
    CASH_OUT = "616000"
    TRANSFER = "406060"
    BALANCE = "316000"
    BALANCE_OTHER = "306000"
    BALANCE_ALL = "310000"
    DEACTIVATE = "920060"
    BLOCK = "940060"
    UNBLOCK = "950060"


class Entry(enum.StrEnum):
    """DE 22: how the card came in, and that PINs can be entered."""

    KEYED = "011"
    STRIPE = "021"
    BARCODE = "031"
    CHIP = "051"
    ONLINE = "811"


class Reason(enum.StrEnum):
    """Tag RE of a reversal."""

    TIME_OUT = "4021"
    CUSTOMER = "4000"
    MERCHANT = "4351"


class HoldName(enum.Enum):
    """How a completion names its hold."""

    TRANSACTION = enum.auto()
    """`OR`: the hold's TX."""
    APPROVAL_CODE = enum.auto()
    """DE 38, with the card and DE 42."""
    ORIGINAL_DATA = enum.auto()
    """DE 90, with DE 12 and 13 as the hold."""


class NetworkCode(enum.StrEnum):
    """DE 70."""

    SIGN_ON = "001"
    SIGN_OFF = "002"
    CUT_OVER = "201"
    ECHO = "301"


class Seal(enum.Enum):
    """What becomes of a request's MAC: right, or one of the ways to get it wrong."""

    RIGHT = enum.auto()
    ABSENT = enum.auto()
    FLIPPED_IN_MAC = enum.auto()
    FLIPPED_IN_MESSAGE = enum.auto()
    OTHER_KEY = enum.auto()


@dataclass(frozen=True)
class Card:
    """One entry of demo.json's `cards`; `extra` holds keys that the contract does not name."""

    pan: str = field(repr=False)
    expiry: str
    cv: str = field(repr=False)
    pin: str = field(repr=False)
    track2: str = field(repr=False)
    status: str
    balance: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_demo(cls, entry: Mapping[str, Any]) -> Card:
        names = ("pan", "expiry", "cv", "pin", "track2", "status", "balance")
        extra = {name: value for name, value in entry.items() if name not in names}
        return cls(**{name: entry[name] for name in names}, extra=extra)


@dataclass(frozen=True)
class Identity:
    """One entry of demo.json's `terminals`, and the packager of its port."""

    terminal: str
    merchant: str
    packager: Packager
    mac_kind: MacKind
    mac_key: bytes = field(repr=False)
    pin_key: bytes = field(repr=False)
    key_version: int = 1
    utc_offset_min: int = 0

    @classmethod
    def from_demo(cls, entry: Mapping[str, Any], packager: Packager) -> Identity:
        return cls(
            terminal=entry["id"],
            merchant=entry["merchant"],
            packager=packager,
            mac_kind=MacKind(entry["mac"]),
            mac_key=bytes.fromhex(entry["mac_key"]),
            pin_key=bytes.fromhex(entry["pin_key"]),
            key_version=entry["key_version"],
            utc_offset_min=entry["utc_offset_min"],
        )
