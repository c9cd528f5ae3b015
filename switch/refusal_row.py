"""A refused message as the refusal log keeps it, and as a line tells it."""

from __future__ import annotations

import logging

from fastpath.specs import DE
from rules.responses import Response, Rule
from switch.authentication import Received
from switch.journal.rows import Refusal
from switch.logs import RateLimited
from switch.metrics import Metrics

__all__ = ["refusal_row", "tell_refusal"]

_TERMINAL, _STAN = int(DE.TERMINAL), int(DE.STAN)


def refusal_row(received: Received, response: Response, rule: Rule, digest: bytes = b"") -> Refusal:
    """What the refusal log keeps of a message; `digest` of its card number, where there is one."""
    message = received.message
    return Refusal(
        link=received.connection.link.config.name,
        mti=message.mti,
        response=response.value,
        rule=rule.value,
        terminal=_printable(message.get(_TERMINAL)),
        stan=_printable(message.get(_STAN)),
        card_digest=digest,
    )


def tell_refusal(
    limited: RateLimited,
    metrics: Metrics,
    received: Received,
    response: Response,
    rule: Rule,
    **more: object,
) -> None:
    """A line per refused message; what somebody must look at is a warning, and counted."""
    message = received.message
    level, what = logging.INFO, "refused"
    if rule is Rule.OTHER_CARD:
        level, what = logging.WARNING, "reversal-names-another-card"
        metrics.reversals_elsewhere.inc()
    limited.event(
        level,
        what,
        link=received.connection.link.config.name,
        mti=message.mti,
        response=response.value,
        rule=rule.value,
        terminal=message.get(_TERMINAL),
        stan=message.get(_STAN),
        **more,
    )


def _printable(text: str | None) -> str:
    """A field as the refusal log keeps it: bounded, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in (text or "")[:15])
