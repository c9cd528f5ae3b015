"""What a terminal sends and what it gets: requests of every operation, and replies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from . import dialect
from .dialect import Amounts
from .vocabulary import Card, Entry, HoldName, Identity, NetworkCode, Processing, Reason, Seal

if TYPE_CHECKING:
    from .till_totals import TillTotals

__all__ = [
    "Card",
    "Entry",
    "HoldName",
    "Identity",
    "NetworkCode",
    "Processing",
    "Reason",
    "Reply",
    "Request",
    "RequestBuilder",
    "Seal",
]


@dataclass(frozen=True)
class Request:
    """A message ready to send. `fields` are all but the MAC; `frame` has no length prefix."""

    mti: str
    fields: Mapping[int, str]
    frame: bytes
    card: Card | None = None

    @property
    def reply_key(self) -> tuple[str, str | None, str | None]:
        """What finds its reply among others: reply MTI, DE 11, DE 41."""
        return dialect.reply_mti(self.mti), self.fields.get(11), self.fields.get(41)

    def __repr__(self) -> str:
        return f"Request({self.mti}, DE {sorted(self.fields)})"


@dataclass(frozen=True)
class Reply:
    """An answer. `mac_ok`: True or False where a MAC was there, None where none was."""

    mti: str
    fields: Mapping[int, str]
    private: Mapping[str, str]
    mac_ok: bool | None
    frame: bytes
    request: Request | None = None

    @property
    def code(self) -> str:
        """DE 39."""
        return self.fields.get(39, "")

    @property
    def approved(self) -> bool:
        return self.code in {"00", "10"}

    @property
    def tx(self) -> str:
        return self.private.get("TX", "")

    @property
    def state(self) -> str:
        """Tag RS, the state of a reversal."""
        return self.private.get("RS", "")

    @property
    def why(self) -> str:
        """Tag WY, the rule that spoke."""
        return self.private.get("WY", "")

    @property
    def original_code(self) -> str:
        """Tag OC, what an outcome query's original had been answered."""
        return self.private.get("OC", "")

    @property
    def original_state(self) -> str:
        """Tag OS, the state in which an outcome query finds its original."""
        return self.private.get("OS", "")

    @property
    def amount_minor(self) -> int:
        return int(self.fields[4])

    @property
    def purses(self) -> dict[str, Amounts]:
        """DE 54 by account type; empty where there is none."""
        return dialect.additional_amounts(self.fields[54]) if 54 in self.fields else {}

    @property
    def available_minor(self) -> int:
        """Available value of the e-cash purse as DE 54 has it."""
        return self.purses["60"].available_minor

    def same_answer(self) -> dict[str, Any]:
        """What a repeat must bring back unchanged."""
        return {
            "mti": self.mti,
            **{f"DE {number}": self.fields.get(number) for number in (4, 37, 38, 39, 54)},
            "DE 48": dict(self.private),
        }

    def __repr__(self) -> str:
        tags = {name: self.private[name] for name in ("TX", "RS", "WY") if name in self.private}
        return f"Reply({self.mti}, DE 39 = {self.code!r}, DE {sorted(self.fields)}, {tags})"


# STANs go on over all connections of one terminal: a till does not begin anew with each call.
_STANS: dict[str, itertools.count[int]] = {}
_LAST_STAN = 999_999


