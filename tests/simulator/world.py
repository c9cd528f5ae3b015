"""The world of a plan: stores that fail, workers that die, terminals that ask again.

`run` plays a plan under a clock that jumps, with deterministic scheduling. The same plan gives the
same story in every process.
"""

from __future__ import annotations

import contextlib
import datetime
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio
from trio._core import _run as trio_internals

from rules.cards import CardState, CardStatus, PurseState
from rules.lots import Lot, Origin
from switch import pipeline

from . import worker as workers
from .clock import JumpingClock, pause
from .memory_journal import AppendFault, MemoryDatabase, NoTrouble, ReadFault
from .memory_reservation import CacheFault, MemoryCache, NoCacheTrouble
from .messages import CARD_BASE, Maker, Sent
from .plan import Action, Fault, Op, Plan

__all__ = ["Delivery", "Story", "World", "play", "run"]

CLOCK_AHEAD_S = 26 * 3600
_REPLY_AWAITED_S = 0.3
_TRIES_MAX = 100
_UNSETTLED = frozenset({"30", "63", "91", "96"})
_END_S = 3600
_LAST_ANSWERS_S = 5
_WATCH_PERIOD_S = 0.05
"""Longer than a worker's own: most of what happens in a quiet story would be the looking."""


@dataclass(slots=True)
class Delivery:
    """One arrival of a message at a worker, and what was answered."""

    number: int
    action: int
    message: dict[str, Any]
    worker: int
    arrived_at: int
    """Links in the journal when it arrived."""
    answer: dict[str, Any] | None = None
    answered_at: int = -1
    """Links in the journal when it was answered."""
    times_s: tuple[int, ...] = ()
    """Its worker's wall clock when it arrived and when it was answered."""
    lost: bool = False
    """Its worker died with it."""


@dataclass
class Story:
    """What happened."""

    plan: Plan
    trace: list[str] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was seen to be wrong while it happened."""
    database: MemoryDatabase = field(default_factory=MemoryDatabase)
    openings: dict[int, list[tuple[int, int, int, bool, int]]] = field(default_factory=dict)
    """A card's lots as issued: id, amount, origin, cashable, day of expiry."""
    struck: list[Fault] = field(default_factory=list)
    """The faults that came to pass."""


class Trouble(NoTrouble, NoCacheTrouble):
    """The faults of a plan, each at its call; latencies from the story's chance."""

    def __init__(self, world: World, longest_ms: float) -> None:
        self._world = world
        self._longest_s = longest_ms / 1000
        self._calls: dict[type, int] = defaultdict(int)
        self._faults = {(type(fault.kind), fault.call): fault for fault in world.plan.faults}

    def latency_s(self) -> float:
        return self._world.chance.random() * self._longest_s

    def append_fault(self) -> tuple[AppendFault | None, float]:
        return self._next(AppendFault)

    def read_fault(self) -> tuple[ReadFault | None, float]:
        return self._next(ReadFault)

    def cache_fault(self) -> tuple[CacheFault | None, float]:
        return self._next(CacheFault)

    def _next(self, kind: type) -> tuple[Any, float]:
        call = self._calls[kind]
        self._calls[kind] += 1
        fault = self._faults.get((kind, call))
        if fault is None:
            return None, 0
        self._world.say(f"fault: {kind.__name__} {fault.kind.value}")
        self._world.story.struck.append(fault)
        return fault.kind, fault.time_ms / 1000

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        async def wait() -> None:
            await pause(delay_s)
            action()
            self._world.say("a late call is done")

        self._world.network.start_soon(wait)


def day_of(instant: datetime.datetime) -> int:
    """Days since 1970-01-01."""
    return int(instant.timestamp()) // 86_400


