"""DE 48, the dialect's private TLV: tag (2 letters), length (3 digits), value (printable ASCII)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastpath.errors import FormatError
from fastpath.specs import DE

__all__ = ["build_private", "parse_private"]

_FIELD = int(DE.PRIVATE)
_HEAD = re.compile(r"([A-Z]{2})([0-9]{3})")
_VALUE = re.compile(r"[ -~]*")
_VALUE_LENGTH_MAX = 999


def parse_private(text: str) -> dict[str, str]:
    """Tags and values in any order. FormatError (DE 48) for a tag twice or anything malformed."""
    values: dict[str, str] = {}
    at, end = 0, len(text)
    while at < end:
        head = _HEAD.match(text, at)
        if head is None:
            raise FormatError("malformed tag or length", field=_FIELD, offset=at)
        tag, start = head[1], head.end()
        stop = start + int(head[2])
        value = text[start:stop]
        if stop > end or _VALUE.fullmatch(value) is None:
            raise FormatError("value too short or not printable", field=_FIELD, offset=start)
        if tag in values:
            raise FormatError("a tag twice", field=_FIELD, offset=at)
        values[tag] = value
        at = stop
    return values


def build_private(values: Mapping[str, str]) -> str:
    """The text of DE 48. ValueError for a value over 999 characters."""
    text = ""
    for tag, value in values.items():
        if len(value) > _VALUE_LENGTH_MAX:
            raise ValueError("a value of DE 48 has at most 999 characters")
        text += f"{tag}{len(value):03d}{value}"
    return text
