"""A card: its facts, its state, and the working copy that a batch's decisions are taken on."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from rules.ledger import Link
from rules.lots import Lot, LotMove
from rules.money import Purse, additional_amounts
from rules.window import Window

__all__ = [
    "CardFacts",
    "CardState",
    "CardStatus",
    "DayTotals",
    "HistoryMissing",
    "Hold",
    "PurseState",
    "WorkingCard",
]


_ECASH = Purse.ECASH  # Python 3.11 looks a member up in 140 ns, each time


class CardStatus(enum.IntEnum):
    """What a card may be. The numbers are stored."""

    ISSUED = 1
    UNLOCKED = 2
    ACTIVE = 3
    BLOCKED = 4
    LOST = 5
    STOLEN = 6
    FROZEN = 7
    EXPIRED = 8
    CLOSED = 9


class CardFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What does not change while a card lives."""

    programme_id: int
    currency: str
    """ISO 4217 numeric code of its e-cash and voucher purses."""
    expiry: str
    """YYMM, the last month of validity."""
    pvv: bytes = b""
    """PIN verification value; empty for a card without a PIN."""
    code_digest: bytes = b""
    """Keyed digest of the card verification code; empty for a card without one."""
    face_value_minor: int = 0
    """What a pre-valued card is worth when it is activated; 0 for a card without a face value."""
    limit_class: int = 0
    """Which of its programme's limits are its own; 0 for those of all cards."""


class PurseState(msgspec.Struct, array_like=True, gc=False):
    """One purse: the sums, and the lots that make them up."""

    available_minor: int = 0
    held_minor: int = 0
    lots: list[Lot] = []


class DayTotals(msgspec.Struct, array_like=True, gc=False):
    """What was spent on one of the programme's days, where it is limited."""

    day: int
    """Since 1970-01-01."""
    from_version: int
    """The card's version when it began to be counted: later links are of that day."""
    ecash_minor: int = 0
    ecash_count: int = 0
    voucher_minor: int = 0
    voucher_count: int = 0

    def of(self, purse: Purse) -> tuple[int, int]:
        """Amount and number. Points are not counted."""
        if purse is Purse.ECASH:
            return self.ecash_minor, self.ecash_count
        return (self.voucher_minor, self.voucher_count) if purse is Purse.VOUCHER else (0, 0)

    def add(self, purse: Purse, amount_minor: int, times: int) -> None:
        """Count more, or less (below 0), never below zero."""
        if purse is Purse.ECASH:
            self.ecash_minor = max(self.ecash_minor + amount_minor, 0)
            self.ecash_count = max(self.ecash_count + times, 0)
        elif purse is Purse.VOUCHER:
            self.voucher_minor = max(self.voucher_minor + amount_minor, 0)
            self.voucher_count = max(self.voucher_count + times, 0)


