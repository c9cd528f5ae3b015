"""Changes of the programme in Postgres reach running workers: whole, soon, and never half."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from tests.client.demo import Demo, running_demo
from tests.client.messages import Reply
from tests.client.terminal import Terminal

SOON_S = 5.0
"""What is said to take a second or two, on a machine that is busy with other things."""
SINCE = "cardswitch_tdes_key_since_timestamp_seconds"


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with running_demo("programme-", "--workers", "2") as running:
        yield running


def owner(demo: Demo, *statements: str) -> None:
    """Statements of the database's owner, in one transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(demo.json["postgres"])
        try:
            await connection.execute("; ".join(("begin", *statements, "commit")))
        finally:
            await connection.close()

    asyncio.run(run())


def soon(ask: Callable[[], Reply], wanted: Callable[[Reply], bool], times: int = 12) -> Reply:
    """The answer is as it is wanted in time, and stays so, whichever worker is asked."""
    deadline = time.monotonic() + SOON_S
    right = 0
    while right < times:
        reply = ask()
        right = right + 1 if wanted(reply) else 0
        assert right or time.monotonic() < deadline, reply
        time.sleep(0.02)
    return reply


def anywhere(demo: Demo, entry: dict[str, Any], ask: Callable[[Terminal], Reply]) -> Reply:
    """Asked on a new connection, which may be any worker's."""
    with demo.pos(entry) as terminal:
        return ask(terminal)


def is_code(code: str, why: str = "") -> Callable[[Reply], bool]:
    return lambda reply: reply.code == code and (not why or reply.why == why)


def echo(terminal: Terminal) -> Reply:
    return terminal.echo()


def test_a_terminal_is_disabled_and_enabled(demo: Demo) -> None:
    entry = demo.pos_entries[0]
    with demo.pos(entry) as connected:
        assert connected.echo().code == "00"
        owner(demo, "update terminal set enabled = false where terminal_id = 1")
        soon(lambda: anywhere(demo, entry, echo), is_code("58", "TERMINAL"))
        assert connected.echo().code == "58"
        assert anywhere(demo, demo.pos_entries[2], echo).code == "00", "others are as they were"
        owner(demo, "update terminal set enabled = true where terminal_id = 1")
        soon(lambda: anywhere(demo, entry, echo), is_code("00"))
        assert connected.echo().code == "00"
    log = demo.log.read_text(errors="replace")
    assert "programme-changed" in log
    assert max(demo.metrics("cardswitch_programme_changes_total")) >= 2


def test_a_merchant_is_closed(demo: Demo) -> None:
    entry = next(e for e in demo.pos_entries if e["merchant"].endswith("2"))
    card = demo.cards.active()
    owner(demo, "update merchant set open = false where merchant_id = 2")
    balance = lambda terminal: terminal.balance(card)  # noqa: E731
    soon(lambda: anywhere(demo, entry, balance), is_code("03", "MERCHANT"))
    owner(demo, "update merchant set open = true where merchant_id = 2")
    soon(lambda: anywhere(demo, entry, balance), is_code("00"))


def test_a_permission_and_a_limit(demo: Demo) -> None:
    entry, card = demo.pos_entries[4], demo.cards.active()
    refund = lambda terminal: terminal.refund(card, 100)  # noqa: E731
    assert anywhere(demo, entry, refund).code != "00"
    owner(demo, "update terminal set may_return_unlinked = true where terminal_id = 5")
    soon(lambda: anywhere(demo, entry, refund), is_code("00"), times=4)
    advise = lambda terminal: terminal.advise(card, 200)  # noqa: E731
    assert anywhere(demo, entry, advise).why == ""
    owner(demo, "update terminal set floor_limit_minor = 100 where terminal_id = 5")
    soon(lambda: anywhere(demo, entry, advise), is_code("00", "FLOORLIMIT"), times=4)


def test_a_new_terminal(demo: Demo) -> None:
    model = demo.pos_entries[6]
    entry = {**model, "id": "00000099"}
    assert anywhere(demo, entry, echo).code == "58"
    owner(
        demo,
        "insert into terminal (terminal_id, code, merchant_id, link, mac_algorithm, pin_format)"
        " select 99, '00000099', merchant_id, link, mac_algorithm, pin_format"
        " from terminal where terminal_id = 7",
        "insert into terminal_key select 99, usage, version, block from terminal_key"
        " where terminal_id = 7",
    )
    soon(lambda: anywhere(demo, entry, echo), is_code("00"))


