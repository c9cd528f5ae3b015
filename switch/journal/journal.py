"""The journal as the pipeline sees it: read cards and links, append a batch, learn its fate."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from rules.cards import CardFacts
from rules.ledger import Link
from rules.money import Counts
from switch.journal.connection import JournalConnection
from switch.journal.rows import CardRow, link_from_row
from switch.journal.server import (
    STORE_ERRORS,
    ServerError,
    is_outcome_unknown,
    is_retryable,
    is_server_unfit,
)
from switch.journal.witness import Witness, missing_batch

__all__ = ["BatchRejected", "HistoryQuery", "JournalDown", "JournalSession", "Outcome"]

_APPEND = "select append_batch(" + ", ".join(f"${n}" for n in range(1, 44)) + ")"

_STALE = "CS002"
"""How `append_batch` ends where only some of the cards are as the batch expects: it never goes in,
however often it was sent, since none of the others comes back to what it was."""

_READ_CARDS = """
select c.card_id, c.programme_id, p.currency, c.expiry, c.pvv, c.code_digest, c.face_value_minor,
       c.limit_class, s.state, s.request_window
from card c
join card_state s on s.card_id = c.card_id
join programme p on p.programme_id = c.programme_id
where c.card_id = any($1::bigint[])
"""

# With each link whether the batch that it stands in was closed (the view `counted_link` says how).
_LINK_COLUMNS = """
    l.card_id, l.version, l.request_key, l.operation, l.terminal_id, l.merchant_id, l.purse,
    l.amount_minor, l.available_after, l.held_after, l.undoes, l.counts, l.counted_minor, l.body,
    l.counts > 0 and exists (
        select 1 from terminal_batch b
        where b.terminal_id = l.terminal_id and (b.currency = '999') = (l.purse = 90)
          and pg_visible_in_snapshot(l.xid, b.snapshot)
          and (l.batch_number = '' or exists (
              select 1 from terminal_batch e
              where e.terminal_id = b.terminal_id and e.currency = b.currency
                and e.place <= b.place and e.batch_number = l.batch_number))) as batch_closed
"""

# Links by key (of any card: a key under another card is reported too), by transaction id, all that
# undid something on these cards, and what a link with one of these keys undid. Whole chains are
# only read for transaction ids and approval codes: most of what is asked for is a key.
_READ_HISTORY = f"""
select {_LINK_COLUMNS} from link l
where l.request_key = any($1::bytea[]) and l.month >= $4
union all
select {_LINK_COLUMNS} from link l
where l.card_id = any($2::bigint[]) and l.undoes > 0 and l.month >= $4
union all
select {_LINK_COLUMNS} from link l
where cardinality($3::text[]) + cardinality($5::text[]) > 0
  and l.card_id = any($2::bigint[]) and l.month >= $4
  and (l.tx = any($3::text[]) or right(l.tx, 6) = any($5::text[]))
union all
select {_LINK_COLUMNS} from link u
join link l on l.card_id = u.card_id and l.version = u.undoes and l.month >= $4
where u.request_key = any($1::bytea[]) and u.card_id = any($2::bigint[]) and u.undoes > 0
  and u.month >= $4
"""  # noqa: S608 -- the column list is the constant above

_READ_ARCHIVED = "select card_id, version from opening.chain where card_id = any($1::bigint[])"

_BARRIER = """
insert into barrier (run, written_at) values ($1, now())
on conflict (run) do update set written_at = excluded.written_at returning 1
"""
_CONFIRM = """
insert into barrier (run, written_at) select $1, now()
where current_setting('synchronous_standby_names') <> ''
on conflict (run) do update set written_at = excluded.written_at returning 1
"""


_encode_facts = msgspec.msgpack.Encoder().encode

NOT_SENT = (TypeError, ValueError, OverflowError)
"""What arguments raise that are not of their parameters' types, before anything is sent."""


def _link(row: Mapping[str, Any]) -> Link:
    link = link_from_row(row)
    link.counts, link.counted_minor = Counts(row["counts"]), row["counted_minor"]
    link.batch_closed = row["batch_closed"]
    return link


class JournalDown(Exception):
    """Postgres cannot be reached; nothing was done."""


class BatchRejected(Exception):
    """Postgres refused a row of the batch for its content; nothing was done."""


class Outcome(enum.IntEnum):
    """What `append_batch` returns."""

    COMMITTED = 0
    MET_ITSELF = 1
    STALE = 2


class HistoryQuery(msgspec.Struct):
    """What must be read of the journal for a batch."""

    keys: set[bytes] = msgspec.field(default_factory=set)
    card_ids: set[int] = msgspec.field(default_factory=set)
    transaction_ids: set[str] = msgspec.field(default_factory=set)
    approval_codes: set[str] = msgspec.field(default_factory=set)


