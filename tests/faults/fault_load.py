"""Concurrent load from the independent client, with every request and every reply on record.

A till is one thread with one terminal and two connections, which mostly lead to two workers. It
redeems, loads, reverses and repeats, on its own and in races against itself, and it never leaves a
request open: what was not answered is repeated until it is.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.client.messages import Card, Reply, Request
from tests.client.terminal import NoReplyError, Terminal

__all__ = [
    "REPLY_TIMEOUT_S",
    "Asked",
    "Attempt",
    "Cast",
    "Kind",
    "Load",
    "longest_gap_s",
    "running",
]

UNSETTLED_CODES = frozenset({"30", "63", "91", "96"})
REPLY_TIMEOUT_S = 6.0
_CHASE_S = 40.0
_MEMORY = 60


class Kind(enum.Enum):
    """What a request asks for."""

    REDEEM = "redeem"
    LOAD = "load"
    REVERSAL = "reversal"
    BALANCE = "balance"
    TRANSFER = "transfer"


@dataclass
class Attempt:
    """One sending of a request; `time.monotonic()` of both ends."""

    sent_at: float
    replied_at: float = 0.0
    reply: Reply | None = None


@dataclass(eq=False)
class Asked:
    """One request with all its sendings. `abandoned`: told 91 each time and not asked again."""

    kind: Kind
    card: Card
    request: Request
    amount_minor: int = 0
    original: Asked | None = None
    to_card: Card | None = None
    """Where a transfer goes; of its reversal, where it had gone."""
    attempts: list[Attempt] = field(default_factory=list)
    abandoned: bool = False

    @property
    def replies(self) -> list[Reply]:
        return [attempt.reply for attempt in self.attempts if attempt.reply is not None]

    @property
    def settling(self) -> list[Reply]:
        """The replies that settle it."""
        return [reply for reply in self.replies if reply.code not in UNSETTLED_CODES]

    @property
    def only_turned_away(self) -> bool:
        """Each sending was answered, and each answer said that nothing was done."""
        return all(a.reply is not None and a.reply.code == "91" for a in self.attempts)

    @property
    def first_sent_at(self) -> float:
        return min(attempt.sent_at for attempt in self.attempts)

    @property
    def settled_at(self) -> float:
        """When the first settling reply was in hand."""
        return min(
            attempt.replied_at
            for attempt in self.attempts
            if attempt.reply is not None and attempt.reply.code not in UNSETTLED_CODES
        )


class Switch(Protocol):
    """Where tills connect to; its port may change while it runs."""

    def pos(self, entry: dict[str, Any]) -> Terminal: ...


@dataclass(frozen=True)
class Cast:
    """The cards of a load. `poor` ones are only spent from, and soon empty."""

    hot: Sequence[Card]
    cold: Sequence[Card]
    poor: Sequence[Card]

    @property
    def all(self) -> list[Card]:
        return [*self.hot, *self.cold, *self.poor]


Sending = tuple[int, Asked, Request]
"""Over which of the till's connections, for which record, which bytes."""