def test_a_link_is_switched_off(demo: Demo) -> None:
    entry = demo.pos_entries[0]
    owner(demo, "update acquirer_link set enabled = false where name = 'pos'")
    soon(lambda: anywhere(demo, entry, echo), is_code("58", "TERMINAL"))
    owner(demo, "update acquirer_link set enabled = true where name = 'pos'")
    soon(lambda: anywhere(demo, entry, echo), is_code("00"))


def test_sign_on_holds_for_new_connections(demo: Demo) -> None:
    entry, card = demo.pos_entries[0], demo.cards.active()
    with demo.pos(entry) as before:
        owner(demo, "update acquirer_link set sign_on = true where name = 'pos'")
        balance = lambda terminal: terminal.balance(card)  # noqa: E731
        soon(lambda: anywhere(demo, entry, balance), is_code("58", "SIGNON"))
        assert before.balance(card).code == "00"
        with demo.pos(entry) as after:
            assert after.sign_on().code == "00"
            assert after.balance(card).code == "00"
        owner(demo, "update acquirer_link set sign_on = false where name = 'pos'")
        soon(lambda: anywhere(demo, entry, balance), is_code("00"))


def test_what_cannot_be_read_leaves_all_as_it_was(demo: Demo) -> None:
    entry, other = demo.pos_entries[8], demo.pos_entries[10]
    owner(
        demo,
        "create table kept as select * from terminal_key where terminal_id = 9",
        "update terminal_key set block = replace(block, 'M6AC', 'P0AD')"
        " where terminal_id = 9 and usage = 'mac'",
        "update acquirer_link set packager = 'none' where name = 'pos'",
        "update terminal set enabled = false where terminal_id = 11",
    )
    soon(lambda: anywhere(demo, other, echo), is_code("58"))  # all of it has been looked at
    assert anywhere(demo, entry, echo).code == "00"
    deadline = time.monotonic() + SOON_S
    while max(demo.metrics("cardswitch_programme_faults")) != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert max(demo.metrics("cardswitch_programme_faults")) == 2
    log = demo.log.read_text(errors="replace")
    assert log.count("change-not-taken") == 4, "each of two faults once, at each of two workers"
    # what is forbidden is so even then
    owner(demo, "update terminal set enabled = false where terminal_id = 9")
    soon(lambda: anywhere(demo, entry, echo), is_code("58"))
    owner(
        demo,
        "update terminal_key k set block = kept.block from kept"
        " where k.terminal_id = 9 and k.usage = kept.usage",
        "drop table kept",
        "update terminal set enabled = true where terminal_id in (9, 11)",
        "update acquirer_link set packager = 'iso87-binary' where name = 'pos'",
    )
    soon(lambda: anywhere(demo, entry, echo), is_code("00"))
    soon(lambda: anywhere(demo, other, echo), is_code("00"))
    deadline = time.monotonic() + SOON_S
    while max(demo.metrics("cardswitch_programme_faults")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert max(demo.metrics("cardswitch_programme_faults")) == 0


def test_a_terminal_is_not_deleted(demo: Demo) -> None:
    with pytest.raises(asyncpg.RaiseError, match="set enabled to false"):
        owner(demo, "delete from terminal where terminal_id = 16")


def test_a_long_transaction_does_not_make_the_same_news_each_second(demo: Demo) -> None:
    entry = demo.pos_entries[12]

    async def hold() -> None:
        connection = await asyncpg.connect(demo.json["postgres"])
        try:
            await connection.execute("begin; select pg_current_xact_id()")
            await asyncio.to_thread(look)
            await connection.execute("rollback")
        finally:
            await connection.close()

    def look() -> None:
        owner(demo, "update terminal set enabled = false where terminal_id = 13")
        soon(lambda: anywhere(demo, entry, echo), is_code("58"))
        before = max(demo.metrics("cardswitch_programme_changes_total"))
        time.sleep(2.5)
        assert max(demo.metrics("cardswitch_programme_changes_total")) == before

    asyncio.run(hold())
    owner(demo, "update terminal set enabled = true where terminal_id = 13")
    soon(lambda: anywhere(demo, entry, echo), is_code("00"))


def test_the_age_of_tdes_keys_is_told(demo: Demo) -> None:
    since = max(demo.metrics(SINCE))
    assert 0 < time.time() - since < 3600
    owner(
        demo,
        "update terminal_key set issued_at = now() - interval '400 days'"
        " where terminal_id = 2 and usage = 'mac'",
    )
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        if time.time() - max(demo.metrics(SINCE)) > 399 * 86_400:
            return
        time.sleep(0.1)
    raise AssertionError("an old key was not noticed")
