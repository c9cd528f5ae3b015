"""Cards and links by the million for measurements of growth, made in minutes.

Cards made here are real to the switch: they have a number, an expiry and a balance, and can be
spent from. But their money came from nowhere, and thin links only need to be well-formed: right in
length, types and indexes, each card's versions without a gap, their bodies those of one real link.
They show how tables, indexes, look-ups and partitions grow. They prove nothing about money: nothing
adds up, nothing is sealed, and `verify` rightly finds it broken.
"""

from __future__ import annotations

import datetime

import asyncpg
import msgspec

from bench.journal_life import BATCH_LINKS, Life
from fastpath.tokens import TokenKey
from rules.cards import CardState, CardStatus
from rules.lots import Lot
from switch.journal.rows import LINK_COLUMNS
from switch.progress import Progress

__all__ = ["BALANCE_MINOR", "EXPIRY", "fill_cards", "make_months", "number_of", "write_thin_links"]

BALANCE_MINOR = 1_000_000_00
EXPIRY = "9912"
_TERMINALS = 1_000
_FIRST_TERMINAL = 1_000_000  # none of a programme's own
_CARDS_PER_STATEMENT = 50_000
_LINKS_PER_STATEMENT = 200_000
_RUN = 1 << 39  # no run of a worker: ids of batches begin with their run's number << 40

_MONTHS = """
do $$ declare lower_bound date; parent text; begin
    for lower_bound in select generate_series({first}::date, now()::date, interval '1 month') loop
        foreach parent in array array['link', 'refusal'] loop
            execute format('create table if not exists %I partition of %I for values from (%L)'
                ' to (%L)', parent || to_char(lower_bound, '_YYYY_MM'), parent, lower_bound,
                (lower_bound + interval '1 month')::date);
        end loop;
    end loop;
end $$
"""
_CARDS = """
with made as (
    insert into card (card_id, digest, programme_id, expiry)
    select $1::bigint + i, substr($2::bytea, i::int * 12 + 1, 12), 1, $4
    from generate_series(0, $3::bigint - 1) as i
    returning card_id
)
insert into card_state
select card_id, 0, 0, $5, $6, 0, 0, 0, 0, 0, $7, '' from made
"""
_LINKS = """
insert into link (month, batch_id, n, card_id, version, prev_batch_id, request_key, operation,
                  response, tx, purse, amount_minor, available_after, held_after, terminal_id,
                  merchant_id, posted_at, body)
select date_trunc('month', at at time zone 'UTC')::date, batch_id, n, card_id, version, 0,
       int4send(extract(epoch from at)::int) || substr(sha256(int8send(i)), 1, 12), 6, 0,
       lpad(upper(to_hex(i)), 12, '0'), 60, 0, 1000, 0, {terminal} + i % {terminals}, 1, at, $6
from (
    select i, {run}::bigint + i / {batch} as batch_id, (i % {batch})::int + 1 as n,
           i * 7919 % $3 + 1 as card_id, (i / $3)::int + 1 as version,
           $4::timestamptz + ($5::timestamptz - $4) * (i::float8 / $7) as at
    from generate_series($1::bigint, $2::bigint - 1) as i) as made
"""
# Links that nobody decided are nothing for the projector: it begins behind them.
_SKIP = """
update projection_position p set xid = last.xid, batch_id = last.batch_id, n = last.n
from (select xid, batch_id, n from link order by xid desc, batch_id desc, n desc limit 1) as last
where (last.xid, last.batch_id, last.n) > (p.xid, p.batch_id, p.n)
"""


def number_of(card_id: int) -> str:
    """The number of a card made here."""
    return f"9599{card_id:015d}"


def make_months(begin: datetime.datetime) -> str:
    """The script that makes the partitions of all months from then until now."""
    return _MONTHS.format(first=f"'{begin:%Y-%m-01}'")


async def fill_cards(url: str, key: TokenKey, first: int, last: int, progress: Progress) -> None:
    """Active cards with a balance, ids from `first` to `last`, of programme 1."""
    state = CardState.new()
    state.status = CardStatus.ACTIVE
    state.lots_made = 1
    state.ecash.available_minor = BALANCE_MINOR
    state.ecash.lots.append(Lot(1, BALANCE_MINOR))
    values = (EXPIRY, int(CardStatus.ACTIVE), BALANCE_MINOR, msgspec.msgpack.encode(state))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("set synchronous_commit = off")
        for begin in range(first, last + 1, _CARDS_PER_STATEMENT):
            ids = range(begin, min(begin + _CARDS_PER_STATEMENT, last + 1))
            digests = b"".join(key.digest(number_of(card_id)) for card_id in ids)
            await connection.execute(_CARDS, begin, digests, len(ids), *values)
            progress.tell("cards made", ids[-1] - first + 1, last - first + 1)
    finally:
        await connection.close()


async def write_thin_links(
    url: str,
    links: range,
    cards: int,
    begin: datetime.datetime,
    progress: Progress,
    *,
    all_links: int,
) -> None:
    """The links with these numbers, out of `all_links` between `begin` and now."""
    body = Life(range(1, 2), 1).batch(1, begin, 1).links[0][LINK_COLUMNS.index("body")]
    now = datetime.datetime.now(datetime.UTC)
    text = _LINKS.format(
        run=_RUN, batch=BATCH_LINKS, terminal=_FIRST_TERMINAL, terminals=_TERMINALS
    )
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("set synchronous_commit = off")
        await connection.execute(make_months(begin))
        for first in range(links.start, links.stop, _LINKS_PER_STATEMENT):
            last = min(first + _LINKS_PER_STATEMENT, links.stop)
            values = (first, last, cards, begin, now, body, float(all_links))
            await connection.execute(text, *values)
            progress.tell("thin links written", last - links.start, len(links))
        await connection.execute(_SKIP)
    finally:
        await connection.close()
