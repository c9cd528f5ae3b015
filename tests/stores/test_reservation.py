"""Possession of cards on a real server: one winner each, and never more than a proposal."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
import trio
from store_sessions import Stores

from switch.journal.rows import CardRow
from switch.reservation.store import ReservationStore, Reserved, Sealer

BUSY, GRANTED = "busy", "granted"
SEALER = Sealer(b"k" * 32)
Makes = Callable[..., ReservationStore]
_numbers = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """An epoch of its own for each test."""
    return f"cs:test-{next(_numbers)}"


@pytest.fixture
def cache(stores: Stores) -> Iterator[redis.Redis]:
    """The server from outside."""
    with redis.Redis.from_url(stores.redis_url, socket_timeout=5) as client:
        yield client


@pytest.fixture
async def lane(stores: Stores, prefix: str) -> AsyncIterator[Makes]:
    """Makes stores as lanes have them, each a holder of its own."""
    made: list[ReservationStore] = []

    def make(**options: Any) -> ReservationStore:
        url = options.pop("url", stores.redis_url)
        holder = f"5.0.{next(_numbers):08x}".encode()
        settings: dict[str, Any] = {"timeout_s": 2.0, "possession_ms": 10_000}
        sealer = options.pop("sealer", SEALER)
        made.append(ReservationStore(url, prefix, holder, sealer, **(settings | options)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def row(text: str = "") -> CardRow:
    return CardRow(b"facts", b"state " + text.encode(), b"window")


def key_of(prefix: str, card_id: int) -> str:
    return "{" + prefix + "}" + str(card_id)


def words(card_ids: Sequence[int], reserved: Reserved) -> list[str]:
    return [BUSY if card_id in reserved.busy else GRANTED for card_id in card_ids]


async def possession(store: ReservationStore, *card_ids: int) -> list[str]:
    return words(card_ids, await store.reserve(card_ids))


async def known(store: ReservationStore, card_id: int) -> CardRow | None:
    rows, busy = await store.reserve([card_id])
    assert not busy
    return rows.get(card_id)


# -- one winner ---------------------------------------------------------------------------------


async def test_a_hundred_racers_and_one_winner(lane: Makes) -> None:
    racers = [lane() for _ in range(100)]
    for card_id in range(5):
        won: list[ReservationStore] = []

        async def race(racer: ReservationStore, card_id: int = card_id, won: Any = won) -> None:
            if await possession(racer, card_id) == [GRANTED]:
                won.append(racer)

        async with trio.open_nursery() as nursery:
            for racer in racers:
                nursery.start_soon(race, racer)
        assert len(won) == 1
        await won[0].release([card_id])


async def test_overlapping_batches_share_no_card(lane: Makes) -> None:
    chance = random.Random(7)
    racers = [lane() for _ in range(12)]
    for turn in range(10):
        holders: dict[int, list[int]] = {}

        async def race(number: int, cards: list[int], holders: Any = holders) -> None:
            for card_id, one in zip(cards, await possession(racers[number], *cards), strict=True):
                if one == GRANTED:
                    holders.setdefault(card_id, []).append(number)

        async with trio.open_nursery() as nursery:
            for number in range(len(racers)):
                cards = chance.sample(range(turn * 100, turn * 100 + 30), 12)
                nursery.start_soon(race, number, cards)
        assert all(len(numbers) == 1 for numbers in holders.values())
        assert len(holders) > 20


async def test_what_one_has_the_other_finds_busy_until_it_is_given_back(lane: Makes) -> None:
    first, second = lane(), lane()
    assert await possession(first, 1, 2) == [GRANTED, GRANTED]
    assert await possession(second, 2, 3) == [BUSY, GRANTED]
    assert await possession(first, 3) == [BUSY]
    await first.settle([1], [row()])
    assert await possession(second, 1, 2) == [GRANTED, BUSY]
    await first.release([2])
    assert await possession(second, 2) == [GRANTED]


async def test_a_holder_may_ask_for_its_own_again(lane: Makes) -> None:
    """Its last giving back was lost on the way."""
    store = lane()
    assert await possession(store, 1) == await possession(store, 1) == [GRANTED]


async def test_a_mark_is_respected_for_its_time_only(lane: Makes) -> None:
    crashed, other, third = lane(possession_ms=80), lane(), lane()
    assert await possession(crashed, 1) == [GRANTED]
    assert await possession(other, 1) == [BUSY]
    await trio.sleep(0.1)
    assert await possession(other, 1) == [GRANTED]
    # it was no crash, it was only slow: it changes nothing for who has the card now
    await crashed.settle([1], [row("late")])
    assert await possession(third, 1) == [BUSY]
    await crashed.release([1])
    assert await possession(third, 1) == [BUSY]
    await other.release([1])
    assert await known(third, 1) is None


# -- states -------------------------------------------------------------------------------------


async def test_the_next_one_finds_what_was_committed(lane: Makes) -> None:
    first, second = lane(), lane()
    assert await known(first, 1) is None
    await first.reserve([2])
    await first.settle([1, 2], [row("one"), row("two")])
    assert await second.reserve([2, 1, 3]) == ({2: row("two"), 1: row("one")}, [])
    await second.release([1])
    assert await known(first, 1) == row("one"), "given back as it was"
    await first.release([1], forget=True)
    assert await known(second, 1) is None, "given back as proved wrong"


async def test_only_the_holder_brings_a_state_back(lane: Makes) -> None:
    holder, stranger, next_one = lane(), lane(), lane()
    await holder.reserve([1, 2])
    await stranger.reserve([3])
    await stranger.settle([1, 3], [row("invented"), row("own")])
    assert await possession(next_one, 1) == [BUSY]
    await holder.settle([1], [row("true")])
    assert await known(next_one, 1) == row("true")
    assert await known(next_one, 3) == row("own")


async def test_an_epoch_knows_nothing_of_another(stores: Stores, lane: Makes) -> None:
    old = lane()
    await old.reserve([1])
    await old.settle([1], [row()])
    new = ReservationStore(stores.redis_url, "cs:another-epoch", b"x", SEALER, timeout_s=2)
    with contextlib.closing(new):
        assert await known(new, 1) is None
        await new.release([1])


@pytest.mark.parametrize("place", [0, 5, 11, 12, 13, 20, -1])
async def test_a_state_with_one_changed_byte_is_ignored(
    lane: Makes, cache: redis.Redis, prefix: str, place: int
) -> None:
    store = lane()
    await store.reserve([1])
    await store.settle([1], [row("a state that is long enough")])
    sealed = bytearray(cache.get(key_of(prefix, 1)))
    sealed[place] ^= 1
    cache.set(key_of(prefix, 1), bytes(sealed))
    assert await known(store, 1) is None
    sealed[place] ^= 1
    cache.set(key_of(prefix, 1), bytes(sealed))
    assert await known(store, 1) == row("a state that is long enough")


@pytest.mark.parametrize("planted", [b"", b"x", b"\0" * 12, b"\0" * 200, b"\xff" * 13])
async def test_a_state_that_was_never_sealed_is_ignored(
    lane: Makes, cache: redis.Redis, prefix: str, planted: bytes
) -> None:
    cache.set(key_of(prefix, 1), planted)
    assert await known(lane(), 1) is None


async def test_another_cards_state_is_ignored(lane: Makes, cache: redis.Redis, prefix: str) -> None:
    store = lane()
    await store.reserve([1])
    await store.settle([1], [row("rich")])
    cache.copy(key_of(prefix, 1), key_of(prefix, 2))
    assert await known(store, 2) is None
    assert await known(store, 1) == row("rich")


async def test_a_state_under_an_old_key_is_ignored(lane: Makes) -> None:
    old, new = lane(sealer=Sealer(b"o" * 32)), lane()
    await old.reserve([1])
    await old.settle([1], [row()])
    assert await known(new, 1) is None


# -- a server that has lost or spoilt what it had ------------------------------------------------


async def test_after_flushall_everything_is_free_and_unknown(
    lane: Makes, cache: redis.Redis
) -> None:
    first, second = lane(), lane()
    await first.reserve([1, 2])
    await first.settle([1], [row()])
    cache.flushall()
    assert await second.reserve([1, 2]) == ({}, [])
    await first.settle([2], [row("late")])  # it has lost its possession
    await second.release([2])
    assert await known(first, 2) is None
    assert second.up


async def test_the_library_comes_back_by_itself(lane: Makes, cache: redis.Redis) -> None:
    store, other = lane(), lane()
    await store.reserve([1])
    cache.function_flush()
    assert await possession(other, 1) == [BUSY], "marks are not in the library"
    cache.function_flush()
    await store.settle([1], [row()])
    cache.function_flush()
    await store.release([5])
    assert await known(other, 1) == row()
    assert store.up and other.up


@pytest.mark.parametrize("name", ["held", "wait"])
async def test_a_key_of_the_wrong_type_means_doing_without(
    lane: Makes, cache: redis.Redis, prefix: str, name: str
) -> None:
    errors: list[str] = []
    first, second = lane(on_error=errors.append), lane(on_error=errors.append)
    await first.reserve([1])
    cache.delete(f"{{{prefix}}}{name}")
    cache.set(f"{{{prefix}}}{name}", "planted")
    loads = library_loads(cache)
    assert await possession(second, 2) == [GRANTED]
    assert await possession(first, 2) in ([GRANTED], [BUSY])
    await first.settle([1], [row()])
    if name == "held":
        assert errors[0] == "WRONGTYPE"
        assert not second.up
    assert library_loads(cache) == loads, "the library is not to blame"
    cache.delete(f"{{{prefix}}}{name}")
    await trio.sleep(0.55)
    assert await possession(second, 3) == [GRANTED]
    assert second.up


def library_loads(cache: redis.Redis) -> int:
    """How often a client has loaded functions."""
    return int(cache.info("commandstats").get("cmdstat_function|load", {}).get("calls", 0))


async def test_a_card_of_the_wrong_type_is_a_card_unknown(
    lane: Makes, cache: redis.Redis, prefix: str
) -> None:
    cache.rpush(key_of(prefix, 1), "planted")
    store, other = lane(), lane()
    assert await known(store, 1) is None
    await store.settle([1], [row("whole")])
    assert await known(other, 1) == row("whole")
    assert store.up


async def test_marks_of_the_wrong_form_are_no_marks(
    lane: Makes, cache: redis.Redis, prefix: str
) -> None:
    cache.hset(f"{{{prefix}}}held", key_of(prefix, 1), "zzz")
    cache.hset(f"{{{prefix}}}held", key_of(prefix, 2), "")
    store = lane()
    assert await possession(store, 1, 2) == [GRANTED, GRANTED]


# -- a server that is not there ------------------------------------------------------------------


async def test_no_server_at_all_costs_nothing(lane: Makes) -> None:
    errors: list[str] = []
    store = lane(url="unix:///nonexistent/redis.sock", on_error=errors.append)
    begun = time.monotonic()
    for _ in range(50):
        assert await possession(store, 1, 2) == [GRANTED, GRANTED]
        await store.settle([1, 2], [row(), row()])
        await store.release([1])
    assert time.monotonic() - begun < 0.4
    assert not store.up
    assert len(errors) == 1, "told once, not at each call"


async def test_nobody_listening_on_a_port_is_no_server(lane: Makes) -> None:
    store = lane(url="redis://127.0.0.1:1/0")
    with trio.fail_after(2):
        assert await possession(store, 1) == [GRANTED]
    assert not store.up


async def test_a_silent_server_costs_one_time_out_and_then_nothing_for_a_while(
    stores: Stores, lane: Makes
) -> None:
    errors: list[str] = []
    store = lane(timeout_s=0.2, on_error=errors.append)
    await store.reserve([1])
    with stopped(stores.servers.pids["redis"]):
        begun = time.monotonic()
        assert await possession(store, 1, 2) == [GRANTED, GRANTED]
        first = time.monotonic() - begun
        assert 0.19 <= first < 0.4
        begun = time.monotonic()
        for _ in range(100):
            assert await possession(store, 3) == [GRANTED]
        assert time.monotonic() - begun < 0.1
        assert errors == ["silent"]
        await trio.sleep(0.5)
        begun = time.monotonic()
        await store.settle([1], [row()])
        assert 0.19 <= time.monotonic() - begun < 0.4, "asked again after half a second"
        assert errors == ["silent", "silent"]
    await trio.sleep(0.55)
    assert await possession(store, 4) == [GRANTED]
    assert store.up
    # the reply to the call that was given up is not taken for that of a later one
    await store.settle([4], [row("four")])
    assert await store.reserve([4, 5]) == ({4: row("four")}, [])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_server_that_died_is_found_again_with_its_library(
    stores: Stores, lane: Makes
) -> None:
    store, other = lane(), lane()
    await store.reserve([1])
    await store.settle([1], [row()])
    os.kill(stores.servers.pids["redis"], signal.SIGKILL)
    assert await possession(store, 1) == [GRANTED]
    assert not store.up
    with trio.fail_after(20):
        while "redis" not in stores.servers.ensure_running():
            await trio.sleep(0.02)
        while not store.up:
            await trio.sleep(0.05)
            await store.reserve([2])
    assert await possession(other, 1, 2) == [GRANTED, BUSY]
    assert await known(other, 1) is None


# -- notices ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(store: ReservationStore) -> Any:
    """What is heard, as it comes."""
    heard: list[list[int]] = []

    async def listen() -> None:
        async for cards in store.notices():
            heard.append(cards)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(0.1)
        yield heard
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


async def test_who_waits_hears_of_a_card_given_back(lane: Makes) -> None:
    holder, waiting = lane(), lane()
    await holder.reserve([1, 2, 3])
    async with listening(waiting) as heard:
        await waiting.reserve([1, 2])
        await holder.settle([1, 3], [row(), row()])
        await until(lambda: heard == [[1]])
        await holder.release([2])
        await until(lambda: heard == [[1], [2]])
        # nobody waits any more: nobody is told
        await waiting.reserve([1])
        await waiting.release([1])
        await trio.sleep(0.1)
        assert heard == [[1], [2]]


async def test_several_cards_come_in_one_notice(lane: Makes) -> None:
    holder, waiting = lane(), lane()
    await holder.reserve([1, 2, 3])
    async with listening(waiting) as heard:
        await waiting.reserve([3, 1])
        await holder.release([1, 2, 3])
        await until(lambda: bool(heard))
        assert sorted(heard[0]) == [1, 3]


@pytest.mark.parametrize("words", [b"", b"nonsense", b"{x}1 {y}", b"\xff\xfe", b"1e9"])
async def test_words_on_the_channel_that_are_no_notice_are_passed_over(
    lane: Makes, cache: redis.Redis, prefix: str, words: bytes
) -> None:
    holder, waiting = lane(), lane()
    await holder.reserve([1])
    async with listening(waiting) as heard:
        await waiting.reserve([1])
        cache.publish(f"{{{prefix}}}held", words)
        await holder.release([1])
        await until(lambda: [1] in heard)
        assert all(isinstance(card, int) for cards in heard for card in cards)


async def test_notices_go_on_after_the_server_was_away(stores: Stores, lane: Makes) -> None:
    holder, waiting = lane(), lane()
    async with listening(waiting) as heard:
        os.kill(stores.servers.pids["redis"], signal.SIGKILL)
        with trio.fail_after(20):
            while "redis" not in stores.servers.ensure_running():
                await trio.sleep(0.02)
            card_id = 0
            while not heard:
                card_id += 1
                await holder.reserve([card_id])
                await waiting.reserve([card_id])
                await holder.release([card_id])
                await trio.sleep(0.05)
        assert heard[0][0] <= card_id


# -- giving back and taking in one call -----------------------------------------------------------


async def test_what_is_given_back_is_there_for_the_next_and_what_is_asked_for_is_taken(
    lane: Makes,
) -> None:
    first, second = lane(), lane()
    await first.reserve([1, 2])
    assert await first.reserve([3, 4], {1: row("one"), 2: row("two")}) == ({}, [])
    assert await second.reserve([2, 1]) == ({2: row("two"), 1: row("one")}, [])
    assert await possession(second, 3, 4) == [BUSY, BUSY]


async def test_a_card_that_is_needed_again_comes_with_its_new_state(lane: Makes) -> None:
    first, second = lane(), lane()
    await first.reserve([1, 2])
    answer = await first.reserve([2, 3], {1: row("one"), 2: row("two")})
    assert answer == ({2: row("two")}, [])
    assert await possession(second, 2) == [BUSY]


async def test_a_card_that_another_waits_for_is_its_turn(lane: Makes) -> None:
    """Else who has much to do on a card would keep it for ever."""
    greedy, waiting = lane(), lane()
    await greedy.reserve([1, 2])
    async with listening(waiting) as heard:
        assert await possession(waiting, 1) == [BUSY]
        answer = await greedy.reserve([2, 1, 5], {1: row("one"), 2: row("two")})
        assert answer == ({2: row("two")}, [1])
        await until(lambda: heard == [[1]])
        assert await known(waiting, 1) == row("one")
        # nobody waits any more, it does not give way again
        await waiting.release([1])
        await greedy.reserve([1])
        assert await greedy.reserve([1], {1: row()}) == ({1: row()}, [])


async def test_who_has_lost_a_card_meanwhile_brings_back_no_state(lane: Makes) -> None:
    slow, other = lane(possession_ms=50), lane()
    await slow.reserve([1])
    await trio.sleep(0.1)
    await other.reserve([1])
    assert await slow.reserve([1, 2], {1: row("late")}) == ({}, [1])
    await other.release([1])
    assert await known(other, 1) is None
