"""The way of a request that concerns a card: read this file first.

    submit -> take -> reserve -> read -> decide -> commit -> reply -> settle

Every stage takes a whole batch. A *lane* carries one batch at a time through all stages; a worker
has a few lanes, so that one batch is decided while another is being made durable. There are no
timers: the next batch is what arrived while the last one was in flight.

A card belongs to one batch at a time. What arrives for a card that a batch of this worker has,
waits in order of arrival and goes on when the batch returns the card; for a card that another
worker has, it waits for that worker's notice, or a short jittered while, until its deadline.

No answer leaves before its batch is committed, and none is sent on a guess.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from rules.authorize import decide, lacks_history
from rules.booking import Moment, Policy, unknown_card
from rules.cards import WorkingCard
from rules.ledger import Answer
from rules.requests import CardRequest, Operation
from rules.responses import Response, Rule
from switch.journal.journal import (
    BatchRejected,
    HistoryQuery,
    JournalDown,
    JournalSession,
    Outcome,
)
from switch.journal.rows import CardRow, Refusal, batch_arguments
from switch.reservation.store import Possession, ReservationStore

__all__ = ["Lane", "Pipeline", "PipelineObserver", "Ticket"]

TRIES_TOGETHER = 2
"""Tries of a whole batch; from then on each of its cards is tried alone."""
FOREIGN_PAUSE_S = (0.001, 0.004)
"""How long a card that another worker has is left alone before it is asked for again."""
WATCH_PERIOD_S = 0.02
"""How often it is looked for what waits too long, while no card is another worker's."""
CLOCK_SLACK = datetime.timedelta(days=2)
"""How much older a link may be than its message's own time says (26 h ahead are accepted)."""


class Ticket:
    """One request on its way: what it asks, until when, and where the answer goes."""

    __slots__ = ("arrived", "card_id", "context", "deadline", "request")

    def __init__(
        self,
        request: CardRequest,
        card_id: int,
        arrived: float,
        deadline: float,
        context: object,
    ) -> None:
        self.request = request
        self.card_id = card_id
        self.arrived = arrived
        self.deadline = deadline
        self.context = context


class PipelineObserver(Protocol):
    """Who hears what happens here: the replies go out through it, the metrics count it."""

    def answered(self, answers: Sequence[tuple[Ticket, Answer]]) -> None:
        """These answers are final and durable."""

    def refusal_of(self, ticket: Ticket, answer: Answer) -> Refusal:
        """The refusal log's row for a request that reached no card."""

    def batch_committed(self, size: int, seconds: float) -> None:
        """A batch of this many requests went through in this time."""

    def batch_stale(self) -> None:
        """A card's row was not as the cache had it; the batch is decided again."""

    def fault(self, where: str, error: BaseException) -> None:
        """Something broke that should not: answered 96."""


Batch = dict[int, list[Ticket]]
"""The requests of a batch by card, each card's in order of arrival."""


