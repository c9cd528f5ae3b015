"""All checks, in one snapshot that several sessions share."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
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
        await run.sums_digests_and_sample()
        await run.checkpoints(checkpoints)
        run.report.checks.append(chains.CHECK)
        if full:
            await run.all_chains()
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
            archived = table != "card_state" and self.through > datetime.date.min
            where = f" where month > '{self.through}'" if archived else ""
            count = await self._main.value(f"select count(*) from {table}{where}")  # noqa: S608
            setattr(self.report, "cards" if table == "card_state" else f"{table}s", count)

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

    async def sums_digests_and_sample(self) -> None:
        """What Postgres sums, what its rows say, what a sample replays: each in a session of its
        own, which goes on with the digests when it is done.
        """
        report = self.report
        report.checks += CHECKS
        self.last, ends = await self._main.unit(digests.check_ends)
        sealed = None
        if self.sealer is None:
            report.skipped.append(f"{digests.CHECK} (no master key)")
        else:
            report.checks.append(digests.CHECK)
            first = 1 if self.archived is None else self.archived.blocks + 1
            waiting = digests.spans(first, self.last.number)[::-1]
            sealed = _Sealed(self.sealer, waiting, self.archived)
        jobs = [self._sums, self._rows] if self.full else [self._sums, self._rows, self._sample]
        found: list[list[Finding]] = [[] for _ in jobs]

        async def lane(number: int, session: Connection) -> None:
            found[number] = await jobs[number](session)
            if sealed is not None:
                await self._digests(session, sealed)

        self.progress.tell(CHECKS[0])
        sessions = [self._main, *[await self._session() for _ in jobs[1:]]]
        await _together([partial(lane, *numbered) for numbered in enumerate(sessions)])
        if sealed is not None:
            report.sealed_links = sealed.links
            places = sorted(sealed.findings, key=lambda one: one[0])
            found.append([*ends, *(finding for _, finding in places)][: digests.FINDINGS_MAX])
        report.findings += [finding for findings in found for finding in findings]

    async def _sums(self, session: Connection) -> list[Finding]:
        found = []
        for numbers, query in PASSES:
            if self.sealer is None:  # else the digests tell how far it is
                self.progress.tell(CHECKS[numbers[0]])
            for row in await session.rows(query, self.through):
                check = CHECKS[row["number"]]
                found.append(Finding(check, row["card_id"], row["version"], row["what"]))
        return found

    async def _rows(self, session: Connection) -> list[Finding]:
        await session.script(BY_CARD)
        return await session.unit(lambda raw: rows.check_rows(raw, self.through))

    async def _sample(self, session: Connection) -> list[Finding]:
        """Replay some cards, and those whose links are not sealed yet."""

        async def replay(raw: Any) -> tuple[int, int, list[Finding]]:
            percent = min(100.0, 100.0 * SAMPLE_CARDS / max(self.report.cards, 1))
            found = await raw.fetch(_SAMPLE, self.last.end.xid, percent, SAMPLE_CARDS, self.through)
            cards = [row["card_id"] for row in found]
            return await chains.replay_cards(raw, cards, self.through, lambda _links: None)

        await session.script(BY_CARD)
        report = self.report
        report.replayed_links, report.replayed_cards, found = await session.unit(replay)
        return found

    async def _digests(self, session: Connection, sealed: _Sealed) -> None:
        await session.script(_IN_ORDER)
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

    async def all_chains(self) -> None:
        """Replay all cards."""
        report = self.report
        await self._main.script(BY_CARD)
        if report.links >= _WORTH_A_PROCESS:
            ranges = await self._main.unit(lambda raw: ranges_of(raw, _PROCESSES, report.cards))
            result = await replay_in_parts(
                self.url, self.snapshot, ranges, self.through, self._tell_chains
            )
        else:
            cards = (-(1 << 63), (1 << 63) - 1)
            result = await self._main.unit(
                lambda raw: chains.replay_cards(raw, cards, self.through, self._tell_chains)
            )
        report.replayed_links, report.replayed_cards, found = result
        report.findings += found

    def _tell_chains(self, links: int) -> None:
        self.progress.tell(chains.CHECK, links, self.report.links)


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
