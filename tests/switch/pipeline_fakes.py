"""A journal, a cache and an observer in memory, with the method names the pipeline calls.

They judge while they run: a card in two batches at once, an approval before its commit and a
request with two answers fail the test there and then.
"""

from __future__ import annotations

import datetime
import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from rules.cards import CardFacts, CardState, CardStatus, PurseState
from rules.identity import content_fingerprint, format_transaction_id, request_key
from rules.ledger import Answer, Link
from rules.lots import Lot
from rules.policy import Policies, Policy
from rules.requests import CardRequest, Operation, Terminal
from switch.journal import migrate as migrations
from switch.journal.journal import BatchRejected, HistoryQuery, JournalDown, Outcome
from switch.journal.rows import CardRow, Refusal, link_from_row
from switch.lane import Lane
from switch.pipeline import Pipeline, Ticket
from switch.reservation.store import Reserved

__all__ = [
    "FakeCache",
    "FakeJournal",
    "FakeObserver",
    "Gate",
    "House",
    "ids",
    "row_with",
    "working",
]

NOW = datetime.datetime(2026, 3, 14, 12, 0, 0, tzinfo=datetime.UTC)
TERMINAL = Terminal(1, 1, network=False)
FACTS = msgspec.msgpack.encode(CardFacts(1, "978", "9912"))


def _parameters() -> tuple[str, ...]:
    folder = Path(migrations.__file__).with_name("migrations")
    for path in sorted(folder.glob("*.sql"), reverse=True):
        found = re.search(r"function append_batch\((.*?)\) returns", path.read_text(), re.DOTALL)
        if found:
            text = re.sub("--.*", "", found[1])
            return tuple(part.split()[0] for part in text.split(","))
    raise AssertionError("no migration defines append_batch")


PARAMETERS = _parameters()


def row_with(balance_minor: int) -> CardRow:
    """An active card's row before its first link, with something on it."""
    state = CardState.new()
    state.status = CardStatus.ACTIVE
    if balance_minor:
        state.lots_made = 1
        state.ecash = PurseState(balance_minor, 0, [Lot(1, balance_minor)])
    return CardRow(FACTS, msgspec.msgpack.encode(state), b"")


def state_in(row: CardRow) -> CardState:
    return msgspec.msgpack.decode(row.state, type=CardState)


NOTHING_MOVED = frozenset({Operation.BALANCE, Operation.LOT_SWEEP, Operation.DORMANCY_FEE})
"""What may be answered without a link."""


