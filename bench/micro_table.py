"""Measuring two sides in turn: medians of CPU time, and their ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Bench", "Row", "Work", "each"]

# What one turn does, and how many pieces of work that were.
Work = Callable[[], int]


@dataclass(frozen=True)
class Row:
    """One piece against one peer; microseconds for one message, look-up or frame."""

    piece: str
    peer: str
    ours_us: float
    peer_us: float

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.peer_us / self.ours_us


class Bench:
    """Measures pairs, and remembers the rows."""

    def __init__(self, turns: int, seconds: float) -> None:
        self.turns = turns
        self.seconds = seconds
        self.rows: list[Row] = []

    def compare(self, piece: str, ours: Work, peers: dict[str, Work]) -> None:
        """Ours and all peers in turn."""
        works = {"": ours, **peers}
        repeats = {name: self._repeats(work) for name, work in works.items()}
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(self.turns):
            for name, work in works.items():
                times[name].append(_once(work, repeats[name]))
        own = statistics.median(times[""]) * 1e6
        for name in peers:
            row = Row(piece, name, own, statistics.median(times[name]) * 1e6)
            self.rows.append(row)
            print(_line(row), flush=True)

    def _repeats(self, work: Work) -> int:
        """How often a turn calls it, so that a turn takes about `seconds`."""
        begun = time.thread_time()
        work()
        return max(1, int(self.seconds / max(time.thread_time() - begun, 1e-7)))


def _once(work: Work, repeats: int) -> float:
    """Seconds for one piece of work."""
    begun = time.thread_time()
    done = sum(work() for _ in range(repeats))
    return (time.thread_time() - begun) / done


def _line(row: Row) -> str:
    return f"{row.piece:<42}{row.ours_us:>9.3f}  {row.peer:<26}{row.peer_us:>9.3f}{row.ratio:>9.1f}"


def each(function: Callable[..., object], *columns: list[bytes]) -> Work:
    """A peer that takes one message at a time."""

    def work() -> int:
        for row in zip(*columns, strict=True):
            function(*row)
        return len(columns[0])

    return work
