"""A journal in memory: the real `JournalSession` over a stand-in for the Postgres it talks to.

The session's own code runs as it is: its retries, its doubts, its barrier. What is replaced is the
connection: each statement the session knows is answered by `MemoryDatabase`, which does what the
statement does in SQL. Between the two stand the faults.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import trio

from switch.journal import journal
from switch.journal.journal import JournalDown, JournalSession
from switch.journal.server import ConnectionLost, ServerError

from .clock import pause

__all__ = [
    "AppendFault",
    "Killed",
    "MemoryDatabase",
    "MemoryJournal",
    "NoTrouble",
    "ReadFault",
]


def _names(text: str) -> list[str]:
    return text.split()


CARD_COLUMNS = _names(
    "card_id version_from batch_from version status ecash_available ecash_held voucher_available "
    "voucher_held points_available points_held state request_window"
)
LINK_COLUMNS = _names(
    "card_id version prev_batch_id request_key operation response tx purse amount_minor "
    "available_after held_after undoes terminal_id merchant_id batch_number counts counted_minor "
    "body"
)
POSTING_NUMBERS = _names("debit_kind debit_id credit_kind credit_id amount_minor currency")
REFUSAL_COLUMNS = _names("link mti response rule terminal stan card_digest")
_AMOUNTS = [name for name in CARD_COLUMNS if name.endswith(("_available", "_held"))]


class Killed(BaseException):
    """The worker is dead: nothing that it does from here on reaches anybody."""


class AppendFault(enum.Enum):
    """What can befall an append."""

    SLOW = "slow"
    DOWN = "down before the call"
    LOST_APPLIED = "connection lost, applied"
    LOST_NOT_APPLIED = "connection lost, not applied"
    ZOMBIE = "connection lost, applied late"
    SHUTDOWN = "server shut down, applied"
    DEADLOCK = "deadlock"
    FULL = "too many connections"
    WARNED = "applied with a warning"


class ReadFault(enum.Enum):
    """What can befall a read."""

    SLOW = "slow"
    LOST = "connection lost"
    SILENT = "timed out"


class NoTrouble:
    """Nothing goes wrong and nothing takes time."""

    def latency_s(self) -> float:
        """How long a call is under way in one direction."""
        return 0

    async def there(self, slow_s: float = 0) -> None:
        """A call on its way to the store."""
        await pause(self.latency_s() + slow_s)

    async def back(self) -> None:
        """Its reply on its way back."""
        await pause(self.latency_s())

    def append_fault(self) -> tuple[AppendFault | None, float]:
        """What befalls the next append, and a time in seconds that goes with it."""
        return None, 0

    def read_fault(self) -> tuple[ReadFault | None, float]:
        """What befalls the next read, and a time in seconds that goes with it."""
        return None, 0

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Do something when this time has passed, whoever is dead by then."""


def server_error(sqlstate: str, severity: str = "ERROR") -> Exception:
    """An error as the server reports it."""
    return ServerError(severity, sqlstate, "in memory")


