"""One accepted connection: a socket, its `Link`, and what could not be sent yet.

Sockets are non-blocking and used without Trio's stream layer. None has a task of its own: a poller
says when there is something to read, and a reply is sent from whatever task has it. Tasks exist
while a peer does not read, and at the end, to wait until it has what it is owed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable

import trio

from switch.poller import Poller
from switch.tls import TlsEnd, TlsFailed
from switch.wire.link import CloseReason, Link, LinkState

__all__ = ["RECEIVE_BYTES", "Connection"]

RECEIVE_BYTES = 65_536
_UNREAD_PIECES = 16
"""How much is read and thrown away at most before a socket is closed, in pieces of the above."""


class Connection:
    """The server's end of a connection."""

    def __init__(
        self,
        sock: socket.socket,
        link: Link,
        start: Callable[..., None],
        poller: Poller[Connection],
        see_off: Callable[[Connection], Awaitable[None]],
        tls: TlsEnd | None = None,
    ) -> None:
        """`start` starts a task (a nursery's `start_soon`); the poller has the socket from now.

        `see_off` becomes a task once the link drains or is closed: it closes the connection.
        """
        self.link = link
        self._tls = tls
        self._socket = sock
        self._start = start
        self._unsent = bytearray()
        self.poller = poller
        self._see_off = see_off
        self._reading = False
        self._done = False
        self._read_on()

    def receive(self) -> bytes | None:
        """What has come; None for nothing yet, b"" when the peer is done or the link is lost."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self.link.lost()
            return b""
        if self._tls is None or not data:
            return data
        try:
            data = self._tls.receive(data)
        except TlsFailed:
            self._write(self._tls.outgoing())  # the alert that says why
            self.link.lost()
            return b""
        self._write(self._tls.outgoing())
        return data or None

    def _read_on(self) -> None:
        if not self._reading and not self._done:
            self._reading = True
            self.poller.add(self._socket, self)

    def pause(self) -> None:
        """Read nothing; the peer is ahead of us. The link says when it goes on."""
        if self._reading:
            self._reading = False
            self.poller.remove(self._socket)

    def part(self) -> None:
        """Read no more, and close once the peer has what it is owed."""
        if not self._done:
            self._done = True
            self.pause()
            self._start(self._see_off, self)

    def send(self, data: bytes, replies: int) -> None:
        """Send so many replies now, framed, as far as the peer takes them; the rest follows."""
        if self.link.state is LinkState.CLOSED:
            data = b""
        self.link.release(replies)
        if self._tls is not None and data:
            try:
                data = self._tls.send(data)
            except TlsFailed:
                self.link.lost()
                data = b""
        self._write(data)
        self._after_change()

    def settle(self, count: int) -> None:
        """Frames that get no reply."""
        self.link.release(count)
        self._after_change()

    def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._unsent:
            self._unsent += data
        else:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.link.lost()
                return
            if sent == len(data):
                return
            self._unsent += data[sent:]
            self._start(self._flush)
        self.link.queued(len(self._unsent))

    async def _flush(self) -> None:
        while self.owes:
            try:
                await trio.lowlevel.wait_writable(self._socket)
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                self._unsent.clear()
                self.link.lost()
                break
            del self._unsent[:sent]
        self._after_change()

    def _after_change(self) -> None:
        """Read on, or end, as the link now says."""
        if self.link.state is LinkState.CLOSED:
            self.part()
        elif self.link.may_read():
            self._read_on()

    @property
    def owes(self) -> bool:
        """Whether bytes are still to be sent to a peer that takes them."""
        return bool(self._unsent) and self.link.close_reason is not CloseReason.SLOW_READER

    def on_deadline(self, now: float) -> None:
        """Tell the link that time has passed."""
        deadline = self.link.next_deadline()
        if deadline is not None and deadline <= now:
            self.link.on_deadline(now)
            self._after_change()

    def drain(self) -> None:
        """Begin nothing new; close when all replies are out."""
        self.link.drain()
        self._after_change()

    def give_up(self) -> None:
        """Nothing more is to be had from it."""
        self.link.lost()
        self._unsent.clear()
        self._after_change()

    def close(self) -> None:
        """Close the socket, and wake whoever waits for it."""
        self._done = True
        self.pause()
        with contextlib.suppress(OSError):  # BlockingIOError, too
            # What the peer has sent and nobody read would turn the end into a reset, and that
            # takes from the peer what it has not read yet.
            self._socket.shutdown(socket.SHUT_RDWR)
            for _ in range(_UNREAD_PIECES):
                if not self._socket.recv(RECEIVE_BYTES):
                    break
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
