"""Sockets that one task waits for together."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from switch.poller import Poller

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(5)]
    for ends in made:
        for end in ends:
            end.setblocking(False)
    yield made
    for ends in made:
        for end in ends:
            end.close()


async def ready(poller: Poller[int]) -> list[int]:
    with trio.fail_after(5):
        return await poller.ready()


async def nothing_ready(poller: Poller[int]) -> bool:
    with trio.move_on_after(0.05):
        await poller.ready()
        return False
    return True


async def test_all_that_can_be_read_come_at_once(pairs: list[Pair]) -> None:
    poller: Poller[int] = Poller(at_once_max=10)
    for number, (near, _) in enumerate(pairs):
        poller.add(near, number)
    assert await nothing_ready(poller)
    for number in (0, 2, 3):
        pairs[number][1].send(b"x")
    assert sorted(await ready(poller)) == [0, 2, 3]
    pairs[0][0].recv(9)
    assert sorted(await ready(poller)) == [2, 3], "what was not read is told again"
    poller.close()


async def test_one_that_comes_later_wakes_who_waits(pairs: list[Pair]) -> None:
    poller: Poller[int] = Poller(at_once_max=10)
    poller.add(pairs[0][0], 0)
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(0.02)
            pairs[0][1].send(b"x")

        nursery.start_soon(later)
        assert await ready(poller) == [0]
    poller.close()


async def test_what_is_left_over_has_its_turn_before_who_has_had_one(pairs: list[Pair]) -> None:
    poller: Poller[int] = Poller(at_once_max=2)
    for number, (near, far) in enumerate(pairs):
        poller.add(near, number)
        far.send(b"x")
    turns: list[int] = []
    while len(turns) < len(pairs):
        some = await ready(poller)
        assert 1 <= len(some) <= 2
        for number in some:
            pairs[number][0].recv(9)
            pairs[number][1].send(b"y")  # at once there is more from those
        turns += some
    assert sorted(turns[:5]) == [0, 1, 2, 3, 4]
    poller.close()


async def test_the_end_of_a_peer_can_be_read_too(pairs: list[Pair]) -> None:
    poller: Poller[int] = Poller(at_once_max=2)
    poller.add(pairs[1][0], 1)
    pairs[1][1].close()
    assert await ready(poller) == [1]
    assert pairs[1][0].recv(9) == b""
    poller.close()


async def test_what_was_removed_is_not_told_until_it_is_added_again(pairs: list[Pair]) -> None:
    poller: Poller[int] = Poller(at_once_max=2)
    poller.add(pairs[0][0], 7)
    poller.remove(pairs[0][0])
    pairs[0][1].send(b"x")
    assert await nothing_ready(poller)
    poller.add(pairs[0][0], 8)
    assert await ready(poller) == [8]
    with pytest.raises(KeyError):
        poller.add(pairs[0][0], 9)
    with pytest.raises(KeyError):
        poller.remove(pairs[1][0])
    poller.close()