class FakeJournal:
    """The committed truth. `before` and `after` are awaited around each append, inside it."""

    def __init__(self) -> None:
        self.rows: dict[int, CardRow] = {}
        self.links: dict[int, list[Link]] = defaultdict(list)
        self.refusals: list[Any] = []
        self.batches: list[dict[str, Any]] = []
        """Every attempt to append, with its arguments by name."""
        self.outcomes: list[Outcome] = []
        self.reads: list[list[int]] = []
        self.history_reads: list[HistoryQuery] = []
        self.archived: dict[int, int] = {}
        """Of cards with archived links, the version of the last one."""
        self.before: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self.after: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self.confirmed = 0
        """How often what was only read was made sure of."""
        self.down = False
        self.poison: set[int] = set()
        self._in_flight: Counter[int] = Counter()

    async def append(self, arguments: tuple[Any, ...]) -> Outcome:
        batch = dict(zip(PARAMETERS, arguments, strict=True))
        self.batches.append(batch)
        cards = batch["c_card"]
        assert list(cards) == sorted(cards), "rows out of order: two batches may deadlock"
        self._in_flight.update(cards)
        assert max(self._in_flight.values(), default=0) <= 1, "a card in two batches at once"
        try:
            await trio.lowlevel.checkpoint()
            if self.before is not None:
                await self.before(batch)
            if self.down:
                raise JournalDown("down")
            if self.poison & set(cards):
                raise BatchRejected("a bad row")
            outcome = self._apply(batch)
            self.outcomes.append(outcome)
            if self.after is not None:
                await self.after(batch)
            return outcome
        finally:
            self._in_flight.subtract(cards)

    async def confirm(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise JournalDown("down")
        self.confirmed += 1

    def _apply(self, batch: dict[str, Any]) -> Outcome:
        cards = batch["c_card"]
        for card_id, version, batch_id in zip(
            cards, batch["c_version_from"], batch["c_batch_from"], strict=True
        ):
            state = state_in(self.rows[card_id])
            if (state.version, state.batch_id) != (version, batch_id):
                return Outcome.STALE
        for card_id, state_after, window in zip(
            cards, batch["c_state"], batch["c_window"], strict=True
        ):
            self.rows[card_id] = CardRow(self.rows[card_id].facts, state_after, window)
        for place, card_id in enumerate(batch["l_card"]):
            link = link_from_row(
                {
                    "card_id": card_id,
                    "version": batch["l_version"][place],
                    "request_key": batch["l_key"][place],
                    "operation": batch["l_operation"][place],
                    "terminal_id": batch["l_terminal"][place],
                    "merchant_id": batch["l_merchant"][place],
                    "purse": batch["l_purse"][place],
                    "amount_minor": batch["l_amount"][place],
                    "available_after": batch["l_after"][place],
                    "held_after": 0,
                    "undoes": batch["l_undoes"][place],
                    "body": batch["l_body"][place],
                }
            )
            assert link.version == len(self.links[card_id]) + 1
            self.links[card_id].append(link)
        self.refusals += batch["r_stan"]
        return Outcome.COMMITTED

    async def read_cards(self, card_ids: Sequence[int]) -> dict[int, CardRow]:
        self.reads.append(list(card_ids))
        await trio.lowlevel.checkpoint()
        if self.down:
            raise JournalDown("down")
        return {card_id: self.rows[card_id] for card_id in card_ids if card_id in self.rows}

    async def read_history(self, query: HistoryQuery, oldest_month: object) -> list[Link]:
        self.history_reads.append(query)
        await trio.lowlevel.checkpoint()
        if self.down:
            raise JournalDown("down")
        return [
            link
            for links in self.links.values()
            for link in links
            if link.key in query.keys
            or (
                link.card_id in query.card_ids
                and (link.undoes or link.answer.transaction_id in query.transaction_ids)
            )
        ]

    async def read_archived(self, card_ids: Sequence[int]) -> list[tuple[int, int]]:
        await trio.lowlevel.checkpoint()
        return [
            (card_id, self.archived[card_id]) for card_id in card_ids if card_id in self.archived
        ]

    def committed(self, card_id: int) -> list[str]:
        """Transaction ids of a card's links, in order."""
        return [link.answer.transaction_id for link in self.links[card_id]]

    def happened(self, card_id: int) -> list[str]:
        """Of each link of a card, the transaction id of the request that it was made for."""
        return [
            link.answer.rrn if link.operation is Operation.RECEIPT else link.answer.transaction_id
            for link in self.links[card_id]
        ]

    def available(self, card_id: int) -> int:
        return state_in(self.rows[card_id]).ecash.available_minor


class FakeCache:
    """The reservation of one lane; all lanes of a house share `states` and `foreign`."""

    def __init__(self, states: dict[int, CardRow], foreign: set[int]) -> None:
        self.states = states
        self.foreign = foreign
        """Cards that another worker has."""
        self.reserved: list[list[int]] = []
        self.settled: list[list[int]] = []
        self.exchanged: list[list[int]] = []
        """What was settled together with the reservation of something else."""
        self.released: list[list[int]] = []
        self.pause_s = 0.0

    async def reserve(
        self, card_ids: Sequence[int], settled: Mapping[int, CardRow] | None = None
    ) -> Reserved:
        if settled:
            self.exchanged.append(list(settled))
            self.states.update(settled)
        self.reserved.append(list(card_ids))
        await trio.sleep(self.pause_s)
        mine = [card_id for card_id in card_ids if card_id not in self.foreign]
        rows = {card_id: self.states[card_id] for card_id in mine if card_id in self.states}
        return Reserved(rows, [card_id for card_id in card_ids if card_id in self.foreign])

    async def settle(self, card_ids: Sequence[int], rows: Sequence[CardRow]) -> None:
        await trio.sleep(self.pause_s)
        self.settled.append(list(card_ids))
        self.states.update(zip(card_ids, rows, strict=True))

    async def release(self, card_ids: Sequence[int], *, forget: bool = False) -> None:
        await trio.sleep(self.pause_s)
        self.released.append(list(card_ids))
        if forget:
            for card_id in card_ids:
                self.states.pop(card_id, None)


class FakeObserver:
    """Takes the answers; each request gets exactly one, no approval before its commit."""

    def __init__(self, journal: FakeJournal) -> None:
        self._journal = journal
        self.answers: dict[Ticket, Answer] = {}
        self.answered_at: dict[Ticket, float] = {}
        self.order: list[Ticket] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.stale = 0
        self.sizes: list[int] = []

    def answered(self, answers: Sequence[tuple[Ticket, Answer]]) -> None:
        for ticket, answer in answers:
            assert ticket not in self.answers, "a request with two answers"
            kept = answer.response.value not in ("14", "30", "63", "91", "94", "96")
            kept &= ticket.card_id not in self._journal.archived
            if kept and ticket.request.operation not in NOTHING_MOVED:
                committed = self._journal.committed(ticket.card_id)
                assert answer.transaction_id in committed, "answered before it was committed"
            self.answers[ticket] = answer
            self.answered_at[ticket] = trio.current_time()
            self.order.append(ticket)

    def refusal_of(self, ticket: Ticket, answer: Answer) -> Refusal:
        return Refusal("pos", "0200", answer.response.value, answer.rule.value, "1", "000001")

    def batch_committed(self, size: int, seconds: float) -> None:
        self.sizes.append(size)

    def batch_stale(self) -> None:
        self.stale += 1

    def fault(self, where: str, error: BaseException) -> None:
        self.faults.append((where, error))


class House:
    """A pipeline with its lanes; `async with house.lanes():` runs them."""

    def __init__(self, *, lanes: int = 2, batch_max: int = 256, queue_max: int = 1000) -> None:
        self.journal = FakeJournal()
        self.states: dict[int, CardRow] = {}
        self.foreign: set[int] = set()
        self.observer = FakeObserver(self.journal)
        self.pipeline = Pipeline(
            self.observer, Policies(Policy()), batch_max=batch_max, queue_max=queue_max
        )
        self.caches = [FakeCache(self.states, self.foreign) for _ in range(lanes)]
        self._batch_ids = itertools.count(1)
        self._numbers = itertools.count(1)

    def run_in(self, nursery: trio.Nursery) -> None:
        """Start the lanes and the watch."""
        for cache in self.caches:
            lane = Lane(
                self.pipeline,
                self.journal,  # type: ignore[arg-type]
                cache,  # type: ignore[arg-type]
                self._batch_ids.__next__,
                lambda: NOW,
            )
            nursery.start_soon(lane.run)
        nursery.start_soon(self.pipeline.watch)

    def cards(self, *card_ids: int, balance_minor: int = 1000) -> None:
        for card_id in card_ids:
            self.journal.rows[card_id] = row_with(balance_minor)

    def ticket(
        self,
        card_id: int,
        operation: Operation = Operation.REDEEM,
        amount_minor: int = 10,
        *,
        within_s: float = 4.0,
        to: int = 0,
        **changes: Any,
    ) -> Ticket:
        """A request that nobody has sent before, or one that differs by `changes`."""
        number = next(self._numbers)
        settings: dict[str, Any] = {
            "operation": operation,
            "key": request_key(int(NOW.timestamp()) + number, f"request {number}"),
            "fingerprint": content_fingerprint(f"{operation}|{amount_minor}"),
            "transaction_id": format_transaction_id(number),
            "rrn": "",
            "terminal": TERMINAL,
            "amount_minor": amount_minor,
        }
        now = trio.current_time()
        request = CardRequest(**(settings | changes))
        return Ticket(request, card_id, now, now + within_s, number, to)

    def transfer(self, card_id: int, to: int, amount_minor: int = 10, **changes: Any) -> Ticket:
        """A request that needs two cards."""
        return self.ticket(card_id, Operation.TRANSFER, amount_minor, to=to, **changes)

    def repeat_of(self, ticket: Ticket) -> Ticket:
        """The same request again, as another message."""
        number = next(self._numbers)
        request = msgspec.structs.replace(
            ticket.request, transaction_id=format_transaction_id(number)
        )
        now = trio.current_time()
        return Ticket(request, ticket.card_id, now, now + 4.0, number, ticket.other_id)

    def submit(self, *tickets: Ticket) -> None:
        self.pipeline.submit(tickets)

    async def answers_to(self, tickets: Iterable[Ticket], within_s: float = 60.0) -> list[str]:
        """The responses, once all are there."""
        wanted = list(tickets)
        with trio.fail_after(within_s):
            while any(ticket not in self.observer.answers for ticket in wanted):
                await trio.sleep(0.001)
        return [self.observer.answers[ticket].response.value for ticket in wanted]

    def rule_for(self, ticket: Ticket) -> str:
        return self.observer.answers[ticket].rule.value


def random_pauses(seed: int) -> Callable[[dict[str, Any]], Awaitable[None]]:
    """Appends that take now longer, now shorter."""
    chance = random.Random(seed)

    async def pause(_: dict[str, Any]) -> None:
        await trio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02]))

    return pause


class Gate:
    """Holds appends of certain cards, or of all where none is named, until it is opened."""

    def __init__(self, *card_ids: int) -> None:
        self._card_ids = set(card_ids)
        self.reached = trio.Event()
        self.open = trio.Event()

    async def __call__(self, batch: dict[str, Any]) -> None:
        if not self._card_ids or self._card_ids & set(batch["c_card"]):
            self.reached.set()
            await self.open.wait()


def ids(tickets: list[Ticket]) -> list[str]:
    """The requests, by their transaction ids."""
    return [ticket.request.transaction_id for ticket in tickets]


@asynccontextmanager
async def working(house: House) -> AsyncIterator[trio.Nursery]:
    """The house at work. At the end no append is held any more: lanes finish what they have."""
    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            house.run_in(nursery)
            try:
                yield nursery
            finally:
                for gate in (house.journal.before, house.journal.after):
                    if isinstance(gate, Gate):
                        gate.open.set()
                nursery.cancel_scope.cancel()
