"""The link as a state machine: no socket, no clock, and every rule in a few lines."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.framing import Header, pack, pack_many
from fastpath.specs import ISO87_ASCII
from switch.wire.link import (
    TRANSITIONS,
    CloseReason,
    Frame,
    Link,
    LinkConfig,
    LinkError,
    LinkEvent,
    LinkState,
    Role,
)

CONFIG = LinkConfig(
    name="test",
    header=Header.BINARY2,
    packager=ISO87_ASCII,
    acquirer_id="100001",
    frame_length_max=64,
    idle_timeout_s=300,
    half_frame_timeout_s=10,
    keepalives_per_minute_max=3,
    in_flight_max=4,
    send_buffer_bytes_max=1000,
)
KEEPALIVE = b"\x00\x00"
TOO_LONG = b"\x00\x41"
TPDU = bytes.fromhex("6000038001")
TPDU_SWAPPED = bytes.fromhex("6080010003")


def config(**changes: object) -> LinkConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def server(now: float = 0.0, **changes: object) -> Link:
    return Link(config(**changes), Role.SERVER, now)


def client(now: float = 0.0, **changes: object) -> Link:
    return Link(config(**changes), Role.CLIENT, now)


def framed(*messages: bytes, header: Header = Header.BINARY2) -> bytes:
    return pack_many(header, list(messages))


def messages_of(frames: list[Frame]) -> list[bytes]:
    return [frame.message for frame in frames]


class TestConfig:
    def test_own_acquirer_id_is_among_those_accepted(self) -> None:
        assert CONFIG.acquirer_ids == {"100001"}
        assert config(foreign_acquirer_ids=frozenset({"2"})).acquirer_ids == {"100001", "2"}

    @pytest.mark.parametrize(
        "changes",
        [
            {"frame_length_max": 0},
            {"idle_timeout_s": 0},
            {"half_frame_timeout_s": -1},
            {"keepalives_per_minute_max": -1},
            {"in_flight_max": 0},
            {"send_buffer_bytes_max": 0},
            {"client_tpdu": b"\x60"},
        ],
    )
    def test_nonsense_is_refused_by_name(self, changes: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(changes))):
            config(**changes)


class TestFrames:
    @given(
        messages=st.lists(st.binary(min_size=1, max_size=64), max_size=8),
        cuts=st.lists(st.integers(min_value=0, max_value=600), max_size=12),
        header=st.sampled_from([Header.BINARY2, Header.ASCII4]),
    )
    def test_any_cut_gives_the_same_frames(
        self, messages: list[bytes], cuts: list[int], header: Header
    ) -> None:
        stream = framed(*messages, header=header)
        edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        link = server(header=header)
        frames = []
        for start, end in itertools.pairwise(edges):
            frames += link.receive_bytes(stream[start:end], 0.0)
        assert frames == [Frame(message, b"") for message in messages]
        assert all(type(frame) is Frame for frame in frames)
        assert link.in_flight == len(messages)
        assert link.state is LinkState.SIGNED_OFF

    def test_tpdu_comes_off_and_goes_back_with_its_addresses_exchanged(self) -> None:
        link = server(header=Header.TPDU)
        [frame] = link.receive_bytes(pack(Header.TPDU, TPDU + b"0800"), 0.0)
        assert frame == Frame(b"0800", TPDU)
        reply = link.pack([Frame(b"0810", frame.tpdu)])
        assert reply == pack(Header.TPDU, TPDU_SWAPPED + b"0810")

    def test_a_clients_tpdu_is_its_own_and_not_swapped(self) -> None:
        link = client(header=Header.TPDU, client_tpdu=TPDU)
        sent = link.request(("k",), b"0800", 0.0, 5.0)
        assert sent == pack(Header.TPDU, TPDU + b"0800")
        assert link.pack([Frame(b"0810", TPDU)]) == pack(Header.TPDU, TPDU + b"0810")

    def test_replies_leave_as_one_piece_in_any_order(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a", b"b"), 0.0)
        assert link.pack([Frame(b"B", b""), Frame(b"A", b"")]) == framed(b"B", b"A")
        assert link.in_flight == 0

    @pytest.mark.parametrize(
        ("header", "bad", "reason"),
        [
            (Header.BINARY2, b"\x00\x41", CloseReason.FRAME_TOO_LONG),
            (Header.ASCII4, b"0065", CloseReason.FRAME_TOO_LONG),
            (Header.TPDU, b"\x00\x41", CloseReason.FRAME_TOO_LONG),
            (Header.ASCII4, b"00x5", CloseReason.BAD_HEADER),
            (Header.TPDU, b"\x00\x04", CloseReason.BAD_HEADER),
        ],
    )
    def test_a_header_that_cannot_be_followed_ends_the_link(
        self, header: Header, bad: bytes, reason: CloseReason
    ) -> None:
        link = server(header=header)
        good = TPDU + b"good" if header is Header.TPDU else b"good"
        frames = link.receive_bytes(pack(header, good) + bad, 0.0)
        assert messages_of(frames) == [b"good"]
        assert link.close_reason is reason
        # what came rightly before is still answered, nothing else is read
        assert link.state is LinkState.DRAINING
        assert link.receive_bytes(pack(header, good), 0.0) == []
        assert link.pack([Frame(b"reply", frames[0].tpdu)]) != b""
        assert link.state is LinkState.CLOSED

    def test_a_fault_with_nothing_owed_closes_at_once(self) -> None:
        link = server()
        assert link.receive_bytes(TOO_LONG, 0.0) == []
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.FRAME_TOO_LONG


class TestKeepalives:
    def test_they_are_counted_and_nothing_else(self) -> None:
        link = server()
        frames = link.receive_bytes(KEEPALIVE + framed(b"a") + KEEPALIVE, 0.0)
        assert messages_of(frames) == [b"a"]
        assert link.keepalives == 2
        assert link.in_flight == 1
        assert link.state is LinkState.SIGNED_OFF

    def test_more_than_the_maximum_within_a_minute_is_a_storm(self) -> None:
        link = server()
        link.receive_bytes(KEEPALIVE * 3, 0.0)
        assert link.state is LinkState.SIGNED_OFF
        link.receive_bytes(KEEPALIVE, 59.9)
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.KEEPALIVE_STORM
        assert link.keepalives == 4

    def test_the_minute_slides(self) -> None:
        link = server()
        for tenth in range(600):  # 3 a minute for ever, at odd moments
            link.receive_bytes(KEEPALIVE, tenth * 20.0)
            assert link.state is LinkState.SIGNED_OFF, tenth
        link.receive_bytes(KEEPALIVE * 2, 599 * 20.0 + 19)
        assert link.state is LinkState.CLOSED

    def test_a_storm_in_one_read_still_delivers_its_messages(self) -> None:
        link = server()
        frames = link.receive_bytes(KEEPALIVE * 50 + framed(b"a"), 0.0)
        assert messages_of(frames) == [b"a"]
        assert link.state is LinkState.DRAINING
        link.pack([Frame(b"A", b"")])
        assert link.state is LinkState.CLOSED

    def test_none_at_all_may_be_allowed(self) -> None:
        link = server(keepalives_per_minute_max=0)
        link.receive_bytes(KEEPALIVE, 0.0)
        assert link.close_reason is CloseReason.KEEPALIVE_STORM


class TestTime:
    def test_idle(self) -> None:
        link = server(now=100.0)
        assert link.next_deadline() == 400.0
        link.receive_bytes(KEEPALIVE, 150.0)
        assert link.next_deadline() == 450.0
        link.on_deadline(449.9)
        assert link.state is LinkState.SIGNED_OFF
        link.on_deadline(450.0)
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.IDLE
        assert link.next_deadline() is None

    def test_a_peer_that_waits_for_us_is_not_idle(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a"), 0.0)
        assert link.next_deadline() is None
        link.on_deadline(1e9)
        assert link.state is LinkState.SIGNED_OFF
        link.pack([Frame(b"A", b"")])
        assert link.next_deadline() == 300.0

    def test_half_frame_is_timed_from_its_first_byte(self) -> None:
        link = server()
        link.receive_bytes(b"\x00", 5.0)
        for tick in range(6, 15):  # one byte a second does not buy time
            link.receive_bytes(b"\x10" if tick == 6 else b"x", float(tick))
            assert link.next_deadline() == 15.0
        link.on_deadline(15.0)
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.HALF_FRAME

    def test_half_frame_behind_a_whole_one_has_its_own_time(self) -> None:
        link = server()
        link.receive_bytes(b"\x00", 0.0)
        frames = link.receive_bytes(b"\x01a" + b"\x00\x05b", 8.0)
        assert messages_of(frames) == [b"a"]
        assert link.next_deadline() == 18.0
        link.on_deadline(18.0)
        assert link.state is LinkState.DRAINING  # "a" is still owed its answer
        link.pack([Frame(b"A", b"")])
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.HALF_FRAME

    def test_half_frame_behind_a_keepalive_has_its_own_time(self) -> None:
        link = server()
        link.receive_bytes(b"\x00", 0.0)
        link.receive_bytes(b"\x00" + b"\x00", 7.0)
        assert link.next_deadline() == 17.0

    def test_a_frame_that_ends_in_time_ends_its_deadline(self) -> None:
        link = server()
        link.receive_bytes(b"\x00\x02a", 0.0)
        assert link.next_deadline() == 10.0
        link.receive_bytes(b"b", 9.0)
        link.pack([Frame(b"AB", b"")])
        assert link.next_deadline() == 309.0

    def test_infinite_time_is_no_deadline(self) -> None:
        link = server(idle_timeout_s=math.inf)
        assert link.next_deadline() is None
        link.on_deadline(1e12)
        assert link.state is LinkState.SIGNED_OFF


class TestBackPressure:
    def test_reading_stops_at_the_maximum_and_goes_on_below_it(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a", b"b", b"c"), 0.0)
        assert link.may_read()
        link.receive_bytes(framed(b"d", b"e"), 0.0)  # one read may exceed it
        assert link.in_flight == 5
        assert not link.may_read()
        link.pack([Frame(b"A", b"")])
        assert not link.may_read()
        link.release(1)
        assert link.may_read()

    def test_a_half_frame_held_back_by_us_is_not_the_peers_fault(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a", b"b", b"c", b"d") + b"\x00\x05e", 0.0)
        assert link.next_deadline() is None
        link.on_deadline(50.0)
        link.pack([Frame(b"R", b"")] * 4)
        deadline = link.next_deadline()
        assert deadline is not None
        link.on_deadline(60.0)  # its rest may lie in the socket: ten seconds from here
        assert link.state is LinkState.SIGNED_OFF
        assert link.next_deadline() == 70.0
        link.on_deadline(70.0)
        assert link.close_reason is CloseReason.HALF_FRAME

    def test_settling_more_than_was_delivered_is_our_fault(self) -> None:
        link = server()
        with pytest.raises(LinkError, match="1 frames settled"):
            link.pack([Frame(b"A", b"")])

    def test_a_slow_reader_is_cut_off(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a"), 0.0)
        link.queued(1000)
        assert link.state is LinkState.SIGNED_OFF
        link.queued(1001)
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.SLOW_READER
        assert not link.may_read()
        assert link.pack([Frame(b"A", b"")]) == b""
        assert link.in_flight == 0


class TestSignOn:
    def test_required(self) -> None:
        link = server(sign_on_required=True)
        assert not link.may_transact()
        link.signed_on()
        assert link.state is LinkState.SIGNED_ON
        assert link.may_transact()
        link.signed_on()
        assert link.state is LinkState.SIGNED_ON
        link.signed_off()
        assert link.state is LinkState.SIGNED_OFF
        assert not link.may_transact()

    def test_not_required(self) -> None:
        link = server()
        assert link.may_transact()
        link.lost()
        assert not link.may_transact()

    def test_frames_read_before_a_drain_are_served_as_they_would_have_been(self) -> None:
        signed_on = server(sign_on_required=True)
        signed_on.signed_on()
        stranger = server(sign_on_required=True)
        for link in (signed_on, stranger):
            link.receive_bytes(framed(b"a"), 0.0)
            link.drain()
            assert link.state is LinkState.DRAINING
        assert signed_on.may_transact()
        assert not stranger.may_transact()


class TestEnds:
    def test_half_closed_peer_still_gets_its_answers(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a"), 0.0)
        link.receive_eof(1.0)
        assert link.state is LinkState.DRAINING
        assert not link.may_read()
        assert link.pack([Frame(b"A", b"")]) == framed(b"A")
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.PEER

    def test_lost_peer_gets_nothing(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a"), 0.0)
        link.lost()
        assert link.state is LinkState.CLOSED
        assert link.pack([Frame(b"A", b"")]) == b""
        assert link.in_flight == 0

    def test_server_drains(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a", b"b"), 0.0)
        link.drain()
        assert link.receive_bytes(framed(b"c"), 0.0) == []
        assert link.next_deadline() is None
        link.pack([Frame(b"A", b"")])
        assert link.state is LinkState.DRAINING
        link.release(1)
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.DRAINED

    def test_the_first_reason_stays(self) -> None:
        link = server()
        link.receive_bytes(framed(b"a"), 0.0)
        link.drain()
        link.receive_eof(0.0)
        link.lost()
        assert link.close_reason is CloseReason.DRAINED

    def test_repr_says_where_it_stands(self) -> None:
        link = server()
        link.receive_eof(0.0)
        assert repr(link) == "<Link test server closed (peer)>"


class TestClient:
    def test_answers_are_matched_once(self) -> None:
        link = client()
        assert link.request(("0210", "000001"), b"m", 0.0, 5.0) == framed(b"m")
        assert link.in_flight == 1
        assert not link.match(("0210", "000002"))
        assert link.match(("0210", "000001"))
        assert not link.match(("0210", "000001"))
        assert link.in_flight == 0
        assert link.expired(1e9) == []

    def test_requests_expire_in_order_of_their_deadlines(self) -> None:
        link = client(idle_timeout_s=math.inf)
        link.request(("slow",), b"m", 0.0, 30.0)
        link.request(("quick",), b"m", 1.0, 5.0)
        link.request(("answered",), b"m", 1.0, 2.0)
        assert link.next_deadline() == 3.0
        assert link.match(("answered",))
        assert link.next_deadline() == 6.0
        assert link.expired(5.9) == []
        assert link.expired(6.0) == [("quick",)]
        assert link.expired(100.0) == [("slow",)]
        assert link.expired(100.0) == []
        assert link.next_deadline() is None

    def test_a_key_may_be_used_again_after_its_answer(self) -> None:
        link = client(idle_timeout_s=math.inf)
        link.request(("k",), b"m", 0.0, 5.0)
        assert link.match(("k",))
        link.request(("k",), b"m", 1.0, 20.0)
        assert link.expired(10.0) == []
        assert link.expired(21.0) == [("k",)]

    def test_deadlines_of_answered_requests_do_not_pile_up(self) -> None:
        link = client(idle_timeout_s=math.inf)
        link.request(("first",), b"m", 0.0, 1.0)
        for number in range(10_000):
            key = (str(number),)
            link.request(key, b"m", 0.0, 1000.0)
            assert link.match(key)
        assert len(link._pending._heap) < 100
        assert link.expired(1.0) == [("first",)]

    def test_misuse(self) -> None:
        link = client()
        link.request(("k",), b"m", 0.0, 5.0)
        with pytest.raises(LinkError, match="already waiting"):
            link.request(("k",), b"m", 0.0, 5.0)
        link.drain()
        with pytest.raises(LinkError, match="draining"):
            link.request(("l",), b"m", 0.0, 5.0)
        with pytest.raises(LinkError, match="no requests"):
            server().request(("k",), b"m", 0.0, 5.0)

    def test_draining_client_hears_what_it_waits_for(self) -> None:
        link = client()
        link.request(("k",), b"m", 0.0, 5.0)
        link.drain()
        assert link.state is LinkState.DRAINING
        assert link.may_read()
        assert messages_of(link.receive_bytes(framed(b"M"), 1.0)) == [b"M"]
        assert link.match(("k",))
        assert link.state is LinkState.CLOSED
        assert link.close_reason is CloseReason.DRAINED

    def test_draining_client_does_not_wait_for_ever(self) -> None:
        link = client()
        link.request(("k",), b"m", 0.0, 5.0)
        link.drain()
        assert link.expired(5.0) == [("k",)]
        assert link.state is LinkState.CLOSED

    @pytest.mark.parametrize("end", ["eof", "lost", "fault"])
    def test_when_the_server_goes_all_requests_are_over(self, end: str) -> None:
        link = client()
        link.request(("a",), b"m", 0.0, 5.0)
        link.request(("b",), b"m", 0.0, 9.0)
        if end == "eof":
            link.receive_eof(1.0)
        elif end == "lost":
            link.lost()
        else:
            assert messages_of(link.receive_bytes(framed(b"x") + TOO_LONG, 1.0)) == [b"x"]
        assert link.state is LinkState.CLOSED
        assert link.expired(1.0) == [("a",), ("b",)]

    def test_waiting_is_not_idle(self) -> None:
        link = client(idle_timeout_s=3)
        link.request(("a",), b"m", 0.0, 5.0)
        assert link.next_deadline() == 5.0
        assert link.expired(5.0) == [("a",)]
        assert link.next_deadline() == 3.0


class TestPretendWire:
    """Two links joined by a wire that cuts where it likes: what one sends, the other gets."""

    @given(
        header=st.sampled_from(list(Header)),
        bodies=st.lists(st.binary(min_size=1, max_size=40), max_size=20),
        cuts=st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=10),
        order=st.randoms(use_true_random=False),
    )
    def test_every_request_gets_its_own_answer(
        self, header: Header, bodies: list[bytes], cuts: list[int], order: object
    ) -> None:
        near, far = client(header=header, in_flight_max=100), server(header=header)
        sent = b"".join(
            near.request((str(number),), bytes([number]) + body, 0.0, 5.0)
            for number, body in enumerate(bodies)
        )
        replies = [
            Frame(frame.message[:1] + b"reply", frame.tpdu)
            for piece in self.pieces(sent, cuts)
            for frame in far.receive_bytes(piece, 1.0)
        ]
        order.shuffle(replies)  # type: ignore[attr-defined]
        back = far.pack(replies)
        answered = [
            frame.message[0]
            for piece in self.pieces(back, cuts)
            for frame in near.receive_bytes(piece, 2.0)
            if near.match((str(frame.message[0]),))
        ]
        assert sorted(answered) == list(range(len(bodies)))
        assert near.in_flight == far.in_flight == 0
        near.drain()
        far.receive_eof(3.0)
        assert near.state is far.state is LinkState.CLOSED

    @staticmethod
    def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
        pieces = []
        for size in itertools.cycle(cuts):
            if not data:
                return pieces
            pieces.append(data[:size])
            data = data[size:]
        raise AssertionError("cuts must not be empty")


class TestTable:
    def test_every_event_is_told_in_every_state_where_it_can_happen(self) -> None:
        for state in LinkState:
            # only a draining link can be settled, a closed one hears everything
            impossible = {LinkEvent.SETTLED} if state.value.startswith("signed") else set()
            assert set(TRANSITIONS[state]) == set(LinkEvent) - impossible

    def test_closed_is_the_end(self) -> None:
        assert set(TRANSITIONS[LinkState.CLOSED].values()) == {LinkState.CLOSED}

    @given(
        role=st.sampled_from(Role),
        calls=st.lists(
            st.one_of(
                st.tuples(st.just("bytes"), st.binary(max_size=40)),
                st.tuples(
                    st.sampled_from(
                        ["eof", "sign_on", "sign_off", "drain", "lost", "deadline", "reply"]
                    ),
                    st.just(b""),
                ),
            ),
            max_size=30,
        ),
    )
    def test_no_order_of_events_breaks_it(self, role: Role, calls: list[tuple[str, bytes]]) -> None:
        link = Link(CONFIG, role, 0.0)
        owed = 0
        for now, (call, data) in enumerate(calls):
            was_closed = link.state is LinkState.CLOSED
            if call == "bytes":
                owed += len(link.receive_bytes(data, float(now)))
            elif call == "reply" and owed and role is Role.SERVER:
                owed -= 1
                link.pack([Frame(b"r", b"")])
            else:
                {
                    "eof": lambda now=now: link.receive_eof(now),
                    "sign_on": link.signed_on,
                    "sign_off": link.signed_off,
                    "drain": link.drain,
                    "lost": link.lost,
                    "deadline": lambda now=now: link.on_deadline(now * 100.0),
                    "reply": lambda: None,
                }[call]()
            if role is Role.SERVER:
                assert link.in_flight == owed
            assert not was_closed or link.state is LinkState.CLOSED
            assert (link.close_reason is None) == (
                link.state in {LinkState.SIGNED_OFF, LinkState.SIGNED_ON}
            )
            if link.state is LinkState.DRAINING:
                assert link.in_flight > 0
