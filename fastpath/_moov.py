"""The JSON and YAML of moov-io/iso8583, read and written. Used through `fastpath.importers`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastpath._jpos import field_number
from fastpath.packager import Count, Encoding, FieldSpec, Kind, Packager, Pad
from fastpath.specs import DE, ISO87_ASCII

__all__ = ["from_moov_json", "from_moov_yaml", "to_moov_json"]

_MOOV_MTI = {"ASCII": Encoding.ASCII, "BCD": Encoding.BCD}
_MOOV_BITMAP = {"HexToASCII": Encoding.HEX, "Binary": Encoding.BINARY}
_MOOV_PREFIX = {"ASCII": Encoding.ASCII, "BCD": Encoding.BCD, "BINARY": Encoding.BINARY}
_MOOV_TEXT = ("String", "Numeric", "Track1", "Track2", "Track3")
# what a type and an encoding say together, where the type does not matter further
_MOOV_ENCODING = {
    "BCD": (Kind.N, Encoding.BCD, Pad.LEFT),
    "LBCD": (Kind.N, Encoding.BCD, Pad.RIGHT),
    "Binary": (Kind.B, Encoding.BINARY, Pad.NONE),
    "HexToASCII": (Kind.B, Encoding.HEX, Pad.NONE),
}
_ZEROS_LEFT = {"type": "Left", "pad": "0"}
_BLANKS_RIGHT = {"type": "Right", "pad": " "}


def from_moov_json(text: str | bytes, *, version: str = "0") -> Packager:
    """A message specification in the JSON of moov-io/iso8583 as a Packager.

    moov's String says nothing of the content. A String of digits in ASCII is known by its Left "0"
    padding or, where number and length are those of 1987, by that table; any other is ans. Our own
    key "content" (n, z, x+n, ans, b), which moov passes over, says it outright; "b" on a variable
    String is hex text counted in characters. A sign and its digits are a fixed Composite of two.
    A bitmap of length 16 is read as jPOS means it: one or two bitmaps of 8 bytes.
    Raises ValueError naming the field for everything else: EBCDIC, BER-TLV, other composites,
    other paddings, bitmaps that do not expand.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {type(error).__name__}") from None
    return _from_moov(document, version)


def from_moov_yaml(text: str | bytes, *, version: str = "0") -> Packager:
    """The same in YAML; needs the `yaml` extra (ImportError without it)."""
    try:
        import yaml  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise ImportError("a YAML specification needs PyYAML: install cardswitch[yaml]") from None
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not YAML: {type(error).__name__}") from None
    return _from_moov(document, version)


def _from_moov(document: object, version: str) -> Packager:
    if not isinstance(document, dict) or not isinstance(document.get("fields"), dict):
        raise ValueError("not a moov specification: it has no fields")  # noqa: TRY004 - its content
    entries: dict[int, dict[str, Any]] = {}
    for key, entry in document["fields"].items():
        number = field_number(key)
        if not isinstance(entry, dict):
            raise ValueError(f"field {number}: not an object")  # noqa: TRY004 - its content
        entries[number] = entry
    mti = _moov_head(entries, 0, _MOOV_MTI, (4,))
    bitmap = _moov_head(entries, 1, _MOOV_BITMAP, (0, 8, 16))
    if entries[1].get("disableAutoExpand"):
        raise ValueError("field 1: a bitmap that does not expand is not supported")
    fields = {number: _moov_field(number, entries[number]) for number in entries if number > 1}
    return Packager(str(document.get("name", "moov")), fields, mti, bitmap, version)


def _moov_head(
    entries: Mapping[int, Mapping[str, Any]],
    number: int,
    encodings: Mapping[str, Encoding],
    lengths: tuple[int, ...],
) -> Encoding:
    if number not in entries:
        raise ValueError(f"field {number}: missing")
    encoding = str(entries[number].get("enc"))
    if encoding not in encodings or entries[number].get("length", 0) not in lengths:
        raise ValueError(f"field {number}: encoding {encoding} of that length is not supported")
    return encodings[encoding]


