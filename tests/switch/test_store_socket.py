"""A store's socket: all of it is sent, whatever is taken at a time; an end is told."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from switch.store_socket import StoreSocket

MEGABYTES = bytes(range(256)) * 16_384  # more than any socket takes at once


@pytest.fixture
async def pair() -> AsyncIterator[tuple[StoreSocket, trio.SocketStream]]:
    """A store's socket, and the store's end of it."""
    near, far = socket.socketpair()
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (near, far)]
    store = StoreSocket(streams[0])
    yield store, streams[1]
    store.close()
    await streams[1].aclose()


async def test_what_is_more_than_is_taken_at_once_is_sent_whole(
    pair: tuple[StoreSocket, trio.SocketStream],
) -> None:
    store, far = pair
    got = bytearray()

    async def read() -> None:
        while len(got) < len(MEGABYTES):
            got.extend(await far.receive_some(10_000))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.send_all, MEGABYTES)
            nursery.start_soon(read)
    assert got == MEGABYTES


async def test_a_write_that_is_taken_lets_nothing_else_run(
    pair: tuple[StoreSocket, trio.SocketStream],
) -> None:
    """That is what the class is for: no pass through the event loop for each write."""
    store, far = pair
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await store.send_all(b"asked")
        assert ran == []
    assert await far.receive_some() == b"asked"


async def test_a_read_waits_for_bytes_and_an_end_is_no_bytes(
    pair: tuple[StoreSocket, trio.SocketStream],
) -> None:
    store, far = pair
    with trio.move_on_after(0.02) as waited:
        await store.receive_some(100)
    assert waited.cancelled_caught
    await far.send_all(b"told")
    assert await store.receive_some(100) == b"told"
    await far.aclose()
    assert await store.receive_some(100) == b""


async def test_who_reads_while_it_is_closed_is_told(
    pair: tuple[StoreSocket, trio.SocketStream],
) -> None:
    store, _ = pair
    told: list[type[Exception]] = []

    async def read() -> None:
        try:
            await store.receive_some(100)
        except trio.ClosedResourceError as error:
            told.append(type(error))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            store.close()
        store.close()  # once more does no harm
        await read()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await store.send_all(b"x")
    assert told == [trio.ClosedResourceError] * 2


async def test_a_peer_that_is_gone_is_an_error_of_the_system(
    pair: tuple[StoreSocket, trio.SocketStream],
) -> None:
    store, far = pair
    await far.aclose()
    with pytest.raises(OSError, match="pipe"):
        await store.send_all(b"asked")
