"""The model's part for what time does: lots that end, fees, limits. No code of the rules either.

Where a programme has no terms nothing of it ever happens.
"""

from __future__ import annotations

import datetime
from typing import Any

Message = dict[str, Any]
Expected = dict[str, Any]

NO_TERMS: dict[str, Any] = {
    "offset_min": 0,
    "lives": {},
    "renewal": 7,
    "sponsors": (),
    "fee_after": 0,
    "fee": 0,
    "transaction": 0,
    "return": 0,
    "day": 0,
    "times": 0,
    "balance": 0,
}
GIVEN = ("promo", "reward", "goodwill")
SPENDS = ("redeem", "cash_out", "advice", "hold", "completion")
USES = (
    *("activate", "activate_prevalued", "load", "redeem", "return", "cash_out", "hold"),
    *("advice", "completion"),
)


def months(day: int) -> int:
    """Calendar months since year 0."""
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
    return date.year * 12 + date.month


class LifeModel:
    """Days, lots that end on them, and what was spent on each."""

    terms: dict[str, Any]
    status: str
    lots: dict[int, dict[int, dict[str, Any]]]
    lots_made: int
    known: dict[str, dict[str, Any]]
    elsewhere: set[str]
    now_s: int

    def begin_life(self, terms: dict[str, Any] | None) -> None:
        self.terms = NO_TERMS | (terms or {})
        self.spent: dict[str, list[Any]] = {}
        """By the name of what spent it: purse, day, amount, times."""
        self.accounts: dict[tuple[str, int], int] = {}
        """What sponsors, breakage and fees got (above 0) or gave."""
        self.last_used = 0
        self.charged = 0

    @property
    def today(self) -> int:
        return (self.now_s + 60 * self.terms["offset_min"]) // 86_400

    def _over(self, lot: dict[str, Any]) -> bool:
        return bool(lot["left"]) and 0 < lot["last"] < self.today

    def ages(self, message: Message) -> bool:
        """Whether what is due ends before this message is answered."""
        return message["name"] not in self.known and message["op"] not in ("balance", "outcome")

    def shown(self, purse: int) -> int:
        """What an enquiry shows as available."""
        return sum(lot["left"] for lot in self.lots[purse].values() if not self._over(lot))

    def end(self, purse: int, lot_id: int) -> tuple[int, tuple[str, int]]:
        """A lot ends: how much of it, and to whom."""
        lot = self.lots[purse][lot_id]
        assert self._over(lot), "a lot that is not over"
        heir = ("promo", lot["sponsor"]) if lot["origin"] in GIVEN else ("breakage", 1)
        minor, lot["left"] = lot["left"], 0
        self.book(heir, minor)
        return minor, heir

    def renew(self, purse: int, lot_id: int) -> tuple[int, int]:
        """A lot that came back too late goes on in another: how much, and until when."""
        lot = self.lots[purse][lot_id]
        assert self._over(lot), "a lot that is not over"
        self.lots_made += 1
        last = self.today + self.terms["renewal"]
        minor = lot["left"]
        self.lots[purse][self.lots_made] = lot | {"last": last}
        lot["left"] = 0
        return minor, last

    def overdue(self) -> list[tuple[int, int]]:
        """Purses and lots that are over and still there."""
        return [
            (purse, lot_id)
            for purse, lots in self.lots.items()
            for lot_id, lot in lots.items()
            if self._over(lot)
        ]

    def book(self, account: tuple[str, int], minor: int) -> None:
        self.accounts[account] = self.accounts.get(account, 0) + minor

    # Credits

    def _credit(self, message: Message, minor: int, **more: Any) -> Expected:
        """What a new lot is to be, or why there is none."""
        origin, last, sponsor = message["origin"], message["last"], message["sponsor"]
        if message["terms"]:
            if not message["programme"]:
                return {"code": "58", "rule": "PERMISSION"}
            if origin in GIVEN and sponsor not in self.terms["sponsors"]:
                return {"code": "12", "rule": "SPONSOR"}
            if origin not in GIVEN and sponsor:
                return {"code": "12", "rule": "SPONSOR"}
            if last and last < self.today:
                return {"code": "12", "rule": "LASTDAY"}
            if message["cash"] and origin != "paid":
                return {"code": "12", "rule": "CASHABLE"}
            if origin == "refund" and not message["order"]:
                return {"code": "12", "rule": "ORDER"}
        done = self._new_lot(message, minor, origin, last, sponsor)
        return done | more if "credit" in done else done

    def _new_lot(
        self, message: Message, minor: int, origin: str, last: int, sponsor: int
    ) -> Expected:
        purse = message["purse"]
        if self.too_much(purse, minor):
            return {"code": "61", "rule": "BALANCELIMIT"}
        life = self.terms["lives"].get(origin, 0)
        lot = {
            "left": minor,
            "cashable": origin == "paid" and purse == 60 and message["cash"] is not False,
            "origin": origin,
            "refund": origin != "paid",
            "last": last or (self.today + life if life else 0),
            "sponsor": sponsor,
        }
        return {"code": "00", "effect": minor, "credit": lot}

    # Limits

    def too_much(self, purse: int, minor: int) -> bool:
        """Whether a purse may not have that much more."""
        most = self.terms["balance"] if purse != 90 else 0
        return bool(most) and self.available(purse) + self.held(purse) + minor > most

    def _return_unlinked(self, message: Message) -> Expected:
        minor = message["amount"]
        most = self.terms["return"] or self.terms["transaction"]
        if most and message["purse"] != 90 and minor > most:
            return {"code": "61", "rule": "RETURNLIMIT"}
        return self._new_lot(message, minor, "refund", 0, 0)

    def _limited(self, message: Message, expected: Expected) -> Expected:
        """A spending, unless a limit is met."""
        minor = -expected.get("effect", 0)
        purse = message["purse"]
        if not minor or purse == 90:
            return expected
        mine = [s for s in self.spent.values() if s[:2] == [purse, self.today]]
        terms = self.terms
        resets_s = (self.today + 1) * 86_400 - 60 * terms["offset_min"]
        if terms["transaction"] and minor > terms["transaction"]:
            return {"code": "61", "rule": "TRANSACTIONLIMIT", "resets": 0}
        if terms["day"] and sum(s[2] for s in mine) + minor > terms["day"]:
            return {"code": "61", "rule": "DAYLIMIT", "resets": resets_s}
        if terms["times"] and sum(s[3] for s in mine) >= terms["times"]:
            return {"code": "65", "rule": "DAYCOUNT", "resets": resets_s}
        return expected

    def count(self, message: Message, expected: Expected, effect_minor: int) -> None:
        """What an answer adds to its day, or gives back of it."""
        op, name = message["op"], message["name"]
        spends = op in ("redeem", "hold", "cash_out", "advice") and effect_minor < 0
        if spends and "completes" not in expected:
            self.spent[name] = [message["purse"], self.today, -effect_minor, 1]
        if "completes" in expected:
            hold = expected["completes"]
            held_minor = sum(minor for _, minor in hold["pins"])
            self._uncount(hold["name"], held_minor - expected["inside"], wholly=False)
            self.spent[name] = [hold["purse"], self.today, expected["above"], 0]
        undone = expected.get("undoes")
        if op != "reversal" or undone is None or undone["op"] not in SPENDS:
            return
        counted = undone.get("completes", undone["name"])
        self._uncount(counted, effect_minor, wholly=expected["rs"] == "REVERSED")

    def _uncount(self, name: str, minor: int, *, wholly: bool) -> None:
        spent = self.spent.get(name)
        if spent is not None and spent[1] == self.today:
            spent[2] -= minor
            spent[3] -= wholly

    # Dormancy

    def _fee(self, message: Message) -> Expected:
        month = months(self.today)
        lots = self.lots[60].values()
        there = sum(lot["left"] for lot in lots if lot["origin"] not in GIVEN)
        minor = min(self.terms["fee"], there)
        idle = month - months(self.last_used) - 1
        due = (
            self.terms["fee_after"]
            and self.status == "active"
            and self.last_used
            and idle >= self.terms["fee_after"]
            and self.charged < month == message["month"]
        )
        if not minor or not due:
            return {"code": "25", "links": 0}
        return {"code": "00", "effect": -minor, "fee": month}

    def note(self, message: Message, expected: Expected, code: str, effect_minor: int) -> None:
        """What an answer changes that is neither lots nor status."""
        if code in ("00", "10"):
            self.count(message, expected, effect_minor)
            if message["op"] in USES:
                self.last_used = self.now_s // 86_400
        if "fee" in expected:
            self.charged = expected["fee"]
            self.book(("fee", 1), -effect_minor)
        lot = expected.get("credit")
        if lot and lot["origin"] in GIVEN:
            self.book(("promo", lot["sponsor"]), -effect_minor)
        if expected.get("taken_from"):
            self.book(("promo", expected["taken_from"]), -effect_minor)

    def available(self, purse: int) -> int:
        raise NotImplementedError

    def held(self, purse: int) -> int:
        raise NotImplementedError
