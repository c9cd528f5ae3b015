"""A lane: carries batches through all stages, one at a time.

    reserve -> read -> decide -> commit -> reply -> settle

No answer leaves before its batch is committed. What a committed batch owes to Redis, its cards with
their new states, is told together with what the next batch asks for, where there is a next one: one
call instead of two. Until then its cards stay the lane's.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Callable
from typing import Final

import trio

from rules.authorize import decide, lacks_history
from rules.booking import Moment, unknown_card
from rules.cards import WorkingCard
from rules.identity import counterpart_key
from rules.ledger import Answer
from rules.requests import Operation
from rules.responses import Response, Rule
from rules.transfers import receiver_of
from switch.batch import Batch, Ticket
from switch.journal.journal import (
    BatchRejected,
    HistoryQuery,
    JournalDown,
    JournalSession,
    Outcome,
)
from switch.journal.rows import CardRow, Refusal, batch_arguments
from switch.pipeline import Pipeline, cannot_decide, without_effect
from switch.reservation.store import ReservationStore

__all__ = ["Decided", "Lane"]

TRIES_TOGETHER: Final = 2
"""Tries of a whole batch; from then on each of its parts is tried alone."""
CLOCK_SLACK = datetime.timedelta(days=2)
"""How much older a link may be than its message's own time says (26 h ahead are accepted)."""
_TRANSFER = Operation.TRANSFER
_TOLD_WITHOUT_LINK = frozenset({Operation.BALANCE, Operation.LOT_SWEEP, Operation.DORMANCY_FEE})
"""Answers that no version of a row fences: a balance, and that nothing is due."""


class Decided:
    """A batch with its decisions taken: what to say, and what must be durable before."""

    __slots__ = ("answers", "arguments", "working")

    def __init__(
        self,
        answers: list[tuple[Ticket, Answer]],
        working: dict[int, WorkingCard],
        arguments: tuple[object, ...] | None,
    ) -> None:
        self.answers = answers
        self.working = working
        self.arguments = arguments


