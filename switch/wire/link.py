"""One connection that carries ISO 8583 messages, without the connection.

Theory of operation
===================

A `Link` is told what happened and says what to do. It is told: these bytes came, the peer closed
its side, this moment was reached, these replies are ready, so many bytes could not be sent yet.
It says: these frames are complete, send these bytes, do not read now, wake me at that moment, close
the connection for this reason. It owns no socket, reads no clock and waits for nothing, so that
each of its rules is tested in a line. `now` is always in seconds on any clock that never goes back.

The same machine plays both ends. A *server* owes one reply for every frame it delivered
(`in_flight` counts what it owes) and answers with `pack`; a *client* sends with `request`, and
`in_flight` counts the requests it waits for.

Signing on says who may move money on this connection. It ends with the connection, and a link that
needs no sign-on (`sign_on_required` false) may transact while it is signed off. The table
`TRANSITIONS` below is the whole of it:

    SIGNED_OFF  the beginning
    SIGNED_ON   a 0800 with DE 70 = 001 was approved
    DRAINING    a server reads no more and still sends what it owes; a client sends no more and
                still reads what it waits for. By `drain`, or, at a server, because the peer closed
                its side or broke a rule of the transport
    CLOSED      close the connection now. `close_reason` says why

A peer's fault never loses the answers to what it sent rightly before: these frames are delivered,
the server's link drains, and closes with the last reply. Cut off at once are only a peer that does
not take its replies (`SLOW_READER`) and, by a client, a server at fault: no answer can come any
more. After every call but `request`, `queued` included, the caller first sends the bytes it got,
then looks at `state`.

Faults of the peer close the link and are never raised; `LinkError` is a fault of the caller.
"""

from __future__ import annotations

import enum
import functools
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from fastpath.framing import FrameBuffer, Header, pack_many, swap_tpdu
from switch.wire.link_config import TPDU_LENGTH, CloseReason, Frame, LinkConfig, Role
from switch.wire.pending import PendingRequests, RequestKey

__all__ = [
    "TRANSITIONS",
    "CloseReason",
    "Frame",
    "Link",
    "LinkConfig",
    "LinkError",
    "LinkEvent",
    "LinkState",
    "Role",
]

MINUTE_S: Final = 60.0


class LinkState(enum.Enum):
    """Where a link stands; see the theory of operation above."""

    SIGNED_OFF = "signed-off"
    SIGNED_ON = "signed-on"
    DRAINING = "draining"
    CLOSED = "closed"


_CLOSED = LinkState.CLOSED  # Python 3.11 looks a member up in 140 ns, each time


class LinkEvent(enum.Enum):
    """What moves a link from one state to another."""

    SIGN_ON = "sign-on"
    SIGN_OFF = "sign-off"
    STOP = "stop"  # nothing new is begun
    SETTLED = "settled"  # nothing is owed or waited for any more
    CUT = "cut"  # close at once


TRANSITIONS: Final[dict[LinkState, dict[LinkEvent, LinkState]]] = {
    LinkState.SIGNED_OFF: {
        LinkEvent.SIGN_ON: LinkState.SIGNED_ON,
        LinkEvent.SIGN_OFF: LinkState.SIGNED_OFF,
        LinkEvent.STOP: LinkState.DRAINING,
        LinkEvent.CUT: LinkState.CLOSED,
    },
    LinkState.SIGNED_ON: {
        LinkEvent.SIGN_ON: LinkState.SIGNED_ON,
        LinkEvent.SIGN_OFF: LinkState.SIGNED_OFF,
        LinkEvent.STOP: LinkState.DRAINING,
        LinkEvent.CUT: LinkState.CLOSED,
    },
    LinkState.DRAINING: {
        LinkEvent.SIGN_ON: LinkState.DRAINING,
        LinkEvent.SIGN_OFF: LinkState.DRAINING,
        LinkEvent.STOP: LinkState.DRAINING,
        LinkEvent.SETTLED: LinkState.CLOSED,
        LinkEvent.CUT: LinkState.CLOSED,
    },
    LinkState.CLOSED: dict.fromkeys(LinkEvent, LinkState.CLOSED),
}
"""Every pair of state and event that may meet. A pair that is not here is a fault of this file."""

_OPEN = frozenset({LinkState.SIGNED_OFF, LinkState.SIGNED_ON})
_READING_STATES = {Role.SERVER: _OPEN, Role.CLIENT: _OPEN | {LinkState.DRAINING}}


class LinkError(RuntimeError):
    """The caller used a link in a way that its state forbids."""


# `Frame(...)` is a Python call, which would cost more than all else that is done to a frame here.
_new_frame: Callable[[tuple[bytes, bytes]], Frame] = functools.partial(tuple.__new__, Frame)