def _moov_field(number: int, entry: Mapping[str, Any]) -> FieldSpec:
    length = entry.get("length")
    if not isinstance(length, int):
        raise ValueError(f"field {number}: length is not a number")  # noqa: TRY004 - its content
    prefix_size, prefix_encoding = _moov_prefix(number, str(entry.get("prefix", "")))
    if entry.get("type") == "Composite":
        return _moov_sign_and_digits(number, entry)
    kind, encoding, pad = _moov_content(number, length, prefix_size, entry)
    count = Count.VALUE
    if entry.get("type") == "String" and entry.get("enc") == "ASCII" and kind is Kind.B:
        encoding, count = Encoding.HEX, Count.WIRE
    fill = _moov_padding(entry)
    wanted = _BLANKS_RIGHT if kind is Kind.ANS else _ZEROS_LEFT if kind is Kind.N else {}
    if fill.get("type", "None") != "None" and (prefix_size or fill != wanted):
        raise ValueError(f"field {number}: this padding is not supported")
    name = str(entry.get("description", ""))
    return FieldSpec(kind, length, encoding, prefix_size, prefix_encoding, pad, count, name)


def _moov_prefix(number: int, prefix: str) -> tuple[int, Encoding | None]:
    family, _, size = prefix.upper().partition(".")
    if size == "FIXED":
        return 0, None
    if family not in _MOOV_PREFIX or not size or size.strip("L"):
        raise ValueError(f"field {number}: prefix {prefix} is not supported")
    return len(size), _MOOV_PREFIX[family]


def _moov_padding(entry: Mapping[str, Any]) -> dict[str, str]:
    padding = entry.get("padding")
    if not isinstance(padding, dict):
        return {}
    return {str(key): str(value) for key, value in padding.items()}


def _moov_content(
    number: int, length: int, prefix_size: int, entry: Mapping[str, Any]
) -> tuple[Kind, Encoding, Pad]:
    """Kind, encoding and place of the idle half-byte of a primitive field."""
    moov_type, moov_encoding = str(entry.get("type")), str(entry.get("enc"))
    pad = Pad.NONE
    if moov_encoding in _MOOV_ENCODING:
        kind, encoding, pad = _MOOV_ENCODING[moov_encoding]
    elif moov_encoding == "ASCII" and moov_type in _MOOV_TEXT:
        kind, encoding = Kind.ANS, Encoding.ASCII
        usual = ISO87_ASCII.fields.get(number)
        if moov_type == "Numeric" or _moov_padding(entry).get("type") == "Left":
            kind = Kind.N
        elif (
            usual
            and usual.kind is not Kind.B
            and (length, prefix_size)
            == (
                usual.length,
                usual.prefix_size,
            )
        ):
            kind = usual.kind
    else:
        raise ValueError(f"field {number}: {moov_type} in {moov_encoding} is not supported")
    if kind is Kind.N and (moov_type == "Track2" or number == DE.TRACK2):
        kind = Kind.Z
    if "content" in entry:
        try:
            kind = Kind(entry["content"])
        except ValueError:
            raise ValueError(f"field {number}: unknown content") from None
    return kind, encoding, pad


def _moov_sign_and_digits(number: int, entry: Mapping[str, Any]) -> FieldSpec:
    """The one composite that is a field of ours: a letter, then digits, both fixed."""
    parts = entry.get("subfields")
    if isinstance(parts, dict) and [str(key) for key in parts] == ["1", "2"]:
        sign, digits = parts.values()
        if isinstance(sign, dict) and isinstance(digits, dict):
            encoding = {"ASCII": Encoding.ASCII, "BCD": Encoding.BCD}.get(digits.get("enc", ""))
            length = digits.get("length")
            if encoding and isinstance(length, int):
                name = str(entry.get("description", ""))
                spec = FieldSpec(Kind.XN, length + 1, encoding, pad=Pad.LEFT, name=name)
                if _same_bytes(_sign_and_digits_entry(spec), entry):
                    return spec
    raise ValueError(f"field {number}: this Composite is not supported")


