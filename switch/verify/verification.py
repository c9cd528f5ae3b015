"""All checks, in one snapshot that several sessions share."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import trio

from switch.archive.files import Manifest
from switch.journal.bridge import Connection
from switch.progress import Progress
from switch.projections.checkpoints import Checkpoint
from switch.projections.sealing import Block, Sealer
from switch.verify import archives, chains, digests, rows
from switch.verify.digests import Foreign, foreign_of
from switch.verify.parts import BY_CARD, PartFailed, open_snapshot, ranges_of, replay_in_parts
from switch.verify.report import Finding, Report
from switch.verify.sql import CHECKS, PASSES

__all__ = ["CHECKPOINTS", "SAMPLE_CARDS", "PartFailed", "verify"]

SAMPLE_CARDS = 1_000
CHECKPOINTS = "the journal goes on from its checkpoints"

_DIGEST_SESSIONS = 2
_PROCESSES = 2
_WORTH_A_PROCESS = 20_000
"""Links to replay from which on starting another process pays."""
_IN_ORDER = """
set local enable_nestloop = on; set local enable_seqscan = off; set local enable_hashjoin = on
"""
_SAMPLE = """
(select distinct card_id from (
    select card_id from link where xid > $1 and month > $4 order by xid limit 20000) as unsealed
 limit $3)
