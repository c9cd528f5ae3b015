"""`cardswitch rebuild`: all projections anew from the journal, and whether they are the same.

They are made in tables of their own, by the same steps, up to the place where the live ones are;
these are kept from moving while both are compared. Digests are not made anew: they are there to
prove that the journal is what it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import trio

from switch.archive.files import ARCHIVE_DIRECTORY, ArchiveBroken, all_entries, read_manifests
from switch.data_access import CannotRun, database_url, on_database, say
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.progress import Progress
from switch.projections.effects import ProjectionFault
from switch.projections.projector import JournalBehind, step
from switch.projections.reading import READER_SETTINGS, START, Entry, Position, position_of
from switch.projections.writing import TABLES, currencies_of, project_entries

__all__ = ["Comparison", "rebuild", "run_rebuild"]

_STEP_LINKS = 5_000
_SHOWN = 5
_SCHEMA = "shadow"
_LIVE = "select * from public.projection_position"
_NO_TIME_OUT = "set idle_in_transaction_session_timeout = 0"
_WHOLE = """
set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
set local work_mem = '128MB'
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """A projection made anew against the live one."""

    table: str
    rows: int
    wrong: int
    """Live rows that do not follow from the journal."""
    lacking: int
    """Rows that follow from the journal and are not there."""
    examples: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether they are the same."""
        return not self.wrong and not self.lacking


Archived = Callable[[], Iterator[Entry]]
"""The links of the archive's files, in the order of their commits."""


async def rebuild(
    url: str,
    *,
    replace: bool = False,
    archived: Archived | None = None,
    progress: Callable[[int, int], None] = lambda _n, _all: None,
) -> tuple[int, list[Comparison]]:
    """Make all projections anew: how many links, and how they compare.

    Where months were archived it begins with their openings, or with the links in `archived`.
    `replace` puts what was made in the place of what was there. Needs the owner's rights.
    STORE_ERRORS, ProjectionFault, JournalBehind; then nothing was replaced.
    """
    live = await Connection.open(url, timeout_s=10)
    shadow = await Connection.open(url, timeout_s=10)
    try:
        await shadow.script(_make_shadow())
        await shadow.script(f"set search_path = {_SCHEMA}, public; {READER_SETTINGS}")
        await live.script(_NO_TIME_OUT)
        row = (await live.rows(_LIVE))[0]
        through = await live.value("select archived_through()")
        if through > datetime.date.min:
            await _begin_with_archived(shadow, archived)
        await _catch_up(shadow, position_of(row), through, lambda n: progress(n, row["links"]))

        # From here on the live projections stand still: their position is locked.
        await live.script("begin")
        row = (await live.rows(f"{_LIVE} for update"))[0]
        if await live.value("select archived_through()") != through:
            raise JournalBehind("months were archived meanwhile; try again")
        links = await _catch_up(
            shadow, position_of(row), through, lambda n: progress(n, row["links"])
        )
        await live.script(_WHOLE)
        compared = [await _compare(live, table) for table in TABLES]
        counted = (await live.rows(f"{_LIVE.replace('public', _SCHEMA)}"))[0]
        if (counted["links"], counted["postings"]) != (row["links"], row["postings"]):
            text = f"{row['links']} links, {row['postings']} postings were counted"
            compared.append(Comparison("projection_position", 1, 1, 0, (text,)))
        if replace:
            await live.script(_replace())
        await live.script("commit")
        return links, compared
    finally:
        await live.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await shadow.script(f"drop schema if exists {_SCHEMA} cascade")
        await shadow.close()


def _make_shadow() -> str:
    tables = (*TABLES, "projection_position")
    made = "".join(
        f"create table {_SCHEMA}.{table} (like public.{table} including all);" for table in tables
    )
    return (
        f"begin; drop schema if exists {_SCHEMA} cascade; create schema {_SCHEMA}; {made}"
        f"insert into {_SCHEMA}.projection_position default values; commit"
    )


