"""The demo programme: terminals and cards whose secrets all come from one seed.

For trying things out and for checks from outside. Its secrets are written to demo.json; a
production programme has none of them.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fastpath.mac import MacAlgorithm
from rules.cards import CardStatus
from switch.keys import derive

__all__ = [
    "CURRENCY",
    "MERCHANTS",
    "PROGRAMME_ID",
    "PROMOTIONS_ID",
    "PROMO_DAYS",
    "SPONSOR_ID",
    "DemoCard",
    "Seed",
    "cards",
    "describe",
    "load_seed",
    "terminals",
]

CURRENCY = "978"
ISSUER_PREFIX = "950000"
ACTIVE_BALANCE_MINOR = 10_000
FACE_VALUE_MINOR = 2_500
ISSUED_CARDS = 1_000
VALID_YEARS = 4
FLOOR_LIMIT_MINOR = 5_000
PROGRAMME_ID = 1
PROMOTIONS_ID = 2
"""A second, small programme that shows what the first one has none of."""
SPONSOR_ID = 1
PROMO_BALANCE_MINOR = 1_000
PROMO_DAYS = 30
_PROMOTION_CARDS, _LIMITED_CARDS, _IDLE_CARDS = 14, 2, 4
_IDLE_DAYS = 430
MERCHANTS = ("000000000000001", "000000000000002")
_POS_TERMINALS = 16
_NETWORK_TERMINALS = 4


class Seed(msgspec.Struct, frozen=True):
    """All the demo programme follows from."""

    secret: str
    active_cards: int
    issued_on: str
    """The day the programme was made, ISO 8601."""
    issued_cards: int = ISSUED_CARDS

    @property
    def secret_bytes(self) -> bytes:
        """The secret as key material."""
        return bytes.fromhex(self.secret)

    @property
    def issued_day(self) -> datetime.date:
        """The day the programme was made."""
        return datetime.date.fromisoformat(self.issued_on)


class DemoCard(msgspec.Struct, frozen=True, gc=False):
    """A card as its holder and its issuer know it."""

    card_id: int
    pan: str
    expiry: str
    cv: str
    pin: str
    status: CardStatus
    balance_minor: int
    face_value_minor: int
    programme_id: int = PROGRAMME_ID
    promo_minor: int = 0
    """What of the balance the sponsor has given; it ends 30 days after the issue."""
    limit_class: int = 0
    idle_days: int = 0
    """For how long nobody has used it when it is issued."""


def load_seed(data_dir: Path, active_cards: int, issued_cards: int) -> Seed:
    """The data directory's seed; made when there is none yet, with today's date."""
    path = data_dir / "demo-seed.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Seed)
    today = datetime.datetime.now(datetime.UTC).date()
    seed = Seed(secrets.token_hex(32), active_cards, today.isoformat(), issued_cards)
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(seed))
    return seed


def cards(seed: Seed) -> Iterator[DemoCard]:
    """All cards: active ones, issued ones, one lost, one stolen, one expired; then promotions."""
    issued = seed.issued_day
    good = f"{(issued.year + VALID_YEARS) % 100:02d}{issued.month:02d}"
    past = f"{(issued.year - 1) % 100:02d}{issued.month:02d}"
    kinds: list[tuple[int, CardStatus, str]] = [
        (seed.active_cards, CardStatus.ACTIVE, good),
        (seed.issued_cards, CardStatus.ISSUED, good),
        (1, CardStatus.LOST, good),
        (1, CardStatus.STOLEN, good),
        (1, CardStatus.EXPIRED, past),
    ]
    card_id = 0
    for count, status, expiry in kinds:
        for _ in range(count):
            card_id += 1
            unissued = status is CardStatus.ISSUED
            yield _card(seed, card_id, status, expiry, worth=not unissued)
    for count, limit_class, idle_days in (
        (_PROMOTION_CARDS, 0, 0),
        (_LIMITED_CARDS, 1, 0),
        (_IDLE_CARDS, 0, _IDLE_DAYS),
    ):
        for _ in range(count):
            card_id += 1
            yield msgspec.structs.replace(
                _card(seed, card_id, CardStatus.ACTIVE, good, worth=True),
                programme_id=PROMOTIONS_ID,
                promo_minor=PROMO_BALANCE_MINOR,
                limit_class=limit_class,
                idle_days=idle_days,
            )


def _card(seed: Seed, card_id: int, status: CardStatus, expiry: str, *, worth: bool) -> DemoCard:
    number = int.from_bytes(derive(seed.secret_bytes, f"card {card_id}", 16), "big")
    number, account = divmod(number, 10**12)
    number, cv = divmod(number, 10**4)
    pan = ISSUER_PREFIX + f"{account:012d}"
    return DemoCard(
        card_id,
        pan + _luhn_digit(pan),
        expiry,
        f"{cv:04d}",
        f"{number % 10**4:04d}",
        status,
        ACTIVE_BALANCE_MINOR if worth else 0,
        0 if worth else FACE_VALUE_MINOR,
    )


def _luhn_digit(digits: str) -> str:
    """The check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if at % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


