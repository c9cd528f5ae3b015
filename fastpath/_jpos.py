"""A jPOS GenericPackager XML read into our own form. Used through `fastpath.importers`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.parsers import expat

from fastpath.packager import LAST_FIELD, Encoding, FieldSpec, Kind, Packager, Pad
from fastpath.specs import DE

__all__ = ["field_number", "from_jpos_xml"]

_JPOS_MTI = {"IFA_NUMERIC": Encoding.ASCII, "IFB_NUMERIC": Encoding.BCD}
_JPOS_BITMAP = {"IFA_BITMAP": Encoding.HEX, "IFB_BITMAP": Encoding.BINARY}
_JPOS_UNUSED = ("IF_UNUSED", "IF_NOP")
# fixed length: kind and encoding
_JPOS_FIXED = {
    "IF_CHAR": (Kind.ANS, Encoding.ASCII),
    "IFA_NUMERIC": (Kind.N, Encoding.ASCII),
    "IFB_NUMERIC": (Kind.N, Encoding.BCD),
    "IFB_FNUMERIC": (Kind.N, Encoding.BCD),
    "IFA_AMOUNT": (Kind.XN, Encoding.ASCII),
    "IFB_AMOUNT": (Kind.XN, Encoding.BCD),
    "IFA_BINARY": (Kind.B, Encoding.HEX),
    "IFB_BINARY": (Kind.B, Encoding.BINARY),
}
# variable length: the classes jPOS has that the codec can reproduce ...
_JPOS_VARIABLE = re.compile(
    "IFA_(L{2,3}NUM|L{1,4}CHAR|L{1,4}BINARY|L{2,3}ABINARY)"
    "|IFB_(F?L{2,3}NUM|L{2,3}HNUM|L{2,4}CHAR|L{2,3}HCHAR|L{2,4}BINARY|L{2,3}HBINARY)"
)
# ... and how their names are made: family, F for filler F, the L's of the length, H for a binary
# length (one byte shorter than its L's), content
_JPOS_NAME = re.compile(r"IF([AB])_(F?)(L+)(H?)(NUM|CHAR|BINARY|ABINARY)")
_JPOS_CONTENT = {
    ("A", "NUM"): (Kind.N, Encoding.ASCII),
    ("B", "NUM"): (Kind.N, Encoding.BCD),
    ("A", "CHAR"): (Kind.ANS, Encoding.ASCII),
    ("B", "CHAR"): (Kind.ANS, Encoding.ASCII),
    ("A", "BINARY"): (Kind.B, Encoding.BINARY),
    ("B", "BINARY"): (Kind.B, Encoding.BINARY),
    ("A", "ABINARY"): (Kind.B, Encoding.HEX),
}
# what would change the bytes in a way the codec has no word for
_JPOS_ROOT_DEFAULTS = {
    "emitBitmap": "true",
    "bitmapField": "1",
    "thirdBitmapField": "-999",
    "headerLength": "0",
    "firstField": "",
}


def field_number(text: object) -> int:
    """A data element number as a specification file writes it; ValueError outside 0 .. 128."""
    try:
        number = int(str(text))
    except ValueError:
        number = -1
    if not 0 <= number <= LAST_FIELD:
        raise ValueError(f"a field number is not in 0 .. {LAST_FIELD}")
    return number


class _JposReader:
    """Collects the rows of one file. Declares no entity, loads no DTD."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, str]] = {}
        self.root_seen = False
        self.depth_inside_field = 0
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.EntityDeclHandler = self.entity

    def doctype(self, name: str, system: str | None, public: str | None, internal: int) -> None:
        # the public identifier that jPOS files carry is harmless: nothing is fetched
        if internal:
            raise ValueError("an XML document with declarations of its own is refused")

    def entity(self, *declaration: object) -> None:
        raise ValueError("an XML document with entities is refused")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self.depth_inside_field:
            self.depth_inside_field += 1
        elif not self.root_seen:
            self.root_seen = True
            self.root(tag, attributes)
        elif tag in ("isofield", "isofieldpackager"):
            attributes["nested"] = "true" if tag == "isofieldpackager" else "false"
            self.rows[field_number(attributes.get("id"))] = attributes
            self.depth_inside_field = 1
        else:
            raise ValueError(f"element {tag} is not supported")

    def end(self, tag: str) -> None:
        if self.depth_inside_field:
            self.depth_inside_field -= 1

    def root(self, tag: str, attributes: dict[str, str]) -> None:
        if tag != "isopackager":
            raise ValueError("not a jPOS GenericPackager: its root must be isopackager")
        for key, default in _JPOS_ROOT_DEFAULTS.items():
            if attributes.get(key, default) != default:
                raise ValueError(f"isopackager with {key} is not supported")


