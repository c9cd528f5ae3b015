"""Random sequences of messages to one card, judged by an independent model.

The state machine finds small counter-examples and shrinks them; the seeded sequences go deep, each
with weights of its own (a generator that always mixes alike never reaches some corners).
"""

from __future__ import annotations

import random

import pytest
from card_scenario import DAY_S, KINDS, OPERATIONS, Scenario
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from rules.money import Purse
from rules.requests import Operation

AMOUNTS = st.sampled_from((1, 100, 250, 500, 1_000, 2_500))
WHICH = st.integers(0, 30)
SEEDS = range(16)
SEQUENCES_PER_SEED = 60
STEPS = 50


class CardMachine(RuleBasedStateMachine):
    """What a card can be sent, one rule per kind of message."""

    def __init__(self) -> None:
        super().__init__()
        self.scenario = Scenario()

    @initialize(amount_minor=AMOUNTS, activate=st.integers(0, 9), strict=st.booleans())
    def begin(self, amount_minor: int, activate: int, strict: bool) -> None:
        self.scenario = Scenario(strict=strict)
        if activate:
            self.scenario.request(Operation.ACTIVATE, amount_minor)

    @rule(amount_minor=AMOUNTS, partial=st.booleans(), withhold=st.booleans())
    def redeem(self, amount_minor: int, partial: bool, withhold: bool) -> None:
        self.scenario.request(Operation.REDEEM, amount_minor, partial=partial, withhold=withhold)

    @rule(
        amount_minor=AMOUNTS,
        withhold=st.booleans(),
        kind=st.integers(0, len(KINDS) - 1),
        terminal=st.sampled_from((0, 5, 5)),
    )
    def load(self, amount_minor: int, withhold: bool, kind: int, terminal: int) -> None:
        named = {"kind": kind, "terminal": terminal}
        self.scenario.request(Operation.LOAD, amount_minor, withhold=withhold, **named)

    @rule(ahead=st.integers(0, 1))
    def charge(self, ahead: int) -> None:
        self.scenario.charge(ahead)

    @rule(amount_minor=AMOUNTS, sale=WHICH)
    def return_to_card(self, amount_minor: int, sale: int) -> None:
        self.scenario.request(Operation.RETURN, amount_minor, sale=sale)

    @rule(
        operation=st.sampled_from(OPERATIONS),
        amount_minor=AMOUNTS,
        purse=st.sampled_from(Purse),
        terminal=st.integers(0, 5),
        age_s=st.integers(0, 3 * DAY_S),
    )
    def anything(
        self, operation: Operation, amount_minor: int, purse: Purse, terminal: int, age_s: int
    ) -> None:
        self.scenario.request(operation, amount_minor, purse=purse, terminal=terminal, age_s=age_s)

    @rule(amount_minor=AMOUNTS, partial=st.booleans(), terminal=st.sampled_from((0, 4)))
    def hold(self, amount_minor: int, partial: bool, terminal: int) -> None:
        self.scenario.request(Operation.HOLD, amount_minor, partial=partial, terminal=terminal)

    @rule(
        amount_minor=AMOUNTS | st.just(0),
        which=WHICH,
        names=st.integers(0, 4),
        foreign=st.integers(0, 4),
        terminal=st.integers(0, 4),
        withhold=st.booleans(),
    )
    def advise(
        self,
        amount_minor: int,
        which: int,
        names: int,
        foreign: int,
        terminal: int,
        withhold: bool,
    ) -> None:
        self.scenario.advise(
            amount_minor,
            which,
            names=names,
            foreign=foreign,
            terminal=terminal,
            withhold=withhold,
        )

    @rule()
    def thaw(self) -> None:
        self.scenario.thaw()

    @rule(which=WHICH)
    def sweep(self, which: int) -> None:
        self.scenario.sweep(which)

    @rule(which=WHICH, bar_unknown=st.booleans())
    def ask(self, which: int, bar_unknown: bool) -> None:
        self.scenario.ask(which, bar_unknown=bar_unknown)

    @rule(
        which=WHICH,
        reason=st.integers(0, 2),
        final_minor=st.none() | st.sampled_from((0, 1, 100, 250, 500, 1_000)),
        amount=st.integers(0, 3),
    )
    def reverse(self, which: int, reason: int, final_minor: int | None, amount: int) -> None:
        self.scenario.reverse(which, reason=reason, final_minor=final_minor, amount=amount)

    @rule(which=WHICH, other_content=st.booleans())
    def repeat(self, which: int, other_content: bool) -> None:
        self.scenario.repeat(which, other_content=other_content)

    @rule(size=st.integers(1, 5))
    def batches_of(self, size: int) -> None:
        self.scenario.batch_size = size

    @rule(operation=st.sampled_from(OPERATIONS), amount_minor=AMOUNTS, sale=WHICH)
    def either_order(self, operation: Operation, amount_minor: int, sale: int) -> None:
        self.scenario.order_does_not_matter(operation, amount_minor, sale)

    @rule(which=WHICH)
    def elsewhere(self, which: int) -> None:
        self.scenario.appear_elsewhere(which)

    @rule(days=st.integers(1, 40))
    def days_pass(self, days: int) -> None:
        self.scenario.pass_time(days * DAY_S)

    def teardown(self) -> None:
        self.scenario.finish()