class Pipeline:
    """The queue of a worker and the cards its lanes have."""

    def __init__(
        self, observer: PipelineObserver, policy: Policy, *, batch_max: int, queue_max: int
    ) -> None:
        self.observer = observer
        self.policy = policy
        self.journal_up = True
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._ready: deque[Ticket] = deque()
        self._held: dict[int, deque[Ticket]] = {}
        self._foreign: dict[int, float] = {}
        self._foreign_met = trio.Event()
        self._waiting = 0
        self._parked: deque[trio.Event] = deque()

    @property
    def depth(self) -> int:
        """Requests that are not in a batch."""
        return len(self._ready) + self._waiting

    @property
    def cards_waited_for(self) -> int:
        """Cards that requests wait for because another batch has them."""
        return sum(1 for queue in self._held.values() if queue)

    # Submit: a request comes in, or is turned away at once

    def submit(self, tickets: Iterable[Ticket]) -> None:
        """Queue requests. With Postgres down or the queue full they are answered 91 at once."""
        turned_away: list[tuple[Ticket, Answer]] = []
        for ticket in tickets:
            if not self.journal_up:
                turned_away.append((ticket, cannot_decide(ticket, Rule.STORE)))
            elif self.depth >= self._queue_max:
                turned_away.append((ticket, cannot_decide(ticket, Rule.BUSY)))
            else:
                self._ready.append(ticket)
        if turned_away:
            self.observer.answered(turned_away)
        self._wake()

    def _wake(self) -> None:
        if self._ready and self._parked:
            self._parked.popleft().set()

    # Take: the next batch, each of its cards free of other batches of this worker

    async def take(self) -> Batch:
        """Wait for work and take it: at most `batch_max` requests."""
        while True:
            batch = self._take_ready()
            if batch:
                return batch
            parked = trio.Event()
            self._parked.append(parked)
            try:
                await parked.wait()
            finally:
                if parked in self._parked:
                    self._parked.remove(parked)

    def _take_ready(self) -> Batch:
        batch: Batch = {}
        now = trio.current_time()
        size = 0
        late: list[tuple[Ticket, Answer]] = []
        while self._ready and size < self._batch_max:
            ticket = self._ready.popleft()
            if ticket.deadline <= now:
                late.append((ticket, cannot_decide(ticket, Rule.DEADLINE)))
            elif ticket.card_id in batch:
                batch[ticket.card_id].append(ticket)
                size += 1
            elif ticket.card_id in self._held:
                self._held[ticket.card_id].append(ticket)
                self._waiting += 1
            else:
                self._held[ticket.card_id] = deque()
                batch[ticket.card_id] = [ticket]
                size += 1
        if late:
            self.observer.answered(late)
        self._wake()
        return batch

    def give_back(self, card_ids: Iterable[int]) -> None:
        """These cards are free again: what waited for them goes first, in order of arrival."""
        for card_id in card_ids:
            waiting = self._held.pop(card_id, None)
            self._foreign.pop(card_id, None)
            if waiting:
                self._waiting -= len(waiting)
                self._ready.extendleft(reversed(waiting))
        self._wake()

    def leave_to_other(self, card_id: int, tickets: list[Ticket]) -> None:
        """Another worker has this card: its requests wait here, in front of later ones."""
        self._held[card_id].extendleft(reversed(tickets))
        self._waiting += len(tickets)
        self._foreign[card_id] = trio.current_time() + random.uniform(*FOREIGN_PAUSE_S)  # noqa: S311
        self._foreign_met.set()

    def freed_elsewhere(self, card_ids: Iterable[int]) -> None:
        """Another worker gave these cards back."""
        self.give_back(card_id for card_id in card_ids if card_id in self._foreign)

    async def watch(self) -> None:
        """Ask again for cards of other workers, and answer 91 where a deadline has passed."""
        for turn in itertools.count():
            if self._foreign:
                await trio.sleep(FOREIGN_PAUSE_S[0])
            else:
                self._foreign_met = trio.Event()
                with trio.move_on_after(WATCH_PERIOD_S):
                    await self._foreign_met.wait()
            now = trio.current_time()
            if self._foreign:
                self.give_back([card for card, due in self._foreign.items() if due <= now])
            if turn % 8 == 0:
                self.expire(now)

    def expire(self, now: float) -> None:
        """Answer 91 to what waits longer than its terminal, or to all while Postgres is down."""
        rule = Rule.DEADLINE if self.journal_up else Rule.STORE
        late: list[tuple[Ticket, Answer]] = []
        for queue in (self._ready, *(queue for queue in self._held.values() if queue)):
            before = len(late)
            while queue and (queue[0].deadline <= now or not self.journal_up):
                ticket = queue.popleft()
                late.append((ticket, cannot_decide(ticket, rule)))
            if queue is not self._ready:
                self._waiting -= len(late) - before
        if late:
            self.observer.answered(late)


