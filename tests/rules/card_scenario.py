"""Messages to one card through `decide`, each judged by the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec
from builders import (
    NETWORK,
    NOW_S,
    OTHER_TILL,
    POLICY,
    PROGRAMME,
    PUMP,
    SERVICE_DESK,
    SWEEPER,
    TILL,
    Chain,
    again,
    card_effect_minor,
    make_advice,
    make_expiry,
    make_facts,
    make_outcome,
    make_request,
    make_reversal,
    next_transaction_id,
)
from card_model import CardModel, Message
from card_model_holds import held_of
from card_model_life import months

from rules.cards import CardState, CardStatus
from rules.identity import content_fingerprint, request_key
from rules.ledger import AccountKind, Answer, Link
from rules.lots import Origin
from rules.money import Purse
from rules.policy import Limits, Policy, month_of
from rules.replay import follow
from rules.requests import CardRequest, CreditTerms, Operation, ReversalReason
from rules.responses import Rule

FACE_VALUE_MINOR = 2_500
DAY_S = 86_400
TERMINALS = (TILL, OTHER_TILL, SERVICE_DESK, NETWORK, PUMP, PROGRAMME)
SPONSOR = 7
KINDS: tuple[tuple[Origin, int, int | None, bool | None, str], ...] = (
    (Origin.PAID, 0, None, None, ""),
    (Origin.PAID, 0, None, None, ""),
    (Origin.PROMO, SPONSOR, None, None, ""),
    (Origin.PROMO, SPONSOR, 2, False, ""),
    (Origin.REFUND, 0, None, None, "A-1"),
    (Origin.PAID, 0, 1, True, ""),
    (Origin.GOODWILL, SPONSOR, 0, None, ""),
    (Origin.REWARD, 8, None, None, ""),
    (Origin.PAID, SPONSOR, None, None, ""),
    (Origin.REWARD, SPONSOR, 30, None, ""),
    (Origin.PROMO, SPONSOR, -1, None, ""),
    (Origin.PAID, 0, 9, False, ""),
    (Origin.REFUND, 0, None, True, "A-2"),
    (Origin.REFUND, 0, None, False, ""),
    (Origin.PROMO, SPONSOR, 3, True, ""),
)
"""Kinds of value that the programme may give, or not: origin, sponsor, days from now on, whether it
may be paid out, order."""
STRICT = Policy(
    utc_offset_min=-300,
    lot_days={Origin.PAID: 20, Origin.PROMO: 12, Origin.REFUND: 3},
    renewal_days=5,
    sponsors=frozenset({SPONSOR}),
    dormancy_months=1,
    dormancy_fee_minor=40,
    limits={
        0: Limits(
            return_minor=600,
            transaction_minor=2_000,
            day_minor=3_000,
            day_count=6,
            balance_minor=9_000,
        )
    },
)
STRICT_TERMS = {
    "offset_min": -300,
    "lives": {"paid": 20, "promo": 12, "refund": 3},
    "renewal": 5,
    "sponsors": (SPONSOR,),
    "fee_after": 1,
    "fee": 40,
    "transaction": 2_000,
    "return": 600,
    "day": 3_000,
    "times": 6,
    "balance": 9_000,
}
"""The same, for the model."""
PURSES_NAMED = (Operation.LOAD, Operation.REDEEM, Operation.RETURN, Operation.CASH_OUT)
CREDITS = (Operation.LOAD, Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED)
HELD = (Operation.HOLD, Operation.ADVICE)
NAMES = ("tx", "code", "key")
FOREIGN = (Rule.NONE, Rule.NONE, Rule.NONE, Rule.OPERATION, Rule.CURRENCY)
REASONS = ("time_out", "customer", "merchant")
OPERATIONS = tuple(
    operation
    for operation in Operation
    if operation
    not in (
        *(Operation.ISSUE, Operation.REVERSAL, Operation.TOMBSTONE, Operation.OUTCOME),
        *(Operation.UPLOAD, Operation.LOT_EXPIRY, Operation.LOT_RENEWAL),
        *(Operation.DORMANCY_FEE, Operation.LOT_SWEEP),
        *(Operation.COMPLETION, Operation.HOLD_EXPIRY, Operation.TRANSFER, Operation.RECEIPT),
    )
)
"""What can be asked for by its operation alone."""


@dataclasses.dataclass
class Sent:
    """A message: what the model is told of it, and the request that the rules get."""

    message: Message
    request: CardRequest


class Scenario:
    """One card from its issue on. Messages wait in a batch until it is full, then are judged."""

    def __init__(self, *, strict: bool = False) -> None:
        facts = make_facts(expiry="9912", face_value_minor=FACE_VALUE_MINOR)
        self.chain = Chain(CardState.new(), facts, policy=STRICT if strict else POLICY)
        self.model = CardModel(FACE_VALUE_MINOR, STRICT_TERMS if strict else None)
        self.model.now_s = NOW_S
        self.batch_size = 1
        self.waiting: list[Sent] = []
        self.made: list[Sent] = []
        self.rounds = 0
        self.thawed: set[int] = set()
        """Versions after which the status was changed from outside the chain."""
        self.seen_keys: set[bytes] = set()
        self.lot_kinds: dict[int, tuple[Any, ...]] = {}
        self.effects_minor = dict.fromkeys(Purse, 0)
        self.postings_minor = dict.fromkeys(Purse, 0)

    # What can happen

    def request(
        self,
        operation: Operation,
        amount_minor: int,
        *,
        partial: bool = False,
        purse: Purse = Purse.ECASH,
        terminal: int = 0,
        age_s: int = 0,
        sale: int | None = None,
        withhold: bool = False,
        kind: int = 0,
    ) -> None:
        """A new message; one that is withheld waits to come late, or never."""
        if operation not in (*PURSES_NAMED, *HELD):
            purse = Purse.ECASH
        sales = [s for s in self.made if s.message["op"] in ("redeem", "advice")]
        original = ""
        others = [s for s in self.made if s.message["op"] != "expiry"]
        if operation is Operation.RETURN and sale is not None and others:
            named = sales[sale % len(sales)] if sales else others[sale % len(others)]
            original = named.request.transaction_id
            purse = named.request.purse if sale % 5 else purse
            if sale % 7:
                terminal = TERMINALS.index(named.request.terminal)
        request = make_request(
            operation,
            amount_minor,
            purse=purse,
            terminal=TERMINALS[terminal % len(TERMINALS)],
            instant_s=max(self.model.now_s - age_s, 1),
            partial_allowed=partial,
            original=original,
        )
        if operation in CREDITS and kind % len(KINDS):
            origin, sponsor_id, days, cashable, order = KINDS[kind % len(KINDS)]
            last_day = 0 if days is None else self.model.today + days
            terms = CreditTerms(origin, sponsor_id, last_day, cashable, order)
            request = msgspec.structs.replace(request, terms=terms)
        sent = Sent(self._message(request, operation.name.lower(), original), request)
        self._make(sent, withhold=withhold)

    def advise(
        self,
        amount_minor: int,
        which: int,
        *,
        names: int = 0,
        foreign: int = 0,
        purse: Purse = Purse.ECASH,
        terminal: int = 0,
        age_s: int = 0,
        withhold: bool = False,
    ) -> None:
        """The completion of a hold, the advice of a sale's own request, or one of a new sale."""
        holds = [s.request for s in self.made if s.request.operation is Operation.HOLD]
        sales = [s.request for s in self.made if s.request.operation is Operation.REDEEM]
        instant_s = max(self.model.now_s - age_s, 1)
        rule = FOREIGN[foreign % len(FOREIGN)]
        changes = {"instant_s": instant_s, "foreign_content": rule}
        if names < len(NAMES) and holds:
            still_open = [hold for hold in holds if hold.key.hex() in self.model.holds]
            holds = still_open if still_open and which % 4 else holds
            hold = holds[-1 - which % len(holds)]
            if which % 5 == 0:
                changes |= {"terminal": TERMINALS[terminal % len(TERMINALS)], "purse": purse}
            if amount_minor == 0 and hold.key.hex() in self.model.holds:
                amount_minor = held_of(self.model.holds[hold.key.hex()])
            request = make_advice(amount_minor, hold=hold, by=NAMES[names], **changes)
        elif names == len(NAMES) and sales:
            sale = sales[-1 - which % len(sales)]
            request = make_advice(amount_minor or sale.amount_minor, request=sale, **changes)
        else:
            changes |= {"terminal": TERMINALS[terminal % len(TERMINALS)], "purse": purse}
            request = make_advice(amount_minor, **changes)
        self._make(Sent(self._message(request, "advice", ""), request), withhold=withhold)

    def sweep(self, which: int) -> None:
        """The sweeper asks for a hold, open or not, whose time is over or not."""
        versions = [hold["version"] for hold in self.model.holds.values()]
        self.rounds += 1
        version = versions[which % len(versions)] if versions and which % 7 else which
        request = make_expiry(version, round_number=self.rounds)
        message = self._message(request, "expiry", "") | {"hold": version}
        self._make(Sent(message, request))

    def charge(self, ahead: int) -> None:
        """The sweeper asks for the fee of this month, or of the next."""
        month = month_of(self.model.today) + ahead
        request = CardRequest(
            operation=Operation.DORMANCY_FEE,
            key=request_key(1, f"fee|{month}"),
            fingerprint=content_fingerprint(f"fee|{month}"),
            transaction_id=next_transaction_id(),
            rrn="",
            terminal=SWEEPER,
            fee_month=month,
        )
        message = self._message(request, "fee", "")
        self._send(Sent(message | {"month": months(self.model.today) + ahead}, request))

    def ask(self, which: int, *, bar_unknown: bool) -> None:
        """What became of any message made so far, come or withheld."""
        if not self.made:
            return
        original = self.made[which % len(self.made)]
        if original.message["op"] in ("outcome", "expiry"):
            return  # no terminal can name these
        request = make_outcome(original.request, bar_unknown=bar_unknown)
        message = self._message(request, "outcome", "")
        message |= {
            "of": original.message["name"],
            "bar": bar_unknown,
            "enquiry": original.message["op"] in ("balance", "reversal"),
        }
        self._make(Sent(message, request))

    def reverse(
        self, which: int, *, reason: int = 0, final_minor: int | None = None, amount: int = 0
    ) -> None:
        """The reversal of any message made so far, come or withheld."""
        if not self.made:
            return
        original = self.made[which % len(self.made)]
        if original.message["op"] in ("outcome", "expiry"):
            return  # no terminal can name these
        amounts = (original.request.amount_minor, 0, original.request.amount_minor + 1)
        entry = self.model.known.get(original.message["name"], {})
        amount_minor = (*amounts, entry.get("amount", 0))[amount % 4]
        chosen = REASONS[reason % 3]
        request = make_reversal(
            original.request,
            reason=ReversalReason[chosen.upper()],
            final_minor=final_minor,
            amount_minor=amount_minor,
        )
        message = self._message(request, "reversal", "")
        message |= {
            "of": original.message["name"],
            "reason": chosen,
            "final": final_minor,
            "enquiry": original.message["op"] == "balance",
        }
        self._make(Sent(message, request))

    def repeat(self, which: int, *, other_content: bool = False) -> None:
        """A message of before once more, or a withheld one for the first time."""
        if not self.made:
            return
        sent = self.made[which % len(self.made)]
        message, request = sent.message, sent.request
        always = message["op"] in ("reversal", "advice", "expiry", "outcome")
        if not always and message["instant"] < self.model.now_s - 60 * DAY_S:
            return  # refused before it reaches the card (12, CLOCK)
        if other_content:
            amount_minor = request.amount_minor + 1
            fingerprint = content_fingerprint(f"other|{amount_minor}")
            message = message | {"amount": amount_minor, "content": ("other", amount_minor)}
            request = again(request, amount_minor=amount_minor, fingerprint=fingerprint)
            self._send(Sent(message, request))
        elif message["name"] in self.model.known:
            self._send(Sent(message, again(request)))
        else:
            self._send(sent)

    def appear_elsewhere(self, which: int) -> None:
        """The same key has been seen under another card."""
        if self.made:
            sent = self.made[which % len(self.made)]
            self.flush()
            self.model.elsewhere.add(sent.message["name"])
            self.chain.keys_elsewhere |= {sent.request.key}

    def thaw(self) -> None:
        """Programme staff have looked at a frozen card."""
        self.flush()
        if self.model.status == "frozen":
            self.model.status = "active"
            state = self.chain.card_state
            state.status = CardStatus.ACTIVE
            self.chain.state = msgspec.msgpack.encode(state)
            self.thawed.add(state.version)

    def pass_time(self, seconds: int) -> None:
        self.flush()
        self.model.now_s += seconds
        self.chain.now_s += seconds

    def order_does_not_matter(self, operation: Operation, amount_minor: int, sale: int) -> None:
        """A message and its reversal, in both orders, leave the same card behind.

        But for an advice that finds too little: it freezes the card, which no reversal thaws.
        """
        self.flush()
        if operation is Operation.ADVICE:
            amount_minor = min(amount_minor, self.model.shown(60))
        made, waiting = len(self.made), self._send
        self._send = lambda sent: None  # type: ignore[method-assign]
        self.request(operation, amount_minor, sale=sale, partial=True, terminal=2)
        self._send = waiting  # type: ignore[method-assign]
        request = self.made[made].request
        del self.made[made:]
        ends = []
        for reversal_first in (False, True):
            twin = self.chain.clone()
            pair = [request, make_reversal(request)]
            for message in reversed(pair) if reversal_first else pair:
                twin.send(message)
            state = twin.card_state
            lots = [
                sorted((lot.lot_id, lot.available_minor) for lot in purse.lots)
                for purse in (state.ecash, state.voucher, state.points)
            ]
            held = [(hold.version, hold.amount_minor) for hold in state.holds]
            ends.append((state.status, state.ecash.available_minor, lots, held))
        assert ends[0] == ends[1]

    # How it is judged

    def _message(self, request: CardRequest, op: str, sale: str) -> Message:
        terms = request.terms
        return {
            "op": op,
            "name": request.key.hex(),
            "instant": int.from_bytes(request.key[:4], "big"),
            "amount": request.amount_minor,
            "content": (op, request.amount_minor, request.final_amount_minor, sale),
            "purse": int(request.purse),
            "merchant": request.terminal.merchant_id,
            "may_return_unlinked": request.terminal.may_return_unlinked,
            "partial": request.partial_allowed,
            "sale": sale,
            "or": request.original_transaction_id,
            "code": request.approval_code,
            "names": request.original_key.hex() if request.names_original else "",
            "own": request.own_request_key.hex(),
            "floor": request.terminal.floor_limit_minor,
            "tolerance": request.terminal.completion_tolerance_percent,
            "foreign": request.foreign_content.value,
            "programme": request.terminal.programme,
            "terms": terms is not None,
            "origin": (terms.origin if terms else Origin.PAID).name.lower(),
            "last": terms.last_day if terms else 0,
            "sponsor": terms.sponsor_id if terms else 0,
            "cash": terms.cashable if terms else None,
            "order": terms.order_reference if terms else "",
        }

    def _make(self, sent: Sent, *, withhold: bool = False) -> None:
        self.made.append(sent)
        if not withhold:
            self._send(sent)

    def _send(self, sent: Sent) -> None:
        self.waiting.append(sent)
        if len(self.waiting) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Commit what waits as one batch, and judge every answer and every link."""
        if not self.waiting:
            return
        batch, self.waiting = self.waiting, []
        before = len(self.chain.journal)
        answers = self.chain.batch(*(sent.request for sent in batch))
        links = iter(self.chain.journal[before:])
        for sent, answer in zip(batch, answers, strict=True):
            ages = self.model.ages(sent.message)
            if ages:
                self._ends(links)
            expected = self.model.expect(sent.message)
            mine = [next(links) for _ in range(expected.get("links", 1))]
            self._judge(sent, expected, answer, mine)
            if ages:
                self._renewals(links)
        assert next(links, None) is None, "a link nobody asked for"
        self._check_card(self.chain.journal[before:])

    def _ends(self, links: Iterator[Link]) -> None:
        """A link for each lot whose last day is over."""
        while overdue := self.model.overdue():
            link = next(links)
            assert link.operation is Operation.LOT_EXPIRY
            (move,) = link.moves
            assert (int(link.purse), move.lot_id) in overdue
            minor, heir = self.model.end(int(link.purse), move.lot_id)
            assert -move.amount_minor == -link.effect_minor == minor
            (posting,) = link.postings
            assert (posting.credit_kind.name.lower(), posting.credit_id) == heir

    def _renewals(self, links: Iterator[Link]) -> None:
        """A link for each lot that came back too late."""
        while overdue := self.model.overdue():
            link = next(links)
            assert link.operation is Operation.LOT_RENEWAL
            ended, heir = link.moves
            assert (int(link.purse), ended.lot_id) in overdue
            minor, last = self.model.renew(int(link.purse), ended.lot_id)
            assert (-ended.amount_minor, heir.amount_minor) == (minor, minor)
            assert (heir.lot_id, heir.expires_day) == (self.model.lots_made, last)
            assert link.effect_minor == 0 and link.postings == ()

    def _judge(self, sent: Sent, expected: Message, answer: Answer, links: list[Link]) -> None:
        message = sent.message
        heard = {
            "code": answer.response.value,
            "rs": answer.reversal_state.value,
            "tx": answer.transaction_id,
            "answer": answer,
        }
        assert heard["code"] == expected["code"], (message, expected)
        if message["op"] == "outcome" and message["name"] not in self.model.known:
            self._judge_outcome(expected, answer, links)
            self.model.apply(message, expected, heard, [], 0)
            return
        if expected.get("heard") is not None:
            assert answer == expected["heard"]["answer"]
        else:
            assert heard["rs"] == expected.get("rs", ""), (message, expected)
            assert answer.rule == expected.get("rule", answer.rule)
            assert answer.resets_s == expected.get("resets", 0)
            if heard["rs"] != "REVERSED" or message["op"] == "reversal":
                assert answer.requested_minor == expected.get("requested")
                assert answer.amount_minor == expected.get("said")
            assert heard["tx"] == expected.get("tx", heard["tx"])
        link = links[-1] if links else None
        for barring in links[:-1]:
            assert barring.effect_minor == 0 and barring.moves == () and barring.postings == ()
            assert barring.key.hex() == expected["bars"]
        moves = [] if link is None else [(m.lot_id, m.amount_minor) for m in link.moves]
        if link is not None:
            assert link.key.hex() == message["name"]
            assert link.effect_minor == expected.get("effect", 0)
            assert link.answer == answer
        version = links[-1].version if links else 0
        self.model.apply(message, expected, heard, moves, version)
        if link is not None and heard["code"] in ("00", "10"):
            assert link.held_after_minor == self.model.held(int(link.purse))
        if (
            "heard" not in expected
            and heard["code"] in ("00", "10")
            and message["op"] not in ("expiry", "fee")
        ):
            self._check_balances(message, answer)

    def _judge_outcome(self, expected: Message, answer: Answer, links: list[Link]) -> None:
        assert [link.key.hex() for link in links] == ([expected["bars"]] if links else [])
        assert answer.original_state == expected["os"]
        told = expected.get("told")
        first = None if told is None else told["heard"]["answer"]
        assert answer.original_response == ("" if first is None else first.response)
        assert answer.approval_code == ("" if first is None else first.approval_code)
        assert answer.balances == ("" if first is None else first.balances)
        if told is not None and told["approved"]:
            said_minor = told["requested"] if first.amount_minor is None else first.amount_minor
            assert answer.amount_minor == said_minor

    def _check_balances(self, message: Message, answer: Answer) -> None:
        purse = message["purse"]
        currency = "999" if purse == 90 else "978"
        available_minor = self.model.available(purse)
        if (
            message["op"] == "balance"
        ):  # elsewhere what is over has left the card, or will be renewed
            available_minor = self.model.shown(purse)
        ledger_minor = available_minor + self.model.held(purse)
        said = f"{purse}01{currency}C{ledger_minor:012d}{purse}02{currency}C{available_minor:012d}"
        if message["op"] in ("reversal", "advice"):
            said = ""
        assert answer.balances == said

    def _check_card(self, new: list[Link]) -> None:
        version = self.chain.journal[len(self.chain.journal) - len(new) - 1].version if new else 0
        if len(self.chain.journal) == len(new):
            version = 0
        for link in new:
            version += 1
            assert link.version == version
            assert link.key not in self.seen_keys, "a key with two links"
            self.seen_keys.add(link.key)
            self.effects_minor[link.purse] += link.effect_minor
            self.postings_minor[link.purse] += card_effect_minor(link)
            for move in link.moves:
                kind = (move.origin, move.cashable, move.expires_day, move.sponsor_id)
                assert self.lot_kinds.setdefault(move.lot_id, kind) == kind
        state = self.chain.card_state
        assert state.status.name.lower() == self.model.status
        if self.model.status == "blocked":
            assert state.status_before_block.name.lower() == self.model.before_block
        assert {
            hold.version: (
                *(hold.purse, hold.expires_s),
                [(move.lot_id, -move.amount_minor) for move in hold.pinned],
            )
            for hold in state.holds
        } == {
            hold["version"]: (hold["purse"], hold["expires"], hold["pins"])
            for hold in self.model.holds.values()
        }
        for purse in Purse:
            held = state.purse(purse)
            lots = {lot.lot_id: lot.available_minor for lot in held.lots}
            model_lots = self.model.lots[int(purse)]
            assert lots == {i: lot["left"] for i, lot in model_lots.items() if lot["left"]}
            assert all(minor > 0 for minor in lots.values())
            assert held.available_minor == sum(lots.values()) >= 0
            assert held.available_minor == self.effects_minor[purse]
            assert held.available_minor + held.held_minor == self.postings_minor[purse]
            pinned = [hold for hold in state.holds if hold.purse is purse]
            assert held.held_minor == sum(hold.amount_minor for hold in pinned) >= 0
            pins = [move.amount_minor for hold in pinned for move in hold.pinned]
            assert held.held_minor == -sum(pins)
        for entry in self.model.known.values():
            assert entry.get("open", 0) >= 0

    def _check_given(self) -> None:
        """What sponsors, breakage and fees have is what the model says."""
        booked: dict[tuple[str, int], int] = {}
        for link in self.chain.journal:
            for posting in link.postings:
                for sign, kind, account_id in (
                    (-1, posting.debit_kind, posting.debit_id),
                    (1, posting.credit_kind, posting.credit_id),
                ):
                    if kind in (AccountKind.PROMO, AccountKind.BREAKAGE, AccountKind.FEE):
                        account = kind.name.lower(), account_id
                        booked[account] = booked.get(account, 0) + sign * posting.amount_minor
        expected = {account: minor for account, minor in self.model.accounts.items() if minor}
        assert {account: minor for account, minor in booked.items() if minor} == expected

    def finish(self) -> None:
        """The books over the whole chain, and whether each link explains the state it left."""
        self.flush()
        state = CardState.new()
        for link in self.chain.journal:
            if state.version in self.thawed:
                state.status = CardStatus.ACTIVE
            left = msgspec.msgpack.decode(link.state_after, type=CardState)
            state = follow(state, link, left.batch_id)
        owed: dict[tuple[str, int], int] = {}
        for link in self.chain.journal:
            for posting in link.postings:
                for sign, kind, account_id in (
                    (1, posting.debit_kind, posting.debit_id),
                    (-1, posting.credit_kind, posting.credit_id),
                ):
                    if kind in (AccountKind.SHORTFALL, AccountKind.SUSPENSE):
                        account = kind.name.lower(), account_id
                        owed[account] = owed.get(account, 0) + sign * posting.amount_minor
        self._check_given()
        assert all(minor >= 0 for minor in owed.values())
        expected = {account: minor for account, minor in self.model.owed.items() if minor}
        assert {account: minor for account, minor in owed.items() if minor} == expected
