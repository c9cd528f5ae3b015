"""Possession in memory: the real `ReservationStore` over a stand-in for the Redis it talks to.

The store's own code runs as it is, the seal included. `MemoryCache` does what `library.lua` does;
between the two stand the faults.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import hiredis
import msgspec
import trio

from switch.reservation.connection import RedisDown
from switch.reservation.store import ReservationStore, Sealer

from .clock import pause
from .memory_journal import Killed

__all__ = ["CacheFault", "MemoryCache", "MemoryReservation", "NoCacheTrouble"]


class CacheFault(enum.Enum):
    """What can befall a call."""

    SLOW = "slow"
    DOWN = "down"
    SILENT = "silent, done all the same"
    LATE = "silent, done late"
    FLUSHED = "everything forgotten"
    EARLY = "all possession expired early"
    TWICE = "granted although another has it"
    OLDER = "an older state"
    FORGED = "right version, other content"
    SWAPPED = "another card's state"
    TWIN = "right version, other batch and content, under a right seal"


class NoCacheTrouble:
    """Nothing goes wrong and nothing takes time."""

    def latency_s(self) -> float:
        """How long a call is under way in one direction."""
        return 0

    def cache_fault(self) -> tuple[CacheFault | None, float]:
        """What befalls the next call, and a time in seconds that goes with it."""
        return None, 0

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Do something when this time has passed, whoever is dead by then."""


class MemoryCache:
    """What Redis keeps: marks of possession, who waits, and sealed states with all they were."""

    def __init__(self, trouble: NoCacheTrouble | None = None) -> None:
        self.trouble = trouble or NoCacheTrouble()
        self.marks: dict[str, tuple[float, bytes]] = {}
        self.waits: set[str] = set()
        self.states: dict[str, bytes] = {}
        self.older: dict[str, list[bytes]] = {}
        """All that a card's state has ever been, for a cache that lies."""
        self.listeners: list[trio.MemorySendChannel[list[str]]] = []

    def flush(self) -> None:
        """Forget everything."""
        self.marks.clear()
        self.waits.clear()
        self.states.clear()

    def reserve(
        self, cards: Sequence[str], holder: bytes, possession_ms: int, *, twice: bool = False
    ) -> list[bytes | int]:
        """0: another has it; 1: yours, no state known; bytes: yours, with its state."""
        now = trio.current_time()
        answer: list[bytes | int] = []
        for card in cards:
            until, whose = self.marks.get(card, (-1.0, b""))
            if whose != holder and until > now and not twice:
                self.waits.add(card)
                answer.append(0)
            else:
                self.marks[card] = (now + possession_ms / 1000, holder)
                answer.append(self.states.get(card, 1))
        return answer

    def settle(self, cards: Sequence[str], holder: bytes, states: Sequence[bytes]) -> int:
        """Take the states of the cards that are still this holder's, and free these."""
        mine = self._own(cards, holder)
        for card, state in zip(cards, states, strict=True):
            if card in mine:
                self.states[card] = state
                self.older.setdefault(card, []).append(state)
        self._give_up(mine)
        return len(mine)

    def exchange(
        self, cards: Sequence[str], holder: bytes, args: Sequence[Any], *, twice: bool = False
    ) -> list[bytes | int]:
        """Settle the first cards, then reserve the others but what somebody waits for."""
        possession_ms, count, *states = args
        settled, wanted = cards[: int(count)], cards[int(count) :]
        waited = self.waits.intersection(settled)
        self.settle(settled, holder, states)
        taken = [card for card in wanted if card not in waited]
        answers = iter(self.reserve(taken, holder, int(possession_ms), twice=twice))
        return [0 if card in waited else next(answers) for card in wanted]

    def release(self, cards: Sequence[str], holder: bytes, forget: bool) -> int:
        """Free the cards that are still this holder's; forget the states of all."""
        mine = self._own(cards, holder)
        if forget:
            for card in cards:
                self.states.pop(card, None)
        self._give_up(mine)
        return len(mine)

    def _own(self, cards: Sequence[str], holder: bytes) -> list[str]:
        return [card for card in cards if self.marks.get(card, (0, b""))[1] == holder]

    def _give_up(self, mine: list[str]) -> None:
        for card in mine:
            del self.marks[card]
        free = [card for card in mine if card in self.waits]
        self.waits.difference_update(free)
        if free:
            for listener in self.listeners:
                listener.send_nowait(free)


