"""Openings grow with each page of archived links: projections by their code, chains by replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rules.replay import ReplayFault
from rules.window import Window
from switch.projections.effects import fold
from switch.projections.projector import programmes_of
from switch.projections.reading import Entry
from switch.projections.writing import TABLES, write_effects
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
    effects = fold(entries, await programmes_of(raw, entries, currencies), currencies)
    await write_effects(raw, effects)
    wanted = list({entry.link["card_id"] for entry in entries})
    known = {row["card_id"]: row for row in await raw.fetch(_KNOWN, wanted)}
    chains: dict[int, tuple[Chain, Window]] = {}
    last: dict[int, bytes] = {}
    for link, _ in entries:
        card_id = link["card_id"]
        if card_id not in chains:
            row = known.get(card_id)
            window = Window(b"" if row is None else row["request_window"])
            chains[card_id] = (Chain(card_id, None if row is None else row["state"]), window)
        chain, window = chains[card_id]
        try:
            last[card_id] = chain.add(link).state_after
        except ReplayFault as fault:
            raise OpeningFault(f"card {card_id}, link {link['version']}: {fault}") from None
        window.add(link["request_key"], link["version"])
    rows = []
    for card_id, (chain, window) in chains.items():
        assert chain.state is not None  # it has a link
        state = chain.state
        rows.append((card_id, state.version, state.batch_id, last[card_id], window.encode()))
    await raw.execute(_WRITE, *map(list, zip(*rows, strict=True)))
