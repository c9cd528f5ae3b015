"""A TCP proxy that breaks what passes through it, by a seeded plan.

It stands between tills and switch, or between the switch and one of its stores. Bytes are never
changed, never doubled and never reordered: TCP does none of that. They are late, come one by one,
stop half-way, or the connection ends in the middle of them.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

__all__ = ["Proxy", "Weather"]

_CHUNK_BYTES = 65_536
_DRIPPED_BYTES = 2_000
_POLL_S = 0.005
_RESET = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends RST

Target = Path | tuple[str, int]
"""A unix socket, or host and port."""


@dataclass
class Weather:
    """What happens to bytes now; chances are per piece that passes."""

    delay_s: tuple[float, float] = (0.0, 0.0)
    drip: bool = False
    """One byte per write."""
    stalled: bool = False
    """Nothing passes, in either direction, of any connection that exists; none ends."""
    half_open: float = 0.0
    """From here on nothing of this connection passes in this direction, and no end is told."""
    cut: float = 0.0
    """Half of the piece passes, then both ends are closed."""
    reset: float = 0.0
    """The same with RST instead of FIN."""


class _Pair:
    """Both ends of one connection."""

    def __init__(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self.streams = (near, far)
        self.ended = trio.CancelScope()
        self.deaf = False

    def end(self, *, reset: bool) -> None:
        if reset:
            for stream in self.streams:
                with contextlib.suppress(OSError):
                    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.ended.cancel()


class Proxy:
    """Listens on a port of its own, in a thread of its own; to be used from any other thread."""

    def __init__(self, target: Target, seed: str) -> None:
        self.weather = Weather()
        self.broken = 0
        """Connections that were cut, reset or went half open."""
        self.port = 0
        self._target = target
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._up = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)

    def start(self) -> None:
        """Listen; the port is known when this returns."""
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        """End every connection and the listener."""
        if self._thread.is_alive():
            self._inside(self._scope.cancel)
            self._thread.join(10)

    def turn_to(self, target: Target) -> None:
        """New connections lead there; those that exist end."""
        self._target = target
        self.cut()

    def cut(self, *, reset: bool = True) -> int:
        """End every connection that exists; how many there were."""

        def end_all() -> int:
            for pair in self._pairs:
                pair.end(reset=reset)
            return len(self._pairs)

        return self._inside(end_all)

    def calm(self) -> None:
        """Nice weather, and no connection left that lived through the bad one."""
        self.weather = Weather()
        self.cut()

    def _inside(self, work: Callable[[], int | None]) -> int:
        return trio.from_thread.run_sync(work, trio_token=self._token) or 0

    async def _main(self) -> None:
        with self._scope:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            self._token = trio.lowlevel.current_trio_token()
            self._up.set()
            await trio.serve_listeners(self._serve, [listener])

    async def _connect(self) -> trio.SocketStream:
        if isinstance(self._target, Path):
            return await trio.open_unix_socket(self._target)
        return await trio.open_tcp_stream(*self._target)

    async def _serve(self, near: trio.SocketStream) -> None:
        try:
            far = await self._connect()
        except OSError:
            await trio.aclose_forcefully(near)
            return
        pair = _Pair(near, far)
        self._pairs.add(pair)
        try:
            with pair.ended:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, pair, near, far)
                    nursery.start_soon(self._pump, pair, far, near)
        finally:
            self._pairs.discard(pair)
            with trio.CancelScope(shield=True):
                for stream in pair.streams:
                    await trio.aclose_forcefully(stream)

    async def _pump(self, pair: _Pair, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(_CHUNK_BYTES):
                await self._pass_on(pair, sink, data)
            while pair.deaf:
                await trio.sleep(_POLL_S)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pair.end(reset=True)

    async def _pass_on(self, pair: _Pair, sink: trio.SocketStream, data: bytes) -> None:
        weather, chance = self.weather, self._random
        if weather.half_open and chance.random() < weather.half_open:
            pair.deaf = True
            self.broken += 1
        while pair.deaf or self.weather.stalled:
            await trio.sleep(_POLL_S)
        if weather.delay_s[1]:
            await trio.sleep(chance.uniform(*weather.delay_s))
        ending = chance.random() < weather.cut + weather.reset
        if ending:
            data = data[: len(data) // 2]
        if weather.drip:
            for at in range(min(len(data), _DRIPPED_BYTES)):
                await sink.send_all(data[at : at + 1])
            data = data[_DRIPPED_BYTES:]
        if data:
            await sink.send_all(data)
        if ending:
            self.broken += 1
            pair.end(reset=weather.reset > 0)
