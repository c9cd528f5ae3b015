"""A failing plan made as short as it gets: entries are left out while it still fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from .plan import Plan

__all__ = ["shortened"]

_SIMPLER = (
    {"duplicates_ms": ()},
    {"requests_lost": 0},
    {"replies_lost": 0},
    {"partial": False},
    {"reason": "time_out"},
    {"final_minor": None},
)
_CALMER = ({"workers": 1}, {"lanes": 1}, {"batch_max": 256}, {"possession_ms": 1000})


def shortened(plan: Plan, fails: Callable[[Plan], bool], runs_max: int = 600) -> Plan:
    """The shortest plan found that still fails; the plan itself if none is shorter."""
    runs = 0
    found = True
    while found:
        found = False
        for smaller in _smaller(plan):
            if smaller == plan:
                continue
            runs += 1
            if runs > runs_max:
                return plan
            if fails(smaller):
                plan, found = smaller, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Big cuts first, then entry by entry, then the entries that stay made simpler."""
    yield dataclasses.replace(plan, crashes=(), jumps=(), faults=())
    yield dataclasses.replace(plan, crashes=(), jumps=())
    yield dataclasses.replace(plan, faults=())
    for parts in (8, 4, 2):
        numbers = [action.number for action in plan.actions]
        size = max(len(numbers) // parts, 1)
        for start in range(len(numbers) - size, -1, -size):
            smaller = plan
            for action in plan.actions:
                if action.number in numbers[start : start + size]:
                    smaller = smaller.without(action)
            yield smaller
    for entry in plan.entries:
        yield plan.without(entry)
    for number, action in enumerate(plan.actions):
        for change in _SIMPLER:
            simpler = dataclasses.replace(action, **change)  # type: ignore[arg-type]
            yield dataclasses.replace(
                plan, actions=(*plan.actions[:number], simpler, *plan.actions[number + 1 :])
            )
    for change in _CALMER:
        if plan.crashes and "workers" in change:
            continue
        setting = dataclasses.replace(plan.setting, **change)  # type: ignore[arg-type]
        yield dataclasses.replace(plan, setting=setting)
