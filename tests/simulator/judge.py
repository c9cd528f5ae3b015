"""Whether a story is in order: the journal against the model, every answer against the journal.

Written from the dialect; it shares no code with the rules. Rows are read as they are stored, bodies
and states as plain MessagePack.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from .judge_card import ACTIVE, CardModel
from .judge_life import LOT_EXPIRY, LOT_RENEWAL, day_of
from .judge_limits import month_of
from .judge_terms import Broken, demand
from .world import Delivery, Story

__all__ = ["Broken", "judge", "verdict"]

_TOMBSTONE = 21
_CARD, _MERCHANT, _SHORTFALL, _SUSPENSE, _FEE, _WAY = 1, 2, 4, 5, 6, 9
_PROGRAMME = 1
_UNDECIDED = "91"
_FIELDS = (
    *("code", "tx", "rrn", "rule", "approval", "amount", "balances", "rs"),
    *("requested", "oc", "os"),
)
_TELLS_NO_BALANCE = ("reversal", "advice", "completion", "fee")
_WINDOW = 16


def verdict(story: Story) -> str:
    """What is wrong with a story; "" when nothing is."""
    try:
        judge(story)
    except Broken as broken:
        return str(broken) or "broken"
    return ""


def judge(story: Story) -> None:
    """Broken with the first thing that is wrong."""
    demand(not story.problems, "seen while it happened", *story.problems[:3])
    Judge(story).judge()


class Judge:
    """One story on the bench."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._database = story.database
        self._messages: dict[tuple[str, str], dict[str, Any]] = {}
        self._barring: set[str] = set()
        self._asked: set[str] = set()
        self._told: set[str] = set()
        """Keys of requests that were told of by an advice: it bars them, card by card."""
        self._first_arrival: dict[tuple[str, int], int] = {}
        self._arrived: dict[tuple[str, str], int] = {}
        """Of each message: how many links there were when it first came."""
        for delivery in story.deliveries:
            message = delivery.message
            self._messages[message["key"], message["content"]] = message
            self._arrived.setdefault((message["key"], message["content"]), delivery.arrived_at)
            if message["op"] == "reversal" or message["bars"]:
                self._barring.add(message["names_key"])
                bars = message["names_key"], message["card"]
                self._first_arrival.setdefault(bars, delivery.arrived_at)
            if message["bars"]:
                self._asked.add(message["names_key"])
            if message["own_request"]:
                self._barring.add(message["own_request"])
                self._told.add(message["own_request"])
        self._postings: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for posting in self._database.postings:
            self._postings[posting["batch_id"], posting["n"], posting["month"]].append(posting)
        self._committed: dict[int, list[int]] = defaultdict(list)
        self._under_key: dict[str, list[tuple[int, int]]] = defaultdict(list)
        """Per key: the cards it is known on, and since how many links in the journal."""
        self._ends: dict[int, int] = {}
        """Where a batch's links end in the journal."""
        for at, link in enumerate(self._database.links):
            self._committed[link["card_id"]].append(at)
            self._under_key[link["request_key"].hex()].append((link["card_id"], at))
            self._ends[link["batch_id"]] = at + 1
        self._unfit: list[tuple[dict[str, Any], int, int]] = []
        """Links that say something of another card as it was then, and what."""
        self._models: dict[int, CardModel] = {}
        self._states: dict[int, list[tuple[int, int, int]]] = {}
        self._lots: dict[int, list[list[tuple[int, int]]]] = {}
        """Per card and version, the last day and the value of each lot."""
        self._idle: dict[int, list[tuple[int, int, int, int]]] = {}
        """Per card and version: status, day of the last use, month of the last fee, paid value."""
        self._owed: dict[str, dict[str, int]] = {}

    def judge(self) -> None:
        """All of it."""
        for card_id in self._database.rows:
            self._replay(card_id)
        self._check_receivers()
        self._refused = {refusal["stan"] for refusal in self._database.refusals}
        for delivery in self._story.deliveries:
            if delivery.answer is not None and delivery.answer["code"] != "12":
                self._hear(delivery)
        self._check_promises()

    # The journal

    def _replay(self, card_id: int) -> None:
        setting = self._story.plan.setting
        model = CardModel(
            *(self._story.openings[card_id], setting.hold_s, setting.horizon_s),
            *(setting.terms, day_of(int(setting.begins.timestamp()))),
        )
        self._models[card_id] = model
        states = self._states[card_id] = [(model.available, model.held, model.status)]
        lots = self._lots[card_id] = [[(x["expires"], x["left"]) for x in model.lots.values()]]
        idle = self._idle[card_id] = [_idle_of(model)]
        batch_id, version = 0, 0
        chain = self._database.links_of(card_id)
        for row, following in zip(chain, [*chain[1:], None], strict=False):
            version += 1
            demand(row["version"] == version, "versions with a gap", card_id, row["version"])
            demand(row["prev_batch_id"] == batch_id, "not its predecessor's batch", row)
            batch_id = row["batch_id"]
            link = _opened(row)
            if row["operation"] in (LOT_EXPIRY, LOT_RENEWAL):
                self._check_life(model, row["operation"], link)
            elif row["operation"] == _TOMBSTONE:
                self._check_tombstone(model, link, following)
            elif link["other"][0] and (link["key"], link["content"]) not in self._messages:
                self._check_counterpart(model, link)
            else:
                self._check_link(model, link)
            states.append((model.available, model.held, model.status))
            self._check_state(model, link)
            lots.append([(lot["expires"], lot["left"]) for lot in model.lots.values()])
            idle.append(_idle_of(model))
        demand(not model.returned_late, "late value without a new life", card_id)
        row = self._database.rows[card_id]
        demand((row["version"], row["batch_id"]) == (version, batch_id), "a row that ran ahead")
        amounts = (row["ecash_available"], row["ecash_held"], row["status"])
        demand(amounts == states[-1], "the row is not the sum of its chain", amounts, states[-1])
        if chain:
            last = msgspec.msgpack.decode(chain[-1]["body"])[7]
            demand(row["state"] == last, "the row has not the last link's state", card_id)
            newest = [link["request_key"] for link in chain[-_WINDOW:]]
            window = row["request_window"]
            kept = [window[at : at + 16] for at in range(4, len(window), 20)]
            demand(kept == newest, "the window is not the newest keys", card_id)

    def _check_life(self, model: CardModel, operation: int, link: dict[str, Any]) -> None:
        """What the switch does by itself when a lot's last day is over."""
        demand(link["code"] == "00", "refused to itself", link)
        postings = self._postings[link["at"]]
        if operation == LOT_EXPIRY:
            model.end(link, postings)
        else:
            model.renew(link, postings)

    def _check_tombstone(
        self, model: CardModel, link: dict[str, Any], following: dict[str, Any] | None
    ) -> None:
        key = link["key"]
        next_key = following["request_key"].hex() if following is not None else ""
        told = any(
            k == next_key and m["own_request"] == key for (k, _), m in self._messages.items()
        )
        demand(key in self._barring, "barred without cause", link)
        since = self._first_arrival.get((key, link["card"]), 0)
        known = [card for card, at in self._under_key[key] if at < since]
        elsewhere = set(known) - {link["card"]} if key not in self._told else set()
        demand(not elsewhere, "barred though another card has it", link, known)
        demand(link["code"] == "05" and link["answer"]["rule"] == "BARRED", "no bar", link)
        nothing = not (link["effect"] or link["moves"] or self._postings[link["at"]])
        demand(nothing, "a tombstone that moves value", link)
        model.bar(key, link["version"], link["answer"], link["now_s"], next_key if told else "")

    def _check_link(self, model: CardModel, link: dict[str, Any]) -> None:
        message = self._messages.get((link["key"], link["content"]))
        demand(message is not None, "a link nobody asked for", link)
        assert message is not None
        demand(message["card"] == link["card"], "a link on another card", link, message)
        message = message | {"half": self._half(link)}
        shows = message["op"] == "balance"  # refused: what is due stays until something moves
        if not shows:
            model.nothing_is_over(link)
        expected = model.expect(message, link["now_s"])
        if not _fits(link, expected):
            expected = model.expect(message, link["now_s"], forgets=True)
        own = model.entries.get(message["own_request"], {})
        if not _fits(link, expected) and message["own_request"] in self._asked:
            own["told_by"] = ""  # a question had barred it just before
            expected = model.expect(message, link["now_s"])
        demand(_fits(link, expected), "not what the dialect says", link, expected, message)
        answer = link["answer"]
        partial = message["amount"] if expected["code"] == "10" else None
        demand(answer["requested"] == partial, "RQ", answer, message)
        if message["own_request"]:
            known = own or model.is_late(message, link["now_s"])
            demand(known, "an advice whose own request may still come", link, message)
        model.apply(message, expected, link, link["now_s"])
        if not shows:
            model.look_for_late(link)
        if expected.get("unfit"):
            self._unfit.append((link, message["to"], message["amount"]))
        self._check_postings(message, expected, link)
        if link["code"] in ("00", "10"):
            self._check_balances(model, message, answer)

    def _half(self, link: dict[str, Any]) -> dict[str, Any] | None:
        """The link on another card that is one transaction with this one; it says so, too."""
        card_id, version = link["other"]
        if not card_id:
            return None
        chain = self._database.links_of(card_id)
        demand(0 < version <= len(chain), "half a transfer", link)
        half = _opened(chain[version - 1])
        demand(half["batch"] == link["batch"], "two halves in two batches", link, half)
        demand(half["other"] == [link["card"], link["version"]], "another's half", link, half)
        demand(half["effect"] == -link["effect"], "halves of different size", link, half)
        demand(half["key"] not in (link["key"], ""), "two links under one key", link)
        demand(half["answer"]["tx"] != link["answer"]["tx"], "two links of one TX", link)
        return half

    def _check_counterpart(self, model: CardModel, link: dict[str, Any]) -> None:
        """What a transfer, or its reversal, did to the card that it went to."""
        main = self._half(link)
        assert main is not None
        model.nothing_is_over(link)
        message = self._messages.get((main["key"], main["content"]))
        demand(message is not None, "half of what nobody asked for", link)
        assert message is not None
        if message["op"] == "transfer":
            demand(message["to"] == link["card"], "to another card", link, message)
            model.receive(link, main)
        else:
            model.give_up(link)
        demand(link["answer"]["balances"] == "", "DE 54 of a card that was not asked for", link)
        self._check_postings(message, {"effect": link["effect"], "way": True}, link)

    def _check_receivers(self) -> None:
        """Which cards could not receive, could not at some time since they were asked to."""
        for link, card_id, amount in self._unfit:
            model = self._models.get(card_id)
            if model is None:
                continue
            first, last = self._arrived[link["key"], link["content"]], self._ends[link["batch"]]
            versions = range(self._version_at(card_id, first), self._version_at(card_id, last) + 1)
            states = [self._states[card_id][version] for version in versions]
            unfit = [s != ACTIVE or not model.has_room(amount, a + h) for a, h, s in states]
            demand(any(unfit), "a card that could receive", link)

    def _check_balances(
        self, model: CardModel, message: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        told = "" if message["op"] in _TELLS_NO_BALANCE else balances(model.available, model.held)
        demand(answer["balances"] == told, "DE 54", answer, told, message)
        demand(answer["approval"] == answer["tx"][-6:], "DE 38", answer)

    def _check_postings(
        self, message: dict[str, Any], expected: dict[str, Any], link: dict[str, Any]
    ) -> None:
        """Every amount that moved stands in the books, and nothing else does."""
        sums: dict[tuple[int, int], int] = defaultdict(int)
        for posting in self._postings[link["at"]]:
            demand(posting["amount_minor"] > 0, "a posting of nothing", posting)
            sums[posting["debit_kind"], posting["debit_id"]] -= posting["amount_minor"]
            sums[posting["credit_kind"], posting["credit_id"]] += posting["amount_minor"]
        card = expected.get("effect", 0) + expected.get("held", 0)
        if expected.get("fee"):
            due = {(_CARD, link["card"]): card, (_FEE, _PROGRAMME): -card}
            demand(dict(sums) == due, "other postings than due", dict(sums), due, message)
            return
        if expected.get("way"):
            due = {(_CARD, link["card"]): card, (_WAY, _PROGRAMME): -card} if card else {}
            demand(dict(sums) == due, "other postings than due", dict(sums), due, message)
            return
        merchant = message["merchant"]
        owed = dict(expected.get("owed", {"shortfall": 0, "suspense": 0}))
        relieves = expected.get("relieves", 0)
        original = self._sale_owes(message["names_key"])
        if relieves:
            for name, kind in (("shortfall", _SHORTFALL), ("suspense", _SUSPENSE)):
                part = sums[kind, merchant]
                demand(part <= original[name], "more relieved than was owed", name, message)
                original[name] -= part
                owed[name] = -part
            demand(sum(owed.values()) == -relieves, "relieved by another amount", owed, message)
        elif message["op"] == "reversal":
            original["shortfall"] += owed["shortfall"]
        self._owed[message["key"]] = dict(owed)
        due = {
            (_CARD, link["card"]): card,
            (_SHORTFALL, merchant): -owed["shortfall"],
            (_SUSPENSE, merchant): -owed["suspense"],
            (_MERCHANT, merchant): owed["shortfall"] + owed["suspense"] - card,
        }
        booked = {account: amount for account, amount in sums.items() if amount}
        due = {account: amount for account, amount in due.items() if amount}
        demand(booked == due, "other postings than due", booked, due, message)

    def _sale_owes(self, key: str) -> dict[str, int]:
        """What stands against the merchant for an original, or for the sale that it returned."""
        sales = [m["sale_key"] for (k, _), m in self._messages.items() if k == key]
        nothing = {"shortfall": 0, "suspense": 0}
        return self._owed.setdefault(next(iter(sales), "") or key, nothing)

    def _check_state(self, model: CardModel, link: dict[str, Any]) -> None:
        """The state after a link, in its row, in its body, and in the model."""
        state = link["state"]
        version, batch_id, status, ecash = state[:4]
        lots = {number: left for number, left, *_ in ecash[2]}
        demand((version, batch_id) == (link["version"], link["batch"]), "a state of another link")
        demand(status == model.status, "status", status, model.status, link)
        due = (model.available, model.held)
        demand(min(due) >= 0, "below zero", due, link)
        demand(tuple(ecash[:2]) == due, "amounts", ecash[:2], due, link)
        demand((link["available"], link["held"]) == due, "amounts after", due, link)
        left = {number: lot["left"] for number, lot in model.lots.items() if lot["left"]}
        demand(lots == left, "lots", lots, left, link)
        totals = state[12] and (state[12][0], *state[12][2:4])
        demand(totals == model.totals, "the day's totals", totals, model.totals, link)
        life = (model.used_day, model.charged)
        demand(tuple(state[13:15]) == life, "last use and fee", state[13:15], life, link)
        holds = {h[0]: (h[2], -sum(move[1] for move in h[4])) for h in state[10]}
        kept = {number: (hold["amount"],) * 2 for number, hold in model.holds.items()}
        demand(holds == kept, "holds and what they pin", holds, kept, link)

    # The answers

    def _hear(self, delivery: Delivery) -> None:
        """An answer must be what the journal said at some moment while it was asked for."""
        message, heard = delivery.message, delivery.answer
        assert heard is not None
        if heard["code"] == _UNDECIDED:
            return
        demand(heard["code"] != "96", "a fault", heard, message)
        card_id = message["card"]
        if card_id not in self._models:
            kept = message["key"][:12] in self._refused
            demand(heard["code"] == "14" and kept, "an unknown card", heard, message)
            return
        first = self._version_at(card_id, delivery.arrived_at)
        last = self._version_at(card_id, delivery.answered_at)
        due: list[dict[str, Any]] = []
        for version in range(first, last + 1):
            due += self._due(delivery, version)
        told = {name: heard[name] for name in _FIELDS}
        fits = any(all(told[name] == value for name, value in one.items()) for one in due)
        demand(fits, "an answer that the journal does not bear out", told, due[-2:], message)

    def _version_at(self, card_id: int, links: int) -> int:
        """A card's version when the journal had so many links."""
        return sum(1 for at in self._committed[card_id] if at < links)

    def _due(self, delivery: Delivery, version: int) -> list[dict[str, Any]]:
        """What may be answered by somebody who sees a card at this version."""
        message = delivery.message
        model = self._models[message["card"]]
        entry = model.entry_at(message["key"], version)
        if entry is not None:
            if entry["op"] == "tombstone":
                return [entry["answer"]]
            if entry["content"] != message["content"]:
                return [{"code": "94", "approval": "", "balances": ""}]
            if model.is_reversed(entry, version):
                tx = entry["tx"]
                silent = {"approval": "", "balances": "", "amount": None}
                return [{"code": "05", "rs": "REVERSED", "rule": "REVERSED", "tx": tx} | silent]
            return [entry["answer"]]
        if message["op"] == "outcome":
            return self._outcome_due(model, delivery, version)
        if message["op"] == "reversal" and self._known_elsewhere(delivery, message["names_key"]):
            return [{"code": "94", "approval": "", "balances": ""}]
        available, held, status = self._states[message["card"]][version]
        if message["op"] in ("sweep", "fee"):
            return self._swept_due(delivery, version)
        if message["op"] == "balance" and status == ACTIVE:
            lots = self._lots[message["card"]][version]
            days = [day_of(time_s) for time_s in delivery.times_s]
            gone = [sum(left for end, left in lots if 0 < end < day) for day in days]
            return [{"code": "00", "balances": balances(available - x, held)} for x in gone]
        return []

    def _swept_due(self, delivery: Delivery, version: int) -> list[dict[str, Any]]:
        """A sweep leaves nothing that is over; a fee that is not taken was not due."""
        message, days = delivery.message, [day_of(time_s) for time_s in delivery.times_s]
        silent = {"approval": "", "balances": "", "amount": None}
        if message["op"] == "sweep":
            lots = self._lots[message["card"]][version]
            left_over = any(left and 0 < end < min(days) for end, left in lots)
            return [] if left_over else [{"code": "00"} | silent]
        status, used_day, charged, paid = self._idle[message["card"]][version]
        terms = self._story.plan.setting.terms
        months = [month_of(day) for day in days]
        idle = min(months) - month_of(used_day) - 1
        due = status == ACTIVE and idle >= terms.fee_after and paid and charged < min(months)
        return [] if due and {message["month"]} == set(months) else [{"code": "25"} | silent]

    def _known_elsewhere(self, delivery: Delivery, key: str) -> bool:
        """Whether another card had a link under this key when the delivery was answered."""
        card_id = delivery.message["card"]
        return any(c != card_id and at < delivery.answered_at for c, at in self._under_key[key])

    def _outcome_due(
        self, model: CardModel, delivery: Delivery, version: int
    ) -> list[dict[str, Any]]:
        message = delivery.message
        oldest_s = max(delivery.times_s) - self._story.plan.setting.horizon_s
        late = message["instant"] and message["instant"] < oldest_s
        others = self._known_elsewhere(delivery, message["names_key"])
        bars = message["bars"] and not message["reverses_nothing"] and not late and not others
        unknown = {"code": "-" if bars else "25", "os": ""}  # one that bars answers with its bar
        original = model.entry_at(message["names_key"], version)
        if original is None:
            return [unknown]
        due = [unknown] if original["posted_s"] < oldest_s else []  # it may be forgotten
        if original["op"] == "tombstone":
            return [*due, {"code": "25", "os": "BARRED"}]
        told = original["answer"]
        undoers = model.undoers(original, version)
        reversals = [
            x["answer"]["rs"]
            for x in undoers
            if x["op"] == "reversal" and (x["amount"] or x["answer"]["rs"] != "PARTIAL")
        ]
        state = "APPROVED" if original["approved"] else "DECLINED"
        if "REVERSED" in reversals or "PARTIAL" in reversals:
            state = "REVERSED" if "REVERSED" in reversals else "PARTIAL"
        elif reversals and model.reversed_share(original, version):
            state = "PARTIAL" if model.open(original, version) else "REVERSED"
        amount = told["amount"] if told["amount"] is not None else original["requested"]
        said = {"code": "00", "os": state, "oc": told["code"], "amount": amount}
        return [*due, said | {"approval": told["approval"], "balances": told["balances"]}]

    def _check_promises(self) -> None:
        """91 says that nothing was done: where nothing but 91 was said, nothing is."""
        said: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
        for delivery in self._story.deliveries:
            said[delivery.message["key"], delivery.message["content"]].append(delivery)
        for (key, content), deliveries in said.items():
            codes = {d.answer["code"] if d.answer else "" for d in deliveries}
            model = self._models.get(deliveries[0].message["card"])
            if codes == {_UNDECIDED} and model is not None:
                entry = model.entries.get(key)
                done = entry is not None and entry["content"] == content
                demand(not done, "done although all answers were 91", deliveries[0].message)
        for delivery in self._story.deliveries:
            lost = delivery.answer is None and not delivery.lost
            demand(not lost, "no answer although its worker lived on", delivery.message)


def _fits(link: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether a link says what it must say."""
    answer, rules = link["answer"], expected.get("rules")
    heard = (link["code"], link["effect"], answer["code"], answer["rs"], answer["amount"])
    due = (expected["code"], expected.get("effect", 0), expected["code"])
    due = (*due, expected.get("rs", ""), expected.get("said"))
    return heard == due and (rules is None or answer["rule"] in rules)


def _idle_of(model: CardModel) -> tuple[int, int, int, int]:
    paid = sum(lot["left"] for lot in model.lots.values() if lot["paid"])
    return model.status, model.used_day, model.charged, paid


def balances(available: int, held: int) -> str:
    """DE 54 of the e-cash purse: ledger, then available."""
    return f"6001978C{available + held:012d}6002978C{available:012d}"


def _opened(row: dict[str, Any]) -> dict[str, Any]:
    """A link's row with its body as plain values."""
    content, answer, _, _, _, _, moves, state, consumed, *more = msgspec.msgpack.decode(row["body"])
    net: dict[int, int] = defaultdict(int)
    taken: dict[int, int] = defaultdict(int)
    for move in moves:
        net[move[0]] += move[1]
    for move in consumed or moves:
        taken[move[0]] += min(move[1], 0)
    return {
        "card": row["card_id"],
        "version": row["version"],
        "key": row["request_key"].hex(),
        "content": content.hex(),
        "code": f"{row['response']:02d}",
        "effect": row["amount_minor"],
        "available": row["available_after"],
        "held": row["held_after"],
        "batch": row["batch_id"],
        "at": (row["batch_id"], row["n"], row["month"]),
        "now_s": int(row["posted_at"].timestamp()),
        "answer": dict(zip(_FIELDS, answer, strict=False)),
        "moves": {lot: amount for lot, amount in net.items() if amount},
        "taken": dict(taken),
        "kinds": [(abs(amount), *kind) for _, amount, *kind in moves],
        "lots": [move[0] for move in moves],
        "undoes": row["undoes"],
        "other": more[1:3],
        "state": msgspec.msgpack.decode(state),
    }