class Till(threading.Thread):
    """One terminal that works until told to stop."""

    def __init__(
        self,
        switch: Switch,
        entry: dict[str, Any],
        cast: Cast,
        seed: str,
        stopped: threading.Event,
        reply_timeout_s: float,
    ) -> None:
        super().__init__(name=f"till-{entry['id']}", daemon=True)
        self.record: list[Asked] = []
        self.error: BaseException | None = None
        self._switch = switch
        self._entry = entry
        self._cast = cast
        self._random = random.Random(seed)
        self._stopped = stopped
        self._reply_timeout_s = reply_timeout_s
        self._lines: list[Terminal | None] = [None, None]
        self._past: list[Asked] = []

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._step()
        except BaseException as error:
            self.error = error
        finally:
            for index in range(len(self._lines)):
                self._lose(index)

    # -- connections ------------------------------------------------------------------------

    def _line(self, index: int) -> Terminal:
        """The connection, opened anew where it was lost; for as long as the switch is away."""
        deadline = time.monotonic() + _CHASE_S
        while True:
            line = self._lines[index]
            if line is not None:
                return line
            try:
                line = self._switch.pos(self._entry)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                line.timeout_s = self._reply_timeout_s
                self._lines[index] = line

    def _lose(self, index: int) -> None:
        line, self._lines[index] = self._lines[index], None
        if line is not None:
            line.close()

    def _exchange(self, sendings: Sequence[Sending]) -> None:
        """Send all, then take all replies; a line on which one is missing is given up."""
        waiting: list[tuple[int, Terminal, Request, Attempt]] = []
        for index, asked, request in sendings:
            line = self._line(index)
            attempt = Attempt(time.monotonic())
            asked.attempts.append(attempt)
            try:
                line.send(request)
            except OSError:
                self._lose(index)
            else:
                waiting.append((index, line, request, attempt))
        for index, line, request, attempt in waiting:
            if self._lines[index] is not line:
                continue
            try:
                attempt.reply = line.receive(request)
            except (NoReplyError, OSError):
                self._lose(index)
            else:
                attempt.replied_at = time.monotonic()

    # -- steps ------------------------------------------------------------------------------

    def _step(self) -> None:
        steps: list[tuple[int, Callable[[], list[Asked]]]] = [
            (30, self._alone),
            (14, self._burst),
            (14, self._twins),
            (10, self._race_with_reversal),
            (4, self._reversal_first),
            (9, self._repeat_of_old),
            (11, self._reversal_of_old),
            (8, self._balance),
        ]
        chosen = self._random.choices([s for _, s in steps], [w for w, _ in steps])[0]
        for asked in dict.fromkeys(chosen()):
            self._chase(asked)
            if asked.settling and asked.kind in (Kind.REDEEM, Kind.LOAD, Kind.TRANSFER):
                self._past.append(asked)
        del self._past[:-_MEMORY]

    def _chase(self, asked: Asked) -> None:
        """Until it is settled; sometimes a 91 is taken for what it says and nothing more done."""
        if asked.kind is Kind.BALANCE:
            return
        deadline = time.monotonic() + _CHASE_S
        while not asked.settling:
            turned_away = asked.only_turned_away
            if turned_away and asked.kind is not Kind.REVERSAL and self._random.random() < 0.3:
                asked.abandoned = True
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not answered in {_CHASE_S:.0f} s: {asked.replies[-3:]}")
            if asked.attempts[-1].reply is not None:
                time.sleep(self._random.uniform(0.005, 0.05))
            line = self._random.randrange(2)
            self._exchange([(line, asked, self._make(line).repeat(asked.request))])

    def _alone(self) -> list[Asked]:
        asked = self._new()
        self._exchange([(self._random.randrange(2), asked, asked.request)])
        return [asked]

    def _burst(self) -> list[Asked]:
        """Several requests on one card in one write."""
        card = self._card()
        several = [self._new(card) for _ in range(self._random.randint(2, 5))]
        self._exchange([(0, asked, asked.request) for asked in several])
        return several

    def _twins(self) -> list[Asked]:
        """The same request over both connections at once, flagged as a repeat or not."""
        asked = self._new()
        twin = self._make(1).repeat(asked.request, flagged=self._random.random() < 0.5)
        self._exchange([(0, asked, asked.request), (1, asked, twin)])
        return [asked]

    def _race_with_reversal(self) -> list[Asked]:
        """A request and its reversal over two connections, either of them first."""
        asked = self._new()
        reversal = self._reversal(asked)
        sendings = [(0, asked, asked.request), (1, reversal, reversal.request)]
        self._random.shuffle(sendings)
        self._exchange(sendings)
        return [asked, reversal]

    def _reversal_first(self) -> list[Asked]:
        """The reversal is answered before its original is sent at all."""
        asked = self._new()
        reversal = self._reversal(asked)
        self._exchange([(0, reversal, reversal.request)])
        self._chase(reversal)
        self._exchange([(1, asked, asked.request)])
        return [reversal, asked]

    def _repeat_of_old(self) -> list[Asked]:
        old = [asked for asked in self.record[-_MEMORY:] if asked.settling]
        old = [asked for asked in old if asked.kind is not Kind.BALANCE]
        if not old:
            return []
        asked = self._random.choice(old)
        flagged = self._random.random() < 0.5
        line = self._random.randrange(2)
        self._exchange([(line, asked, self._make(line).repeat(asked.request, flagged=flagged))])
        return [asked]

    def _reversal_of_old(self) -> list[Asked]:
        if not self._past:
            return []
        reversal = self._reversal(self._random.choice(self._past))
        self._exchange([(self._random.randrange(2), reversal, reversal.request)])
        return [reversal]

    def _balance(self) -> list[Asked]:
        card = self._card()
        line = self._random.randrange(2)
        asked = Asked(Kind.BALANCE, card, self._make(line).balance(card))
        self.record.append(asked)
        self._exchange([(line, asked, asked.request)])
        return [asked]

    # -- requests ---------------------------------------------------------------------------

    def _make(self, line: int) -> Any:
        return self._line(line).make

    def _card(self) -> Card:
        cast = self._cast
        pools = [pool for pool in (cast.hot, cast.cold, cast.poor) if pool]
        weights = [w for pool, w in ((cast.hot, 6), (cast.cold, 3), (cast.poor, 2)) if pool]
        return self._random.choice(self._random.choices(pools, weights)[0])

    def _new(self, card: Card | None = None) -> Asked:
        card = card or self._card()
        make = self._make(0)
        if card in self._cast.poor:
            amount = self._random.randint(300, 3000)
            asked = Asked(Kind.REDEEM, card, make.redeem(card, amount), amount)
        elif self._random.random() < 0.25:
            asked = self._transfer(card)
        elif self._random.random() < 0.55:
            amount = self._random.randint(1, 40)
            asked = Asked(Kind.REDEEM, card, make.redeem(card, amount), amount)
        else:
            amount = self._random.randint(1, 40)
            asked = Asked(Kind.LOAD, card, make.load(card, amount), amount)
        self.record.append(asked)
        return asked

    def _transfer(self, card: Card) -> Asked:
        """To a card that always has as much left again."""
        others = [other for other in (*self._cast.hot, *self._cast.cold) if other != card]
        to_card, amount = self._random.choice(others), self._random.randint(1, 40)
        request = self._make(0).transfer(card, to_card, amount)
        return Asked(Kind.TRANSFER, card, request, amount, to_card=to_card)

    def _reversal(self, original: Asked) -> Asked:
        to_card = original.to_card
        named = {"de103": to_card.pan} if to_card and self._random.random() < 0.5 else {}
        mti = self._random.choice(["0400", "0420"])
        request = self._make(0).reverse(original.request, mti=mti, **named)
        amount_minor = original.amount_minor
        reversal = Asked(
            Kind.REVERSAL,
            original.card,
            request,
            amount_minor,
            original=original,
            to_card=to_card,
        )
        self.record.append(reversal)
        return reversal


