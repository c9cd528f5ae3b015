"""Money through faults: a real switch with four workers, broken under load in every way.

After each fault the tables and the record of the tills are judged by `fault_invariants`. Each
test also asks whether its fault was really met, so that none passes by missing it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from fault_invariants import (
    RECEIPT,
    Broken,
    Seen,
    check,
    check_record,
    check_transfers,
    read_tables,
)
from fault_load import Asked, Cast, Kind, Load, running
from fault_switch import BrokenSwitch, eventually, sql

from switch.cli import main as cardswitch
from switch.embedded.stores import EmbeddedStores

TILLS = 12
SEED = "faults"
STALE = "cardswitch_batch_refusals_total"


def cast_of(switch: BrokenSwitch) -> Cast:
    """Fresh cards: a few that everybody wants, some that are mostly free."""
    cards = switch.cards
    return Cast(
        hot=[cards.active() for _ in range(3)],
        cold=[cards.active() for _ in range(20)],
        poor=[cards.active() for _ in range(2)],
    )


def load_on(switch: BrokenSwitch, name: str, tills: int = TILLS) -> AbstractContextManager[Load]:
    return running(switch, switch.pos_entries[:tills], cast_of(switch), f"{SEED} {name}")


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
    assert seen.transfers > 5
    assert seen.repeated > 20


def test_the_judge_sees_what_is_wrong(switch: BrokenSwitch) -> None:
    """Each rule of the checker, shown to complain: a record that differs from what happened."""
    with load_on(switch, "judge") as load:
        time.sleep(1.2)
    tables, record = read_tables(switch.postgres_url), load.record
    check_record(tables, record)

    def answered(kind: Kind, code: str = "00", state: str = "") -> Asked:
        return next(
            asked
            for asked in record
            if asked.kind is kind
            and [(r.code, r.state) for r in asked.settling] == [(code, state)]
            and len(asked.attempts) == 1
        )

    @contextmanager
    def instead(asked: Asked, **changes: object) -> Iterator[None]:
        """The one reply of a request is another."""
        (attempt,) = asked.attempts
        right = attempt.reply
        assert right is not None
        attempt.reply = dataclasses.replace(right, **changes)
        with pytest.raises(Broken):
            check_record(tables, record)
        attempt.reply = right
        yield

    sale, load_up = answered(Kind.REDEEM), answered(Kind.LOAD)
    reversal, enquiry = answered(Kind.REVERSAL, state="REVERSED"), answered(Kind.BALANCE)
    (attempt,) = sale.attempts
    assert attempt.reply is not None
    fields = dict(attempt.reply.fields)
    with (
        instead(sale, fields={**fields, 39: "51"}),
        instead(sale, fields={**fields, 39: "96"}),
        instead(sale, fields={**fields, 4: f"{sale.amount_minor + 1:012d}"}),
        instead(sale, private={"TX": load_up.settling[0].tx}),
        instead(sale, private={"TX": "000000000000"}),
        instead(reversal, private={**reversal.settling[0].private, "RS": "NOTHING"}),
    ):
        pass
    for missing in (sale, load_up, reversal):
        with pytest.raises(Broken):
            check_record(tables, [asked for asked in record if asked is not missing])
    sale.amount_minor += 1
    with pytest.raises(Broken):
        check_record(tables, record)
    sale.amount_minor -= 1
    sent_at, attempt.sent_at, settled_at = attempt.sent_at, time.monotonic(), attempt.replied_at
    attempt.replied_at = time.monotonic()
    with pytest.raises(Broken):
        check_record(tables, record)
    attempt.sent_at, attempt.replied_at = sent_at, settled_at
    (asking,) = enquiry.attempts
    assert asking.reply is not None
    balance = asking.reply.fields[54]
    wrong = balance.replace(f"{asking.reply.available_minor:012d}", "000000000007")
    with instead(enquiry, fields={**asking.reply.fields, 54: wrong}):
        pass
    check_record(tables, record)
    half = next(link for link in tables.links if link["operation"] == RECEIPT)
    place = (half["batch_id"], half["n"])
    others = [each for each in tables.postings if (each["batch_id"], each["n"]) != place]
    with pytest.raises(Broken, match="half a transfer"):
        check_transfers(dataclasses.replace(tables, postings=others))


def test_workers_killed_at_random_moments(switch: BrokenSwitch) -> None:
    chance = random.Random(SEED)
    before = len(switch.events("worker_died"))
    with load_on(switch, "kills") as load:
        for _ in range(6):
            time.sleep(chance.uniform(0.3, 0.7))
            os.kill(chance.choice(switch.workers), signal.SIGKILL)
    seen = judge(switch, load)
    assert seen.unanswered > 0, "no request was hit"
    assert len(switch.events("worker_died")) >= before + 6
    switch.until_whole()


def test_the_cache_flushed_again_and_again(switch: BrokenSwitch) -> None:
    stale_before = switch.metric(STALE)
    with load_on(switch, "flush") as load, switch.redis() as cache:
        for _ in range(60):
            time.sleep(0.03)
            cache.flushall()
    seen = judge(switch, load)
    assert switch.metric(STALE) > stale_before, "no state was lost at a bad moment"
    assert seen.unanswered == 0


# -- workers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["reserved", "sent", "committed", "half-told", "told"])
def test_workers_that_end_at_one_point(mortal_switch: BrokenSwitch, point: str) -> None:
    switch = mortal_switch
    plan = switch.data_dir / "fault-plan.json"
    draft = plan.with_suffix(".draft")
    deaths = switch.data_dir / "fault-deaths"
    with load_on(switch, point) as load:
        draft.write_text(json.dumps({"point": point, "after": [5, 40], "deaths": 6}))
        draft.rename(plan)
        eventually(lambda: len(list(deaths.glob(f"{point}-*"))) == 6)
        time.sleep(0.3)
        plan.unlink()
    seen = judge(switch, load)
    assert seen.unanswered >= 6
    switch.until_whole()


def test_batches_that_outlive_their_worker(switch: BrokenSwitch) -> None:
    """Backends stand still, batches are sent to them, their workers die: then they go on.

    Meanwhile the repeats are at other workers, which cannot see what is about to be committed.
    """
    chance = random.Random(SEED)
    went_in = 0
    with load_on(switch, "zombies") as load:
        rounds = [(4, 0.3), (2, 0.5), (4, 0.3), (4, 1.2), *[(4, 0.3)] * 3]
        for turn, (victims, held_s) in enumerate(rounds):
            if went_in and turn >= 4:
                break
            switch.until_whole()
            time.sleep(0.3)
            lanes = sql(
                switch.postgres_url,
                "select pid from pg_stat_activity where usename = 'cardswitch_app'"
                " and query ~ 'append_batch|from link l|card_state'",
            )
            with contextlib.ExitStack() as stack:
                for lane in chance.sample(lanes, len(lanes) * 3 // 4):
                    stack.enter_context(switch.stopped(lane["pid"]))
                time.sleep(0.15)
                for worker in chance.sample(switch.workers, victims):
                    os.kill(worker, signal.SIGKILL)
                decided_before = f"posted_at < to_timestamp({time.time()})"
                time.sleep(held_s)
                before = count(switch, "link", decided_before)
            time.sleep(0.1)
            if victims == 4:
                went_in += count(switch, "link", decided_before) - before
    seen = judge(switch, load)
    assert seen.unanswered > 0
    assert went_in > 0, "no batch of a dead worker went in"
    switch.until_whole()


def count(switch: BrokenSwitch, table: str, condition: str) -> int:
    (found,) = sql(switch.postgres_url, f"select count(*) as n from {table} where {condition}")
    return int(found["n"])


def test_a_worker_that_stands_still_and_goes_on(switch: BrokenSwitch) -> None:
    """Its marks run out and others take its cards: what it then brings is refused."""
    stale = switch.metric(STALE)
    chance = random.Random(SEED)
    with load_on(switch, "standstill") as load:
        for _ in range(2):
            time.sleep(0.3)
            with contextlib.ExitStack() as stack:
                for worker in chance.sample(switch.workers, 2):
                    stack.enter_context(switch.stopped(worker))
                time.sleep(1.3)
    seen = judge(switch, load)
    assert seen.unanswered == 0
    assert switch.metric(STALE) >= stale


def test_everything_killed_and_started_again_on_the_same_directory(switch: BrokenSwitch) -> None:
    with load_on(switch, "supervisor") as load:
        for _ in range(2):
            time.sleep(1)
            answered = load.answered
            switch.kill_supervisor()
            begun = time.monotonic()
            switch.start()
            assert time.monotonic() - begun < 10
            eventually(lambda answered=answered: load.answered > answered + 50)
    seen = judge(switch, load)
    assert seen.unanswered > 0


# -- the cache ----------------------------------------------------------------------------------


def test_the_cache_silent_for_a_while(switch: BrokenSwitch) -> None:
    with load_on(switch, "silence") as load:
        time.sleep(0.4)
        with switch.stopped(switch.pid("redis")):
            answered = load.answered
            time.sleep(1.5)
            assert load.answered > answered + 50, "it goes on without"
        time.sleep(0.6)
    seen = judge(switch, load)
    assert seen.unanswered == 0


def test_the_cache_killed_again_and_again(switch: BrokenSwitch) -> None:
    before = len(switch.events("store_restarted"))
    with load_on(switch, "cache dies") as load:
        for _ in range(4):
            time.sleep(0.4)
            os.kill(switch.pid("redis"), signal.SIGKILL)
            died = len(switch.events("store_restarted"))
            eventually(lambda died=died: len(switch.events("store_restarted")) > died)
    seen = judge(switch, load)
    assert seen.unanswered == 0
    assert len(switch.events("store_restarted")) >= before + 4


def test_the_cache_gone_for_good(mortal_switch: BrokenSwitch, own_cache: EmbeddedStores) -> None:
    """Four workers over the same hot cards, and only the rows to keep them apart."""
    switch = mortal_switch
    with load_on(switch, "no cache") as load:
        time.sleep(0.4)
        os.kill(own_cache.pids["redis"], signal.SIGKILL)
        time.sleep(0.6)
        answered, stale = load.answered, switch.metric(STALE)
        time.sleep(1.5)
        assert load.answered > answered + 50, "it goes on without"
        assert switch.metric(STALE) > stale, "the rows had nothing to refuse"
        eventually(own_cache.ensure_running)
        time.sleep(0.6)
    seen = judge(switch, load)
    assert seen.unanswered == 0


# -- Postgres -----------------------------------------------------------------------------------


def test_postgres_restarted_at_once(switch: BrokenSwitch) -> None:
    """SIGQUIT: no good-bye to anybody, recovery from the log at the next start."""
    with load_on(switch, "immediate") as load:
        for _ in range(2):
            time.sleep(0.7)
            os.kill(switch.pid("postgres"), signal.SIGQUIT)
            answered = load.answered
            eventually(lambda answered=answered: load.answered > answered + 50)
    seen = judge(switch, load)
    assert seen.unanswered == 0, "the links stay up"
    waited_s = [
        attempt.replied_at - attempt.sent_at
        for asked in load.record
        for attempt in asked.attempts
        if attempt.reply is not None and attempt.reply.why == "STORE"
    ]
    assert len(waited_s) > 10, "91 while it is away"
    assert statistics.median(waited_s) < 0.3, "91 at once"


def test_backends_terminated_under_load(switch: BrokenSwitch) -> None:
    terminated = 0
    with load_on(switch, "terminated") as load:
        for _ in range(30):
            time.sleep(0.07)
            found = sql(
                switch.postgres_url,
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename = 'cardswitch_app' and state = 'active'",
            )
            terminated += len(found)
    assert terminated > 0
    seen = judge(switch, load)
    assert seen.unanswered == 0


# -- verify -------------------------------------------------------------------------------------


def verify(switch: BrokenSwitch) -> tuple[int, str]:
    program = Path(sys.executable).parent / "cardswitch"
    done = subprocess.run(
        [str(program), "verify", "--data", str(switch.data_dir)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_verify_holds_while_the_switch_runs(switch: BrokenSwitch) -> None:
    with load_on(switch, "verify", tills=4) as load:
        time.sleep(0.5)
        answered = load.answered
        code, words = verify(switch)
        assert load.answered > answered, "nothing was going on"
    assert code == 0, words
    assert "broken" not in words
    judge(switch, load)


TAMPERED = {
    "an amount": "update link set amount_minor = amount_minor + 1",
    "a balance": "update link set available_after = available_after + 1",
    "a predecessor": "update link set prev_batch_id = prev_batch_id + 1",
    "a version": "update link set version = version + 1000",
}


@contextmanager
def tampered(switch: BrokenSwitch, *statements: str) -> Iterator[None]:
    """What a superuser does behind the switch's back, undone afterwards."""
    sql(switch.postgres_url, *(f"create table saved_{t} as table {t}" for t in TABLES))
    try:
        sql(switch.postgres_url, *statements)
        yield
    finally:
        for table in TABLES:
            sql(
                switch.postgres_url,
                f"truncate {table}",
                f"insert into {table} select * from saved_{table}",
                f"drop table saved_{table}",
            )


