"""Signals of the supervisor: asked to stop, a child has ended, woken from its wait."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StartInterrupted", "StopSignals"]

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StartInterrupted(SystemExit):
    """Asked to stop while still starting. A SystemExit, so that event loops let it through."""


class StopSignals:
    """Counts SIGTERM, SIGINT and SIGHUP while entered. Main thread only.

    At first each of them raises StartInterrupted where the program is, for a start may take long.
    After `settle` they are only counted, and they and ended children wake `wait`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raises = True
        self._previous: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._previous_wakeup = -1

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals reach the main thread only")
        for number in _STOP_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started with nohup: it shall outlive its terminal
            self._previous[number] = signal.signal(number, self._asked_to_stop)
        # a handler of Python's must be there, or the signal would not be written to the pipe
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore what was there before."""
        self._raises = False
        if self._pipe is not None:
            signal.set_wakeup_fd(self._previous_wakeup)
            for descriptor in self._pipe:
                os.close(descriptor)
            self._pipe = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def settle(self) -> None:
        """From now on count only. Not before event loops of others have run in this thread."""
        self._raises = False
        if self._pipe is None:
            self._pipe = os.pipe()
            for descriptor in self._pipe:
                os.set_blocking(descriptor, False)
            self._previous_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)

    def wait(self, timeout_s: float) -> None:
        """Sleep until a signal or the end of the time; needs `settle` first."""
        if self._pipe is None:
            raise RuntimeError("settle first")
        select.select([self._pipe[0]], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._raises:
            self._raises = False
            raise StartInterrupted(0)
