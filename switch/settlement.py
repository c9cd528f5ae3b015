"""Requests that concern no card: reconciliation, cut-over, a terminal's last transaction.

They go their own way beside the pipeline: one worker's desk takes them one at a time, over a
session of its own, so that none of them holds up a card. A batch is closed without a lock: what it
contains follows from the snapshot that its totals were read in (`0007_settlement.sql`), and two
closes of one terminal at once are one close and one that is decided again.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from rules.ledger import Answer
from rules.money import POINTS_CURRENCY, Counts, Purse
from rules.requests import CardRequest, Operation
from rules.responses import Response, Rule
from rules.settlement import (
    Books,
    CutOver,
    LastTransaction,
    Reconciled,
    Reconciliation,
    Totals,
    cut_over_rule,
    reconcile,
)
from switch.journal.journal import BatchRejected, JournalDown, JournalSession, Outcome
from switch.journal.rows import LinkBody
from switch.pipeline import Pipeline, Ticket

__all__ = ["Desk", "DeskTicket"]

_WATCH_PERIOD_S = 0.05
_NUMBER_CLOSED_FOR = datetime.timedelta(days=60)
"""How long a batch number that was closed means the batch that it was; then it may come again."""
_NO_TRANSACTIONS = frozenset(
    {
        *(Operation.ISSUE, Operation.BALANCE, Operation.HOLD_EXPIRY, Operation.REVERSAL),
        *(Operation.TOMBSTONE, Operation.OUTCOME, Operation.UPLOAD, Operation.RECEIPT),
    }
)
_TRANSACTIONS = [operation.value for operation in Operation if operation not in _NO_TRANSACTIONS]
"""What a terminal means by its last transaction; reversals and uploads are about others."""

_STORED = """
select fingerprint, response, tx, rrn, answered from reconciliation where request_key = $1
"""

# A terminal's counted links and uploads that no closed batch has; `here` are those of the batch
# that is asked for: without a number, with its number, or with one that is closed. $1 terminal, $2
# currency, $3 number, $4 purses, $5 the place of the terminal's last closed batch.
_WAITING = """
last as (
    select snapshot, open_from from terminal_batch
    where terminal_id = $1 and currency = $2 and place = $5),
waiting as (
    select l.card_id, l.version, l.operation, l.undoes, l.counts, l.counted_minor, l.xid, n.here
    from link l
    cross join lateral (select l.batch_number = '' or exists (
        select 1 from terminal_batch b
        where b.terminal_id = $1 and b.currency = $2 and b.batch_number = l.batch_number
          and b.place <= $5) as closed) c
    cross join lateral (select c.closed or l.batch_number = $3 as here) n
    where l.terminal_id = $1 and l.xid >= coalesce((select open_from from last), '0'::xid8)
      and l.purse = any($4::smallint[]) and (l.counts > 0 or l.operation = 23)
      and not (c.closed and coalesce(
          pg_visible_in_snapshot(l.xid, (select snapshot from last)), false)))
"""

_BOOKS = f"""
with {_WAITING}
select pg_current_snapshot()::text as snapshot,
       coalesce(min(xid) filter (where not here),
                pg_snapshot_xmin(pg_current_snapshot()))::text as open_from,
       count(*) filter (where here and operation = 23) as uploads,
       count(*) filter (where here and counts = 3) as n3,
       count(*) filter (where here and counts = 4) as n4,
       count(*) filter (where here and counts = 1) as n1,
       count(*) filter (where here and counts = 2) as n2,
       coalesce(sum(counted_minor) filter (where here and counts = 3), 0)::bigint as a3,
       coalesce(sum(counted_minor) filter (where here and counts = 4), 0)::bigint as a4,
       coalesce(sum(counted_minor) filter (where here and counts = 1), 0)::bigint as a1,
       coalesce(sum(counted_minor) filter (where here and counts = 2), 0)::bigint as a2
from waiting
"""  # noqa: S608 -- constants of this file

_LAST_PLACE = """
select coalesce(max(place), 0) as place,
       coalesce(bool_or(batch_number = $3 and closed_at > $4), false) as number_closed