def from_jpos_xml(text: str | bytes, *, name: str = "jpos", version: str = "0") -> Packager:
    """A jPOS GenericPackager XML as a Packager.

    jPOS has no class for track data: a NUM class at DE 35 or 36 becomes z. Its CHAR classes become
    ans, so control characters are refused. IF_UNUSED and IF_NOP leave the field out. A bitmap of
    length 8 leaves DE 65-128 out. The fields inside a nested packager are not opened: the field
    around them is read as its class says, free text as bytes.
    Raises ValueError naming field and class for what the codec cannot write (EBCDIC and others),
    and for XML with declarations or entities of its own.
    """
    reader = _JposReader()
    try:
        reader.parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"not well-formed XML: {error}") from None
    rows = reader.rows
    mti = _jpos_head(rows, 0, _JPOS_MTI, ("4",))
    bitmap = _jpos_head(rows, 1, _JPOS_BITMAP, ("8", "16"))
    last = 64 if rows[1].get("length") == "8" else 128
    fields = {}
    for number, row in rows.items():
        if 2 <= number <= last and _jpos_class(row) not in _JPOS_UNUSED:
            fields[number] = _jpos_field(number, row)
    return Packager(name, fields, mti, bitmap, version)


def _jpos_class(row: Mapping[str, str]) -> str:
    return row.get("class", "").strip().removeprefix("org.jpos.iso.")


def _jpos_head(
    rows: Mapping[int, Mapping[str, str]],
    number: int,
    encodings: Mapping[str, Encoding],
    lengths: tuple[str, ...],
) -> Encoding:
    if number not in rows:
        raise ValueError(f"field {number}: missing")
    kind = _jpos_class(rows[number])
    if kind not in encodings or rows[number].get("length") not in lengths:
        raise ValueError(f"field {number}: class {kind} of that length is not supported")
    return encodings[kind]


def _jpos_field(number: int, row: Mapping[str, str]) -> FieldSpec:
    jpos_class = _jpos_class(row)
    for flag in ("trim", "inclusive"):
        if row.get(flag, "false").lower() == "true":
            raise ValueError(f"field {number}: {flag} is not supported")
    try:
        length = int(row.get("length", ""))
    except ValueError:
        raise ValueError(f"field {number}: length is not a number") from None
    prefix_size, prefix_encoding = 0, None
    match = _JPOS_NAME.fullmatch(jpos_class)
    if jpos_class in _JPOS_FIXED:
        kind, encoding = _JPOS_FIXED[jpos_class]
    elif match and _JPOS_VARIABLE.fullmatch(jpos_class):
        kind, encoding = _JPOS_CONTENT[match[1], match[5]]
        prefix_size = len(match[3]) - len(match[4])
        prefix_encoding = Encoding.ASCII if match[1] == "A" else Encoding.BCD
        if match[4]:
            prefix_encoding = Encoding.BINARY
    else:
        raise ValueError(f"field {number}: class {jpos_class} is not supported")
    if kind is Kind.ANS and row.get("nested") == "true":
        kind, encoding = Kind.B, Encoding.BINARY
    if kind is Kind.N and number in (DE.TRACK2, DE.TRACK3):
        kind = Kind.Z
    pad = Pad.RIGHT_F if jpos_class.startswith("IFB_F") else Pad.RIGHT
    if row.get("pad", "false").lower() == "true":
        pad = Pad.LEFT
    name = row.get("name", "")
    return FieldSpec(kind, length, encoding, prefix_size, prefix_encoding, pad, name=name)