class RequestBuilder:
    """Builds and seals the requests of one terminal.

    Every verb takes changes by keyword: `de49="840"` sets a data element, `de4=None` takes it
    out, `CV="1234"` sets a tag of DE 48 (None takes it out), `pin="1234"` adds the PIN block,
    `at=` gives the local time for DE 12 and 13, `seal=` spoils the MAC.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def next_stan(self) -> str:
        counter = _STANS.setdefault(self.identity.terminal, itertools.count(1))
        return f"{(next(counter) - 1) % _LAST_STAN + 1:06d}"

    def local_time(self) -> datetime:
        return datetime.now(UTC) + timedelta(minutes=self.identity.utc_offset_min)

    # -- the operations ---------------------------------------------------------------------

    def unlock(self, card: Card, **changes: Any) -> Request:
        return self._card("0200", Processing.UNLOCK, card, None, changes)

    def activate(self, card: Card, amount_minor: int, **changes: Any) -> Request:
        return self._card("0200", Processing.ACTIVATE, card, amount_minor, changes)

    def activate_prevalued(self, card: Card, **changes: Any) -> Request:
        return self._card("0200", Processing.ACTIVATE_PREVALUED, card, None, changes)

    def load(self, card: Card, amount_minor: int, **changes: Any) -> Request:
        return self._card("0200", Processing.LOAD, card, amount_minor, changes)

    def redeem(self, card: Card, amount_minor: int, **changes: Any) -> Request:
        return self._card("0200", Processing.REDEEM, card, amount_minor, changes)

    def refund(
        self, card: Card, amount_minor: int, sale: Reply | None = None, **changes: Any
    ) -> Request:
        named = {} if sale is None else {"OR": sale.tx}
        return self._card("0200", Processing.REFUND, card, amount_minor, {**named, **changes})

    def cash_out(self, card: Card, **changes: Any) -> Request:
        return self._card("0200", Processing.CASH_OUT, card, None, changes)

    def transfer(self, card: Card, to_card: Card, amount_minor: int, **changes: Any) -> Request:
        """Card to card; the reversal names the receiver only where it is told to (`de103`)."""
        named = {"de103": to_card.pan, **changes}
        return self._card("0200", Processing.TRANSFER, card, amount_minor, named)

    def balance(
        self, card: Card, processing: Processing = Processing.BALANCE, **changes: Any
    ) -> Request:
        return self._card("0100", processing, card, None, changes)

    def hold(self, card: Card, amount_minor: int, **changes: Any) -> Request:
        return self._card("0100", Processing.REDEEM, card, amount_minor, changes)

    def complete(
        self,
        hold: Request | Reply,
        amount_minor: int,
        by: HoldName = HoldName.TRANSACTION,
        **changes: Any,
    ) -> Request:
        """The advice that ends a hold. `TRANSACTION` and `APPROVAL_CODE` need the hold's reply."""
        first = _request_of(hold)
        assert first.card is not None
        named: dict[str, Any] = {f"de{number}": first.fields[number] for number in (3, 49)}
        if by is HoldName.ORIGINAL_DATA:
            named |= {"de90": _original_data(first)}
            named |= {f"de{number}": first.fields[number] for number in (12, 13)}
        else:
            assert isinstance(hold, Reply)
            by_code = by is HoldName.APPROVAL_CODE
            named |= {"de38": hold.fields[38]} if by_code else {"OR": hold.tx}
        return self.advise(first.card, amount_minor, **{**named, **changes})

    def advise(self, card: Card, amount_minor: int, **changes: Any) -> Request:
        """A sale that was decided at the terminal."""
        return self._card("0220", Processing.REDEEM, card, amount_minor, changes)

    def advise_instead(self, original: Request | Reply, **changes: Any) -> Request:
        """The sale of a 0200, told once more as an advice: the same STAN and local time."""
        first = _request_of(original)
        fields = {**first.fields, 7: self._transmission_time()}
        fields.pop(48, None)
        return self.build("0220", fields, {}, changes, first.card)

    def outcome(
        self, original: Request | Reply, *, bar_unknown: bool = False, **changes: Any
    ) -> Request:
        """Asks what became of `original`, and bars it (`TB`) where nobody knows it."""
        first = _request_of(original)
        fields = self._named_as(first)
        return self.build("0600", fields, {"TB": "1"} if bar_unknown else {}, changes, first.card)

    def last_outcome(self, card: Card | None = None, **changes: Any) -> Request:
        """Asks for the terminal's last transaction (on this card)."""
        fields = self._origin(changes)
        if card is not None:
            fields[2] = card.pan
        return self.build("0600", fields, {}, changes, card)

    def reconcile(
        self, totals: TillTotals, number: str | None = None, *, mti: str = "0500", **changes: Any
    ) -> Request:
        """Closes a batch: the terminal's totals and the number of the batch."""
        day = f"{self.local_time():%m%d}"
        fields = {**self._origin(changes), 15: day, 50: "978", **totals.fields()}
        return self.build(mti, fields, {} if number is None else {"BN": number}, changes, None)

    def upload(self, item: Request | Reply, **changes: Any) -> Request:
        """An item of a batch whose totals differ."""
        first = _request_of(item)
        return self.build("0320", self._named_as(first), {}, changes, first.card)

    def cut_over(self, day: str, **changes: Any) -> Request:
        """The link's business date moves on to this day, MMDD."""
        return self.network(NetworkCode.CUT_OVER, **{"de15": day, **changes})

    def deactivate(self, card: Card, **changes: Any) -> Request:
        return self._card("0200", Processing.DEACTIVATE, card, None, changes)

    def block(self, card: Card, **changes: Any) -> Request:
        return self._card("0200", Processing.BLOCK, card, None, changes)

    def unblock(self, card: Card, **changes: Any) -> Request:
        return self._card("0200", Processing.UNBLOCK, card, None, changes)

    def reverse(
        self,
        original: Request | Reply,
        reason: Reason | None = None,
        *,
        mti: str = "0400",
        final_minor: int | None = None,
        **changes: Any,
    ) -> Request:
        """Undoes `original`, wholly or down to `final_minor`. No reason: none sent (time-out)."""
        first = _request_of(original)
        fields = self._named_as(first)
        if final_minor is not None:
            fields[95] = f"{final_minor:012d}{0:012d}" + "C00000000" * 2
        tags = {} if reason is None else {"RE": str(reason)}
        return self.build(mti, fields, tags, changes, first.card)

    def repeat(self, original: Request | Reply, *, flagged: bool = True, **changes: Any) -> Request:
        """The same message sent again: new DE 7, and the repeat's MTI where `flagged`."""
        first = _request_of(original)
        mti = first.mti[:3] + "1" if flagged else first.mti
        fields = {**first.fields, 7: self._transmission_time()}
        tags = dialect.parse_private(fields.pop(48)) if 48 in fields else {}
        return self.build(mti, fields, tags, changes, first.card)

    def network(self, code: NetworkCode, **changes: Any) -> Request:
        fields = {**self._origin({}), 70: str(code)}
        return self.build("0800", fields, {}, changes, None)

    # -- building ---------------------------------------------------------------------------

    def build(
        self,
        mti: str,
        fields: Mapping[int, str],
        tags: Mapping[str, str],
        changes: Mapping[str, Any],
        card: Card | None,
    ) -> Request:
        """Applies the changes, packs and seals."""
        final = dict(fields)
        private: dict[str, str | None] = dict(tags)
        seal = Seal.RIGHT
        for name, value in changes.items():
            if name == "seal":
                seal = value
            elif name == "pin":
                assert card is not None
                final[52] = dialect.pin_block(value, card.pan, self.identity.pin_key)
            elif name == "at":
                pass  # `_origin` has used it
            elif name.startswith("de") and name[2:].isdigit():
                if value is None:
                    final.pop(int(name[2:]), None)
                else:
                    final[int(name[2:])] = str(value)
            elif len(name) == 2 and name.isupper():
                private[name] = value
            else:
                raise TypeError(f"unknown change {name!r}")
        if "de48" not in changes:
            final.pop(48, None)
            pairs = [(name, str(value)) for name, value in private.items() if value is not None]
            if pairs:
                final[48] = dialect.build_private(pairs)
        return Request(mti, final, self._sealed(mti, final, seal), card)

    def _card(
        self,
        mti: str,
        processing: Processing,
        card: Card,
        amount_minor: int | None,
        changes: Mapping[str, Any],
    ) -> Request:
        fields = {
            2: card.pan,
            3: str(processing),
            **self._origin(changes),
            14: card.expiry,
            22: str(Entry.BARCODE),
            49: "978",
        }
        if amount_minor is not None:
            fields[4] = f"{amount_minor:012d}"
        return self.build(mti, fields, {}, changes, card)

    def _named_as(self, original: Request) -> dict[int, str]:
        """The fields of a message that names its original: what both share, and DE 90."""
        kept = (2, 3, 4, 12, 13, 22, 35, 41, 42, 49)
        fields = {number: original.fields[number] for number in kept if number in original.fields}
        fields[7] = self._transmission_time()
        fields[11] = self.next_stan()
        fields[90] = _original_data(original)
        return fields

    def _origin(self, changes: Mapping[str, Any]) -> dict[int, str]:
        local: datetime = changes.get("at") or self.local_time()
        return {
            7: self._transmission_time(),
            11: self.next_stan(),
            12: f"{local:%H%M%S}",
            13: f"{local:%m%d}",
            41: self.identity.terminal,
            42: self.identity.merchant,
        }

    @staticmethod
    def _transmission_time() -> str:
        return f"{datetime.now(UTC):%m%d%H%M%S}"

    def _mac(self, head: bytes) -> bytes:
        return dialect.mac(self.identity.mac_kind, self.identity.mac_key, head)

    def _sealed(self, mti: str, fields: Mapping[int, str], seal: Seal) -> bytes:
        packager = self.identity.packager
        if seal is Seal.ABSENT:
            return dialect.pack(packager, mti, fields)
        head = dialect.unsealed(packager, mti, fields)
        code = self._mac(head)
        if seal is Seal.FLIPPED_IN_MAC:
            code = bytes([code[0] ^ 1]) + code[1:]
        elif seal is Seal.OTHER_KEY:
            other = bytes(byte ^ 0x10 for byte in self.identity.mac_key)
            code = dialect.mac(self.identity.mac_kind, other, head)
        elif seal is Seal.FLIPPED_IN_MESSAGE:
            # The code is right for another STAN: the message stays well formed.
            wrong = {**fields, 11: f"{(int(fields[11]) + 1) % 1_000_000:06d}"}
            code = self._mac(dialect.unsealed(packager, mti, wrong))
        return dialect.seal(packager, head, code)


def _original_data(original: Request) -> str:
    """DE 90: MTI, STAN and DE 7 of the original, no institutions."""
    return original.mti + original.fields[11] + original.fields[7] + "0" * 22


def _request_of(original: Request | Reply) -> Request:
    if isinstance(original, Request):
        return original
    assert original.request is not None
    return original.request