TestCardMachine = CardMachine.TestCase
TestCardMachine.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class Player:
    """One seeded sequence, with weights and amounts of its own."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.strict = draw.random() < 0.5
        """Its programme has limits, fees, and lots that end."""
        self.scenario = Scenario(strict=self.strict)
        self.amounts = draw.choice(((100,), (1, 2, 3), (100, 250, 500), (1, 100, 1_000, 2_500)))
        self.recent = draw.choice((3, 8, 40))
        self.slips = draw.choice((0.0, 0.05, 0.3))
        """How often a reversal names another amount, or a repeat has other content."""
        self.purses = draw.choice(((Purse.ECASH,), (Purse.ECASH,), tuple(Purse)))
        self.drains = draw.choice((0.0, 0.0, 0.6))
        """How often a purchase takes all there is: what is undone later is then missing."""
        self.days_pass = draw.random() < (0.7 if self.strict else 0.2)
        everyday = (Operation.REDEEM, Operation.LOAD, Operation.RETURN, Operation.CASH_OUT)
        self.everyday = {operation: draw.choice((0, 1, 1, 3)) for operation in everyday}
        self.everyday[Operation.REDEEM] = self.everyday[Operation.LOAD] = 2
        self.steps = {
            self.everyday_request: 8,
            self.hold: draw.choice((0, 2, 5)),
            self.advise: draw.choice((0, 2, 5)),
            self.sweep: draw.choice((0, 0, 1)),
            self.charge: draw.choice((0, 1)) if self.strict else 0,
            self.ask: draw.choice((0, 0, 1)),
            self.reverse: draw.choice((1, 3, 6)),
            self.repeat: draw.choice((0, 1, 4)),
            self.rare_request: draw.choice((0, 0, 1)),
            self.either_order: draw.choice((0, 1)),
            self.next_batches: 1,
        }

    def play(self) -> Scenario:
        draw = self.draw
        self.next_batches()
        self.request(Operation.ACTIVATE)
        for _ in range(STEPS):
            self.revive()
            draw.choices(list(self.steps), list(self.steps.values()))[0]()
            if self.days_pass and draw.random() < 0.1:
                self.scenario.pass_time(draw.randrange(draw.choice((1, 4, 40)) * DAY_S))
        self.scenario.finish()
        return self.scenario

    def revive(self) -> None:
        """A card that refuses everything teaches little."""
        status = self.scenario.model.status
        if status in ("issued", "unlocked") and self.draw.random() < 0.5:
            self.request(Operation.ACTIVATE)
        elif status == "blocked" and self.draw.random() < 0.5:
            self.request(Operation.UNBLOCK)
        elif status == "frozen" and self.draw.random() < 0.3:
            self.scenario.thaw()

    def request(self, operation: Operation, *, withhold: bool = False) -> None:
        draw = self.draw
        amount_minor = draw.choice(self.amounts)
        if operation is Operation.ACTIVATE:
            amount_minor *= draw.choice((1, 4))
        elif operation is Operation.CASH_OUT and draw.random() < 0.3:
            amount_minor = 0
        drains = operation is Operation.REDEEM and draw.random() < self.drains
        self.scenario.request(
            operation,
            10_000 if drains else amount_minor,
            partial=drains or draw.random() < 0.5,
            purse=draw.choice(self.purses),
            terminal=draw.choice((0, 0, 0, 1, 2, 2, 3, 4, 5)),
            age_s=draw.choice((0, 1, 3_600, 2 * DAY_S)),
            sale=self.which() if draw.random() < 0.9 else None,
            withhold=withhold,
            kind=draw.choice((0, draw.randrange(len(KINDS)))),
        )

    def charge(self) -> None:
        """Now and then nobody uses the card for months."""
        if self.draw.random() < 0.3:
            self.scenario.pass_time(70 * DAY_S)
        self.scenario.charge(self.draw.choice((0, 0, 1)))

    def hold(self) -> None:
        draw = self.draw
        self.scenario.request(
            Operation.HOLD,
            draw.choice(self.amounts),
            partial=draw.random() < 0.5,
            purse=draw.choice(self.purses),
            terminal=draw.choice((0, 0, 1, 4, 4)),
            withhold=draw.random() < 0.1,
        )

    def advise(self) -> None:
        """Mostly a completion, of what was held, a little more, or anything."""
        draw = self.draw
        amount_minor = draw.choice((0, *self.amounts, draw.choice(self.amounts) * 11 // 10))
        self.scenario.advise(
            amount_minor,
            draw.randrange(40),
            names=draw.choice((0, 1, 2, 2, 3, 4)),
            foreign=draw.choice((0, 0, 0, 0, 0, 3, 4)),
            purse=draw.choice(self.purses),
            terminal=draw.choice((0, 1, 2, 3, 4, 4)),
            age_s=draw.choice((0, 0, 3_600, 61 * DAY_S)),
            withhold=draw.random() < 0.1,
        )

    def sweep(self) -> None:
        if self.draw.random() < 0.5:
            self.scenario.pass_time(self.draw.choice((DAY_S, 8 * DAY_S)))
        self.scenario.sweep(self.draw.randrange(40))

    def ask(self) -> None:
        self.scenario.ask(self.which(), bar_unknown=self.draw.random() < 0.5)

    def which(self) -> int:
        made = len(self.scenario.made)
        return made - 1 - self.draw.randrange(min(self.recent, made)) if made else 0

    def everyday_request(self) -> None:
        operation = self.draw.choices(list(self.everyday), list(self.everyday.values()))[0]
        self.request(operation, withhold=self.draw.random() < 0.1)

    def rare_request(self) -> None:
        self.request(self.draw.choice(OPERATIONS))

    def reverse(self) -> None:
        draw = self.draw
        partial = draw.random() < 0.3
        self.scenario.reverse(
            self.which(),
            reason=draw.choice((0, 0, 1, 2)),
            final_minor=draw.choice((0, *self.amounts)) if partial else None,
            amount=draw.choice((1, 2, 3)) if draw.random() < self.slips else 0,
        )

    def repeat(self) -> None:
        self.scenario.repeat(self.which(), other_content=self.draw.random() < self.slips)

    def either_order(self) -> None:
        operation = self.draw.choice(OPERATIONS)
        self.scenario.order_does_not_matter(operation, self.draw.choice(self.amounts), self.which())

    def next_batches(self) -> None:
        self.scenario.batch_size = self.draw.choice((1, 1, 2, 3, 8))
        if self.draw.random() < 0.1:
            self.scenario.appear_elsewhere(self.which())


@pytest.mark.parametrize("seed", SEEDS)
def test_deep_sequences_agree_with_the_model(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(SEQUENCES_PER_SEED):
        scenario = Player(draw).play()
        assert len(scenario.chain.journal) > 1
