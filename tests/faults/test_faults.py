"""The judge himself, and what `verify` says: without them no round would mean anything."""

from __future__ import annotations

import dataclasses
import re
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
from fault_load import Asked, Kind, Load, running
from fault_round import cast_of
from fault_switch import BrokenSwitch, sql

from switch.cli import main as cardswitch

TILLS = 12
SEED = "faults"


def load_on(switch: BrokenSwitch, name: str, tills: int = TILLS) -> AbstractContextManager[Load]:
    return running(switch, switch.pos_entries[:tills], cast_of(switch), f"{SEED} {name}")


def judge(switch: BrokenSwitch, load: Load) -> Seen:
    seen = check(switch.postgres_url, load.record)
    assert seen.approved > 50, "hardly any load"
    assert seen.declined > 0
    return seen


def until_answered(load: Load, count: int) -> None:
    """Until so many requests have been answered, however slow the machine is."""
    end = time.monotonic() + 60
    while load.answered < count and time.monotonic() < end:
        time.sleep(0.05)


def test_a_load_without_a_fault_leaves_everything_in_order(switch: BrokenSwitch) -> None:
    with load_on(switch, "calm") as load:
        until_answered(load, 400)
    seen = judge(switch, load)
    assert seen.unanswered == 0
    assert seen.reversed > 0
    assert seen.barred > 0
    assert seen.transfers > 5
    assert seen.repeated > 20


def test_the_judge_sees_what_is_wrong(switch: BrokenSwitch) -> None:
    """Each rule of the checker, shown to complain: a record that differs from what happened."""
    with load_on(switch, "judge") as load:
        until_answered(load, 300)
    tables, record = read_tables(switch.postgres_url), load.record
    check_record(tables, record)

    def answered(kind: Kind, code: str = "00", state: str = "") -> Asked:
        return next(each_answered(kind, code, state))

    def each_answered(kind: Kind, code: str = "00", state: str = "") -> Iterator[Asked]:
        for asked in record:
            settling = [(reply.code, reply.state) for reply in asked.settling]
            if asked.kind is kind and settling == [(code, state)] and len(asked.attempts) == 1:
                yield asked

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
    reversal = answered(Kind.REVERSAL, state="REVERSED")
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
    # Only a link tells which card in the journal a number is: an enquiry on a card without one
    # in this record is not compared with anything.
    changed = {each.card.pan for each in each_answered(Kind.REDEEM)}
    enquiry = next(each for each in each_answered(Kind.BALANCE) if each.card.pan in changed)
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


TABLES = ("link", "card_state")


def test_verify_names_what_was_tampered_with(
    switch: BrokenSwitch, capsys: pytest.CaptureFixture[str]
) -> None:
    (victim,) = sql(
        switch.postgres_url,
        "select card_id, max(version) as version from link l where amount_minor <> 0 and version <"
        " (select max(version) / 2 from link m where m.card_id = l.card_id)"
        " group by card_id having count(*) > 4 order by card_id limit 1",
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
        f"update link set postings = '{{}}' {one_posting}",
        f"update link set postings[5] = postings[5] + 1 {one_posting}",
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
