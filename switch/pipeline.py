"""The way of a request that concerns a card: read this file first, then `switch/lane.py`.

    submit -> take -> reserve -> read -> decide -> commit -> reply -> settle

Every stage takes a whole batch. A *lane* carries one batch at a time through all stages; a worker
has a few lanes, so that one batch is decided while another is being made durable. No batch waits
to be filled: the next one is what arrived while the last one was in flight. While a lane is on its
way, another one sets out only with a batch that is worth it, or when nothing has moved for a while:
each batch has its price in every process, however small it is (docs/performance.md).

A card belongs to one batch at a time. What arrives for a card that a batch of this worker has,
waits in order of arrival and goes on when the batch returns the card; for a card that another
worker has, it waits for that worker's notice, or a short jittered while, until its deadline. What
needs two cards takes both or none; while it waits, all that comes for either waits behind it.

No answer leaves before its batch is committed, and none is sent on a guess.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Protocol

import trio

from rules.ledger import Answer
from rules.policy import Policies
from rules.responses import Response, Rule
from switch.batch import Batch, Ticket
from switch.journal.rows import Refusal

__all__ = ["Batch", "Pipeline", "PipelineObserver", "Ticket", "cannot_decide", "without_effect"]

FURTHER_BATCH_MIN = 24
"""Requests that are worth a further batch, for each one that is on its way."""
HASTEN_AFTER_S = 0.01
"""What is on its way may be held up if none was taken for so long: then a small batch goes, too."""
FOREIGN_PAUSE_S = (0.001, 0.004)
"""How long a card that another worker has is left alone before it is asked for again."""
WATCH_PERIOD_S = 0.02
"""How often it is looked for what waits too long, and for a batch that is held up, while no card is
another worker's."""


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
        self._further_batch_min = min(FURTHER_BATCH_MIN, batch_max)
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
        self._on_the_way = 0
        """Batches that lanes carry."""
        self._taken_at = 0.0

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
        if self._parked and self._is_worth_a_batch():
            self._parked.popleft().set()

    def _is_worth_a_batch(self) -> bool:
        if not self._ready:
            return False
        if len(self._ready) >= self._further_batch_min * self._on_the_way:
            return True
        return trio.current_time() >= self._taken_at + HASTEN_AFTER_S

    # Take: the next batch, each of its cards free of other batches of this worker

    async def take(self) -> Batch:
        """Wait for work and take it: at most `batch_max` requests. Say `carried` afterwards."""
        while True:
            batch = self.take_at_once()
            if batch.tickets:
                return batch
            parked = trio.Event()
            self._parked.append(parked)
            try:
                await parked.wait()
            finally:
                if parked in self._parked:
                    self._parked.remove(parked)

    def take_at_once(self, last_cards: Collection[int] = ()) -> Batch:
        """The same without waiting: an empty batch where there is nothing that is worth one.

        `last_cards` are those of the lane's last batch: what the next one needs of them goes over
        to it, before anything else has its turn; the others stay the lane's until it gives them
        back.
        """
        self._free(last_cards)
        batch = Batch()
        if self._is_worth_a_batch():
            batch = self._take_ready()
        for card_id in last_cards:
            if card_id in batch.card_ids:
                continue
            if card_id in self._unowned:
                self._unowned.remove(card_id)  # what waits for it has a queue for it already
            else:
                self._held[card_id] = deque()
        if batch.tickets:
            self._on_the_way += 1
            self._taken_at = trio.current_time()
        self._wake()
        return batch

    def carried(self) -> None:
        """A batch that was taken is answered. The lane takes the next one itself, if there is."""
        self._on_the_way -= 1

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
        self._free(card_ids)
        self._wake()

    def _free(self, card_ids: Iterable[int]) -> None:
        for card_id in card_ids:
            waiting = self._held.pop(card_id, None)
            self._foreign.pop(card_id, None)
            if waiting:
                self._waiting -= len(waiting)
                self._ready.extendleft(reversed(waiting))
            if self._tied:
                self._untie(card_id)

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
        """Ask again for cards of other workers, answer 91 where a deadline has passed, and let a
        small batch go where others are held up."""
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
            self._wake()

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
    return without_effect(ticket, Response.CANNOT_DECIDE, rule)


def without_effect(ticket: Ticket, response: Response, rule: Rule) -> Answer:
    """An answer that no card had a part in."""
    request = ticket.request
    return Answer(response, request.transaction_id, request.rrn or request.transaction_id, rule)
