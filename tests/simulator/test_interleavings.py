"""All orders of a few messages over two workers: one after the other, and step by step at once.

Whatever the order, the judge must be content, and the card must end where the dialect says.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from .judge import verdict
from .memory_journal import NoTrouble
from .memory_reservation import MemoryCache
from .messages import CARD_BASE
from .plan import Action, Card, Op, Plan, Setting, Till
from .world import Delivery, Story, World, play

_OPENING = 1000
SETTING = Setting(
    workers=2,
    lanes=1,
    batch_max=256,
    queue_max=100,
    possession_ms=1000,
    store_ms=0,
    cache_ms=0,
    hold_s=600,
    horizon_s=86_400,
    begins=datetime.datetime(2026, 11, 14, 12, tzinfo=datetime.UTC),
    tills=(Till(501, 0, False, 5000, 20), Till(501, 0, False, 5000, 20)),
    cards=(Card(((_OPENING, 1, True, 0),)),),
)

REDEEM = Action(0, Op.REDEEM, 0, 0, 0, 300)
UNDO = Action(1, Op.REVERSAL, 0, 0, 0, 300, parent=0)
AGAIN = Action(2, Op.REVERSAL, 0, 0, 0, 300, parent=0)
"""Another reversal of the same sale, under a trace number of its own."""
EMPTY = Action(3, Op.REDEEM, 0, 1, 0, 900)
"""A sale over another link that only one of the two can have."""
LOAD = Action(0, Op.LOAD, 0, 0, 0, 400)
SPEND = Action(3, Op.REDEEM, 0, 1, 0, 1200)
HOLD = Action(0, Op.HOLD, 0, 0, 0, 300)
COMPLETE = Action(4, Op.COMPLETION, 0, 0, 0, 250, parent=0, names="90")
STAND_IN = Action(5, Op.ADVICE, 0, 0, 0, 300, parent=0, copies="request")
ASK = Action(6, Op.OUTCOME, 0, 0, 0, parent=0, bars=True)

Message = tuple[Action, int]
"""A message and the worker that gets it."""

SETS = {
    "sale, its repeat, its reversal, its repeat": [REDEEM, REDEEM, UNDO, UNDO],
    "sale, repeat, reversal, repeat, another sale": [REDEEM, REDEEM, UNDO, UNDO, EMPTY],
    "sale, repeat, two reversals, another sale": [REDEEM, REDEEM, UNDO, AGAIN, EMPTY],
    "load, its repeat, its reversal, what spends it": [LOAD, LOAD, UNDO, UNDO, SPEND],
    "hold, reversal, completion, their repeats": [HOLD, UNDO, UNDO, COMPLETE, COMPLETE],
    "hold, its repeat, completion, another sale": [HOLD, HOLD, COMPLETE, COMPLETE, EMPTY],
    "sale, its reversal, a question that bars": [REDEEM, REDEEM, UNDO, ASK, ASK],
    "sale, its stand-in, the reversal": [REDEEM, STAND_IN, STAND_IN, UNDO],
    "sale, its stand-in, the reversal, their repeats": [REDEEM, REDEEM, STAND_IN, STAND_IN, UNDO],
    "hold, its repeat, reversal, its repeat, completion": [HOLD, HOLD, UNDO, UNDO, COMPLETE],
    "hold, reversal, completion, another sale": [HOLD, UNDO, COMPLETE, COMPLETE, EMPTY],
}


_END_S = 3600
"""Of the story's own time: nothing takes so long but what never ends."""


class Script(World):
    """Delivers what it is told in the order it is told."""

    def __init__(
        self, messages: Sequence[Message], *, waits: bool, setting: Setting = SETTING
    ) -> None:
        actions = {action.number: action for action, _ in messages}
        # who is named need not be sent
        named = {0: REDEEM} | actions
        super().__init__(Plan(1, setting, tuple(named.values())))
        self.messages = messages
        self.waits = waits
        self.heard = trio.Event()

    async def play(self) -> None:
        """One delivery after the other, or all at once; repeats until all are decided."""
        with trio.fail_after(_END_S):
            async with trio.open_nursery() as self.network, trio.open_nursery() as running:
                for worker in self.workers:
                    running.start_soon(worker.live)
                await trio.testing.wait_all_tasks_blocked()
                await self.deliver_all(running)
                running.cancel_scope.cancel()

    async def deliver_all(self, running: trio.Nursery) -> None:
        for action, index in self.messages:
            self.deliver(action, self.maker.make(action), index)
            if self.waits:
                await self.answered()
        await self.answered()

    async def answered(self) -> None:
        """Until every delivery has its answer."""
        with trio.fail_after(5):
            while any(delivery.answer is None for delivery in self.story.deliveries):
                self.heard = trio.Event()
                await self.heard.wait()

    def hear(self, delivery: Delivery, answer: dict[str, Any]) -> None:
        """A worker has answered."""
        super().hear(delivery, answer)
        self.heard.set()


