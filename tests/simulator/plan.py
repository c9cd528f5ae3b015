"""What a seed stands for: who sends what and when, what breaks, and how the world is set up.

A plan is data. It is drawn once from its seed; a story is made shorter by leaving entries out.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import random
from dataclasses import dataclass

from .memory_journal import AppendFault, ReadFault
from .memory_reservation import CacheFault

__all__ = [
    "Action",
    "Card",
    "Crash",
    "Fault",
    "Jump",
    "Op",
    "Plan",
    "Setting",
    "Terms",
    "Till",
    "draw",
]


class Op(enum.StrEnum):
    """What a terminal does."""

    REDEEM = "redeem"
    LOAD = "load"
    RETURN = "return"
    CASH_OUT = "cash_out"
    BALANCE = "balance"
    HOLD = "hold"
    COMPLETION = "completion"
    ADVICE = "advice"
    EXPIRY = "expiry"
    TRANSFER = "transfer"
    REVERSAL = "reversal"
    OUTCOME = "outcome"
    SWEEP = "sweep"
    FEE = "fee"


@dataclass(frozen=True)
class Action:
    """One message, with its repeats and with what the network does to them."""

    number: int
    op: Op
    at_ms: int
    till: int
    card: int
    amount_minor: int = 0
    to_card: int | None = None
    """Which card a transfer goes to (one past the last: one that does not exist), or which one its
    reversal names."""
    parent: int | None = None
    """The action that this one is about."""
    waits: bool = False
    """It is sent when the parent has been answered, if that is later than its time."""
    names: str = ""
    """How a completion names its hold: "OR", "38" or "90"."""
    copies: str = ""
    """ "request": an advice of the parent's own number; "content": its key, another amount."""
    partial: bool = False
    reason: str = "time_out"
    final_minor: int | None = None
    bars: bool = False
    requests_lost: int = 0
    replies_lost: int = 0
    duplicates_ms: tuple[int, ...] = ()
    """When the network delivers it once more, after its time."""
    gives_up: bool = False
    """It is sent once and never repeated."""
    misdirected: bool = False
    """It names the original's card wrongly: the next card, or one that does not exist."""


@dataclass(frozen=True)
class Fault:
    """A fault of a store, at its n-th call of that kind."""

    kind: AppendFault | ReadFault | CacheFault
    call: int
    time_ms: int


@dataclass(frozen=True)
class Crash:
    """A worker dies at this step of the scheduler."""

    step: int
    worker: int


@dataclass(frozen=True)
class Jump:
    """The wall clock of one worker, or of all (None), is set."""

    at_ms: int
    worker: int | None
    seconds: int


@dataclass(frozen=True)
class Till:
    """A terminal: whose it is, how wrong its clock is, what it may."""

    merchant: int
    skew_s: int
    by_batch: bool
    """Its messages carry a batch number and no time."""
    floor_limit_minor: int
    tolerance_percent: int


@dataclass(frozen=True)
class Card:
    """A card as issued: its lots, each (amount, origin, cashable, day of expiry)."""

    lots: tuple[tuple[int, int, bool, int], ...]


@dataclass(frozen=True)
class Terms:
    """What the programme limits, and what it takes of idle cards; 0 for nothing of it."""

    transaction: int = 0
    day: int = 0
    times: int = 0
    balance: int = 0
    fee_after: int = 0
    """Whole months."""
    fee: int = 0


@dataclass(frozen=True)
class Setting:
    """The world."""

    workers: int
    lanes: int
    batch_max: int
    queue_max: int
    possession_ms: int
    store_ms: float
    """The longest way to the journal and back is about twice this."""
    cache_ms: float
    hold_s: int
    horizon_s: int
    begins: datetime.datetime
    tills: tuple[Till, ...]
    cards: tuple[Card, ...]
    terms: Terms = Terms()


