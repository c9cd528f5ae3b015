"""A clock that jumps: when nobody has anything to do, it is the time that somebody waits for.

Trio's own mock clock does the same by way of statistics and the real time, and its `sleep` by way
of a cancel scope, a deadline and an exception: a fifth of the time of a story.
"""

from __future__ import annotations

import heapq
import itertools
import math

import trio
from trio._core import _run as trio_internals

__all__ = ["JumpingClock", "pause"]

_LONG_S = 999_999_999


class JumpingClock(trio.abc.Clock):
    """Starts at 0. Waits for who waits until all are blocked."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._pauses: list[tuple[float, int, trio.lowlevel.Task]] = []
        self._numbers = itertools.count()
        self._over: set[int] = set()
        """Pauses whose task was cancelled meanwhile."""

    def start_clock(self) -> None:
        """It stands until somebody waits."""

    def current_time(self) -> float:
        """Seconds since the story began."""
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked for by the scheduler when no task can run: nothing is left to wait for."""
        if trio_internals.GLOBAL_RUN_CONTEXT.runner.waiting_for_idle and deadline > self._now_s:
            return _LONG_S
        while self._pauses and self._pauses[0][1] in self._over:
            self._over.remove(heapq.heappop(self._pauses)[1])
        until = self._pauses[0][0] if self._pauses else math.inf
        if min(until, deadline) == math.inf:
            return _LONG_S
        self._now_s = max(self._now_s, min(until, deadline))
        while self._pauses and self._pauses[0][0] <= self._now_s:
            _, number, task = heapq.heappop(self._pauses)
            if number in self._over:
                self._over.remove(number)
            else:
                trio.lowlevel.reschedule(task)
        return 0

    async def pause(self, seconds: float) -> None:
        """Wait so long; it can be cancelled."""
        if seconds <= 0:
            await trio.lowlevel.checkpoint()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        number = next(self._numbers)
        task = trio.lowlevel.current_task()
        heapq.heappush(self._pauses, (self._now_s + seconds, number, task))

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._over.add(number)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


async def pause(seconds: float) -> None:
    """`trio.sleep`, cheaper under a clock that jumps."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, JumpingClock):
        await clock.pause(seconds)
    else:
        await trio.sleep(seconds)
