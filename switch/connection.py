"""One accepted connection: a socket, its `Link`, and what could not be sent yet.

Sockets are non-blocking and used without Trio's stream layer: waiting for readability and calling
`recv` and `send` directly saves what its layers cost at each wake-up, and a reply is sent
from whatever task has it. A task of its own exists only while a peer does not read.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import trio

from switch.tls import TlsEnd, TlsFailed
from switch.wire.link import CloseReason, Link, LinkState

__all__ = ["RECEIVE_BYTES", "Connection"]

RECEIVE_BYTES = 65_536


class Connection:
    """The server's end of a connection."""

    def __init__(
        self,
        sock: socket.socket,
        link: Link,
        start: Callable[..., None],
        tls: TlsEnd | None = None,
    ) -> None:
        """`start` starts a task beside the connection's own (a nursery's `start_soon`)."""
        self.link = link
        self._tls = tls
        self._socket = sock
        self._start = start
        self._unsent = bytearray()
        self._may_read = trio.Event()

    async def receive(self) -> bytes:
        """The next bytes; b"" when the peer is done or the link is. Waits while it is ahead."""
        while not self.link.may_read():
            if self.link.state in (LinkState.DRAINING, LinkState.CLOSED):
                return b""
            self._may_read = trio.Event()
            await self._may_read.wait()
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(RECEIVE_BYTES)
                if self._tls is None or not data:
                    return data
                data = self._tls.receive(data)
                self._write(self._tls.outgoing())
                if data:
                    return data
            except BlockingIOError:
                continue
            except TlsFailed:
                self._write(self._tls.outgoing() if self._tls else b"")  # the alert that says why
                self.link.lost()
                return b""
            except (OSError, trio.ClosedResourceError):
                self.link.lost()
                return b""

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
        """Let the reader go on, or end, as the link now says."""
        closed = self.link.state is LinkState.CLOSED
        if closed and not self.owes:
            self.shut()
        if closed or self.link.may_read():
            self._may_read.set()

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

    def shut(self) -> None:
        """End both directions: the reader wakes and finds the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and wake whoever waits for it."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