@dataclass(frozen=True)
class Plan:
    """A whole story before it happens."""

    seed: int
    setting: Setting
    actions: tuple[Action, ...] = ()
    faults: tuple[Fault, ...] = ()
    crashes: tuple[Crash, ...] = ()
    jumps: tuple[Jump, ...] = ()

    def without(self, entry: object) -> Plan:
        """The same plan less one entry (and less what is about an action left out)."""
        actions, gone = [], set()
        for action in sorted(self.actions, key=lambda action: action.number):
            if action == entry or action.parent in gone:
                gone.add(action.number)
            else:
                actions.append(action)
        return dataclasses.replace(
            self,
            actions=tuple(actions),
            faults=tuple(fault for fault in self.faults if fault != entry),
            crashes=tuple(crash for crash in self.crashes if crash != entry),
            jumps=tuple(jump for jump in self.jumps if jump != entry),
        )

    @property
    def entries(self) -> list[object]:
        """All that can be left out, the last action first."""
        return [*self.crashes, *self.jumps, *self.faults, *reversed(self.actions)]

    def lines(self) -> list[str]:
        """The plan as somebody reads it."""
        short = [_short(self.setting)]
        for entry in [*self.actions, *self.faults, *self.crashes, *self.jumps]:
            short.append(_short(entry))
        return short


def _short(entry: object) -> str:
    """A dataclass without the fields that have their defaults."""
    assert dataclasses.is_dataclass(entry)
    said = [
        f"{f.name}={value.value if isinstance(value, enum.Enum) else value}"
        for f in dataclasses.fields(entry)
        if (value := getattr(entry, f.name)) != f.default
    ]
    return f"{type(entry).__name__} {' '.join(said)}"


_WEIGHTS = {
    Op.REDEEM: 30,
    Op.LOAD: 12,
    Op.RETURN: 8,
    Op.CASH_OUT: 2,
    Op.BALANCE: 4,
    Op.HOLD: 12,
    Op.COMPLETION: 12,
    Op.ADVICE: 8,
    Op.EXPIRY: 3,
    Op.TRANSFER: 14,
    Op.REVERSAL: 28,
    Op.OUTCOME: 8,
}
_PARENTS = {
    Op.RETURN: {Op.REDEEM, Op.ADVICE, Op.COMPLETION},
    Op.COMPLETION: {Op.HOLD},
    Op.EXPIRY: {Op.HOLD},
    Op.REVERSAL: set(Op) - {Op.EXPIRY, Op.OUTCOME},
    Op.OUTCOME: set(Op) - {Op.EXPIRY, Op.OUTCOME, Op.BALANCE},
}


def draw(seed: int) -> Plan:
    """The plan of a seed.

    Each has its own mixture: some operations are left out, others come often, a few kinds of faults
    strike. What is always mixed alike never shows what only another mixture brings about.
    """
    chance = random.Random(seed)
    setting = _draw_setting(chance)
    weights = _draw_weights(chance)
    count = chance.choice((8, 16, 24, 40))
    span_ms = chance.choice((5, 60, 400, 1200))
    if seed % 8 == 0:  # a flood: more than a window's worth of messages for one card in one batch
        count, span_ms = 48, 5
        setting = dataclasses.replace(
            setting, workers=1, batch_max=256, queue_max=10_000, cards=setting.cards[:1]
        )
    actions: list[Action] = []
    for number in range(count):
        actions.append(_draw_action(chance, setting, weights, actions, number, span_ms))
    rate = chance.choice((0, 0.02, 0.1, 0.25))
    faults: list[Fault] = []
    for enumeration, calls in ((AppendFault, count), (ReadFault, count), (CacheFault, 3 * count)):
        kinds = list(enumeration)
        if chance.random() < 0.5:
            kinds = chance.sample(kinds, chance.randint(1, 2))
        for call in range(calls):
            if chance.random() < rate:
                time_ms = chance.choice((1, 10, 80, 300))
                faults.append(Fault(chance.choice(kinds), call, time_ms))
    crashes = [
        Crash(chance.randrange(40, 60 + 30 * count), chance.randrange(setting.workers))
        for _ in range(chance.choice((0, 0, 1, 3)))
    ]
    jumps = [_draw_jump(chance, setting, span_ms) for _ in range(chance.choice((0, 0, 0, 1, 2)))]
    setting, sweeps = _draw_time(random.Random(seed * 7 + 2), setting, count, span_ms)
    actions += sweeps
    return Plan(seed, setting, tuple(actions), tuple(faults), tuple(crashes), tuple(jumps))


