"""Holds whose time is over are given back: by requests through the same door as all others.

What is due is found in a projection (`open_hold`); whether it is due is judged by the rules, on the
card itself. A request's key follows from card and hold, so that a hold expires once, however often
it is swept and by however many. The first worker sweeps.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from rules.identity import content_fingerprint, request_key
from rules.money import Purse
from rules.requests import CardRequest, Operation, Terminal
from switch.journal.journal import JournalDown
from switch.logs import RateLimited
from switch.pipeline import Pipeline, Ticket

__all__ = ["SWEEPER_TERMINAL", "HoldSweeper", "SweptHold"]

_PERIOD_S = 1.0
_AT_ONCE = 200
_BUSY_DEPTH = 1_000
"""Requests waiting for a batch from which on tills go first."""
_ANSWER_WITHIN_S = 4.0
SWEEPER_TERMINAL = 0
"""The terminal's number in links that no terminal has asked for."""

# A second later than its time: the clock that judges it may be behind this one.
_DUE = """
select card_id, version, purse, merchant_id, extract(epoch from expires_at)::bigint as expires_s
from open_hold
where ended_by is null and expires_at < now() - interval '1 second'
order by expires_at limit $1
"""

log = logging.getLogger(__name__)


class SweptHold:
    """What stands where a message would: nobody waits for an answer."""


class HoldSweeper:
    """Sweeps until cancelled."""

    def __init__(
        self,
        rows: Callable[..., Awaitable[list[Any]]],
        pipeline: Pipeline,
        next_transaction_id: Callable[[], str],
    ) -> None:
        self._rows = rows
        self._pipeline = pipeline
        self._next_transaction_id = next_transaction_id
        self._asked: set[tuple[int, int]] = set()
        self._limited = RateLimited(log)

    async def run(self) -> None:
        """Once a second, what is due; while tills wait or Postgres is down, nothing."""
        while True:
            await trio.sleep(_PERIOD_S)
            if self._pipeline.journal_up and self._pipeline.depth < _BUSY_DEPTH:
                with contextlib.suppress(JournalDown):
                    self._sweep(await self._rows(_DUE, _AT_ONCE))

    def _sweep(self, due: list[Any]) -> None:
        """Ask for each; for one that was asked for, not again before the next round but one."""
        now = trio.current_time()
        tickets = [
            Ticket(self._request(row), row["card_id"], now, now + _ANSWER_WITHIN_S, SweptHold())
            for row in due
            if (row["card_id"], row["version"]) not in self._asked
        ]
        self._asked = {(ticket.card_id, ticket.request.hold_version) for ticket in tickets}
        if tickets:
            self._limited.event(logging.INFO, "holds-expired", count=len(tickets))
            self._pipeline.submit(tickets)

    def _request(self, row: Any) -> CardRequest:
        version = row["version"]
        return CardRequest(
            operation=Operation.HOLD_EXPIRY,
            key=request_key(row["expires_s"], f"sweeper|hold|{version}"),
            fingerprint=content_fingerprint(f"sweeper|hold|{version}"),
            transaction_id=self._next_transaction_id(),
            rrn="",
            terminal=Terminal(SWEEPER_TERMINAL, row["merchant_id"], network=True),
            purse=Purse(row["purse"]),
            hold_version=version,
        )
