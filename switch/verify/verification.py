"""All checks, one after the other, in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from switch.journal.bridge import Connection
from switch.projections.checkpoints import Checkpoint
from switch.projections.sealing import Block, Sealer, last_block
from switch.verify import chains, digests
from switch.verify.report import Finding, Progress, Report
from switch.verify.sql import CHECKS

__all__ = ["SAMPLE_CARDS", "verify"]

SAMPLE_CARDS = 1_000
_CHECKPOINTS = "the journal goes on from its checkpoints"

_BEGIN = "begin isolation level repeatable read read only"
# The hot path's sessions never scan whole tables; here that is the point. And `limit 1` must not
# lure the planner into comparing every link with every posting.
_WHOLE = """
set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
set local enable_sort = on; set local enable_bitmapscan = on; set local work_mem = '128MB';
set local enable_nestloop = off; set local plan_cache_mode = auto;
set local cursor_tuple_fraction = 1; set local idle_in_transaction_session_timeout = 0
"""
_IN_ORDER = "set local enable_sort = off; set local enable_seqscan = off"
_SAMPLE = """
(select distinct card_id from (
    select card_id from link where xid > $1 order by xid limit 20000) as unsealed limit $3)
union
(select card_id from card_state tablesample system ($2) where version > 0 limit $3)
"""


async def verify(
    url: str,
    *,
    sealer: Sealer | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    full: bool = False,
    progress: Progress | None = None,
) -> tuple[Report, Block]:
    """Run all checks in one snapshot; the report, and the last sealed block.

    Without a sealer (no master key) digests are not checked. `full` replays all cards, else a
    sample and what is not sealed yet. STORE_ERRORS when Postgres cannot be reached.
    """
    told = progress or Progress()
    connection = await Connection.open(url, timeout_s=10)

    async def run(raw: Any) -> tuple[Report, Block]:
        return await _verify(raw, sealer, checkpoints, full, told)

    try:
        return await connection.unit(run)
    finally:
        told.clear()
        await connection.close()


async def _verify(
    raw: Any,
    sealer: Sealer | None,
    checkpoints: Sequence[Checkpoint],
    full: bool,
    progress: Progress,
) -> tuple[Report, Block]:
    await raw.execute(_BEGIN)
    await raw.execute(_WHOLE)
    report = Report()
    progress.tell("counting")
    for table in ("link", "posting", "card_state"):
        count = await raw.fetchval(f"select count(*) from {table}")  # noqa: S608 -- constants
        setattr(report, "cards" if table == "card_state" else f"{table}s", count)
    for check, query in CHECKS.items():
        progress.tell(check)
        report.checks.append(check)
        for row in await raw.fetch(query):
            found = Finding(check, row["card_id"], row["version"], row["what"])
            report.findings.append(found)
    last = await last_block(raw)
    if sealer is None:
        report.skipped.append(f"{digests.CHECK} (no master key)")
    else:
        await raw.execute(_IN_ORDER)
        report.checks.append(digests.CHECK)
        report.sealed_links, found_here = await digests.check_digests(
            raw, sealer, lambda n: progress.tell(digests.CHECK, n, report.links)
        )
        report.findings += found_here
        await raw.execute(_WHOLE)
    if checkpoints:
        report.checks.append(_CHECKPOINTS)
        report.findings += await _check_checkpoints(raw, checkpoints)
    report.checks.append(chains.CHECK)
    card_ids = None if full else await _sample(raw, last, report.cards)
    report.replayed_links, report.replayed_cards, found_here = await chains.replay_cards(
        raw, card_ids, lambda n: progress.tell(chains.CHECK, n, report.links if full else 0)
    )
    if full:
        await chains.check_untouched(raw, found_here)
    report.findings += found_here
    await raw.execute("commit")
    return report, last


async def _sample(raw: Any, last: Block, cards: int) -> list[int]:
    percent = min(100.0, 100.0 * SAMPLE_CARDS / max(cards, 1))
    rows = await raw.fetch(_SAMPLE, last.end.xid, percent, SAMPLE_CARDS)
    return [row["card_id"] for row in rows]


async def _check_checkpoints(raw: Any, checkpoints: Sequence[Checkpoint]) -> list[Finding]:
    """Each checkpoint is signed, and its block stands in the journal as it stood then."""
    findings = []
    for checkpoint in checkpoints:
        what = ""
        if not checkpoint.holds:
            what = f"the signature of the checkpoint at block {checkpoint.block} is wrong"
        else:
            row = await raw.fetchrow(
                "select digest from journal_digest where block = $1", checkpoint.block
            )
            if row is None:
                what = f"block {checkpoint.block} is not there any more: the journal was cut back"
            elif row["digest"].hex() != checkpoint.digest:
                what = f"block {checkpoint.block} is another than it was at {checkpoint.made_at}"
        if what:
            findings.append(Finding(_CHECKPOINTS, 0, 0, what))
    return findings[:20]