class Load:
    """Many tills at once."""

    def __init__(
        self,
        switch: Switch,
        entries: Sequence[dict[str, Any]],
        cast: Cast,
        seed: str,
        reply_timeout_s: float = REPLY_TIMEOUT_S,
    ) -> None:
        self.cast = cast
        self._stopped = threading.Event()
        self._tills = [
            Till(switch, entry, cast, f"{seed} {entry['id']}", self._stopped, reply_timeout_s)
            for entry in entries
        ]

    def start(self) -> None:
        for till in self._tills:
            till.start()

    def stop(self) -> None:
        """Let every till settle what it has open. The first error of any till is raised."""
        self._stopped.set()
        for till in self._tills:
            till.join(2 * _CHASE_S)
        for till in self._tills:
            if till.error is not None:
                raise till.error
            assert not till.is_alive(), f"{till.name} did not end"

    @property
    def record(self) -> list[Asked]:
        return [asked for till in self._tills for asked in till.record]

    @property
    def answered(self) -> int:
        """How many requests have been settled so far."""
        return sum(1 for till in self._tills for asked in list(till.record) if asked.settling)


def longest_gap_s(record: Sequence[Asked], after: float, within_s: float = 15.0) -> float:
    """The longest time without an approval that begins in the seconds after that moment."""
    approved_at = sorted(
        attempt.replied_at
        for asked in record
        for attempt in asked.attempts
        if attempt.reply is not None and attempt.reply.code == "00"
    )
    begins = [at for at in approved_at if at < after][-1:]
    moments = begins + [at for at in approved_at if at >= after]
    return max(
        later - earlier
        for earlier, later in itertools.pairwise(moments)
        if earlier < after + within_s
    )


@contextlib.contextmanager
def running(
    switch: Switch,
    entries: Sequence[dict[str, Any]],
    cast: Cast,
    seed: str,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
) -> Iterator[Load]:
    """A load that runs while the block does, and has settled everything after it."""
    load = Load(switch, entries, cast, seed, reply_timeout_s)
    load.start()
    try:
        yield load
    finally:
        load.stop()