class DemoTerminal(msgspec.Struct, frozen=True):
    """A terminal with its keys in the clear, as demo.json shows it."""

    id: str
    merchant: str
    link: str | None
    mac: str
    mac_key: str
    pin_key: str
    pin_format: int
    kek: str
    key_version: int
    floor_limit: int
    utc_offset_min: int
    programme: bool = False


def terminals(seed: Seed) -> list[DemoTerminal]:
    """16 at the till and 4 behind the network; both MAC algorithms, two merchants.

    Then one of the programme's own, behind the network.
    """
    made = []
    last = _POS_TERMINALS + _NETWORK_TERMINALS + 1
    for number in range(1, last + 1):
        aes = number % 2 == 1
        code = f"{number:08d}"

        def key(usage: str, *, parity: bool, code: str = code) -> str:
            label = f"terminal {code} {usage}"
            return derive(seed.secret_bytes, label, 16, odd_parity=parity).hex().upper()

        made.append(
            DemoTerminal(
                id=code,
                merchant=MERCHANTS[(number - 1) // 2 % 2],
                link=None if number <= _POS_TERMINALS else "network",
                mac=(MacAlgorithm.AES_CMAC if aes else MacAlgorithm.RETAIL).value,
                mac_key=key("mac", parity=not aes),
                pin_key=key("pin", parity=True),
                pin_format=0,
                kek=key("kek", parity=not aes),
                key_version=1,
                floor_limit=FLOOR_LIMIT_MINOR,
                utc_offset_min=0,
                programme=number == last,
            )
        )
    return made


def describe(seed: Seed) -> dict[str, object]:
    """The programme's part of demo.json."""
    return {
        "currency": CURRENCY,
        "terminals": [_describe_terminal(terminal) for terminal in terminals(seed)],
        "cards": [_describe_card(card) for card in cards(seed)],
        "users": [],
    }


def _describe_terminal(terminal: DemoTerminal) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(terminal)
    if not shown.pop("programme"):
        return shown
    return shown | {"programme": True}


def _describe_card(card: DemoCard) -> dict[str, object]:
    shown: dict[str, object] = {
        "pan": card.pan,
        "expiry": card.expiry,
        "cv": card.cv,
        "pin": card.pin,
        "track2": f"{card.pan}={card.expiry}101{card.cv}",
        "status": card.status.name.lower(),
        "balance": card.balance_minor,
    }
    if card.face_value_minor:
        shown["face_value"] = card.face_value_minor
    if card.programme_id != PROGRAMME_ID:
        shown |= {"programme": "Demo Promotions", "promo": card.promo_minor}
        shown |= {"limit_class": card.limit_class, "idle_days": card.idle_days}
    return shown
