"""The model's part for what is held, told afterwards, or asked for: no code of the rules either.

A hold is a list of pins, lot by lot in the order they were taken. What an advice leaves unpaid is
its merchant's suspense or shortfall, and is the first to go when the advice is undone.
"""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
Expected = dict[str, Any]

HOLD_S = 7 * 86_400
HOLDS_MAX = 16
HORIZON_S = 60 * 86_400


class HoldsModel:
    """Holds, completions, advices and outcome queries of one card."""

    status: str
    before_block: str
    before_freeze: str
    lots: dict[int, dict[int, dict[str, Any]]]
    known: dict[str, dict[str, Any]]
    holds: dict[str, dict[str, Any]]
    elsewhere: set[str]
    owed: dict[tuple[str, int], int]
    now_s: int

    def available(self, purse: int) -> int:
        raise NotImplementedError

    def _spend(self, lots: dict[int, Any], amount_minor: int) -> list[tuple[int, int]]:
        raise NotImplementedError

    def _redeem(self, message: Message) -> Expected:
        raise NotImplementedError

    def held(self, purse: int) -> int:
        return sum(held_of(hold) for hold in self.holds.values() if hold["purse"] == purse)

    # What the answer must be

    def _hold(self, message: Message) -> Expected:
        if len(self.holds) >= HOLDS_MAX:
            return {"code": "65", "rule": "HOLDS"}
        return self._redeem(message)

    def _hold_reversal(self, message: Message, original: dict[str, Any]) -> Expected:
        hold = self.holds.get(original["name"])
        if hold is None:
            return {"code": "00", "rs": "NOTHING" if original["completed"] else "ALREADY"}
        held_minor, final_minor = held_of(hold), message["final"] or 0
        if final_minor > held_minor:
            return {"code": "13"}
        if final_minor == held_minor:
            return {"code": "00", "rs": "ALREADY"}
        return {
            "code": "00",
            "rs": "PARTIAL" if final_minor else "REVERSED",
            "effect": held_minor - final_minor,
            "releases": hold,
            "keeps": final_minor,
            "undoes": original,
        }

    def _expiry(self, message: Message) -> Expected:
        hold = next((h for h in self.holds.values() if h["version"] == message["hold"]), None)
        if hold is None or hold["expires"] > self.now_s:
            return {"code": "25"}
        return {"code": "00", "effect": held_of(hold), "releases": hold, "keeps": 0}

    def _hold_named(self, message: Message) -> dict[str, Any] | None:
        holds = [
            entry
            for entry in self.known.values()
            if entry["op"] == "hold"
            and entry["approved"]
            and (entry["purse"], entry["merchant"]) == (message["purse"], message["merchant"])
        ]
        if message["or"]:
            return next((hold for hold in holds if hold["tx"] == message["or"]), None)
        for hold in holds:
            if message["code"] == hold["tx"][-6:]:
                return hold
        return next((hold for hold in holds if hold["name"] == message["names"]), None)

    def _advice(self, message: Message) -> Expected:
        """Its own request, where it has not been heard of, is barred by the way."""
        own = self.known.get(message["own"])
        if own is not None and not own.get("barred") and own["approved"]:
            return {"code": "00", "rule": "DONEBEFORE", "void": True}
        expected = self._decided(message, own)
        own_instant_s = int(message["own"][:8] or "0", 16)
        if own is not None or 0 < own_instant_s < self.now_s - HORIZON_S:
            return expected
        return expected | {"bars": message["own"], "links": 2}

    def _decided(self, message: Message, own: dict[str, Any] | None) -> Expected:
        done = {"code": "00", "rule": "DONEBEFORE", "void": True}
        named = None if message["foreign"] else self._hold_named(message)
        if named is not None and named["name"] in self.holds:
            return self._completion(message, named)
        if named is not None and named["completed"]:
            return done
        amount_minor, rule = message["amount"], message["foreign"]
        if own is not None and own.get("barred"):
            rule = "BARRED"
        elif not rule and amount_minor > message["floor"]:
            rule = "FLOORLIMIT"
        elif not rule and 0 < message["instant"] < self.now_s - HORIZON_S:
            rule = "CLOCK"
        elif not rule and self.status != "active":
            rule = "STATUS"
        if rule:
            return {"code": "00", "rule": rule, "owed": {"suspense": amount_minor}, "amount": 0}
        found_minor = min(amount_minor, self.available(message["purse"]))
        missing_minor = amount_minor - found_minor
        return {
            "code": "00",
            "rule": "SHORTFALL" if missing_minor else "",
            "effect": -found_minor,
            "amount": amount_minor,
            "owed": {"shortfall": missing_minor},
            "freezes": missing_minor > 0,
        }

    def _completion(self, message: Message, named: dict[str, Any]) -> Expected:
        hold = self.holds[named["name"]]
        amount_minor, held_minor = message["amount"], held_of(hold)
        inside_minor = min(amount_minor, held_minor)
        above_minor = min(amount_minor - inside_minor, held_minor * message["tolerance"] // 100)
        there_minor = self.available(hold["purse"]) + held_minor - inside_minor
        found_minor = min(above_minor, there_minor)
        missing_minor = above_minor - found_minor
        excess_minor = amount_minor - inside_minor - above_minor
        return {
            "code": "00",
            "op": "completion",
            "rule": "TOLERANCE" if excess_minor else "SHORTFALL" if missing_minor else "",
            "effect": held_minor - inside_minor - found_minor,
            "amount": amount_minor - excess_minor,
            "owed": {"suspense": excess_minor, "shortfall": missing_minor},
            "freezes": missing_minor > 0,
            "completes": hold,
            "inside": inside_minor,
            "above": found_minor,
        }

    def _relieved(self, original: dict[str, Any], undone_minor: int) -> dict[str, int]:
        """What of an undoing goes to suspense, then to shortfall, before any goes to the card."""
        relieved = {}
        for kind in ("suspense", "shortfall"):
            relieved[kind] = min(undone_minor, original["unpaid"].get(kind, 0))
            undone_minor -= relieved[kind]
        return {kind: minor for kind, minor in relieved.items() if minor}

    def _outcome(self, message: Message) -> Expected:
        original = self.known.get(message["of"])
        if original is None:
            too_old = 0 < message["instant"] < self.now_s - HORIZON_S
            never = message["enquiry"] or message["of"] in self.elsewhere or too_old
            if never or not message["bar"]:
                return {"code": "25", "links": 0, "os": ""}
            return {"code": "25", "links": 1, "os": "BARRED", "bars": message["of"]}
        if original.get("barred"):
            return {"code": "25", "links": 0, "os": "BARRED"}
        state = self.outcome_of(original) if original["approved"] else "DECLINED"
        return {"code": "00", "links": 0, "os": state, "told": original}

    def outcome_of(self, original: dict[str, Any]) -> str:
        """What reversals have made of an approved original; returns do not count."""
        said = original["heard_of_reversals"]
        if "REVERSED" in said or original["whole"]:
            return "REVERSED"
        if "PARTIAL" in said or original["reversed"]:
            return "PARTIAL"
        given = [e for e in self.known.values() if e.get("undoes") is original]
        returned_minor = sum(e["open"] for e in given if e["op"] == "return")
        if not said or original["first_open"] - original["open"] == returned_minor:
            return "APPROVED"
        return "PARTIAL" if original["open"] else "REVERSED"

    # What it says after an answer

    def _freeze(self) -> None:
        if self.status == "blocked":
            if self.before_block != "frozen":
                self.before_freeze = self.before_block
            self.before_block = "frozen"
        elif self.status in ("issued", "unlocked", "active"):
            self.before_freeze, self.status = self.status, "frozen"

    def _owe(self, expected: Expected, merchant: int) -> None:
        undone = expected.get("undoes")
        if undone is not None and undone["merchant"] is not None:
            merchant = undone["merchant"]
        for sign, name in ((1, "owed"), (-1, "relieves")):
            for kind, minor in expected.get(name, {}).items():
                self.owed[kind, merchant] = self.owed.get((kind, merchant), 0) + sign * minor

    def _move_held(
        self, message: Message, expected: Expected, entry: dict[str, Any], moves: list[Any]
    ) -> None:
        lots = self.lots[message["purse"]]
        if "releases" in expected:
            lots = self.lots[expected["releases"]["purse"]]
            assert moves == self._release(lots, expected["releases"], expected["keeps"])
            if undone := expected.get("undoes"):
                undone["reversed"] = True
                undone["whole"] = undone["whole"] or expected["rs"] == "REVERSED"
        elif "completes" in expected:
            self._move_completed(lots, expected, entry, moves)
        else:
            wanted = self._spend(lots, -expected.get("effect", 0))
            assert moves == wanted
            entry["claims"] = {lot: -amount for lot, amount in moves}
            if message["op"] == "hold" and entry["approved"]:
                self.holds[message["name"]] = {
                    "name": message["name"],
                    "version": entry["version"],
                    "purse": message["purse"],
                    "expires": self.now_s + HOLD_S,
                    "pins": [(lot, -amount) for lot, amount in wanted],
                }

    def _release(
        self, lots: dict[int, Any], hold: dict[str, Any], kept_minor: int
    ) -> list[tuple[int, int]]:
        """The pins that were taken first stay; the others go back into their lots."""
        kept, given = [], []
        for lot_id, minor in hold["pins"]:
            part = min(minor, kept_minor)
            kept_minor -= part
            if part:
                kept.append((lot_id, part))
            if minor > part:
                given.append((lot_id, minor - part))
                lots[lot_id]["left"] += minor - part
        hold["pins"] = kept
        if not kept:
            del self.holds[hold["name"]]
        return given

    def _move_completed(
        self, lots: dict[int, Any], expected: Expected, entry: dict[str, Any], moves: list[Any]
    ) -> None:
        """What is used of the pins never comes back; the rest does, before more is taken."""
        hold = expected["completes"]
        pins, inside_minor = hold["pins"], expected["inside"]
        change: dict[int, int] = {}
        for lot_id, minor in pins:
            used_minor = min(minor, inside_minor)
            inside_minor -= used_minor
            entry["claims"][lot_id] = used_minor
            lots[lot_id]["left"] += minor - used_minor
            change[lot_id] = minor - used_minor
        for lot_id, minor in self._spend(lots, expected["above"]):
            entry["claims"][lot_id] = entry["claims"].get(lot_id, 0) - minor
            change[lot_id] = change.get(lot_id, 0) + minor
        moved: dict[int, int] = {}
        for lot_id, minor in moves:
            moved[lot_id] = moved.get(lot_id, 0) + minor
        assert {k: v for k, v in moved.items() if v} == {k: v for k, v in change.items() if v}
        del self.holds[hold["name"]]
        self.known[hold["name"]]["completed"] = True


def held_of(hold: dict[str, Any]) -> int:
    """What a hold still holds."""
    return sum(minor for _, minor in hold["pins"])
