"""How far a long work is, for whoever waits for it."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Progress"]


class Progress:
    """How far a long work is: one line that changes on a terminal, elsewhere plain lines.

    A phase has a name, and where it is known a total; each plain line tells phase, count and rate.
    """

    _TERMINAL_PERIOD_S = 0.2
    _PLAIN_PERIOD_S = 10.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._period_s = self._TERMINAL_PERIOD_S if self._terminal else self._PLAIN_PERIOD_S
        self._phase = ""
        self._begun = 0.0
        self._next = 0.0
        self._last = (0, 0)
        self._untold = False

    def tell(self, what: str, done: int = 0, total: int = 0) -> None:
        """Where a phase is; a new name begins the next one."""
        now = time.monotonic()
        if what != self._phase:
            self._finish()
            self._phase, self._begun, self._next = what, now, now + self._period_s
            self._last = (done, total)
            self._untold = True
            if self._terminal:
                self._show(now)
            return
        self._last = (done, total)
        self._untold = True
        if now >= self._next:
            self._next = now + self._period_s
            self._show(now)

    def clear(self) -> None:
        """The end: take the line away, or tell the last phase's figures."""
        self._finish()
        self._phase = ""
        if self._terminal:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _finish(self) -> None:
        if self._phase and self._untold and not self._terminal:
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        done, total = self._last
        took_s = now - self._begun
        text = self._phase
        if done or total:
            text += f": {done:,} of {total:,}" if total else f": {done:,}"
            if done and took_s > 0.05:
                text += f", {done / took_s:,.0f}/s"
        self._untold = False
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=self._stream, flush=True)
        else:
            print(f"{text}, {took_s:.1f} s", file=self._stream, flush=True)