def _draw_time(
    chance: random.Random, setting: Setting, count: int, span_ms: int
) -> tuple[Setting, list[Action]]:
    """Limits and fees in some stories, sweepers in most: with dice of their own."""
    terms = Terms()
    if chance.random() < 0.3:
        terms = Terms(
            transaction=chance.choice((0, 0, 400)),
            day=chance.choice((0, 300, 1_500)),
            times=chance.choice((0, 0, 2, 6)),
            balance=chance.choice((0, 0, 1_200, 6_000)),
        )
    if chance.random() < 0.4:
        terms = dataclasses.replace(terms, fee_after=1, fee=chance.choice((40, 2_000)))
    sweeps = [
        Action(
            number,
            chance.choice((Op.SWEEP, Op.FEE) if terms.fee else (Op.SWEEP,)),
            at_ms=chance.randrange(span_ms + 1_500),
            till=0,
            card=chance.randrange(len(setting.cards)),
            duplicates_ms=chance.choice(((), (0,), (3, 300))),
        )
        for number in range(count, count + chance.choice((0, 1, 3, 6)))
    ]
    return dataclasses.replace(setting, terms=terms), sweeps


def _draw_weights(chance: random.Random) -> dict[Op, int]:
    """How often each operation comes: as usual in one seed of three."""
    if chance.random() < 0.33:
        return dict(_WEIGHTS)
    weights = {op: weight * chance.choice((0, 1, 1, 4)) for op, weight in _WEIGHTS.items()}
    return weights | {Op.REDEEM: max(weights[Op.REDEEM], 10)}


def _draw_setting(chance: random.Random) -> Setting:
    begins = datetime.datetime(2026, 11, chance.choice((14, 30)), 12, tzinfo=datetime.UTC)
    if begins.day == 30:
        begins += datetime.timedelta(hours=11, minutes=59, seconds=chance.choice((58, 59)))
    tills = tuple(
        Till(
            merchant=501 + chance.randrange(2),
            skew_s=chance.choice((0, 0, chance.randrange(-86_400, 86_400))),
            by_batch=chance.random() < 0.15,
            floor_limit_minor=chance.choice((0, 1000, 5000)),
            tolerance_percent=chance.choice((0, 20, 100)),
        )
        for _ in range(chance.randint(2, 6))
    )
    return Setting(
        workers=chance.randint(1, 4),
        lanes=chance.choice((1, 2, 3)),
        batch_max=chance.choice((1, 3, 256)),
        queue_max=chance.choice((8, 10_000)),
        possession_ms=chance.choice((5, 1000)),
        store_ms=chance.choice((0.5, 5, 30)),
        cache_ms=chance.choice((0.1, 1, 10)),
        hold_s=chance.choice((1, 604_800)),
        horizon_s=chance.choice((43_200, 60 * 86_400)),
        begins=begins,
        tills=tills,
        cards=tuple(_draw_card(chance, begins) for _ in range(chance.choice((1, 1, 2, 4)))),
    )


def _draw_card(chance: random.Random, begins: datetime.datetime) -> Card:
    """Lots that never end, end in years, with today, or with tomorrow."""
    today = begins.toordinal() - datetime.date(1970, 1, 1).toordinal()
    lots = [(chance.choice((300, 1000, 5000)), 1, True, 0)]
    if chance.random() < 0.4:
        lots.append((200, 2, False, chance.choice((0, 30_000, today, today, today + 1))))
    if chance.random() < 0.4:
        lots.append((150, 1, True, chance.choice((25_000, today, today + 1))))
    return Card(tuple(lots))


