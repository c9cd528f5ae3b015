"""What a worker looks at in Postgres while it runs: is it there, is it the same, what is new."""

from __future__ import annotations

import contextlib
import logging

import trio

from fastpath.tokens import TokenTable
from switch.journal.journal import JournalDown
from switch.logs import event
from switch.metrics import Metrics
from switch.pipeline import Pipeline
from switch.programme import Rows, read_epoch

__all__ = ["EpochChanged", "StoreWatch"]

_CARDS_PERIOD_S = 1.0
_PROBE_PERIOD_S = 0.05
_MONTHS_PERIOD_S = 600
_LAG_PERIOD_S = 5

log = logging.getLogger(__name__)


class EpochChanged(Exception):
    """Postgres is another server than before: what was cached of the old one is not to be used."""


class StoreWatch:
    """One worker's. Each method but `add_new_cards` is a task that runs until it is cancelled.

    `postgres` and `cards` raise EpochChanged: the worker ends, and begins anew.
    """

    def __init__(self, rows: Rows, epoch: str, tokens: TokenTable, metrics: Metrics) -> None:
        """`epoch`: the server's that the programme was read from."""
        self._rows = rows
        self._epoch = epoch
        self._tokens = tokens
        self._metrics = metrics
        self._cards_known = 0
        self.pipeline: Pipeline | None = None
        self.months_ahead = 1

    async def postgres(self) -> None:
        """While Postgres is down, look for its return; requests are answered 91 meanwhile."""
        assert self.pipeline is not None
        while True:
            await trio.sleep(_PROBE_PERIOD_S)
            if not self.pipeline.journal_up:
                try:
                    await self._check_epoch()
                except JournalDown as down:
                    if str(down).startswith("JournalBehind"):  # for a person to look at
                        event(log, logging.ERROR, "postgres-refused", error=str(down))
                        await trio.sleep(10 * _PROBE_PERIOD_S)
                else:
                    self.pipeline.journal_up = True
                    event(log, logging.INFO, "postgres-back")

    async def cards(self) -> None:
        """Cards issued since the token table was built.

        It looks at the server, too: a worker without work must not go on in another one's cache.
        """
        while True:
            await trio.sleep(_CARDS_PERIOD_S)
            with contextlib.suppress(JournalDown):
                await self._check_epoch()
                await self.add_new_cards()

    async def add_new_cards(self) -> None:
        """Make known what cards there are beyond those that are. Raises JournalDown."""
        rows = await self._rows(
            "select card_id, digest from card where card_id > $1 order by card_id limit 100000",
            max(self._cards_known, len(self._tokens)),
        )
        for row in rows:
            self._tokens.add(row["digest"], row["card_id"])
            self._cards_known = row["card_id"]

    async def months(self) -> None:
        """Whether the journal's next month has been made."""
        while True:
            with contextlib.suppress(JournalDown):
                rows = await self._rows("select months_ahead() as ahead")
                self.months_ahead = rows[0]["ahead"]
                self._metrics.months_ahead.set(self.months_ahead)
            await trio.sleep(_MONTHS_PERIOD_S)

    async def projector(self) -> None:
        """How far the projections are behind the journal."""
        while True:
            with contextlib.suppress(JournalDown):
                lag = (await self._rows("select links, seconds from projection_lag()"))[0]
                self._metrics.projector_lag_links.set(lag["links"])
                self._metrics.projector_lag_seconds.set(lag["seconds"])
            await trio.sleep(_LAG_PERIOD_S)

    async def _check_epoch(self) -> None:
        epoch = await read_epoch(self._rows)
        if epoch != self._epoch:
            raise EpochChanged(f"{epoch} instead of {self._epoch}")
