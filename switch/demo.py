"""The demo programme: terminals and cards whose secrets all come from one seed.

For trying things out and for checks from outside. Its secrets are written to demo.json; a
production programme has none of them.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from fastpath.mac import MacAlgorithm
from fastpath.tokens import TokenKey
from rules.cards import CardState, CardStatus, PurseState
from rules.identity import (
    content_fingerprint,
    format_transaction_id,
    request_key,
    suspense_card_id,
)
from rules.ledger import AccountKind, Answer, Link, Posting
from rules.lots import Lot, LotMove, Origin
from rules.requests import Operation
from rules.responses import Response
from rules.window import Window
from switch.journal.bridge import Connection
from switch.journal.rows import link_body
from switch.keyblock import KeyAlgorithm
from switch.keys import CardSecrets, KeyUsage, MasterKey, derive

__all__ = ["Seed", "create", "describe", "load_seed"]

CURRENCY = "978"
ISSUER_PREFIX = "950000"
ACTIVE_BALANCE_MINOR = 10_000
FACE_VALUE_MINOR = 2_500
ISSUED_CARDS = 1_000
VALID_YEARS = 4
FLOOR_LIMIT_MINOR = 5_000
_PROGRAMME_ID = 1
_MERCHANTS = ("000000000000001", "000000000000002")
_POS_TERMINALS = 16
_NETWORK_TERMINALS = 4
_CARDS_PER_COPY = 10_000


_STATE_COLUMNS = (
    *("card_id", "version", "batch_id", "status", "ecash_available", "ecash_held"),
    *("voucher_available", "voucher_held", "points_available", "points_held"),
    *("state", "request_window"),
)


class Seed(msgspec.Struct, frozen=True):
    """All the demo programme follows from."""

    secret: str
    active_cards: int
    issued_on: str
    """The day the programme was made, ISO 8601."""

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


def load_seed(data_dir: Path, active_cards: int) -> Seed:
    """The data directory's seed; made when there is none yet, with today's date."""
    path = data_dir / "demo-seed.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Seed)
    today = datetime.datetime.now(datetime.UTC).date()
    seed = Seed(secrets.token_hex(32), active_cards, today.isoformat())
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(seed))
    return seed


def cards(seed: Seed) -> Iterator[DemoCard]:
    """All cards: active ones, issued ones, then one lost, one stolen, one expired."""
    issued = seed.issued_day
    good = f"{(issued.year + VALID_YEARS) % 100:02d}{issued.month:02d}"
    past = f"{(issued.year - 1) % 100:02d}{issued.month:02d}"
    kinds: list[tuple[int, CardStatus, str]] = [
        (seed.active_cards, CardStatus.ACTIVE, good),
        (ISSUED_CARDS, CardStatus.ISSUED, good),
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


def terminals(seed: Seed) -> list[DemoTerminal]:
    """16 at the till and 4 behind the network; both MAC algorithms, two merchants."""
    made = []
    for number in range(1, _POS_TERMINALS + _NETWORK_TERMINALS + 1):
        aes = number % 2 == 1
        code = f"{number:08d}"

        def key(usage: str, *, parity: bool, code: str = code) -> str:
            label = f"terminal {code} {usage}"
            return derive(seed.secret_bytes, label, 16, odd_parity=parity).hex().upper()

        made.append(
            DemoTerminal(
                id=code,
                merchant=_MERCHANTS[(number - 1) // 2 % 2],
                link=None if number <= _POS_TERMINALS else "network",
                mac=(MacAlgorithm.AES_CMAC if aes else MacAlgorithm.RETAIL).value,
                mac_key=key("mac", parity=not aes),
                pin_key=key("pin", parity=True),
                pin_format=0,
                kek=key("kek", parity=not aes),
                key_version=1,
                floor_limit=FLOOR_LIMIT_MINOR,
                utc_offset_min=0,
            )
        )
    return made


def describe(seed: Seed) -> dict[str, object]:
    """The programme's part of demo.json."""
    return {
        "currency": CURRENCY,
        "terminals": [msgspec.to_builtins(terminal) for terminal in terminals(seed)],
        "cards": [_describe_card(card) for card in cards(seed)],
        "users": [],
    }


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
    return shown


