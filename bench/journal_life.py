"""What happens to a number of cards, decided by the rules: a journal's links and postings."""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from rules.authorize import decide
from rules.booking import Moment, Policy
from rules.cards import CardFacts, CardState, WorkingCard
from rules.identity import content_fingerprint, format_transaction_id, request_key
from rules.ledger import Link
from rules.requests import CardRequest, Operation, Terminal
from rules.responses import Response
from switch.journal.rows import batch_arguments

__all__ = ["BATCH_LINKS", "CURRENCY", "EMPTY_STATE", "MERCHANTS", "Batch", "Life", "batch_id_of"]

BATCH_LINKS = 256
CURRENCY = "978"
MERCHANTS = 40
_KEPT = 6  # how many of a card's links may still be returned to, reversed, completed
_FACTS = msgspec.msgpack.encode(CardFacts(1, CURRENCY, "9912"))
EMPTY_STATE = msgspec.msgpack.encode(CardState.new())
_POLICY = Policy()
_RUN = 1 << 40

# What is asked for, in thousandths; the rest are redemptions.
_SHARES = (
    (Operation.LOAD, 130),
    (Operation.RETURN, 60),
    (Operation.HOLD, 90),
    (Operation.COMPLETION, 80),
    (Operation.REVERSAL, 60),
    (Operation.BLOCK, 4),  # and the unblocking with it
)


def batch_id_of(number: int) -> int:
    """The id of the number-th batch, as the first run of a worker gives it."""
    return _RUN + number


class Batch(NamedTuple):
    """What one transaction writes, without its card rows."""

    number: int
    posted_at: datetime.datetime
    links: list[tuple[Any, ...]]
    """In the order of `switch.journal.rows.LINK_COLUMNS`, and the numbers of their postings."""


class _Card:
    __slots__ = ("links", "state", "version", "window")

    def __init__(self) -> None:
        self.state = EMPTY_STATE
        self.window = b""
        self.version = 0
        self.links: list[tuple[Link, CardRequest]] = []


class Life:
    """Cards, and what terminals ask of them. The same seed gives the same journal."""

    def __init__(self, card_ids: range, seed: int) -> None:
        self._luck = random.Random(seed)
        self.cards = {card_id: _Card() for card_id in card_ids}
        self._ids = card_ids
        self._terminals = [
            Terminal(number, number, network=False, completion_tolerance_percent=10)
            for number in range(1, MERCHANTS + 1)
        ]
        self._count = 0
        self._seed = seed
        self.repeats = 0
        """Requests that were sent again and heard the first answer."""

    def batch(self, number: int, instant: datetime.datetime, links: int = BATCH_LINKS) -> Batch:
        """The next batch of so many links."""
        batch_id = batch_id_of(number)
        moment = Moment(int(instant.timestamp()), instant.strftime("%y%m"), batch_id)
        touched: dict[int, WorkingCard] = {}
        made = 0
        while made < links:
            card_id = self._luck.choice(self._ids)
            card = self.cards[card_id]
            working = touched.get(card_id)
            if working is None:
                working = WorkingCard(card_id, _FACTS, card.state, card.window)
                working.known = {link.version: link for link, _ in card.links}
                touched[card_id] = working
            made += self._one(card, working, moment)
        arguments = batch_arguments(batch_id, instant, list(touched.values()))
        for card_id, working in touched.items():
            card = self.cards[card_id]
            card.state = working.new[-1].state_after if working.new else card.state
            card.window = working.window.encode()
            card.version = working.state.version
        numbers, first = arguments[34:36]
        postings = [numbers[begin - 1 : end - 1] for begin, end in itertools.pairwise(first)]
        return Batch(number, instant, _rows((*arguments[16:34], postings)))

    def rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Card id, state and window of each card, for its row."""
        for card_id, card in self.cards.items():
            yield card_id, card.state, card.window

    def _one(self, card: _Card, working: WorkingCard, moment: Moment) -> int:
        """Ask once; how many links that made."""
        before = len(working.new)
        request = self._next(card, working, moment)
        decide(request, working, moment, _POLICY)
        if len(working.new) > before:
            link = working.new[-1]
            if link.answer.response in (Response.APPROVED, Response.PARTIAL):
                card.links.append((link, request))
                del card.links[:-_KEPT]
            if self._luck.random() < 0.03:  # the answer was lost
                decide(request, working, moment, _POLICY)
                self.repeats += 1
        return len(working.new) - before

    def _next(self, card: _Card, working: WorkingCard, moment: Moment) -> CardRequest:
        luck = self._luck
        if working.state.version == 0:
            return self._request(Operation.ACTIVATE, luck.randrange(1_000, 20_000), moment)
        for hold in working.state.holds:
            if hold.expires_s <= moment.now_s:  # as the sweeper would
                return self._request(
                    Operation.HOLD_EXPIRY, hold.amount_minor, moment, hold_version=hold.version
                )
        if working.state.status == 4:
            return self._request(Operation.UNBLOCK, 0, moment)
        point = luck.randrange(1_000)
        for operation, share in _SHARES:
            point -= share
            if point < 0:
                made = self._special(operation, card, moment)
                if made is not None:
                    return made
                break
        return self._request(Operation.REDEEM, luck.randrange(1, 2_500), moment)

    def _special(self, operation: Operation, card: _Card, moment: Moment) -> CardRequest | None:
        luck = self._luck
        match operation:
            case Operation.LOAD:
                return self._request(operation, luck.randrange(100, 10_000), moment)
            case Operation.HOLD:
                return self._request(operation, luck.randrange(1, 2_000), moment)
            case Operation.BLOCK:
                return self._request(operation, 0, moment)
            case Operation.RETURN:
                found = self._take(card, Operation.REDEEM)
                if found is None:
                    return None
                link, _ = found
                return self._request(
                    operation,
                    luck.randint(1, link.amount_minor),
                    moment,
                    merchant_id=link.merchant_id,
                    original_transaction_id=link.answer.transaction_id,
                )
            case Operation.COMPLETION:
                found = self._take(card, Operation.HOLD)
                if found is None:
                    return None
                link, _ = found
                return self._request(
                    Operation.ADVICE,
                    luck.randint(1, link.amount_minor),
                    moment,
                    merchant_id=link.merchant_id,
                    original_transaction_id=link.answer.transaction_id,
                )
            case _:
                found = self._take(card, Operation.REDEEM, Operation.HOLD)
                if found is None:
                    return None
                link, original = found
                return self._request(
                    Operation.REVERSAL,
                    original.amount_minor,
                    moment,
                    merchant_id=link.merchant_id,
                    original_key=original.key,
                    names_original=True,
                )

    def _take(self, card: _Card, *operations: Operation) -> tuple[Link, CardRequest] | None:
        """A former link of that kind; what has been named once is not named again."""
        for place, (link, _) in enumerate(card.links):
            if link.operation in operations and link.amount_minor:
                return card.links.pop(place)
        return None

    def _request(
        self,
        operation: Operation,
        amount_minor: int,
        moment: Moment,
        merchant_id: int = 0,
        **more: Any,
    ) -> CardRequest:
        self._count += 1
        number = self._count
        terminal = self._terminals[(merchant_id or self._luck.randint(1, MERCHANTS)) - 1]
        return CardRequest(
            operation=operation,
            key=request_key(moment.now_s - 2, f"{self._seed}|{number}"),
            fingerprint=content_fingerprint(f"{operation}|{amount_minor}"),
            transaction_id=format_transaction_id((self._seed + 1 << 36) + number),
            rrn="",
            terminal=terminal,
            amount_minor=amount_minor,
            **more,
        )


def _rows(columns: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True))
