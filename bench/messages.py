"""The messages of a load, built and framed before it begins: real terminals, real MACs.

A scenario is a recipe for what one link sends, one message after the other. Everything is drawn
from a seed, so that two runs send the same but for the time of day.
"""

from __future__ import annotations

import datetime
import enum
import itertools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from fastpath.codec import encode_unsealed, seal
from fastpath.framing import Header, pack
from fastpath.mac import MacAlgorithm, MacKey, sign_many
from fastpath.packager import Packager
from fastpath.specs import DE

__all__ = [
    "Fields",
    "Framed",
    "Scenario",
    "build_frames",
    "card_fields",
    "reversal_fields",
    "terminals_for",
]

_BUILT_AT_ONCE = 256
"""Under one time of day, their MACs in one call."""
_STAN_COUNT = 1_000_000
_DROP_CARDS = 64
"""The last active cards, which only drops use: each is worth one purchase as long as none has."""
_LOOK_BACK = (300, 600)
"""How far behind the message lies that a repeat or a reversal is about: it has been answered."""

_ALL = slice(None)

Fields = dict[int, str | bytes]
Body = tuple[str, Fields]


class Scenario(enum.Enum):
    """What a load consists of."""

    REDEEM = "redeem"  # small redemptions on random cards
    DECLINE = "decline"  # redemptions of more than any card has
    HOT_CARD = "hot-card"  # all on one card
    HOT_MERCHANT = "hot-merchant"  # all at the terminals of one merchant
    DROP = "drop"  # one card worth one purchase, and everybody wants it
    MIXED = "mixed"  # 70 redeem, 10 activate, 10 balance, 5 load, 3 repeat, 2 reversal


class Framed(NamedTuple):
    """A message ready to be sent, and the trace number by which its reply is known."""

    stan: str
    frame: bytes


def card_fields(
    terminal: dict[str, Any],
    card: dict[str, Any],
    code: str,
    stan: str,
    now: datetime.datetime,
    currency: str,
    amount_minor: int,
) -> Fields:
    """A message about a card that was read at this terminal, without an amount where that is 0."""
    fields: Fields = {
        DE.PAN: str(card["pan"]),
        DE.PROCESSING_CODE: code,
        DE.TRANSMISSION_TIME: now.strftime("%m%d%H%M%S"),
        DE.STAN: stan,
        DE.LOCAL_TIME: now.strftime("%H%M%S"),
        DE.LOCAL_DATE: now.strftime("%m%d"),
        DE.EXPIRY: str(card["expiry"]),
        DE.ENTRY_MODE: "021",
        DE.TERMINAL: str(terminal["id"]),
        DE.MERCHANT: str(terminal["merchant"]),
        DE.CURRENCY: currency,
    }
    if amount_minor:
        fields[DE.AMOUNT] = f"{amount_minor:012d}"
    return fields


def reversal_fields(original: Fields, stan: str) -> Fields:
    """The reversal (0400) of a 0200."""
    named = f"0200{original[DE.STAN]!s}".ljust(42, "0")
    return {**original, DE.STAN: stan, DE.ORIGINAL: named}


