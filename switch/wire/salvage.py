"""What can still be read of a malformed message: the fields before the one that broke it.

A reply 30 that names its request is worth more to whoever sent it than a closed connection.
"""

from __future__ import annotations

from fastpath.codec import Message, decode
from fastpath.errors import FormatError
from fastpath.packager import Packager

__all__ = ["salvage"]


def salvage(packager: Packager, frame: bytes, error: FormatError) -> Message | None:
    """The message up to the broken field; None where not even its type and bitmap are whole."""
    text = packager.name.endswith("ascii")
    mti_length, half = (4, 16) if text else (2, 8)
    bitmap_end = mti_length + 2 * half
    if error.offset < mti_length + half:
        return None
    try:
        raw = frame[mti_length:bitmap_end]
        bitmap = bytes.fromhex(raw.decode("ascii")) if text else raw
    except ValueError:
        return None
    secondary = bool(bitmap[0] & 0x80)
    limit = error.field if error.field is not None else 129
    bits = int.from_bytes(bitmap[: 16 if secondary else 8].ljust(16, b"\0"), "big")
    bits &= ~((1 << (129 - limit)) - 1)  # clear the broken field and all after it
    if not bits & ((1 << 64) - 1):
        bits &= ~(1 << 127)
    kept = bits.to_bytes(16, "big")[: 16 if bits >> 127 else 8]
    head = frame[:mti_length] + (kept.hex().upper().encode() if text else kept)
    body_start = mti_length + half * (2 if secondary else 1)
    try:
        return decode(packager, head + frame[body_start : error.offset])
    except FormatError:
        return None