class MemoryRedisConnection:
    """A connection as the store uses it."""

    def __init__(self, cache: MemoryCache, sealer: Sealer, alive: Callable[[], bool]) -> None:
        self._cache = cache
        self._sealer = sealer
        self._alive = alive

    def discard(self) -> None:
        """Close at once."""

    async def call(self, command: bytes, *, timeout_s: float) -> object:
        """One FCALL and its reply; RedisDown for everything that goes wrong."""
        if not self._alive():
            raise Killed
        reader = hiredis.Reader()
        reader.feed(command)
        _, name, number, *rest = reader.gets()
        function, count = name.decode(), int(number)
        cards = [key.decode() for key in rest[2:count]]
        holder, *args = rest[count:]
        cache, trouble = self._cache, self._cache.trouble
        fault, time_s = trouble.cache_fault()
        if fault is CacheFault.DOWN:
            raise RedisDown("ConnectionRefusedError")
        if fault is CacheFault.LATE:
            trouble.later(timeout_s + time_s, lambda: self._do(function, cards, holder, args))
        else:
            await pause(trouble.latency_s() + (time_s if fault is CacheFault.SLOW else 0))
            if fault is CacheFault.FLUSHED:
                cache.flush()
            if fault is CacheFault.EARLY:
                cache.marks.clear()
            twice = fault is CacheFault.TWICE
            reply = self._do(function, cards, holder, args, twice=twice)
        if fault in (CacheFault.LATE, CacheFault.SILENT):
            await pause(timeout_s)
            raise RedisDown("silent")
        await pause(trouble.latency_s())
        if not self._alive():
            raise Killed
        if isinstance(reply, list):
            cards = cards[len(cards) - len(reply) :]
            reply = [self._lie(fault, cards, n, state) for n, state in enumerate(reply)]
        return reply

    def _do(
        self,
        function: str,
        cards: list[str],
        holder: bytes,
        args: list[Any],
        *,
        twice: bool = False,
    ) -> object:
        if function == "cardswitch1_reserve":
            return self._cache.reserve(cards, holder, int(args[0]), twice=twice)
        if function == "cardswitch1_exchange":
            return self._cache.exchange(cards, holder, args, twice=twice)
        if function == "cardswitch1_settle":
            return self._cache.settle(cards, holder, args)
        if function == "cardswitch1_release":
            return self._cache.release(cards, holder, args[0] == b"1")
        raise RedisDown("ERR Function not found")

    def _lie(self, fault: CacheFault | None, cards: list[str], n: int, state: Any) -> Any:
        if not isinstance(state, bytes):
            return state
        if fault is CacheFault.OLDER:
            ages = self._cache.older[cards[n]]
            return ages[max(len(ages) - 3, 0)]
        if fault is CacheFault.SWAPPED:
            others = [s for name, s in self._cache.states.items() if name != cards[n]]
            return others[0] if others else state
        if fault is CacheFault.FORGED:
            return state[:8] + _richer(state[8:], other_batch=False)
        if fault is CacheFault.TWIN:
            card_id = int(cards[n].rpartition("}")[2])
            row = self._sealer.open([card_id], [state])[0]
            if row is not None:
                row.state = msgspec.msgpack.encode(_richer_state(row.state, other_batch=True))
                return self._sealer.seal([card_id], [row])[0]
        return state


def _richer(body: bytes, *, other_batch: bool) -> bytes:
    facts, state, window = msgspec.msgpack.decode(body)
    richer = msgspec.msgpack.encode(_richer_state(state, other_batch=other_batch))
    return msgspec.msgpack.encode((facts, richer, window))


def _richer_state(state: bytes, *, other_batch: bool) -> Any:
    """The same version of a card, worth 500 more in a lot that it has not."""
    fields = msgspec.msgpack.decode(state)
    fields[1] += other_batch
    ecash = fields[3]
    ecash[0] += 500
    ecash[2].append([999, 500, 1, True, 0, 0])
    return fields


class MemoryReservation(ReservationStore):
    """The real store; only where it connects to is another place."""

    def __init__(
        self,
        cache: MemoryCache,
        holder: bytes,
        sealer: Sealer,
        *,
        timeout_s: float = 0.2,
        possession_ms: int = 1000,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(
            "memory", "sim", holder, sealer, timeout_s=timeout_s, possession_ms=possession_ms
        )
        self._cache = cache
        connection: Any = MemoryRedisConnection(cache, sealer, alive)
        self._connection = connection

    async def notices(self) -> AsyncIterator[list[int]]:
        """Cards that were given back while somebody waited for them, as it happens, for ever."""
        send, receive = trio.open_memory_channel[list[str]](10_000)
        self._cache.listeners.append(send)
        try:
            async for names in receive:
                yield [int(name.rpartition("}")[2]) for name in names]
        finally:
            self._cache.listeners.remove(send)
