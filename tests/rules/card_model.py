"""What one card must do, written down a second time: plain dicts, and no code of the rules.

`CardModel` is told each message as a dict and says what the answer must be. Where the dialect
leaves a choice (which of a sale's lots a partial return fills first), it takes what was done and
checks that it was allowed.
"""

from __future__ import annotations

from typing import Any

from card_model_holds import Expected, HoldsModel, Message
from card_model_life import GIVEN, LifeModel

__all__ = ["CardModel", "Expected", "Message"]

HORIZON_S = 60 * 86_400
CODES = {
    "issued": "78",
    "unlocked": "78",
    "active": "57",
    "blocked": "62",
    "frozen": "62",
    "closed": "57",
}
ALLOWED = {
    "unlock": ("issued",),
    "activate": ("issued", "unlocked"),
    "activate_prevalued": ("issued", "unlocked"),
    "deactivate": ("active", "issued", "unlocked"),
    "block": ("active", "issued", "unlocked"),
    "unblock": ("blocked",),
}
STATUS_ONLY = ("unlock", "deactivate", "block", "unblock")
SALES = ("redeem", "advice", "completion")
TO_MERCHANT = (*SALES, "cash_out")


class CardModel(HoldsModel, LifeModel):
    """One card, its lots, and every message it has been told of."""

    def __init__(self, face_value_minor: int, terms: dict[str, Any] | None = None) -> None:
        self.begin_life(terms)
        self.face_value_minor = face_value_minor
        self.status = "issued"
        self.before_block = self.before_freeze = ""
        self.lots: dict[int, dict[int, dict[str, Any]]] = {60: {}, 80: {}, 90: {}}
        self.lots_made = 0
        self.known: dict[str, dict[str, Any]] = {}
        self.holds: dict[str, dict[str, Any]] = {}
        self.elsewhere: set[str] = set()
        self.owed: dict[tuple[str, int], int] = {}
        """Suspense and shortfall of each merchant."""
        self.now_s = 0

    def available(self, purse: int) -> int:
        return sum(lot["left"] for lot in self.lots[purse].values())

    # What the answer must be

    def expect(self, message: Message) -> Expected:
        prior = self.known.get(message["name"])
        if prior is not None:
            return self._repeated(message, prior)
        if message["op"] in ("reversal", "advice", "expiry", "outcome", "fee"):
            return getattr(self, "_" + message["op"])(message)
        if message["op"] in ("load", "redeem", "return", "cash_out", "balance", "hold"):
            allowed: tuple[str, ...] = ("active",)
        else:
            allowed = ALLOWED[message["op"]]
            if message["op"] == "unblock" and message["programme"]:
                allowed = (*allowed, "frozen")
        if self.status not in allowed:
            return {"code": CODES[self.status]}
        return getattr(self, "_" + message["op"])(message)

    def _repeated(self, message: Message, prior: dict[str, Any]) -> Expected:
        if prior.get("barred"):
            return {"code": "05", "rule": "BARRED", "links": 0, "heard": prior.get("heard")}
        if prior["content"] != message["content"]:
            return {"code": "94", "links": 0}
        if prior["op"] == "hold":
            ended = prior["whole"]
        else:
            ended = self.outcome_of(prior) == "REVERSED" or (
                prior["open"] == 0 and "PARTIAL" in prior["heard_of_reversals"]
            )
        if ended:
            return {"code": "05", "rs": "REVERSED", "links": 0, "tx": prior["tx"]}
        return {"code": prior["heard"]["code"], "links": 0, "heard": prior["heard"]}

    def _unlock(self, message: Message) -> Expected:
        return {"code": "00", "status": "unlocked"}

    def _activate(self, message: Message) -> Expected:
        return self._credit(message, message["amount"], status="active")

    def _activate_prevalued(self, message: Message) -> Expected:
        face_minor = self.face_value_minor
        if not face_minor or message["amount"] not in (0, face_minor):
            return {"code": "13"}
        return self._credit(message, face_minor, status="active", said=face_minor)

    def _load(self, message: Message) -> Expected:
        return self._credit(message, message["amount"])

    def _redeem(self, message: Message) -> Expected:
        available_minor, amount_minor = self.available(message["purse"]), message["amount"]
        if amount_minor <= available_minor:
            return self._limited(message, {"code": "00", "effect": -amount_minor})
        if not message["partial"] or available_minor == 0:
            return {"code": "51"}
        less = {
            "code": "10",
            "effect": -available_minor,
            "said": available_minor,
            "requested": amount_minor,
        }
        return self._limited(message, less)

    def _return(self, message: Message) -> Expected:
        if not message["sale"]:
            if not message["may_return_unlinked"]:
                return {"code": "58"}
            return self._return_unlinked(message)
        sale = next((e for e in self.known.values() if e["tx"] == message["sale"]), None)
        if sale is None or sale.get("barred") or sale["op"] not in SALES or not sale["approved"]:
            return {"code": "25"}
        if sale["merchant"] != message["merchant"]:
            return {"code": "58"}
        paid_minor = sale["open"] - sum(sale["unpaid"].values())
        if sale["purse"] != message["purse"] or message["amount"] > paid_minor:
            return {"code": "13"}
        if self.too_much(message["purse"], message["amount"]):
            return {"code": "61", "rule": "BALANCELIMIT"}
        return {"code": "00", "effect": message["amount"], "undoes": sale}

    def _cash_out(self, message: Message) -> Expected:
        lots = self.lots[message["purse"]].values()
        cashable_minor = sum(lot["left"] for lot in lots if lot["cashable"])
        amount_minor = message["amount"] or cashable_minor
        if not 0 < amount_minor <= cashable_minor:
            return {"code": "51"}
        paid = {"code": "00", "effect": -amount_minor, "said": amount_minor, "cash": True}
        return self._limited(message, paid)

    def _balance(self, message: Message) -> Expected:
        return {"code": "00", "links": 0}

    def _deactivate(self, message: Message) -> Expected:
        return {"code": "00", "status": "closed"}

    def _block(self, message: Message) -> Expected:
        return {"code": "00", "status": "blocked"}

    def _unblock(self, message: Message) -> Expected:
        thaws = self.status == "frozen"
        return {"code": "00", "status": self.before_freeze if thaws else self.before_block}

    def _reversal(self, message: Message) -> Expected:
        nothing = {"code": "00", "rs": "NOTHING"}
        original = self.known.get(message["of"])
        if original is None and message["of"] in self.elsewhere:
            return {"code": "94", "links": 0}
        if message["instant"] < self.now_s - HORIZON_S:
            return {"code": "05", "rs": "LATE"}
        if message["enquiry"]:
            return nothing
        if original is None:
            return nothing | {"bars": message["of"], "links": 2}
        if original.get("barred") or not original["approved"] or original["op"] == "reversal":
            return nothing
        if message["amount"] and message["amount"] not in (
            original["requested"],
            original["amount"],
        ):
            return {"code": "13"}
        if original["op"] in STATUS_ONLY:
            return self._status_reversal(original)
        if original["op"] == "hold":
            return self._hold_reversal(message, original)
        if original["void"]:
            return nothing
        left_minor, final_minor = original["open"], message["final"] or 0
        if left_minor in (0, final_minor):
            return {"code": "00", "rs": "ALREADY", "settles": original}
        if final_minor > left_minor:
            return {"code": "13"}
        undone_minor = left_minor - final_minor
        done = {
            "code": "00",
            "rs": "PARTIAL" if final_minor else "REVERSED",
            "undoes": original,
            "undone": undone_minor,
        }
        if original["op"] in TO_MERCHANT:
            relieved = self._relieved(original, undone_minor)
            return done | {"effect": undone_minor - sum(relieved.values()), "relieves": relieved}
        available_minor = self.available(message["purse"])
        if original["given"]:
            return self._ungive(message, done, original, undone_minor)
        sale, kept_minor = original["undoes"], 0
        if sale is not None:  # what its sale's reversal has left of the sale is all there may be
            kept_minor = max(sale["open"] + undone_minor - sale["ceiling"], 0)
        found_minor = min(undone_minor - kept_minor, available_minor)
        missing_minor = undone_minor - kept_minor - found_minor
        if missing_minor and message["reason"] != "time_out":
            return {"code": "05", "rule": "SPENT"}
        if kept_minor:  # that reversal would have paid what the card had not, first
            unpaid_minor = sum(sale["unpaid"].values())
            pays_minor = min(kept_minor, unpaid_minor, available_minor - found_minor)
            done["relieves"] = self._relieved(sale, pays_minor)
            found_minor += pays_minor
        done["effect"] = -found_minor
        if missing_minor:
            owed = {"shortfall": missing_minor}
            return done | {"rs": "PARTIAL", "freezes": True, "owed": owed, "missing": missing_minor}
        return done | self._inactive(original, final_minor)

    def _ungive(
        self, message: Message, done: Expected, original: dict[str, Any], undone_minor: int
    ) -> Expected:
        """What a sponsor gave is taken back as far as it is there; nobody owes the rest."""
        if original.get("at_its_end"):
            return {"code": "00", "rs": "ALREADY", "settles": original}
        found_minor = min(undone_minor, self.available(message["purse"]))
        if found_minor < undone_minor and message["reason"] != "time_out":
            return {"code": "05", "rule": "SPENT"}
        if not found_minor:
            return {"code": "00", "rs": "PARTIAL", "rule": "SPENT", "ends": original}
        done |= {"effect": -found_minor, "undone": found_minor, "taken_from": original["given"]}
        if found_minor < undone_minor:
            return done | {"rs": "PARTIAL", "rule": "SPENT", "ends": original}
        return done | self._inactive(original, message["final"] or 0)

    def _inactive(self, original: dict[str, Any], final_minor: int) -> Expected:
        """The status that a wholly undone activation leaves."""
        done: Expected = {}
        activation = original["op"] in ("activate", "activate_prevalued")
        if activation and not final_minor and self.status == "active":
            done["status"] = original["status_before"]
        elif (
            activation
            and not final_minor
            and (self.status, self.before_block) == (*("blocked", "active"),)
        ):
            done["before_block"] = original["status_before"]
        return done

    def _status_reversal(self, original: dict[str, Any]) -> Expected:
        if original["reversed"]:
            return {"code": "00", "rs": "ALREADY"}
        if self.status != original["status_set"]:
            return {"code": "00", "rs": "NOTHING"}
        return {
            "code": "00",
            "rs": "REVERSED",
            "undoes": original,
            "undone": 0,
            "status": self.before_block if original["op"] == "block" else original["status_before"],
        }

    # What it says after an answer

    def apply(
        self,
        message: Message,
        expected: Expected,
        heard: dict[str, Any],
        moves: list[Any],
        version: int,
    ) -> None:
        """Take over what was answered. AssertionError where lots were moved that must not be."""
        prior = self.known.get(message["name"])
        if prior is not None:
            prior.setdefault("heard", heard)
            return
        if not expected.get("links", 1):
            return
        if "bars" in expected:
            self.known[expected["bars"]] = {"barred": True, "tx": None, "op": "tombstone"}
        if "settles" in expected:
            settled = expected["settles"]
            settled["ceiling"] = settled["open"]
            settled["heard_of_reversals"].append("ALREADY")
        if "ends" in expected:
            expected["ends"]["at_its_end"] = True
        if message["op"] == "outcome":
            return
        effect_minor = expected.get("effect", 0)
        amount_minor = expected.get("amount", abs(effect_minor))
        owed = dict(expected.get("owed", {}))
        entry = {
            "op": expected.get("op", message["op"]),
            "name": message["name"],
            "version": version,
            "content": message["content"],
            "approved": heard["code"] in ("00", "10"),
            "requested": message["amount"],
            "amount": amount_minor,
            "open": amount_minor + owed.get("suspense", 0),
            "first_open": amount_minor + owed.get("suspense", 0),
            "ceiling": amount_minor + owed.get("suspense", 0),
            "unpaid": owed if message["op"] == "advice" else {},
            "void": expected.get("void", False),
            "reversed": False,
            "whole": False,
            "completed": False,
            "purse": message["purse"],
            "merchant": message["merchant"],
            "status_before": self.status,
            "status_set": expected.get("status"),
            "tx": heard["tx"],
            "heard": heard,
            "undoes": expected.get("undoes"),
            "claims": {},
            "heard_of_reversals": [],
            "given": 0,
        }
        credit = expected.get("credit")
        if credit and credit["origin"] in GIVEN:
            entry["given"] = credit["sponsor"]
        if "completes" in expected:
            entry["completes"] = expected["completes"]["name"]
        self.note(message, expected, heard["code"], effect_minor)
        self.known[message["name"]] = entry
        self._move_lots(message, expected, entry, effect_minor, moves)
        self._owe(expected, entry["merchant"])
        if message["op"] == "block" and entry["approved"]:
            self.before_block = self.status
        self.before_block = expected.get("before_block", self.before_block)
        self.status = expected.get("status", self.status)
        if expected.get("freezes"):
            self._freeze()

    def _move_lots(
        self,
        message: Message,
        expected: Expected,
        entry: dict[str, Any],
        effect_minor: int,
        moves: list[Any],
    ) -> None:
        assert sum(amount for _, amount in moves) == effect_minor
        lots = self.lots[message["purse"]]
        undone = expected.get("undoes")
        if message["op"] in ("hold", "advice", "expiry") or "releases" in expected:
            self._move_held(message, expected, entry, moves)
            return
        if expected.get("credit"):
            self.lots_made += 1
            assert moves == [(self.lots_made, effect_minor)]
            lots[self.lots_made] = expected["credit"]
            entry["claims"] = dict(moves)
        elif "fee" in expected:
            plain = {i: lot for i, lot in lots.items() if lot["origin"] not in GIVEN}
            assert moves == self._spend(plain, -effect_minor)
        elif undone is None:
            wanted = self._spend(lots, -effect_minor, cash=bool(expected.get("cash")))
            assert moves == wanted
            entry["claims"] = {lot: -amount for lot, amount in moves}
        elif message["op"] == "return":
            self._put_back(lots, undone, moves)
            undone["open"] -= effect_minor
            entry["claims"] = dict(moves)
        else:
            undone["reversed"] = True
            undone["open"] -= expected["undone"]
            undone["ceiling"] = undone["open"]
            undone["whole"] = undone["whole"] or expected["rs"] == "REVERSED"
            undone["heard_of_reversals"].append(expected["rs"])
            sold = undone["undoes"] or undone
            for kind, relieved_minor in expected.get("relieves", {}).items():
                sold["unpaid"][kind] -= relieved_minor
            if undone["op"] in TO_MERCHANT:
                self._put_back(lots, undone, moves)
            elif undone["op"] not in STATUS_ONLY:
                self._take_back(lots, undone, expected, moves)

    def _spend(
        self, lots: dict[int, Any], amount_minor: int, *, cash: bool = False
    ) -> list[tuple[int, int]]:
        """The soonest to end, promotional before paid value, then the oldest."""
        moves = []
        turn = sorted(lots, key=lambda i: (lots[i]["last"] or 1 << 30, not lots[i]["refund"], i))
        for lot_id in turn:
            part = min(lots[lot_id]["left"], amount_minor)
            if part and (lots[lot_id]["cashable"] or not cash):
                lots[lot_id]["left"] -= part
                amount_minor -= part
                moves.append((lot_id, -part))
        assert amount_minor == 0
        return moves

    def _put_back(self, lots: dict[int, Any], sale: dict[str, Any], moves: list[Any]) -> None:
        """Only into lots this sale still has a claim on, and never more than that claim."""
        for lot_id, amount_minor in moves:
            assert 0 < amount_minor <= sale["claims"].get(lot_id, 0)
            sale["claims"][lot_id] -= amount_minor
            lots[lot_id]["left"] += amount_minor

    def _take_back(
        self, lots: dict[int, Any], credit: dict[str, Any], expected: Expected, moves: list[Any]
    ) -> None:
        """What it gave, out of the lots it gave it to; what they lack, as if it were spent.

        What its sale lost by it, its sale may claim again.
        """
        own = {i: min(minor, lots[i]["left"]) for i, minor in credit["claims"].items()}
        taken = {lot_id: -amount for lot_id, amount in moves}
        assert len(taken) == len(moves)
        if -expected["effect"] <= sum(own.values()):
            assert all(0 < amount <= own.get(lot_id, 0) for lot_id, amount in taken.items())
            for lot_id, amount_minor in taken.items():
                lots[lot_id]["left"] -= amount_minor
                credit["claims"][lot_id] -= amount_minor
        else:
            for lot_id, amount_minor in own.items():
                lots[lot_id]["left"] -= amount_minor
                credit["claims"][lot_id] -= amount_minor
            for lot_id, amount in self._spend(lots, -expected["effect"] - sum(own.values())):
                own[lot_id] = own.get(lot_id, 0) - amount
            assert taken == {lot_id: amount for lot_id, amount in own.items() if amount}
        sale = credit["undoes"]
        if sale is None:
            return
        sale["open"] = min(sale["open"] + expected["undone"], sale["ceiling"])
        for lot_id, amount_minor in moves:
            sale["claims"][lot_id] = sale["claims"].get(lot_id, 0) - amount_minor
        missing_minor = expected.get("missing", 0)
        sale["unpaid"]["shortfall"] = sale["unpaid"].get("shortfall", 0) + missing_minor
