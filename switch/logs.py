"""Logs: one JSON object a line on stderr, with nothing in them that must not be there.

What is logged is an event with named fields. Masked types stay masked, bytes only show their
length, and any long run of digits in a text is taken for a card number, unless its field is known
to hold something else. Storms of one event are cut to a few lines a second and a count.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TextIO

from rules.identity import Pan

__all__ = [
    "UNMASKED_FIELDS",
    "JsonFormatter",
    "RateLimited",
    "configure",
    "event",
    "mask_digits",
    "mask_pan",
]

UNMASKED_FIELDS = frozenset(
    {
        "acquirer",
        "batch_id",
        "card_id",
        "id",
        "link",
        "merchant",
        "request_id",
        "rrn",
        "stan",
        "terminal",
        "tx",
    }
)
"""Fields whose digits are identifiers of ours or of the message, never a card number."""

_TEXT_LENGTH_MAX = 2_000
_ITEMS_MAX = 50
_DEPTH_MAX = 4
_EVENT_NAMES_MAX = 1_000

# ISO/IEC 7812: 12 to 19 digits; a longer run may hold one. People write them with blanks or dashes.
_CARD_NUMBER = re.compile(r"[0-9](?:[ -]?[0-9]){11,}")


def mask_pan(pan: str) -> str:
    """First six and last four digits; nothing of a number under 12 digits (PCI DSS 3.4.1)."""
    return Pan(pan).masked()


def mask_digits(text: str) -> str:
    """The text with every run of 12 or more digits shortened to its first six and last four."""

    def masked(match: re.Match[str]) -> str:
        return mask_pan(match[0].replace(" ", "").replace("-", ""))

    return _CARD_NUMBER.sub(masked, text)


def event(
    logger: logging.Logger,
    level: int,
    name: str,
    /,
    **fields: object,
) -> None:
    """Log an event by its name, a fixed word or two, with what belongs to it as fields.

    `level` is one of the standard library's. A field `exception` that holds an exception adds its
    type and its trace, masked like any text.
    """
    if not logger.isEnabledFor(level):
        return
    error = fields.get("exception")
    exc_info = error if isinstance(error, BaseException) else None
    if exc_info is not None:
        del fields["exception"]
    logger.log(level, name, exc_info=exc_info, extra={"event_fields": fields})


def configure(
    level: int = logging.INFO,
    *,
    stream: TextIO | None = None,
    fixed: Mapping[str, object] | None = None,
) -> None:
    """Send all logging of this process to `stream` (stderr) as JSON lines.

    `fixed` are fields of every line: the worker's number, for one. Called again, it replaces what
    it set before.
    """
    handler = _SilentHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter(fixed))
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _SilentHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)


class _SilentHandler(logging.StreamHandler[TextIO]):
    """A handler whose own failure neither stops the program nor prints the record in the clear."""

    failed = 0

    def handleError(self, record: logging.LogRecord) -> None:
        self.failed += 1


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, event, then the fields."""

    def __init__(self, fixed: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._fixed = dict(_safe_items(fixed or {}, 0))

    def format(self, record: logging.LogRecord) -> str:
        instant = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": instant.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "event_fields", None)
        if fields is None:  # a library's own line
            line["event"] = "log"
            line["text"] = _safe_text(_message(record))
            fields = {}
        else:
            line["event"] = _safe_text(str(record.msg))
        line |= self._fixed
        for key, value in _safe_items(fields, 0):
            line[f"{key}_" if key in line else key] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = type(record.exc_info[1]).__name__
            line["trace"] = _safe_text(self.formatException(record.exc_info), keep_end=True)
        return json.dumps(line, ensure_ascii=True, allow_nan=False)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # a wrong format string must not cost the line
        return f"{record.msg!s} (not formatted: {type(error).__name__})"


def _safe_text(text: str, *, keep_end: bool = False) -> str:
    masked = mask_digits(text)
    if len(masked) <= _TEXT_LENGTH_MAX:
        return masked
    return "…" + masked[-_TEXT_LENGTH_MAX:] if keep_end else masked[:_TEXT_LENGTH_MAX] + "…"


def _safe_items(fields: Mapping[str, object], depth: int) -> Iterator[tuple[str, object]]:
    for key in list(fields)[:_ITEMS_MAX]:
        value = fields[key]
        name = mask_digits(str(key))
        if key in UNMASKED_FIELDS and type(value) is str:
            yield name, value[:_TEXT_LENGTH_MAX]
        else:
            yield name, _safe(value, depth)


def _safe(value: object, depth: int) -> object:
    """The value as JSON may show it. Unknown types are shown by their (masked) repr."""
    if value is None or (isinstance(value, bool | int) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, enum.Enum):
        return _safe(value.value, depth)
    if type(value) is str:
        return _safe_text(value)
    if isinstance(value, BaseException):
        return _safe_text(f"{type(value).__name__}: {value}")
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        return dict(_safe_items({str(key): item for key, item in value.items()}, depth + 1))
    if depth < _DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [_safe(item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    return _safe_text(_repr(value))


def _repr(value: object) -> str:
    """What a value of another type says of itself: `masked()` where it has one, else its repr."""
    try:
        masked = getattr(value, "masked", None)
        return str(masked()) if callable(masked) else repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, repr failed: {type(error).__name__}>"


class RateLimited:
    """Logs at most `lines_per_second_max` lines a second of each event name, and counts the rest.

    The next line of the name that gets through carries `suppressed`, the number of lines that did
    not; `flush` tells of those that no line followed. Meant for one thread.
    """

    def __init__(
        self,
        logger: logging.Logger,
        lines_per_second_max: int = 5,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if lines_per_second_max < 1:
            raise ValueError("at least one line a second is needed")
        self._logger = logger
        self._lines_max = lines_per_second_max
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def event(self, level: int, name: str, /, **fields: object) -> bool:
        """Log the event unless its name had its share of this second. Whether it was logged."""
        if not self._logger.isEnabledFor(level):
            return False
        window = self._window(name)
        if window.lines >= self._lines_max:
            window.suppressed += 1
            window.level = max(window.level, level)
            return False
        window.lines += 1
        if window.suppressed:
            fields["suppressed"] = window.suppressed
            window.suppressed = 0
        event(self._logger, level, name, **fields)
        return True

    def flush(self) -> None:
        """Log how many lines of each name are still unaccounted for. Call it once a second."""
        for name, window in self._windows.items():
            if window.suppressed:
                event(self._logger, window.level, name, suppressed=window.suppressed)
                window.suppressed = 0

    def _window(self, name: str) -> _Window:
        window = self._windows.get(name)
        if window is None:
            # names are words of the program; should one be made of a message, memory stays bounded
            if len(self._windows) >= _EVENT_NAMES_MAX:
                name = "other"
            window = self._windows.setdefault(name, _Window())
        second = int(self._clock())
        if second != window.second:
            window.second, window.lines = second, 0
        return window


class _Window:
    """What one event name did in the current second."""

    __slots__ = ("level", "lines", "second", "suppressed")

    def __init__(self) -> None:
        self.second = -1
        self.lines = 0
        self.suppressed = 0
        self.level = 0
