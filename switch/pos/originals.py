"""Which earlier message of the terminal an order refers to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from fastpath.specs import DE
from switch.pos.demo import UsageError
from switch.pos.messages import is_hold, is_original
from switch.pos.state import Sent, TerminalState
from switch.pos.verbs import Verb

__all__ = ["FINDERS", "find_original"]

FINDERS: Final[dict[Verb, Callable[[Sent], bool]]] = {
    Verb.REVERSE: is_original,
    Verb.OUTCOME: is_original,
    Verb.COMPLETE: is_hold,
    Verb.REPEAT: lambda sent: True,
}
"""Verbs that refer to an earlier message of the terminal, and which ones they may mean."""


def find_original(verb: Verb, args: argparse.Namespace, state: TerminalState) -> Sent | None:
    """The earlier message that is meant: by its STAN or TX, else the last one (on that card)."""
    may_be_meant = FINDERS.get(verb)
    if may_be_meant is None:
        return None
    if verb is Verb.OUTCOME and args.stan is None and not args.bar:
        return None  # the switch knows what this terminal did last

    def wanted(sent: Sent) -> bool:
        if args.card is not None and sent.fields.get(DE.PAN) != args.card:
            return False
        if args.original_tx is not None and sent.tx != args.original_tx:
            return False
        return may_be_meant(sent)

    original = state.find(args.stan, wanted)
    if original is None and args.stan is not None:
        raise UsageError(f"this terminal remembers no such message with STAN {args.stan:06d}")
    return original
