"""Money through faults: a real switch with four workers, broken under load in every way.

After each fault the tables and the record of the tills are judged by `fault_invariants`. Each
test also asks whether its fault was really met, so that none passes by missing it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from fault_invariants import Seen, check
from fault_load import Cast, Load, running
from fault_switch import BrokenSwitch

TILLS = 12
SEED = "faults"


def cast_of(switch: BrokenSwitch) -> Cast:
    """Fresh cards: a few that everybody wants, some that are mostly free."""
    cards = switch.cards
    return Cast(
        hot=[cards.active() for _ in range(3)],
        cold=[cards.active() for _ in range(20)],
        poor=[cards.active() for _ in range(2)],
    )


def load_on(switch: BrokenSwitch, name: str) -> Load:
    return running(switch, switch.pos_entries[:TILLS], cast_of(switch), f"{SEED} {name}")


def judge(switch: BrokenSwitch, load: Load) -> Seen:
    seen = check(switch.postgres_url, load.record)
    assert seen.approved > 50, "hardly any load"
    assert seen.declined > 0
    return seen


def test_a_load_without_a_fault_leaves_everything_in_order(switch: BrokenSwitch) -> None:
    with load_on(switch, "calm") as load:
        time.sleep(2)
    seen = judge(switch, load)
    assert seen.unanswered == 0
    assert seen.reversed > 0
    assert seen.barred > 0
    assert seen.repeated > 20
    print(seen)


def test_workers_killed_at_random_moments(switch: BrokenSwitch) -> None:
    chance = random.Random(SEED)
    before = len(switch.events("worker_died"))
    with load_on(switch, "kills") as load:
        for _ in range(6):
            time.sleep(chance.uniform(0.3, 0.7))
            os.kill(chance.choice(switch.workers), signal.SIGKILL)
    seen = judge(switch, load)
    print(seen)
    assert seen.unanswered > 0, "no request was hit"
    assert len(switch.events("worker_died")) >= before + 6
    switch.until_whole()


def test_the_cache_flushed_again_and_again(switch: BrokenSwitch) -> None:
    stale_before = switch.metric("cardswitch_batch_refusals_total")
    with load_on(switch, "flush") as load, switch.redis() as cache:
        for _ in range(60):
            time.sleep(0.03)
            cache.flushall()
    seen = judge(switch, load)
    print(seen, switch.metric("cardswitch_batch_refusals_total") - stale_before)
    assert seen.unanswered == 0


@pytest.mark.parametrize("point", ["reserved", "sent", "committed", "half-told", "told"])
def test_workers_that_end_at_one_point(mortal_switch: BrokenSwitch, point: str) -> None:
    switch = mortal_switch
    plan = switch.data_dir / "fault-plan.json"
    draft = plan.with_suffix(".draft")
    deaths = switch.data_dir / "fault-deaths"
    with load_on(switch, point) as load:
        draft.write_text(json.dumps({"point": point, "after": [3, 25], "deaths": 8}))
        draft.rename(plan)
        time.sleep(2.5)
        plan.unlink()
    died = len(list(deaths.glob(f"{point}-*")))
    seen = judge(switch, load)
    print(seen, died)
    assert died >= 4, "hardly any worker died"
    assert seen.unanswered >= died
    switch.until_whole()
