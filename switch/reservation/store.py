"""Possession of cards through Redis, and without it.

Redis says which batch may work on a card now and what the card last looked like. When it is down or
silent, every card is granted with no state known: the worker reads rows from Postgres and the row's
condition refuses whoever was second. Slower, never wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import trio

from fastpath.cache import function_call, open_states, seal_states
from fastpath.mac import MacAlgorithm, MacKey
from switch.journal.rows import CardRow
from switch.reservation.connection import RedisConnection, RedisDown, load_library, pack

__all__ = ["ReservationStore", "Reserved", "Sealer"]

_PAUSE_AFTER_FAILURE_S = 0.5
_HELD, _WAIT = b"held", b"wait"
_KEYS = (_HELD, _WAIT)


class Reserved(NamedTuple):
    """What `reserve` says of a batch's cards; any other is this lane's, its state unknown."""

    rows: dict[int, CardRow]
    """Cards that are this lane's now, as they were last."""
    busy: list[int]
    """Cards that another has."""


class Sealer:
    """Card states as they travel through Redis: under a keyed digest that nobody else can make.

    The row in Postgres refuses a state of the wrong version; a state of the right version with
    another balance it could not tell. The seal can.
    """

    def __init__(self, key: bytes) -> None:
        """`key` is an AES key. ValueError for another length."""
        self._key = MacKey(MacAlgorithm.AES_CMAC, key)

    def seal(self, card_ids: Collection[int], rows: Iterable[CardRow]) -> list[bytes]:
        """Rows as bytes for the cache, each good for its card alone."""
        parts = [(row.facts, row.state, row.window) for row in rows]
        return seal_states(self._key, card_ids, parts)

    def open(self, card_ids: Sequence[int], states: Sequence[bytes]) -> list[CardRow | None]:
        """The rows, with None for anything that was not sealed here for this card."""
        opened = open_states(self._key, card_ids, states)
        return [None if parts is None else CardRow(*parts) for parts in opened]


class ReservationStore:
    """One lane's way to Redis."""

    def __init__(
        self,
        url: str,
        prefix: str,
        holder: bytes,
        sealer: Sealer,
        *,
        timeout_s: float = 0.2,
        possession_ms: int = 1000,
        on_error: Callable[[str], None] = lambda _kind: None,
    ) -> None:
        """`prefix` names the installation's epoch; `holder` is unique per lane and worker run."""
        self._url = url
        self._tag = b"{%b}" % prefix.encode()
        self._holder = holder
        self._sealer = sealer
        self._timeout_s = timeout_s
        self._possession_ms = b"%d" % possession_ms
        self._on_error = on_error
        self._connection = RedisConnection(url)
        self._down_until = -1.0

    @property
    def up(self) -> bool:
        """Whether the last call was answered."""
        return self._down_until < 0

    async def _call(self, function: str, card_ids: Collection[int], *args: bytes) -> object | None:
        """The function's reply, or None while Redis is down."""
        if self._down_until > trio.current_time():
            return None
        name = f"cardswitch1_{function}".encode()
        command = function_call(name, self._tag, _KEYS, card_ids, (self._holder, *args))
        try:
            try:
                reply = await self._connection.call(command, timeout_s=self._timeout_s)
            except RedisDown as error:
                if "unction not found" not in str(error):
                    raise
                await trio.to_thread.run_sync(load_library, self._url)
                reply = await self._connection.call(command, timeout_s=self._timeout_s)
        except RedisDown as error:
            self._down_until = trio.current_time() + _PAUSE_AFTER_FAILURE_S
            self._on_error(str(error).split(" ", maxsplit=1)[0][:24])
            return None
        self._down_until = -1.0
        return reply

    async def reserve(
        self, card_ids: Sequence[int], settled: Mapping[int, CardRow] | None = None
    ) -> Reserved:
        """Take these cards for this lane's batch, as far as no other has them.

        `settled` are given back first, as by `settle`. What another worker waits for of them is
        not taken again by the same call.
        """
        if settled:
            states = self._sealer.seal(settled, settled.values())
            both, count = (*settled, *card_ids), b"%d" % len(settled)
            reply = await self._call("exchange", both, self._possession_ms, count, *states)
        else:
            reply = await self._call("reserve", card_ids, self._possession_ms)
        if not isinstance(reply, list) or len(reply) != len(card_ids):
            return Reserved({}, [])
        known, states, busy = [], [], []
        for card_id, state in zip(card_ids, reply, strict=True):
            if isinstance(state, bytes):
                known.append(card_id)
                states.append(state)
            elif state == 0:
                busy.append(card_id)
        opened = zip(known, self._sealer.open(known, states), strict=True)
        return Reserved({card_id: row for card_id, row in opened if row is not None}, busy)

    async def settle(self, card_ids: Sequence[int], rows: Sequence[CardRow]) -> None:
        """Give cards back with the state that was committed."""
        await self._call("settle", card_ids, *self._sealer.seal(card_ids, rows))

    async def release(self, card_ids: Sequence[int], *, forget: bool = False) -> None:
        """Give cards back as they were; `forget` their state where it has proved stale."""
        await self._call("release", card_ids, b"1" if forget else b"0")

    async def notices(self) -> AsyncIterator[list[int]]:
        """Cards that were given back while somebody waited for them, as it happens, for ever."""
        connection = RedisConnection(self._url)
        subscribe = pack("SUBSCRIBE", self._tag + _HELD)
        try:
            while True:
                try:
                    await connection.call(subscribe, timeout_s=self._timeout_s)
                    while True:
                        card_ids = self._card_ids_in(await connection.next_message())
                        if card_ids:
                            yield card_ids
                except RedisDown:
                    await trio.sleep(_PAUSE_AFTER_FAILURE_S)
        finally:
            connection.discard()

    def _card_ids_in(self, message: object) -> list[int]:
        """The cards that a notice names. Anybody may say anything on the channel: [] for that."""
        if not isinstance(message, list) or message[0] != b"message":
            return []
        try:
            return [int(name.removeprefix(self._tag)) for name in message[2].split(b" ")]
        except ValueError:
            return []

    def close(self) -> None:
        """Close the connection."""
        self._connection.discard()
