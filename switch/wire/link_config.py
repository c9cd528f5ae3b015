"""What is agreed with the peer of a link, and the words a link speaks in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fastpath.framing import Header
from fastpath.packager import Packager

__all__ = ["TPDU_LENGTH", "CloseReason", "Frame", "LinkConfig", "Role"]

TPDU_LENGTH: Final = 5


class Role(enum.Enum):
    """Which end of the connection this is."""

    SERVER = "server"
    CLIENT = "client"


class CloseReason(enum.Enum):
    """Why a link drains or is closed. The first reason stays."""

    FRAME_TOO_LONG = "frame-too-long"
    BAD_HEADER = "bad-header"
    KEEPALIVE_STORM = "keepalive-storm"
    IDLE = "idle"
    HALF_FRAME = "half-frame"
    SLOW_READER = "slow-reader"
    PEER = "peer"
    DRAINED = "drained"


class Frame(NamedTuple):
    """One message as it came or goes, and the TPDU it came with (b"" under other headers)."""

    message: bytes
    tpdu: bytes


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """What is agreed with the peer of a link. Times in seconds; `math.inf` switches one off."""

    name: str
    header: Header
    packager: Packager
    acquirer_id: str
    foreign_acquirer_ids: frozenset[str] = frozenset()
    sign_on_required: bool = False
    frame_length_max: int = 4096
    idle_timeout_s: float = 300.0
    half_frame_timeout_s: float = 10.0
    keepalives_per_minute_max: int = 120
    in_flight_max: int = 1024
    send_buffer_bytes_max: int = 1 << 20
    client_tpdu: bytes = b"\x60\x00\x00\x00\x00"
    """The TPDU in front of a client's requests (header `TPDU` only)."""
    acquirer_ids: frozenset[str] = field(init=False)
    """Every DE 32 that the peer may send: its own, and those it forwards for."""

    def __post_init__(self) -> None:
        for name in (
            "frame_length_max",
            "idle_timeout_s",
            "half_frame_timeout_s",
            "in_flight_max",
            "send_buffer_bytes_max",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"link {self.name!r}: {name} must be above 0")
        if self.keepalives_per_minute_max < 0:
            raise ValueError(f"link {self.name!r}: keepalives_per_minute_max must not be negative")
        if len(self.client_tpdu) != TPDU_LENGTH:
            raise ValueError(f"link {self.name!r}: client_tpdu must have {TPDU_LENGTH} bytes")
        object.__setattr__(self, "acquirer_ids", self.foreign_acquirer_ids | {self.acquirer_id})
