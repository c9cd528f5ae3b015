"""A refused message as the refusal log keeps it."""

from __future__ import annotations

from fastpath.specs import DE
from rules.responses import Response, Rule
from switch.authentication import Received
from switch.journal.rows import Refusal

__all__ = ["refusal_row"]

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


def _printable(text: str | None) -> str:
    """A field as the refusal log keeps it: bounded, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in (text or "")[:15])