class Steps(trio.abc.Instrument):
    """Counts the scheduler's steps, and kills who is to die at one of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._crashes = defaultdict(list)
        for crash in world.plan.crashes:
            self._crashes[crash.step].append(crash.worker)
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        for index in self._crashes.pop(self.count, ()):
            self._world.workers[index].kill()


class Asking:
    """Where an action stands: what its terminal has heard."""

    def __init__(self) -> None:
        self.heard = trio.Event()
        self.over = trio.Event()
        self.answer: dict[str, Any] | None = None
        self.replies = 0


class World:
    """Everything of one story."""

    network: trio.Nursery

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed * 7 + 1)
        self.story = Story(plan)
        self.maker = Maker(plan)
        store, cache = plan.setting.store_ms, plan.setting.cache_ms
        self.database = MemoryDatabase(Trouble(self, store))
        self.cache = MemoryCache(Trouble(self, cache))
        self.story.database = self.database
        self.jumped_s = [0] * plan.setting.workers
        self.runs = 0
        self.workers = [workers.Worker(self, index) for index in range(plan.setting.workers)]
        self._asking = {action.number: Asking() for action in plan.actions}
        for number, card in enumerate(plan.setting.cards):
            self._issue(CARD_BASE + number, card.lots)

    def _issue(self, card_id: int, lots: tuple[tuple[int, int, bool, int], ...]) -> None:
        state = CardState.new()
        state.status = CardStatus.ACTIVE
        made = [
            Lot(n, amount, Origin(origin), cashable, expires)
            for n, (amount, origin, cashable, expires) in enumerate(lots, 1)
        ]
        total = sum(lot.available_minor for lot in made)
        state.ecash, state.lots_made = PurseState(total, 0, made), len(made)
        state.ends_from = state.first_end()
        state.last_active_day = day_of(self.plan.setting.begins)
        self.database.issue(
            card_id, bytes(12), workers.encode(state), ecash_available=total, status=3
        )
        self.story.openings[card_id] = [(n, *lot) for n, lot in enumerate(lots, 1)]

    def cache_of(self, _worker: int) -> MemoryCache:
        """The cache that a worker sees."""
        return self.cache

    def say(self, text: str) -> None:
        """One line of the trace."""
        self.story.trace.append(f"{trio.current_time():.6f} {text}")

    def utc_now(self, worker: int) -> datetime.datetime:
        """The wall clock of a worker."""
        seconds = trio.current_time() + self.jumped_s[worker]
        return self.plan.setting.begins + datetime.timedelta(seconds=seconds)

    # The course of things

    async def play(self) -> None:
        """Start workers and terminals; end when every terminal has its answers."""
        with trio.move_on_after(_END_S) as in_time:
            async with trio.open_nursery() as self.network, trio.open_nursery() as running:
                for worker in self.workers:
                    running.start_soon(worker.live)
                running.start_soon(self._jump)
                async with trio.open_nursery() as actions:
                    for action in self.plan.actions:
                        actions.start_soon(self._act, action, actions)
                await pause(0.3)
                with trio.move_on_after(_LAST_ANSWERS_S):  # a late double, a store that is slow
                    while any(d.answer is None and not d.lost for d in self.story.deliveries):
                        await pause(0.05)
                running.cancel_scope.cancel()
        if in_time.cancelled_caught:
            self.story.problems.append("it never ends")

    async def _jump(self) -> None:
        for jump in sorted(self.plan.jumps, key=lambda jump: jump.at_ms):
            await pause(max(jump.at_ms / 1000 - trio.current_time(), 0))
            self.say(f"clock of {jump.worker} jumps {jump.seconds} s")
            for index in range(len(self.jumped_s)):
                if jump.worker in (None, index):
                    self.jumped_s[index] += jump.seconds

    async def _act(self, action: Action, nursery: trio.Nursery) -> None:
        """One message, from its terminal's side."""
        asking = self._asking[action.number]
        try:
            parent = self.maker.parent(action)
            if parent is not None and action.waits:
                await self._asking[parent.number].over.wait()
            await pause(max(action.at_ms / 1000 - trio.current_time(), 0))
            sent = self._make(action, parent)
            if sent is None:
                return
            for delay_ms in action.duplicates_ms:
                nursery.start_soon(self._travel, action, sent, delay_ms / 1000)
            await self._ask(action, sent, asking, nursery)
        finally:
            asking.over.set()

    def _make(self, action: Action, parent: Action | None) -> Sent | None:
        """The message, unless it is about an answer that never came."""
        heard = self._asking[parent.number].answer if parent is not None else None
        if action.op in (Op.SWEEP, Op.FEE):
            return self.maker.sweep(action, int(self.utc_now(0).timestamp()))
        if action.op is Op.EXPIRY:
            assert parent is not None
            links = self.database.links_of(CARD_BASE + action.card)
            key = self.maker.key(parent)
            version = next((x["version"] for x in links if x["request_key"] == key), 0)
            return self.maker.make(action, hold=version) if version else None
        needs_answer = action.op is Op.RETURN or action.names in ("OR", "38")
        if needs_answer and (heard is None or heard["code"] not in ("00", "10")):
            return None
        return self.maker.make(
            action,
            tx=heard["tx"] if heard else "",
            approval=heard["approval"] if heard else "",
        )

    async def _ask(self, action: Action, sent: Sent, asking: Asking, nursery: trio.Nursery) -> None:
        """Send it, and again, until it is answered."""
        for tries in range(_TRIES_MAX):
            asking.heard = trio.Event()
            if tries >= action.requests_lost:
                nursery.start_soon(self._travel, action, sent, 0)
            with trio.move_on_after(_REPLY_AWAITED_S):
                await asking.heard.wait()
            if asking.answer is not None or action.gives_up:
                return
            await pause(0.1 + self.chance.random() * 0.1)
        self.story.problems.append(f"action {action.number} was never answered")

    async def _travel(self, action: Action, sent: Sent, delay_s: float) -> None:
        """Through the network to any worker."""
        await pause(delay_s + self.chance.random() * 0.003)
        self.deliver(action, sent, self.chance.randrange(len(self.workers)))

    def deliver(self, action: Action, sent: Sent, index: int) -> Delivery:
        """A message arrives at a worker."""
        delivery = Delivery(
            len(self.story.deliveries),
            action.number,
            sent.message,
            index,
            len(self.database.links),
            times_s=(int(self.utc_now(index).timestamp()),),
        )
        self.story.deliveries.append(delivery)
        about = f"{sent.message['op']} #{action.number} ({delivery.number}) to worker {index}"
        self.say(about)
        if self._is_out_of_time(sent, index):
            self.hear(delivery, {"code": "12", "tx": "", "approval": ""})
        else:
            self.workers[index].submit(sent, delivery)
        return delivery

    def _is_out_of_time(self, sent: Sent, index: int) -> bool:
        """Refused by the translation already: a request too old, or too far ahead."""
        instant_s = sent.message["instant"]
        if not instant_s or sent.message["op"] in (
            Op.REVERSAL,
            Op.OUTCOME,
            Op.ADVICE,
            Op.COMPLETION,
        ):
            return False
        age_s = int(self.utc_now(index).timestamp()) - instant_s
        return not -CLOCK_AHEAD_S <= age_s <= self.plan.setting.horizon_s

    def hear(self, delivery: Delivery, answer: dict[str, Any]) -> None:
        """A worker has answered: kept for the judge, and on its way to the terminal."""
        if delivery.answer is not None:
            self.story.problems.append(f"delivery {delivery.number} was answered twice")
        delivery.answer, delivery.answered_at = answer, len(self.database.links)
        delivery.times_s += (int(self.utc_now(delivery.worker).timestamp()),)
        said = " ".join(str(value) for value in answer.values() if value)
        self.say(f"#{delivery.action} ({delivery.number}) answered {said}")
        self.network.start_soon(self._reply, delivery)

    async def _reply(self, delivery: Delivery) -> None:
        await pause(self.chance.random() * 0.003)
        asking = self._asking[delivery.action]
        action = self.maker.action(delivery.action)
        asking.replies += 1
        if asking.replies <= action.replies_lost or delivery.answer is None:
            return
        if delivery.answer["code"] not in _UNSETTLED and asking.answer is None:
            asking.answer = delivery.answer
        asking.heard.set()


