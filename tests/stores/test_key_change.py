"""Key change over several workers on a real Postgres: in whatever order things happen."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import AsyncIterator
from typing import Any

import hypothesis
import pytest
import trio
from hypothesis import strategies as st
from key_world import WINDOW_S, Office, Till, World, opened
from store_sessions import Stores

from switch.journal.journal import JournalDown
from tests.client import dialect
from tests.client.dialect import MacKind
from tests.client.messages import Request
from tests.client.vocabulary import NetworkCode

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES")
KEY_CHANGE: Any = "101"
WORKERS = 2


@pytest.fixture
async def world(stores: Stores) -> AsyncIterator[World]:
    async with opened(stores) as one:
        yield one


class Story:
    """A terminal on two workers, and what must be true of every answer that it hears."""

    def __init__(self, world: World, till: Till, offices: list[Office]) -> None:
        self.world = world
        self.till = till
        self.offices = offices
        self.received = till.version
        """The newest version that the terminal holds."""
        self.asked: Request | None = None
        self.given: dict[str, str] = {}
        """What each request for a key (by STAN) was given."""
        self._out: dict[tuple[int, str], list[tuple[int, bool]]] = {}
        """Messages that were not answered yet, (version, lost) by worker and STAN."""

    async def ask(self, at: int, *, lost: bool) -> None:
        await self.settle()  # all connections have gone over before the next key is asked for
        self.asked = self.till.make().network(KEY_CHANGE)
        self._send(at, self.asked, lost=lost)

    async def repeat(self, at: int, *, lost: bool) -> None:
        if self.asked is not None:
            request = self.till.make().repeat(self.asked)
            self._send(at, request, lost=lost)

    async def use(self, at: int, *, newest: bool, named: bool) -> None:
        """An echo under the newest key that was received, or under the one in force before it."""
        if newest:
            self.till.put_to_use(self.received)
        version = self.till.order[-1 if newest else max(-2, -len(self.till.order))]
        control = {"de53": f"{version:02d}{0:014d}"} if named else {}
        request = self.till.make(version).network(NetworkCode.ECHO, **control)
        self._send(at, request, version=version)

    async def turn(self, at: int) -> None:
        await self.offices[at].turn()
        self._hear(at)

    async def die(self, at: int) -> None:
        """The worker is killed; what it had not answered is lost."""
        self._out = {where: left for where, left in self._out.items() if where[0] != at}
        self.offices[at] = await self.world.office()

    async def settle(self) -> None:
        for at in range(len(self.offices)):
            await self.turn(at)
            if any(waiting for (where, _), waiting in self._out.items() if where == at):
                await self.turn(at)  # a repeat under a key that only this look has made known
        assert not any(self._out.values()), "left without an answer"

    def _send(self, at: int, request: Request, *, version: int = 0, lost: bool = False) -> None:
        waiting = self._out.setdefault((at, request.fields[11]), [])
        waiting.append((version or self.till.version, lost))
        self.offices[at].deliver(request)
        self._hear(at)

    def _hear(self, at: int) -> None:
        for frame in self.offices[at].replies():
            stan = self.till.reply(frame, self.till.version).fields[11]
            version, lost = self._out[at, stan].pop(0)
            reply = self.till.reply(frame, version)
            assert (reply.code, reply.mac_ok) == ("00", True), (version, self.till.order)
            if "KB" not in reply.private:
                continue
            block = reply.private["KB"]
            assert self.given.setdefault(stan, block) == block, "a repeat got another key"
            if not lost:
                self.received = self.till.take(block)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "lose", "repeat", "lose repeat", "new", "old", "turn", "die"]),
        st.integers(0, WORKERS - 1),
        st.booleans(),
    ),
    max_size=25,
)


async def play(stores: Stores, kind: MacKind, steps: list[tuple[str, int, bool]]) -> None:
    async with opened(stores) as world:
        till = await world.till(kind)
        story = Story(world, till, [await world.office() for _ in range(WORKERS)])
        for name, at, named in steps:
            if name in ("ask", "lose"):
                await story.ask(at, lost=name == "lose")
            elif name in ("repeat", "lose repeat"):
                await story.repeat(at, lost=name == "lose repeat")
            elif name in ("new", "old"):
                await story.use(at, newest=name == "new", named=named)
            elif name == "turn":
                await story.turn(at)
            else:
                await story.die(at)
        await story.settle()
        # In the end both sides can talk, at any worker, and go over to yet another key.
        before = till.version
        await story.ask(0, lost=False)
        await story.settle()
        assert story.received != before
        for at in range(WORKERS):
            await story.use(at, newest=True, named=False)
            await story.settle()


@hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(st.sampled_from(list(MacKind)), STEPS)
@hypothesis.example(MacKind.RETAIL, [("ask", 0, False), ("new", 1, True), ("old", 0, True)])
@hypothesis.example(
    MacKind.RETAIL,
    [("ask", 1, False), ("ask", 0, False), ("new", 0, False), ("repeat", 0, False)],
)
@hypothesis.example(MacKind.AES_CMAC, [("lose", 0, False), ("die", 0, False), ("repeat", 1, True)])
def test_any_order_ends_with_both_sides_able_to_talk(
    stores: Stores, kind: MacKind, steps: list[tuple[str, int, bool]]
) -> None:
    trio.run(play, stores, kind, steps)


async def code_of(office: Office, till: Till, request: Request, version: int) -> str:
    """The answer to one message, after a look if it takes one."""
    office.deliver(request)
    if not office.line.sent:
        await office.turn()
    (frame,) = office.replies()
    return till.reply(frame, version).code


async def change(office: Office, till: Till, *, use: bool = True) -> int:
    """A whole key change at one worker; the new version."""
    office.deliver(till.make().network(KEY_CHANGE))
    await office.turn()
    (frame,) = office.replies()
    version = till.take(till.reply(frame, till.version).private["KB"])
    if use:
        till.put_to_use(version)
        assert await code_of(office, till, till.make().network(NetworkCode.ECHO), version) == "00"
        await office.turn()
    return version


async def test_versions_go_round(world: World) -> None:
    till = await world.till(version=98)
    office = await world.office()
    assert [await change(office, till) for _ in range(4)] == [99, 1, 2, 3]


async def test_the_window_ends_for_all_workers_alike(world: World) -> None:
    till = await world.till()
    first, second = await world.office(), await world.office(window_s=99_999)
    await change(first, till)
    await second.turn()
    for office in (first, second):
        keys = office.intake.programme.terminals[till.code].keys
        rows = await world.run(
            "select extract(epoch from activated_at)::float8 as since from key_change"
            " where terminal_id = $1",
            till.number,
        )
        assert keys._previous_until_s == pytest.approx(rows[0]["since"] + WINDOW_S, abs=0.001)
    old = till.make(1)
    assert await code_of(second, till, old.network(NetworkCode.ECHO), 1) == "00"
    await world.run(
        "update key_change set activated_at = activated_at - interval '2 hours'"
        " where terminal_id = $1 returning 1 as done",
        till.number,
    )
    await world.run("update terminal set enabled = true where terminal_id = $1", till.number)
    for office in (first, second):
        await office.turn()
        for named in ({}, {"de53": "0100000000000000"}):
            assert await code_of(office, till, old.network(NetworkCode.ECHO, **named), 1) == "63"
        assert await code_of(office, till, till.make().network(NetworkCode.ECHO), 2) == "00"


async def test_keys_are_removed_when_their_window_is_over(world: World) -> None:
    till = await world.till()
    office = await world.office()
    for _ in range(3):
        await change(office, till)
    pending = await change(office, till, use=False)

    async def left() -> list[int]:
        rows = await world.run(
            "select version from key_change where terminal_id = $1 union all"
            " select version from terminal_key where terminal_id = $1 and usage = 'mac'",
            till.number,
        )
        return sorted(row["version"] for row in rows)

    await office.desk.retire()
    assert await left() == [1, 2, 3, 4, pending]  # all windows are open still
    await world.run(
        "update key_change set activated_at = activated_at - interval '2 hours'"
        " where terminal_id = $1 and activated_at is not null returning 1 as done",
        till.number,
    )
    await office.desk.retire()
    assert await left() == [4, pending]  # the current one, and the one to come
    await office.turn()
    keys = office.intake.programme.terminals[till.code].keys
    assert sorted(keys._mac_keys) == [4, pending]
    assert await code_of(office, till, till.make().network(NetworkCode.ECHO), 4) == "00"
    till.put_to_use(pending)
    assert await code_of(office, till, till.make().network(NetworkCode.ECHO), pending) == "00"
    kek = await world.run(
        "select 1 as one from terminal_key where terminal_id = $1 and usage = 'kek'", till.number
    )
    assert len(kek) == 1


async def test_a_key_by_hand_ends_what_was_handed_out(world: World) -> None:
    till = await world.till()
    office = await world.office()
    await change(office, till)
    await change(office, till, use=False)
    by_hand = bytes(range(16, 32))
    await world.issue(till, 9, by_hand)
    await office.turn()
    assert await code_of(office, till, till.make().network(NetworkCode.ECHO), 2) == "00"
    await world.run("update terminal set key_version = 9 where terminal_id = $1", till.number)
    await office.turn()
    for version in (1, 2, 3):
        request = till.make(version).network(NetworkCode.ECHO)
        assert await code_of(office, till, request, version) == "63"
    till.keys[9] = by_hand
    till.put_to_use(9)
    assert await code_of(office, till, till.make().network(NetworkCode.ECHO), 9) == "00"
    assert await change(office, till) == 10


@pytest.mark.parametrize("kind", list(MacKind))
async def test_no_bit_of_a_message_may_differ(world: World, kind: MacKind) -> None:
    """Under the previous, the current and the pending key, named or not, known here or not."""
    till = await world.till(kind)
    ahead, behind = await world.office(), await world.office()
    await change(ahead, till)
    pending = await change(ahead, till, use=False)
    flipped = []
    for version, named in itertools.product((1, 2, pending), (False, True)):
        control = {"de53": f"{version:02d}{0:014d}"} if named else {}
        request = till.make(version).network(NetworkCode.ECHO, **control)
        for bit in range(10 * 8, len(request.frame) * 8):  # after message type and bitmap
            frame = bytearray(request.frame)
            frame[bit // 8] ^= 1 << bit % 8
            flipped.append((bit, dataclasses.replace(request, frame=bytes(frame))))
    for office in (ahead, behind):
        for bit, request in flipped:
            in_mac = bit >= (len(request.frame) - 8) * 8
            office.deliver(request)
            if not office.line.sent and not office.line.dropped:
                await office.turn()
            replies = [till.reply(frame, 1) for frame in office.replies()]
            assert len(replies) + office.line.dropped == 1
            assert all(reply.mac_ok is None for reply in replies)
            codes = {reply.code for reply in replies}
            assert codes == {"63"} if in_mac else codes <= {"63", "30", "58"}
            office.line.dropped = 0
        assert await code_of(office, till, till.make().network(NetworkCode.ECHO), 2) == "00"
    rows = await world.run(
        "select 1 as one from key_change where terminal_id = $1 and activated_at is null",
        till.number,
    )
    assert len(rows) == 1, "a forged message was taken for the first use"


@pytest.mark.parametrize("code", ["001", "002", "101", "301"])
async def test_all_repeats_of_a_network_message_are_answered_alike(world: World, code: str) -> None:
    till = await world.till()
    first, second = await world.office(), await world.office()
    asked: Any = code
    request = till.make().network(asked)
    blocks = set()
    for office, mti in itertools.product((first, second), ("0800", "0801", "0820", "0821", "0800")):
        again = till.make().build(mti, request.fields, {}, {}, None)
        office.deliver(again)
        if not office.line.sent:
            await office.turn()
        (frame,) = office.replies()
        reply = till.reply(frame, 1)
        assert (reply.mti, reply.code, reply.mac_ok) == (dialect.reply_mti(mti), "00", True)
        assert reply.fields[70] == code
        blocks.add(reply.private.get("KB"))
    assert len(blocks) == 1
    assert (None not in blocks) is (code == "101")


async def test_what_was_sent_under_an_old_kek_is_sent_no_more(world: World) -> None:
    till = await world.till()
    office = await world.office()
    await change(office, till, use=False)
    till.kek = bytes(range(32, 48))
    await world.give_kek(till, version=2)
    assert await change(office, till) == 2  # opened under the new one
    assert await code_of(office, till, till.make().network(NetworkCode.ECHO), 2) == "00"


class Counted:
    """A session that counts what is asked of Postgres, and may be down."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.count = 0
        self.down: Exception | None = None

    async def rows(self, query: str, *args: Any) -> list[Any]:
        self.count += 1
        if self.down is not None:
            raise self.down
        return await self._session.rows(query, *args)

    async def confirm(self) -> None:
        if self.down is not None:
            raise self.down
        await self._session.confirm()