TABLES = ("link", "posting", "card_state")


def test_verify_names_what_was_tampered_with(
    switch: BrokenSwitch, capsys: pytest.CaptureFixture[str]
) -> None:
    (victim,) = sql(
        switch.postgres_url,
        "select card_id, max(version) / 2 as version from link group by card_id"
        " having count(*) > 8 order by card_id limit 1",
    )
    card_id, version = victim["card_id"], victim["version"]
    one_link = f"where card_id = {card_id} and version = {version}"
    one_posting = (
        f"where (month, batch_id, n, card_id) = (select month, batch_id, n, card_id from link l"
        f" where card_id = {card_id} and version >= {version} and amount_minor <> 0"
        f" order by version limit 1)"
    )
    cases = [f"{statement} {one_link}" for statement in TAMPERED.values()]
    cases += [
        f"delete from link {one_link}",
        f"delete from posting {one_posting}",
        f"update posting set amount_minor = amount_minor + 1 {one_posting}",
        f"update card_state set ecash_available = ecash_available + 1 where card_id = {card_id}",
        f"update card_state set version = version - 1 where card_id = {card_id}",
    ]
    for case in cases:
        with tampered(switch, case):
            code = cardswitch(["verify", "--data", str(switch.data_dir)])
            words = capsys.readouterr().out
            with pytest.raises(Broken):
                check(switch.postgres_url, [])
        assert code == 1, f"not seen: {case}\n{words}"
        named = [int(at) for at in re.findall(rf"card {card_id}, link (\d+): ", words)]
        assert named, words
        if " link " in case:
            assert {version, version + 1, version + 1000} & set(named), words
    code, words = verify(switch)
    assert code == 0, words
