"""What one card must do, written from the dialect: plain dicts, and no code of the rules.

`CardModel` replays a chain. Of each link it says what it must have been, given the message it was
made for and everything before it. Where the dialect leaves a choice (which of a sale's lots a
partial return fills first) it takes what was done and demands that it was allowed.
"""

from __future__ import annotations

from typing import Any

from .judge_life import Lives
from .judge_limits import Days
from .judge_terms import demand
from .plan import Terms

__all__ = ["ACTIVE", "FROZEN", "CardModel"]

Message = dict[str, Any]
Entry = dict[str, Any]
Expected = dict[str, Any]

ACTIVE, FROZEN = 3, 7
HOLDS_MAX = 16
_SALES = ("redeem", "advice", "completion")
_TO_MERCHANT = ("redeem", "cash_out", "advice", "completion")
_OUT = (*_TO_MERCHANT, "transfer")
_NEVER = 1 << 40


class CardModel(Lives, Days):
    """One card, told link after link."""

    def __init__(
        self,
        lots: list[tuple[int, int, int, bool, int]],
        hold_s: int,
        horizon_s: int,
        terms: Terms,
        issued_day: int,
    ) -> None:
        super().__init__(terms, issued_day)
        self.status = ACTIVE
        self.lots = {
            n: {"left": amount, "paid": origin == 1, "cashable": cashable, "expires": expires}
            for n, amount, origin, cashable, expires in lots
        }
        self.lots_made = len(lots)
        self.holds: dict[int, dict[str, Any]] = {}
        self.entries: dict[str, Entry] = {}
        self.hold_s = hold_s
        self.horizon_s = horizon_s
        self._oldest_s = self._now_s = 0

    @property
    def available(self) -> int:
        """What can be spent."""
        return sum(lot["left"] for lot in self.lots.values())

    @property
    def held(self) -> int:
        """What is set aside."""
        return sum(hold["amount"] for hold in self.holds.values())

    def entry_at(self, key: str, version: int) -> Entry | None:
        """The newest entry under a key, as of a version. (An old one may be forgotten.)"""
        entry = self.entries.get(key)
        while entry is not None and entry["version"] > version:
            entry = entry["before"]
        return entry

    def open(self, entry: Entry, at: int = _NEVER) -> int:
        """Approved - returned - reversed, as of a version."""
        return int(next(left for version, left in reversed(entry["course"]) if version <= at))

    def reversed_share(self, entry: Entry, at: int = _NEVER) -> int:
        """What reversals have undone of it, without what returns have that still stand."""
        returns = [x for x in self.undoers(entry, at) if x["op"] == "return"]
        return int(entry["amount"] - self.open(entry, at) - sum(self.open(x, at) for x in returns))

    def undoers(self, entry: Entry, at: int = _NEVER) -> list[Entry]:
        """What undid an entry, wholly or partly, as of a version."""
        return [other for other in entry["undone_by"] if other["version"] <= at]

    def is_reversed(self, entry: Entry, at: int) -> bool:
        """Whether reversals have left nothing of it (a completion and an expiry are none)."""
        said = [x["answer"]["rs"] for x in self.undoers(entry, at) if x["op"] == "reversal"]
        if "REVERSED" in said:
            return True
        if not said or entry["op"] == "hold" or self.open(entry, at):
            return False
        return "PARTIAL" in said or self.reversed_share(entry, at) > 0

    # What a message must lead to

    def expect(self, message: Message, now_s: int, *, forgets: bool = False) -> Expected:
        """The link that a message must get now: it has none yet.

        `forgets`: what was posted before the horizon need not be found any more.
        """
        self._oldest_s = now_s - self.horizon_s if forgets else 0
        self._now_s = now_s
        before = self.entries.get(message["key"])
        forgotten = before is not None and before["posted_s"] < now_s - self.horizon_s
        demand(before is None or forgotten, "a second link for one key", message)
        op = message["op"]
        if op in ("reversal", "advice", "completion", "expiry"):
            return getattr(self, "_" + op)(message, now_s)  # type: ignore[no-any-return]
        if op == "fee":
            return self.charge(message["month"], self.status == ACTIVE, now_s)
        if self.status != ACTIVE:
            return {"code": "62"}
        return getattr(self, "_" + op)(message)  # type: ignore[no-any-return]

    def _redeem(self, message: Message) -> Expected:
        amount, available = message["amount"], self.available
        if amount <= available:
            return self.limited({"code": "00", "effect": -amount, "amount": amount}, self._now_s)
        if not message["partial"] or not available:
            return {"code": "51"}
        less = {"code": "10", "effect": -available, "amount": available, "said": available}
        return self.limited(less, self._now_s)

    def _hold(self, message: Message) -> Expected:
        if len(self.holds) >= HOLDS_MAX:
            return {"code": "65"}
        taken = self._redeem(message)
        return taken | {"held": -taken.get("effect", 0)}

    def _load(self, message: Message) -> Expected:
        if not self.has_room(message["amount"], self.available + self.held):
            return {"code": "61", "rules": {"BALANCELIMIT"}}
        return {"code": "00", "effect": message["amount"], "amount": message["amount"]}

    def _transfer(self, message: Message) -> Expected:
        """Whether the other card could receive is judged where its state is known."""
        if message["amount"] > self.available:
            return {"code": "51"}
        amount = message["amount"]
        sent = {"code": "00", "effect": -amount, "amount": amount, "way": True}
        sent = self.limited(sent, self._now_s)
        if sent["code"] == "00" and message["half"] is None:
            return {"code": "05", "rules": {"TOCARD"}, "unfit": True, "looked": True}
        return sent

    def _cash_out(self, message: Message) -> Expected:
        cashable = sum(lot["left"] for lot in self.lots.values() if lot["cashable"])
        amount = message["amount"] or cashable
        if not 0 < amount <= cashable:
            return {"code": "51"}
        paid = {"code": "00", "effect": -amount, "amount": amount, "said": amount}
        return self.limited(paid, self._now_s)

    def _balance(self, _message: Message) -> Expected:
        return {"code": "no link is made for an enquiry that is approved"}

    def _return(self, message: Message) -> Expected:
        sale = next((e for e in self._known() if e["tx"] == message["names_tx"]), None)
        if sale is None or sale["op"] not in _SALES or not sale["approved"]:
            return {"code": "25"}
        amount, paid = message["amount"], -sum(min(x, 0) for x in self._still_out(sale).values())
        if amount > min(self.open(sale), paid):
            return {"code": "13"}
        if not self.has_room(amount, self.available + self.held):
            return {"code": "61", "rules": {"BALANCELIMIT"}}
        return {"code": "00", "effect": amount, "amount": amount, "undoes": sale}

    def _known(self) -> list[Entry]:
        return [e for e in self.entries.values() if e["posted_s"] >= self._oldest_s]

    def _expiry(self, message: Message, now_s: int) -> Expected:
        hold = self.holds.get(message["hold"])
        if hold is None or hold["expires"] > now_s:
            return {"code": "25"}
        amount = hold["amount"]
        undoes = hold["entry"]
        return {"code": "00", "effect": amount, "held": -amount, "amount": amount, "undoes": undoes}

    def _named_hold(self, message: Message) -> Entry | None:
        for entry in self._known():
            if entry["op"] == "hold" and entry["approved"]:
                if message["names_tx"]:
                    named = entry["tx"] == message["names_tx"]
                else:
                    approval = message["names_approval"]
                    named = bool(approval) and entry["approval"] == approval
                    named = named or entry["key"] == message["names_key"]
                if named and entry["merchant"] == message["merchant"]:
                    return entry
        return None

    def _completion(self, message: Message, now_s: int) -> Expected:
        entry = self._named_hold(message)
        own = next((e for e in self._known() if e["key"] == message["own_request"]), None)
        if entry is None or (own is not None and own["approved"]):
            return self._advice(message, now_s)
        hold = self.holds.get(entry["version"])
        if hold is None:
            if any(other["op"] == "completion" for other in entry["undone_by"]):
                return {"code": "00", "rules": {"DONEBEFORE"}}
            return self._advice(message, now_s)
        amount, held = message["amount"], hold["amount"]
        inside = min(amount, held)
        above = min(amount - inside, held * message["tolerance"] // 100)
        found = min(above, self.available + held - inside)
        missing, excess = above - found, amount - inside - above
        rules = {"TOLERANCE" if excess else "SHORTFALL" if missing else ""}
        return {
            "code": "00",
            "completes": True,
            "effect": held - inside - found,
            "held": -held,
            "amount": amount,
            "undoes": entry,
            "owed": {"shortfall": missing, "suspense": excess},
            "freezes": missing > 0,
            "rules": rules,
        }

    def _advice(self, message: Message, now_s: int) -> Expected:
        own = next((e for e in self._known() if e["key"] == message["own_request"]), None)
        rules = set()
        if own is not None and own["approved"]:
            return {"code": "00", "rules": {"DONEBEFORE"}}
        if own is not None and own["op"] == "tombstone" and own["told_by"] != message["key"]:
            rules.add("BARRED")
        if message["amount"] > message["floor"]:
            rules.add("FLOORLIMIT")
        if self.is_late(message, now_s):
            rules.add("CLOCK")
        if self.status != ACTIVE:
            rules.add("STATUS")
        amount = message["amount"]
        if rules:
            owed = {"suspense": amount, "shortfall": 0}
            return {"code": "00", "amount": amount, "owed": owed, "rules": rules}
        found = min(amount, self.available)
        return {
            "code": "00",
            "effect": -found,
            "amount": amount,
            "owed": {"shortfall": amount - found, "suspense": 0},
            "freezes": found < amount,
            "rules": {"SHORTFALL"} if found < amount else {""},
        }

    def is_late(self, message: Message, now_s: int) -> bool:
        """Whether its own time is before the horizon."""
        return bool(message["instant"]) and message["instant"] < now_s - self.horizon_s

    def _reversal(self, message: Message, now_s: int) -> Expected:
        nothing = {"code": "00", "rs": "NOTHING"}
        if self.is_late(message, now_s):
            return {"code": "05", "rs": "LATE"}
        original = self.entries.get(message["names_key"])
        if message["reverses_nothing"]:
            return nothing
        demand(original is not None, "a reversal that has barred nothing", message)
        assert original is not None
        if not original["approved"]:
            return nothing
        amount, final = message["amount"], message["final"] or 0
        if amount and amount not in (original["requested"], original["amount"]):
            return {"code": "13"}
        if original["answer"]["rule"] == "DONEBEFORE":
            return nothing
        hold = None
        left = self.open(original)
        if original["op"] == "hold":
            hold = self.holds.get(original["version"])
            if hold is None:
                done = any(other["op"] == "completion" for other in original["undone_by"])
                return nothing if done else {"code": "00", "rs": "ALREADY"}
            left = hold["amount"]
        ended = any(other["answer"]["rule"] == "SPENT" for other in original["undone_by"])
        if ended or left in (0, final):
            settled = {} if original["op"] == "hold" else {"undoes": original}
            return {"code": "00", "rs": "ALREADY"} | settled
        if final > left:
            return {"code": "13"}
        undone = left - final
        done = {"code": "00", "rs": "PARTIAL" if final else "REVERSED", "amount": undone}
        done["undoes"] = original
        if hold is not None:
            return done | {"effect": undone, "held": -undone}
        if original["op"] == "transfer":
            return done | self._untransfer(message, undone)
        if original["op"] in _TO_MERCHANT:
            paid = -sum(min(x, 0) for x in self._still_out(original).values())
            unpaid = min(undone, max(left - paid, 0))
            return done | {"effect": undone - unpaid, "relieves": unpaid}
        kept, unpaid = 0, 0
        if original["op"] == "return":  # no more is taken than its sale's reversal leaves to take
            sale = original["undoes"]
            kept = max(self.open(sale) + undone - sale["roof"], 0)
            unpaid = self.open(sale) + sum(min(x, 0) for x in self._still_out(sale).values())
        due = undone - kept
        found = min(due, self.available)
        if found < due and message["reason"] != "time_out":
            return {"code": "05", "rules": {"SPENT"}}
        if found < due:
            done |= {"rs": "PARTIAL", "freezes": True}
            done["owed"] = {"shortfall": due - found, "suspense": 0}
        pays = min(kept, unpaid, self.available - found)
        return done | {"effect": -found - pays, "relieves": pays}

    def _untransfer(self, message: Message, undone: int) -> Expected:
        """All that the receiver still has, and no more than is left of the transfer."""
        half, spent = message["half"], {"rs": "PARTIAL", "rules": {"SPENT"}, "way": True}
        demand(half is not None, "the receiver's half is missing", message)
        found = min(undone, half["available"] - half["effect"])
        if found < undone:
            return spent | {"effect": found, "amount": found}
        return {"effect": found, "amount": found, "way": True, "rules": {""}}

    def receive(self, link: dict[str, Any], main: dict[str, Any]) -> None:
        """The other end of a transfer: a new lot for each that gave, of its kind."""
        demand(self.status == ACTIVE, "a card that could not receive", link)
        there = self.available + self.held
        demand(self.has_room(link["effect"], there), "more than a card may have", link)
        self.used_day = link["now_s"] // 86_400
        demand(link["kinds"] == main["kinds"], "value of another kind", link, main)
        for number, (amount, origin, cashable, expires, _) in zip(
            link["lots"], link["kinds"], strict=True
        ):
            self.lots_made += 1
            demand(number == self.lots_made, "received into no new lot", link)
            lot = {"left": amount, "paid": origin == 1, "cashable": cashable, "expires": expires}
            self.lots[number] = lot
        demand(sum(link["moves"].values()) == link["effect"] > 0, "another amount", link)
        self._note(link, "receipt")

    def give_up(self, link: dict[str, Any]) -> None:
        """The other end of a transfer's reversal: out of the very lots first."""
        receipt = next((e for e in self.entries.values() if e["version"] == link["undoes"]), None)
        demand(receipt is not None and receipt["op"] == "receipt", "undoes no receipt", link)
        assert receipt is not None
        out = self._still_out(receipt)
        own = sum(min(out[lot], self.lots[lot]["left"]) for lot in receipt["lots"] if out[lot] > 0)
        taken = -sum(link["moves"].get(lot, 0) for lot in receipt["lots"])
        demand(taken >= min(own, -link["effect"]), "taken out of other lots", link, receipt)
        for lot, amount in link["moves"].items():
            self.lots[lot]["left"] += amount
            demand(amount < 0 <= self.lots[lot]["left"], "a lot below zero", lot, link)
        demand(sum(link["moves"].values()) == link["effect"], "another amount", link)
        receipt["undone_by"].append(self._note(link, "give_up"))

    def _note(self, link: dict[str, Any], op: str) -> Entry:
        demand(link["key"] not in self.entries, "a second link for one key", link)
        entry: Entry = {
            **{name: link[name] for name in ("key", "content", "version", "answer")},
            "before": None,
            "op": op,
            "approved": link["code"] == "00",
            "posted_s": link["now_s"],
            "amount": abs(link["effect"]),
            "tx": link["answer"]["tx"],
            "approval": "",
            "lots": dict(link["moves"]),
            "undone_by": [],
        }
        demand(entry["approved"], "half of a refusal", link)
        self.entries[link["key"]] = entry
        return entry

    def _still_out(self, entry: Entry) -> dict[int, int]:
        """Per lot, what an original took (below 0) or gave and is not back yet."""
        sums: dict[int, int] = dict(entry["lots"])
        for other in entry["undone_by"]:
            for lot, amount in self._still_out(other).items():
                sums[lot] = sums.get(lot, 0) + amount
        return sums

    # What it did

    def apply(self, message: Message, expected: Expected, link: dict[str, Any], now_s: int) -> None:
        """Take over a link that is as expected."""
        approved = link["code"] in ("00", "10")
        op = message["op"]
        if op in ("advice", "completion"):
            op = "completion" if expected.get("completes") else "advice"
        lots = link["taken"] if op == "completion" else dict(link["moves"])
        entry: Entry = {
            "key": message["key"],
            "before": self.entries.get(message["key"]),
            "op": op,
            "content": message["content"],
            "version": link["version"],
            "approved": approved,
            "posted_s": now_s,
            "requested": message["amount"],
            "amount": expected.get("amount", 0),
            "tx": link["answer"]["tx"],
            "approval": link["answer"]["approval"],
            "answer": link["answer"],
            "lots": lots,
            "undone_by": [],
            "merchant": message["merchant"],
            "undoes": expected.get("undoes"),
            "course": [(0, expected.get("amount", 0))],
            "roof": expected.get("amount", 0),
        }
        self.count(expected, entry, now_s)
        if expected.get("fee"):
            self.charged = expected["fee"]
        self._move(message, expected, entry, link, now_s)
        self.entries[message["key"]] = entry
        if expected.get("undoes") is not None:
            self._undo(expected["undoes"], entry)
        if expected.get("freezes"):
            self.status = FROZEN

    def _undo(self, original: Entry, entry: Entry) -> None:
        """What is left of an original, and how much of it can come back when a return is undone."""
        original["undone_by"].append(entry)
        version, amount = entry["version"], entry["amount"]
        left = original["course"][-1][1] - amount
        original["course"].append((version, left))
        if entry["op"] == "reversal":
            original["roof"] = left
            if original["op"] == "return":
                sale = original["undoes"]
                left = min(sale["course"][-1][1] + amount, sale["roof"])
                sale["course"].append((version, left))

    def bar(self, key: str, version: int, answer: dict[str, Any], now_s: int, told_by: str) -> None:
        """A tombstone: from now on this key has an answer, and that is no.

        `told_by`: the key of the advice that has told of this request, and so bars it.
        """
        demand(key not in self.entries, "barred though it was known", key, version)
        self.entries[key] = {
            "key": key,
            "before": None,
            "op": "tombstone",
            "content": "",
            "version": version,
            "posted_s": now_s,
            "approved": False,
            "amount": 0,
            "tx": answer["tx"],
            "answer": answer,
            "undone_by": [],
            "course": [(0, 0)],
            "told_by": told_by,
        }

    def _move(
        self, message: Message, expected: Expected, entry: Entry, link: dict[str, Any], now_s: int
    ) -> None:
        """The lots after a link: what it moved must be there, and be its to move."""
        moves = link["moves"]
        effect = expected.get("effect", 0)
        demand(sum(moves.values()) == effect, "lots moved by another amount", message, link)
        op, undoes = entry["op"], expected.get("undoes")
        if op == "load" and effect:
            self.lots_made += 1
            demand(list(moves) == [self.lots_made], "a load that is no new lot", link)
            new = {"left": 0, "paid": True, "cashable": True, "expires": 0}
            self.lots[self.lots_made] = new
        if op in ("redeem", "hold", "advice", "cash_out", "transfer"):
            demand(moves == self._in_order(-effect, op == "cash_out"), "not the lots' turn", link)
        if op == "fee":
            spared = [n for n, amount in moves.items() if not self.lots[n]["paid"]]
            demand(not spared, "a fee out of what a sponsor gave", spared, link)
            due = self._in_order(-effect, cash=False, given=False)
            demand(moves == due, "not the lots' turn", link)
        if undoes is not None and undoes["op"] in _OUT and op in ("return", "reversal"):
            out = self._still_out(undoes)
            fits = all(0 < x <= -out.get(lot, 0) for lot, x in moves.items())
            demand(fits, "not back into the very lots", moves, out, message)
        if undoes is not None and undoes["op"] == "load":
            own = next(iter(undoes["lots"]))
            most = min(self._still_out(undoes)[own], self.lots[own]["left"], -effect)
            demand(-moves.get(own, 0) >= most, "a load undone out of other lots", link)
        if expected.get("held"):
            self._hold_moves(expected, entry, link, now_s)
        for lot, amount in moves.items():
            demand(lot in self.lots, "a lot that never was", lot, link)
            self.lots[lot]["left"] += amount
            demand(self.lots[lot]["left"] >= 0, "a lot below zero", lot, link)

    def _hold_moves(
        self, expected: Expected, entry: Entry, link: dict[str, Any], now_s: int
    ) -> None:
        """Pinned value is taken and given back where it was pinned."""
        moves = link["moves"]
        if entry["op"] == "hold":
            pins = {lot: -amount for lot, amount in moves.items()}
            self.holds[link["version"]] = {
                "amount": expected["amount"],
                "expires": now_s + self.hold_s,
                "pins": pins,
                "entry": entry,
            }
            return
        number = expected["undoes"]["version"]
        hold = self.holds[number]
        if entry["op"] != "completion":
            fits = all(0 < x <= hold["pins"].get(lot, 0) for lot, x in moves.items())
            demand(fits, "a hold released into other lots", moves, hold["pins"])
            for lot, amount in moves.items():
                hold["pins"][lot] -= amount
        else:
            back = {lot: x for lot, x in moves.items() if x > 0}
            fits = all(x <= hold["pins"].get(lot, 0) for lot, x in back.items())
            demand(fits, "a hold completed into other lots", moves, hold["pins"])
            hold["pins"] = {}
        hold["amount"] += expected["held"]
        if not hold["amount"]:
            del self.holds[number]

    def _in_order(self, amount: int, cash: bool, *, given: bool = True) -> dict[int, int]:
        """What an amount must take of each lot: soonest expiry, promo before paid, oldest."""
        moves: dict[int, int] = {}
        turn = sorted((x["expires"] or _NEVER, x["paid"], n, x) for n, x in self.lots.items())
        for _, _, number, lot in turn:
            part = min(lot["left"], amount) if lot["cashable"] or not cash else 0
            if not given and not lot["paid"]:
                continue
            if part:
                moves[number] = -part
                amount -= part
        return moves
