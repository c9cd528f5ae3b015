"""What a verification looked at and what it found."""

from __future__ import annotations

import dataclasses

__all__ = ["Finding", "Report"]


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
    archived_links: int = 0
    """Read from the archive's files."""
    replayed_links: int = 0
    replayed_cards: int = 0
    checks: list[str] = dataclasses.field(default_factory=list)
    """All that was checked, in order."""
    skipped: list[str] = dataclasses.field(default_factory=list)
    """What could not be checked, with the reason."""
    findings: list[Finding] = dataclasses.field(default_factory=list)
