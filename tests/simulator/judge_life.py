"""What a lot's last day does to a card: part of the model, written from the dialect."""

from __future__ import annotations

from typing import Any

from .judge_terms import demand

__all__ = ["LOT_EXPIRY", "LOT_RENEWAL", "Lives", "day_of"]

LOT_EXPIRY, LOT_RENEWAL = 17, 18
_CARD, _PROMO, _BREAKAGE = 1, 7, 8
_PROGRAMME = 1
_RENEWAL_DAYS = 7


def day_of(now_s: int) -> int:
    """The day of an instant; the simulator's programme is where UTC is."""
    return now_s // 86_400


class Lives:
    """The lots of a card, and which of them are over."""

    lots: dict[int, dict[str, Any]]
    lots_made: int

    def __init__(self, *rest: Any) -> None:
        super().__init__(*rest)
        self.returned_late: set[int] = set()
        """Lots that the link before has brought value back to, after their last day."""

    def overdue(self, now_s: int) -> set[int]:
        """Lots with value that is past its last day."""
        day = day_of(now_s)
        return {n for n, lot in self.lots.items() if lot["left"] and 0 < lot["expires"] < day}

    def nothing_is_over(self, link: dict[str, Any]) -> None:
        """Before anything is decided: nothing may be spent, moved or given back beside it."""
        demand(not self.returned_late, "late value without a new life", self.returned_late, link)
        demand(not self.overdue(link["now_s"]), "decided on value past its last day", link)

    def look_for_late(self, link: dict[str, Any]) -> None:
        """What a link has put into lots that are over needs a new life at once."""
        back = {lot for lot, amount in link["moves"].items() if amount > 0}
        self.returned_late = back & self.overdue(link["now_s"])
        left_over = self.overdue(link["now_s"]) - back
        demand(not left_over, "value past its last day stays", left_over, link)

    def end(self, link: dict[str, Any], postings: list[dict[str, Any]]) -> None:
        """A lot expires, wholly: to its sponsor, or to breakage."""
        demand(not self.returned_late, "late value expires at once", link)
        demand(len(link["moves"]) == 1, "an expiry of several lots, or none", link)
        number, amount = next(iter(link["moves"].items()))
        demand(number in self.overdue(link["now_s"]), "a lot that is not over expires", link)
        lot = self.lots[number]
        demand(amount == link["effect"] == -lot["left"], "a part of a lot expires", link)
        lot["left"] = 0
        heir = (_BREAKAGE, _PROGRAMME) if lot["paid"] else (_PROMO, 0)
        booked = [
            (*(p["debit_kind"], p["debit_id"], p["credit_kind"], p["credit_id"]), p["amount_minor"])
            for p in postings
        ]
        demand(booked == [(_CARD, link["card"], *heir, -amount)], "an expiry's books", booked, link)

    def renew(self, link: dict[str, Any], postings: list[dict[str, Any]]) -> None:
        """A lot that got value back too late goes on in a new one, wholly."""
        demand(not postings and not link["effect"], "a renewal that moves value", link)
        demand(len(link["lots"]) == len(link["moves"]) == 2, "a renewal of several lots", link)
        number, heir = link["lots"]
        demand(number in self.returned_late, "a lot is renewed that got nothing late", link)
        self.returned_late.remove(number)
        lot = self.lots[number]
        amount = lot["left"]
        demand(link["moves"] == {number: -amount, heir: amount}, "a part is renewed", link, lot)
        self.lots_made += 1
        demand(heir == self.lots_made, "renewed into no new lot", link)
        (_, *kind, expires, sponsor), (_, *new_kind, new_expires, new_sponsor) = link["kinds"]
        demand((kind, sponsor) == (new_kind, new_sponsor), "an heir of another kind", link)
        demand(expires == lot["expires"], "another last day", link, lot)
        due = day_of(link["now_s"]) + _RENEWAL_DAYS
        demand(new_expires == due, "a life of another length", link, due)
        self.lots[heir] = lot | {"expires": new_expires}
        lot["left"] = 0
