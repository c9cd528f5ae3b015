"""A load generator of its own process: plain sockets, frames built beforehand, closed loop.

It drives ISO 8583 terminals over a few links with many messages in flight each, or many lock-step
links with one. Everything a terminal does is done: real MACs on requests, every reply read and its
response code counted.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import random
import selectors
import socket
import sys
import time
from pathlib import Path

from fastpath.codec import decode, encode_unsealed, seal
from fastpath.framing import FrameBuffer, Header, pack
from fastpath.mac import MacAlgorithm, MacKey, sign_many
from fastpath.packager import Packager
from fastpath.specs import DE, packagers

__all__ = ["main"]

_RESPONSE, _STAN = int(DE.RESPONSE_CODE), int(DE.STAN)
_BUILD_AT_ONCE = 4096


class LoadLink:
    """One connection of one terminal."""

    def __init__(self, address: tuple[str, int], packager: Packager) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.packager = packager
        self.frames: collections.deque[tuple[str, bytes]] = collections.deque()
        self.buffer = FrameBuffer()
        self.sent_at: dict[str, float] = {}
        self.unsent = b""

    def send(self, count: int, now: float) -> None:
        """Put this many frames on the way."""
        out = [self.unsent]
        for _ in range(min(count, len(self.frames))):
            stan, frame = self.frames.popleft()
            self.sent_at[stan] = now
            out.append(frame)
        data = b"".join(out)
        if not data:
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        self.unsent = data[sent:]

    def receive(self, now: float, latencies: list[float], codes: collections.Counter[str]) -> int:
        """Read replies; how many there were."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the switch closed the link")
        replies = self.buffer.feed(data)
        for reply in replies:
            message = decode(self.packager, reply)
            codes[message.get(_RESPONSE) or ""] += 1
            latencies.append(now - self.sent_at.pop(message.get(_STAN) or ""))
        return len(replies)


def build_frames(
    packager: Packager,
    terminal: dict[str, object],
    cards: list[dict[str, object]],
    count: int,
    first_stan: int,
    seed: int,
) -> list[tuple[str, bytes]]:
    """Redemptions of 0.01 to 0.50 on random cards: (STAN, framed message)."""
    rng = random.Random(seed)
    key = MacKey(MacAlgorithm(terminal["mac"]), bytes.fromhex(str(terminal["mac_key"])))
    frames: list[tuple[str, bytes]] = []
    while len(frames) < count:
        now = datetime.datetime.now(datetime.UTC)
        batch = []
        for _ in range(min(_BUILD_AT_ONCE, count - len(frames))):
            stan = f"{(first_stan + len(frames) + len(batch)) % 1_000_000:06d}"
            card = rng.choice(cards)
            fields: dict[int, str | bytes] = {
                DE.PAN: str(card["pan"]),
                DE.PROCESSING_CODE: "006000",
                DE.AMOUNT: f"{rng.randint(1, 50):012d}",
                DE.TRANSMISSION_TIME: now.strftime("%m%d%H%M%S"),
                DE.STAN: stan,
                DE.LOCAL_TIME: now.strftime("%H%M%S"),
                DE.LOCAL_DATE: now.strftime("%m%d"),
                DE.EXPIRY: str(card["expiry"]),
                DE.ENTRY_MODE: "021",
                DE.TERMINAL: str(terminal["id"]),
                DE.MERCHANT: str(terminal["merchant"]),
                DE.CURRENCY: "978",
            }
            batch.append((stan, encode_unsealed(packager, "0200", fields)))
        macs = sign_many([key] * len(batch), [body for _, body in batch])
        for (stan, body), mac in zip(batch, macs, strict=True):
            frames.append((stan, pack(Header.BINARY2, seal(packager, body, mac))))
    return frames


def run(links: list[LoadLink], in_flight: int, seconds: float) -> dict[str, object]:
    """Closed loop: each link keeps its share in flight until the time is over or frames run out."""
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    codes: collections.Counter[str] = collections.Counter()
    share = max(1, in_flight // len(links))
    begun = time.perf_counter()
    for link in links:
        selector.register(link.socket, selectors.EVENT_READ, link)
        link.send(share, time.perf_counter())
    until = begun + seconds
    outstanding = sum(len(link.sent_at) for link in links)
    ended = begun
    while outstanding and time.perf_counter() < until + 10:
        for ready, _ in selector.select(timeout=1):
            link = ready.data
            now = time.perf_counter()
            got = link.receive(now, latencies, codes)
            ended = now
            outstanding -= got
            if now < until:
                before = len(link.sent_at)
                link.send(got, now)
                outstanding += len(link.sent_at) - before
    latencies.sort()
    took = ended - begun
    return {
        "answered": len(latencies),
        "seconds": round(took, 3),
        "per_second": round(len(latencies) / took, 1) if took else 0,
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2) if latencies else None,
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2) if latencies else None,
        "codes": dict(codes),
        "unanswered": outstanding,
    }


def main() -> int:
    """`python -m bench.load DEMO_JSON`: the result as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("demo", type=Path)
    parser.add_argument("--port", type=int, help="another port than the demo's own")
    parser.add_argument("--links", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--frames", type=int, default=200_000, help="built beforehand, in all")
    parser.add_argument("--first-stan", type=int, default=0)
    arguments = parser.parse_args()
    demo = json.loads(arguments.demo.read_text())
    packager = packagers()[demo["switch"]["packager"]]
    terminals = [terminal for terminal in demo["terminals"] if terminal["link"] is None]
    cards = [card for card in demo["cards"] if card["status"] == "active"]
    address = (demo["switch"]["host"], arguments.port or demo["switch"]["port"])
    links = [LoadLink(address, packager) for _ in range(arguments.links)]
    per_link = arguments.frames // len(links)
    for at, link in enumerate(links):
        terminal = terminals[at % len(terminals)]
        # links that share a terminal share its numbers, too
        first = arguments.first_stan + at // len(terminals) * per_link
        link.frames.extend(build_frames(packager, terminal, cards, per_link, first, at))
    print("go", file=sys.stderr, flush=True)
    print(json.dumps(run(links, arguments.in_flight, arguments.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
