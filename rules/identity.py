"""Who and what a message names: masked card numbers, transaction keys, transaction ids.

A *request key* is 16 bytes: the message's own instant (UTC seconds, big-endian, 4 bytes), then 96
bits of a digest over everything else that identifies it. The instant in front has two uses: keys
of one hour lie together in the journal's index, and a card can tell from a key alone whether it
may already have forgotten it (see `rules.window`).
"""

from __future__ import annotations

import functools
import hashlib

__all__ = [
    "KEY_LENGTH",
    "Pan",
    "content_fingerprint",
    "counted_transaction_id",
    "counterpart_key",
    "derived_transaction_id",
    "format_transaction_id",
    "key_instant",
    "request_key",
    "suspense_card_id",
]

KEY_LENGTH = 16
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)


class Pan(str):
    """A primary account number. Its repr is masked; `str()` of it is the number, on purpose."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Pan({self.masked()!r})"

    def __format__(self, spec: str) -> str:
        return format(self.masked(), spec)

    def masked(self) -> str:
        """First six and last four digits (PCI DSS 3.4.1), nothing of a number under 12 digits."""
        if len(self) < 12:
            return "…"
        return f"{self[:6]}…{self[-4:]}"


def suspense_card_id(merchant_id: int) -> int:
    """The chain that keeps a merchant's advices for numbers that no card has."""
    return -(1 << 60) - merchant_id


def request_key(instant_s: int, parts: str) -> bytes:
    """The key under which a transaction is known.

    `instant_s` is the message's DE 13 + DE 12 in UTC seconds (0 where it is keyed by its batch
    number), `parts` all other parts, separated so that no two lists give one text. The card is not
    part of it: keys are always looked up together with a card.
    """
    digest = hashlib.blake2b(parts.encode(), digest_size=KEY_LENGTH - 4).digest()
    return instant_s.to_bytes(4, "big") + digest


def counterpart_key(key: bytes, card_id: int) -> bytes:
    """The key of what a request under `key` on this card does to another card.

    No message can have it: it follows from a key and a card. The instant is the request's own.
    """
    material = key + card_id.to_bytes(8, "big", signed=True)
    return key[:4] + hashlib.blake2b(material, digest_size=KEY_LENGTH - 4).digest()


def key_instant(key: bytes) -> int:
    """The UTC second in a request key; 0 for one that carries none."""
    return int.from_bytes(key[:4], "big")


def content_fingerprint(parts: str) -> bytes:
    """8 bytes over what a repeat must have in common with its original (DE 3, 4, 49, 95, 103)."""
    return hashlib.blake2b(parts.encode(), digest_size=8).digest()


def derived_transaction_id(material: bytes) -> str:
    """A `TX` that follows from what it stands for, for answers that must not tell more.

    Its highest bit marks the kind; ids that a worker counts do not reach it.
    """
    digest = hashlib.blake2b(material, digest_size=8).digest()
    return format_transaction_id(int.from_bytes(digest, "big") >> 5 | 1 << 59)


def counted_transaction_id(run: int, count: int) -> str:
    """The `TX` of a worker's count-th transaction (36 bits) in its run (23 bits).

    Its last six characters are the approval code (DE 38), by which a completion may name its hold:
    they differ between runs that have counted equally far. The run keeps its place in front.
    """
    spread = run * 0x9E3779B1 & 0x3FFFFFFF
    return format_transaction_id(run << 36 | count ^ spread)


def format_transaction_id(number: int) -> str:
    """`TX`: 60 bits as 12 characters of Crockford's base 32 (no I, L, O, U)."""
    return _leading(number >> 20) + _PAIRS[number >> 10 & 1023] + _PAIRS[number & 1023]


@functools.lru_cache(maxsize=64)
def _leading(number: int) -> str:
    """The first eight characters: the same for a million that a worker counts."""
    places = (30, 20, 10, 0)
    return "".join(_PAIRS[number >> place & 1023] for place in places)
