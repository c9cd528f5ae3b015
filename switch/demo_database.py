"""The demo programme as rows of an empty database."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

import msgspec

from fastpath.mac import MacAlgorithm
from fastpath.tokens import TokenKey
from rules.cards import CardFacts, CardState, CardStatus, WorkingCard
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
from switch.demo import (
    CURRENCY,
    MERCHANTS,
    PROGRAMME_ID,
    PROMO_DAYS,
    PROMOTIONS_ID,
    SPONSOR_ID,
    DemoCard,
    Seed,
    cards,
    terminals,
)
from switch.journal.bridge import Connection
from switch.journal.rows import (
    CARD_COLUMNS,
    LINK_COLUMNS,
    link_row,
    posting_numbers,
    state_row,
)
from switch.keyblock import KeyAlgorithm
from switch.keys import CardSecrets, KeyUsage, MasterKey, derive

__all__ = ["create"]

_CARDS_PER_COPY = 10_000
_NEVER = "9912"
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_encode = msgspec.msgpack.Encoder().encode


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


async def _create_programmes(connection: Connection) -> None:
    """The one without limits, fees and expiry, and a small one with all of them."""
    await connection.copy(
        "programme", ("programme_id", "name", "currency"), [(PROGRAMME_ID, "Demo", CURRENCY)]
    )
    await connection.copy(
        "programme",
        (
            *("programme_id", "name", "currency", "promo_days", "goodwill_days", "hold_s"),
            *("dormancy_months", "dormancy_fee_minor"),
        ),
        [(PROMOTIONS_ID, "Demo Promotions", CURRENCY, PROMO_DAYS, 90, 86_400, 12, 200)],
    )
    await connection.copy(
        "card_limit",
        (
            *("programme_id", "limit_class", "transaction_max_minor", "return_max_minor"),
            *("day_max_minor", "day_count_max", "balance_max_minor"),
        ),
        [
            (PROMOTIONS_ID, 0, 5_000, 2_000, 8_000, 5, 25_000),
            (PROMOTIONS_ID, 1, 1_000, 500, 1_500, 3, 12_000),
        ],
    )
    await connection.copy(
        "sponsor",
        ("sponsor_id", "programme_id", "name"),
        [(SPONSOR_ID, PROMOTIONS_ID, "Demo sponsor")],
    )


async def _create_parties(connection: Connection, seed: Seed, master_key: MasterKey) -> None:
    await _create_programmes(connection)
    merchants = {code: number for number, code in enumerate(MERCHANTS, 1)}
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
            *("pin_format", "key_version", "floor_limit_minor", "utc_offset_min", "programme"),
        ),
        [
            (
                *(int(t.id), t.id, merchants[t.merchant], t.link or "pos", t.link is not None),
                *(t.mac, t.pin_format, t.key_version, t.floor_limit, t.utc_offset_min),
                t.programme,
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
    facts = _encode(CardFacts(PROGRAMME_ID, CURRENCY, _NEVER))
    state = CardState.new()
    state.status = CardStatus.CLOSED
    chains = [
        WorkingCard(suspense_card_id(merchant_id), facts, _encode(state), b"")
        for merchant_id in merchant_ids
    ]
    digests = [chain.card_id.to_bytes(12, "big", signed=True) for chain in chains]
    await connection.copy(
        "card",
        ("card_id", "digest", "programme_id", "expiry"),
        [
            (chain.card_id, digest, PROGRAMME_ID, _NEVER)
            for chain, digest in zip(chains, digests, strict=True)
        ],
    )
    await connection.copy(
        "card_state", CARD_COLUMNS, [(chain.card_id, 0, 0, *state_row(chain)) for chain in chains]
    )


async def _create_cards(connection: Connection, seed: Seed) -> None:
    keys = _programme_keys(seed)
    issue = _Issue(CardSecrets(keys["pvv"], keys["code"]), TokenKey(keys["token"]))
    await issue.begin(connection)
    for card in cards(seed):
        issue.add(card)
        if len(issue.cards) >= _CARDS_PER_COPY:
            await issue.write(connection)
    await issue.write(connection)


class _Issue:
    """Rows of new cards, written many at a time."""

    def __init__(self, card_secrets: CardSecrets, token_key: TokenKey) -> None:
        self.cards: list[tuple[Any, ...]] = []
        self._states: list[tuple[Any, ...]] = []
        self._links: list[tuple[Any, ...]] = []
        self._secrets = card_secrets
        self._token_key = token_key
        self._posted_at = datetime.datetime.now(datetime.UTC)
        self._month = self._posted_at.date().replace(day=1)
        self._run = 0

    async def begin(self, connection: Connection) -> None:
        """Take a run number, which makes all ids unique."""
        self._run = (await connection.rows("select nextval('run_number') as run"))[0]["run"]

    def add(self, card: DemoCard) -> None:
        """A card's facts and first state; its worth begins its chain with the float's money."""
        digest = self._token_key.digest(card.pan)
        facts = CardFacts(
            card.programme_id,
            CURRENCY,
            card.expiry,
            self._secrets.pvv(card.pin, card.pan).encode(),
            self._secrets.code_digest(digest, card.cv),
            card.face_value_minor,
            card.limit_class,
        )
        self.cards.append(
            (
                *(card.card_id, digest, card.programme_id, card.expiry, facts.pvv),
                *(facts.code_digest, facts.face_value_minor, facts.limit_class),
            )
        )
        state = CardState.new()
        state.status = card.status
        working = WorkingCard(card.card_id, _encode(facts), _encode(state), b"")
        if card.balance_minor:
            self._begin_chain(working, card)
        self._states.append(
            (card.card_id, working.state.version, working.state.batch_id, *state_row(working))
        )

    def _begin_chain(self, working: WorkingCard, card: DemoCard) -> None:
        amount_minor, day = card.balance_minor, self._posted_at.toordinal() - _EPOCH
        transaction_id = format_transaction_id((self._run << 36) + card.card_id)
        batch_id = (self._run << 40) + card.card_id
        lots = [Lot(1, amount_minor - card.promo_minor)]
        own = AccountKind.CARD, card.card_id
        givers = [(AccountKind.FLOAT, card.programme_id)]
        if card.promo_minor:
            kind = (Origin.PROMO, False, day + PROMO_DAYS, SPONSOR_ID)
            lots.append(Lot(2, card.promo_minor, *kind))
            givers.append((AccountKind.PROMO, SPONSOR_ID))
            working.state.note_end(lots[-1].expires_day)
        working.state.lots_made = len(lots)
        working.state.last_active_day = day - card.idle_days
        purse = working.state.ecash
        purse.available_minor = amount_minor
        purse.lots += lots
        moves = tuple(
            LotMove(
                *(lot.lot_id, lot.available_minor, lot.origin, lot.cashable),
                *(lot.expires_day, lot.sponsor_id),
            )
            for lot in lots
        )
        postings = tuple(
            Posting(*giver, *own, lot.available_minor)
            for giver, lot in zip(givers, lots, strict=True)
        )
        link = Link(
            card_id=card.card_id,
            version=1,
            key=request_key(0, f"issue|{card.card_id}"),
            fingerprint=content_fingerprint(f"issue|{card.card_id}|{amount_minor}"),
            operation=Operation.ISSUE,
            answer=Answer(Response.APPROVED, transaction_id, transaction_id),
            terminal_id=0,
            merchant_id=0,
            requested_minor=amount_minor,
            amount_minor=amount_minor,
            effect_minor=amount_minor,
            status_before=CardStatus.ISSUED,
            moves=moves,
            postings=postings,
        )
        working.append(link, batch_id)
        head = (self._month, batch_id, 1, self._posted_at, posting_numbers(link, CURRENCY))
        self._links.append((*head, *link_row(link, 0)))

    async def write(self, connection: Connection) -> None:
        """Copy what is waiting into the tables."""
        card_columns = (
            *("card_id", "digest", "programme_id", "expiry", "pvv", "code_digest"),
            *("face_value_minor", "limit_class"),
        )
        link_columns = ("month", "batch_id", "n", "posted_at", "postings", *LINK_COLUMNS)
        for table, columns, rows in (
            ("card", card_columns, self.cards),
            ("card_state", CARD_COLUMNS, self._states),
            ("link", link_columns, self._links),
        ):
            if rows:
                await connection.copy(table, columns, rows)
                rows.clear()
