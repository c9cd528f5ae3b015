"""What a client waits for: requests by key, each with the moment at which it is given up."""

from __future__ import annotations

import heapq
import math

__all__ = ["PendingRequests", "RequestKey"]

RequestKey = tuple[str, ...]
"""Whatever names the answer to a request, usually reply MTI, terminal and STAN."""


class PendingRequests:
    """Requests that wait for their answers. Moments in seconds on the caller's clock.

    Answered requests leave their moment in the heap until it is reached or the heap has grown to
    twice what waits, so that an answer costs one look-up.
    """

    __slots__ = ("_deadlines", "_heap")

    def __init__(self) -> None:
        self._deadlines: dict[RequestKey, float] = {}
        self._heap: list[tuple[float, RequestKey]] = []

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._deadlines

    def add(self, key: RequestKey, deadline: float) -> None:
        """Wait for `key` until `deadline`. The key must not be waiting."""
        self._deadlines[key] = deadline
        heapq.heappush(self._heap, (deadline, key))
        if len(self._heap) > 2 * len(self._deadlines) + 64:
            self._heap = [(deadline, key) for key, deadline in self._deadlines.items()]
            heapq.heapify(self._heap)

    def match(self, key: RequestKey) -> bool:
        """Whether `key` was waited for; it is not from now on."""
        return self._deadlines.pop(key, None) is not None

    def earliest(self) -> float:
        """The moment at which the next request is given up; infinite when nothing waits."""
        heap = self._heap
        while heap and self._deadlines.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def expired(self, now: float) -> list[RequestKey]:
        """Give up and return the requests whose moment is reached, earliest first."""
        keys = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            deadline, key = heapq.heappop(heap)
            if self._deadlines.get(key) == deadline:
                del self._deadlines[key]
                keys.append(key)
        return keys
