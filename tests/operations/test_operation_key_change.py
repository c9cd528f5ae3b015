"""Key change in flight (0800, DE 70 = 101): new keys over the line, and nothing fails meanwhile."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import asyncpg
import psec
import pytest
import trio
import trio_asyncio
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from tests.client.demo import Demo, eventually, running_demo
from tests.client.messages import Reply
from tests.client.terminal import Terminal

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES")
KEY_CHANGE: Any = "101"


@pytest.fixture(scope="module")
def changing() -> Iterator[Demo]:
    """Four workers: keys change on one and are used on another."""
    with running_demo("keys-", "--workers", "4") as demo:
        yield demo


_ENTRIES: dict[str, list[dict[str, Any]]] = {}


def take(changing: Demo, mac_kind: str) -> dict[str, Any]:
    """A terminal that no other test has."""
    left = _ENTRIES.setdefault(changing.directory.name, list(changing.pos_entries))
    entry = next(each for each in left if each["mac"] == mac_kind)
    left.remove(entry)
    return entry


@pytest.fixture(params=["aes-cmac", "retail-mac"])
def entry(changing: Demo, request: pytest.FixtureRequest) -> dict[str, Any]:
    return take(changing, request.param)


def ask(terminal: Terminal, **changes: Any) -> Reply:
    return terminal.exchange(terminal.make.network(KEY_CHANGE, **changes))


def opened(entry: dict[str, Any], reply: Reply) -> tuple[psec.tr31.Header, bytes]:
    """What the terminal makes of `KB`, with a key block library of its own."""
    return psec.tr31.unwrap(bytes.fromhex(entry["kek"]), reply.private["KB"])


def with_key(terminal: Terminal, key: bytes) -> Terminal:
    """The terminal after it has put a new MAC key into force, on the same connection."""
    identity = dataclasses.replace(terminal.identity, mac_key=key)
    return Terminal(identity, terminal.connection, terminal.timeout_s)


def check_value(entry: dict[str, Any], key: bytes) -> str:
    if entry["mac"] == "retail-mac":
        return psec.des.encrypt_tdes_ecb(key, bytes(8))[:3].hex().upper()
    return mac_of_nothing(key)[:3].hex().upper()


def mac_of_nothing(key: bytes) -> bytes:
    """CMAC over one block of zeros (X9.24-1, the check value of an AES key)."""
    context = CMAC(AES(key))
    context.update(bytes(16))
    return context.finalize()


def test_a_new_mac_key_is_handed_out_and_used(changing: Demo, entry: dict[str, Any]) -> None:
    card = changing.cards.active()
    with changing.pos(entry) as old:
        reply = ask(old)
        assert (reply.mti, reply.code, reply.fields[70]) == ("0810", "00", "101")
        header, key = opened(entry, reply)
        expected = ("D", "M6", "A") if entry["mac"] == "aes-cmac" else ("B", "M3", "T")
        assert (header.version_id, header.key_usage, header.algorithm) == expected
        assert (header.mode_of_use, header.version_num, header.exportability) == ("C", "02", "N")
        assert len(key) == 16
        assert key.hex().upper() != entry["mac_key"]
        assert reply.private["KC"] == check_value(entry, key)
        # the old one is in force until the new one is used
        assert old.redeem(card, 100, de53="0100000000000000").available_minor == 9900
        new = with_key(old, key)
        used = new.redeem(card, 100, de53="0200000000000000")
        assert (used.available_minor, used.fields[53]) == (9800, "0200000000000000")
        # and taken for a while after that, named or not
        assert old.redeem(card, 100, de53="0100000000000000").available_minor == 9700
        assert old.redeem(card, 100).available_minor == 9600
        assert new.redeem(card, 100).available_minor == 9500


def test_a_repeat_carries_the_same_block(changing: Demo, entry: dict[str, Any]) -> None:
    with changing.pos(entry) as terminal:
        request = terminal.make.network(KEY_CHANGE)
        first = terminal.exchange(request)
        assert terminal.exchange(request).private["KB"] == first.private["KB"]
        # its answer was lost for good, and the terminal asks anew: the key is still unused
        assert ask(terminal).private["KB"] == first.private["KB"]
        _, key = opened(entry, first)
        renewed = with_key(terminal, key)
        assert renewed.echo().code == "00"
        header, another = opened(entry, ask(renewed))
        assert header.version_num == "03"
        assert another != key
        # a repeat that was under way all the time gets what its request was given
        assert terminal.repeat(request).private["KB"] == first.private["KB"]


def test_a_new_pin_key(changing: Demo) -> None:
    entry = take(changing, "aes-cmac")
    card = changing.cards.active()
    with changing.pos(entry) as terminal:
        reply = ask(terminal, KU="PIN")
        header, key = opened(entry, reply)
        assert (header.key_usage, header.algorithm, header.mode_of_use) == ("P0", "T", "E")
        assert terminal.redeem(card, 100, pin=card.pin).code == "00"
        identity = dataclasses.replace(terminal.identity, pin_key=key)
        new = Terminal(identity, terminal.connection)
        assert new.redeem(card, 100, pin=card.pin, de53="0002000000000000").code == "00"
        # the old one for a while, named or not
        assert terminal.redeem(card, 100, pin=card.pin, de53="0001000000000000").code == "00"
        assert terminal.redeem(card, 100, pin=card.pin).code == "00"
        assert new.redeem(card, 100, pin=card.pin, de53="0009000000000000").code == "30"
        assert new.redeem(card, 100, pin="0000" if card.pin != "0000" else "1111").code == "55"
        # and asking again gives yet another: the new one is known to be in use
        assert int(opened(entry, ask(terminal, KU="PIN"))[0].version_num) == 3


def test_a_new_pin_key_is_known_wherever_it_is_used(changing: Demo) -> None:
    """Used at once and unnamed, on a dozen connections: no right PIN is ever called wrong."""
    entry = take(changing, "retail-mac")
    card = changing.cards.active()
    with ExitStack() as stack:
        others = [stack.enter_context(changing.pos(entry)) for _ in range(12)]
        known: list[bytes] = [b""]
        for asking in others[:2]:
            # that the last one is in use is known everywhere a moment after it was
            reply = eventually(lambda at=asking: fresh(ask(at, KU="PIN"), known), 10)
            key = opened(entry, reply)[1]
            known.append(key)
            for other in others:
                identity = dataclasses.replace(other.identity, pin_key=key)
                new = Terminal(identity, other.connection)
                assert new.redeem(card, 10, pin=card.pin).code == "00"


def test_what_is_no_kind_of_key_is_refused(changing: Demo) -> None:
    with changing.pos(changing.pos_entries[0]) as terminal:
        reply = ask(terminal, KU="XYZ")
        assert (reply.code, reply.why) == ("12", "OPERATION")
        assert "KB" not in reply.private


def test_no_bit_of_a_mac_may_differ(changing: Demo, entry: dict[str, Any]) -> None:
    """Under the old, the current and the pending key alike, at any worker."""
    card = changing.cards.active()
    keys = [bytes.fromhex(entry["mac_key"])]
    with changing.pos(entry) as terminal:
        keys.append(opened(entry, ask(terminal))[1])
        current = with_key(terminal, keys[1])
        assert current.echo().code == "00"
        keys.append(opened(entry, eventually(lambda: fresh(ask(current), keys), 10))[1])
        chance = random.Random(1)
        for key in keys:
            forger = with_key(terminal, key)
            request = forger.make.redeem(card, 100)
            for bit in chance.sample(range(64), 6):
                frame = bytearray(request.frame)
                frame[-1 - bit // 8] ^= 1 << bit % 8
                forger.connection.send_frames([bytes(frame)])
                reply = forger.receive_any()
                assert reply.code == "63", bit
        assert with_key(terminal, keys[1]).balance(card).available_minor == 10000


def fresh(reply: Reply, keys: list[bytes]) -> Reply | None:
    return reply if psec_version(reply) > len(keys) else None


def psec_version(reply: Reply) -> int:
    return int(reply.private["KB"][9:11])


def test_a_new_key_is_known_wherever_it_is_used(changing: Demo, entry: dict[str, Any]) -> None:
    """Handed out by one worker, used at once on a dozen connections, which reach them all."""
    card = changing.cards.active()
    with ExitStack() as stack:
        others = [stack.enter_context(changing.pos(entry)) for _ in range(12)]
        key = opened(entry, ask(others[0]))[1]
        for other in others:
            reply = with_key(other, key).balance(card, de53="0200000000000000")
            assert reply.code == "00"
        for other in others:
            assert other.balance(card).code == "00", "the old one inside its window"


def test_nothing_fails_while_keys_change_under_load(changing: Demo) -> None:
    entry = take(changing, "retail-mac")
    cards = [changing.cards.active() for _ in range(3)]
    keys = [bytes.fromhex(entry["mac_key"])]
    over = threading.Event()
    held = [keys[0]] * len(cards)
    codes: list[str] = []
    problems: list[BaseException] = []

    def trade(number: int) -> None:
        """A lane of the terminal, which goes over to a new key at its own time."""
        try:
            with changing.pos(entry) as terminal:
                chance = random.Random(number)
                while not over.is_set():
                    if chance.random() < 0.1:
                        held[number] = keys[-1]
                    reply = with_key(terminal, held[number]).redeem(cards[number], 1)
                    codes.append(reply.code)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=trade, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    with changing.pos(entry) as terminal:
        for change in range(4):
            asking = with_key(terminal, keys[-1])
            request = asking.make.network(KEY_CHANGE)
            if change % 2:  # the answer is lost, and it asks again
                asking.send(request)
            keys.append(opened(entry, asking.exchange(request))[1])
            # the next change only when every lane has gone over: only one old key is taken
            eventually(lambda: problems or set(held) == {keys[-1]}, 30)
    over.set()
    for thread in threads:
        thread.join(30)
    assert not problems, problems
    assert set(codes) == {"00"}
    assert len(set(keys)) == 5
    assert len(codes) > 100


def test_a_worker_that_dies_takes_no_key_along(changing: Demo, entry: dict[str, Any]) -> None:
    card = changing.cards.active()
    with changing.pos(entry) as terminal:
        used = opened(entry, ask(terminal))[1]
        assert with_key(terminal, used).echo().code == "00"
        asking = with_key(terminal, used)
        pending = opened(entry, eventually(lambda: fresh(ask(asking), [b""]), 10))[1]
    pids = json.loads((changing.data / "demo.json").read_text())["pids"]["workers"]
    for worker in pids:  # an earlier round may have killed one that has not been named anew yet
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def approves(key: bytes) -> bool:
        with changing.pos(entry) as again:
            return with_key(again, key).balance(card).code == "00"

    for key in (bytes.fromhex(entry["mac_key"]), used, pending):
        eventually(lambda key=key: approves(key), 20)


def test_keys_are_kept_under_the_master_key_and_nobody_may_touch_them(changing: Demo) -> None:
    entry = take(changing, "aes-cmac")
    with changing.pos(entry) as terminal:
        reply = ask(terminal)
    key = opened(entry, reply)[1]

    async def look() -> tuple[Any, list[str]]:
        async with trio_asyncio.open_loop():
            connect = trio_asyncio.aio_as_trio(asyncpg.connect)
            connection = await connect(changing.json["postgres"])
            row = await trio_asyncio.aio_as_trio(connection.fetchrow)(
                "select * from key_change where terminal_id = $1", int(entry["id"])
            )
            refused = []
            await trio_asyncio.aio_as_trio(connection.execute)("set role cardswitch_app")
            for statement in (
                "delete from key_change",
                "update key_change set block = ''",
                "insert into key_change (terminal_id, usage, version, request_key, block, sent,"
                " check_value) select terminal_id, usage, 9, request_key, block, sent, check_value"
                " from key_change",
                "delete from terminal_key",
                "update terminal set key_version = 2",
                "update terminal_key set block = ''",
            ):
                try:
                    await trio_asyncio.aio_as_trio(connection.execute)(statement)
                except asyncpg.InsufficientPrivilegeError:
                    refused.append(statement)
            await trio_asyncio.aio_as_trio(connection.close)()
            return row, refused

    row, refused = trio.run(look)
    assert len(refused) == 6
    assert row["sent"] == reply.private["KB"]
    assert key.hex() not in str(dict(row)).lower()
    logged = changing.log.read_text(errors="replace").lower()
    assert key.hex() not in logged
    assert reply.private["KB"].lower() not in logged
    assert '"event":"key-handed-out"' in logged.replace(" ", "")
