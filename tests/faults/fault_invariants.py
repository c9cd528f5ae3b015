"""What must hold after every fault: judged from the tables and from what the tills heard.

Shares no code with the switch: plain SQL, and the record of the independent client.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from fault_load import Asked, Kind

from tests.client.messages import Reply

__all__ = [
    "RECEIPT",
    "Broken",
    "Seen",
    "Tables",
    "check",
    "check_record",
    "check_transfers",
    "read_tables",
]

_ECASH = 60
_TOMBSTONE = 21
_REVERSAL, RECEIPT = 20, 31
_WAY = 9
"""The account between two cards."""
_ISSUED_MINOR = 10_000

_LINKS = """
select card_id, version, tx, response, batch_id, prev_batch_id, n, purse, operation, amount_minor,
       available_after, undoes, request_key, month
from link order by card_id, version
"""
_POSTINGS = """
select month, batch_id, n, card_id, purse, currency, amount_minor,
       debit_kind, debit_id, credit_kind, credit_id
from posting
"""
_ROWS = """
select card_id, version, batch_id, ecash_available + ecash_held as ecash,
       voucher_available + voucher_held as voucher, points_available + points_held as points,
       ecash_available, least(ecash_available, ecash_held, voucher_available, voucher_held,
                              points_available, points_held) as least_amount
from card_state
"""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Seen:
    """What a check went through, so that a test can ask whether there was anything to see."""

    asked: int
    approved: int
    declined: int
    unanswered: int
    turned_away: int
    repeated: int
    reversed: int
    barred: int
    links: int
    transfers: int
    """Which moved value, undone since or not."""


def demand(holds: bool, words: str, *facts: object) -> None:
    if not holds:
        raise Broken(f"{words}: {', '.join(map(repr, facts))}")


@dataclass(frozen=True)
class Tables:
    """Everything the journal holds, of one snapshot."""

    links: list[Any]
    postings: list[Any]
    rows: dict[int, Any]


def read_tables(url: str) -> Tables:
    async def read() -> Tables:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                links = await connection.fetch(_LINKS)
                postings = await connection.fetch(_POSTINGS)
                rows = await connection.fetch(_ROWS)
        finally:
            await connection.close()
        return Tables(links, postings, {row["card_id"]: row for row in rows})

    return asyncio.run(read())


def check(url: str, record: Sequence[Asked]) -> Seen:
    """All invariants; Broken with the first that does not hold. Nothing may be running."""
    tables = read_tables(url)
    check_chains(tables)
    check_postings(tables)
    check_transfers(tables)
    return check_record(tables, record)


# -- the tables alone ---------------------------------------------------------------------------


def check_chains(tables: Tables) -> None:
    """Versions from 1 without a gap, each link on its predecessor, the row at the end of it."""
    last: dict[int, Any] = {}
    available: dict[tuple[int, int], int] = defaultdict(int)
    keys: set[tuple[int, bytes]] = set()
    transactions: Counter[str] = Counter()
    for link in tables.links:
        card_id, version = link["card_id"], link["version"]
        where = (card_id, version)
        before = last.get(card_id)
        demand(version == (before["version"] if before else 0) + 1, "versions have a gap", where)
        demand(
            link["prev_batch_id"] == (before["batch_id"] if before else 0),
            "a link does not name its predecessor",
            where,
        )
        purse = (card_id, link["purse"])
        available[purse] += link["amount_minor"]
        demand(available[purse] == link["available_after"], "amounts do not add up", where)
        demand(available[purse] >= 0, "a card went below zero", where)
        if link["operation"] == _TOMBSTONE or link["response"] not in (0, 10):
            demand(link["amount_minor"] == 0, "a refusal moved money", where)
        key = (card_id, link["request_key"])
        demand(key not in keys, "a request key has two links", where)
        keys.add(key)
        transactions[link["tx"]] += 1
        last[card_id] = link
    twice = [tx for tx, count in transactions.items() if count > 1]
    demand(not twice, "one transaction id stands for two links", *twice[:3])
    for card_id, row in tables.rows.items():
        link = last.get(card_id)
        demand(row["least_amount"] >= 0, "a row is below zero", card_id)
        demand(
            (row["version"], row["batch_id"])
            == ((link["version"], link["batch_id"]) if link else (0, 0)),
            "a row is not the state after its last link",
            card_id,
        )
        demand(row["ecash_available"] == available[card_id, _ECASH], "a row's amount", card_id)


def check_postings(tables: Tables) -> None:
    """Every account summed from nothing: zero in all, and each card's sum is its row."""
    accounts: dict[tuple[int, int, int, str], int] = defaultdict(int)
    effects: dict[tuple[Any, ...], int] = defaultdict(int)
    known = {(link["month"], link["batch_id"], link["n"], link["card_id"]) for link in tables.links}
    for posting in tables.postings:
        amount, purse, currency = posting["amount_minor"], posting["purse"], posting["currency"]
        link = (posting["month"], posting["batch_id"], posting["n"], posting["card_id"])
        demand(link in known, "a posting belongs to no link", link)
        demand(amount > 0, "a posting moves nothing", link)
        for side, sign in (("debit", -1), ("credit", 1)):
            kind, account = posting[f"{side}_kind"], posting[f"{side}_id"]
            accounts[kind, account, purse, currency] += sign * amount
            if kind == 1:
                demand(account == posting["card_id"], "a posting on another card", link)
                effects[link] += sign * amount
    demand(sum(accounts.values()) == 0, "the sum over all accounts is not zero")
    for link in tables.links:
        key = (link["month"], link["batch_id"], link["n"], link["card_id"])
        demand(effects[key] == link["amount_minor"], "postings are not the effect", key)
    sums: dict[tuple[int, int], int] = defaultdict(int)
    for (kind, account, purse, _), amount in accounts.items():
        if kind == 1:
            sums[account, purse] += amount
    for card_id, row in tables.rows.items():
        for purse, name in ((60, "ecash"), (80, "voucher"), (90, "points")):
            demand(sums[card_id, purse] == row[name], "postings are not the row", card_id, name)