async def create(connection: Connection, seed: Seed, master_key: MasterKey) -> None:
    """Write the whole programme into an empty database, all of it or nothing."""
    await connection.script("begin")
    try:
        await _create_parties(connection, seed, master_key)
        await _create_cards(connection, seed)
    except BaseException:
        await connection.script("rollback")
        raise
    await connection.script("commit")


def _programme_keys(seed: Seed) -> dict[str, bytes]:
    secret = seed.secret_bytes
    return {
        "pvv": derive(secret, "pvv key", 16, odd_parity=True),
        "code": derive(secret, "code key", 16),
        "token": derive(secret, "token key", 16),
    }


async def _create_parties(connection: Connection, seed: Seed, master_key: MasterKey) -> None:
    await connection.copy(
        "programme", ("programme_id", "name", "currency"), [(_PROGRAMME_ID, "Demo", CURRENCY)]
    )
    merchants = {code: number for number, code in enumerate(_MERCHANTS, 1)}
    await connection.copy(
        "merchant",
        ("merchant_id", "code", "name"),
        [(number, code, f"Demo retailer {number}") for code, number in merchants.items()],
    )
    await connection.copy(
        "acquirer_link",
        ("name", "acquirer_id", "packager", "sign_on"),
        [
            ("pos", "00000000001", "iso87-binary", False),
            ("network", "00000000002", "iso87-ascii", True),
        ],
    )
    await _create_suspense_chains(connection, merchants.values())
    made = terminals(seed)
    await connection.copy(
        "terminal",
        (
            *("terminal_id", "code", "merchant_id", "link", "network", "mac_algorithm"),
            *("pin_format", "key_version", "floor_limit_minor", "utc_offset_min"),
        ),
        [
            (
                *(int(t.id), t.id, merchants[t.merchant], t.link or "pos", t.link is not None),
                *(t.mac, t.pin_format, t.key_version, t.floor_limit, t.utc_offset_min),
            )
            for t in made
        ],
    )
    keys = []
    for terminal in made:
        own = KeyAlgorithm.AES if terminal.mac == MacAlgorithm.AES_CMAC.value else KeyAlgorithm.TDES
        for usage, text, as_usage, algorithm in (
            ("mac", terminal.mac_key, KeyUsage.MAC, own),
            ("pin", terminal.pin_key, KeyUsage.PIN, KeyAlgorithm.TDES),
            ("kek", terminal.kek, KeyUsage.KEK, own),
        ):
            block = master_key.wrap(bytes.fromhex(text), as_usage, algorithm, key_version=1)
            keys.append((int(terminal.id), usage, 1, block))
    await connection.copy("terminal_key", ("terminal_id", "usage", "version", "block"), keys)
    own_keys = _programme_keys(seed)
    usages = {
        "pvv": (KeyUsage.PVV, KeyAlgorithm.TDES),
        "code": (KeyUsage.CODE, KeyAlgorithm.AES),
        "token": (KeyUsage.TOKEN, KeyAlgorithm.AES),
    }
    await connection.copy(
        "programme_key",
        ("usage", "block"),
        [(usage, master_key.wrap(own_keys[usage], *usages[usage])) for usage in usages],
    )


async def _create_suspense_chains(connection: Connection, merchant_ids: Iterable[int]) -> None:
    """A chain per merchant for advices that no card can take; nothing can be spent from it."""
    state = CardState.new()
    state.status = CardStatus.CLOSED
    encoded = msgspec.msgpack.encode(state)
    ids = [suspense_card_id(merchant_id) for merchant_id in merchant_ids]
    await connection.copy(
        "card",
        ("card_id", "digest", "programme_id", "expiry"),
        [(card_id, card_id.to_bytes(12, "big", signed=True), 1, "9912") for card_id in ids],
    )
    await connection.copy(
        "card_state",
        _STATE_COLUMNS,
        [(card_id, 0, 0, state.status, *[0] * 6, encoded, Window().encode()) for card_id in ids],
    )


