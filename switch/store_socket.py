"""A socket to a store, without Trio's stream layer.

A stream lets every other task run after each write, and tries before each read whether something
is there already. A call to a store writes, waits and reads: one wait is enough, and at a few
messages a batch the others were most of its price (docs/performance.md).
"""

from __future__ import annotations

import socket

import trio

__all__ = ["StoreSocket"]


class StoreSocket:
    """One connected socket; one task at a time."""

    __slots__ = ("socket",)

    def __init__(self, stream: trio.SocketStream) -> None:
        """Takes the stream's socket over; the stream is done with."""
        self.socket = socket.socket(fileno=stream.socket.detach())
        self.socket.setblocking(False)

    async def send_all(self, data: bytes) -> None:
        """Send all; waits only while the peer does not take it. OSError, ClosedResourceError."""
        left = memoryview(data)
        while True:
            try:
                sent = self.socket.send(left)
            except BlockingIOError:
                sent = 0
            if sent == len(left):
                return
            left = left[sent:]
            await trio.lowlevel.wait_writable(self.socket)

    async def receive_some(self, bytes_max: int) -> bytes:
        """Wait for bytes and read them; b"" when the peer has closed. Errors as above."""
        while True:
            if self.socket.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(bytes_max)
            except BlockingIOError:
                continue

    def close(self) -> None:
        """Close at once; who waits is told so."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