def halves(tables: Tables) -> tuple[set[Any], set[Any]]:
    """Links that send to another card, or get back from one; and what they did to that card."""
    operations = {
        (link["month"], link["batch_id"], link["n"], link["card_id"]): link["operation"]
        for link in tables.links
    }
    own, other = set(), set()
    for posting in tables.postings:
        if _WAY in (posting["debit_kind"], posting["credit_kind"]):
            link = (posting["month"], posting["batch_id"], posting["n"], posting["card_id"])
            out = posting["credit_kind"] == _WAY
            undoes = operations[link] == _REVERSAL
            if not undoes:
                demand(out is (operations[link] != RECEIPT), "the wrong way", link)
            (other if out is undoes else own).add(link)
    return own, other


def check_transfers(tables: Tables) -> None:
    """Both links of a transfer or none: each batch leaves nothing between two cards."""
    ways: dict[tuple[Any, ...], int] = defaultdict(int)
    for posting in tables.postings:
        batch = (posting["month"], posting["batch_id"], posting["purse"])
        for side, sign in (("debit", -1), ("credit", 1)):
            if posting[f"{side}_kind"] == _WAY:
                ways[batch] += sign * posting["amount_minor"]
    for batch, amount in ways.items():
        demand(amount == 0, "half a transfer", batch, amount)
    own, other = halves(tables)
    sides = [Counter((month, batch) for month, batch, _, _ in side) for side in (own, other)]
    demand(sides[0] == sides[1], "not as many links on either side")


# -- the tables against what was heard ----------------------------------------------------------


def check_record(tables: Tables, record: Sequence[Asked]) -> Seen:
    by_transaction = {link["tx"]: link for link in tables.links}
    for asked in record:
        check_replies(asked)
        check_links(asked, by_transaction)
    cards = cards_of(record, by_transaction)
    check_nothing_unheard(tables, record, set(cards.values()))
    check_reversals(record)
    check_balances(tables, record, cards)
    check_real_time(record, by_transaction)
    check_enquiries(tables, record, cards, by_transaction)
    replies = [reply for asked in record for reply in asked.replies]
    heard = Counter(reply.code for reply in replies)
    return Seen(
        asked=len(record),
        approved=heard["00"],
        declined=heard["51"] + heard["05"],
        unanswered=sum(1 for asked in record for a in asked.attempts if a.reply is None),
        turned_away=heard["91"],
        repeated=sum(1 for asked in record if len(asked.attempts) > 1),
        reversed=sum(1 for reply in replies if reply.state == "REVERSED"),
        barred=sum(1 for reply in replies if reply.why == "BARRED"),
        links=len(tables.links),
        transfers=sum(1 for a in record if a.kind is Kind.TRANSFER and effect_minor(a)),
    )


