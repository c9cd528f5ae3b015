"""A worker dies at every single step of a short story: nothing is lost, nothing is done twice.

The tills repeat until they are answered, so each story ends as if nobody had died.
"""

from __future__ import annotations

import dataclasses

import pytest

from .judge import verdict
from .memory_journal import AppendFault
from .messages import CARD_BASE
from .plan import Action, Card, Crash, Fault, Op, Plan, Till
from .test_interleavings import SETTING
from .world import Story, run

_SETTING = dataclasses.replace(
    SETTING,
    lanes=2,
    store_ms=2,
    cache_ms=0.5,
    tills=(Till(501, 0, False, 5000, 20),),
    cards=(Card(((1000, 1, True, 0),)), Card(((1000, 1, True, 0),))),
)

_SALE = Action(0, Op.REDEEM, 0, 0, 0, 300)
_UNDO = Action(1, Op.REVERSAL, 0, 0, 0, 300, parent=0, waits=True)
_HOLD = Action(0, Op.HOLD, 0, 0, 0, 300)
_COMPLETE = Action(1, Op.COMPLETION, 0, 0, 0, 250, parent=0, names="90", waits=True)
_LOAD = Action(0, Op.LOAD, 0, 0, 0, 400)
_RETURN = Action(2, Op.RETURN, 0, 0, 0, 200, parent=0, waits=True)
_TELL = Action(1, Op.ADVICE, 0, 0, 0, 300, parent=0, copies="request")
_OTHER = Action(9, Op.REDEEM, 0, 0, 1, 100)

STORIES: dict[str, tuple[tuple[Action, ...], int]] = {
    "a sale": ((_SALE,), 700),
    "a sale and one on another card": ((_SALE, _OTHER), 700),
    "a sale and its reversal": ((_SALE, _UNDO), 1000),
    "a sale and its reversal at once": (
        (_SALE, dataclasses.replace(_UNDO, waits=False)),
        1000,
    ),
    "a sale told twice": ((_SALE, _TELL), 700),
    "a hold and its completion": ((_HOLD, _COMPLETE), 750),
    "a load and its reversal": ((_LOAD, dataclasses.replace(_UNDO, amount_minor=400)), 1000),
    "a sale, its return, the sale's reversal": ((_SALE, _RETURN, _UNDO), 1000),
}
FAULTS: dict[str, tuple[Fault, ...]] = {
    "the commit's answer is lost": (Fault(AppendFault.LOST_APPLIED, 0, 1),),
    "the commit comes late": (Fault(AppendFault.ZOMBIE, 0, 10),),
}
_TROUBLED = ("a sale and its reversal", "a sale told twice", "a hold and its completion")
CASES = [(name, "") for name in STORIES] + [(name, fault) for name in _TROUBLED for fault in FAULTS]


def told(story: Story) -> str:
    return "\n".join(story.trace)


def steps_of(story: Story) -> int:
    return int(story.trace[-1].split()[0])


@pytest.mark.parametrize(("name", "fault"), CASES, ids=[", ".join(filter(None, c)) for c in CASES])
def test_a_worker_that_dies_at_any_step(name: str, fault: str) -> None:
    actions, available = STORIES[name]
    plan = Plan(1, _SETTING, actions, faults=FAULTS.get(fault, ()))
    calm = run(plan)
    assert verdict(calm) == "", told(calm)
    died = 0
    for step in range(1, steps_of(calm) + 1):
        for worker in range(_SETTING.workers):
            story = run(dataclasses.replace(plan, crashes=(Crash(step, worker),)))
            assert verdict(story) == "", f"worker {worker}, step {step}\n{told(story)}"
            row = story.database.rows[CARD_BASE]
            assert row["ecash_available"] == available, f"step {step}\n{told(story)}"
            died += any(line.endswith("is killed") for line in story.trace)
    print(f"{name}, {fault or 'quiet'}: {died} deaths")
    assert died > steps_of(calm)