from terminal_batch where terminal_id = $1 and currency = $2
"""

# What was posted, was not undone wholly, and is in no upload, as the totals' own snapshot ($6) saw
# it; with the reversals of it, which the terminal cannot have counted either.
_MISSING = f"""
with {_WAITING}
select i.card_id, i.version, i.counts, i.counted_minor, r.number, r.minor
from waiting i
cross join lateral (
    select count(*) as number, coalesce(sum(counted_minor), 0)::bigint as minor from link l
    where l.card_id = i.card_id and l.undoes = i.version and l.undoes > 0 and l.operation = 20
      and l.counts > 0 and pg_visible_in_snapshot(l.xid, $6::text::pg_snapshot)) r
where i.here and i.counts in (1, 3) and i.operation <> 23 and r.minor < i.counted_minor
  and pg_visible_in_snapshot(i.xid, $6::text::pg_snapshot)
  and not exists (
    select 1 from link u
    where u.card_id = i.card_id and u.undoes = i.version and u.undoes > 0 and u.operation = 23
      and pg_visible_in_snapshot(u.xid, $6::text::pg_snapshot))
"""  # noqa: S608 -- constants of this file

_APPEND = f"select append_reconciliation({', '.join(f'${n}' for n in range(1, 20))})"

_CUT_OVERS = """
select place, business_date, request_key from cut_over
where link = $1 and (request_key = $2 or place = (select max(place) from cut_over where link = $1))
order by place
"""
_APPEND_CUT_OVER = f"select append_cut_over({', '.join(f'${n}' for n in range(1, 8))})"

# In order of commit, within a batch by the terminal's own time. What is answered as an unknown card
# must not be told from one: it is no transaction here.
_LAST_OF_TERMINAL = """
select card_id, request_key, body from link
where terminal_id = $1 and operation = any($2::smallint[]) and response <> 14 and month >= $3
order by xid desc, batch_id desc, substring(request_key for 4) desc, n desc limit 1
"""
_LAST_ON_CARD = """
select card_id, request_key, body from link
where card_id = $4 and terminal_id = $1 and operation = any($2::smallint[]) and response <> 14
  and month >= $3
order by version desc limit 1
"""

_decode_body = msgspec.msgpack.Decoder(LinkBody).decode
_Request = Reconciliation | CutOver | LastTransaction


class DeskTicket(msgspec.Struct, frozen=True, gc=False):
    """A request on its way through the desk; `context` is the caller's own."""

    request: _Request
    arrived: float
    deadline: float
    context: object


