"""Openings grow with each page of archived links: projections by their code, chains by replay."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rules.cards import CardState
from rules.replay import ReplayFault
from rules.window import Window
from switch.projections.reading import Entry
from switch.projections.writing import TABLES, project_entries
from switch.verify.chains import Chain

__all__ = ["OpeningFault", "add_entries", "prepare"]

_SEARCH = "set local search_path = opening, public"
_KNOWN = "select * from opening.chain where card_id = any($1::bigint[])"
_WRITE = """
insert into opening.chain
select * from unnest($1::bigint[], $2::int[], $3::bigint[], $4::bytea[], $5::bytea[])
on conflict (card_id) do update set version = excluded.version, batch_id = excluded.batch_id,
    state = excluded.state, request_window = excluded.request_window
"""
_WRITE_HEADS = """
insert into opening.card_head
select * from unnest($1::bigint[], $2::int[], $3::smallint[], $4::bigint[], $5::bigint[],
                     $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::timestamptz[])
on conflict (card_id) do update set version = excluded.version, status = excluded.status,
    ecash_available = excluded.ecash_available, ecash_held = excluded.ecash_held,
    voucher_available = excluded.voucher_available, voucher_held = excluded.voucher_held,
    points_available = excluded.points_available, points_held = excluded.points_held,
    last_posted_at = excluded.last_posted_at
"""


class OpeningFault(Exception):
    """A link does not follow from the one before it; nothing is archived. The text names it."""


async def prepare(raw: Any) -> None:
    """In the transaction of an archive: the tables are there, and unqualified names mean them."""
    for table in TABLES:
        await raw.execute(
            f"create table if not exists opening.{table} (like public.{table} including all)"
        )
    await raw.execute(_SEARCH)


async def add_entries(raw: Any, entries: Sequence[Entry], currencies: Mapping[int, str]) -> None:
    """Further archived links, in the order of their commits. OpeningFault, ProjectionFault."""
    await project_entries(raw, entries, currencies)
    wanted = list({entry.link["card_id"] for entry in entries})
    known = {row["card_id"]: row for row in await raw.fetch(_KNOWN, wanted)}
    chains: dict[int, tuple[Chain, Window]] = {}
    last: dict[int, tuple[bytes, datetime.datetime]] = {}
    for link, _ in entries:
        card_id = link["card_id"]
        if card_id not in chains:
            row = known.get(card_id)
            window = Window(b"" if row is None else row["request_window"])
            chains[card_id] = (Chain(card_id, None if row is None else row["state"]), window)
        chain, window = chains[card_id]
        try:
            last[card_id] = chain.add(link).state_after, link["posted_at"]
        except ReplayFault as fault:
            raise OpeningFault(f"card {card_id}, link {link['version']}: {fault}") from None
        window.add(link["request_key"], link["version"])
    rows, heads = [], []
    for card_id, (chain, window) in chains.items():
        assert chain.state is not None  # it has a link
        state = chain.state
        encoded, posted_at = last[card_id]
        rows.append((card_id, state.version, state.batch_id, encoded, window.encode()))
        heads.append((card_id, state.version, state.status, *_sums(state), posted_at))
    await raw.execute(_WRITE, *map(list, zip(*rows, strict=True)))
    await raw.execute(_WRITE_HEADS, *map(list, zip(*heads, strict=True)))


def _sums(state: CardState) -> Iterator[int]:
    """What is available and held, purse by purse."""
    for purse in (state.ecash, state.voucher, state.points):
        yield purse.available_minor
        yield purse.held_minor
