"""What no till would send: the switch shrugs it off, and honest terminals notice nothing."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.client.checks import available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card
from tests.client.terminal import Connection, NoReplyError, Terminal

# 500 by default; CARDSWITCH_IDLE_CONNECTIONS=5000 for the large run (needs ulimit -n above it).
IDLE_CONNECTIONS = int(os.environ.get("CARDSWITCH_IDLE_CONNECTIONS", "500"))
# Bounded means: no attack of this file may cost a worker more than this, whatever it sends.
GROWTH_LIMIT_MIB = 96
HONEST_REPLY_S = 2.0
MAXIMUM_FRAME = 4096


@pytest.fixture
def honest(switch: Demo, cards: Cards) -> Iterator[Callable[[], None]]:
    """Call it during an attack: a till with a line of its own is served, correctly and soon."""
    card = cards.active()
    with switch.pos(switch.pos_entries[8]) as till:
        left = available(till, card)

        def check() -> None:
            nonlocal left
            started = time.monotonic()
            sale = till.redeem(card, 1)
            assert (sale.code, sale.available_minor) == ("00", left - 1)
            assert time.monotonic() - started < HONEST_REPLY_S
            left -= 1

        check()
        yield check
        check()


@pytest.fixture(autouse=True)
def bounded_memory(switch: Demo) -> Iterator[None]:
    """Workers stay the same processes and do not swell."""
    workers = [psutil.Process(pid) for pid in switch.worker_pids]
    before = [worker.memory_info().rss for worker in workers]
    yield
    for worker, rss in zip(workers, before, strict=True):
        assert worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
        grown_mib = (worker.memory_info().rss - rss) / 2**20
        assert grown_mib < GROWTH_LIMIT_MIB, f"a worker grew by {grown_mib:.0f} MiB"


def framed(message: bytes) -> bytes:
    return struct.pack(">H", len(message)) + message


def throw(connection: Connection, data: bytes, timeout_s: float = 1.0) -> None:
    """Sends; a peer that has closed already, or takes no more, is fine."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        connection.send_raw(data, timeout_s)


def test_random_bytes_hurt_nobody(switch: Demo, honest: Callable[[], None]) -> None:
    chance = random.Random(8583)
    for _ in range(60):
        with switch.connection() as connection:
            throw(connection, chance.randbytes(chance.randrange(1, 6000)))
        honest()


def test_well_framed_garbage_is_answered_or_dropped_and_hurts_nobody(
    switch: Demo, honest: Callable[[], None]
) -> None:
    chance = random.Random(1987)
    for _ in range(20):
        with switch.connection() as connection:
            messages = [chance.randbytes(chance.randrange(1, 600)) for _ in range(50)]
            throw(connection, b"".join(framed(message) for message in messages))
        honest()


def test_garbage_of_the_largest_size_leaves_the_line_up(pos: Terminal, card: Card) -> None:
    # A format error is answered with 30 or not at all; only an oversized frame closes the line.
    pos.connection.send_frames([b"\xff" * MAXIMUM_FRAME, b"\x00" * MAXIMUM_FRAME, b"\x02"])
    assert pos.answers(card)


@pytest.mark.parametrize("claim", [MAXIMUM_FRAME + 1, 0x7FFF, 0xFFFF])
def test_a_length_over_the_maximum_closes_that_connection_only(
    switch: Demo, honest: Callable[[], None], claim: int
) -> None:
    with switch.connection() as connection:
        throw(connection, struct.pack(">H", claim))
        assert connection.closed_by_peer(5.0)
    honest()


def test_what_came_before_an_oversized_frame_is_still_answered(switch: Demo, card: Card) -> None:
    with switch.pos() as till:
        sale = till.make.redeem(card, 1000)
        till.connection.send_raw(framed(sale.frame) + b"\xff\xff")
        with contextlib.suppress(NoReplyError):
            # The line may be closed before the answer is out; the sale stands all the same.
            assert till.receive(sale).code == "00"
    with switch.pos() as till:
        assert till.repeat(sale).available_minor == 9000


