"""What the sweeper asks for: what is due, so much at once, not the same again at once."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest
import trio
from prometheus_client import generate_latest
from trio.testing import MockClock

from rules.ledger import Answer
from rules.policy import Policies, Policy, month_of
from rules.requests import Operation
from rules.responses import Response
from switch.journal.journal import JournalDown
from switch.metrics import Metrics
from switch.pipeline import Ticket
from switch.sweeper import AT_ONCE, KINDS, Sweeper

NOW = datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.UTC)
TODAY = int(NOW.timestamp()) // 86_400
DORMANT = Policy(dormancy_months=12, dormancy_fee_minor=200)


class Door:
    """A pipeline that keeps what comes in."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self.journal_up = True
        self.depth = 0
        self.asked: list[Ticket] = []

    def submit(self, tickets: list[Ticket]) -> None:
        self.asked += tickets


class Tables:
    """What the projections say is due; each query as it was asked."""

    def __init__(self) -> None:
        self.holds: list[dict[str, Any]] = []
        self.lots: list[dict[str, Any]] = []
        self.idle: list[dict[str, Any]] = []
        self.fault: Exception | None = None
        self.queries: list[tuple[str, tuple[object, ...]]] = []

    async def rows(self, query: str, *args: object) -> list[Any]:
        self.queries.append((query, args))
        if self.fault is not None:
            raise self.fault
        if "open_hold" in query:
            return self.holds
        return self.lots if "due_day <" in query else self.idle


class Rounds:
    """A sweeper at work, in time that passes at once."""

    def __init__(self, policy: Policy = DORMANT) -> None:
        self.tables = Tables()
        self.door = Door(Policies(Policy(), {7: policy}))
        self.metrics = Metrics(["pos"])
        numbers = itertools.count(1)
        what = (self.metrics, lambda: f"{next(numbers):012d}", lambda: NOW)
        self.sweeper = Sweeper(self.tables.rows, self.door, *what)  # type: ignore[arg-type]

    async def seconds(self, count: int) -> None:
        with trio.move_on_after(count + 0.5):
            await self.sweeper.run()

    def operations(self) -> list[tuple[int, Operation]]:
        return [(ticket.card_id, ticket.request.operation) for ticket in self.door.asked]


@pytest.fixture
def swept() -> Rounds:
    one = Rounds()
    one.tables.lots = [{"card_id": 5, "due_day": TODAY - 1}]
    one.tables.idle = [{"card_id": 6}]
    hold = {"card_id": 4, "version": 3, "purse": 60, "merchant_id": 9, "expires_s": 1_000}
    one.tables.holds = [hold]
    return one


async def test_what_is_due_is_asked_for_under_keys_that_follow_from_it(
    autojump_clock: MockClock, swept: Rounds
) -> None:
    await swept.seconds(1)
    kinds = [(4, Operation.HOLD_EXPIRY), (5, Operation.LOT_SWEEP), (6, Operation.DORMANCY_FEE)]
    assert swept.operations() == kinds
    again = Rounds()
    again.tables.holds, again.tables.lots = swept.tables.holds, swept.tables.lots
    again.tables.idle = swept.tables.idle
    await again.seconds(1)
    keys = [ticket.request.key for ticket in swept.door.asked]
    assert [ticket.request.key for ticket in again.door.asked] == keys
    assert len(set(keys)) == 3
    assert swept.door.asked[2].request.fee_month == month_of(TODAY)


async def test_no_two_cards_share_a_key(autojump_clock: MockClock, swept: Rounds) -> None:
    """The journal is asked for a key whatever card has it: a month's fees are not one key."""
    for due in (swept.tables.holds, swept.tables.lots, swept.tables.idle):
        due.append(due[0] | {"card_id": 8})
    await swept.seconds(1)
    assert len({ticket.request.key for ticket in swept.door.asked}) == len(swept.door.asked) == 6


async def test_the_same_is_asked_for_in_every_other_round_only(
    autojump_clock: MockClock, swept: Rounds
) -> None:
    await swept.seconds(4)
    assert [kind for kind, _ in swept.operations()] == [4, 5, 6, 4, 5, 6]


async def test_so_much_at_once_and_no_more(autojump_clock: MockClock, swept: Rounds) -> None:
    await swept.seconds(1)
    assert [args[-1] for _, args in swept.tables.queries] == [AT_ONCE] * 3


async def test_idle_cards_are_sought_where_there_are_fees_only(
    autojump_clock: MockClock,
) -> None:
    one = Rounds(Policy(dormancy_months=12))
    await one.seconds(2)
    assert len(one.tables.queries) == 4


async def test_who_has_paid_this_month_is_not_sought(
    autojump_clock: MockClock, swept: Rounds
) -> None:
    await swept.seconds(1)
    programme_id, before, months, *_ = swept.tables.queries[-1][1]
    assert (programme_id, month_of(before)) == (7, month_of(TODAY) - 12)  # type: ignore[arg-type]
    assert months == [0, *range(month_of(TODAY) - 10, month_of(TODAY))]


@pytest.mark.parametrize("state", ["busy", "down"])
async def test_tills_go_first(autojump_clock: MockClock, swept: Rounds, state: str) -> None:
    swept.door.journal_up, swept.door.depth = state != "down", 5_000 if state == "busy" else 0
    await swept.seconds(3)
    assert swept.tables.queries == [] and swept.door.asked == []
    swept.door.journal_up, swept.door.depth = True, 0
    await swept.seconds(1)
    assert len(swept.door.asked) == 3


@pytest.mark.parametrize("fault", [JournalDown("gone"), RuntimeError("what")])
async def test_a_round_that_fails_is_not_the_last(
    autojump_clock: MockClock, swept: Rounds, fault: Exception
) -> None:
    swept.tables.fault = fault
    await swept.seconds(2)
    assert swept.door.asked == []
    swept.tables.fault = None
    await swept.seconds(1)
    assert len(swept.door.asked) == 3


async def test_what_became_of_it_is_counted(autojump_clock: MockClock, swept: Rounds) -> None:
    await swept.seconds(1)
    for ticket, response in zip(
        swept.door.asked,
        (Response.APPROVED, Response.APPROVED, Response.NO_SUCH_ORIGINAL),
        strict=True,
    ):
        ticket.context.answered(Answer(response, "", ""))  # type: ignore[attr-defined]
    page = generate_latest(swept.metrics.registry).decode()
    for kind, outcome in (("hold", "done"), ("lot", "done"), ("dormancy", "not_done")):
        assert f'cardswitch_swept_total{{kind="{kind}",outcome="{outcome}"}} 1.0' in page
    for kind in KINDS.values():
        assert f'cardswitch_sweep_due{{kind="{kind}"}} 1.0' in page