union
(select card_id from card_state tablesample system ($2) where version > 0 limit $3)
"""


async def verify(
    url: str,
    *,
    sealer: Sealer | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    full: bool = False,
    archive: Path | None = None,
    trusted: Collection[str] = (),
    progress: Progress | None = None,
) -> tuple[Report, Block]:
    """Run all checks in one snapshot; the report, and the last sealed block.

    Where months were archived, `archive` is their directory; without it their openings stand for
    them. `trusted` are the public keys that may have signed them; none: any.

    Without a sealer (no master key) digests are not checked. `full` replays all cards, else a
    sample and what is not sealed yet. STORE_ERRORS when Postgres cannot be reached, PartFailed.
    """
    run = _Verification(url, sealer, full, progress or Progress())
    try:
        await run.begin()
        await run.archives(archive, trusted)
        await run.sums_and_digests()
        await run.checkpoints(checkpoints)
        await run.chains()
    finally:
        run.progress.clear()
        await run.end()
    return run.report, run.last


class _Verification:
    """One run; its first session keeps the snapshot that all others see."""

    def __init__(self, url: str, sealer: Sealer | None, full: bool, progress: Progress) -> None:
        self.url = url
        self.sealer = sealer
        self.full = full
        self.progress = progress
        self.report = Report()
        self.last: Block
        self.through = datetime.date.min
        self.archived: Manifest | None = None
        self.snapshot = ""
        self._main: Connection
        self._opened: list[Connection] = []

    async def begin(self) -> None:
        """Take the snapshot and count what is in it."""
        self._main = await open_snapshot(self.url)
        self._opened.append(self._main)
        self.progress.tell("counting")
        self.snapshot = await self._main.value("select pg_export_snapshot()")
        self.through = await self._main.value("select archived_through()")
        for table in ("link", "posting", "card_state"):
            where = "" if table == "card_state" else f" where month > '{self._through}'"
            count = await self._main.value(f"select count(*) from {table}{where}")  # noqa: S608
            setattr(self.report, "cards" if table == "card_state" else f"{table}s", count)

    @property
    def _through(self) -> str:
        return "-infinity" if self.through == datetime.date.min else self.through.isoformat()

    async def archives(self, directory: Path | None, trusted: Collection[str]) -> None:
        """What was archived, and what stands for it."""
        manifests, found = await self._main.unit(
            lambda raw: archives.known_manifests(raw, directory, trusted)
        )
        if not manifests and not found:
            return
        report = self.report
        report.checks.append(archives.CHECK)
        if manifests:
            self.archived = newest = manifests[-1]
            self.progress.tell(archives.CHECK)
            found += await self._main.unit(lambda raw: archives.check_openings(raw, newest))
        if manifests and directory is None:
            report.skipped.append(f"{newest.links} archived links (their signed openings stand)")
        elif manifests and directory is not None:
            report.archived_links, faults = await self._main.unit(
                lambda raw: archives.check_files(
                    raw,
                    directory,
                    manifests,
                    self.sealer,
                    replay=self.full,
                    progress=lambda n: self.progress.tell(archives.CHECK, n, newest.links),
                )
            )
            found += faults
        report.findings += found

    async def end(self) -> None:
        """Close all sessions."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            for connection in self._opened:
                await connection.close()

    async def _session(self) -> Connection:
        connection = await open_snapshot(self.url, self.snapshot)
        self._opened.append(connection)
        return connection

    async def sums_and_digests(self) -> None:
        """Postgres makes sums and chains in one session, and fingerprints in others meanwhile."""
        report = self.report
        report.checks += CHECKS
        self.last, found = await self._main.unit(digests.check_ends)
        if self.sealer is None:
            report.skipped.append(f"{digests.CHECK} (no master key)")
            await _together([self._sql])
            return
        report.checks.append(digests.CHECK)
        first = 1 if self.archived is None else self.archived.blocks + 1
        waiting = digests.spans(first, self.last.number)[::-1]
        sealed = _Sealed(self.sealer, waiting, self.archived)
        workers = [await self._session() for _ in range(_DIGEST_SESSIONS)]
        for worker in workers:
            await worker.script(_IN_ORDER)
        jobs = [lambda worker=worker: self._digests(worker, sealed) for worker in workers]
        await _together([self._sql, *jobs])
        report.sealed_links = sealed.links
        places = sorted(sealed.findings, key=lambda one: one[0])
        report.findings += [*found, *(finding for _, finding in places)][: digests.FINDINGS_MAX]

    async def _sql(self) -> None:
        for numbers, query in PASSES:
            if self.sealer is None:  # else the digests tell how far it is
                self.progress.tell(CHECKS[numbers[0]])
            for row in await self._main.rows(query, self.through):
                check = CHECKS[row["number"]]
                found = Finding(check, row["card_id"], row["version"], row["what"])
                self.report.findings.append(found)
        await self._main.script(BY_CARD)
        _, faults = await self._main.unit(lambda raw: rows.check_rows(raw, self.through))
        self.report.findings += faults

    async def _digests(self, session: Connection, sealed: _Sealed) -> None:
        while sealed.waiting and len(sealed.findings) < digests.FINDINGS_MAX:
            first, last = sealed.waiting.pop()

            async def check(raw: Any, span: tuple[int, int] = (first, last)) -> Any:
                return await digests.check_span(
                    raw, sealed.sealer, *span, self.through, sealed.foreign(span[0])
                )

            links, found = await session.unit(check)
            sealed.links += links
            sealed.findings += [(first, one) for one in found]
            self.progress.tell(digests.CHECK, sealed.links, self.report.links)

    async def checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Each checkpoint is signed, and its block stands in the journal as it stood then."""
        if not checkpoints:
            return
        self.report.checks.append(CHECKPOINTS)
        self.report.findings += await self._main.unit(
            lambda raw: _check_checkpoints(raw, checkpoints)
        )

    async def chains(self) -> None:
        """Replay all cards, or a sample."""
        report = self.report
        report.checks.append(chains.CHECK)
        await self._main.script(BY_CARD)
        if self.full and report.links >= _WORTH_A_PROCESS:
            ranges = await self._main.unit(lambda raw: ranges_of(raw, _PROCESSES, report.cards))
            result = await replay_in_parts(
                self.url, self.snapshot, ranges, self.through, self._tell_chains
            )
        else:
            cards: Any = (-(1 << 63), (1 << 63) - 1)
            if not self.full:
                cards = await self._main.unit(self._sample)
            result = await self._main.unit(
                lambda raw: chains.replay_cards(raw, cards, self.through, self._tell_chains)
            )
        report.replayed_links, report.replayed_cards, found = result
        report.findings += found

    def _tell_chains(self, links: int) -> None:
        self.progress.tell(chains.CHECK, links, self.report.links if self.full else 0)

    async def _sample(self, raw: Any) -> list[int]:
        percent = min(100.0, 100.0 * SAMPLE_CARDS / max(self.report.cards, 1))
        found = await raw.fetch(_SAMPLE, self.last.end.xid, percent, SAMPLE_CARDS, self.through)
        return [row["card_id"] for row in found]


class _Sealed:
    """What the sessions that check digests share."""

    def __init__(
        self, sealer: Sealer, waiting: list[tuple[int, int]], archived: Manifest | None
    ) -> None:
        self.sealer = sealer
        self._touched = 0 if archived is None else archived.blocks_touched
        self._foreign = () if archived is None else foreign_of(archived.straddling)
        self.waiting = waiting
        self.links = 0
        self.findings: list[tuple[int, Finding]] = []

    def foreign(self, first: int) -> Sequence[Foreign]:
        """Hashes that blocks from this one on need and the tables do not have."""
        return self._foreign if first <= self._touched else ()


async def _together(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run them at once; the first exception, as it was raised, ends all."""
    failed: list[Exception] = []

    async def run(job: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await job()
        except Exception as error:
            failed.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(run, job, nursery.cancel_scope)
    if failed:
        raise failed[0]


async def _check_checkpoints(raw: Any, checkpoints: Sequence[Checkpoint]) -> list[Finding]:
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
            findings.append(Finding(CHECKPOINTS, 0, 0, what))
    return findings[:20]