def every(messages: list[Action]) -> list[tuple[Action, ...]]:
    """All orders of these, each once."""
    return list({tuple(a.number for a in o): o for o in itertools.permutations(messages)}.values())


def orders(messages: list[Action]) -> Iterator[list[Message]]:
    """All orders, each over both workers in every way (the first message's worker is 0)."""
    for order in every(messages):
        for others in itertools.product((0, 1), repeat=len(order) - 1):
            yield list(zip(order, (0, *others), strict=True))


def ways(messages: list[Action]) -> int:
    """How many orders there are, by the multinomial formula."""
    counts = Counter(action.number for action in messages).values()
    return math.factorial(len(messages)) // math.prod(map(math.factorial, counts))


def told(story: Story) -> str:
    return "\n".join(story.trace)


def check_end(story: Story) -> None:
    """Each message has one answer for good, whoever gave it and how often."""
    numbers = {delivery.action for delivery in story.deliveries} - {ASK.number}
    for number in numbers:
        said = {(d.answer or {})["tx"] for d in story.deliveries if d.action == number}
        assert len(said) == 1, f"#{number} has several answers: {said}\n{told(story)}"


@pytest.mark.parametrize("name", SETS)
def test_every_order_over_two_workers(name: str) -> None:
    count = 0
    for messages in orders(SETS[name]):
        story = play(Script(messages, waits=True))
        assert verdict(story) == "", told(story)
        check_end(story)
        count += 1
    assert count == ways(SETS[name]) * 2 ** (len(SETS[name]) - 1)
    print(f"{name}: {count} orders over two workers")


@pytest.mark.parametrize("name", SETS)
def test_every_order_in_one_batch(name: str) -> None:
    for order in every(SETS[name]):
        story = play(Script([(action, 0) for action in order], waits=False))
        assert verdict(story) == "", told(story)
        check_end(story)


@pytest.mark.parametrize(
    ("first", "amount_minor"),
    [(REDEEM, 300), (LOAD, 400), (HOLD, 300)],
    ids=["sale", "load", "hold"],
)
def test_original_and_reversal_leave_nothing(first: Action, amount_minor: int) -> None:
    undo = Action(1, Op.REVERSAL, 0, 0, 0, amount_minor, parent=0)
    for messages in orders([first, first, undo, undo]):
        row = play(Script(messages, waits=True)).database.rows[CARD_BASE]
        assert (row["ecash_available"], row["ecash_held"], row["status"]) == (_OPENING, 0, 3)


class Gate(NoTrouble):
    """Every call waits at the journal's door until it is let in, or the door stands open."""

    def __init__(self) -> None:
        self.waiting: list[trio.Event] = []
        self._stands_open = False

    def stand_open(self) -> None:
        """All is told: what is under way yet must not keep its lane from ending."""
        self._stands_open = True
        while self.waiting:
            self.waiting.pop().set()

    async def there(self, slow_s: float = 0) -> None:
        """At the door."""
        if self._stands_open:
            return
        event = trio.Event()
        self.waiting.append(event)
        await event.wait()


class Stepwise(Script):
    """All messages at once; which call the journal takes next is a choice."""

    def __init__(
        self,
        messages: Sequence[Message],
        choices: list[int],
        *,
        split: bool,
        batch_max: int = SETTING.batch_max,
    ) -> None:
        setting = dataclasses.replace(SETTING, batch_max=batch_max)
        super().__init__(messages, waits=False, setting=setting)
        self.gate = self.database.trouble = Gate()
        self.choices = choices
        self.made: list[tuple[int, int]] = []
        """Each choice made, and among how many."""
        caches = [MemoryCache() for _ in self.workers]
        self.caches = caches if split else [self.cache] * len(caches)

    def cache_of(self, worker: int) -> MemoryCache:
        """With a split brain, each worker has all cards for itself."""
        return self.caches[worker]

    async def deliver_all(self, running: trio.Nursery) -> None:
        for action, index in self.messages:
            self.deliver(action, self.maker.make(action), index)
        for _ in range(400):
            await trio.testing.wait_all_tasks_blocked()
            if self.gate.waiting:
                count, at = len(self.gate.waiting), len(self.made)
                choice = self.choices[at] if at < len(self.choices) else 0
                self.made.append((choice, count))
                self.gate.waiting.pop(choice).set()
            elif all(delivery.answer for delivery in self.story.deliveries):
                self.gate.stand_open()
                return
            else:
                await trio.sleep(0.001)
        raise AssertionError("it never ends")


