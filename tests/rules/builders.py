"""Cards, requests and moments for the tests of the rules."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from rules.authorize import decide, lacks_history
from rules.booking import Moment, Policy
from rules.cards import CardFacts, CardState, CardStatus, PurseState, WorkingCard
from rules.identity import content_fingerprint, format_transaction_id, request_key
from rules.ledger import AccountKind, Answer, Link
from rules.lots import Lot
from rules.money import Purse
from rules.requests import CardRequest, Entry, Operation, ReversalReason, Terminal

NOW_S = 1_795_300_000
"""2026-11-22, early in the morning UTC."""
YEAR_MONTH = "2611"
CARD_ID = 77
POLICY = Policy()
PVV = b"4711"
CODE_DIGEST = b"right-code-digest"

FLOOR_LIMIT_MINOR = 5_000
TILL = Terminal(1, 501, network=False, floor_limit_minor=FLOOR_LIMIT_MINOR)
OTHER_TILL = Terminal(2, 502, network=False, floor_limit_minor=FLOOR_LIMIT_MINOR)
SERVICE_DESK = Terminal(
    3, 501, network=False, may_return_unlinked=True, floor_limit_minor=FLOOR_LIMIT_MINOR
)
NETWORK = Terminal(4, 900, network=True)
"""It decides nothing by itself: no floor limit."""
PUMP = Terminal(
    5, 501, network=False, floor_limit_minor=FLOOR_LIMIT_MINOR, completion_tolerance_percent=10
)

PROGRAMME = Terminal(6, 901, network=True, programme=True)

SWEEPER = Terminal(0, 0, network=False)

_TYPES = {
    Operation.UNLOCK: "91",
    Operation.ACTIVATE: "90",
    Operation.ACTIVATE_PREVALUED: "93",
    Operation.LOAD: "21",
    Operation.REDEEM: "00",
    Operation.RETURN: "20",
    Operation.CASH_OUT: "61",
    Operation.BALANCE: "31",
    Operation.DEACTIVATE: "92",
    Operation.BLOCK: "94",
    Operation.UNBLOCK: "95",
    Operation.HOLD: "00",
    Operation.ADVICE: "00",
    Operation.TRANSFER: "40",
}
_FROM_ACCOUNT = frozenset(
    {
        Operation.REDEEM,
        Operation.CASH_OUT,
        Operation.BALANCE,
        Operation.HOLD,
        Operation.ADVICE,
    }
)
_CLASSES = {Operation.BALANCE: "10", Operation.HOLD: "10", Operation.ADVICE: "22"}
"""Message class and function: requests of class 2 unless they stand here."""
_numbers = itertools.count(1)
_stans = itertools.count(1)


def next_transaction_id() -> str:
    return format_transaction_id(next(_numbers))


def processing_code(operation: Operation, purse: Purse = Purse.ECASH) -> str:
    if operation is Operation.TRANSFER:
        return f"{_TYPES[operation]}{purse:02d}{purse:02d}"
    if operation in _FROM_ACCOUNT:
        return f"{_TYPES[operation]}{purse:02d}00"
    return f"{_TYPES[operation]}00{purse:02d}"


def make_key(
    operation: Operation,
    stan: int,
    *,
    instant_s: int = NOW_S,
    purse: Purse = Purse.ECASH,
    terminal: Terminal = TILL,
    message_class: str | None = None,
) -> bytes:
    if message_class is None:
        message_class = _CLASSES.get(operation, "20")
    code = processing_code(operation, purse)
    parts = f"{terminal.terminal_id}|{terminal.merchant_id}|{code}|{message_class}|{stan:06d}"
    return request_key(instant_s, parts)


def make_request(
    operation: Operation,
    amount_minor: int = 0,
    *,
    stan: int | None = None,
    instant_s: int = NOW_S,
    purse: Purse = Purse.ECASH,
    terminal: Terminal = TILL,
    original: str = "",
    rrn: str = "",
    entry: Entry = Entry.READ,
    expiry: str | None = None,
    pvv: bytes | None = None,
    code_digest: bytes | None = None,
    partial_allowed: bool = False,
    all_purses: bool = False,
    card_digest: bytes = b"digest-of-77",
) -> CardRequest:
    """A request as the translation makes it; each call is a message of its own unless `stan` is."""
    stan = next(_stans) if stan is None else stan
    code = processing_code(operation, purse)
    own_request_key = b""
    if operation is Operation.ADVICE:
        own_request_key = make_key(
            Operation.REDEEM, stan, instant_s=instant_s, purse=purse, terminal=terminal
        )
    return CardRequest(
        operation=operation,
        key=make_key(operation, stan, instant_s=instant_s, purse=purse, terminal=terminal),
        fingerprint=content_fingerprint(f"{code}|{amount_minor}|978|None|None|{original}"),
        transaction_id=next_transaction_id(),
        rrn=rrn,
        card_digest=card_digest,
        terminal=terminal,
        purse=purse,
        all_purses=all_purses,
        amount_minor=amount_minor,
        amount_given=bool(amount_minor),
        entry=entry,
        expiry=expiry,
        pvv=pvv,
        code_digest=code_digest,
        partial_allowed=partial_allowed,
        original_transaction_id=original,
        own_request_key=own_request_key,
    )


def make_advice(
    amount_minor: int,
    *,
    hold: CardRequest | None = None,
    by: str = "tx",
    request: CardRequest | None = None,
    **changes: object,
) -> CardRequest:
    """0220: a sale decided at the terminal, or the completion of a hold.

    The hold is named by its `tx`, by its approval `code` or by its `key` (DE 90). `request` is the
    sale's own request, sent before under the same STAN.
    """
    made = ("terminal", "purse", "instant_s", "stan", "rrn")
    named = {name: changes.pop(name) for name in made if name in changes}
    if request is not None or hold is not None:
        like = request or hold
        named.setdefault("terminal", like.terminal)
        named.setdefault("purse", like.purse)
    advice = make_request(Operation.ADVICE, amount_minor, **named)
    if request is not None:
        changes.setdefault("own_request_key", request.key)
    if hold is not None and by == "tx":
        changes |= {"original_transaction_id": hold.transaction_id, "names_original": True}
    elif hold is not None and by == "code":
        changes["approval_code"] = hold.transaction_id[-6:]
    elif hold is not None:
        changes |= {"original_key": hold.key, "names_original": True}
    return msgspec.structs.replace(advice, **changes)


def make_expiry(version: int, *, round_number: int = 1) -> CardRequest:
    """What the sweeper asks for a hold; its keys carry no instant and are no terminal's."""
    return CardRequest(
        operation=Operation.HOLD_EXPIRY,
        key=request_key(0, f"sweeper|{version}|{round_number}"),
        fingerprint=content_fingerprint(f"expiry|{version}"),
        transaction_id=next_transaction_id(),
        rrn="",
        terminal=SWEEPER,
        hold_version=version,
    )


