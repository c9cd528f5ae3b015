"""What the parts of the judge have in common."""

from __future__ import annotations

__all__ = ["Broken", "demand"]


class Broken(AssertionError):
    """Something that must hold does not."""


def demand(holds: object, words: str, *facts: object) -> None:
    """Broken, with these facts, unless it holds."""
    if not holds:
        raise Broken(f"{words}: {', '.join(map(repr, facts))}")
