"""Several cards between batches, opened and committed as the pipeline does it with two of them."""

from __future__ import annotations

import msgspec
from builders import POLICY, Chain, account_minor, make_facts, make_moment, make_request, make_state

from rules.authorize import decide, lacks_history
from rules.cards import CardFacts, CardState, WorkingCard
from rules.identity import counterpart_key
from rules.ledger import AccountKind, Answer, Link
from rules.replay import check_counterpart, follow
from rules.requests import CardRequest, Operation
from rules.transfers import receiver_of

__all__ = ["World", "make_transfer"]


def make_transfer(amount_minor: int, **named: object) -> CardRequest:
    return make_request(Operation.TRANSFER, amount_minor, **named)  # type: ignore[arg-type]


class World:
    """Cards by number; all links in order of commit."""

    def __init__(self) -> None:
        self.chains: dict[int, Chain] = {}
        self.links: list[Link] = []
        self.batches = 0

    def card(
        self, card_id: int, state: CardState | None = None, facts: CardFacts | None = None
    ) -> Chain:
        chain = Chain(state or make_state(), facts or make_facts(), card_id=card_id)
        self.chains[card_id] = chain
        return chain

    def send(self, request: CardRequest, card_id: int, to_id: int = 0) -> Answer:
        """A batch of one request; a reversal learns of the receiver what it must know."""
        card, other_id = self._open(card_id, request), to_id
        if not other_id:
            other_id = receiver_of(request, card)
        other = self._open(other_id, request, card_id) if other_id in self.chains else None
        self.batches += 1
        answer = decide(request, card, make_moment(batch_id=self.batches), POLICY, other)
        self._commit(*(each for each in (card, other) if each is not None))
        return answer

    def _open(self, card_id: int, request: CardRequest, sender_id: int = 0) -> WorkingCard:
        chain = self.chains[card_id]
        card = chain.open()
        keys = {request.key, request.original_key}
        if sender_id and request.original_key:
            keys = {counterpart_key(request.original_key, sender_id)}
        elif not sender_id and not lacks_history(request, card):
            return card
        for link in chain.journal:
            if link.key in keys or link.undoes:
                card.known[link.version] = msgspec.structs.replace(link, postings=())
        return card

    def _commit(self, *cards: WorkingCard) -> None:
        """Both or none; everything that a link says is checked against what was there before."""
        made = {(card.card_id, link.version): link for card in cards for link in card.new}
        for card in cards:
            chain = self.chains[card.card_id]
            state = msgspec.msgpack.decode(chain.state, type=CardState)
            for link in card.new:
                state = follow(state, link, self.batches)
                other = made.get((link.other_card_id, link.other_version))
                check_counterpart(link, other)
            chain.journal += card.new
            chain.state = card.new[-1].state_after if card.new else chain.state
            chain.window = card.window.encode()
        self.links += made.values()
        assert self.on_its_way() == 0

    def on_its_way(self) -> int:
        """What has left one card and come to none."""
        return account_minor(self.links, AccountKind.TRANSFER, 1)

    def available(self, card_id: int) -> int:
        return self.chains[card_id].available_minor
