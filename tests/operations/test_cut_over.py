"""Cut-over: a link's business date moves on, once, and each posting has one."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.client.demo import Demo
from tests.client.messages import Card, Reply
from tests.client.terminal import Terminal

_DAYS = """
    select business_date from counted_link where tx = $1
"""
_SETTLED = """
    select coalesce(sum(debits_number), 0)::int as number, coalesce(sum(net_minor), 0)::int as net
      from settlement_day where link = $1 and business_date = $2 and merchant_id = $3
"""


def ask(switch: Demo, query: str, *values: Any) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(switch.json["postgres"])
        try:
            return await connection.fetchrow(query, *values)
        finally:
            await connection.close()

    return asyncio.run(run())


def business_day(switch: Demo, reply: Reply) -> date:
    day: date = ask(switch, _DAYS, reply.tx)["business_date"]
    return day


def today() -> date:
    return datetime.now(UTC).date()


def mmdd(day: date) -> str:
    return f"{day:%m%d}"


@pytest.fixture
def current(switch: Demo, network: Terminal) -> date:
    """The network link's business date, which only these tests move on."""
    found = ask(switch, "select max(business_date) as day from cut_over where link = 'network'")
    day: date | None = found["day"]
    if day is None:
        assert network.cut_over(mmdd(today())).code == "00"
        return today()
    return day


def test_a_posting_has_the_date_that_was_begun_before_it(
    switch: Demo, network: Terminal, pos: Terminal, card: Card, current: date
) -> None:
    before = network.redeem(card, 100)
    next_day = current + timedelta(days=1)
    moved = network.cut_over(mmdd(next_day))
    assert (moved.mti, moved.code, moved.fields[15]) == ("0810", "00", mmdd(next_day))
    after = network.redeem(card, 200)
    assert business_day(switch, before) == current
    assert business_day(switch, after) == next_day
    assert business_day(switch, pos.redeem(card, 300)) == today()  # another link, no cut-over
    settled = ask(switch, _SETTLED, "network", next_day, int(network.identity.merchant))
    assert (settled["number"], settled["net"]) == (1, 200)


def test_once_and_its_repeat_hears_the_same(
    switch: Demo, network: Terminal, card: Card, current: date
) -> None:
    next_day = current + timedelta(days=1)
    first = network.cut_over(mmdd(next_day))
    assert first.code == "00"
    sale = network.redeem(card, 100)
    for again in (network.repeat(first), network.cut_over(mmdd(next_day))):
        assert (again.mti, again.code, again.why) == ("0810", "00", "")
    assert business_day(switch, sale) == next_day
    assert network.cut_over(mmdd(next_day + timedelta(days=1))).code == "00"
    assert network.repeat(first).code == "00"  # long since so
    assert business_day(switch, network.redeem(card, 50)) == next_day + timedelta(days=1)
    other = network.repeat(first, de15=mmdd(next_day + timedelta(days=1)))
    assert (other.code, other.why) == ("94", "DUPLICATE")


@pytest.mark.parametrize("days", [-1, -40, 30])
def test_neither_backwards_nor_far(
    switch: Demo, network: Terminal, card: Card, current: date, days: int
) -> None:
    refused = network.cut_over(mmdd(current + timedelta(days=days)))
    assert (refused.mti, refused.code, refused.why) == ("0810", "12", "CLOCK")
    assert business_day(switch, network.redeem(card, 100)) == current


@pytest.mark.parametrize("day", [None, "1301", "0230"])
def test_a_date_that_is_none_is_a_format_error(network: Terminal, day: str | None) -> None:
    assert network.exchange(network.make.network("201", de15=day)).code == "30"  # type: ignore[arg-type]


def test_it_needs_a_sign_on_where_the_link_does(switch: Demo) -> None:
    with switch.network() as terminal:
        refused = terminal.cut_over(mmdd(today()))
        assert (refused.code, refused.why) == ("58", "SIGNON")
