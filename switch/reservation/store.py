"""Possession of cards through Redis, and without it.

Redis says which batch may work on a card now and what the card last looked like. When it is down or
silent, every card is granted with no state known: the worker reads rows from Postgres and the row's
condition refuses whoever was second. Slower, never wrong.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec
import trio

from fastpath.mac import MacAlgorithm, MacKey, sign_many, verify_many
from switch.journal.rows import CardRow
from switch.reservation.connection import Argument, RedisConnection, RedisDown, load_library

__all__ = ["Possession", "ReservationStore", "Reserved", "Sealer"]

_PAUSE_AFTER_FAILURE_S = 0.5
_SEAL = 8


class Possession(enum.Enum):
    """What `reserve` says of one card."""

    BUSY = 0
    GRANTED = 1


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """One card's answer: whether it may be worked on, and its state where one is known."""

    possession: Possession
    row: CardRow | None = None


_GRANTED = Possession.GRANTED
BUSY = Reserved(Possession.BUSY)
GRANTED = Reserved(Possession.GRANTED)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes]).decode


class Sealer:
    """Card states as they travel through Redis: under a keyed digest that nobody else can make.

    The row in Postgres refuses a state of the wrong version; a state of the right version with
    another balance it could not tell. The seal can.
    """

    def __init__(self, key: bytes) -> None:
        """`key` is an AES key. ValueError for another length."""
        self._key = MacKey(MacAlgorithm.AES_CMAC, key)

    def seal(self, card_ids: Sequence[int], rows: Iterable[CardRow]) -> list[bytes]:
        """Rows as bytes for the cache: the AES-CMAC (NIST SP 800-38B) of each, with its card."""
        bodies = [_encode((row.facts, row.state, row.window)) for row in rows]
        macs = sign_many([self._key] * len(bodies), _covered(card_ids, bodies))
        return [mac + body for mac, body in zip(macs, bodies, strict=True)]

    def open(self, card_ids: Sequence[int], states: Sequence[bytes]) -> list[CardRow | None]:
        """The rows, with None for anything that was not sealed here for this card."""
        bodies = [state[_SEAL:] for state in states]
        macs = [state[:_SEAL] for state in states]
        rights = verify_many([self._key] * len(bodies), _covered(card_ids, bodies), macs)
        return [
            CardRow(*_decode(body)) if right else None
            for right, body in zip(rights, bodies, strict=True)
        ]


def _covered(card_ids: Iterable[int], bodies: Iterable[bytes]) -> list[bytes]:
    """What a seal is over: the card, too, so that none is good for another."""
    return [
        card_id.to_bytes(8, "big", signed=True) + body
        for card_id, body in zip(card_ids, bodies, strict=True)
    ]


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
        self._tag = "{" + prefix + "}"
        self._holder = holder
        self._sealer = sealer
        self._timeout_s = timeout_s
        self._possession_ms = possession_ms
        self._on_error = on_error
        self._connection = RedisConnection(url)
        self._down_until = -1.0

    def _keys(self, card_ids: Sequence[int]) -> list[str]:
        tag = self._tag
        return [f"{tag}held", f"{tag}wait", *(f"{tag}{card_id}" for card_id in card_ids)]

    @property
    def up(self) -> bool:
        """Whether the last call was answered."""
        return self._down_until < 0

    async def _call(self, function: str, card_ids: Sequence[int], *args: Argument) -> object | None:
        """The function's reply, or None while Redis is down."""
        if self._down_until > trio.current_time():
            return None
        keys = self._keys(card_ids)
        command = ("FCALL", f"cardswitch1_{function}", len(keys), *keys, self._holder, *args)
        try:
            try:
                reply = await self._connection.call(*command, timeout_s=self._timeout_s)
            except RedisDown as error:
                if "unction not found" not in str(error):
                    raise
                await trio.to_thread.run_sync(load_library, self._url)
                reply = await self._connection.call(*command, timeout_s=self._timeout_s)
        except RedisDown as error:
            self._down_until = trio.current_time() + _PAUSE_AFTER_FAILURE_S
            self._on_error(str(error).split(" ", maxsplit=1)[0][:24])
            return None
        self._down_until = -1.0
        return reply

    async def reserve(
        self, card_ids: Sequence[int], settled: Mapping[int, CardRow] | None = None
    ) -> list[Reserved]:
        """Take these cards for this lane's batch, as far as no other has them.

        `settled` are given back first, as by `settle`. What another worker waits for of them is
        not taken again by the same call.
        """
        if settled:
            states = self._sealer.seal(list(settled), settled.values())
            both = (*settled, *card_ids)
            reply = await self._call("exchange", both, self._possession_ms, len(settled), *states)
        else:
            reply = await self._call("reserve", card_ids, self._possession_ms)
        if not isinstance(reply, list) or len(reply) != len(card_ids):
            return [GRANTED] * len(card_ids)
        sealed = {
            card_id: state
            for card_id, state in zip(card_ids, reply, strict=True)
            if isinstance(state, bytes)
        }
        rows = iter(self._sealer.open(list(sealed), list(sealed.values())))
        return [
            Reserved(_GRANTED, next(rows))
            if isinstance(state, bytes)
            else (BUSY if state == 0 else GRANTED)
            for state in reply
        ]

    async def settle(self, card_ids: Sequence[int], rows: Sequence[CardRow]) -> None:
        """Give cards back with the state that was committed."""
        await self._call("settle", card_ids, *self._sealer.seal(card_ids, rows))

    async def release(self, card_ids: Sequence[int], *, forget: bool = False) -> None:
        """Give cards back as they were; `forget` their state where it has proved stale."""
        await self._call("release", card_ids, "1" if forget else "0")

    async def notices(self) -> AsyncIterator[list[int]]:
        """Cards that were given back while somebody waited for them, as it happens, for ever."""
        connection = RedisConnection(self._url)
        channel = f"{self._tag}held"
        try:
            while True:
                try:
                    await connection.call("SUBSCRIBE", channel, timeout_s=self._timeout_s)
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
        tag = self._tag.encode()
        try:
            return [int(name.removeprefix(tag)) for name in message[2].split(b" ")]
        except ValueError:
            return []

    def close(self) -> None:
        """Close the connection."""
        self._connection.discard()
