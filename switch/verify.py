"""`cardswitch verify`: does everything the journal says hold together?

All checks run in one read-only snapshot, so they may run while the switch does. They share no code
with what writes the journal: links and postings are judged by what they say themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import msgspec
import trio

from switch.journal.bridge import STORE_ERRORS, Connection, bridge

__all__ = ["CHECKS", "Finding", "add_parser", "verify"]

# Each check returns its first broken place as one row (card_id, version, what), or none.
CHECKS: dict[str, str] = {
    "a card's versions count up from 1 without a gap": """
        select card_id, version::bigint, 'the link before it is missing' as what from (
            select card_id, version,
                   row_number() over (partition by card_id order by version) as place
            from link) as numbered
        where version <> place order by card_id, version limit 1""",
    "each link names the batch of the link before it": """
        select card_id, version::bigint, 'its predecessor was written by another batch' as what
        from (
            select card_id, version, prev_batch_id,
                   lag(batch_id, 1, 0::bigint)
                       over (partition by card_id order by version) as before
            from link) as chained
        where prev_batch_id <> before order by card_id, version limit 1""",
    "each link's available amount is the one before it plus its effect": """
        select card_id, version::bigint, 'its amounts do not add up' as what from (
            select card_id, version, available_after, amount_minor,
                   lag(available_after, 1, 0::bigint)
                       over (partition by card_id, purse order by version) as before
            from link) as summed
        where available_after <> before + amount_minor order by card_id, version limit 1""",
    "a link's postings are its effect": """
        select l.card_id, l.version::bigint, 'its postings are not its effect' as what
        from link l
        left join (
            select month, batch_id, n, card_id,
                   sum(case when credit_kind = 1 and credit_id = card_id
                            then amount_minor else 0 end)
                 - sum(case when debit_kind = 1 and debit_id = card_id
                            then amount_minor else 0 end) as effect
            from posting group by month, batch_id, n, card_id) as p
            using (month, batch_id, n, card_id)
        where l.amount_minor <> coalesce(p.effect, 0)
        order by l.card_id, l.version limit 1""",
    "each posting belongs to a link": """
        select p.card_id, 0::bigint as version, 'a posting of a link that is not there' as what
        from posting p left join link l using (month, batch_id, n, card_id)
        where l.card_id is null limit 1""",
    "a card's row is the state after its last link": """
        select c.card_id, c.version::bigint, 'its row is not what its last link left' as what
        from card_state c
        left join lateral (
            select version, batch_id from link l
            where l.card_id = c.card_id order by version desc limit 1) as last on true
        where c.version <> coalesce(last.version, 0) or c.batch_id <> coalesce(last.batch_id, 0)
        order by c.card_id limit 1""",
    "a card's amounts are the sums of its postings": """
        select c.card_id, c.version::bigint, 'its row is not the sum of its postings' as what
        from card_state c
        left join (
            select card_id, purse, sum(case when credit_kind = 1 then amount_minor else 0 end)
                 - sum(case when debit_kind = 1 then amount_minor else 0 end) as total
            from posting group by card_id, purse) as p on p.card_id = c.card_id
        where case p.purse when 60 then c.ecash_available + c.ecash_held
                           when 80 then c.voucher_available + c.voucher_held
                           when 90 then c.points_available + c.points_held
                           else 0 end
              <> coalesce(p.total, 0)
           or (p.card_id is null and c.ecash_available + c.ecash_held + c.voucher_available
               + c.voucher_held + c.points_available + c.points_held <> 0)
        order by c.card_id limit 1""",
    "a key has one effect on a card": """
        select card_id, max(version)::bigint as version,
               'a request key with two approved links' as what
        from link where response in (0, 10)
        group by card_id, request_key having count(*) > 1 order by card_id limit 1""",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The first place where a check does not hold."""

    check: str
    card_id: int
    version: int
    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what was found."""

    links: int
    postings: int
    cards: int
    findings: tuple[Finding, ...]


async def verify(url: str) -> Report:
    """Run all checks in one snapshot. STORE_ERRORS when Postgres cannot be reached."""
    connection = await Connection.open(url, timeout_s=10)
    try:
        await connection.script("begin isolation level repeatable read read only")
        # The hot path's sessions never scan whole tables; here that is the point.
        await connection.script(
            "set local enable_seqscan = on; set local enable_hashjoin = on;"
            "set local enable_mergejoin = on; set local work_mem = '128MB';"
            # `limit 1` lures the planner into comparing every link with every posting
            "set local enable_nestloop = off"
        )
        links, postings, cards = [
            (await connection.rows(f"select count(*) as n from {table}"))[0]["n"]  # noqa: S608
            for table in ("link", "posting", "card_state")
        ]
        findings = []
        for check, query in CHECKS.items():
            for row in await connection.rows(query):
                findings.append(Finding(check, row["card_id"], row["version"], row["what"]))
        return Report(links, postings, cards, tuple(findings))
    finally:
        await connection.close()


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb `verify`."""
    parser = verbs.add_parser("verify", help="check the whole journal; 1 when something is broken")
    parser.add_argument("--data", type=Path, default=Path(".data"), metavar="DIR")
    parser.add_argument("--postgres", metavar="URL", help="else the one of the running demo")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    url = arguments.postgres or _running_url(arguments.data)
    if url is None:
        print(
            f"cardswitch: nothing runs on {arguments.data} and no --postgres was given",
            file=sys.stderr,
        )
        return 2

    async def run() -> Report:
        async with bridge():
            return await verify(url)

    try:
        report = trio.run(run)
    except STORE_ERRORS as error:
        print(f"cardswitch: Postgres: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(f"{report.links} links, {report.postings} postings, {report.cards} cards")
    for check in CHECKS:
        broken = [finding for finding in report.findings if finding.check == check]
        print(f"{'broken' if broken else 'holds ':6}  {check}")
        for finding in broken:
            print(f"        card {finding.card_id}, link {finding.version}: {finding.what}")
    return 1 if report.findings else 0


def _running_url(data_dir: Path) -> str | None:
    """The Postgres of the switch that runs on this data directory."""
    try:
        document = (data_dir / "run" / "worker-0.json").read_bytes()
    except OSError:
        return None
    settings = msgspec.json.decode(document, type=dict[str, object])
    return str(settings["postgres_url"])
