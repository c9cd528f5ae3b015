"""Money through faults: one round of each kind, as `python -m tests.faults` plays them for long.

Each round breaks a real switch with four workers under load, then judges the tables and what the
tills heard (`fault_invariants`), and asks whether its fault was really met. How long recovery took
is printed, not demanded: that depends on who else uses the machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rounds_books
import rounds_cache
import rounds_messages
import rounds_network
import rounds_postgres
import rounds_workers
from fault_invariants import Broken
from fault_load import Asked, Attempt, Kind, longest_gap_s
from fault_results import Results, report
from fault_round import Cannot, Fault, Scene, faults, play
from fault_stack import Apart, Plain, Stack

from tests.client.messages import Card, Reply

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES")
SEED = "tests"
OF_ALL_KINDS = [one for several in faults().values() for one in several]
LONG = {
    # their like is played here; these take long, and are played by `make faults`
    "two workers stand still for 7 s, then go on",
    "kill -9 of workers: parsed",
    "kill -9 of workers: half-told",
    *(f"kill -9 of workers: key-{point}" for point in ("asked", "kept", "noted")),
    "CLIENT PAUSE: alive, and answers nobody",
    "FUNCTION FLUSH again and again",
    "SIGINT (fast) of the postmaster",
    "pg_cancel_backend in SyncRep, then failover",
    "pg_terminate_backend in SyncRep, then failover",
    "a replica is promoted, the old primary still serves one",
    "100 tills, one card, any amounts",
    *(f"{where}: {kind}" for where in ("tills", "cache") for kind in ("cut", "reset", "late")),
    *(f"{where}: one byte at a time" for where in ("tills", "Postgres", "cache")),
    "cache: late, cut and reset",
    "one of four workers killed",
    *("Postgres: cut", "Postgres: reset", "Postgres: late"),
}


def named(kind: type[Stack]) -> list[Fault]:
    # what takes the small disk away comes last
    chosen = [one for one in OF_ALL_KINDS if one.on is kind and one.name not in LONG]
    return sorted(chosen, key=lambda one: one.row == "F7")


def show(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        for name, seconds in scene.measures.items():
            print(f"\n    {name}: {seconds:.2f} s", end="")


@pytest.mark.parametrize("one", named(Plain), ids=lambda one: f"{one.row} {one.name}")
def test_on_a_switch_as_anybody_starts_it(
    plain: Stack, one: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = play(one, plain, f"{SEED} {one.name}", brief=True)
    assert scene.counts["rounds"] == 1
    show(scene, capsys)


@pytest.mark.parametrize("one", named(Apart), ids=lambda one: f"{one.row} {one.name}")
def test_on_a_switch_between_proxies(
    apart: Apart, one: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    apart.revive()
    try:
        scene = play(one, apart, f"{SEED} {one.name}", brief=True)
    except Cannot as reason:
        pytest.skip(f"{one.row} cannot be played here: {reason}")
    assert scene.counts["rounds"] == 1
    show(scene, capsys)


def test_every_row_that_one_machine_can_play_has_rounds() -> None:
    rows = {*range(1, 9), 10, 12, 13, 14, 15, 17, 18, 22, 23, 24}
    assert set(faults()) == {f"F{row}" for row in rows}
    assert {one.name for one in OF_ALL_KINDS} >= LONG
    modules = (
        *(rounds_books, rounds_cache, rounds_messages),
        *(rounds_network, rounds_postgres, rounds_workers),
    )
    assert {one.play.__module__ for one in OF_ALL_KINDS} == {each.__name__ for each in modules}


# -- results ------------------------------------------------------------------------------------


def line(number: int, outcome: str = "held", **more: object) -> dict[str, object]:
    counts, measures = {"rounds": 1, "kills": 3, "odd things": 2}, {"ready": 0.25 * number}
    kept = {"row": "F2", "round": number, "seed": "s", "counts": counts, "measures": measures}
    return kept | {"outcome": outcome} | more


def test_results_add_up_over_runs_and_survive_a_kill(tmp_path: Path) -> None:
    Results(tmp_path).add(line(1))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write(json.dumps(line(2))[:40])  # the run was killed while it wrote
    results = Results(tmp_path)
    results.add(line(3))
    results.add(line(4, "broken", why="something"))
    results.add(line(5, "cannot", why="no rights", row="F8", counts={}))
    results.add(line(6, seed="another"))
    assert results.done("s") == {("F2", 1), ("F2", 3), ("F8", 5)}
    text = report(results)
    assert "| F2 | 4 | 12 | 0 | 0 | 0 | 0 | 8 odd things | 1 |" in text
    assert "| F8 | 0 | 0 | 0 | 0 | 0 | 0 | cannot here: no rights | 0 |" in text
    assert "| ready | 875 | 1500 | 4 |" in text


def test_a_round_that_missed_its_fault_does_not_count() -> None:
    scene = Scene.__new__(Scene)
    with pytest.raises(Broken, match="the fault was not met: nobody died"):
        scene.met([], "nobody died")


def test_the_longest_time_without_an_approval() -> None:
    def heard(at: float, code: str = "00") -> Asked:
        reply = Reply("0210", {39: code}, {}, True, b"")
        return Asked(Kind.LOAD, Card.__new__(Card), None, attempts=[Attempt(at - 0.1, at, reply)])

    record = [heard(at) for at in (1.0, 2.0, 2.1, 2.9, 9.0, 40.0)] + [heard(5.0, "91")]
    assert longest_gap_s(record, 1.5, within_s=5.0) == pytest.approx(9.0 - 2.9)
    assert longest_gap_s(record, 1.5, within_s=1.0) == pytest.approx(1.0)
    assert longest_gap_s(record, 8.0) == pytest.approx(40.0 - 9.0)