class Lane:
    """Carries batches through all stages, one at a time."""

    def __init__(
        self,
        pipeline: Pipeline,
        journal: JournalSession,
        reservation: ReservationStore,
        next_batch_id: Callable[[], int],
        utc_now: Callable[[], datetime.datetime],
    ) -> None:
        self._pipeline = pipeline
        self._observer = pipeline.observer
        self._journal = journal
        self._reservation = reservation
        self._next_batch_id = next_batch_id
        self._utc_now = utc_now
        self._owed: dict[int, CardRow] = {}
        """Cards that Redis has not been told of since they were committed."""

    async def run(self) -> None:
        """Take batch after batch, for ever. What is begun is finished before this is cancelled."""
        try:
            while True:
                batch = self._pipeline.take_at_once(self._owed)
                if not batch.tickets:
                    with trio.CancelScope(shield=True):
                        await self._settle()
                    batch = await self._pipeline.take()
                with trio.CancelScope(shield=True):
                    await self._carry(batch)
                await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            with trio.CancelScope(shield=True):
                await self._settle()

    async def _carry(self, batch: Batch) -> None:
        """One batch from reservation to its answers; then its cards are owed to Redis."""
        started = trio.current_time()
        try:
            rows = await self._reserve(batch)
        except Exception as error:  # the rows in Postgres judge without it
            self._observer.fault("reserve", error)
            rows = {}
        card_ids, size = list(batch.card_ids), len(batch.tickets)
        settled: dict[int, WorkingCard] = {}
        if batch.tickets:
            settled = await self._carry_safely(batch, rows, cached=True)
            self._observer.batch_committed(size, trio.current_time() - started)
        self._pipeline.carried()
        try:
            self._owed = {card_id: _row_of(card) for card_id, card in settled.items()}
        except Exception as error:  # all is committed and answered; the cache may forget them
            self._observer.fault("settle", error)
        others = [card_id for card_id in card_ids if card_id not in self._owed]
        try:
            if others:
                await self._reservation.release(others, forget=True)
        except Exception as error:
            self._observer.fault("settle", error)
        finally:
            self._pipeline.wait_in_front(batch.left)
            self._pipeline.give_back(others)

    async def _carry_safely(
        self, batch: Batch, rows: dict[int, CardRow], *, cached: bool
    ) -> dict[int, WorkingCard]:
        """Whatever breaks, each request gets one answer; a bad one spoils its own cards only."""
        try:
            return await self._carry_reserved(batch, rows, cached=cached)
        except JournalDown:
            self._refuse_all(batch, Response.CANNOT_DECIDE, Rule.STORE)
        except Exception as error:
            # Alone, and from the row: a state in the cache may name what the journal has lost.
            parts = batch.parts()
            if len(parts) > 1 or cached:
                return await self._carry_parts(batch, parts)
            self._observer.fault("row" if isinstance(error, BatchRejected) else "batch", error)
            self._refuse_all(batch, Response.FAULT, Rule.FAULT)
        return {}

    async def _carry_parts(self, batch: Batch, parts: list[Batch]) -> dict[int, WorkingCard]:
        """Each part alone, so that none of them can hold up or spoil the others."""
        settled: dict[int, WorkingCard] = {}
        for part in parts:
            part.leave_out({card_id for ticket in batch.left for card_id in ticket.card_ids})
            settled |= await self._carry_safely(part, {}, cached=False)
            batch.left += part.left
        return settled

    # Reserve: this batch alone has its cards; their last known states in hand

    async def _reserve(self, batch: Batch) -> dict[int, CardRow]:
        card_ids = list(batch.card_ids)
        owed, self._owed = self._owed, {}
        try:
            rows, busy = await self._reservation.reserve(card_ids, owed)
        finally:
            self._pipeline.give_back(card_id for card_id in owed if card_id not in batch.card_ids)
        if busy:
            spare = self._pipeline.leave_to_others(batch, busy)
            if spare:
                await self._reservation.release(spare)
        return rows

    # Read, decide, commit, reply; again from the rows themselves when the cache was wrong

    async def _carry_reserved(
        self, batch: Batch, rows: dict[int, CardRow], *, cached: bool
    ) -> dict[int, WorkingCard]:
        """Returns the cards as committed; their answers have been sent."""
        for tries in itertools.count(1):
            await self._read_rows(batch, rows if cached else {}, rows)
            decided = await self._decide(batch, rows)
            outcome = Outcome.COMMITTED
            if decided.arguments is not None:
                outcome = await self._journal.append(decided.arguments)
            else:
                await self._journal.confirm()
            if outcome is not Outcome.STALE:
                self._observer.answered(decided.answers)
                return decided.working
            self._observer.batch_stale()
            cached = False
            self._decline_late(batch)
            if tries >= TRIES_TOGETHER and len(parts := batch.parts()) > 1:
                return await self._carry_parts(batch, parts)
            if not batch.tickets:
                return {}
            await trio.sleep(random.uniform(0, 0.002 * min(tries, 10)))  # noqa: S311
        raise AssertionError("unreachable")

    async def _read_rows(
        self, batch: Batch, known: dict[int, CardRow], rows: dict[int, CardRow]
    ) -> None:
        """Rows not known, and of cards that may get no link: nothing tells of an old cache."""
        asked = {t.card_id for t in batch.tickets if t.request.operation in _TOLD_WITHOUT_LINK}
        asked |= {t.other_id for t in batch.tickets if t.request.operation is _TRANSFER}
        unread = [card for card in batch.card_ids if card not in known or card in asked]
        if unread:
            for card_id in unread:
                rows.pop(card_id, None)
            rows.update(await self._journal.read_cards(unread))

    def _decline_late(self, batch: Batch) -> None:
        """A refused batch did nothing: what has no time left for another try is told so."""
        late = batch.take_out_late(trio.current_time())
        self._observer.answered([(t, cannot_decide(t, Rule.DEADLINE)) for t in late])

    async def _decide(self, batch: Batch, rows: dict[int, CardRow]) -> Decided:
        """All requests of the batch in order of arrival, on working copies of their cards."""
        now = self._utc_now()
        moment = Moment(int(now.timestamp()), now.strftime("%y%m"), self._next_batch_id())
        working = {
            card_id: WorkingCard(card_id, row.facts, row.state, row.window)
            for card_id, row in rows.items()
            if card_id in batch.card_ids
        }
        await self._read_history(batch, working, now)
        answers: list[tuple[Ticket, Answer]] = []
        refusals: list[Refusal] = []
        policies = self._pipeline.policies
        for ticket in batch.tickets:
            request, card = ticket.request, working.get(ticket.card_id)
            if card is None:
                answer = unknown_card(request)
                refusals.append(self._observer.refusal_of(ticket, answer))
            elif ticket.other_id:
                policy = policies.of(card.facts.programme_id)
                answer = decide(request, card, moment, policy, working.get(ticket.other_id))
            else:
                answer = decide(request, card, moment, policies.of(card.facts.programme_id))
            answers.append((ticket, answer))
        arguments = None
        if refusals or any(card.new for card in working.values()):
            arguments = batch_arguments(moment.batch_id, now, working.values(), refusals)
        return Decided(answers, working, arguments)

    async def _read_history(
        self, batch: Batch, working: dict[int, WorkingCard], now: datetime.datetime
    ) -> None:
        """Links of the journal, for the requests that cannot be decided without."""
        learned = True
        while learned:
            query = _history_query(batch, working)
            if not query.card_ids:
                return
            await self._read_links(query, working, now)
            learned = self._learn_receivers(batch, working)

    def _learn_receivers(self, batch: Batch, working: dict[int, WorkingCard]) -> bool:
        """Reversals of transfers learn which card they need as well: whether any has.

        One whose other card the batch does not have comes again, for both.
        """
        here = {
            (ticket.card_id, ticket.request.key): ticket.other_id
            for ticket in batch.tickets
            if ticket.request.operation is Operation.TRANSFER
        }
        learned = False
        for ticket in batch.tickets:
            request, card = ticket.request, working.get(ticket.card_id)
            if card is None or request.operation is not Operation.REVERSAL:
                continue
            other_id = receiver_of(request, card)
            other_id = other_id or here.get((ticket.card_id, request.original_key), 0)
            if other_id not in (0, ticket.other_id):
                ticket.other_id = other_id
                learned = True
        if learned:
            batch.leave_out()
        return learned

    async def _read_links(
        self, query: HistoryQuery, working: dict[int, WorkingCard], now: datetime.datetime
    ) -> None:
        # A terminal's clock may have been ahead of the switch's: its links are older than they say.
        reach = datetime.timedelta(seconds=self._pipeline.policies.default.horizon_s) + CLOCK_SLACK
        oldest_month = (now - reach).date().replace(day=1)
        elsewhere: set[tuple[int, bytes]] = set()
        for month in (oldest_month, datetime.date.min):
            for link in await self._journal.read_history(query, month):
                if link.card_id in query.card_ids:
                    working[link.card_id].known[link.version] = link
                elsewhere.add((link.card_id, link.key))
            # A window may name a link from before the horizon: a quiet card forgets nothing.
            lacking = [each for each in query.card_ids if working[each].lacks_link(query.keys)]
            if not lacking:
                break
        else:
            for card_id, version in await self._journal.read_archived(lacking):
                working[card_id].archived_version = version
        for card_id in query.card_ids:
            keys = frozenset(key for other, key in elsewhere if other != card_id)
            working[card_id].keys_elsewhere = keys

    def _refuse_all(self, batch: Batch, response: Response, rule: Rule) -> None:
        self._observer.answered([(t, without_effect(t, response, rule)) for t in batch.tickets])

    # Settle: the cards go back, with the state that is now committed

    async def _settle(self) -> None:
        """Give back what is owed; with the next batch `_reserve` does so."""
        owed, self._owed = self._owed, {}
        if not owed:
            return
        try:
            await self._reservation.settle(list(owed), list(owed.values()))
        except Exception as error:  # all is committed and answered; the cache may lag
            self._observer.fault("settle", error)
        finally:
            self._pipeline.give_back(owed)


def _row_of(card: WorkingCard) -> CardRow:
    """A card's row as it is committed."""
    state = card.new[-1].state_after if card.new else card.encoded_state
    return CardRow(card.encoded_facts, state, card.window.encode())


def _history_query(batch: Batch, working: dict[int, WorkingCard]) -> HistoryQuery:
    """What the batch must know of the journal."""
    query = HistoryQuery()
    for ticket in batch.tickets:
        request, card = ticket.request, working.get(ticket.card_id)
        if card is None or not lacks_history(request, card):
            continue
        query.card_ids.add(card.card_id)
        query.keys.add(request.key)
        if request.original_key:
            query.keys.add(request.original_key)
        if request.own_request_key:
            query.keys.add(request.own_request_key)
        if request.approval_code:
            query.approval_codes.add(request.approval_code)
        if request.original_transaction_id:
            query.transaction_ids.add(request.original_transaction_id)
        if ticket.other_id in working and request.original_key:
            query.card_ids.add(ticket.other_id)
            query.keys.add(counterpart_key(request.original_key, ticket.card_id))
    return query
