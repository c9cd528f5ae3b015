"""Requests on their way, and batches of them: what the stages of the pipeline hand on."""

from __future__ import annotations

from collections.abc import Container, Iterable

from rules.requests import CardRequest

__all__ = ["Batch", "Ticket"]


class Ticket:
    """One request on its way: what it asks, until when, and where the answer goes.

    `other_id` is the second card that it needs, the other end of a transfer; 0 for none.
    """

    __slots__ = ("arrived", "card_id", "context", "deadline", "other_id", "request")

    def __init__(
        self,
        request: CardRequest,
        card_id: int,
        arrived: float,
        deadline: float,
        context: object,
        other_id: int = 0,
    ) -> None:
        self.request = request
        self.card_id = card_id
        self.arrived = arrived
        self.deadline = deadline
        self.context = context
        self.other_id = other_id

    @property
    def card_ids(self) -> tuple[int, ...]:
        """The cards that it needs, all of them at once."""
        return (self.card_id, self.other_id) if self.other_id else (self.card_id,)


class Batch:
    """Requests in order of arrival, and the cards that they need (a dict for its order).

    `left` are those that it could not take along.
    """

    __slots__ = ("card_ids", "left", "tickets")

    def __init__(self, tickets: Iterable[Ticket] = ()) -> None:
        self.left: list[Ticket] = []
        self._set(list(tickets))

    def _set(self, tickets: list[Ticket]) -> None:
        self.tickets = tickets
        self.card_ids = dict.fromkeys(card for ticket in tickets for card in ticket.card_ids)

    def leave_out(self, busy: Container[int] = ()) -> None:
        """Leave what needs a card that is busy or not the batch's.

        What stands behind one of them for the same card goes with it: nothing overtakes.
        """
        mine = {card_id for card_id in self.card_ids if card_id not in busy}
        kept = []
        for ticket in self.tickets:
            if mine.issuperset(ticket.card_ids):
                kept.append(ticket)
            else:
                self.left.append(ticket)
                mine.difference_update(ticket.card_ids)
        self._set(kept)

    def take_out_late(self, now: float) -> list[Ticket]:
        """Take out what has no time left."""
        late = [ticket for ticket in self.tickets if ticket.deadline <= now]
        if late:
            self._set([ticket for ticket in self.tickets if ticket.deadline > now])
        return late

    def parts(self) -> list[Batch]:
        """The batch in parts of which no two need the same card, each in order of arrival.

        Cards that a request ties to each other stay together. What is all one knot falls into its
        single requests, to be carried one after the other.
        """
        chief = {card_id: card_id for card_id in self.card_ids}

        def chief_of(card_id: int) -> int:
            while chief[card_id] != card_id:
                card_id = chief[card_id]
            return card_id

        for ticket in self.tickets:
            if ticket.other_id:
                chief[chief_of(ticket.other_id)] = chief_of(ticket.card_id)
        knots: dict[int, list[Ticket]] = {}
        for ticket in self.tickets:
            knots.setdefault(chief_of(ticket.card_id), []).append(ticket)
        if len(knots) == 1 and len(self.card_ids) > 1:
            return [Batch([ticket]) for ticket in self.tickets]
        return [Batch(tickets) for tickets in knots.values()]
