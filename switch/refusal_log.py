"""What reached no card goes into its log, in batches; it is kept here while Postgres is down."""

from __future__ import annotations

import datetime
import itertools
import logging
from collections import deque
from collections.abc import Callable

import trio

from switch.journal.journal import BatchRejected, JournalDown, JournalSession
from switch.journal.rows import Refusal, batch_arguments
from switch.logs import event
from switch.pipeline import Pipeline

__all__ = ["RefusalLog"]

_PERIOD_S = 0.2

log = logging.getLogger(__name__)


class RefusalLog:
    """One worker's writer of it."""

    def __init__(
        self,
        session: JournalSession,
        waiting: deque[Refusal],
        pipeline: Pipeline,
        next_batch_id: Callable[[], int],
        utc_now: Callable[[], datetime.datetime],
        *,
        batch_max: int,
    ) -> None:
        self._session = session
        self._waiting = waiting
        self._pipeline = pipeline
        self._next_batch_id = next_batch_id
        self._utc_now = utc_now
        self._batch_max = batch_max
        self._turn = trio.Lock()

    async def run(self) -> None:
        """Write what there is, five times a second, until cancelled."""
        while True:
            await trio.sleep(_PERIOD_S)
            await self.flush()

    async def flush(self) -> None:
        """Write all that waits, unless Postgres is down."""
        async with self._turn:
            waiting = self._waiting
            while waiting and self._pipeline.journal_up:
                rows = list(itertools.islice(waiting, self._batch_max))
                try:
                    arguments = batch_arguments(self._next_batch_id(), self._utc_now(), (), rows)
                    await self._session.append(arguments)
                except JournalDown:
                    return
                except BatchRejected as error:
                    event(log, logging.ERROR, "refusals-not-written", error=str(error))
                for _ in range(min(len(waiting), len(rows))):  # the oldest may be gone already
                    waiting.popleft()