async def _begin_with_archived(shadow: Connection, archived: Archived | None) -> None:
    """What months that are in the tables no more left: their openings, or their links again."""
    data = await shadow.value("select manifest from archive_cut order by number desc limit 1")
    counts = msgspec.json.decode(data, type=_Counts)

    async def openings(raw: Any) -> None:
        for table, names in TABLES.items():
            if await raw.fetchval("select to_regclass($1)", f"opening.{table}"):
                columns = ", ".join(names)
                await raw.execute(
                    f"insert into {table} ({columns}) select {columns} from opening.{table}"  # noqa: S608
                )

    async def links(raw: Any) -> None:
        assert archived is not None
        currencies = await currencies_of(raw)
        waiting = archived()
        while page := list(itertools.islice(waiting, _STEP_LINKS)):
            async with raw.transaction():
                await project_entries(raw, page, currencies)

    await shadow.unit(openings if archived is None else links)
    await shadow.rows(
        "update projection_position set links = $1, postings = $2", counts.links, counts.postings
    )


class _Counts(msgspec.Struct):
    """Of a manifest."""

    links: int
    postings: int


async def _catch_up(
    shadow: Connection, until: Position, through: datetime.date, tell: Callable[[int], None]
) -> int:
    """Steps until the place is reached; the links there are up to it."""

    async def one(raw: Any) -> int:
        return await step(raw, None, limit=_STEP_LINKS, until=until, through=through)

    while until != START:
        if await shadow.unit(one) == 0:
            break
        tell((await shadow.rows("select links from projection_position"))[0]["links"])
    return int((await shadow.rows("select links from projection_position"))[0]["links"])


async def _compare(live: Connection, table: str) -> Comparison:
    columns = ", ".join(TABLES[table])

    def less(one: str, other: str) -> str:
        return (
            f"select {columns} from {one}.{table} except all "  # noqa: S608 -- our own names
            f"select {columns} from {other}.{table}"
        )

    rows = (await live.rows(f"select count(*) as n from public.{table}"))[0]["n"]  # noqa: S608
    counts, examples = [], []
    for word, query in (
        ("is there, does not follow:", less("public", _SCHEMA)),
        ("follows, is not there:", less(_SCHEMA, "public")),
    ):
        counts.append((await live.rows(f"select count(*) as n from ({query}) as d"))[0]["n"])  # noqa: S608
        if counts[-1]:
            found = await live.rows(f"select * from ({query}) as d limit {_SHOWN}")  # noqa: S608
            examples += [f"{word} {_shown(row)}" for row in found]
    return Comparison(table, rows, counts[0], counts[1], tuple(examples))


def _shown(row: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.items())


def _replace() -> str:
    """What was cleared by people is kept for the items that are still there."""
    moved = []
    for table, names in TABLES.items():
        columns = ", ".join(names)
        if table == "open_item":
            moved.append(
                f"update {_SCHEMA}.open_item as s set cleared_at = p.cleared_at,"  # noqa: S608
                " cleared_note = p.cleared_note from public.open_item as p"
                " where (p.card_id, p.version, p.kind) = (s.card_id, s.version, s.kind)"
            )
            columns += ", cleared_at, cleared_note"
        moved.append(f"truncate public.{table}")
        moved.append(
            f"insert into public.{table} ({columns}) select {columns} from {_SCHEMA}.{table}"  # noqa: S608
        )
    moved.append(
        "update public.projection_position as p set links = s.links, postings = s.postings"  # noqa: S608
        f" from {_SCHEMA}.projection_position as s"
    )
    return "; ".join(moved)


def _archived(arguments: argparse.Namespace) -> Archived | None:
    directory = arguments.archive or arguments.data / ARCHIVE_DIRECTORY
    manifests = [manifest for manifest, _ in read_manifests(directory)]
    if not manifests:
        return None
    return lambda: (entry for _, entry in all_entries(directory, manifests))


def run_rebuild(arguments: argparse.Namespace) -> int:
    """Rebuild, print, and replace where wanted; the exit code."""
    progress = Progress()

    def tell(links: int, total: int) -> None:
        progress.tell("rebuilding", links, total)

    try:
        url = database_url(arguments)
        links, compared = on_database(
            lambda: rebuild(
                url, replace=arguments.replace, archived=_archived(arguments), progress=tell
            )
        )
    except (ArchiveBroken, CannotRun, ProjectionFault, JournalBehind) as fault:
        progress.clear()
        say(str(fault))
        return 2
    except STORE_ERRORS as error:
        progress.clear()
        say(f"{type(error).__name__}: {error}")
        return 2
    progress.clear()
    print(f"{links} links")
    for one in compared:
        word = "equal  " if one.equal else "differs"
        print(f"{word} {one.table}, {one.rows} rows")
        for example in one.examples:
            print(f"        {example}")
    if all(one.equal for one in compared):
        return 0
    if arguments.replace:
        print("replaced")
        return 0
    return 1
