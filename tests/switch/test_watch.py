"""What a worker looks at in Postgres: without a server, over a failover, with new cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fastpath.tokens import TokenKey, TokenTable
from switch.journal.journal import JournalDown
from switch.metrics import Metrics
from switch.watch import EpochChanged, StoreWatch

KEY = TokenKey(bytes(16))
NUMBER = "9500001234567890128"


class Server:
    """A Postgres that says who it is."""

    def __init__(self) -> None:
        self.epoch = "one"
        self.down: str | None = None
        self.cards: list[dict[str, Any]] = []
        self.asked = 0

    async def rows(self, query: str, *args: Any) -> list[Any]:
        self.asked += 1
        if self.down is not None:
            raise JournalDown(self.down)
        if "as epoch" in query:
            return [{"epoch": self.epoch}]
        if "from card " in query:
            return [card for card in self.cards if card["card_id"] > args[0]]
        if "months_ahead" in query:
            return [{"ahead": 3}]
        assert "projection_lag" in query
        return [{"links": 7, "seconds": 1.5}]


class Pipe:
    """Of the pipeline, what the watch sees."""

    journal_up = True


@pytest.fixture
def server() -> Server:
    return Server()


def watching(server: Server, tmp_path: Path) -> tuple[StoreWatch, TokenTable, Pipe]:
    TokenTable.build(tmp_path / "t", [])
    table = TokenTable.open(tmp_path / "t", KEY)
    watch = StoreWatch(server.rows, "one", table, Metrics(["pos"]))
    pipe = Pipe()
    watch.pipeline = pipe  # type: ignore[assignment]
    return watch, table, pipe


async def test_an_idle_worker_learns_of_another_server(
    server: Server, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It has met no failure: nothing was asked of the old server when it went."""
    watch, _, _ = watching(server, tmp_path)
    with trio.move_on_after(10):
        await watch.cards()
    assert server.asked >= 10
    server.epoch = "two"
    with pytest.raises(EpochChanged), trio.fail_after(5):
        await watch.cards()


async def test_a_server_that_comes_back_as_another_ends_the_worker(
    server: Server, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, _, pipe = watching(server, tmp_path)
    pipe.journal_up, server.down = False, "gone"
    with trio.move_on_after(3):
        await watch.postgres()
    assert not pipe.journal_up
    server.down = None
    with trio.move_on_after(3):
        await watch.postgres()
    assert pipe.journal_up
    pipe.journal_up, server.epoch = False, "two"
    with pytest.raises(EpochChanged), trio.fail_after(5):
        await watch.postgres()
    assert not pipe.journal_up


async def test_new_cards_are_known_within_a_second_or_two(
    server: Server, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, table, _ = watching(server, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.cards)
        await trio.sleep(1.5)
        server.down = "gone"
        server.cards.append({"card_id": 12, "digest": KEY.digest(NUMBER)})
        await trio.sleep(2)
        assert table.get(NUMBER) == 0
        server.down = None
        await trio.sleep(2)
        assert table.get(NUMBER) == 12
        nursery.cancel_scope.cancel()


async def test_months_and_lag_are_told(
    server: Server, tmp_path: Path, autojump_clock: MockClock
) -> None:
    watch, _, _ = watching(server, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.months)
        nursery.start_soon(watch.projector)
        await trio.sleep(1)
        assert watch.months_ahead == 3
        assert watch._metrics.projector_lag_links._value.get() == 7
        nursery.cancel_scope.cancel()