def next_choices(made: list[tuple[int, int]]) -> list[int] | None:
    """The next branch of the tree of choices; None after the last."""
    while made:
        choice, count = made.pop()
        if choice + 1 < count:
            return [*(c for c, _ in made), choice + 1]
    return None


RACES = {
    "sale and reversal": [(REDEEM, 0), (UNDO, 1)],
    "sale, and its repeat elsewhere": [(REDEEM, 0), (REDEEM, 1)],
    "two sales that only one can have": [(REDEEM, 0), (EMPTY, 1)],
    "two reversals": [(REDEEM, 0), (UNDO, 0), (AGAIN, 1)],
    "load and reversal and spending": [(LOAD, 0), (UNDO, 1), (SPEND, 1)],
    "hold and completion": [(HOLD, 0), (COMPLETE, 1)],
    "hold, reversal and completion": [(HOLD, 0), (UNDO, 1), (COMPLETE, 0)],
    "sale and a question that bars": [(REDEEM, 0), (ASK, 1)],
    "sale, reversal and both again": [(REDEEM, 0), (UNDO, 1), (REDEEM, 1), (UNDO, 0)],
    "sale and its stand-in": [(REDEEM, 0), (STAND_IN, 1)],
    "sale, its stand-in, the reversal": [(REDEEM, 0), (STAND_IN, 1), (UNDO, 0)],
    "five at once": [(REDEEM, 0), (REDEEM, 1), (UNDO, 0), (UNDO, 1), (EMPTY, 1)],
    "five at once about a hold": [(HOLD, 0), (HOLD, 1), (UNDO, 1), (COMPLETE, 0), (COMPLETE, 1)],
}


def explored(messages: Sequence[Message], *, split: bool, batch_max: int) -> tuple[int, int]:
    """Plays the whole tree of choices: how many leaves it has, and in how many one was stale."""
    choices: list[int] | None = []
    runs = stale = 0
    while choices is not None:
        world = Stepwise(messages, choices, split=split, batch_max=batch_max)
        story = play(world)
        assert verdict(story) == "", f"{choices}\n{told(story)}"
        check_end(story)
        stale += any("stale" in line for line in story.trace)
        choices = next_choices(world.made)
        runs += 1
        assert runs < 20_000, "more than can be looked at"
    return runs, stale


@pytest.mark.parametrize("split", [False, True], ids=["one cache", "split brain"])
@pytest.mark.parametrize("name", RACES)
def test_every_race_at_the_journal(name: str, split: bool) -> None:
    """The whole tree of choices, with the cache's order and without."""
    runs, stale = explored(RACES[name], split=split, batch_max=SETTING.batch_max)
    print(f"{name}, {'split' if split else 'one cache'}: {runs} interleavings")
    if split:
        assert runs > 5
        assert stale > 0


@pytest.mark.parametrize("name", [name for name in RACES if len(RACES[name]) >= 4])
def test_every_race_of_single_messages(name: str) -> None:
    """Each message a batch of its own, each worker with all cards for itself."""
    runs, stale = explored(RACES[name], split=True, batch_max=1)
    print(f"{name}, one by one: {runs} interleavings")
    assert runs > 40
    assert stale > 0


FIVE = {
    "sale": [REDEEM, REDEEM, UNDO, UNDO, STAND_IN],
    "hold": [HOLD, HOLD, UNDO, UNDO, COMPLETE],
}


def dealt(messages: list[Action]) -> list[list[Message]]:
    """All ways to hand these to two workers, each in some order; not which of the two is which."""
    hands: dict[frozenset[tuple[int, ...]], list[Message]] = {}
    for order in orders(messages):
        halves = [[action for action, index in order if index == worker] for worker in (0, 1)]
        hands[frozenset(tuple(a.number for a in half) for half in halves)] = order
    return list(hands.values())


@pytest.mark.parametrize("name", FIVE)
def test_every_race_of_five_messages(name: str) -> None:
    """Original, repeat, reversal, its repeat, completion or advice: dealt in every way, and then
    every order in which the journal can be asked."""
    runs = stale = 0
    hands = dealt(FIVE[name])
    for messages in hands:
        some, some_stale = explored(messages, split=True, batch_max=1)
        runs, stale = runs + some, stale + some_stale
    print(f"{name}: {len(hands)} ways to deal five messages, {runs} interleavings")
    assert len(hands) > 60
    assert runs > 1000
    assert stale > 500