async def counted(world: World) -> tuple[Office, Counted]:
    office = await world.office()
    session = Counted(office.session)
    office.desk._session = session  # type: ignore[assignment]
    office.source._rows = session.rows
    return office, session


async def test_a_flood_of_wrong_macs_is_no_flood_of_reads(world: World) -> None:
    till = await world.till()
    office, session = await counted(world)
    forger = till.make(key=bytes(16))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(office.desk.run)
        await trio.sleep(0.3)  # one look before
        before, sent = session.count, 0
        with trio.move_on_after(1.0):
            while True:
                office.deliver(*(forger.network(NetworkCode.ECHO) for _ in range(50)))
                sent += 50
                await trio.sleep(0.01)
        await trio.sleep(0.3)
        reads = session.count - before
        nursery.cancel_scope.cancel()
    assert sent > 500
    codes = [till.reply(frame, 1) for frame in office.replies()]
    assert len(codes) == sent
    assert {reply.code for reply in codes} <= {"63", "91"}
    assert all(reply.mac_ok is None for reply in codes)
    assert reads <= 3 * 15  # three statements a look, ten looks a second


async def test_a_wrong_mac_under_a_version_that_is_known_asks_nobody(world: World) -> None:
    till = await world.till()
    office, session = await counted(world)
    before = session.count
    request = till.make(key=bytes(16)).network(NetworkCode.ECHO, de53="0100000000000000")
    office.deliver(request)
    assert till.reply(office.replies()[0], 1).code == "63"
    assert session.count == before