def test_many_claims_of_64_kib_cost_no_memory(switch: Demo, honest: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(switch.connection())
            throw(connection, b"\xff\xff" + b"\x00" * 4000)
        honest()


def test_half_frames_wait_without_hurting_anybody(
    switch: Demo, honest: Callable[[], None], card: Card
) -> None:
    with contextlib.ExitStack() as stack:
        tills = [stack.enter_context(switch.pos()) for _ in range(50)]
        sales = [till.make.redeem(card, 1) for till in tills]
        for turn, (till, sale) in enumerate(zip(tills, sales, strict=True)):
            whole = framed(sale.frame)
            till.connection.send_raw(whole[: 1 + turn * (len(whole) - 2) // 50])
        honest()
        # Half of them hang up; the others send the rest and are served.
        for turn, (till, sale) in enumerate(zip(tills, sales, strict=True)):
            if turn % 2:
                till.close()
            else:
                whole = framed(sale.frame)
                till.connection.send_raw(whole[1 + turn * (len(whole) - 2) // 50 :])
                assert till.receive(sale).code == "00"
        honest()
    with switch.pos() as till:
        assert available(till, card) == 10000 - 25


def test_a_storm_of_keep_alives_hurts_nobody(switch: Demo, honest: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        storms = [stack.enter_context(switch.connection()) for _ in range(4)]
        for _ in range(10):
            for storm in storms:
                throw(storm, b"\x00\x00" * 10_000, timeout_s=0.2)
            honest()


def test_lying_bitmaps_hurt_nobody(switch: Demo, honest: Callable[[], None], card: Card) -> None:
    chance = random.Random(128)
    with switch.pos(switch.pos_entries[3]) as till:
        sale = till.make.redeem(card, 1000)
    mti, bitmap, body = sale.frame[:2], sale.frame[2:10], sale.frame[10:]
    bitmaps = [
        b"\xff" * 8,
        b"\x00" * 8,
        b"\x80" + b"\x00" * 7,
        b"\xff" * 16,
        bytes([bitmap[0] | 0x80]) + bitmap[1:],
        *(chance.randbytes(8) for _ in range(200)),
        *(bytes([0x80 | chance.randrange(128)]) + chance.randbytes(15) for _ in range(200)),
    ]
    with switch.connection() as connection:
        throw(connection, b"".join(framed(mti + lie + body) for lie in bitmaps))
        honest()
    with switch.connection() as connection:
        throw(connection, b"".join(framed(mti + lie) for lie in bitmaps))
        honest()
    with switch.pos(switch.pos_entries[3]) as till:
        assert available(till, card) == 10000


def test_lengths_inside_a_message_that_lie_hurt_nobody(
    pos: Terminal, honest: Callable[[], None], card: Card
) -> None:
    sale = pos.make.redeem(card, 1000, CS="7")
    pan_length_at, private_at = 10, sale.frame.index(b"CS0017") - 2
    for place in (pan_length_at, private_at, private_at + 1):
        for lie in (0x00, 0x01, 0x20, 0x99, 0xAA, 0xFF):
            spoilt = bytearray(sale.frame)
            if spoilt[place] == lie:
                continue
            spoilt[place] = lie
            pos.connection.send_frames([bytes(spoilt)])
            assert pos.receive_any().code in {"30", "58", "63"}
    honest()
    assert available(pos, card) == 10000


def test_replies_sent_to_the_switch_are_no_requests(
    pos: Terminal, honest: Callable[[], None], card: Card
) -> None:
    sale = pos.redeem(card, 1000)
    pos.connection.send_frames([sale.frame] * 20)
    assert available(pos, card) == 9000
    honest()


def test_the_other_ports_packager_hurts_nobody(
    switch: Demo, network: Terminal, pos: Terminal, honest: Callable[[], None], card: Card
) -> None:
    binary, text = pos.make.redeem(card, 1000), network.make.redeem(card, 1000)
    with Connection(switch.host, switch.network_port) as connection:
        throw(connection, framed(binary.frame))
        honest()
    with Connection(switch.host, switch.port) as connection:
        throw(connection, framed(text.frame))
        honest()
    assert available(network, card) == available(pos, card) == 10000


def test_many_idle_connections_hurt_nobody(
    switch: Demo, honest: Callable[[], None], card: Card
) -> None:
    with contextlib.ExitStack() as stack:
        idle = []
        for number in range(IDLE_CONNECTIONS):
            idle.append(stack.enter_context(switch.pos()))
            if number % 50 == 0:
                honest()
        honest()
        # None of them was dropped for having been quiet this long.
        for till in (idle[0], idle[len(idle) // 2], idle[-1]):
            assert till.answers(card)
    honest()


def test_connections_that_come_and_go_hurt_nobody(switch: Demo, honest: Callable[[], None]) -> None:
    for turn in range(300):
        with switch.connection() as connection:
            if turn % 3:
                throw(connection, b"\x00\x40half of something")
        if turn % 30 == 0:
            honest()


def test_a_client_that_never_reads_its_replies_hurts_nobody(
    switch: Demo, honest: Callable[[], None], cards: Cards
) -> None:
    card = cards.active()
    entry = switch.pos_entries[9]
    with switch.connection(receive_buffer_bytes=4096) as deaf:
        till = Terminal(switch.identity(entry), deaf)
        # An enquiry is decided anew each time it comes: the same bytes make as many replies.
        flood = framed(till.make.balance(card).frame) * 200
        most_bytes = 8 * 2**20
        sent = 0
        deadline = time.monotonic() + 6.0
        rest = flood
        while sent < most_bytes and time.monotonic() < deadline:
            try:
                taken = deaf.send_some(rest, timeout_s=1.0)
            except ConnectionError:
                break  # it was thrown out, which is fair
            if not taken:
                break  # the switch has stopped reading, which is fair as well
            sent += taken
            rest = rest[taken:] or flood
            if sent % (256 * 1024) < taken:
                honest()
        honest()
    with switch.pos(entry) as till:
        assert available(till, card) == 10000


def test_a_client_that_drips_bytes_hurts_nobody(
    switch: Demo, honest: Callable[[], None], card: Card
) -> None:
    with contextlib.ExitStack() as stack:
        tills = [stack.enter_context(switch.pos()) for _ in range(40)]
        sales = [till.make.redeem(card, 1) for till in tills]
        wholes = [framed(sale.frame) for sale in sales]
        for place in range(max(len(whole) for whole in wholes)):
            for till, whole in zip(tills, wholes, strict=True):
                till.connection.send_raw(whole[place : place + 1])
            if place % 20 == 0:
                honest()
        assert {t.receive(s).code for t, s in zip(tills, sales, strict=True)} == {"00"}