def make_outcome(
    original: CardRequest, *, bar_unknown: bool = False, stan: int | None = None
) -> CardRequest:
    """0600: what became of a message. Neither DE 4 nor the answer's state is part of it."""
    stan = next(_stans) if stan is None else stan
    instant_s = int.from_bytes(original.key[:4], "big")
    parts = f"outcome|{original.terminal.terminal_id}|{stan}|{original.purse}"
    return CardRequest(
        operation=Operation.OUTCOME,
        key=request_key(instant_s, parts),
        fingerprint=content_fingerprint(parts),
        transaction_id=next_transaction_id(),
        rrn="",
        terminal=original.terminal,
        purse=original.purse,
        amount_given=False,
        original_key=original.key,
        bar_unknown=bar_unknown,
        reverses_nothing=original.operation in (Operation.BALANCE, Operation.REVERSAL),
    )


def make_reversal(
    original: CardRequest,
    *,
    stan: int | None = None,
    amount_minor: int | None = None,
    reason: ReversalReason = ReversalReason.TIME_OUT,
    final_minor: int | None = None,
    message_class: str = "40",
) -> CardRequest:
    """The reversal of a request, with its DE 4 unless another is given (0: no DE 4)."""
    stan = next(_stans) if stan is None else stan
    amount_minor = original.amount_minor if amount_minor is None else amount_minor
    instant_s = int.from_bytes(original.key[:4], "big")
    of_reversal = original.operation is Operation.REVERSAL
    parts = f"reversal|{original.terminal.terminal_id}|{message_class}|{stan}|{original.purse}"
    return CardRequest(
        operation=Operation.REVERSAL,
        key=request_key(instant_s, parts),
        fingerprint=content_fingerprint(f"{amount_minor}|{final_minor}"),
        transaction_id=next_transaction_id(),
        rrn="",
        terminal=original.terminal,
        purse=original.purse,
        amount_minor=amount_minor,
        amount_given=bool(amount_minor),
        original_key=original.key,
        reverses_nothing=not of_reversal and original.operation is Operation.BALANCE,
        reason=reason,
        final_amount_minor=final_minor,
    )


def again(request: CardRequest, **changes: object) -> CardRequest:
    """The same message sent again: only the switch's own transaction id is another."""
    changes.setdefault("transaction_id", next_transaction_id())
    return msgspec.structs.replace(request, **changes)


def make_moment(now_s: int = NOW_S, *, batch_id: int = 1, year_month: str = YEAR_MONTH) -> Moment:
    return Moment(now_s, year_month, batch_id)


