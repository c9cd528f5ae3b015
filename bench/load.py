"""A load generator of its own process: plain sockets, frames built beforehand.

Closed loop (`--in-flight`): each link keeps its share in flight, as a host does; with one in flight
per link these are lock-step terminals. Open loop (`--rate`): messages leave at their intended
instants whether answers have come or not, and a latency counts from that instant, so that a switch
that falls behind cannot hide it. Every reply is read and its response code counted.
"""

from __future__ import annotations

import argparse
import collections
import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.messages import Framed, Scenario, build_frames, terminals_for
from fastpath.codec import decode
from fastpath.framing import FrameBuffer
from fastpath.packager import Packager
from fastpath.specs import DE, packagers

__all__ = ["main"]

_RESPONSE, _STAN = int(DE.RESPONSE_CODE), int(DE.STAN)
_LAST_REPLIES_S = 10.0
_TICK_S = 0.001


class LoadLink:
    """One connection of one terminal."""

    def __init__(self, address: tuple[str, int], packager: Packager) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.packager = packager
        self.frames: collections.deque[Framed] = collections.deque()
        self.outstanding = 0
        self._buffer = FrameBuffer()
        self._asked_at: dict[str, list[float]] = {}
        self._unsent = b""

    def send(self, count: int, asked_at: float) -> int:
        """Put this many frames on the way; how many there were left to send."""
        out = [self._unsent]
        count = min(count, len(self.frames))
        for _ in range(count):
            stan, frame = self.frames.popleft()
            self._asked_at.setdefault(stan, []).append(asked_at)
            out.append(frame)
        self.outstanding += count
        data = b"".join(out)
        if data:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            self._unsent = data[sent:]
        return count

    def receive(self, now: float, latencies: list[float], codes: collections.Counter[str]) -> int:
        """Read replies; how many there were."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the switch closed the link")
        replies = self._buffer.feed(data)
        for reply in replies:
            message = decode(self.packager, reply)
            codes[message.get(_RESPONSE) or ""] += 1
            stan = message.get(_STAN) or ""
            asked = self._asked_at[stan]
            latencies.append(now - asked.pop(0))
            if not asked:
                del self._asked_at[stan]
        self.outstanding -= len(replies)
        return len(replies)


class Load:
    """What was answered, and how fast."""

    def __init__(self, links: Sequence[LoadLink]) -> None:
        self.links = links
        self.latencies: list[float] = []
        self.codes: collections.Counter[str] = collections.Counter()
        self._selector = selectors.DefaultSelector()
        for link in links:
            self._selector.register(link.socket, selectors.EVENT_READ, link)
        self._begun = self._ended = time.perf_counter()

    @property
    def outstanding(self) -> int:
        """Messages without an answer."""
        return sum(link.outstanding for link in self.links)

    def _replies(self, wait_s: float) -> list[tuple[LoadLink, int]]:
        found = []
        for ready, _ in self._selector.select(wait_s):
            now = time.perf_counter()
            found.append((ready.data, ready.data.receive(now, self.latencies, self.codes)))
            self._ended = now
        return found

    def closed(self, in_flight: int, seconds: float) -> None:
        """Keep so many in flight, over all links, until the time is over or frames run out."""
        share = max(1, in_flight // len(self.links))
        self._begun = time.perf_counter()
        for link in self.links:
            link.send(share, time.perf_counter())
        until = self._begun + seconds
        outstanding = self.outstanding
        while outstanding and time.perf_counter() < until + _LAST_REPLIES_S:
            for link, got in self._replies(1):
                outstanding -= got
                if self._ended < until:
                    outstanding += link.send(got, self._ended)

    def open(self, rate: float, seconds: float) -> None:
        """Send at this rate, link after link, each message at its instant."""
        self._begun = begun = time.perf_counter()
        sent, count = 0, round(rate * seconds)
        while sent < count:
            now = time.perf_counter()
            due = min(count, int((now - begun) * rate))
            while sent < due:
                self.links[sent % len(self.links)].send(1, begun + sent / rate)
                sent += 1
            self._replies(max(0.0, min(_TICK_S, begun + (sent + 1) / rate - time.perf_counter())))
        until = time.perf_counter() + _LAST_REPLIES_S
        while self.outstanding and time.perf_counter() < until:
            self._replies(0.1)

    def result(self) -> dict[str, Any]:
        """The figures."""
        latencies = sorted(self.latencies)
        took_s = self._ended - self._begun

        def at(share: float) -> float | None:
            if not latencies:
                return None
            return round(latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000, 2)

        return {
            "answered": len(latencies),
            "seconds": round(took_s, 3),
            "per_second": round(len(latencies) / took_s, 1) if took_s else 0,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": at(1),
            "codes": dict(self.codes),
            "unanswered": self.outstanding,
        }


def main() -> int:
    """`python -m bench.load DEMO_JSON`: the result as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("demo", type=Path)
    parser.add_argument("--port", type=int, help="another port than the demo's own")
    parser.add_argument("--scenario", default="redeem", choices=[one.value for one in Scenario])
    parser.add_argument("--links", type=int, default=8)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--in-flight", type=int, default=1024, help="closed loop")
    how.add_argument("--rate", type=float, help="open loop, messages a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--frames", type=int, default=200_000, help="built beforehand, in all")
    parser.add_argument("--first-stan", type=int, default=0)
    parser.add_argument("--drop", type=int, default=0, help="which card a drop is about")
    parser.add_argument("--fresh-from", type=int, default=0, help="issued cards used up before")
    arguments = parser.parse_args()
    demo = json.loads(arguments.demo.read_text())
    packager = packagers()[demo["switch"]["packager"]]
    scenario = Scenario(arguments.scenario)
    terminals = terminals_for(demo, scenario)
    address = (demo["switch"]["host"], arguments.port or demo["switch"]["port"])
    links = [LoadLink(address, packager) for _ in range(arguments.links)]
    per_link = -(-arguments.frames // len(links))
    sources = []
    for at in range(len(links)):
        # links that share a terminal share its numbers, too
        first = arguments.first_stan + at // len(terminals) * per_link
        terminal = terminals[at % len(terminals)]
        which = {
            "count": per_link,
            "first_stan": first,
            "seed": at,
            "drop": arguments.drop,
            "fresh": slice(arguments.fresh_from + at, None, len(links)),
        }
        sources.append(build_frames(demo, packager, terminal, scenario, **which))
    # All links' side by side: what is sent later tells a later time of day, on whichever link.
    for frames in zip(*sources, strict=True):
        for link, frame in zip(links, frames, strict=True):
            link.frames.append(frame)
    load = Load(links)
    print("go", file=sys.stderr, flush=True)
    if arguments.rate:
        load.open(arguments.rate, arguments.seconds)
    else:
        load.closed(arguments.in_flight, arguments.seconds)
    print(json.dumps(load.result()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
