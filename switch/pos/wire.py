"""A connection of a demo terminal: a plain blocking socket under a `Link` in the client's role."""

from __future__ import annotations

import math
import socket
import time
from types import TracebackType
from typing import NamedTuple

from fastpath.codec import Message, decode
from fastpath.errors import FormatError
from fastpath.framing import Header
from fastpath.specs import DE
from switch.pos.demo import PosTerminal
from switch.pos.messages import Outgoing, reply_mti, seal_message
from switch.wire.link import CloseReason, Frame, Link, LinkConfig, LinkState, Role

__all__ = ["NoAnswer", "Reply", "Wire"]


class NoAnswer(Exception):
    """Nothing came that a terminal may believe. The text says what happened instead."""


class Reply(NamedTuple):
    """An answer. `mac_right` is None when it carries no MAC."""

    message: Message
    mac_right: bool | None

    @property
    def response(self) -> str:
        return self.message.get(DE.RESPONSE_CODE) or ""


class Wire:
    """A connection to the port of a terminal; a context manager. Raises `NoAnswer` throughout."""

    def __init__(self, terminal: PosTerminal, timeout_s: float) -> None:
        self._terminal = terminal
        self._timeout_s = timeout_s
        address = (terminal.host, terminal.port)
        try:
            self._socket = socket.create_connection(address, timeout=timeout_s)
        except OSError as error:
            raise NoAnswer(
                f"nobody listens at {terminal.host}:{terminal.port} ({error.strerror or error})"
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = LinkConfig(
            name="pos",
            header=Header.BINARY2,
            packager=terminal.packager,
            acquirer_id="",
            frame_length_max=65535,
            idle_timeout_s=math.inf,
            half_frame_timeout_s=math.inf,
        )
        self._link = Link(config, Role.CLIENT, time.monotonic())

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, message: Outgoing) -> Reply:
        """Send a message and wait for its answer; answers to anything else are passed over."""
        key = (reply_mti(message.mti), message.stan)
        sealed = seal_message(self._terminal, message)
        data = self._link.request(key, sealed, time.monotonic(), self._timeout_s)
        try:
            self._socket.sendall(data)
            while True:
                for frame in self._receive():
                    reply = self._read(frame, key)
                    if reply is not None:
                        return reply
                self._check()
        except OSError as error:
            raise NoAnswer(f"the connection broke ({error.strerror or error})") from None

    def _receive(self) -> list[Frame]:
        deadline = self._link.next_deadline()
        remaining_s = (deadline or 0.0) - time.monotonic()
        if remaining_s <= 0:
            return []
        self._socket.settimeout(remaining_s)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            return []
        now = time.monotonic()
        if not data:
            self._link.receive_eof(now)
        return self._link.receive_bytes(data, now)

    def _check(self) -> None:
        """Raise when no answer can come any more."""
        if self._link.state is LinkState.CLOSED:
            if self._link.close_reason is CloseReason.PEER:
                raise NoAnswer("the switch closed the connection")
            raise NoAnswer("what came is not framed as a message")
        now = time.monotonic()
        self._link.on_deadline(now)
        if self._link.expired(now):
            raise NoAnswer(f"none within {self._timeout_s:g} s")

    def _read(self, frame: Frame, key: tuple[str, str]) -> Reply | None:
        try:
            message = decode(self._terminal.packager, frame.message)
        except FormatError as error:
            raise NoAnswer(f"what came cannot be read: {error}") from None
        # a refusal of what could not be understood may lack the STAN; only one request is out
        stan = message.get(DE.STAN) or key[1]
        if not self._link.match((message.mti, stan)):
            return None
        mac = message.mac
        if mac is None:
            return Reply(message, None)
        covered = message.raw[: message.mac_covers]
        return Reply(message, self._terminal.mac_key.verify(covered, mac))