class Link:
    """One end of one connection. See the theory of operation at the top of this file.

    `state`, `close_reason`, `keepalives` (length-0 frames seen) and `in_flight` are there to be
    read. A client names its requests by keys of its own making, usually reply MTI, terminal and
    STAN.
    """

    __slots__ = (
        "_buffer",
        "_half_frame_since",
        "_held_back",
        "_is_server",
        "_keepalive_times",
        "_last_heard",
        "_pending",
        "_reading",
        "_reading_states",
        "_signed_on",
        "_tpdu",
        "close_reason",
        "config",
        "in_flight",
        "keepalives",
        "role",
        "state",
    )

    def __init__(self, config: LinkConfig, role: Role, now: float) -> None:
        self.config = config
        self.role = role
        self.state = LinkState.SIGNED_OFF
        self.close_reason: CloseReason | None = None
        self.keepalives = 0
        self.in_flight = 0
        self._is_server = role is Role.SERVER
        self._tpdu = config.header is Header.TPDU
        self._buffer = FrameBuffer(config.header, config.frame_length_max)
        self._reading_states = _READING_STATES[role]
        self._reading = True  # whether `state` is one of these; hashing an enum costs on each read
        self._signed_on = False
        self._last_heard = now
        self._half_frame_since: float | None = None
        self._held_back = False
        self._keepalive_times: deque[tuple[float, int]] = deque()
        self._pending = PendingRequests()

    def __repr__(self) -> str:
        reason = f" ({self.close_reason.value})" if self.close_reason else ""
        return f"<Link {self.config.name} {self.role.value} {self.state.value}{reason}>"

    # Bytes in

    def receive_bytes(self, data: bytes | bytearray | memoryview, now: float) -> list[Frame]:
        """The frames that these bytes complete, in order. Bytes after the link's end are dropped.

        Frames before a fault of the transport are still delivered and still owed an answer.
        """
        if not self._reading:
            return []
        buffer = self._buffer
        messages = buffer.feed(data)
        self._last_heard = now
        heard_keepalives = buffer.keepalives != self.keepalives
        if not buffer.pending:
            self._half_frame_since = None
        elif messages or heard_keepalives or self._half_frame_since is None:
            self._half_frame_since = now  # this frame's first bytes came now
        if self._is_server:
            self.in_flight += len(messages)
            self._held_back = self.in_flight >= self.config.in_flight_max
        if heard_keepalives:
            self._count_keepalives(buffer.keepalives - self.keepalives, now)
        if buffer.error is not None:
            too_long = buffer.error.reason == "frame is longer than the link allows"
            self._stop(CloseReason.FRAME_TOO_LONG if too_long else CloseReason.BAD_HEADER)
        if self._tpdu:
            return [Frame(message[TPDU_LENGTH:], message[:TPDU_LENGTH]) for message in messages]
        return [_new_frame((message, b"")) for message in messages]

    def receive_eof(self, now: float) -> None:
        """The peer closed its side. What it is owed may still be sent: it may be waiting for it."""
        self._last_heard = now
        self._stop(CloseReason.PEER)

    def may_read(self) -> bool:
        """Whether to read on. False is the back-pressure on a peer that is ahead of us."""
        if not self._reading:
            return False
        return not self._is_server or self.in_flight < self.config.in_flight_max

    # Bytes out

    def pack(self, replies: list[Frame]) -> bytes:
        """The bytes of all these messages at once; b"" when nobody is there to get them.

        A server gives the frames' TPDUs as they came; their addresses are exchanged here. Each
        reply settles one frame.
        """
        data = b""
        if self.state is not LinkState.CLOSED:
            if not self._tpdu:
                messages = [frame.message for frame in replies]
            elif self._is_server:
                messages = [swap_tpdu(frame.tpdu) + frame.message for frame in replies]
            else:
                messages = [frame.tpdu + frame.message for frame in replies]
            data = pack_many(self.config.header, messages)
        if self._is_server:
            self.release(len(replies))
        return data

    def release(self, count: int) -> None:
        """Settle `count` delivered frames of a server (those that get no reply, and by `pack`)."""
        if count > self.in_flight:
            raise LinkError(f"{count} frames settled, {self.in_flight} were in flight")
        self.in_flight -= count
        self._settle()

    def queued(self, unsent_bytes: int) -> None:
        """Say how many bytes wait to be sent. A peer that reads too slowly is cut off."""
        if unsent_bytes > self.config.send_buffer_bytes_max:
            self._cut(CloseReason.SLOW_READER)

    # Signing on, and the end

    def signed_on(self) -> None:
        """The operation 0800/001 was approved."""
        self._signed_on = True
        self._move(LinkEvent.SIGN_ON)

    def signed_off(self) -> None:
        """The operation 0800/002 was approved."""
        self._signed_on = False
        self._move(LinkEvent.SIGN_OFF)

    def may_transact(self) -> bool:
        """Whether messages other than 08xx are served. Frames read before a drain still are."""
        if self.state is _CLOSED:
            return False
        return self._signed_on or not self.config.sign_on_required

    def drain(self) -> None:
        """Begin nothing new, end what was begun, then close."""
        self._stop(CloseReason.DRAINED)

    def lost(self) -> None:
        """The connection is broken: nothing can be sent or heard any more."""
        self._cut(CloseReason.PEER)

    # Time

    def next_deadline(self) -> float | None:
        """When `on_deadline` is to be called if nothing happens before; None: not at all.

        For a client also when its earliest request times out (then call `expired`).
        """
        earliest = min(*self._peer_deadlines(), self._pending.earliest())
        return None if earliest == math.inf else earliest

    def on_deadline(self, now: float) -> None:
        """A deadline was reached (being early does no harm)."""
        if self._held_back and self.may_read():
            # the rest of a half frame may have waited for us: its time begins again
            self._held_back = False
            if self._half_frame_since is not None:
                self._half_frame_since = now
        half_frame, idle = self._peer_deadlines()
        if now >= half_frame:
            self._stop(CloseReason.HALF_FRAME)
        elif now >= idle:
            self._stop(CloseReason.IDLE)

    # The client's requests

    def request(self, key: RequestKey, message: bytes, now: float, timeout_s: float) -> bytes:
        """The bytes to send for this request; its answer is waited for under `key`.

        Raises `LinkError` for a server, for a link that drains or is closed, and for a key that is
        already waited for.
        """
        if self._is_server:
            raise LinkError("a server sends no requests")
        if self.state not in _OPEN:
            raise LinkError(f"the link is {self.state.value}")
        if key in self._pending:
            raise LinkError("a request with this key is already waiting for its answer")
        self._pending.add(key, now + timeout_s)
        self.in_flight = len(self._pending)
        return self.pack([Frame(message, self.config.client_tpdu if self._tpdu else b"")])

    def match(self, key: RequestKey) -> bool:
        """Whether an answer with this key is still waited for; it is not from now on."""
        if not self._pending.match(key):
            return False
        self._recount_pending()
        return True

    def expired(self, now: float) -> list[RequestKey]:
        """The requests whose time is over at `now`, earliest first. Each is given up: told once.

        Once the link is closed these are all that still wait: no answer can come any more.
        """
        keys = self._pending.expired(math.inf if self.state is LinkState.CLOSED else now)
        self._recount_pending()
        return keys

    # Within

    def _move(self, event: LinkEvent) -> None:
        self.state = TRANSITIONS[self.state][event]
        self._reading = self.state in self._reading_states

    def _stop(self, reason: CloseReason) -> None:
        """Begin nothing new for this reason, and close when nothing is owed or waited for."""
        if not self._is_server and reason is not CloseReason.DRAINED:
            self._cut(reason)  # what a client waits for can only come from its peer
            return
        if self.close_reason is None:
            self.close_reason = reason
        self._move(LinkEvent.STOP)
        self._settle()

    def _cut(self, reason: CloseReason) -> None:
        if self.close_reason is None:
            self.close_reason = reason
        self._move(LinkEvent.CUT)

    def _settle(self) -> None:
        if self.state is LinkState.DRAINING and not self.in_flight:
            self._move(LinkEvent.SETTLED)

    def _recount_pending(self) -> None:
        if not self._is_server:
            self.in_flight = len(self._pending)
            self._settle()

    def _count_keepalives(self, count: int, now: float) -> None:
        """Add keep-alives to the last minute's; more than the link's maximum is a storm."""
        self.keepalives += count
        times = self._keepalive_times
        while times and times[0][0] <= now - MINUTE_S:
            times.popleft()
        times.append((now, count))  # never longer than the maximum: each entry counts one or more
        if sum(number for _, number in times) > self.config.keepalives_per_minute_max:
            self._stop(CloseReason.KEEPALIVE_STORM)

    def _peer_deadlines(self) -> tuple[float, float]:
        """When the half frame at hand, and when silence, becomes a fault."""
        if not self._reading:
            return math.inf, math.inf
        half_frame = idle = math.inf
        if self._half_frame_since is not None and self.may_read():
            half_frame = self._half_frame_since + self.config.half_frame_timeout_s
        if not self.in_flight:
            idle = self._last_heard + self.config.idle_timeout_s
        return half_frame, idle
