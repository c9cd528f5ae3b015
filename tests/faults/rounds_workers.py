"""Rows F1, F2, F3, F24: workers, and everything, that end at a moment or stand still."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import time
from collections.abc import Callable

from fault_invariants import check, demand
from fault_keys import KeyTill
from fault_round import Scene, fault
from fault_stack import Apart
from fault_switch import WORKERS, eventually
from fault_worker import KEY_POINTS, POINTS

_DEATHS = 8
_KEY_TILLS = 4  # the last ones: nobody else sells at them
_STALE = "cardswitch_batch_refusals_total"


def until_dead(scene: Scene, point: str, after: tuple[int, int]) -> None:
    """Workers end themselves at one point, at its n-th passage, until enough have."""
    switch = scene.switch
    plan, deaths = switch.data_dir / "fault-plan.json", switch.data_dir / "fault-deaths"
    draft = plan.with_suffix(".draft")
    for old in deaths.glob("*"):
        old.unlink()
    wanted = 2 if scene.brief else _DEATHS
    draft.write_text(json.dumps({"point": point, "after": after, "deaths": wanted}))
    draft.rename(plan)
    eventually(lambda: len(list(deaths.glob("*"))) == wanted, 60)
    plan.unlink()
    scene.counts["kills"] += wanted


def at_point(point: str) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        """Workers end themselves at one point of a batch's way."""
        with scene.load() as load:
            until_dead(scene, point, (3, 25))
            answered = load.answered
            eventually(lambda: load.answered > answered + 60, 60)
        seen = scene.judge()
        scene.met(seen.unanswered > 0, "no request was hit")

    return play


def at_key_point(point: str) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        """Workers end themselves at one point of a change of keys: nobody may be turned away."""
        switch = scene.switch
        tills = []
        for entry in switch.pos_entries[-_KEY_TILLS:]:
            first = [bytes.fromhex(entry["mac_key"])]
            keys = switch.mac_keys.setdefault(entry["id"], first)
            tills.append(KeyTill(switch, entry, f"{scene.seed} {entry['id']}", keys))
        for till in tills:
            till.start()
        try:
            until_dead(scene, point, (1, 3))
            changes = [till.changes for till in tills]
            eventually(
                lambda: (
                    all(till.changes > n for till, n in zip(tills, changes, strict=True))
                    or any(till.problems for till in tills)
                ),
                60,
            )
        finally:
            for till in tills:
                till.stop()
        for till in tills:
            demand(not till.problems, "a terminal whose key changed", till.problems)
            demand(set(till.codes) == {"00"}, "a sale under a key that is good", till.codes)
            demand(till.spent() == till.codes["00"], "sales and what the cards lost", till.codes)
            scene.counts["messages"] += till.codes["00"] + till.lost["sales"]
            scene.counts["requests"] += till.codes["00"]
            scene.counts["approvals"] += till.codes["00"]
            scene.counts["repeats"] += till.lost["sales"]
            scene.counts["key changes"] += till.changes
            scene.counts["keys asked for again"] += till.lost["keys"]
        check(switch.postgres_url, [])

    return play


for _point in POINTS:
    fault("F1", f"kill -9 of workers: {_point}", Apart)(at_point(_point))
for _point in KEY_POINTS:
    fault("F1", f"kill -9 of workers: {_point}", Apart)(at_key_point(_point))


def kill_at(scene: Scene, pid: int) -> float:
    """SIGKILL; the wall clock's time of it."""
    now = time.time()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        scene.counts["kills"] += 1
    return now


def ready_after(scene: Scene, killed_at: float) -> float:
    """Seconds from a kill until a worker that was started after it has said that it is ready."""
    for event in scene.switch.events("worker_ready"):
        at = datetime.datetime.fromisoformat(event["time"]).timestamp()
        if at - event["took_s"] >= killed_at - 0.001:
            return at - killed_at
    return 0.0


@fault("F2", "kill -9 of workers at random moments")
def random_kills(scene: Scene) -> None:
    died = len(scene.switch.events("worker_died"))
    killed: list[float] = []
    with scene.load():
        for _ in range(3 if scene.brief else 6):
            scene.pause(0.2, 0.6)
            killed.append(kill_at(scene, scene.chance.choice(scene.switch.workers)))
    scene.switch.until_whole()
    seen = scene.judge()
    scene.met(seen.unanswered > 0, "no request was hit")
    scene.met(len(scene.switch.events("worker_died")) > died, "nobody died")
    # the first kill meets a worker that has lived for a while: it is started again at once
    scene.measure("a worker ready after kill -9", ready_after(scene, killed[0]))


@fault("F2", "kill -9 of everything, and up again on the same directory")
def everything(scene: Scene) -> None:
    with scene.load() as load:
        scene.pause(0.5, 1.2)
        killed_at = time.monotonic()
        scene.switch.kill_supervisor()
        scene.counts["kills"] += WORKERS + 3
        begun = time.monotonic()
        scene.switch.start()
        scene.measure("everything ready after kill -9", time.monotonic() - begun)
        answered = load.answered
        eventually(lambda: load.answered > answered + 50, 60)
    seen = scene.judge()
    scene.approved_again("no approval after kill -9 of everything", killed_at)
    scene.met(seen.unanswered > 0, "no request was hit")


@fault("F3", "one of four workers killed")
def one_of_four(scene: Scene) -> None:
    with scene.load() as load:
        scene.pause(0.3, 0.8)
        killed_at = kill_at(scene, scene.chance.choice(scene.switch.workers))
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
        scene.switch.until_whole()
    scene.measure("a worker ready after kill -9", ready_after(scene, killed_at))
    scene.judge()


def standstill(held_s: float) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        """Their marks run out and others take their cards: what they then bring is refused."""
        with scene.load() as load:
            scene.pause(0.2, 0.5)
            with contextlib.ExitStack() as stack:
                for worker in scene.chance.sample(scene.switch.workers, 2):
                    stack.enter_context(scene.switch.stopped(worker))
                    scene.counts["stops"] += 1
                time.sleep(held_s)
            answered = load.answered
            eventually(lambda: load.answered > answered + 50, 60)
        scene.judge()

    return play


fault("F3", "two workers stand still for 1.3 s, then go on")(standstill(1.3))
fault("F3", "two workers stand still for 7 s, then go on")(standstill(7))


@fault("F24", "workers restarted one after the other, SIGTERM")
def rolling_restart(scene: Scene) -> None:
    before = scene.switch.workers[: 2 if scene.brief else WORKERS]
    with scene.load():
        for worker in before:
            scene.pause(0.1, 0.4)
            os.kill(worker, signal.SIGTERM)
            scene.counts["restarts"] += 1
            eventually(lambda worker=worker: worker not in scene.switch.workers, 60)
            scene.switch.until_whole()
    scene.judge()
    scene.met(not set(before) & set(scene.switch.workers), "somebody was not restarted")
    exits = [event["exit"] for event in scene.switch.events("worker_died")][-len(before) :]
    scene.met(exits == [0] * len(before), f"a worker did not drain: {exits}")


@fault("F24", "everything stopped by SIGTERM under load, and up again")
def drain(scene: Scene) -> None:
    with scene.load() as load:
        scene.pause(0.4, 1.0)
        begun = time.monotonic()
        scene.met(scene.switch.stop() == 0, "it did not end in good order")
        scene.measure("everything drained after SIGTERM", time.monotonic() - begun)
        scene.counts["restarts"] += 1
        scene.switch.start()
        answered = load.answered
        eventually(lambda: load.answered > answered + 50, 60)
    scene.judge()