async def test_while_postgres_is_down(world: World) -> None:
    """91 for what cannot be known, nothing else; then all goes on."""
    till = await world.till()
    office, session = await counted(world)
    other = await world.office()
    version = await change(other, till, use=False)
    session.down = JournalDown("gone")
    new, old = till.make(version), till.make(1)
    office.deliver(new.network(NetworkCode.ECHO))
    await office.turn()
    reply = till.reply(office.replies()[0], version)
    assert (reply.code, reply.mac_ok, reply.why) == ("91", None, "STORE")
    office.deliver(old.network(KEY_CHANGE))
    await office.turn()
    reply = till.reply(office.replies()[0], 1)
    assert (reply.code, reply.mac_ok, "KB" in reply.private) == ("91", True, False)
    assert await code_of(office, till, old.network(NetworkCode.ECHO), 1) == "00"
    session.down = None
    assert await code_of(office, till, new.network(NetworkCode.ECHO), version) == "00"


async def test_the_asking_of_many_keeps_no_other_waiting(world: World) -> None:
    greedy, till = await world.till(), await world.till()
    office, other = await world.office(), await world.office()
    version = await change(other, till, use=False)
    office.deliver(*(greedy.make().network(KEY_CHANGE) for _ in range(200)))
    office.deliver(till.make(version).network(NetworkCode.ECHO))
    await office.turn()
    frames = office.replies()
    assert 1 < len(frames) < 40
    own = [till.reply(frame, version) for frame in frames]
    assert any(reply.fields[41] == till.code and reply.code == "00" for reply in own)


async def test_a_terminal_without_a_kek_is_given_nothing(world: World) -> None:
    till = await world.till()
    await world.run(
        "delete from terminal_key where terminal_id = $1 and usage = 'kek' returning 1 as done",
        till.number,
    )
    office = await world.office()
    assert await code_of(office, till, till.make().network(KEY_CHANGE), 1) == "96"
    assert not await world.run("select from key_change where terminal_id = $1", till.number)
