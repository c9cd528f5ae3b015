"""One demo programme for all scenarios; fresh cards and connections for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from tests.client.demo import Cards, Demo, running_demo  # noqa: E402
from tests.client.messages import Card  # noqa: E402
from tests.client.terminal import Terminal  # noqa: E402


@pytest.fixture(scope="session")
def switch() -> Iterator[Demo]:
    """`cardswitch up --demo` in a directory of its own, stopped by SIGTERM at the end.

    After all that the scenarios did to it, its journal must still hold together.
    """
    with running_demo("cards-") as demo:
        yield demo
        ended = demo.verify()
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
        assert "broken" not in ended.stdout


@pytest.fixture
def cards(switch: Demo) -> Cards:
    return switch.cards


@pytest.fixture
def card(cards: Cards) -> Card:
    """A fresh active card with 100.00."""
    return cards.active()


@pytest.fixture
def issued(cards: Cards) -> Card:
    """A fresh card that nobody has activated."""
    return cards.issued()


@pytest.fixture
def pos(switch: Demo) -> Iterator[Terminal]:
    """A POS terminal with AES-CMAC."""
    with switch.pos() as terminal:
        yield terminal


@pytest.fixture(params=["aes-cmac", "retail-mac"])
def any_pos(switch: Demo, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """A POS terminal, once with each MAC algorithm."""
    with switch.pos(switch.entry(mac=request.param)) as terminal:
        yield terminal


@pytest.fixture
def elsewhere(switch: Demo, pos: Terminal) -> Iterator[Terminal]:
    """A POS terminal of another merchant than `pos`."""
    with switch.pos(switch.other_merchant_entry(switch.entry())) as terminal:
        assert terminal.identity.merchant != pos.identity.merchant
        yield terminal


@pytest.fixture
def network(switch: Demo) -> Iterator[Terminal]:
    """A network terminal (iso87-ascii), signed on."""
    with switch.network() as terminal:
        assert terminal.sign_on().code == "00"
        yield terminal
