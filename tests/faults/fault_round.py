"""One round: a fault on a stack, under load, and the judgement after it."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fault_invariants import Seen, check, demand
from fault_load import REPLY_TIMEOUT_S, Cast, Load, Switch, longest_gap_s, running
from fault_stack import Apart, Plain, Stack
from fault_switch import BrokenSwitch

__all__ = ["Cannot", "Fault", "Scene", "cast_of", "fault", "faults", "play"]

TILLS = 12


class Cannot(Exception):
    """This machine does not allow the fault; the text says why."""


def cast_of(switch: BrokenSwitch) -> Cast:
    """Fresh cards: a few that everybody wants, some that are mostly free."""
    cards = switch.cards
    return Cast(
        hot=[cards.active() for _ in range(3)],
        cold=[cards.active() for _ in range(20)],
        poor=[cards.active() for _ in range(2)],
    )


class Scene:
    """Where a fault is played: the stack, the load, and what is counted and measured."""

    def __init__(self, stack: Stack, seed: str, *, brief: bool = False) -> None:
        """`brief`: the same faults, fewer of them."""
        self.stack = stack
        self.brief = brief
        self.seed = seed
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.measures: dict[str, float] = {}
        self.loads: list[Load] = []

    @property
    def switch(self) -> BrokenSwitch:
        return self.stack.switch

    @property
    def apart(self) -> Apart:
        assert isinstance(self.stack, Apart)
        return self.stack

    @contextlib.contextmanager
    def load(
        self,
        *,
        tills: int = TILLS,
        through: Switch | None = None,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> Iterator[Load]:
        """Tills at work while the block runs, all settled after it."""
        switch = self.switch
        seed = f"{self.seed} {len(self.loads)}"
        entries, cast = switch.pos_entries[:tills], cast_of(switch)
        with running(through or switch, entries, cast, seed, reply_timeout_s) as load:
            self.loads.append(load)
            yield load

    def pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self.chance.uniform(least_s, most_s))

    def judge(self) -> Seen:
        """All invariants, over the whole database and all that the tills heard."""
        record = [asked for load in self.loads for asked in load.record]
        seen = check(self.switch.postgres_url, record)
        demand(seen.approved > 50, "hardly any load", seen)
        self.counts["requests"] += seen.asked
        self.counts["messages"] += sum(len(asked.attempts) for asked in record)
        self.counts["approvals"] += seen.approved
        self.counts["repeats"] += sum(len(asked.attempts) - 1 for asked in record)
        self.counts["unanswered"] += seen.unanswered
        self.counts["turned away"] += seen.turned_away
        self.counts["reversals"] += seen.reversed
        return seen

    def met(self, happened: object, fault: str) -> None:
        """Whether the fault was really there; a round that missed it proves nothing."""
        demand(bool(happened), f"the fault was not met: {fault}")

    def approved_again(self, name: str, after: float) -> None:
        """Measure the longest time in which nobody was approved, after that moment."""
        record = [asked for load in self.loads for asked in load.record]
        self.measure(name, longest_gap_s(record, after))

    def measure(self, name: str, seconds: float) -> None:
        """Keep a time; of several in one round the longest."""
        self.measures[name] = max(self.measures.get(name, 0.0), seconds)


@dataclass(frozen=True)
class Fault:
    """One kind of fault of a row of the matrix."""

    row: str
    name: str
    on: type[Stack]
    play: Callable[[Scene], Any]


_FAULTS: dict[str, list[Fault]] = {}


def fault(row: str, name: str, on: type[Stack] = Plain) -> Callable[[Any], Any]:
    """Puts a function among the faults of a row."""

    def register(function: Callable[[Scene], Any]) -> Callable[[Scene], Any]:
        _FAULTS.setdefault(row, []).append(Fault(row, name, on, function))
        return function

    return register


def faults() -> dict[str, list[Fault]]:
    """All faults by row."""
    return dict(sorted(_FAULTS.items(), key=lambda item: int(item[0][1:])))


def play(one: Fault, stack: Stack, seed: str, *, brief: bool = False) -> Scene:
    """Play one round; Broken, or whatever the tills fell over, when an invariant does not hold."""
    scene = Scene(stack, seed, brief=brief)
    stack.switch.until_whole()
    one.play(scene)
    scene.counts["rounds"] += 1
    return scene
