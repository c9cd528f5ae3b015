"""A small language for what tills send and hear about one card.

    sell 500 as sale                -> 00
    reverse sale to 200             -> 00 PARTIAL
    card 9800

Each line is a message, and what is heard after the arrow: DE 39, then in any order `RS`, `WY`,
`OS`, `OC=`, `DE4=`, `RQ=`; what is not named must not be said. A line without an arrow says how
things stand: `card`, `held`, `status`, `owes`, `lots`, `links`. `write` makes a message and does
not send it, `send` sends it. Everything goes through `rules.authorize.decide`, batch by batch, with
the history read as the pipeline reads it.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from rules.cards import CardState, CardStatus
from rules.identity import content_fingerprint, suspense_card_id
from rules.ledger import AccountKind, Answer
from rules.lots import Lot, Origin
from rules.requests import CardRequest, Entry, Operation, ReversalReason
from rules.responses import OriginalState, ReversalState, Rule
from tests.rules.builders import (
    CODE_DIGEST,
    NETWORK,
    NOW_S,
    OTHER_TILL,
    PUMP,
    PVV,
    TILL,
    Chain,
    account_minor,
    again,
    make_advice,
    make_chain,
    make_expiry,
    make_facts,
    make_outcome,
    make_request,
    make_reversal,
)

__all__ = ["told"]

DAY_S = 86_400
_TERMINALS = {"till": TILL, "other": OTHER_TILL, "network": NETWORK, "pump": PUMP}
_PLAIN = {
    "sell": Operation.REDEEM,
    "load": Operation.LOAD,
    "activate": Operation.ACTIVATE,
    "hold": Operation.HOLD,
    "cash": Operation.CASH_OUT,
    "balance": Operation.BALANCE,
    "block": Operation.BLOCK,
    "unblock": Operation.UNBLOCK,
    "unlock": Operation.UNLOCK,
    "deactivate": Operation.DEACTIVATE,
}
_BY = {"OR": "tx", "DE38": "code", "DE90": "key"}
_SECRETS = {"right": (PVV, CODE_DIGEST), "wrong": (b"0000", b"another")}


class Story:
    """One card and what has been said about it."""

    def __init__(
        self, status: CardStatus = CardStatus.ACTIVE, available_minor: int = 10_000
    ) -> None:
        promo = [Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8)]
        lots = [*promo, Lot(2, available_minor - 300)] if available_minor > 300 else []
        self.chain = make_chain(status, 0, lots=lots, facts=make_facts(face_value_minor=2_500))
        self.messages: dict[str, CardRequest] = {}
        self.last: CardRequest | None = None

    def line(self, line: str) -> None:
        """One line of a story. AssertionError where it was otherwise."""
        said, arrow, due = (part.strip() for part in line.partition("->"))
        verb, *words = said.split()
        if not arrow:
            getattr(self, f"_{verb}")(*words)
            return
        if verb == "write":
            raise ValueError("what is written is not answered")
        answer = self.chain.send(self.message(verb, words))
        assert heard(answer) == expected(due), f"{line}: {answer}"

    def message(self, verb: str, words: list[str]) -> CardRequest:
        """The message of a line; `as NAME` keeps it."""
        name = ""
        if "as" in words:
            at = words.index("as")
            name, words = words[at + 1], words[:at]
        request = self._made(verb, words)
        self.last = request
        if name:
            self.messages[name] = request
        return request

    def _made(self, verb: str, words: list[str]) -> CardRequest:
        more = dict(itertools.pairwise(words[1:]))
        first = words[0] if words else ""
        if verb in ("send", "repeat"):
            request = self.messages[first]
            if "amount" not in more:
                return again(request) if verb == "repeat" else request
            other = content_fingerprint(f"other {more['amount']}")
            return again(request, amount_minor=int(more["amount"]), fingerprint=other)
        if verb in _PLAIN:
            return self._plain(_PLAIN[verb], words, more)
        if verb == "return":
            sale = self.messages[more["of"]]
            named = {"original": sale.transaction_id, "terminal": _till(more, sale)}
            return make_request(Operation.RETURN, int(first), **named)
        if verb == "advise":
            return self._advice(int(first), more)
        if verb == "reverse":
            return self._reversal(self.messages[first], words, more)
        if verb == "ask":
            return make_outcome(self.messages[first], bar_unknown="barring" in words)
        if verb == "sweep":
            made = {link.key: link.version for link in self.chain.journal}
            number = len(self.chain.journal) + 1
            return make_expiry(made[self.messages[first].key], round_number=number)
        raise ValueError(f"no such verb: {verb}")

    def _plain(self, operation: Operation, words: list[str], more: dict[str, str]) -> CardRequest:
        amount_minor = int(words[0]) if words and words[0].isdigit() else 0
        by_network = operation in (Operation.BLOCK, Operation.UNBLOCK, Operation.DEACTIVATE)
        pvv, _ = _SECRETS.get(more.get("pin", ""), (None, None))
        _, code = _SECRETS.get(more.get("code", ""), (None, None))
        return make_request(
            operation,
            amount_minor,
            terminal=NETWORK if by_network else _till(more, None),
            instant_s=NOW_S + DAY_S * int(more.get("day", 0)),
            partial_allowed="partly" in words,
            entry=Entry.KEYED if "keyed" in words else Entry.READ,
            pvv=pvv,
            code_digest=code,
        )

    def _advice(self, amount_minor: int, more: dict[str, str]) -> CardRequest:
        named: dict[str, Any] = {}
        if "completing" in more:
            named["hold"] = self.messages[more["completing"]]
            named["by"] = _BY[more.get("by", "OR")]
        if "instead" in more:
            named["request"] = self.messages[more["instead"]]
        if "currency" in more:
            named |= {"foreign_content": Rule.CURRENCY, "foreign_currency": more["currency"]}
        if "code" in more:
            named["foreign_content"] = Rule.OPERATION
        if "day" in more:
            named["instant_s"] = NOW_S + DAY_S * int(more["day"])
        if "at" in more:
            named["terminal"] = _TERMINALS[more["at"]]
        return make_advice(amount_minor, card_unknown=self.chain.card_id < 0, **named)

    def _reversal(
        self, original: CardRequest, words: list[str], more: dict[str, str]
    ) -> CardRequest:
        amount = more.get("amount")
        final = more.get("to")
        reversal = make_reversal(
            original,
            amount_minor=None if amount is None else int(amount),
            final_minor=None if final is None else int(final),
            reason=ReversalReason[more.get("for", "time_out").upper()],
        )
        return again(reversal, foreign_currency=more.get("currency", ""))

    # Lines without an arrow

    def _write(self, verb: str, *words: str) -> None:
        self.message(verb, list(words))

    def _card(self, available_minor: str) -> None:
        assert self.chain.available_minor == int(available_minor)

    def _held(self, held_minor: str) -> None:
        assert self.chain.held_minor == int(held_minor)

    def _status(self, status: str) -> None:
        assert self.chain.status.name.lower() == status

    def _lots(self, *lots: str) -> None:
        found = {lot.lot_id: lot.available_minor for lot in self.chain.card_state.ecash.lots}
        assert found == {int(n): int(minor) for n, _, minor in (x.partition(":") for x in lots)}

    def _owes(self, *words: str) -> None:
        """What the till's merchant owes: `owes nothing`, `owes shortfall 20 suspense 5`."""
        due = dict(zip(words[::2], words[1::2], strict=False)) if words != ("nothing",) else {}
        for kind in (AccountKind.SHORTFALL, AccountKind.SUSPENSE):
            owed_minor = -account_minor(self.chain.journal, kind, TILL.merchant_id)
            assert owed_minor == int(due.get(kind.name.lower(), 0)), kind

    def _links(self, count: str) -> None:
        assert len(self.chain.journal) == int(count)

    def _postings(self, currency: str) -> None:
        assert {link.foreign_currency for link in self.chain.journal if link.postings} == {currency}

    def _later(self, days: str, *_: str) -> None:
        self.chain.now_s += DAY_S * int(days)

    def _elsewhere(self, name: str) -> None:
        """The same key is known under another card."""
        self.chain.keys_elsewhere |= {self.messages[name].key}

    def _becomes(self, status: str) -> None:
        """Programme staff set the card's status."""
        state = self.chain.card_state
        state.status = CardStatus[status.upper()]
        self.chain.state = msgspec.msgpack.encode(state)

    def _busy(self, count: str) -> None:
        """So much happens that the window forgets."""
        for _ in range(int(count)):
            self.chain.send(make_request(Operation.REDEEM, 999_999_999))

    def _new(self, status: str, available_minor: str = "0") -> None:
        """Begin with another card."""
        self.__init__(CardStatus[status.upper()], int(available_minor))  # type: ignore[misc]

    def _unknown(self) -> None:
        """Begin with a number that no card has: its advices stand on the merchant's chain."""
        card_id = suspense_card_id(TILL.merchant_id)
        self.chain = Chain(CardState.new(), make_facts(), card_id=card_id)


