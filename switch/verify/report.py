"""What a verification looked at and what it found."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TextIO

__all__ = ["Finding", "Progress", "Report"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A place where a check does not hold. Card and version 0: it is not one link's."""

    check: str
    card_id: int
    version: int
    what: str


@dataclasses.dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    links: int = 0
    postings: int = 0
    cards: int = 0
    sealed_links: int = 0
    replayed_links: int = 0
    replayed_cards: int = 0
    checks: list[str] = dataclasses.field(default_factory=list)
    """All that was checked, in order."""
    skipped: list[str] = dataclasses.field(default_factory=list)
    """What could not be checked, with the reason."""
    findings: list[Finding] = dataclasses.field(default_factory=list)


class Progress:
    """One line on a terminal that says how far it is; silent elsewhere."""

    _PERIOD_S = 0.2

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._next = 0.0

    def tell(self, what: str, done: int = 0, total: int = 0) -> None:
        """Show a stage, with its count where it has one."""
        now = time.monotonic()
        if not self._shown or (done and now < self._next):
            return
        self._next = now + self._PERIOD_S
        count = f" {done:,} of {total:,}" if total else f" {done:,}" if done else ""
        print(f"\r\x1b[K{what}{count}", end="", file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