class _Till:
    """What one link sends for one terminal."""

    def __init__(
        self,
        demo: dict[str, Any],
        terminal: dict[str, Any],
        seed: int,
        drop: int,
        fresh: slice,
    ) -> None:
        self._demo = demo
        self._terminal = terminal
        self._random = random.Random(seed)
        contract = [card for card in demo["cards"] if "programme" not in card]  # without limits
        active = [card for card in contract if card["status"] == "active"]
        self._active = active[:-_DROP_CARDS]
        self._wanted = active[-1 - drop % _DROP_CARDS]
        issued = [card for card in demo["cards"] if card["status"] == "issued"]
        self._fresh = itertools.cycle(issued[fresh])
        self._sent: list[Body] = []

    def message(self, scenario: Scenario, stan: str, now: datetime.datetime) -> Body:
        """The next message of the scenario."""
        body = self._draw(scenario, stan, now)
        self._sent.append(body)
        if len(self._sent) > 2 * _LOOK_BACK[1]:
            del self._sent[: _LOOK_BACK[1]]
        return body

    def _draw(self, scenario: Scenario, stan: str, now: datetime.datetime) -> Body:
        card = self._random.choice(self._active)
        amount_minor = self._random.randint(1, 50)
        if scenario is Scenario.MIXED:
            return self._mixed(stan, now)
        if scenario is Scenario.DECLINE:
            amount_minor = 99_999_999
        elif scenario is Scenario.HOT_CARD:
            card, amount_minor = self._active[0], 1
        elif scenario is Scenario.DROP:
            card, amount_minor = self._wanted, int(self._wanted["balance"])
        return "0200", self._fields(card, "006000", stan, now, amount_minor)

    def _mixed(self, stan: str, now: datetime.datetime) -> Body:
        drawn = self._random.randrange(100)
        back = self._random.randint(*_LOOK_BACK)
        if drawn >= 95 and len(self._sent) > back:
            mti, fields = self._sent[-back]
            if mti == "0200" and fields[DE.PROCESSING_CODE] == "006000":
                return self._about(fields, stan, repeats=drawn < 98)
        card, amount_minor = self._random.choice(self._active), self._random.randint(1, 50)
        if drawn < 70 or drawn >= 95:
            return "0200", self._fields(card, "006000", stan, now, amount_minor)
        if drawn < 80:
            return "0200", self._fields(next(self._fresh), "900060", stan, now, 2500)
        if drawn < 90:
            return "0100", self._fields(card, "316000", stan, now, 0)
        return "0200", self._fields(card, "210060", stan, now, amount_minor)

    @staticmethod
    def _about(original: Fields, stan: str, *, repeats: bool) -> Body:
        """A repeat of an earlier redemption, or its reversal."""
        return ("0201", original) if repeats else ("0400", reversal_fields(original, stan))

    def _fields(
        self,
        card: dict[str, Any],
        code: str,
        stan: str,
        now: datetime.datetime,
        amount_minor: int,
    ) -> Fields:
        currency = self._demo["currency"]
        return card_fields(self._terminal, card, code, stan, now, currency, amount_minor)


def terminals_for(demo: dict[str, Any], scenario: Scenario) -> list[dict[str, Any]]:
    """The terminals at the till that take part."""
    terminals = [terminal for terminal in demo["terminals"] if terminal["link"] is None]
    if scenario is Scenario.HOT_MERCHANT:
        merchant = terminals[0]["merchant"]
        terminals = [terminal for terminal in terminals if terminal["merchant"] == merchant]
    return terminals


def build_frames(
    demo: dict[str, Any],
    packager: Packager,
    terminal: dict[str, Any],
    scenario: Scenario,
    *,
    count: int,
    first_stan: int,
    seed: int,
    drop: int = 0,
    fresh: slice = _ALL,
) -> Iterator[Framed]:
    """The framed messages of one link, MACs made in batches.

    `drop` says which card is wanted; `fresh`, which of the issued cards are activated, in turn.
    """
    till = _Till(demo, terminal, seed, drop, fresh)
    key = MacKey(MacAlgorithm(terminal["mac"]), bytes.fromhex(terminal["mac_key"]))
    made = 0
    while made < count:
        now = datetime.datetime.now(datetime.UTC)
        bodies = []
        for at in range(made, min(made + _BUILT_AT_ONCE, count)):
            stan = f"{(first_stan + at) % _STAN_COUNT:06d}"
            mti, fields = till.message(scenario, stan, now)
            bodies.append((str(fields[DE.STAN]), encode_unsealed(packager, mti, fields)))
        macs = sign_many([key] * len(bodies), [body for _, body in bodies])
        for (stan, body), mac in zip(bodies, macs, strict=True):
            yield Framed(stan, pack(Header.BINARY2, seal(packager, body, mac)))
        made += len(bodies)
