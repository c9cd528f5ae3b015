"""Stories that the simulator has found to end badly once, kept as they were when made short."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
import trio

import switch.lane

from .judge import verdict
from .messages import CARD_BASE
from .plan import Action, Card, Jump, Op, Plan, Till
from .test_interleavings import SETTING, Script
from .world import Delivery, play, run

_DAY_S = 86_400


def answers_of(deliveries: list[Delivery], number: int) -> list[dict[str, object]]:
    return [d.answer or {} for d in deliveries if d.action == number]


def test_a_reversal_repeated_after_the_horizon_hears_its_first_answer() -> None:
    """Its link is older than anything looked for, but a quiet card's window still names it."""
    sale = Action(0, Op.REDEEM, 0, 0, 0, 300)
    undo = Action(1, Op.REVERSAL, 0, 0, 0, 300, parent=0, waits=True, duplicates_ms=(900,))
    setting = dataclasses.replace(SETTING, horizon_s=60 * _DAY_S)
    story = run(Plan(1, setting, (sale, undo), jumps=(Jump(400, None, 100 * _DAY_S),)))
    assert verdict(story) == ""
    first, late = answers_of(story.deliveries, 1)
    assert first == late
    assert (first["code"], first["rs"]) == ("00", "REVERSED")


def ahead_of_the_month() -> Plan:
    """A sale by a clock 20 hours ahead, on a month's last evening; its reversal 13 hours later."""
    setting = dataclasses.replace(
        SETTING,
        horizon_s=_DAY_S // 2,
        begins=datetime.datetime(2026, 11, 30, 23, 59, 58, tzinfo=datetime.UTC),
        tills=(Till(501, 20 * 3600, False, 0, 0),),
        cards=(Card(((5000, 1, True, 0),)),),
    )
    sale = Action(0, Op.REDEEM, 0, 0, 0, 300)
    others = [Action(n, Op.REDEEM, 10 + n, 0, 0, 10) for n in range(2, 22)]
    undo = Action(1, Op.REVERSAL, 700, 0, 0, 300, parent=0, waits=True)
    jump = Jump(500, None, 13 * 3600)
    return Plan(1, setting, (sale, *others, undo), jumps=(jump,))


def test_a_terminal_ahead_of_time_finds_its_sale_in_the_month_before() -> None:
    story = run(ahead_of_the_month())
    assert verdict(story) == ""
    assert answers_of(story.deliveries, 1)[0]["rs"] == "REVERSED"


def test_without_slack_that_sale_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch.lane, "CLOCK_SLACK", datetime.timedelta(0))
    assert "barred though it was known" in verdict(run(ahead_of_the_month()))


class InOneGo(Script):
    """Two holds through two workers, then a completion that names the first by its DE 38."""

    async def deliver_all(self, running: trio.Nursery) -> None:
        """Each after the other's answer."""
        approval = ""
        for action, index in self.messages:
            delivery = self.deliver(action, self.maker.make(action, approval=approval), index)
            await self.answered()
            approval = approval or (delivery.answer or {})["approval"]


def test_two_workers_never_give_one_card_the_same_approval_code() -> None:
    first = Action(0, Op.HOLD, 0, 0, 0, 300)
    second = Action(1, Op.HOLD, 0, 0, 0, 200)
    complete = Action(2, Op.COMPLETION, 0, 0, 0, 300, parent=0, names="38")
    story = play(InOneGo([(first, 0), (second, 1), (complete, 0)], waits=True))
    assert verdict(story) == ""
    row = story.database.rows[CARD_BASE]
    assert (row["ecash_available"], row["ecash_held"]) == (500, 200)