class _Dice(random.Random):
    """Trio's dice for this thread's loop. Loops of other threads throw those they had."""

    def __init__(self, seed: int, others: random.Random) -> None:
        super().__init__(seed)
        self._thread = threading.get_ident()
        self._others = others

    def random(self) -> float:
        """The next throw."""
        own = threading.get_ident() == self._thread
        return super().random() if own else self._others.random()


@contextlib.contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Trio's scheduling and the module `random` from a seed, and as they were afterwards."""
    before = random.getstate(), trio_internals._r
    allowed = trio_internals._ALLOW_DETERMINISTIC_SCHEDULING
    period_s, pipeline.WATCH_PERIOD_S = pipeline.WATCH_PERIOD_S, _WATCH_PERIOD_S
    try:
        trio_internals._ALLOW_DETERMINISTIC_SCHEDULING = True
        random.seed(seed)
        trio_internals._r = _Dice(seed, before[1])
        yield
    finally:
        random.setstate(before[0])
        trio_internals._r = before[1]
        trio_internals._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        pipeline.WATCH_PERIOD_S = period_s


def run(plan: Plan) -> Story:
    """Play a plan."""
    return play(World(plan))


def play(world: World) -> Story:
    """Let a world go its way."""
    with _deterministic(world.plan.seed):
        steps = Steps(world)
        trio.run(world.play, clock=JumpingClock(), instruments=[steps])
    world.story.trace.append(f"{steps.count} steps")
    return world.story
