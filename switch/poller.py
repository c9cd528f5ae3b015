"""Many sockets that one task waits for together.

A task per socket costs a wake-up and a new arming of Trio's epoll for each read. Here the sockets
stay armed in a selector of their own, Trio watches the selector, and one wake-up serves all that
have something by then: that is what lets a thousand terminals, each with one message in flight, go
through as one batch (docs/performance.md).
"""

from __future__ import annotations

import itertools
import selectors
import socket
from typing import Generic, TypeVar, cast

import trio

__all__ = ["Poller"]

T = TypeVar("T")


class Poller(Generic[T]):
    """Sockets to be read, each with what it belongs to."""

    def __init__(self, *, at_once_max: int) -> None:
        """`at_once_max`: how many `ready` returns at most; the others come first the next time."""
        self._selector = selectors.DefaultSelector()
        self._at_once_max = at_once_max
        self._left: dict[socket.socket, T] = {}
        """Found ready, and not told of yet."""

    def add(self, sock: socket.socket, owner: T) -> None:
        """Wait for this socket, too. KeyError if it is there already."""
        self._selector.register(sock, selectors.EVENT_READ, owner)

    def remove(self, sock: socket.socket) -> None:
        """Wait for it no more; before it is closed. KeyError if it is not there."""
        self._selector.unregister(sock)
        self._left.pop(sock, None)

    async def ready(self) -> list[T]:
        """Wait until some can be read, or have ended; whose they are."""
        if self._left:
            await trio.lowlevel.checkpoint()
        while not self._left:
            await trio.lowlevel.wait_readable(self._selector.fileno())
            self._left = {
                cast("socket.socket", key.fileobj): key.data for key, _ in self._selector.select(0)
            }
        now = list(itertools.islice(self._left, self._at_once_max))
        return [self._left.pop(sock) for sock in now]

    def close(self) -> None:
        """Let go of all of them."""
        self._selector.close()