class JournalSession:
    """One lane's connection to the journal; connects again by itself. One call at a time."""

    def __init__(
        self,
        url: str,
        run: int,
        *,
        read_timeout_s: float = 2.0,
        on_down: Callable[[str], None] = lambda _kind: None,
        witness: Witness | None = None,
    ) -> None:
        """`on_down` is told the kind of each failure to reach Postgres, as it happens.

        With a `witness` a server is used only if it has all that was acknowledged before.
        """
        self._url = url
        self._on_down = on_down
        self._run = run
        self._read_timeout_s = read_timeout_s
        self._witness = witness
        self._connection: JournalConnection | None = None
        self._turn = trio.Lock()
        self.outcomes_unknown = 0
        """How often a commit's outcome had to be found out."""

    async def connect(self) -> JournalConnection:
        """The live connection; JournalDown when there is none to be had.

        One that was lost while it was idle is replaced: a server that is back turns nobody away.
        """
        connection = self._connection
        if connection is not None and not connection.closed:
            if not connection.hung_up():
                return connection
            self._drop()
        try:
            self._connection = await JournalConnection.open(self._url)
            missing = await self._missing(self._connection)
        except STORE_ERRORS as error:
            self._drop()
            raise self._down(error) from None
        if missing is not None:
            self._drop()
            self._on_down("JournalBehind")
            raise JournalDown(f"JournalBehind: batch {missing[1]} of {missing[0]}")
        return self._connection

    async def _missing(self, connection: JournalConnection) -> tuple[str, int] | None:
        """A batch that was acknowledged and that this server does not have."""
        if self._witness is None:
            return None

        async def rows(query: str, *args: Any) -> list[Any]:
            return await connection.rows(query, *args, timeout_s=self._read_timeout_s)

        return await missing_batch(rows, self._witness.directory)

    def _down(self, error: Exception) -> JournalDown:
        """Tell of a failure to reach Postgres, and what to raise for it."""
        kind = error.sqlstate if isinstance(error, ServerError) else str(error)
        self._on_down(kind)
        return JournalDown(kind)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.discard()
            self._connection = None

    async def append(self, arguments: tuple[Any, ...]) -> Outcome:
        """Append a batch and find out what became of it, however long that takes.

        STALE says that it is not in and never will be. JournalDown and BatchRejected say that
        nothing was done. Never to be cancelled: the caller shields it.
        """
        async with self._turn:
            outcome = await self._append(_APPEND, arguments)
            if self._witness is not None and arguments[3] and outcome is not Outcome.STALE:
                self._witness.note(arguments[0], arguments[1])
            return outcome

    async def confirm(self) -> None:
        """Before an answer that is only read leaves: what was read is as safe as a commit.

        A commit whose wait for the standby was cut short can be seen by everybody, and a failover
        would lose it. Where no standby is waited for this writes nothing. Raises JournalDown.
        """
        async with self._turn:
            try:
                connection = await self.connect()
                await connection.value(_CONFIRM, self._run)
                warned, connection.warned = connection.warned, False
            except STORE_ERRORS as error:
                self._drop()
                raise self._down(error) from None
            if warned and not await self._barrier(connection):
                raise JournalDown("ConnectionLost")

    async def store(self, statement: str, arguments: tuple[Any, ...]) -> Outcome:
        """The same for any other statement that meets itself and says so as `append_batch` does."""
        async with self._turn:
            return await self._append(statement, arguments)

    async def _append(self, statement: str, arguments: tuple[Any, ...]) -> Outcome:
        in_doubt = False
        pause_s = 0.02
        while True:
            try:
                connection = await self.connect()
                outcome = Outcome(await connection.value(statement, *arguments))
            except JournalDown:
                if not in_doubt:
                    raise
            except NOT_SENT as error:
                raise BatchRejected(type(error).__name__) from None
            except STORE_ERRORS as error:
                if isinstance(error, ServerError) and error.sqlstate == _STALE:
                    return Outcome.STALE
                if is_outcome_unknown(error):
                    in_doubt = True
                    self.outcomes_unknown += 1
                    self._drop()
                    self._down(error)
                elif is_retryable(error):
                    if not in_doubt:
                        return Outcome.STALE
                elif is_server_unfit(error):
                    self._drop()
                    down = self._down(error)
                    if not in_doubt:
                        raise down from None
                else:
                    raise BatchRejected(str(error)) from None
            else:
                if connection.warned:
                    connection.warned = False
                    in_doubt = True
                if not in_doubt or outcome is Outcome.STALE or await self._barrier(connection):
                    return outcome
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)

    async def _barrier(self, connection: JournalConnection) -> bool:
        """After a doubt: what was read as committed is safe once a later write is durable.

        On the connection on which it was read, and on no other: the next one may lead to a server
        that was promoted without it. False when this one is lost; then the batch is sent again.
        """
        while True:
            try:
                await connection.value(_BARRIER, self._run)
            except STORE_ERRORS:
                self._drop()
                return False
            if not connection.warned:
                return True
            connection.warned = False
            await trio.sleep(0.05)

    async def _rows(self, query: str, *args: Any) -> list[Any]:
        async with self._turn:
            try:
                connection = await self.connect()
                return await connection.rows(query, *args, timeout_s=self._read_timeout_s)
            except STORE_ERRORS as error:
                self._drop()
                raise self._down(error) from None

    async def read_cards(self, card_ids: Sequence[int]) -> dict[int, CardRow]:
        """The committed rows of these cards, straight from the primary."""
        found = {}
        for row in await self._rows(_READ_CARDS, card_ids):
            facts = CardFacts(
                row["programme_id"],
                row["currency"],
                row["expiry"],
                row["pvv"],
                row["code_digest"],
                row["face_value_minor"],
                row["limit_class"],
            )
            found[row["card_id"]] = CardRow(
                _encode_facts(facts), row["state"], row["request_window"]
            )
        return found

    async def read_history(self, query: HistoryQuery, oldest_month: Any) -> list[Link]:
        """Links by key, by transaction id, what undid and what was undone, oldest first."""
        rows = await self._rows(
            _READ_HISTORY,
            list(query.keys),
            list(query.card_ids),
            list(query.transaction_ids),
            oldest_month,
            list(query.approval_codes),
        )
        return sorted(map(_link, rows), key=lambda link: (link.card_id, link.version))

    async def read_archived(self, card_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Cards of these with archived links, each with the version of the last one."""
        rows = await self._rows(_READ_ARCHIVED, list(card_ids))
        return [(row["card_id"], row["version"]) for row in rows]

    async def rows(self, query: str, *args: Any) -> list[Any]:
        """Any other read; JournalDown when it fails."""
        return await self._rows(query, *args)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
