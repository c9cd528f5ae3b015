"""A message specification as data: declared once, validated once, flattened once for the codec.

A `FieldSpec` says how one data element lies on the wire, a `Packager` is the table of all of them
with the forms of message type and bitmap (ISO 8583:1987 clauses 4.1 to 4.4).

>>> stan = FieldSpec(Kind.N, 6, Encoding.ASCII, name="System trace audit number")
>>> pan = FieldSpec(Kind.N, 19, Encoding.BCD, 2, Encoding.BCD, Pad.RIGHT)
>>> packager = Packager("tiny", {2: pan, 11: stan}, Encoding.BCD, Encoding.BINARY)
>>> packager.fields[11].length
6
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Count", "Encoding", "FieldSpec", "Kind", "Packager", "Pad"]

LAST_FIELD = 128
LONGEST_FIELD = 65535


class Kind(enum.Enum):
    """What a field may hold."""

    N = "n"  # digits
    Z = "z"  # track 2 code set: digits and the separator
    XN = "x+n"  # one letter, C or D, then digits
    ANS = "ans"  # Latin-1 text without control characters (a, an, as, ans)
    B = "b"  # bytes


class Encoding(enum.Enum):
    """How a value, a length, the message type or the bitmap is written."""

    ASCII = "ascii"  # one byte a character
    BCD = "bcd"  # two digits a byte; of an x+n field the digits only
    BINARY = "binary"  # bytes as they are; lengths big-endian
    HEX = "hex"  # two upper-case ASCII characters a byte


class Pad(enum.Enum):
    """Where the idle half-byte of an odd number of BCD digits goes, and what it holds."""

    NONE = "none"  # never odd
    LEFT = "left"  # leading 0
    RIGHT = "right"  # trailing 0
    RIGHT_F = "right-f"  # trailing F


class Count(enum.Enum):
    """What a length counts."""

    VALUE = "value"  # digits, characters or bytes of the value
    WIRE = "wire"  # characters as sent: of a field in hex two a byte


_ENCODINGS = {
    Kind.N: (Encoding.ASCII, Encoding.BCD),
    Kind.Z: (Encoding.ASCII, Encoding.BCD),
    Kind.XN: (Encoding.ASCII, Encoding.BCD),
    Kind.ANS: (Encoding.ASCII,),
    Kind.B: (Encoding.BINARY, Encoding.HEX),
}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One data element.

    `length` is the exact length of a fixed field (`prefix_size` 0) and the longest of a variable
    one, in digits, characters or bytes as `count` says. `prefix_size` is the number of L's: digits
    of the length, or its bytes where `prefix_encoding` is BINARY. `name` is for people and takes
    no part in comparison. `pad` is set to NONE where the number of digits can never be odd.
    """

    kind: Kind
    length: int
    encoding: Encoding
    prefix_size: int = 0
    prefix_encoding: Encoding | None = None
    pad: Pad = Pad.NONE
    count: Count = Count.VALUE
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        digits = self.length - 1 if self.kind is Kind.XN else self.length
        if self.encoding is not Encoding.BCD or (not self.prefix_size and digits % 2 == 0):
            object.__setattr__(self, "pad", Pad.NONE)

    def problem(self) -> str:
        """Why this declaration cannot work, or an empty text."""
        if self.encoding not in _ENCODINGS[self.kind]:
            return f"kind {self.kind.value} cannot be written in {self.encoding.value}"
        if not 1 <= self.length <= LONGEST_FIELD:
            return f"length {self.length} is not in 1 .. {LONGEST_FIELD}"
        if self.kind is Kind.XN and (self.prefix_size or self.length < 2):
            return "an x+n field is fixed: one letter and at least one digit"
        if self.count is Count.WIRE and not (self.encoding is Encoding.HEX and self.prefix_size):
            return "only a variable field in hex can count characters of the wire"
        if self.encoding is Encoding.BCD and self.pad is Pad.NONE and self._can_be_odd():
            return "BCD digits may be odd in number: say where the padding half-byte goes"
        return self._prefix_problem()

    def _can_be_odd(self) -> bool:
        digits = self.length - 1 if self.kind is Kind.XN else self.length
        return bool(self.prefix_size) or digits % 2 == 1

    def _prefix_problem(self) -> str:
        if not self.prefix_size:
            return "" if self.prefix_encoding is None else "a fixed field has no length prefix"
        if self.prefix_encoding in (Encoding.ASCII, Encoding.BCD):
            largest_size, longest = 4, 10**self.prefix_size - 1
        elif self.prefix_encoding is Encoding.BINARY:
            largest_size, longest = 2, 256**self.prefix_size - 1
        else:
            return "a length prefix is ASCII, BCD or binary"
        if not 1 <= self.prefix_size <= largest_size:
            return f"a length prefix of size {self.prefix_size} is not in 1 .. {largest_size}"
        if self.length > longest:
            return f"length {self.length} does not fit its prefix, which ends at {longest}"
        return ""


@dataclass(frozen=True)
class Packager:
    """A whole message specification.

    `fields` maps data elements (2 .. 128) to their `FieldSpec`; what is not in it is refused on
    the wire. `mti_encoding` is ASCII or BCD, `bitmap_encoding` HEX or BINARY, `version` the one
    digit every message type begins with (ISO 8583: 0 = 1987, 1 = 1993, 2 = 2003).
    Raises ValueError naming the field where the table makes no sense.
    """

    name: str
    fields: Mapping[int, FieldSpec]
    mti_encoding: Encoding
    bitmap_encoding: Encoding
    version: str = "0"
    # the codec hangs its flattened table here when it first meets the packager
    _plan: object = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mti_encoding not in (Encoding.ASCII, Encoding.BCD):
            raise ValueError("field 0: a message type is ASCII or BCD")
        if self.bitmap_encoding not in (Encoding.HEX, Encoding.BINARY):
            raise ValueError("field 1: a bitmap is hex or binary")
        if len(self.version) != 1 or self.version not in "0123456789":
            raise ValueError("field 0: the version is one digit")
        for number, spec in self.fields.items():
            if not 2 <= number <= LAST_FIELD:
                raise ValueError(f"field {number}: not in 2 .. {LAST_FIELD}")
            problem = spec.problem()
            if problem:
                raise ValueError(f"field {number}: {problem}")
        ordered = dict(sorted(self.fields.items()))
        object.__setattr__(self, "fields", MappingProxyType(ordered))

    def __hash__(self) -> int:
        return hash((self.name, self.version, tuple(self.fields.items())))

    def __reduce__(self) -> tuple[object, ...]:
        # neither a mapping proxy nor the codec's table can be pickled
        parts = (self.mti_encoding, self.bitmap_encoding, self.version)
        return Packager, (self.name, dict(self.fields), *parts)
