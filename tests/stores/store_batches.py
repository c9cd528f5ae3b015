"""Cards and batches for the tests of the journal: decided by the rules, as the pipeline does."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rules.authorize import decide
from rules.booking import Moment, Policy
from rules.cards import CardFacts, CardState, CardStatus, WorkingCard
from rules.identity import content_fingerprint, format_transaction_id, request_key
from rules.requests import CardRequest, Operation, Terminal
from switch.journal import migrate as migrations
from switch.journal.bridge import Connection
from switch.journal.rows import CardRow, Refusal, batch_arguments

__all__ = [
    "COLUMNS",
    "NOW",
    "TERMINAL",
    "batch",
    "changed",
    "column",
    "counts",
    "new_batch_id",
    "new_cards",
    "refusal",
    "request",
    "row_of",
]

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
TERMINAL = Terminal(1, 1, network=False)
FACTS = msgspec.msgpack.encode(CardFacts(1, "978", "9912"))

_numbers = itertools.count(1)

_MIGRATIONS = Path(migrations.__file__).with_name("migrations")


def _parameters() -> tuple[str, ...]:
    """The parameters of `append_batch` in their order, from its newest definition."""
    for path in sorted(_MIGRATIONS.glob("*.sql"), reverse=True):
        found = re.search(r"function append_batch\((.*?)\) returns", path.read_text(), re.DOTALL)
        if found:
            text = re.sub("--.*", "", found[1])
            return tuple(part.split()[0] for part in text.split(","))
    raise AssertionError("no migration defines append_batch")


COLUMNS = _parameters()


def new_batch_id() -> int:
    """As a worker of run 5 counts them."""
    return (5 << 40) + next(_numbers)


def request(
    operation: Operation = Operation.LOAD, amount_minor: int = 100, **changes: Any
) -> CardRequest:
    """A request that nobody has sent before."""
    number = next(_numbers)
    settings: dict[str, Any] = {
        "operation": operation,
        "key": request_key(int(NOW.timestamp()), f"request {number}"),
        "fingerprint": content_fingerprint(f"{operation}|{amount_minor}"),
        "transaction_id": format_transaction_id((5 << 36) + number),
        "rrn": "",
        "terminal": TERMINAL,
        "amount_minor": amount_minor,
    }
    return CardRequest(**(settings | changes))


def refusal() -> Refusal:
    return Refusal("pos", "0200", "14", "CARD", "00000001", f"{next(_numbers) % 10**6:06d}")


def row_of(status: CardStatus = CardStatus.ACTIVE) -> CardRow:
    """The row of a card without links."""
    state = CardState.new()
    state.status = status
    return CardRow(FACTS, msgspec.msgpack.encode(state), b"")


async def new_cards(owner: Connection, count: int) -> dict[int, CardRow]:
    """Active cards without a history, by their ids; nobody else has them."""
    first = 1000 + next(_numbers) * 1000
    ids = list(range(first, first + count))
    row = row_of()
    digests = [card_id.to_bytes(12, "big") for card_id in ids]
    await owner.rows(
        "insert into card select unnest($1::bigint[]), unnest($2::bytea[]), 1, '9912'",
        ids,
        digests,
    )
    await owner.rows(
        "insert into card_state select unnest($1::bigint[]), 0, 0, 3, 0, 0, 0, 0, 0, 0, $2, ''",
        ids,
        row.state,
    )
    return dict.fromkeys(ids, row)


def batch(
    rows: Mapping[int, CardRow],
    work: Mapping[int, Sequence[CardRequest]] | Sequence[CardRequest] = (),
    *,
    posted_at: datetime.datetime = NOW,
    batch_id: int | None = None,
    refusals: Sequence[Refusal] = (),
) -> tuple[Any, ...]:
    """The arguments of a batch: each card gets its requests; none named: one load for each."""
    moment = Moment(int(posted_at.timestamp()), posted_at.strftime("%y%m"), batch_id or 0)
    moment = msgspec.structs.replace(moment, batch_id=batch_id or new_batch_id())
    if not isinstance(work, Mapping):
        work = {card_id: work or [request()] for card_id in rows}
    cards = []
    for card_id, row in rows.items():
        card = WorkingCard(card_id, row.facts, row.state, row.window)
        for one in work[card_id]:
            decide(one, card, moment, Policy())
        cards.append(card)
    return batch_arguments(moment.batch_id, posted_at, cards, refusals)


def column(arguments: tuple[Any, ...], name: str) -> Any:
    return arguments[COLUMNS.index(name)]


def changed(arguments: tuple[Any, ...], name: str, at: int, value: object) -> tuple[Any, ...]:
    """The same batch with one value another."""
    place = COLUMNS.index(name)
    values = list(arguments[place])
    values[at] = value
    return (*arguments[:place], values, *arguments[place + 1 :])


async def counts(owner: Connection, arguments: tuple[Any, ...]) -> tuple[int, int, int]:
    """How many links, postings and refusals of this batch are in the journal."""
    found = await owner.rows(
        "select (select count(*) from link where batch_id = $1),"
        " (select count(*) from posting where batch_id = $1),"
        " (select count(*) from refusal where batch_id = $1)",
        column(arguments, "p_batch_id"),
    )
    return tuple(found[0])  # type: ignore[return-value]