async def _create_cards(connection: Connection, seed: Seed) -> None:
    keys = _programme_keys(seed)
    card_secrets = CardSecrets(keys["pvv"], keys["code"])
    token_key = TokenKey(keys["token"])
    run = (await connection.rows("select nextval('run_number') as run"))[0]["run"]
    posted_at = datetime.datetime.now(datetime.UTC)
    facts: list[Any] = []
    states: list[Any] = []
    links: list[Any] = []
    postings: list[Any] = []
    columns = {
        "card": (
            *("card_id", "digest", "programme_id", "expiry", "pvv", "code_digest"),
            "face_value_minor",
        ),
        "card_state": _STATE_COLUMNS,
        "link": (
            *("month", "batch_id", "n", "card_id", "version", "prev_batch_id", "request_key"),
            *("operation", "response", "tx", "purse", "amount_minor", "available_after"),
            *("held_after", "undoes", "terminal_id", "merchant_id", "posted_at", "body"),
        ),
        "posting": (
            *("month", "batch_id", "n", "leg", "card_id", "debit_kind", "debit_id"),
            *("credit_kind", "credit_id", "amount_minor", "purse", "currency"),
        ),
    }

    async def flush() -> None:
        for table, records in zip(columns, (facts, states, links, postings), strict=True):
            if records:
                await connection.copy(table, columns[table], records)
                records.clear()

    for card in cards(seed):
        digest = token_key.digest(card.pan)
        facts.append(
            (
                *(card.card_id, digest, _PROGRAMME_ID, card.expiry),
                card_secrets.pvv(card.pin, card.pan).encode(),
                card_secrets.code_digest(digest, card.cv),
                card.face_value_minor,
            )
        )
        _issue(card, run, posted_at, states, links, postings)
        if len(facts) >= _CARDS_PER_COPY:
            await flush()
    await flush()


def _issue(
    card: DemoCard,
    run: int,
    posted_at: datetime.datetime,
    states: list[Any],
    links: list[Any],
    postings: list[Any],
) -> None:
    """A card's first state; one that is worth something begins its chain with the float's money."""
    number = (run << 36) + card.card_id
    batch_id = (run << 40) + card.card_id
    state = CardState.new()
    state.status = card.status
    window = Window()
    amount = card.balance_minor
    if amount:
        state.version, state.batch_id, state.lots_made = 1, batch_id, 1
        state.ecash = PurseState(amount, 0, [Lot(1, amount)])
        key = request_key(0, f"issue|{card.card_id}")
        window.add(key, 1)
        encoded = msgspec.msgpack.encode(state)
        transaction_id = format_transaction_id(number)
        posting = Posting(AccountKind.FLOAT, _PROGRAMME_ID, AccountKind.CARD, card.card_id, amount)
        link = Link(
            card_id=card.card_id,
            version=1,
            key=key,
            fingerprint=content_fingerprint(f"issue|{card.card_id}|{amount}"),
            operation=Operation.ISSUE,
            answer=Answer(Response.APPROVED, transaction_id, transaction_id),
            terminal_id=0,
            merchant_id=0,
            requested_minor=amount,
            amount_minor=amount,
            effect_minor=amount,
            available_after_minor=amount,
            status_before=CardStatus.ISSUED,
            status_after=card.status,
            moves=(LotMove(1, amount, Origin.PAID, True, 0, 0),),
            postings=(posting,),
            state_after=encoded,
        )
        month = posted_at.date().replace(day=1)
        links.append(
            (
                *(month, batch_id, 1, card.card_id, 1, 0, key, Operation.ISSUE, 0),
                *(
                    transaction_id,
                    link.purse,
                    amount,
                    amount,
                    0,
                    0,
                    0,
                    0,
                    posted_at,
                    link_body(link),
                ),
            )
        )
        postings.append(
            (
                *(month, batch_id, 1, 0, card.card_id, posting.debit_kind, posting.debit_id),
                *(posting.credit_kind, posting.credit_id, amount, link.purse, CURRENCY),
            )
        )
    states.append(
        (
            *(card.card_id, state.version, state.batch_id, state.status, amount, 0, 0, 0, 0, 0),
            *(msgspec.msgpack.encode(state), window.encode()),
        )
    )
