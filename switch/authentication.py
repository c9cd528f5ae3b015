"""Who sent a message, and whether the MAC says so, too."""

from __future__ import annotations

from collections.abc import Sequence

from fastpath.codec import Message
from fastpath.mac import MacKey, verify_many
from fastpath.specs import DE
from switch.connection import Connection
from switch.programme import AcquirerLink, Programme, TerminalEntry

__all__ = [
    "Received",
    "first_uses",
    "lacks_named_pin_key",
    "may_have_new_mac_key",
    "may_have_new_pin_key",
    "terminal_of",
    "verify",
]

_TERMINAL, _MERCHANT, _SECURITY_CONTROL = (
    int(DE.TERMINAL),
    int(DE.MERCHANT),
    int(DE.SECURITY_CONTROL),
)


class Received:
    """A message on its way through the switch, with what its reply needs."""

    __slots__ = ("arrived", "connection", "mac_key", "message", "private", "terminal", "tpdu")

    def __init__(
        self, connection: Connection, message: Message, tpdu: bytes, arrived: float
    ) -> None:
        self.connection = connection
        self.message = message
        self.tpdu = tpdu
        self.arrived = arrived
        self.terminal: TerminalEntry | None = None
        self.mac_key: MacKey | None = None
        """Set once the message's MAC was right; signs the reply."""
        self.private: dict[str, str] = {}
        """Tags of DE 48 that the reply carries besides those of every answer."""


def terminal_of(message: Message, programme: Programme, link: AcquirerLink) -> TerminalEntry | None:
    """The terminal of DE 41, if this link may send for it and DE 42 is its merchant's."""
    code = message.get(_TERMINAL)
    terminal = programme.terminals.get(code.strip()) if code is not None else None
    if terminal is None or not terminal.enabled or terminal.link != link.name:
        return None
    if not link.enabled:
        return None
    merchant = message.get(_MERCHANT)
    if merchant is not None and merchant.strip() != terminal.merchant_code:
        return None
    return terminal


def verify(messages: Sequence[Received]) -> tuple[list[Received], list[Received]]:
    """Messages of known terminals by whether their MAC is right: all in one call.

    Sets `mac_key` of those that are. What is wrong under the likeliest key is tried under the
    others that the terminal may have used.
    """
    keys = [_candidates(received) for received in messages]
    tried = [(received, own) for received, own in zip(messages, keys, strict=True) if own]
    rights = verify_many(
        [own[0] for _, own in tried],
        [received.message.raw[: received.message.mac_covers] for received, _ in tried],
        [received.message.mac or b"" for received, _ in tried],
    )
    verdicts = iter(rights)
    verified: list[Received] = []
    wrong: list[Received] = []
    for received, own in zip(messages, keys, strict=True):
        message = received.message
        right = next(verdicts) if own else False
        if right:
            received.mac_key = own[0]
        else:
            covered, mac = message.raw[: message.mac_covers], message.mac or b""
            received.mac_key = next((key for key in own[1:] if key.verify(covered, mac)), None)
        (wrong if received.mac_key is None else verified).append(received)
    return verified, wrong


def _candidates(received: Received) -> tuple[MacKey, ...]:
    assert received.terminal is not None
    return received.terminal.keys.mac_candidates(_versions(received)[0])


def _versions(received: Received) -> tuple[int, int]:
    """The versions of MAC and PIN key that DE 53 names; 0 for the one it does not."""
    control = received.message.get(_SECURITY_CONTROL)
    return (int(control[:2]), int(control[2:4])) if control else (0, 0)


def may_have_new_mac_key(received: Received) -> bool:
    """Whether a wrong MAC may be right under a key that this worker does not know yet.

    Not where the message names a version that is taken here: then it is simply wrong.
    """
    named = _versions(received)[0]
    return bool(received.message.mac) and not (named and _candidates(received))


def may_have_new_pin_key(received: Received) -> bool:
    """The same of a PIN block that no known key opens."""
    return not _versions(received)[1] or lacks_named_pin_key(received)


def lacks_named_pin_key(received: Received) -> bool:
    """Whether DE 53 names a PIN key that is not taken here, as far as is known."""
    assert received.terminal is not None
    named = _versions(received)[1]
    return named != 0 and not received.terminal.keys.pin_candidates(named)


def first_uses(received: Received, pin_version: int = 0) -> list[tuple[int, str, int]]:
    """(terminal, usage, version) of keys that a key change handed out and this message uses.

    They are the current ones from their first use in a message with a right MAC. `pin_version` is
    that of the key which opened the PIN block; a version that DE 53 names is used as well.
    """
    terminal = received.terminal
    assert terminal is not None
    keys = terminal.keys
    if not keys.pending and not keys.pending_pin:
        return []
    number, found = terminal.rules.terminal_id, []
    if keys.pending and received.mac_key is keys.mac_candidates(keys.pending)[0]:
        found.append((number, "mac", keys.pending))
    if keys.pending_pin and keys.pending_pin in (pin_version, _versions(received)[1]):
        found.append((number, "pin", keys.pending_pin))
    return found
