"""What a card may spend on a day, and what an idle one pays: part of the dialect's model."""

from __future__ import annotations

import datetime
from typing import Any

from .judge_life import day_of
from .plan import Terms

__all__ = ["Days", "month_of"]

Expected = dict[str, Any]
Entry = dict[str, Any]

_USES = (
    *("redeem", "load", "return", "cash_out", "hold", "completion", "advice", "transfer"),
    "receipt",
)


def month_of(day: int) -> int:
    """Calendar months since year 0."""
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
    return date.year * 12 + date.month - 1


class Days:
    """The days of a card: what was spent on the one that counts, when it was used, its fees."""

    lots: dict[int, dict[str, Any]]

    def __init__(self, terms: Terms, issued_day: int) -> None:
        super().__init__()
        self.terms = terms
        self.used_day = issued_day
        self.charged = 0
        self.day = -1
        self.spent = 0
        self.times = 0

    @property
    def totals(self) -> tuple[int, int, int] | None:
        """As they must stand in the state; None where no day has begun."""
        return None if self.day < 0 else (self.day, self.spent, self.times)

    def limited(self, expected: Expected, now_s: int) -> Expected:
        """What is spent, unless a limit is met."""
        amount, terms = -expected.get("effect", 0), self.terms
        if not amount:
            return expected
        begins = day_of(now_s) > self.day
        spent, times = (0, 0) if begins else (self.spent, self.times)
        refusal: Expected = {}
        if 0 < terms.transaction < amount:
            refusal = {"code": "61", "rules": {"TRANSACTIONLIMIT"}}
        elif 0 < terms.day < spent + amount:
            refusal = {"code": "61", "rules": {"DAYLIMIT"}}
        elif 0 < terms.times <= times:
            refusal = {"code": "65", "rules": {"DAYCOUNT"}}
        return (refusal or expected) | {"looked": True}

    def has_room(self, amount: int, there: int) -> bool:
        """Whether a credit may come to what is there."""
        return not self.terms.balance or there + amount <= self.terms.balance

    def begin(self, now_s: int) -> None:
        """A new day, where its clock says so and days are limited; one that goes back says not."""
        if (self.terms.day or self.terms.times) and day_of(now_s) > self.day:
            self.day, self.spent, self.times = day_of(now_s), 0, 0

    def count(self, expected: Expected, entry: Entry, now_s: int) -> None:
        """What an approved link adds to its day, or gives back of it; before its lots move."""
        op, effect, undoes = entry["op"], expected.get("effect", 0), expected.get("undoes")
        if expected.get("looked"):
            self.begin(now_s)
        if not entry["approved"]:
            return
        if op in _USES:
            self.used_day = now_s // 86_400
        if op in ("redeem", "hold", "cash_out", "transfer", "advice") and effect < 0:
            self.begin(now_s)
            self._add(-effect, 1)
            entry["day"] = self.day
        elif op == "completion":
            held = -expected["held"]
            inside = min(expected["amount"], held)
            self.begin(now_s)
            self._add(held - inside - effect, 0)
            self._give_back(undoes, held - inside, 0)
        elif op == "reversal" and undoes is not None and expected.get("rs") != "ALREADY":
            self._uncount(expected, undoes, effect, now_s)

    def _uncount(self, expected: Expected, original: Entry, effect: int, now_s: int) -> None:
        whole = expected["rs"] == "REVERSED"
        if original["op"] == "transfer":
            whole = effect == original["course"][-1][1]
        elif original["op"] == "completion":
            original = original["undoes"]
        elif original["op"] not in ("hold", "redeem", "cash_out", "advice"):
            return
        if original["op"] == "advice" and not original["lots"]:
            return
        self.begin(now_s)
        self._give_back(original, effect, int(whole))

    def _give_back(self, counted: Entry, amount: int, times: int) -> None:
        if counted.get("day") == self.day:
            self._add(-amount, -times)

    def _add(self, amount: int, times: int) -> None:
        if self.day >= 0:
            self.spent = max(self.spent + amount, 0)
            self.times = max(self.times + times, 0)

    def charge(self, month: int, active: bool, now_s: int) -> Expected:
        """The fee of a month: due once, from a card that nobody used for so many whole ones."""
        today = month_of(day_of(now_s))
        there = sum(lot["left"] for lot in self.lots.values() if lot["paid"])
        fee = min(self.terms.fee, there)
        idle = today - month_of(self.used_day) - 1
        due = active and self.terms.fee_after and idle >= self.terms.fee_after
        if not due or not fee or not self.charged < today == month:
            return {"code": "25"}
        return {"code": "00", "effect": -fee, "amount": fee, "fee": month}