def cannot_decide(ticket: Ticket, rule: Rule) -> Answer:
    """91: nothing was done, ask again."""
    return _plain(ticket, Response.CANNOT_DECIDE, rule)


def _plain(ticket: Ticket, response: Response, rule: Rule) -> Answer:
    request = ticket.request
    return Answer(response, request.transaction_id, request.rrn or request.transaction_id, rule)


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

    async def run(self) -> None:
        """Take batch after batch, for ever."""
        while True:
            batch = await self._pipeline.take()
            with trio.CancelScope(shield=True):
                await self.carry(batch)

    async def carry(self, batch: Batch) -> None:
        """One batch from reservation to settlement."""
        started = trio.current_time()
        try:
            rows = await self._reserve(batch)
        except Exception as error:  # the rows in Postgres judge without it
            self._observer.fault("reserve", error)
            rows = {}
        if not batch:
            return
        card_ids = list(batch)
        size = sum(map(len, batch.values()))
        settled = await self._carry_safely(batch, rows, cached=True)
        self._observer.batch_committed(size, trio.current_time() - started)
        try:
            await self._settle(card_ids, settled)
        except Exception as error:  # all is committed and answered; the cache may lag
            self._observer.fault("settle", error)
        finally:
            self._pipeline.give_back(card_ids)

    async def _carry_safely(
        self, batch: Batch, rows: dict[int, CardRow], *, cached: bool
    ) -> dict[int, WorkingCard]:
        """Whatever breaks, each request gets one answer, and a bad one spoils only its own card."""
        try:
            return await self._carry_reserved(batch, rows, cached=cached)
        except JournalDown:
            self._refuse_all(batch, Response.CANNOT_DECIDE, Rule.STORE)
        except Exception as error:
            # Alone, and from the row: a state in the cache may name what the journal has lost.
            if len(batch) > 1 or cached:
                return await self._carry_by_card(batch)
            self._observer.fault("row" if isinstance(error, BatchRejected) else "batch", error)
            self._refuse_all(batch, Response.FAULT, Rule.FAULT)
        return {}

    async def _carry_by_card(self, batch: Batch) -> dict[int, WorkingCard]:
        """Each card alone, so that one of them cannot hold up or spoil the others."""
        settled: dict[int, WorkingCard] = {}
        for card_id, tickets in batch.items():
            settled |= await self._carry_safely({card_id: tickets}, {}, cached=False)
        return settled

    # Reserve: this batch alone has its cards; their last known states in hand

    async def _reserve(self, batch: Batch) -> dict[int, CardRow]:
        card_ids = list(batch)
        rows: dict[int, CardRow] = {}
        for card_id, reserved in zip(
            card_ids, await self._reservation.reserve(card_ids), strict=True
        ):
            if reserved.possession is Possession.BUSY:
                self._pipeline.leave_to_other(card_id, batch.pop(card_id))
            elif reserved.row is not None:
                rows[card_id] = reserved.row
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
            if tries >= TRIES_TOGETHER and len(batch) > 1:
                return await self._carry_by_card(batch)
            if not batch:
                return {}
            await trio.sleep(random.uniform(0, 0.002 * min(tries, 10)))  # noqa: S311
        raise AssertionError("unreachable")

    async def _read_rows(
        self, batch: Batch, known: dict[int, CardRow], rows: dict[int, CardRow]
    ) -> None:
        """Rows that are not known, and of cards whose balance is asked: that tells no cache."""
        unread = [
            card_id
            for card_id, tickets in batch.items()
            if card_id not in known
            or any(ticket.request.operation is Operation.BALANCE for ticket in tickets)
        ]
        for card_id in unread:
            rows.pop(card_id, None)
        if unread:
            rows.update(await self._journal.read_cards(unread))

    def _decline_late(self, batch: Batch) -> None:
        """A refused batch did nothing: what has no time left for another try is told so."""
        now = trio.current_time()
        late = []
        for card_id, tickets in list(batch.items()):
            late += [t for t in tickets if t.deadline <= now]
            batch[card_id] = [t for t in tickets if t.deadline > now]
            if not batch[card_id]:
                del batch[card_id]
        self._observer.answered([(t, cannot_decide(t, Rule.DEADLINE)) for t in late])

    async def _decide(self, batch: Batch, rows: dict[int, CardRow]) -> Decided:
        """All requests of the batch, each card's in order of arrival, on working copies."""
        now = self._utc_now()
        moment = Moment(int(now.timestamp()), now.strftime("%y%m"), self._next_batch_id())
        working = {
            card_id: WorkingCard(card_id, row.facts, row.state, row.window)
            for card_id, row in rows.items()
            if card_id in batch
        }
        await self._read_history(batch, working, now)
        answers: list[tuple[Ticket, Answer]] = []
        refusals: list[Refusal] = []
        policy = self._pipeline.policy
        for card_id, tickets in batch.items():
            card = working.get(card_id)
            for ticket in tickets:
                if card is None:
                    answer = unknown_card(ticket.request)
                    refusals.append(self._observer.refusal_of(ticket, answer))
                else:
                    answer = decide(ticket.request, card, moment, policy)
                answers.append((ticket, answer))
        changed = [card for card in working.values() if card.new]
        arguments = None
        if changed or refusals:
            arguments = batch_arguments(moment.batch_id, now, changed, refusals)
        return Decided(answers, working, arguments)

    async def _read_history(
        self, batch: Batch, working: dict[int, WorkingCard], now: datetime.datetime
    ) -> None:
        """Links of the journal, for the requests that cannot be decided without."""
        query = HistoryQuery()
        for card_id, card in working.items():
            for ticket in batch[card_id]:
                request = ticket.request
                if lacks_history(request, card):
                    query.card_ids.add(card_id)
                    query.keys.add(request.key)
                    if request.original_key:
                        query.keys.add(request.original_key)
                    if request.own_request_key:
                        query.keys.add(request.own_request_key)
                    if request.approval_code:
                        query.approval_codes.add(request.approval_code)
                    if request.original_transaction_id:
                        query.transaction_ids.add(request.original_transaction_id)
        if not query.card_ids:
            return
        # A terminal's clock may have been ahead of the switch's: its links are older than they say.
        reach = datetime.timedelta(seconds=self._pipeline.policy.horizon_s) + CLOCK_SLACK
        oldest_month = (now - reach).date().replace(day=1)
        elsewhere: set[tuple[int, bytes]] = set()
        for month in (oldest_month, datetime.date.min):
            for link in await self._journal.read_history(query, month):
                if link.card_id in query.card_ids:
                    working[link.card_id].known[link.version] = link
                elsewhere.add((link.card_id, link.key))
            # A window may name a link from before the horizon: a quiet card forgets nothing.
            if not any(working[card_id].lacks_link(query.keys) for card_id in query.card_ids):
                break
        for card_id in query.card_ids:
            keys = frozenset(key for other, key in elsewhere if other != card_id)
            working[card_id].keys_elsewhere = keys

    def _refuse_all(self, batch: Batch, response: Response, rule: Rule) -> None:
        self._observer.answered(
            [
                (ticket, _plain(ticket, response, rule))
                for tickets in batch.values()
                for ticket in tickets
            ]
        )

    # Settle: the cards go back, with the state that is now committed

    async def _settle(self, card_ids: list[int], settled: dict[int, WorkingCard]) -> None:
        rows = {}
        for card_id, card in settled.items():
            state = card.new[-1].state_after if card.new else card.encoded_state
            rows[card_id] = CardRow(card.encoded_facts, state, card.window.encode())
        if rows:
            await self._reservation.settle(list(rows), list(rows.values()))
        others = [card_id for card_id in card_ids if card_id not in rows]
        if others:
            await self._reservation.release(others, forget=True)