def is_echo_of_reversed(reply: Reply) -> bool:
    """What a repeat hears of an approval that has been undone since."""
    return reply.code == "05" and reply.state == "REVERSED"


def check_replies(asked: Asked) -> None:
    """Settled by one answer, the same at each repeat; an undone approval is told as such."""
    for reply in asked.replies:
        demand(reply.code in {"00", "05", "51", "91"}, "an answer nobody expects", reply, asked)
    if asked.kind is Kind.BALANCE:
        return
    if asked.abandoned:
        demand(asked.only_turned_away, "given up though something may have been done", asked)
        return
    demand(bool(asked.settling), "never settled", asked)
    plain = [reply for reply in asked.settling if not is_echo_of_reversed(reply)]
    answers = []
    for reply in plain:
        answer = reply.same_answer()
        if answer not in answers:
            answers.append(answer)
    demand(len(answers) <= 1, "a repeat was answered differently", *answers)
    demand(len({reply.tx for reply in asked.settling}) == 1, "a repeat has another TX", asked)
    if len(plain) < len(asked.settling) and plain:
        demand(plain[0].code == "00", "what was never approved is called reversed", asked)


def was_approved(asked: Asked) -> bool:
    """Whether the original had its effect, undone since or not."""
    return any(reply.code == "00" or is_echo_of_reversed(reply) for reply in asked.settling)


def effect_minor(asked: Asked) -> int:
    """What the replies say it did to the card's available amount."""
    if not asked.settling or not was_approved(asked):
        return 0
    if asked.kind in (Kind.REDEEM, Kind.TRANSFER):
        return -asked.amount_minor
    if asked.kind is Kind.LOAD:
        return asked.amount_minor
    if asked.kind is Kind.REVERSAL and asked.settling[0].state == "REVERSED":
        assert asked.original is not None
        sign = -1 if asked.original.kind is Kind.LOAD else 1
        return sign * asked.amount_minor
    return 0


def check_links(asked: Asked, by_transaction: dict[str, Any]) -> None:
    """An answer that settles has its link with its amount; one that does not has none."""
    for reply in asked.replies:
        link = by_transaction.get(reply.tx)
        if reply.code == "91" or asked.kind is Kind.BALANCE:
            demand(link is None, "a link behind an answer that did nothing", reply)
            continue
        demand(link is not None, "an answer without a link", reply, asked)
        assert link is not None
        if reply.why == "BARRED":
            demand(link["operation"] == _TOMBSTONE, "barred by something else", reply)
            continue
        response = 0 if is_echo_of_reversed(reply) else int(reply.code)
        demand(link["response"] == response, "the link says something else", reply, link)
        demand(link["amount_minor"] == effect_minor(asked), "another amount", reply, link)
        if reply.code == "00" and reply.mti == "0210":
            demand(reply.amount_minor == asked.amount_minor, "another DE 4", reply)
            demand(reply.available_minor == link["available_after"], "another DE 54", reply, link)
        if reply.state == "REVERSED" and asked.kind is Kind.REVERSAL:
            demand(link["undoes"] > 0, "a reversal that undoes nothing", reply, link)


def cards_of(record: Iterable[Asked], by_transaction: dict[str, Any]) -> dict[str, int]:
    """Card ids by card number, as links and replies have them; one to one."""
    cards: dict[str, int] = {}
    for asked in record:
        for reply in asked.settling:
            link = by_transaction.get(reply.tx)
            if link is not None:
                known = cards.setdefault(asked.card.pan, link["card_id"])
                demand(known == link["card_id"], "two cards' links under one card", reply)
    demand(len(set(cards.values())) == len(cards), "one card's links under two cards")
    return cards


def check_nothing_unheard(tables: Tables, record: Iterable[Asked], cards: set[int]) -> None:
    """Nothing happened to these cards that nobody was told of."""
    heard = {reply.tx for asked in record for reply in asked.settling}
    nothing = sum(
        1
        for asked in record
        if asked.kind is Kind.REVERSAL and asked.settling and asked.settling[0].state == "NOTHING"
    )
    tombstones = 0
    _, told_on_the_other_card = halves(tables)
    for link in tables.links:
        if (link["month"], link["batch_id"], link["n"], link["card_id"]) in told_on_the_other_card:
            continue
        if link["card_id"] not in cards or link["version"] == 1:
            continue
        if link["operation"] == _TOMBSTONE:
            tombstones += 1
        else:
            demand(link["tx"] in heard, "a link nobody was told of", dict(link))
    demand(tombstones <= nothing, "more tombstones than reversals of nothing")


