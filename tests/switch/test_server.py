"""The server and its connections, with real sockets and an intake of the test's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from fastpath.framing import Header, pack_many
from fastpath.specs import ISO87_BINARY
from switch.connection import Connection
from switch.metrics import Metrics
from switch.server import Server, listening_socket
from switch.wire.link import Frame, LinkConfig

CONFIG = LinkConfig(
    name="pos",
    header=Header.BINARY2,
    packager=ISO87_BINARY,
    acquirer_id="1",
    idle_timeout_s=math.inf,
)
Arrived = list[tuple[Connection, list[Frame]]]


class Desk:
    """Takes frames as the intake does. A frame that says `keep` gets its reply later."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.kept: list[tuple[Connection, bytes]] = []
        self.fail_on = b"\0"

    def __call__(self, arrived: Arrived, _now: float) -> None:
        messages = [frame.message for _, frames in arrived for frame in frames]
        self.calls.append(messages)
        if self.fail_on in messages:
            raise RuntimeError("what nobody expects")
        for connection, frames in arrived:
            for frame in frames:
                if frame.message.startswith(b"keep"):
                    self.kept.append((connection, frame.message))
                else:
                    reply(connection, frame.message)


def reply(connection: Connection, message: bytes) -> None:
    connection.send(framed(message), 1)


def framed(*messages: bytes) -> bytes:
    return pack_many(Header.BINARY2, list(messages))


@dataclasses.dataclass
class Running:
    server: Server
    desk: Desk
    port: int
    streams: list[trio.SocketStream] = dataclasses.field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", self.port))
        return self.streams[-1]


@asynccontextmanager
async def running(**changes: object) -> AsyncIterator[Running]:
    desk = Desk()
    server = Server(Metrics(["pos"]), desk, connections_max=100)
    listener = listening_socket("127.0.0.1", 0)
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener, lambda: config)
            it = Running(server, desk, listener.getsockname()[1])
            yield it
            for stream in it.streams:
                await stream.aclose()
            await connections_are(server, 0)
            nursery.cancel_scope.cancel()


async def heard(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.receive_some()
        if not part:
            break
        data += part
    return data


async def connections_are(server: Server, number: int) -> None:
    while server.connections != number:
        await trio.sleep(0.005)


async def test_what_has_come_on_many_connections_is_handed_on_together() -> None:
    async with running() as it:
        streams = [await it.connect() for _ in range(40)]
        await connections_are(it.server, 40)
        async with trio.open_nursery() as nursery:
            for number, stream in enumerate(streams):
                nursery.start_soon(stream.send_all, framed(b"%03d" % number))
        for number, stream in enumerate(streams):
            assert await heard(stream, 5) == framed(b"%03d" % number)
        assert sum(map(len, it.desk.calls)) == 40
        assert len(it.desk.calls) < 40


async def test_a_fault_ends_the_connections_it_met_and_no_other() -> None:
    async with running() as it:
        bad, good = await it.connect(), await it.connect()
        it.desk.fail_on = b"bad"
        await bad.send_all(framed(b"bad"))
        assert await heard(bad, 1) == b""
        await good.send_all(framed(b"good"))
        assert await heard(good, 6) == framed(b"good")
        await connections_are(it.server, 1)


async def test_a_peer_that_is_ahead_is_read_again_once_it_has_its_replies() -> None:
    async with running(in_flight_max=2) as it:
        stream = await it.connect()
        await stream.send_all(framed(b"keep1", b"keep2"))
        while len(it.desk.kept) < 2:
            await trio.sleep(0.005)
        await stream.send_all(framed(b"third"))
        await trio.sleep(0.05)
        assert it.desk.calls == [[b"keep1", b"keep2"]]
        for connection, message in it.desk.kept:
            reply(connection, message)
        expected = framed(b"keep1", b"keep2", b"third")
        assert await heard(stream, len(expected)) == expected


async def test_who_has_closed_its_side_still_gets_what_it_is_owed() -> None:
    async with running() as it:
        stream = await it.connect()
        await stream.send_all(framed(b"keep"))
        await stream.send_eof()
        while not it.desk.kept:
            await trio.sleep(0.005)
        await trio.sleep(0.05)
        assert it.server.connections == 1
        reply(*it.desk.kept[0])
        assert await heard(stream, 99) == framed(b"keep")
        await connections_are(it.server, 0)


async def test_who_is_ahead_and_gone_is_let_go_once_it_is_answered() -> None:
    """Its end is not seen while nothing is read from it."""
    async with running(in_flight_max=1) as it:
        stream = await it.connect()
        await stream.send_all(framed(b"keep"))
        while not it.desk.kept:
            await trio.sleep(0.005)
        await stream.aclose()
        await trio.sleep(0.02)
        reply(*it.desk.kept[0])
        await connections_are(it.server, 0)


async def test_draining_ends_when_all_that_was_read_is_answered() -> None:
    async with running() as it:
        busy, idle = await it.connect(), await it.connect()
        await busy.send_all(framed(b"keep"))
        while not it.desk.kept:
            await trio.sleep(0.005)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.server.drain)
            assert await heard(idle, 1) == b""
            await busy.send_all(framed(b"late"))
            await trio.sleep(0.05)
            reply(*it.desk.kept[0])
            assert await heard(busy, 99) == framed(b"keep")
        assert it.server.connections == 0
        assert it.desk.calls == [[b"keep"]]


async def test_a_peer_that_never_takes_its_replies_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sends nothing either: nothing of it can be read."""
    monkeypatch.setattr("switch.server._LAST_REPLIES_S", 0.2)
    async with running(in_flight_max=1, send_buffer_bytes_max=100_000_000) as it:
        stream = await it.connect()
        await stream.send_all(framed(b"keep"))
        while not it.desk.kept:
            await trio.sleep(0.005)
        (connection, _), *_ = it.desk.kept
        connection.link.drain()
        connection.send(bytes(20_000_000), 1)
        assert connection.owes
        await connections_are(it.server, 0)


async def test_a_server_that_is_cancelled_closes_what_it_has() -> None:
    server = Server(Metrics(["pos"]), Desk(), connections_max=100)
    listener = listening_socket("127.0.0.1", 0)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, listener, lambda: CONFIG)
            stream = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
            await connections_are(server, 1)
            nursery.cancel_scope.cancel()
        assert server.connections == 0
        assert await heard(stream, 1) == b""
        await stream.aclose()