class Hold(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An open hold: value set aside for one merchant, pinned to its lots."""

    version: int
    """The link that made it."""
    purse: Purse
    amount_minor: int
    expires_s: int
    """UTC seconds; from then on the sweeper gives it back."""
    pinned: tuple[LotMove, ...]


class CardState(msgspec.Struct, array_like=True, gc=False):
    """All that changes on a card. Its encoded form travels through Redis and is in every link."""

    version: int
    batch_id: int
    """The batch that wrote this version."""
    status: CardStatus
    ecash: PurseState
    voucher: PurseState
    points: PurseState
    pin_tries: int = 0
    """Wrong PINs since the last right one."""
    code_tries: int = 0
    lots_made: int = 0
    status_before_block: CardStatus = CardStatus.ACTIVE
    holds: list[Hold] = []
    ends_from: int = 0
    """No lot of it ends before this day (since 1970-01-01); 0 where none ever does."""
    spent: DayTotals | None = None
    """Of the last day on which it was spent from; None where no day is limited."""
    last_active_day: int = 0
    """The UTC day on which the card was last used; 0 for unknown."""
    fee_month: int = 0
    """The latest month (`month_of`) for which a fee was taken from the dormant card."""
    status_before_freeze: CardStatus = CardStatus.ACTIVE

    @staticmethod
    def new() -> CardState:
        """The state before a card's first link."""
        return CardState(0, 0, CardStatus.ISSUED, PurseState(), PurseState(), PurseState())

    def freeze(self) -> None:
        """Bar a card that is active, or could become it, until people have looked at it.

        What bars it more stays.
        """
        if self.status is CardStatus.BLOCKED:
            if self.status_before_block is not CardStatus.FROZEN:
                self.status_before_freeze = self.status_before_block
            self.status_before_block = CardStatus.FROZEN
        elif self.status in (CardStatus.ISSUED, CardStatus.UNLOCKED, CardStatus.ACTIVE):
            self.status_before_freeze = self.status
            self.status = CardStatus.FROZEN

    def note_end(self, last_day: int) -> None:
        """A lot with this last day is there now."""
        if not 0 < self.ends_from <= last_day:
            self.ends_from = last_day

    def first_end(self) -> int:
        """The first last day of its lots; 0 where none ends."""
        lots = (*self.ecash.lots, *self.voucher.lots, *self.points.lots)
        return min((lot.expires_day for lot in lots if lot.expires_day), default=0)

    def purse(self, purse: Purse) -> PurseState:
        """The purse that an account type of DE 3 names."""
        if purse is _ECASH:
            return self.ecash
        return self.voucher if purse is Purse.VOUCHER else self.points


_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(CardState).decode
_decode_facts = msgspec.msgpack.Decoder(CardFacts).decode


class HistoryMissing(LookupError):
    """A link that the card's window names could not be read from the journal."""


class WorkingCard:
    """A card in the hands of one batch: decisions change it in order, the commit makes it so.

    `known` are links read from the journal (by key, by transaction id, and all that undid
    something), with the links of this batch added as they are made.
    """

    __slots__ = (
        "archived_version",
        "base_batch_id",
        "base_version",
        "card_id",
        "encoded_facts",
        "encoded_state",
        "facts",
        "keys_elsewhere",
        "known",
        "new",
        "state",
        "window",
    )

    def __init__(self, card_id: int, facts: bytes, state: bytes, window: bytes) -> None:
        """Open a card's encoded parts. msgspec.DecodeError where they are damaged."""
        self.card_id = card_id
        self.encoded_facts = facts
        self.encoded_state = state
        self.facts = _decode_facts(facts)
        self.state = _decode_state(state)
        self.window = Window(window)
        self.base_version = self.state.version
        self.base_batch_id = self.state.batch_id
        self.known: dict[int, Link] = {}
        self.keys_elsewhere: frozenset[bytes] = frozenset()
        """Keys asked for that the journal holds under another card."""
        self.archived_version = 0
        """Links up to this one are archived, where that had to be asked for."""
        self.new: list[Link] = []

    def append(self, link: Link, batch_id: int) -> None:
        """Take a new link into the chain: the state gets its version, the link the state after."""
        state = self.state
        state.version = link.version
        state.batch_id = batch_id
        link.status_after = state.status
        purse = state.purse(link.purse)
        link.available_after_minor = purse.available_minor
        link.held_after_minor = purse.held_minor
        link.state_after = _encode_state(state)
        self.window.add(link.key, link.version)
        self.known[link.version] = link
        self.new.append(link)

    def find(self, key: bytes) -> Link | None:
        """The link made for a key, as far as the window and what was read of the journal know.

        HistoryMissing when the window points to a link that was not read: deciding without it
        could do a thing twice.
        """
        version = self.window.find(key)
        if version is not None:
            if version not in self.known:
                raise HistoryMissing(self.card_id, version)
            return self.known[version]
        for link in reversed(self.known.values()):
            if link.key == key:
                return link
        return None

    def lacks_link(self, keys: Iterable[bytes]) -> bool:
        """Whether the window points one of these keys to a link that has not been read."""
        versions = map(self.window.find, keys)
        return any(version is not None and version not in self.known for version in versions)

    def is_archived(self, key: bytes) -> bool:
        """Whether the link made for a key is one of those that are archived."""
        version = self.window.find(key) if key and self.archived_version else None
        return (
            version is not None and version <= self.archived_version and version not in self.known
        )

    def find_transaction(self, transaction_id: str) -> Link | None:
        """The link that answered with this `TX`."""
        for link in self.known.values():
            if link.answer.transaction_id == transaction_id:
                return link
        return None

    def undoers(self, version: int) -> list[Link]:
        """The approved links that undid the link of this version."""
        return [link for link in self.known.values() if link.undoes == version and link.approved]

    def balances(self, purse: Purse, today: int = 0) -> str:
        """DE 54 for one purse (`additional_amounts`).

        `today`: without the lots whose last day was before it, where these still are on the card.
        """
        held = self.state.purse(purse)
        currency = purse.currency(self.facts.currency)
        available_minor = held.available_minor
        if 0 < self.state.ends_from < today:
            over = [lot.available_minor for lot in held.lots if lot.is_over(today)]
            available_minor -= sum(over)
        ledger_minor = available_minor + held.held_minor
        return additional_amounts(purse, currency, ledger_minor, available_minor)
