"""The same journal and reservation twice: in memory, and in a private Postgres and Valkey."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from rules.authorize import decide
from rules.booking import Moment, Policy
from rules.cards import CardState, CardStatus, WorkingCard
from rules.identity import content_fingerprint, format_transaction_id, request_key
from rules.requests import CardRequest, Operation, Terminal
from switch.embedded.stores import EmbeddedStores
from switch.journal.bridge import Connection
from switch.journal.journal import JournalSession
from switch.journal.rows import CardRow, Refusal, batch_arguments
from switch.reservation.connection import load_library
from switch.reservation.store import ReservationStore, Sealer

from .memory_journal import MemoryDatabase, MemoryJournal
from .memory_reservation import CacheFault, MemoryCache, MemoryReservation, NoCacheTrouble

__all__ = ["NOW", "Backend", "Memory", "Real", "batch", "changed", "request"]

SEALER = Sealer(b"one key for both")
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
_numbers = itertools.count(1)
_COLUMNS = {
    "c_version_from": 4,
    "c_batch_from": 5,
    "c_ecash_available": 8,
    "l_after": 25,
    "l_held": 26,
}
"""Where some of the parameters of `append_batch` stand."""


def _state() -> bytes:
    state = CardState.new()
    state.status = CardStatus.ACTIVE
    return msgspec.msgpack.encode(state)


class Backend(Protocol):
    """What a test needs of either."""

    async def issue(self, card_id: int) -> None:
        """An active card without a history; its digest is its id."""

    def journal(self) -> JournalSession:
        """A session of its own."""

    def reservation(self, holder: bytes, possession_ms: int = 1000) -> ReservationStore:
        """A lane's store."""

    def reservation_without_server(self) -> ReservationStore:
        """A store that nobody answers."""


class Memory:
    """Everything in this process."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.cache = MemoryCache()

    async def issue(self, card_id: int) -> None:
        """An active card without a history; its digest is its id."""
        self.database.issue(card_id, card_id.to_bytes(12, "big"), _state())

    def journal(self) -> JournalSession:
        """A session of its own."""
        return MemoryJournal(self.database, 5)

    def reservation(self, holder: bytes, possession_ms: int = 1000) -> ReservationStore:
        """A lane's store."""
        return MemoryReservation(self.cache, holder, SEALER, possession_ms=possession_ms)

    def reservation_without_server(self) -> ReservationStore:
        """A store that nobody answers."""
        return MemoryReservation(MemoryCache(Nowhere()), b"none", SEALER)


class Nowhere(NoCacheTrouble):
    """No call arrives."""

    def cache_fault(self) -> tuple[CacheFault | None, float]:
        """Always the same."""
        return CacheFault.DOWN, 0


class Real:
    """Private servers; call it inside the bridge."""

    def __init__(self, servers: EmbeddedStores, owner: Connection) -> None:
        self._servers = servers
        self._owner = owner
        load_library(servers.redis_url)
        self._prefix = f"agree{next(_numbers)}"

    async def issue(self, card_id: int) -> None:
        """An active card without a history; its digest is its id."""
        digest = card_id.to_bytes(12, "big")
        await self._owner.rows("insert into card values ($1, $2, 1, '9912')", card_id, digest)
        await self._owner.rows(
            "insert into card_state values ($1, 0, 0, 3, 0, 0, 0, 0, 0, 0, $2, '')",
            card_id,
            _state(),
        )

    def journal(self) -> JournalSession:
        """A session of its own."""
        return JournalSession(self._servers.postgres_url, 5)

    def reservation(self, holder: bytes, possession_ms: int = 1000) -> ReservationStore:
        """A lane's store."""
        return ReservationStore(
            self._servers.redis_url, self._prefix, holder, SEALER, possession_ms=possession_ms
        )

    def reservation_without_server(self) -> ReservationStore:
        """A store that nobody answers."""
        return ReservationStore("unix:///nowhere", self._prefix, b"none", SEALER)


def request(operation: Operation, amount_minor: int, number: int, **more: Any) -> CardRequest:
    """The request of this number: the same number, the same request."""
    settings: dict[str, Any] = {
        "operation": operation,
        "key": request_key(int(NOW.timestamp()), f"agree {number}"),
        "fingerprint": content_fingerprint(f"{operation}|{amount_minor}"),
        "transaction_id": format_transaction_id((5 << 36) + number),
        "rrn": "",
        "terminal": Terminal(1, 1, network=False),
        "amount_minor": amount_minor,
    }
    return CardRequest(**(settings | more))


def batch(
    rows: Mapping[int, CardRow],
    work: Mapping[int, Sequence[CardRequest]],
    batch_id: int,
    refusals: Sequence[Refusal] = (),
) -> tuple[Any, ...]:
    """The arguments of a batch that decides these requests on these rows."""
    moment = Moment(int(NOW.timestamp()), NOW.strftime("%y%m"), batch_id)
    cards = []
    for card_id, row in rows.items():
        card = WorkingCard(card_id, row.facts, row.state, row.window)
        for one in work[card_id]:
            decide(one, card, moment, Policy())
        cards.append(card)
    return batch_arguments(batch_id, NOW, cards, refusals)


def changed(arguments: tuple[Any, ...], name: str, at: int, value: object) -> tuple[Any, ...]:
    """The same batch with one value another."""
    place = _COLUMNS[name]
    values = list(arguments[place])
    values[at] = value
    return (*arguments[:place], values, *arguments[place + 1 :])