def _same_bytes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two composite entries differ in words for people and in type names at most."""

    def bare(entry: object) -> object:
        if not isinstance(entry, dict):
            return entry
        dropped = ("description", "type", "padding")
        return {str(key): bare(entry[key]) for key in entry if key not in dropped}

    return bare(ours) == bare(theirs)


# ---- our own packagers as moov JSON --------------------------------------------------------------


def to_moov_json(packager: Packager) -> str:
    """A Packager in the JSON of moov-io/iso8583, one field a line; `from_moov_json` reads it back.

    ValueError naming the field where moov has no word for it (digits padded with F). moov itself
    cannot hold the separator of track 2 in BCD; it loads such a field as digits.
    """
    binary_map = packager.bitmap_encoding is Encoding.BINARY
    mti = "BCD" if packager.mti_encoding is Encoding.BCD else "ASCII"
    entries: dict[int, dict[str, Any]] = {
        0: {
            "type": "String",
            "length": 4,
            "description": "Message type indicator",
            "enc": mti,
            "prefix": f"{mti}.Fixed",
        },
        1: {
            "type": "Bitmap",
            "length": 8,
            "description": "Bitmap",
            "enc": "Binary" if binary_map else "HexToASCII",
            "prefix": "Binary.Fixed" if binary_map else "Hex.Fixed",
        },
    }
    for number, spec in packager.fields.items():
        entries[number] = _moov_entry(number, spec)
    lines = ",\n".join(f'    "{number}": {json.dumps(entries[number])}' for number in entries)
    return f'{{\n  "name": {json.dumps(packager.name)},\n  "fields": {{\n{lines}\n  }}\n}}\n'


def _moov_entry(number: int, spec: FieldSpec) -> dict[str, Any]:
    if spec.kind is Kind.XN:
        if spec.pad is Pad.RIGHT or spec.pad is Pad.RIGHT_F:
            raise ValueError(f"field {number}: moov has no such padding")
        return _sign_and_digits_entry(spec)
    if spec.pad is Pad.RIGHT_F:
        raise ValueError(f"field {number}: moov has no such padding")
    moov_type, moov_encoding, prefix = "String", "ASCII", "ASCII"
    if spec.encoding is Encoding.BCD:
        moov_encoding, prefix = ("LBCD" if spec.pad is Pad.RIGHT else "BCD"), "BCD"
    elif spec.kind is Kind.B and spec.count is Count.VALUE:
        moov_type, moov_encoding = "Binary", "HexToASCII"
        if spec.encoding is Encoding.BINARY:
            moov_encoding, prefix = "Binary", "Binary"
    if spec.prefix_encoding is not None:
        word = {Encoding.BINARY: "Binary"}.get(spec.prefix_encoding, spec.prefix_encoding.name)
        prefix = f"{word}.{'L' * spec.prefix_size}"
    else:
        prefix += ".Fixed"
    entry: dict[str, Any] = {
        "type": moov_type,
        "length": spec.length,
        "description": spec.name,
        "enc": moov_encoding,
        "prefix": prefix,
    }
    if not spec.prefix_size and spec.kind in (Kind.N, Kind.ANS):
        entry["padding"] = _ZEROS_LEFT if spec.kind is Kind.N else _BLANKS_RIGHT
    if not _reads_back(number, entry, spec):
        entry["content"] = spec.kind.value
    return entry


def _reads_back(number: int, entry: Mapping[str, Any], spec: FieldSpec) -> bool:
    """Whether the entry alone says which field is meant."""
    try:
        return _moov_field(number, entry) == spec
    except ValueError:  # moov would take it for another kind, which cannot be padded like this
        return False


def _sign_and_digits_entry(spec: FieldSpec) -> dict[str, Any]:
    digits = spec.length - 1
    encoding = "BCD" if spec.encoding is Encoding.BCD else "ASCII"
    return {
        "type": "Composite",
        "length": 1 + ((digits + 1) // 2 if encoding == "BCD" else digits),
        "description": spec.name,
        "prefix": "ASCII.Fixed",
        "tag": {"sort": "StringsByInt"},
        "subfields": {
            "1": {
                "type": "String",
                "length": 1,
                "description": "C or D",
                "enc": "ASCII",
                "prefix": "ASCII.Fixed",
            },
            "2": {
                "type": "String",
                "length": digits,
                "description": "Amount",
                "enc": encoding,
                "prefix": f"{encoding}.Fixed",
                "padding": _ZEROS_LEFT,
            },
        },
    }
