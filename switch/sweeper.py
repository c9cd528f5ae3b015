"""What is due by time alone: holds that nobody completed, lots past their last day, idle cards.

Sweepers send requests through the same door as all others. What is due they find in projections
(`open_hold`, `card_life`); whether it is due is judged by the rules, on the card itself, so that
something expires once, however often it is swept and by however many. The first worker sweeps. All
that it knows is in the tables: one that is killed leaves nothing behind.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import trio

from rules.expiry import SWITCH
from rules.identity import content_fingerprint, request_key
from rules.ledger import Answer
from rules.money import Purse
from rules.policy import DAY_S, Policies, first_day_of, month_of
from rules.requests import CardRequest, Operation, Terminal
from rules.responses import APPROVALS
from switch.journal.journal import JournalDown
from switch.logs import RateLimited
from switch.metrics import Metrics
from switch.pipeline import Pipeline, Ticket

__all__ = ["KINDS", "Sweeper", "Swept"]

_PERIOD_S = 1.0
AT_ONCE = 200
"""How much of a kind is asked for in a second."""
_BUSY_DEPTH = 1_000
"""Requests waiting for a batch from which on tills go first."""
_ANSWER_WITHIN_S = 4.0
_FIRST_FEES = month_of(20_454)
"""January 2026: no fee has been taken before."""
KINDS = {
    Operation.HOLD_EXPIRY: "hold",
    Operation.LOT_SWEEP: "lot",
    Operation.DORMANCY_FEE: "dormancy",
}

# A second later than its time: the clock that judges it may be behind this one.
_HOLDS = """
select card_id, version, purse, merchant_id, extract(epoch from expires_at)::bigint as expires_s
from open_hold
where ended_by is null and expires_at < to_timestamp($1::bigint) - interval '1 second'
order by expires_at limit $2
"""
# Days of the earliest programme first, then each card by its own programme's.
_LOTS = """
select c.card_id, c.due_day
from card_life c join programme p using (programme_id)
where c.due_day > 0 and c.due_day < ($1::bigint - 1 + 840 * 60) / 86400
  and c.due_day < ($1::bigint - 1 + p.utc_offset_min * 60) / 86400
order by c.due_day limit $2
"""
_IDLE = """
select card_id from card_life
where programme_id = $1::bigint and last_active_day > 0 and last_active_day < $2::bigint
  and fee_month = any($3::bigint[]) and status = 3 and ecash_there
  and (ecash_paid or $4::bigint = 0)
limit $5
"""

log = logging.getLogger(__name__)


class Swept:
    """What stands where a message would: nobody waits for an answer, but it is counted."""

    def __init__(self, metrics: Metrics, kind: str) -> None:
        self._metrics = metrics
        self._kind = kind

    def answered(self, answer: Answer) -> None:
        """The request was decided, or not."""
        self._metrics.swept(self._kind, done=answer.response in APPROVALS)


class Sweeper:
    """Sweeps until cancelled."""

    def __init__(
        self,
        rows: Callable[..., Awaitable[list[Any]]],
        pipeline: Pipeline,
        metrics: Metrics,
        next_transaction_id: Callable[[], str],
        utc_now: Callable[[], datetime.datetime],
    ) -> None:
        self._rows = rows
        self._pipeline = pipeline
        self._policies: Policies = pipeline.policies
        self._metrics = metrics
        self._next_transaction_id = next_transaction_id
        self._utc_now = utc_now
        self._asked: set[bytes] = set()
        self._limited = RateLimited(log)

    async def run(self) -> None:
        """Once a second, what is due; while tills wait or Postgres is down, nothing."""
        while True:
            await trio.sleep(_PERIOD_S)
            if self._pipeline.journal_up and self._pipeline.depth < _BUSY_DEPTH:
                try:
                    self._ask([request async for request in self._due()])
                except JournalDown:
                    continue
                except Exception as error:  # tills go on without it
                    self._limited.event(logging.ERROR, "sweeper-failed", exception=error)

    async def _due(self) -> AsyncIterator[tuple[int, CardRequest]]:
        """Card and request of all that is due, at most so much of a kind."""
        now_s = int(self._utc_now().timestamp())
        for row in self._seen(Operation.HOLD_EXPIRY, await self._rows(_HOLDS, now_s, AT_ONCE)):
            yield row["card_id"], self._hold(row)
        for row in self._seen(Operation.LOT_SWEEP, await self._rows(_LOTS, now_s, AT_ONCE)):
            day = row["due_day"]
            what = f"lot|{day}|{row['card_id']}"
            yield row["card_id"], self._request(Operation.LOT_SWEEP, (day + 1) * DAY_S, what)
        idle: list[tuple[Any, int]] = []
        for programme_id, policy in self._policies.programmes.items():
            if policy.dormancy_months and policy.dormancy_fee_minor:
                month = month_of(policy.day(now_s - 1))
                before = first_day_of(month - policy.dormancy_months)
                earlier = [0, *range(_FIRST_FEES, month)]
                query = (programme_id, before, earlier, int(policy.dormancy_spares_promo), AT_ONCE)
                idle += [(row, month) for row in await self._rows(_IDLE, *query)]
        for row, month in self._seen(Operation.DORMANCY_FEE, idle):
            what = f"dormancy|{month}|{row['card_id']}"
            instant_s = first_day_of(month) * DAY_S
            request = self._request(Operation.DORMANCY_FEE, instant_s, what, fee_month=month)
            yield row["card_id"], request

    def _seen(self, operation: Operation, rows: list[Any]) -> Iterator[Any]:
        self._metrics.sweep_due.labels(KINDS[operation]).set(len(rows))
        return iter(rows)

    def _ask(self, due: list[tuple[int, CardRequest]]) -> None:
        """Ask for each; for one that was asked for, not again before the next round but one."""
        now = trio.current_time()
        tickets = [
            Ticket(
                *(request, card_id, now, now + _ANSWER_WITHIN_S),
                Swept(self._metrics, KINDS[request.operation]),
            )
            for card_id, request in due
            if request.key not in self._asked
        ]
        self._asked = {ticket.request.key for ticket in tickets}
        if tickets:
            self._limited.event(logging.INFO, "swept", count=len(tickets))
            self._pipeline.submit(tickets)

    def _hold(self, row: Any) -> CardRequest:
        version = row["version"]
        return self._request(
            Operation.HOLD_EXPIRY,
            row["expires_s"],
            f"hold|{version}|{row['card_id']}",
            terminal=Terminal(SWITCH.terminal_id, row["merchant_id"], network=True),
            purse=Purse(row["purse"]),
            hold_version=version,
        )

    def _request(self, operation: Operation, instant_s: int, what: str, **more: Any) -> CardRequest:
        """A key of the sweepers' own: it follows from card, kind and period."""
        more.setdefault("terminal", SWITCH)
        return CardRequest(
            operation=operation,
            key=request_key(instant_s, f"sweeper|{what}"),
            fingerprint=content_fingerprint(f"sweeper|{what}"),
            transaction_id=self._next_transaction_id(),
            rrn="",
            **more,
        )
