"""A small world whose journal is written by the rules and `append_batch`, as the switch does it."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from rules.authorize import decide
from rules.booking import Moment, Policy
from rules.cards import CardFacts, CardState, CardStatus, WorkingCard
from rules.identity import content_fingerprint, format_transaction_id, request_key, suspense_card_id
from rules.ledger import Link
from rules.requests import CardRequest, Operation, Terminal
from switch.journal.bridge import Connection
from switch.journal.rows import batch_arguments
from switch.projections.projector import step
from switch.projections.sealing import Sealer

__all__ = ["APPEND", "DAY_S", "Request", "World", "project"]

DAY_S = 86_400
POLICY = Policy()
FACTS = msgspec.msgpack.encode(CardFacts(1, "978", "9912"))

APPEND = "select append_batch(" + ", ".join(f"${n}" for n in range(1, 44)) + ")"

Request = tuple[int, CardRequest] | tuple[int, CardRequest, int]
"""A card, what is asked of it, and the other card where there is one."""


class World:
    """Cards of one database and what is done to them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.cards: dict[int, WorkingCard] = {}
        self.numbers = itertools.count(1)
        self.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.terminal = Terminal(
            1, 1, network=False, floor_limit_minor=5_000, completion_tolerance_percent=10
        )

    async def prepare(self) -> None:
        """A programme with two merchants."""
        await self.connection.script(
            "insert into programme values (1, 'Test', '978') on conflict do nothing;"
            "insert into merchant values (1, '000000000000001', 'Shop'),"
            " (2, '000000000000002', 'Other shop') on conflict do nothing"
        )

    async def add_cards(self, count: int, *, first: int = 1) -> list[int]:
        """Active cards without value."""
        return await self._add(range(first, first + count))

    async def add_suspense_chain(self, merchant_id: int = 1) -> int:
        """The chain of advices for unknown numbers."""
        return (await self._add([suspense_card_id(merchant_id)]))[0]

    async def _add(self, ids: Sequence[int]) -> list[int]:
        state = CardState.new()
        state.status = CardStatus.ACTIVE
        encoded = msgspec.msgpack.encode(state)
        await self.connection.rows(
            "insert into card select unnest($1::bigint[]), unnest($2::bytea[]), 1, '9912'",
            list(ids),
            [card_id.to_bytes(12, "big", signed=True) for card_id in ids],
        )
        await self.connection.rows(
            "insert into card_state select unnest($1::bigint[]), 0, 0, 3, 0, 0, 0, 0, 0, 0, $2, ''",
            list(ids),
            encoded,
        )
        for card_id in ids:
            self.cards[card_id] = WorkingCard(card_id, FACTS, encoded, b"")
        return list(ids)

    def request(
        self, operation: Operation, amount_minor: int = 0, *, age_s: int = 0, **changes: Any
    ) -> CardRequest:
        """A request that nobody has sent before."""
        number = next(self.numbers)
        instant_s = int(self.now.timestamp()) - age_s
        settings: dict[str, Any] = {
            "operation": operation,
            "key": request_key(instant_s, f"request {number}"),
            "fingerprint": content_fingerprint(f"{operation}|{amount_minor}"),
            "transaction_id": format_transaction_id((9 << 36) + number),
            "rrn": "",
            "terminal": self.terminal,
            "amount_minor": amount_minor,
        }
        return CardRequest(**(settings | changes))

    def reversal(self, original: CardRequest, **changes: Any) -> CardRequest:
        """The time-out reversal of a request."""
        return self.request(
            Operation.REVERSAL,
            original.amount_minor,
            original_key=original.key,
            names_original=True,
            **changes,
        )

    def decide(self, requests: Sequence[Request]) -> tuple[tuple[Any, ...], list[Link]]:
        """A batch's arguments and its links; the cards here move on at once."""
        batch_id = (9 << 40) + next(self.numbers)
        moment = Moment(int(self.now.timestamp()), self.now.strftime("%y%m"), batch_id)
        touched: dict[int, WorkingCard] = {}
        for card_id, request, *others in requests:
            card = touched[card_id] = self.cards[card_id]
            other = self.cards[others[0]] if others else None
            if other is not None:
                touched[other.card_id] = other
            decide(request, card, moment, POLICY, other)
        arguments = batch_arguments(batch_id, self.now, list(touched.values()))
        made = []
        for card_id, card in touched.items():
            made += card.new
            last = card.new[-1].state_after if card.new else card.encoded_state
            fresh = WorkingCard(card_id, FACTS, last, card.window.encode())
            fresh.known = card.known
            self.cards[card_id] = fresh
        return arguments, made

    async def do(self, *requests: Request) -> list[Link]:
        """Decide and append one batch; its links."""
        arguments, links = self.decide(requests)
        assert await self.connection.value(APPEND, *arguments) == 0
        return links


async def project(app: Connection, sealer: Sealer | None = None, *, limit: int = 2_000) -> int:
    """Steps until there is nothing more; how many links they took."""
    links = 0
    while taken := await app.unit(lambda raw: step(raw, sealer, limit=limit)):
        links += taken
    return links
