"""The way of a request that concerns a card: read this file first.

    submit -> take -> reserve -> read -> decide -> commit -> reply -> settle

Every stage takes a whole batch. A *lane* carries one batch at a time through all stages; a worker
has a few lanes, so that one batch is decided while another is being made durable. There are no
timers: the next batch is what arrived while the last one was in flight.

A card belongs to one batch at a time. What arrives for a card that a batch of this worker has,
waits in order of arrival and goes on when the batch returns the card; for a card that another
worker has, it waits for that worker's notice, or a short jittered while, until its deadline. What
needs two cards takes both or none; while it waits, all that comes for either waits behind it.

No answer leaves before its batch is committed, and none is sent on a guess.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol

import trio

from rules.authorize import decide, lacks_history
from rules.booking import Moment, unknown_card
from rules.cards import WorkingCard
from rules.identity import counterpart_key
from rules.ledger import Answer
from rules.policy import Policies
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
from switch.reservation.store import Possession, ReservationStore

__all__ = ["Batch", "Lane", "Pipeline", "PipelineObserver", "Ticket"]

TRIES_TOGETHER = 2
"""Tries of a whole batch; from then on each of its parts is tried alone."""
FOREIGN_PAUSE_S = (0.001, 0.004)
"""How long a card that another worker has is left alone before it is asked for again."""
_TRANSFER = Operation.TRANSFER
_TOLD_WITHOUT_LINK = frozenset({Operation.BALANCE, Operation.LOT_SWEEP, Operation.DORMANCY_FEE})
"""Answers that no version of a row fences: a balance, and that nothing is due."""
WATCH_PERIOD_S = 0.02
"""How often it is looked for what waits too long, while no card is another worker's."""
CLOCK_SLACK = datetime.timedelta(days=2)
"""How much older a link may be than its message's own time says (26 h ahead are accepted)."""


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


class Pipeline:
    """The queue of a worker and the cards its lanes have."""

    def __init__(
        self, observer: PipelineObserver, policies: Policies, *, batch_max: int, queue_max: int
    ) -> None:
        self.observer = observer
        self.policies = policies
        self.journal_up = True
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._ready: deque[Ticket] = deque()
        self._held: dict[int, deque[Ticket]] = {}
        """Cards that are not free, each with what waits for it."""
        self._foreign: dict[int, float] = {}
        self._tied: dict[int, set[int]] = {}
        """Cards with one queue in common, since something waits that needs two of them."""
        self._unowned: set[int] = set()
        """Cards that nobody has, but which something that waits for another card needs as well."""
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
            if batch.tickets:
                return batch
            parked = trio.Event()
            self._parked.append(parked)
            try:
                await parked.wait()
            finally:
                if parked in self._parked:
                    self._parked.remove(parked)

    def _take_ready(self) -> Batch:
        batch = Batch()
        tickets, card_ids = batch.tickets, batch.card_ids
        now = trio.current_time()
        late: list[tuple[Ticket, Answer]] = []
        while self._ready and len(tickets) < self._batch_max:
            ticket = self._ready.popleft()
            card_id = ticket.card_id
            if ticket.deadline <= now:
                late.append((ticket, cannot_decide(ticket, Rule.DEADLINE)))
            elif ticket.other_id or (self._tied and card_id in self._tied):
                self._take_both(ticket, batch)
            elif card_id in card_ids:
                tickets.append(ticket)
            elif card_id in self._held:
                self._held[card_id].append(ticket)
                self._waiting += 1
            else:
                self._held[card_id] = deque()
                card_ids[card_id] = None
                tickets.append(ticket)
        if late:
            self.observer.answered(late)
        self._wake()
        return batch

    def _take_both(self, ticket: Ticket, batch: Batch) -> None:
        """Take all cards that a request needs, or none: then it waits, and what follows behind."""
        taken = [card_id for card_id in ticket.card_ids if card_id not in batch.card_ids]
        if self._tied.keys() & set(ticket.card_ids) or self._held.keys() & set(taken):
            self._queue_of(ticket).append(ticket)
            self._waiting += 1
            return
        for card_id in taken:
            self._held[card_id] = deque()
            batch.card_ids[card_id] = None
        batch.tickets.append(ticket)

    def _queue_of(self, ticket: Ticket) -> deque[Ticket]:
        """Where a request waits: one queue for all cards that it needs, from now on."""
        tied = self._tied.get(ticket.card_id)
        if ticket.other_id and (tied is None or ticket.other_id not in tied):
            tied = set()
            for card_id in ticket.card_ids:
                tied |= self._tied.get(card_id, {card_id})
                if card_id not in self._held:
                    self._held[card_id] = deque()
                    self._unowned.add(card_id)
            queues = {id(queue): queue for queue in (self._held[card_id] for card_id in tied)}
            together = itertools.chain.from_iterable(queues.values())
            queue = deque(sorted(together, key=lambda ticket: ticket.arrived))
            for card_id in tied:
                self._tied[card_id] = tied
                self._held[card_id] = queue
        return self._held[ticket.card_id]

    def give_back(self, card_ids: Iterable[int]) -> None:
        """These cards are free again: what waited for them goes first, in order of arrival."""
        for card_id in card_ids:
            waiting = self._held.pop(card_id, None)
            self._foreign.pop(card_id, None)
            if waiting:
                self._waiting -= len(waiting)
                self._ready.extendleft(reversed(waiting))
            if self._tied:
                self._untie(card_id)
        self._wake()

    def _untie(self, card_id: int) -> None:
        """What waited in this queue looks for its cards anew: the others are as they were."""
        for other_id in self._tied.get(card_id, ()):
            del self._tied[other_id]
            if other_id in self._unowned:
                self._unowned.remove(other_id)
                del self._held[other_id]
            elif other_id != card_id:
                self._held[other_id] = deque()

    def wait_in_front(self, tickets: Sequence[Ticket]) -> None:
        """What a batch could not take along waits for its cards, in front of what came later."""
        for ticket in reversed(tickets):
            self._queue_of(ticket).appendleft(ticket)
        self._waiting += len(tickets)

    def leave_to_others(self, batch: Batch, busy: Container[int]) -> list[int]:
        """Other workers have these cards: what needs one waits. Returns those nothing needs now."""
        had = batch.card_ids
        for card_id in had:
            if card_id in busy:
                pause_s = random.uniform(*FOREIGN_PAUSE_S)  # noqa: S311
                self._foreign[card_id] = trio.current_time() + pause_s
        self._foreign_met.set()
        batch.leave_out(busy)
        self.wait_in_front(batch.left)
        batch.left = []
        spare = [card for card in had if card not in busy and card not in batch.card_ids]
        self._unowned.update(spare)
        return spare

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
        if not batch.tickets:
            return
        card_ids, size = list(batch.card_ids), len(batch.tickets)
        settled = await self._carry_safely(batch, rows, cached=True)
        self._observer.batch_committed(size, trio.current_time() - started)
        try:
            await self._settle(card_ids, settled)
        except Exception as error:  # all is committed and answered; the cache may lag
            self._observer.fault("settle", error)
        finally:
            self._pipeline.wait_in_front(batch.left)
            self._pipeline.give_back(card_ids)

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
        rows: dict[int, CardRow] = {}
        busy = []
        for card_id, reserved in zip(
            card_ids, await self._reservation.reserve(card_ids), strict=True
        ):
            if reserved.row is not None:
                rows[card_id] = reserved.row
            elif reserved.possession is Possession.BUSY:
                busy.append(card_id)
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
        self._observer.answered([(t, _plain(t, response, rule)) for t in batch.tickets])

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
