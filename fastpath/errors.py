"""What the fast path says when bytes are wrong. No error text carries card data."""

from __future__ import annotations

__all__ = ["FormatError"]


class FormatError(ValueError):
    """A frame, or a value meant for one, breaks its format.

    `reason` is one of a fixed set of sentences and never quotes the data. `field` is the data
    element (0 = message type, 1 = bitmap, None = no single field), `offset` the byte of the frame,
    counted from the message type, where that field begins.

    >>> FormatError("not digits", field=4, offset=22)
    FormatError('field 4: not digits (offset 22)')
    """

    def __init__(self, reason: str, *, field: int | None = None, offset: int = 0) -> None:
        place = "" if field is None else f"field {field}: "
        super().__init__(f"{place}{reason} (offset {offset})")
        self.reason = reason
        self.field = field
        self.offset = offset

    def __reduce__(self) -> tuple[object, ...]:
        # the default would call __init__ with the finished text
        return _rebuild, (self.reason, self.field, self.offset)


def _rebuild(reason: str, field: int | None, offset: int) -> FormatError:
    return FormatError(reason, field=field, offset=offset)