class MemoryDatabase:
    """The tables, and what the switch's statements do to them, each in one instant."""

    def __init__(self, trouble: NoTrouble | None = None) -> None:
        self.trouble = trouble or NoTrouble()
        self.facts: dict[int, dict[str, Any]] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.links: list[dict[str, Any]] = []
        """In order of commit."""
        self.postings: list[dict[str, Any]] = []
        self.refusals: list[dict[str, Any]] = []
        self.barriers: dict[int, int] = defaultdict(int)
        self.down_until = -1.0
        self._batches: set[tuple[datetime.date, int]] = set()
        self._refused: set[tuple[datetime.date, int, int]] = set()
        self._by_key: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
        self._by_card: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def issue(self, card_id: int, digest: bytes, state: bytes, **columns: Any) -> None:
        """A card and its row; `columns` are those of both tables."""
        facts = {"programme_id": 1, "currency": "978", "expiry": "9912", "pvv": b""}
        facts |= {
            "code_digest": b"",
            "face_value_minor": 0,
            "limit_class": 0,
            "card_id": card_id,
            "digest": digest,
        }
        self.facts[card_id] = facts | {k: v for k, v in columns.items() if k in facts}
        row = {"version": 0, "batch_id": 0, "status": 3, "request_window": b"", "state": state}
        row |= dict.fromkeys(_AMOUNTS, 0) | {"card_id": card_id}
        self.rows[card_id] = row | {k: v for k, v in columns.items() if k in row}

    @property
    def down(self) -> bool:
        """Whether nobody can connect now."""
        return trio.current_time() < self.down_until

    def answer(self, query: str, args: Sequence[Any]) -> Any:
        """A statement's rows or value."""
        if query == journal._APPEND:
            return self.append_batch(args)
        if query == journal._CONFIRM:
            return None  # no standby is waited for here
        if query == journal._BARRIER:
            self.barriers[args[0]] += 1
            return 1
        if query == journal._READ_CARDS:
            return self._read_cards(args[0])
        if query == journal._READ_HISTORY:
            return self._read_history(*args)
        if query == journal._READ_ARCHIVED:
            return []  # nothing leaves this journal
        if query == "select 1":
            return [{"?column?": 1}]
        raise server_error("42601")

    def append_batch(self, args: Sequence[Any]) -> int:
        """The function of the same name; the migrations have it in SQL."""
        month, batch_id, posted_at = args[:3]
        cards = _rows(CARD_COLUMNS, args[3:16])
        links = _rows(LINK_COLUMNS, args[16:34])
        numbers, first = args[34:36]
        refusals = _rows(REFUSAL_COLUMNS, args[36:43])
        if cards:
            expected = [self.is_as_expected(card) for card in cards]
            if not any(expected):
                return 1 if self.knows_batch(month, batch_id) else 2
            if not all(expected):
                raise server_error("CS002")
            if any(card[name] < 0 for card in cards for name in _AMOUNTS) or any(
                link["available_after"] < 0 or link["held_after"] < 0 for link in links
            ):
                raise server_error("23514")
            if self.knows_batch(month, batch_id):
                raise server_error("23505")
            for card in cards:
                card["batch_id"] = batch_id
                self.rows[card["card_id"]] |= {
                    name: card[name] for name in self.rows[card["card_id"]]
                }
            self._batches.add((month, batch_id))
            common = {"month": month, "batch_id": batch_id, "posted_at": posted_at}
            for n, row in enumerate(links, 1):
                link = row | common | {"n": n}
                self.links.append(link)
                self._by_key[link["request_key"]].append(link)
                self._by_card[link["card_id"]].append(link)
                own = numbers[first[n - 1] - 1 : first[n] - 1]
                for leg in range(len(own) // len(POSTING_NUMBERS)):
                    values = own[leg * len(POSTING_NUMBERS) :]
                    posting = dict(zip(POSTING_NUMBERS, values, strict=False))
                    posting["currency"] = f"{posting['currency']:03}"
                    named = {name: link[name] for name in ("n", "card_id", "purse")}
                    self.postings.append(posting | named | common | {"leg": leg})
        for n, refusal in enumerate(refusals, 1):
            if (month, batch_id, n) not in self._refused:
                self._refused.add((month, batch_id, n))
                self.refusals.append(refusal | {"batch_id": batch_id, "n": n})
        return 0

    def is_as_expected(self, card: dict[str, Any]) -> bool:
        """Whether a card's row is the one that the batch was decided on."""
        row = self.rows.get(card["card_id"])
        return row is not None and (row["version"], row["batch_id"]) == (
            card["version_from"],
            card["batch_from"],
        )

    def knows_batch(self, month: datetime.date, batch_id: int) -> bool:
        """Whether this batch has put its links into the journal."""
        return (month, batch_id) in self._batches

    def links_of(self, card_id: int) -> list[dict[str, Any]]:
        """A card's chain so far."""
        return self._by_card[card_id]

    def _read_cards(self, card_ids: Sequence[int]) -> list[dict[str, Any]]:
        return [
            self.facts[card_id] | self.rows[card_id] for card_id in card_ids if card_id in self.rows
        ]

    def _read_history(
        self,
        keys: Sequence[bytes],
        card_ids: Sequence[int],
        transaction_ids: Sequence[str],
        oldest_month: datetime.date,
        approval_codes: Sequence[str],
    ) -> list[dict[str, Any]]:
        found = [link for key in keys for link in self._by_key[key]]
        own = [link for link in found if link["card_id"] in card_ids]
        for undoer in [link for link in own if link["month"] >= oldest_month]:
            found += [
                link
                for link in self._by_card[undoer["card_id"]]
                if link["version"] == undoer["undoes"]
            ]
        for card_id in card_ids:
            chain = self._by_card[card_id]
            found += [link for link in chain if link["undoes"] > 0]
            found += [
                link
                for link in chain
                if link["tx"] in transaction_ids or link["tx"][-6:] in approval_codes
            ]
        return [link | {"batch_closed": False} for link in found if link["month"] >= oldest_month]


def _rows(names: list[str], columns: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _append_unheard(database: MemoryDatabase, args: tuple[Any, ...]) -> None:
    """What a server does for a connection that is gone: nobody hears of its error either."""
    with contextlib.suppress(ServerError):
        database.append_batch(args)


class MemoryConnection:
    """A connection as the session uses it; any fault closes it, as one does."""

    def __init__(self, database: MemoryDatabase, alive: Callable[[], bool]) -> None:
        self._database = database
        self._alive = alive
        self.closed = False
        self.warned = False

    def discard(self) -> None:
        """Close at once."""
        self.closed = True

    async def close(self) -> None:
        """Close in good order."""
        self.closed = True

    async def value(self, query: str, *args: Any, timeout_s: float | None = None) -> Any:
        """One value; appends meet their faults here."""
        if query != journal._APPEND:
            return await self._call(query, args)
        database, trouble = self._database, self._database.trouble
        fault, time_s = trouble.append_fault()
        if fault is AppendFault.DOWN:
            database.down_until = trio.current_time() + time_s
        if fault in (AppendFault.LOST_NOT_APPLIED, AppendFault.ZOMBIE):
            await trouble.there()
            if fault is AppendFault.ZOMBIE:
                trouble.later(time_s, lambda: _append_unheard(database, args))
            raise self._lost()
        if fault is AppendFault.DEADLOCK:
            raise server_error("40P01")
        if fault is AppendFault.FULL:
            raise server_error("53300", "FATAL")
        outcome = await self._call(query, args, time_s if fault is AppendFault.SLOW else 0)
        if fault is AppendFault.LOST_APPLIED:
            raise self._lost()
        if fault is AppendFault.SHUTDOWN:
            self.closed = True
            raise server_error("57P01", "FATAL")
        self.warned = self.warned or fault is AppendFault.WARNED
        return outcome

    async def rows(
        self, query: str, *args: Any, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        """A read's rows; reads meet their faults here."""
        fault, time_s = self._database.trouble.read_fault()
        if fault is ReadFault.LOST:
            raise self._lost()
        if fault is ReadFault.SILENT:
            await pause(timeout_s or 0)
            self.closed = True
            raise ConnectionLost("TimeoutError")
        return list(await self._call(query, args, time_s if fault is ReadFault.SLOW else 0))

    async def _call(self, query: str, args: Sequence[Any], slow_s: float = 0) -> Any:
        """There, done in one instant, and back. What has been sent is done, whoever has died."""
        if not self._alive():
            raise Killed
        await self._database.trouble.there(slow_s)
        if self.closed or self._database.down:
            raise self._lost()
        result = self._database.answer(query, args)
        await self._database.trouble.back()
        if not self._alive():
            raise Killed
        return result

    def _lost(self) -> Exception:
        self.closed = True
        if not self._alive():
            raise Killed
        return ConnectionLost("closed")


class MemoryJournal(JournalSession):
    """The real session; only where it connects to is another place."""

    def __init__(
        self,
        database: MemoryDatabase,
        run: int,
        *,
        read_timeout_s: float = 2.0,
        on_down: Callable[[str], None] = lambda _kind: None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__("memory", run, read_timeout_s=read_timeout_s, on_down=on_down)
        self._database = database
        self._alive = alive

    async def connect(self) -> Any:
        """The live connection; JournalDown when there is none to be had."""
        connection: Any = self._connection
        if connection is not None and not connection.closed:
            return connection
        if not self._alive():
            raise Killed
        await self._database.trouble.back()
        if self._database.down:
            self._on_down("ConnectionRefusedError")
            raise JournalDown("ConnectionRefusedError")
        self._connection = MemoryConnection(self._database, self._alive)  # type: ignore[assignment]
        return self._connection