class Chain:
    """A card between batches: its encoded row and its journal, opened as the pipeline does it."""

    def __init__(
        self,
        state: CardState | None = None,
        facts: CardFacts | None = None,
        *,
        card_id: int = CARD_ID,
        policy: Policy = POLICY,
    ) -> None:
        self.card_id = card_id
        self.facts = msgspec.msgpack.encode(facts or make_facts())
        self.state = msgspec.msgpack.encode(state or make_state())
        self.window = b""
        self.journal: list[Link] = []
        self.keys_elsewhere: frozenset[bytes] = frozenset()
        self.policy = policy
        self.now_s = NOW_S
        self.year_month = YEAR_MONTH
        self.batches = 0
        self.history_reads = 0

    def open(self) -> WorkingCard:
        return WorkingCard(self.card_id, self.facts, self.state, self.window)

    def batch(self, *requests: CardRequest) -> list[Answer]:
        """Decide these requests as one batch, and commit it."""
        card = self.open()
        self._read_history(card, requests)
        self.batches += 1
        moment = Moment(self.now_s, self.year_month, self.batches)
        answers = [decide(request, card, moment, self.policy) for request in requests]
        if card.new:
            self.state = card.new[-1].state_after
        self.window = card.window.encode()
        self.journal += card.new
        return answers

    def send(self, request: CardRequest) -> Answer:
        """A batch of one."""
        return self.batch(request)[0]

    def _read_history(self, card: WorkingCard, requests: Iterable[CardRequest]) -> None:
        """Links by key, by transaction id, and all that undid something: no more than asked for."""
        asking = [request for request in requests if lacks_history(request, card)]
        if not asking:
            return
        self.history_reads += 1
        asked = [(r.key, r.original_key, r.own_request_key) for r in asking]
        keys = {key for several in asked for key in several if key}
        named = {r.original_transaction_id for r in asking if r.original_transaction_id}
        codes = {r.approval_code for r in asking if r.approval_code}
        undone = {link.undoes for link in self.journal if link.key in keys}
        for link in self.journal:
            tx = link.answer.transaction_id
            wanted = link.key in keys or link.undoes or link.version in undone
            if wanted or tx in named or tx[-6:] in codes:
                card.known[link.version] = msgspec.structs.replace(link, postings=())
        card.keys_elsewhere = self.keys_elsewhere & keys

    def clone(self) -> Chain:
        twin = Chain.__new__(Chain)
        twin.__dict__.update(self.__dict__, journal=list(self.journal))
        return twin

    @property
    def card_state(self) -> CardState:
        return msgspec.msgpack.decode(self.state, type=CardState)

    def hold_expires(self, seconds: int = 0) -> None:
        """Let so much time pass that a hold of now is over (with that many seconds more)."""
        self.now_s += self.policy.hold_s + seconds

    @property
    def held_minor(self) -> int:
        return self.card_state.ecash.held_minor

    @property
    def available_minor(self) -> int:
        return self.card_state.ecash.available_minor

    @property
    def status(self) -> CardStatus:
        return self.card_state.status

    @property
    def last(self) -> Link:
        return self.journal[-1]


def make_facts(
    *,
    expiry: str = "3012",
    pvv: bytes = PVV,
    code_digest: bytes = CODE_DIGEST,
    face_value_minor: int = 0,
) -> CardFacts:
    return CardFacts(1, "978", expiry, pvv, code_digest, face_value_minor)


def make_state(
    status: CardStatus = CardStatus.ACTIVE,
    available_minor: int = 10_000,
    *,
    lots: list[Lot] | None = None,
    purse: Purse = Purse.ECASH,
) -> CardState:
    """A card without links, worth what its lots hold (one paid lot unless others are given)."""
    state = CardState.new()
    state.status = status
    if lots is None:
        lots = [Lot(1, available_minor)] if available_minor else []
    held = PurseState(sum(lot.available_minor for lot in lots), 0, lots)
    if purse is Purse.ECASH:
        state.ecash = held
    elif purse is Purse.VOUCHER:
        state.voucher = held
    else:
        state.points = held
    state.lots_made = max((lot.lot_id for lot in lots), default=0)
    state.ends_from = state.first_end()
    return state


def make_chain(
    status: CardStatus = CardStatus.ACTIVE,
    available_minor: int = 10_000,
    *,
    lots: list[Lot] | None = None,
    purse: Purse = Purse.ECASH,
    facts: CardFacts | None = None,
    policy: Policy = POLICY,
) -> Chain:
    state = make_state(status, available_minor, lots=lots, purse=purse)
    return Chain(state, facts, policy=policy)


def make_card(status: CardStatus = CardStatus.ACTIVE, available_minor: int = 10_000) -> WorkingCard:
    return make_chain(status, available_minor).open()


def card_effect_minor(link: Link) -> int:
    """What a link's postings bring to its card, less what they take from it."""
    effect_minor = 0
    for posting in link.postings:
        if (posting.credit_kind, posting.credit_id) == (AccountKind.CARD, link.card_id):
            effect_minor += posting.amount_minor
        if (posting.debit_kind, posting.debit_id) == (AccountKind.CARD, link.card_id):
            effect_minor -= posting.amount_minor
    return effect_minor


def account_minor(links: Iterable[Link], kind: AccountKind, account_id: int) -> int:
    """An account's balance over these links: credits less debits."""
    total_minor = 0
    for link in links:
        for posting in link.postings:
            if (posting.credit_kind, posting.credit_id) == (kind, account_id):
                total_minor += posting.amount_minor
            if (posting.debit_kind, posting.debit_id) == (kind, account_id):
                total_minor -= posting.amount_minor
    return total_minor
