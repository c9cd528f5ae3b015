"""Messages to one card through `decide`, each judged by the model."""

from __future__ import annotations

import dataclasses
from typing import Any

from builders import (
    NETWORK,
    NOW_S,
    OTHER_TILL,
    SERVICE_DESK,
    TILL,
    Chain,
    again,
    card_effect_minor,
    make_facts,
    make_request,
    make_reversal,
)
from card_model import CardModel, Message

from rules.cards import CardState
from rules.identity import content_fingerprint
from rules.ledger import AccountKind, Answer, Link
from rules.money import Purse
from rules.requests import CardRequest, Operation, ReversalReason

FACE_VALUE_MINOR = 2_500
DAY_S = 86_400
TERMINALS = (TILL, OTHER_TILL, SERVICE_DESK, NETWORK)
REASONS = ("time_out", "customer", "merchant")
OPERATIONS = tuple(
    operation
    for operation in Operation
    if operation not in (Operation.ISSUE, Operation.REVERSAL, Operation.TOMBSTONE)
)


@dataclasses.dataclass
class Sent:
    """A message: what the model is told of it, and the request that the rules get."""

    message: Message
    request: CardRequest


class Scenario:
    """One card from its issue on. Messages wait in a batch until it is full, then are judged."""

    def __init__(self) -> None:
        self.chain = Chain(CardState.new(), make_facts(face_value_minor=FACE_VALUE_MINOR))
        self.model = CardModel(FACE_VALUE_MINOR)
        self.model.now_s = NOW_S
        self.batch_size = 1
        self.waiting: list[Sent] = []
        self.made: list[Sent] = []
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
    ) -> None:
        """A new message; one that is withheld waits to come late, or never."""
        if operation not in (Operation.LOAD, Operation.REDEEM, Operation.RETURN):
            purse = purse if operation is Operation.CASH_OUT else Purse.ECASH
        sales = [s for s in self.made if s.request.operation is Operation.REDEEM]
        original = ""
        if operation is Operation.RETURN and sale is not None and self.made:
            named = sales[sale % len(sales)] if sales else self.made[sale % len(self.made)]
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
        sent = Sent(self._message(request, operation.name.lower(), original), request)
        self.made.append(sent)
        if not withhold:
            self._send(sent)

    def reverse(
        self, which: int, *, reason: int = 0, final_minor: int | None = None, amount: int = 0
    ) -> None:
        """The reversal of any message made so far, come or withheld."""
        if not self.made:
            return
        original = self.made[which % len(self.made)]
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
        sent = Sent(message, request)
        self.made.append(sent)
        self._send(sent)

    def repeat(self, which: int, *, other_content: bool = False) -> None:
        """A message of before once more, or a withheld one for the first time."""
        if not self.made:
            return
        sent = self.made[which % len(self.made)]
        message, request = sent.message, sent.request
        if message["op"] != "reversal" and message["instant"] < self.model.now_s - 60 * DAY_S:
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

    def pass_time(self, seconds: int) -> None:
        self.flush()
        self.model.now_s += seconds
        self.chain.now_s += seconds

    def order_does_not_matter(self, operation: Operation, amount_minor: int, sale: int) -> None:
        """A message and its reversal, in both orders, leave the same card behind."""
        self.flush()
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
            ends.append((state.status, state.ecash.available_minor, lots))
        assert ends[0] == ends[1]

    # How it is judged

    def _message(self, request: CardRequest, op: str, sale: str) -> Message:
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
        }

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
            expected = self.model.expect(sent.message)
            mine = [next(links) for _ in range(expected.get("links", 1))]
            self._judge(sent, expected, answer, mine)
        assert next(links, None) is None, "a link nobody asked for"
        self._check_card(self.chain.journal[before:])

    def _judge(self, sent: Sent, expected: Message, answer: Answer, links: list[Link]) -> None:
        message = sent.message
        heard = {
            "code": answer.response.value,
            "rs": answer.reversal_state.value,
            "tx": answer.transaction_id,
            "answer": answer,
        }
        assert heard["code"] == expected["code"], (message, expected)
        if expected.get("heard") is not None:
            assert answer == expected["heard"]["answer"]
        else:
            assert heard["rs"] == expected.get("rs", ""), (message, expected)
            assert answer.rule == expected.get("rule", answer.rule)
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
        self.model.apply(message, expected, heard, moves)
        if "heard" not in expected and heard["code"] in ("00", "10"):
            self._check_balances(message, answer)

    def _check_balances(self, message: Message, answer: Answer) -> None:
        purse = message["purse"]
        currency = "999" if purse == 90 else "978"
        amount = f"{currency}C{self.model.available(purse):012d}"
        said = "" if message["op"] == "reversal" else f"{purse}01{amount}{purse}02{amount}"
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
        for purse in Purse:
            held = state.purse(purse)
            lots = {lot.lot_id: lot.available_minor for lot in held.lots}
            model_lots = self.model.lots[int(purse)]
            assert lots == {i: lot["left"] for i, lot in model_lots.items() if lot["left"]}
            assert all(minor > 0 for minor in lots.values())
            assert held.available_minor == sum(lots.values()) >= 0
            assert held.available_minor == self.effects_minor[purse] == self.postings_minor[purse]
        for entry in self.model.known.values():
            assert entry.get("open", 0) >= 0

    def finish(self) -> None:
        """The books over the whole chain."""
        self.flush()
        owed: dict[int, int] = {}
        for link in self.chain.journal:
            for posting in link.postings:
                if posting.debit_kind is AccountKind.SHORTFALL:
                    owed[posting.debit_id] = owed.get(posting.debit_id, 0) + posting.amount_minor
        assert owed == self.model.shortfall