def _draw_action(
    chance: random.Random,
    setting: Setting,
    weights: dict[Op, int],
    before: list[Action],
    number: int,
    span_ms: int,
) -> Action:
    op = chance.choices(list(weights), list(weights.values()))[0]
    till, card = chance.randrange(len(setting.tills)), chance.randrange(len(setting.cards))
    settings: dict[str, object] = {
        "at_ms": chance.randrange(span_ms),
        "amount_minor": chance.choice((50, 100, 100, 250, 400, 1000, 3000)),
        "partial": chance.random() < 0.3,
        "requests_lost": chance.choice((0, 0, 0, 0, 1, 2)),
        "replies_lost": chance.choice((0, 0, 0, 1, 2)),
        "gives_up": chance.random() < 0.1,
    }
    if chance.random() < 0.25:
        longest_ms = chance.choice((3, 300, 1200))
        settings["duplicates_ms"] = tuple(
            chance.randrange(longest_ms) for _ in range(chance.randint(1, 3))
        )
    parents = [action for action in before if action.op in _PARENTS.get(op, ())]
    if (op in _PARENTS and not parents) or (op is Op.TRANSFER and len(setting.cards) == 1):
        op = Op.REDEEM
    if op in _PARENTS:
        parent = chance.choice(parents[-8:])
        till, card = parent.till, parent.card
        settings |= _about(chance, op, parent)
    elif op is Op.TRANSFER:
        others = [n for n in range(len(setting.cards)) if n != card]
        settings["to_card"] = chance.choice([*others * 6, len(setting.cards)])
    elif op is Op.CASH_OUT:
        settings["amount_minor"] = chance.choice((0, 100))
    elif op is Op.REDEEM and chance.random() < 0.04:
        settings["misdirected"] = True
    elif before and chance.random() < 0.15:
        twin = chance.choice(before)
        if op is Op.ADVICE and twin.op is Op.REDEEM:
            till, card = twin.till, twin.card
            settings |= {"parent": twin.number, "copies": "request", "waits": True}
            settings["amount_minor"] = twin.amount_minor
        elif twin.op is op and not twin.copies:
            till, card = twin.till, twin.card
            settings |= {"parent": twin.number, "copies": "content"}
            settings["amount_minor"] = twin.amount_minor + 10 + number
    return Action(number, op, till=till, card=card, **settings)  # type: ignore[arg-type]


def _about(chance: random.Random, op: Op, parent: Action) -> dict[str, object]:
    """What an action takes from the one that it is about."""
    after = chance.random() < 0.6
    offset_ms = chance.choice((-30, -2, 0, 0, 1, 3, 40, 700))
    settings: dict[str, object] = {
        "parent": parent.number,
        "waits": after or op is Op.RETURN,
        "at_ms": max(parent.at_ms + offset_ms, 0),
    }
    amount_minor = parent.amount_minor
    if op is Op.RETURN:
        settings["amount_minor"] = chance.choice((amount_minor, max(amount_minor // 2, 1)))
    elif op is Op.COMPLETION:
        names = chance.choice(("OR", "38", "90"))
        factor = chance.choice((50, 100, 100, 115, 150))
        settings |= {"names": names, "amount_minor": max(amount_minor * factor // 100, 1)}
        settings["waits"] = after or names != "90"
    elif op is Op.EXPIRY:
        settings |= {"at_ms": parent.at_ms + chance.choice((0, 900, 1100)), "waits": True}
        settings["amount_minor"] = 0
    elif op is Op.REVERSAL:
        settings["misdirected"] = chance.random() < 0.06
        settings["amount_minor"] = chance.choice((amount_minor,) * 6 + (0, amount_minor + 7))
        settings["reason"] = chance.choice(("time_out", "time_out", "customer", "merchant"))
        if chance.random() < 0.2:
            settings["final_minor"] = chance.choice((0, amount_minor // 2, amount_minor))
        if parent.op is Op.TRANSFER:
            settings["to_card"] = chance.choice((None, parent.to_card))
    elif op is Op.OUTCOME:
        settings |= {"bars": chance.random() < 0.4, "amount_minor": 0}
    return settings


def _draw_jump(chance: random.Random, setting: Setting, span_ms: int) -> Jump:
    seconds = chance.choice((-3600, -5, 5, 3600, 13 * 3600, 13 * 3600, 61 * 86_400))
    worker = chance.choice((None, chance.randrange(setting.workers)))
    if abs(seconds) > 3600:  # time itself goes on: the same for all, while late messages wait
        worker = None
    if any(till.by_batch for till in setting.tills):  # such keys are good up to the horizon only
        seconds = max(min(seconds, 3600), -3600)
    return Jump(chance.randrange(span_ms + 500), worker, seconds)