def _till(more: dict[str, str], like: CardRequest | None) -> Any:
    if "at" in more:
        return _TERMINALS[more["at"]]
    return TILL if like is None else like.terminal


def heard(answer: Answer) -> set[str]:
    """What an answer says, as words."""
    words = {answer.response.value, answer.reversal_state.value, answer.rule.value}
    words.add(answer.original_state.value)
    if answer.original_response:
        words.add(f"OC={answer.original_response}")
    elif answer.amount_minor is not None:
        words.add(f"DE4={answer.amount_minor}")
    if answer.requested_minor is not None:
        words.add(f"RQ={answer.requested_minor}")
    return words - {""}


_WORDS = {str(word) for kind in (ReversalState, OriginalState, Rule) for word in kind}


def expected(text: str) -> set[str]:
    """The words after an arrow. ValueError for one that nobody could say."""
    code, *words = text.split()
    for word in words:
        if word not in _WORDS and not word.startswith(("OC=", "DE4=", "RQ=")):
            raise ValueError(f"nobody says {word}")
    return {code, *words}


def told(text: str) -> Story:
    """Tell a whole story; AssertionError at the first line that was otherwise."""
    story = Story()
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            story.line(line)
        except AssertionError as error:
            raise AssertionError(f"{line}\n{error}") from error
    return story
