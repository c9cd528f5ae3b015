"""No column of what is evidence can be changed, no row removed, added or swapped, unseen."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_world import World, project

from rules.requests import Operation
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.projections import sealing
from switch.projections.checkpoints import append_checkpoint, checkpoint_of, read_checkpoints
from switch.projections.images import link_image
from switch.projections.sealing import Sealer, last_block
from switch.signing import SigningKey
from switch.verify import Report, digests, verify

CARD, OTHER = 1, 2
EVIDENCE = ("link", "card_state", "journal_digest")
COLUMNS = {
    "link": (
        *("month", "batch_id", "n", "card_id", "version", "prev_batch_id", "request_key"),
        *("operation", "response", "tx", "purse", "amount_minor", "available_after", "held_after"),
        *("undoes", "terminal_id", "merchant_id", "batch_number", "counts", "counted_minor"),
        *("posted_at", "xid", "body", "postings"),
    ),
    "card_state": (
        *("card_id", "version", "batch_id", "status", "ecash_available", "ecash_held"),
        *("voucher_available", "voucher_held", "points_available", "points_held", "state"),
        *("request_window",),
    ),
    "journal_digest": (
        *("block", "xid", "batch_id", "n", "links", "postings", "marks", "digest", "key_check"),
        *("made_at",),
    ),
}
"""A value of the same type that is another one."""
OTHERS = {
    "smallint": "{0} + 1",
    "integer": "{0} + 1",
    "bigint": "{0} + 1",
    "bytea": "set_byte({0}, 0, get_byte({0}, 0) # 1)",
    "date": "({0} + interval '1 month')::date",
    "timestamp with time zone": "{0} + interval '1 microsecond'",
    "xid8": "(({0}::text::bigint) + 1)::text::xid8",
}
_TYPES = {
    "bytea": ("request_key", "body", "state", "request_window", "marks", "digest", "key_check"),
    "date": ("month",),
    "timestamp with time zone": ("posted_at", "made_at"),
    "xid8": ("xid",),
}


def other(column: str, table: str) -> str:
    texts = {
        "tx": "'AAAAAAAAAAAA'",
        "batch_number": "'7'",
        "link.postings": "case cardinality(postings) when 0 then array[1, 1, 2, 1, 5, 978]"
        " else postings[:4] || postings[5] + 1 || postings[6:] end",
    }
    for name in (column, f"{table}.{column}"):
        if name in texts:
            return texts[name]
    kind = next((kind for kind, names in _TYPES.items() if column in names), "bigint")
    return OTHERS[kind].format(column)


@pytest.fixture
async def journal(
    world: World, app: Connection, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> World:
    """Three cards with every kind of link, sealed in blocks of seven, the last three not sealed."""
    monkeypatch.setattr(sealing, "BLOCK_LINKS_MAX", 7)
    await world.add_cards(4)  # the last one stays as it was issued
    await world.do(*[(card, world.request(Operation.LOAD, 1_000)) for card in (1, 2, 3)])
    for number in range(9):
        sale, hold = world.request(Operation.REDEEM, 20), world.request(Operation.HOLD, 30)
        await world.do((CARD, sale), (OTHER, hold), (3, world.request(Operation.REDEEM, 10**6)))
        undone = world.reversal(sale if number % 2 else hold)
        await world.do((CARD if number % 2 else OTHER, undone))
    await project(app, sealer)
    await world.do(*[(card, world.request(Operation.LOAD, 5)) for card in (1, 2, 3)])
    return world


async def checked(url: str, sealer: Sealer, **options: Any) -> Report:
    return (await verify(url, sealer=sealer, **options))[0]


async def test_the_list_of_columns_is_all_there_are(journal: World) -> None:
    rows = await journal.connection.rows(
        "select table_name, column_name from information_schema.columns"
        " where table_schema = 'public' and table_name = any($1::text[])",
        list(EVIDENCE),
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["table_name"], set()).add(row["column_name"])
    assert {table: set(columns) for table, columns in COLUMNS.items()} == found


async def test_a_clean_journal_never_alarms(journal: World, url: str, sealer: Sealer) -> None:
    for full in (True, False):
        report = await checked(url, sealer, full=full)
        assert report.findings == []
    assert report.sealed_links == report.links - 3


ROWS = {
    "sealed": f"card_id = {CARD} and version = 4",
    "unsealed": f"card_id = {CARD} and version = (select max(version) from link where card_id = 1)",
}


@pytest.mark.parametrize(
    ("where", "column"),
    [(where, column) for where in ROWS for column in COLUMNS["link"]],
)
async def test_any_column_of_a_link(
    journal: World, url: str, sealer: Sealer, where: str, column: str
) -> None:
    """What is not sealed yet is judged by itself: what only says who and when is not proven."""
    version = await journal.connection.value(f"select version from link where {ROWS[where]}")
    await journal.connection.script(
        f"update link set {column} = {other(column, 'link')} where {ROWS[where]}"
    )
    report = await checked(url, sealer)
    if where == "unsealed" and column in UNPROVEN_UNTIL_SEALED:
        assert report.findings == []
        return
    named = {(found.card_id, found.version) for found in report.findings}
    expected = {(CARD, version)}
    if column == "card_id":
        expected = {(OTHER, version), (CARD, version + 1), (CARD, version)}
    elif column == "version":
        expected |= {(CARD, version + 1)}
    assert named & expected or column in ("batch_id", "xid", "n", "month"), report.findings
    assert report.findings


UNPROVEN_UNTIL_SEALED = frozenset(
    {"operation", "terminal_id", "merchant_id", "posted_at", "xid", "undoes", "batch_number"}
    | {"month", "n"}
)
"""Until the projector has sealed a link (within a second, as long as it runs) these say nothing
that anything else could contradict."""


POSTINGS = {
    **{
        f"number {n}": f"postings[:{n - 1}] || postings[{n}] + 1 || postings[{n + 1}:]"
        for n in range(1, 7)
    },
    "taken away": "'{}'",
    "told twice": "postings || postings",
    "a number too many": "postings || 0::bigint",
    "a number too few": "postings[:5]",
    "no amount": "postings[:4] || null::bigint || postings[6:]",
    "another direction": "postings[3:4] || postings[1:2] || postings[5:]",
    "two dimensions": "array[postings]",
    "from place 0": "('[0:5]=' || postings::text)::bigint[]",
    "from place 2": "('[2:7]=' || postings::text)::bigint[]",
    "a kind that is none": "postings[1] + 65536 || postings[2:]",
    "a currency that is none": "postings[:5] || postings[6] * 100",
}
NO_POSTINGS = frozenset(POSTINGS) - {
    *(f"number {n}" for n in range(1, 7)),
    *("taken away", "told twice", "another direction"),
}
"""What can be seen to be none without knowing what had been there."""
MISPOSTED = "each posting has two accounts and an amount"


@pytest.mark.parametrize("change", POSTINGS)
async def test_anything_in_a_links_postings(
    journal: World, url: str, sealer: Sealer, change: str
) -> None:
    await journal.connection.script(
        "alter table link drop constraint link_postings;"
        f"update link set postings = {POSTINGS[change]} where {ROWS['sealed']}"
    )
    report = await checked(url, sealer)
    named = {(found.check, found.card_id, found.version) for found in report.findings}
    assert (digests.CHECK, CARD, 4) in named
    assert ((MISPOSTED, CARD, 4) in named) is (change in NO_POSTINGS)


@pytest.mark.parametrize("card_id", [CARD, 4])
@pytest.mark.parametrize("column", COLUMNS["card_state"])
async def test_any_column_of_a_cards_row(
    journal: World, url: str, sealer: Sealer, column: str, card_id: int
) -> None:
    if column == "card_id":
        await journal.connection.script(
            "alter table card_state drop constraint card_state_card_id_fkey;"
        )
    value = other(column, "card_state") if column != "card_id" else "90"
    if column == "request_window" and card_id == 4:  # it is empty: four bytes say the same
        value = "'\\x00000001'"
    await journal.connection.script(
        f"update card_state set {column} = {value} where card_id = {card_id}"
    )
    report = await checked(url, sealer)
    if column == "card_id":
        expected = {CARD, 90} if card_id == CARD else set()
        assert {found.card_id for found in report.findings} == expected or card_id == 4
    else:
        assert card_id in {found.card_id for found in report.findings}


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("column", COLUMNS["journal_digest"])
async def test_any_column_of_a_digest(
    journal: World, url: str, sealer: Sealer, column: str, block: int
) -> None:
    value = "1000" if column == "block" else other(column, "journal_digest")
    await journal.connection.script(
        f"update journal_digest set {column} = {value} where block = {block}"
    )
    report = await checked(url, sealer)
    assert report.findings
    if column in ("links", "postings", "marks"):  # the links are what they were
        whats = [found.what for found in report.findings]
        assert whats == [f"block {block}'s own row was changed, its links are what they were"]


# At random: what is done is told by its seed.

DEEDS = ("change", "delete", "insert", "swap")


@pytest.fixture
async def saved(journal: World) -> World:
    """The journal, kept aside to be put back after each deed."""
    for table in EVIDENCE:
        await journal.connection.script(f"create table kept_{table} as select * from {table}")
    return journal


async def put_back(world: World) -> None:
    await world.connection.script(
        "".join(
            f"truncate {table}; insert into {table} select * from kept_{table};"
            for table in EVIDENCE
        )
    )


async def commit_deed(world: World, table: str, deed: str, luck: random.Random) -> bool:
    """Do it; whether anything is another now."""
    connection = world.connection
    sealed = "(select xid from projection_position)"
    where = f"where xid <= {sealed}" if table == "link" else ""
    if table == "card_state":  # the row of a card that nobody has used is that of any other
        where = "where version > 0"
    rows = await connection.rows(f"select ctid, tableoid::regclass as part from {table} {where}")
    one, two = luck.sample(rows, 2)
    column = luck.choice(COLUMNS[table])
    at = f"where ctid = '{_ctid(one)}' and tableoid = '{one['part']}'::regclass"
    if deed == "delete":
        await connection.script(f"delete from {table} {at}")
    elif deed == "insert":
        keys = {"link": "n", "journal_digest": "block", "card_state": "card_id"}
        names = ", ".join(COLUMNS[table])
        values = ", ".join(
            f"{name} + 1000" if name == keys[table] else name for name in COLUMNS[table]
        )
        if table == "card_state":
            await connection.script(
                "alter table card_state drop constraint if exists card_state_card_id_fkey"
            )
        await connection.script(f"insert into {table} ({names}) select {values} from {table} {at}")
    elif deed == "swap":
        if column in ("card_id", "block", "month", "batch_id", "n"):
            column = {"card_state": "state", "journal_digest": "digest"}.get(table, "version")
        pair = f"('{_ctid(one)}', '{_ctid(two)}'), ('{_ctid(two)}', '{_ctid(one)}')"
        parts = f"array['{one['part']}'::regclass, '{two['part']}'::regclass]"
        await connection.script(
            f"update {table} a set {column} = b.{column} from {table} b"
            f" where (a.ctid, b.ctid) in ({pair})"
            f" and a.tableoid = any({parts}) and b.tableoid = any({parts})"
        )
    else:
        value = "card_id" if (table, column) == ("card_state", "card_id") else other(column, table)
        await connection.script(f"update {table} set {column} = {value} {at}")
    names = ", ".join(COLUMNS[table])
    return bool(
        await connection.value(
            f"select count(*) from ((select {names} from {table} except all"
            f" select {names} from kept_{table}) union all (select {names} from kept_{table}"
            f" except all select {names} from {table})) as d"
        )
    )


def _ctid(row: Any) -> str:
    return f"({row['ctid'][0]},{row['ctid'][1]})"


async def test_anything_at_random(saved: World, url: str, sealer: Sealer) -> None:
    seen = 0
    for seed in range(60):
        luck = random.Random(seed)
        table, deed = luck.choice(EVIDENCE), luck.choice(DEEDS)
        refused = ""
        try:
            changed = await commit_deed(saved, table, deed, luck)
        except STORE_ERRORS as error:  # a key or a sum that cannot be
            changed, refused = False, getattr(error, "sqlstate", "")
        assert refused in ("", "23505", "23514"), (seed, table, deed, refused)
        report = await checked(url, sealer, full=True)
        assert bool(report.findings) is changed, (seed, table, deed, report.findings)
        seen += changed
        await put_back(saved)
    assert seen > 35
    assert (await checked(url, sealer, full=True)).findings == []


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(numbers=st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=6))
def test_two_different_rows_never_have_one_hash(numbers: list[tuple[bytes, bytes]]) -> None:
    """Lengths stand in front of values: what moves from one column into the next is seen."""

    images = set()
    for key, body in numbers:
        row = (
            *(datetime.date(2026, 1, 1), 1, 1, 1, 1, 0, key, 6, 0, "A" * 12, 60, 1, 1, 0, 0, 1, 1),
            *("", 0, 0, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), 7, body),
        )
        images.add(link_image(row))
    assert len(images) == len(set(numbers))


async def test_an_older_database_put_in_the_place_of_this_one_is_seen(
    journal: World, url: str, app: Connection, sealer: Sealer, tmp_path: Path
) -> None:
    """All of it as it truly was before: only a note kept elsewhere can tell."""
    names = (*EVIDENCE, "projection_position")
    for table in names:
        await journal.connection.script(f"create table kept_{table} as select * from {table}")
    await project(app, sealer)
    path, key = tmp_path / "checkpoints", SigningKey.open(tmp_path / "key")
    append_checkpoint(path, checkpoint_of(await app.unit(last_block), key))
    assert (await checked(url, sealer, checkpoints=read_checkpoints(path))).findings == []
    await journal.connection.script(
        "".join(
            f"truncate {table} cascade; insert into {table} select * from kept_{table};"
            for table in names
        )
    )
    assert (await checked(url, sealer)).findings == []
    report = await checked(url, sealer, checkpoints=read_checkpoints(path))
    assert ["the journal was cut back" in found.what for found in report.findings] == [True]
