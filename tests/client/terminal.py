"""A till on a blocking socket: sends requests, finds their replies in any order, checks MACs."""

from __future__ import annotations

import contextlib
import hmac
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

from . import dialect
from .dialect import DialectError, Packager
from .messages import (
    Card,
    HoldName,
    Identity,
    NetworkCode,
    Processing,
    Reason,
    Reply,
    Request,
    RequestBuilder,
)
from .till_totals import TillTotals

__all__ = ["Connection", "NoReplyError", "ReplyNotAuthenticError", "Terminal"]

# Replies that may come without a MAC; a real till takes them as no answer.
_CODES_WITHOUT_MAC = {"30", "58", "63"}
_REPLY_TIMEOUT_S = 10.0


class NoReplyError(Exception):
    """Nothing came in time, or the peer closed."""


class ReplyNotAuthenticError(Exception):
    """A reply whose MAC is wrong, or missing where the dialect asks for one."""


class Connection:
    """One TCP connection with 2-byte length framing; several terminals may share it."""

    def __init__(self, host: str, port: int, *, receive_buffer_bytes: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(_REPLY_TIMEOUT_S)
        try:
            self._socket.connect((host, port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._waiting: list[bytes] = []

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send_raw(self, data: bytes, timeout_s: float = _REPLY_TIMEOUT_S) -> None:
        """Bytes as they are, without a length of ours."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(data)

    def send_some(self, data: bytes, timeout_s: float) -> int:
        """As many bytes as the peer takes in time; 0 when it takes none."""
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.send(data)
        except TimeoutError:
            return 0

    def send_frames(self, frames: Iterable[bytes]) -> None:
        """All frames in one write."""
        self.send_raw(b"".join(struct.pack(">H", len(frame)) + frame for frame in frames))

    def receive_frame(self, timeout_s: float = _REPLY_TIMEOUT_S) -> bytes:
        """The next frame, keep-alives skipped. NoReplyError on time-out or close."""
        if self._waiting:
            return self._waiting.pop(0)
        return self._next_frame(time.monotonic() + timeout_s)

    def receive_matching(
        self, packager: Packager, key: tuple[str, str | None, str | None], timeout_s: float
    ) -> bytes:
        """The first frame with this MTI, DE 11 and DE 41; others wait for who asks for them."""
        deadline = time.monotonic() + timeout_s
        for index, frame in enumerate(self._waiting):
            if _reply_key(packager, frame) == key:
                return self._waiting.pop(index)
        while True:
            frame = self._next_frame(deadline)
            if _reply_key(packager, frame) == key:
                return frame
            self._waiting.append(frame)

    def closed_by_peer(self, timeout_s: float = _REPLY_TIMEOUT_S) -> bool:
        """True when the peer closes in time; frames that come before are dropped."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self._socket.recv(65536):
                    return True
            except TimeoutError:
                return False
            except ConnectionError:
                return True
        return False

    def _next_frame(self, deadline: float) -> bytes:
        while True:
            if len(self._buffer) >= 2:
                (length,) = struct.unpack_from(">H", self._buffer)
                if len(self._buffer) >= 2 + length:
                    frame = bytes(self._buffer[2 : 2 + length])
                    del self._buffer[: 2 + length]
                    if frame:
                        return frame
                    continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoReplyError("no reply in time")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise NoReplyError("no reply in time") from None
            except ConnectionError as error:
                raise NoReplyError(f"connection lost: {error}") from None
            if not data:
                raise NoReplyError("connection closed by the switch")
            self._buffer += data


def _reply_key(packager: Packager, frame: bytes) -> tuple[str, str | None, str | None]:
    mti, fields = dialect.unpack(packager, frame)
    return mti, fields.get(11), fields.get(41)


class Terminal:
    """One terminal of demo.json on one connection.

    Every verb sends one request and returns its reply; changes by keyword as `RequestBuilder`
    says. `make` builds requests without sending them, for `exchange` and `pipeline`.
    """

    def __init__(
        self, identity: Identity, connection: Connection, timeout_s: float = _REPLY_TIMEOUT_S
    ) -> None:
        self.identity = identity
        self.connection = connection
        self.timeout_s = timeout_s
        self.make = RequestBuilder(identity)

    @classmethod
    def connect(
        cls, entry: Mapping[str, Any], host: str, port: int, packager: str | Packager
    ) -> Terminal:
        """A terminal of its own connection, from one entry of demo.json's `terminals`."""
        return cls(Identity.from_demo(entry, Packager(packager)), Connection(host, port))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    # -- verbs ------------------------------------------------------------------------------

    def unlock(self, card: Card, **changes: Any) -> Reply:
        return self.exchange(self.make.unlock(card, **changes))

    def activate(self, card: Card, amount_minor: int, **changes: Any) -> Reply:
        return self.exchange(self.make.activate(card, amount_minor, **changes))

    def activate_prevalued(self, card: Card, **changes: Any) -> Reply:
        return self.exchange(self.make.activate_prevalued(card, **changes))

    def load(self, card: Card, amount_minor: int, **changes: Any) -> Reply:
        return self.exchange(self.make.load(card, amount_minor, **changes))

    def redeem(self, card: Card, amount_minor: int, **changes: Any) -> Reply:
        return self.exchange(self.make.redeem(card, amount_minor, **changes))

    def refund(
        self, card: Card, amount_minor: int, sale: Reply | None = None, **changes: Any
    ) -> Reply:
        return self.exchange(self.make.refund(card, amount_minor, sale, **changes))

    def cash_out(self, card: Card, **changes: Any) -> Reply:
        return self.exchange(self.make.cash_out(card, **changes))

    def transfer(self, card: Card, to_card: Card, amount_minor: int, **changes: Any) -> Reply:
        return self.exchange(self.make.transfer(card, to_card, amount_minor, **changes))

    def balance(
        self, card: Card, processing: Processing = Processing.BALANCE, **changes: Any
    ) -> Reply:
        return self.exchange(self.make.balance(card, processing, **changes))

    def hold(self, card: Card, amount_minor: int, **changes: Any) -> Reply:
        return self.exchange(self.make.hold(card, amount_minor, **changes))

    def complete(
        self,
        hold: Request | Reply,
        amount_minor: int,
        by: HoldName = HoldName.TRANSACTION,
        **changes: Any,
    ) -> Reply:
        return self.exchange(self.make.complete(hold, amount_minor, by, **changes))

    def advise(self, card: Card, amount_minor: int, **changes: Any) -> Reply:
        return self.exchange(self.make.advise(card, amount_minor, **changes))

    def advise_instead(self, original: Request | Reply, **changes: Any) -> Reply:
        return self.exchange(self.make.advise_instead(original, **changes))

    def outcome(
        self, original: Request | Reply, *, bar_unknown: bool = False, **changes: Any
    ) -> Reply:
        return self.exchange(self.make.outcome(original, bar_unknown=bar_unknown, **changes))

    def deactivate(self, card: Card, **changes: Any) -> Reply:
        return self.exchange(self.make.deactivate(card, **changes))

    def block(self, card: Card, **changes: Any) -> Reply:
        return self.exchange(self.make.block(card, **changes))

    def unblock(self, card: Card, **changes: Any) -> Reply:
        return self.exchange(self.make.unblock(card, **changes))

    def last_outcome(self, card: Card | None = None, **changes: Any) -> Reply:
        return self.exchange(self.make.last_outcome(card, **changes))

    def reconcile(
        self, totals: TillTotals, number: str | None = None, *, mti: str = "0500", **changes: Any
    ) -> Reply:
        return self.exchange(self.make.reconcile(totals, number, mti=mti, **changes))

    def upload(self, item: Request | Reply, **changes: Any) -> Reply:
        return self.exchange(self.make.upload(item, **changes))

    def cut_over(self, day: str, **changes: Any) -> Reply:
        return self.exchange(self.make.cut_over(day, **changes))

    def reverse(
        self,
        original: Request | Reply,
        reason: Reason | None = None,
        *,
        mti: str = "0400",
        final_minor: int | None = None,
        **changes: Any,
    ) -> Reply:
        return self.exchange(
            self.make.reverse(original, reason, mti=mti, final_minor=final_minor, **changes)
        )

    def repeat(self, original: Request | Reply, *, flagged: bool = True, **changes: Any) -> Reply:
        return self.exchange(self.make.repeat(original, flagged=flagged, **changes))

    def sign_on(self, **changes: Any) -> Reply:
        return self.exchange(self.make.network(NetworkCode.SIGN_ON, **changes))

    def sign_off(self, **changes: Any) -> Reply:
        return self.exchange(self.make.network(NetworkCode.SIGN_OFF, **changes))

    def echo(self, **changes: Any) -> Reply:
        return self.exchange(self.make.network(NetworkCode.ECHO, **changes))

    # -- sending and receiving --------------------------------------------------------------

    def exchange(self, request: Request) -> Reply:
        """Sends one request and waits for its reply."""
        self.send(request)
        return self.receive(request)

    def send(self, *requests: Request) -> None:
        """All requests in one write; `receive` collects the replies."""
        self.connection.send_frames(request.frame for request in requests)

    def receive(self, request: Request) -> Reply:
        """The reply to `request`, whatever else arrives before it."""
        frame = self.connection.receive_matching(
            self.identity.packager, request.reply_key, self.timeout_s
        )
        return self._checked(frame, request)

    def receive_any(self) -> Reply:
        """The next reply, whose request it is left open (a 30 may lack DE 11 and 41)."""
        return self._checked(self.connection.receive_frame(self.timeout_s), None)

    def pipeline(self, requests: list[Request]) -> list[Reply]:
        """All requests in one write; replies in the order of the requests."""
        self.send(*requests)
        return [self.receive(request) for request in requests]

    def answers(self, card: Card) -> bool:
        """An honest enquiry on this connection is served."""
        with contextlib.suppress(NoReplyError):
            return self.balance(card).code == "00"
        return False

    def _checked(self, frame: bytes, request: Request | None) -> Reply:
        packager = self.identity.packager
        mti, fields = dialect.unpack(packager, frame)
        try:
            private = dialect.parse_private(fields.get(48, ""))
        except DialectError as error:
            raise DialectError(f"reply {mti}: {error}") from None
        reply = Reply(mti, fields, private, self._mac_ok(frame, fields), frame, request)
        if reply.mac_ok is False:
            raise ReplyNotAuthenticError(f"wrong MAC: {reply}")
        if reply.mac_ok is None and reply.code not in _CODES_WITHOUT_MAC:
            raise ReplyNotAuthenticError(f"no MAC: {reply}")
        return reply

    def _mac_ok(self, frame: bytes, fields: Mapping[int, str]) -> bool | None:
        last = max(fields)
        if last not in {64, 128}:
            return None
        others = [number for number in fields if number != last]
        if dialect.mac_field(others) != last:
            raise DialectError(f"MAC in DE {last}, though DE {max(others)} is the last before it")
        digits = dialect.MAC_BYTES * (1 if self.identity.packager is Packager.BINARY else 2)
        expected = dialect.mac(self.identity.mac_kind, self.identity.mac_key, frame[:-digits])
        return hmac.compare_digest(expected, bytes.fromhex(fields[last]))