class Desk:
    """One worker's desk: a bounded queue, taken one by one."""

    def __init__(
        self,
        pipeline: Pipeline,
        session: JournalSession,
        deliver: Callable[[list[tuple[object, Answer]]], None],
        utc_now: Callable[[], datetime.datetime],
        *,
        queue_max: int,
    ) -> None:
        """`deliver` is told each answer with its ticket's context, once it is durable."""
        self._pipeline = pipeline
        self._session = session
        self._deliver = deliver
        self._utc_now = utc_now
        self._queue_max = queue_max
        self._queue: deque[DeskTicket] = deque()
        self._work = trio.Event()

    # In

    def submit(self, ticket: DeskTicket) -> None:
        """Queue a request. With Postgres down or the queue full it is answered 91 at once."""
        if not self._pipeline.journal_up:
            self._cannot_decide([ticket], Rule.STORE)
        elif len(self._queue) >= self._queue_max:
            self._cannot_decide([ticket], Rule.BUSY)
        else:
            self._queue.append(ticket)
            self._work.set()

    async def _watch(self) -> None:
        """Answer 91 to what has waited longer than its terminal, or to all without Postgres."""
        while True:
            await trio.sleep(_WATCH_PERIOD_S)
            up, now = self._pipeline.journal_up, trio.current_time()
            late = []
            while self._queue and (not up or self._queue[0].deadline <= now):
                late.append(self._queue.popleft())
            self._cannot_decide(late, Rule.DEADLINE if up else Rule.STORE)

    def _cannot_decide(self, tickets: list[DeskTicket], rule: Rule) -> None:
        if tickets:
            self._deliver(
                [(t.context, _plain(t.request, Response.CANNOT_DECIDE, rule)) for t in tickets]
            )

    # Out

    async def run(self) -> None:
        """Take request after request, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._take()

    async def _take(self) -> None:
        while True:
            if not self._queue:
                self._work = trio.Event()
                await self._work.wait()
                continue
            ticket = self._queue.popleft()
            with trio.CancelScope(shield=True):
                await self._carry(ticket)

    async def _carry(self, ticket: DeskTicket) -> None:
        request = ticket.request
        answer: Answer | None
        try:
            if isinstance(request, LastTransaction):
                answer = await self._last_transaction(ticket, request)
            elif isinstance(request, CutOver):
                answer = await self._cut_over(request, ticket.deadline)
            else:
                answer = await self._reconcile(request, ticket.deadline)
        except JournalDown:
            answer = _plain(request, Response.CANNOT_DECIDE, Rule.STORE)
        except Exception as error:  # whatever breaks, it is answered, and the next one is served
            self._pipeline.observer.fault(
                "row" if isinstance(error, BatchRejected) else "settlement", error
            )
            answer = _plain(request, Response.FAULT, Rule.FAULT)
        if answer is not None:
            self._deliver([(ticket.context, answer)])

    # Reconciliation

    async def _reconcile(self, request: Reconciliation, deadline: float) -> Answer:
        while True:
            stored = await self._stored(request)
            if stored is not None:
                return stored
            if trio.current_time() >= deadline:
                return _plain(request, Response.CANNOT_DECIDE, Rule.DEADLINE)
            now = self._utc_now()
            answer, outcome = await self._compare(request, now)
            if answer.totals is None:  # a closed number: by this very request, meanwhile?
                return await self._stored(request) or answer
            if outcome is Outcome.COMMITTED:
                return answer
            self._pipeline.observer.batch_stale()

    async def _stored(self, request: Reconciliation) -> Answer | None:
        """What this very request was answered before; 94 where it had another content."""
        found = await self._session.rows(_STORED, request.key)
        if not found:
            return None
        await self._session.confirm()  # what another has stored is as safe as what is stored here
        row = found[0]
        if row["fingerprint"] != request.fingerprint:
            return _plain(request, Response.DUPLICATE_DIFFERS, Rule.DUPLICATE)
        response = Response(f"{row['response']:02d}")
        rule = Rule.NONE if response is Response.APPROVED else Rule.TOTALS
        return Reconciled(response, row["tx"], row["rrn"], rule, totals=Totals(*row["answered"]))

    async def _compare(
        self, request: Reconciliation, now: datetime.datetime
    ) -> tuple[Reconciled, Outcome]:
        """Compare the totals and store the answer; the batch is closed with it where it is 00."""
        terminal_id, currency = request.terminal.terminal_id, request.currency
        number = request.batch_number
        since = now - _NUMBER_CLOSED_FOR
        last = (await self._session.rows(_LAST_PLACE, terminal_id, currency, number, since))[0]
        purses = [purse.value for purse in Purse if (purse is Purse.POINTS) is _is_points(currency)]
        which = (terminal_id, currency, number, purses, last["place"])
        read = (await self._session.rows(_BOOKS, *which))[0]
        totals = Totals(*(read[f"{kind}{side}"] for kind in "na" for side in (3, 4, 1, 2)))
        missing: list[Any] = []
        left_out = None
        if read["uploads"]:
            missing = await self._session.rows(_MISSING, *which, read["snapshot"])
            left_out = _left_out(missing)
        # A batch without a number is never closed for good: the next one has none either.
        number_closed = last["number_closed"] and bool(number)
        answer = reconcile(request, Books(totals, left_out, number_closed))
        if answer.totals is None:
            return answer, Outcome.COMMITTED  # nothing to keep: it would be said again
        arguments = (
            *(request.key, request.fingerprint, terminal_id, currency, number),
            *(request.settlement_date, int(answer.response), answer.transaction_id, answer.rrn),
            *(_as_list(request.totals), _as_list(answer.totals), now, last["place"] + 1),
            *(read["snapshot"], read["open_from"], _as_list(totals)),
            [row["card_id"] for row in missing],
            [row["version"] for row in missing],
            [row["counted_minor"] for row in missing],
        )
        return answer, await self._session.store(_APPEND, arguments)

    # Cut-over

    async def _cut_over(self, request: CutOver, deadline: float) -> Answer:
        wanted = request.business_date
        while trio.current_time() < deadline:
            rows = await self._session.rows(_CUT_OVERS, request.link, request.key)
            for row in rows:
                if row["request_key"] == request.key and row["business_date"] != wanted:
                    return _plain(request, Response.DUPLICATE_DIFFERS, Rule.DUPLICATE)
            if any(row["business_date"] == wanted for row in rows):
                await self._session.confirm()
                return _plain(request, Response.APPROVED, Rule.NONE)
            now = self._utc_now()
            current = rows[-1]["business_date"] if rows else None
            rule = cut_over_rule(wanted, now.date(), current)
            if rule:
                return _plain(request, Response.INVALID_TRANSACTION, rule)
            place = rows[-1]["place"] + 1 if rows else 1
            ended = current or wanted - datetime.timedelta(days=1)
            arguments = (
                *(request.link, place, wanted, ended, request.key, request.terminal_id, now),
            )
            if await self._session.store(_APPEND_CUT_OVER, arguments) is not Outcome.STALE:
                return _plain(request, Response.APPROVED, Rule.NONE)
        return _plain(request, Response.CANNOT_DECIDE, Rule.DEADLINE)

    # The last transaction

    async def _last_transaction(
        self, ticket: DeskTicket, request: LastTransaction
    ) -> Answer | None:
        """Find it, and let the pipeline tell what became of it, as for any outcome query."""
        month = (self._utc_now() - _NUMBER_CLOSED_FOR).date().replace(day=1)
        of_whom: list[Any] = [request.terminal.terminal_id, _TRANSACTIONS, month]
        if request.card_id is None:
            rows = await self._session.rows(_LAST_OF_TERMINAL, *of_whom)
        else:
            rows = await self._session.rows(_LAST_ON_CARD, *of_whom, request.card_id)
        if not rows:
            return _plain(request, Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
        found = rows[0]
        query = CardRequest(
            operation=Operation.OUTCOME,
            key=request.key,
            fingerprint=b"",
            transaction_id=request.transaction_id,
            rrn=request.rrn or _decode_body(found["body"]).answer.rrn,
            terminal=request.terminal,
            original_key=found["request_key"],
        )
        onward = Ticket(query, found["card_id"], ticket.arrived, ticket.deadline, ticket.context)
        self._pipeline.submit([onward])
        return None


def _is_points(currency: str) -> bool:
    return currency == POINTS_CURRENCY


def _as_list(totals: Totals) -> list[int]:
    return list(msgspec.structs.astuple(totals))


def _left_out(missing: list[Any]) -> Totals:
    """The totals of missing items and of their reversals."""
    sums = {counts: [0, 0] for counts in Counts}
    for row in missing:
        counts = Counts(row["counts"])
        undone = Counts.DEBIT_REVERSAL if counts is Counts.DEBIT else Counts.CREDIT_REVERSAL
        sums[counts][0] += 1
        sums[counts][1] += row["counted_minor"]
        sums[undone][0] += row["number"]
        sums[undone][1] += row["minor"]
    order = (Counts.CREDIT, Counts.CREDIT_REVERSAL, Counts.DEBIT, Counts.DEBIT_REVERSAL)
    return Totals(*(sums[counts][at] for at in (0, 1) for counts in order))


def _plain(request: _Request, response: Response, rule: Rule) -> Answer:
    transaction_id = request.transaction_id
    return Answer(response, transaction_id, request.rrn or transaction_id, rule)