def check_reversals(record: Iterable[Asked]) -> None:
    """Once a reversal is answered, original and reversals together come to nothing."""
    groups: dict[Asked, list[Asked]] = defaultdict(list)
    for asked in record:
        if asked.original is not None:
            groups[asked.original].append(asked)
    for original, reversals in groups.items():
        for reversal in reversals:
            codes = {reply.code for reply in reversal.settling}
            states = {reply.state for reply in reversal.settling}
            demand(codes == {"00"}, "a reversal was refused", reversal)
            demand(states <= {"REVERSED", "ALREADY", "NOTHING"}, "a reversal's state", reversal)
        net = effect_minor(original) + sum(map(effect_minor, reversals))
        demand(net == 0, "an original and its reversals do not come to nothing", original, net)
    for asked in record:
        if any(is_echo_of_reversed(reply) for reply in asked.settling):
            demand(bool(groups[asked]), "called reversed, though nobody reversed it", asked)


def check_balances(tables: Tables, record: Iterable[Asked], cards: dict[str, int]) -> None:
    """Each card has what the replies together say."""
    expected = dict.fromkeys(cards, _ISSUED_MINOR)
    for asked in record:
        if asked.card.pan in expected:
            expected[asked.card.pan] += effect_minor(asked)
        if asked.to_card is not None and asked.to_card.pan in expected:
            expected[asked.to_card.pan] -= effect_minor(asked)
    for number, amount in expected.items():
        row = tables.rows[cards[number]]
        demand(
            row["ecash_available"] == amount, "a card's amount", row["card_id"], amount, dict(row)
        )


def check_real_time(record: Iterable[Asked], by_transaction: dict[str, Any]) -> None:
    """What was answered before another was sent stands before it in the chain."""
    chains: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for asked in record:
        if asked.settling and asked.kind is not Kind.BALANCE:
            link = by_transaction[asked.settling[0].tx]
            if link["operation"] != _TOMBSTONE:
                times = (asked.first_sent_at, asked.settled_at)
                chains[link["card_id"]].append((link["version"], *times))
    for card_id, links in chains.items():
        earliest_settled = float("inf")
        for version, sent_at, settled_at in sorted(links, reverse=True):
            demand(
                sent_at <= earliest_settled, "a later link was answered before", card_id, version
            )
            earliest_settled = min(earliest_settled, settled_at)


def check_enquiries(
    tables: Tables,
    record: Sequence[Asked],
    cards: dict[str, int],
    by_transaction: dict[str, Any],
) -> None:
    """A balance is that of a link which could have been the card's last while it was asked."""
    sent: dict[tuple[int, int], float] = {}
    settled: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for asked in record:
        if asked.settling and asked.kind is not Kind.BALANCE:
            link = by_transaction[asked.settling[0].tx]
            if link["operation"] != _TOMBSTONE:
                sent[link["card_id"], link["version"]] = asked.first_sent_at
                settled[link["card_id"]].append((asked.settled_at, link["version"]))
    newest: dict[int, tuple[list[float], list[int]]] = {}
    for card_id, moments in settled.items():
        moments.sort()
        versions: list[int] = []
        for _, version in moments:
            versions.append(max(version, versions[-1] if versions else 0))
        newest[card_id] = ([at for at, _ in moments], versions)
    chain: dict[int, list[Any]] = defaultdict(list)
    for link in tables.links:
        chain[link["card_id"]].append(link)
    for asked in record:
        card_id = cards.get(asked.card.pan)
        if asked.kind is not Kind.BALANCE or card_id is None:
            continue
        for attempt in asked.attempts:
            if attempt.reply is None or attempt.reply.code != "00":
                continue
            times, versions = newest[card_id]
            place = bisect.bisect_left(times, attempt.sent_at)
            oldest = versions[place - 1] if place else 1
            possible = {
                link["available_after"]
                for link in chain[card_id][oldest - 1 :]
                if sent.get((card_id, link["version"]), 0.0) <= attempt.replied_at
            }
            heard = attempt.reply.available_minor
            demand(heard in possible, "a balance from the past", card_id, heard, possible)
