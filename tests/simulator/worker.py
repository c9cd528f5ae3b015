"""A worker of the simulator: the real pipeline and its lanes over the stores in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from rules.identity import counted_transaction_id
from rules.ledger import Answer
from rules.policy import Limits, Policies, Policy
from switch.journal.journal import JournalDown
from switch.journal.rows import Refusal
from switch.lane import Lane
from switch.pipeline import Pipeline, Ticket
from switch.reservation.store import Sealer

from .clock import pause
from .memory_journal import Killed, MemoryJournal
from .memory_reservation import MemoryReservation

if TYPE_CHECKING:
    from .messages import Sent
    from .world import Delivery, World

__all__ = ["Worker", "encode"]

ANSWER_WITHIN_S = 0.25
READ_TIMEOUT_S = 0.3
_REVIVED_AFTER_S = 0.02
_PROBE_PERIOD_S = 0.05
_SEAL = Sealer(b"a key of the simulator only".ljust(32))

encode = msgspec.msgpack.Encoder().encode


class Worker:
    """One place where a worker runs: when it dies another takes its place, under a new run."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.life: Life | None = None

    def submit(self, sent: Sent, delivery: Delivery) -> None:
        """A message has arrived."""
        if self.life is None or not self.life.alive:
            delivery.lost = True
        else:
            self.life.submit(sent, delivery)

    def kill(self) -> None:
        """From this instant on it does nothing that anybody can see."""
        if self.life is not None and self.life.alive:
            self.world.say(f"worker {self.index} is killed")
            self.life.die()

    async def live(self) -> None:
        """Run, die, run again."""
        async with trio.open_nursery() as nursery:
            while True:
                self.world.runs += 1
                self.life = Life(self, self.world.runs)
                nursery.start_soon(self.life.run)
                await self.life.dead.wait()
                self.life.cancel()
                await pause(_REVIVED_AFTER_S)


class Life:
    """One run of a worker, and what hears its pipeline."""

    def __init__(self, worker: Worker, run: int) -> None:
        self.alive = True
        self.dead = trio.Event()
        self._lost_journal = trio.Event()
        self._worker = worker
        self._world = worker.world
        self._run = run
        self._scope = trio.CancelScope()
        setting = self._world.plan.setting
        terms = setting.terms
        limits = Limits(
            transaction_minor=terms.transaction,
            day_minor=terms.day,
            day_count=terms.times,
            balance_minor=terms.balance,
        )
        policy = Policy(
            horizon_s=setting.horizon_s,
            hold_s=setting.hold_s,
            dormancy_months=terms.fee_after,
            dormancy_fee_minor=terms.fee,
            limits={0: limits} if limits != Limits() else {},
        )
        self._pipeline = Pipeline(
            self, Policies(policy), batch_max=setting.batch_max, queue_max=setting.queue_max
        )
        self._waiting: dict[int, Delivery] = {}
        self._counts = itertools.count(1)
        batch_ids = itertools.count((run << 40) + 1)
        self._reservations = [self._reservation(number) for number in range(setting.lanes)]
        self._lanes = [
            Lane(
                self._pipeline,
                self._journal(),
                reservation,
                batch_ids.__next__,
                lambda: self._world.utc_now(worker.index),
            )
            for reservation in self._reservations
        ]

    def _journal(self) -> MemoryJournal:
        return MemoryJournal(
            self._world.database,
            self._run,
            read_timeout_s=READ_TIMEOUT_S,
            on_down=self._down,
            alive=lambda: self.alive,
        )

    def _reservation(self, number: int) -> MemoryReservation:
        return MemoryReservation(
            self._world.cache_of(self._worker.index),
            f"{self._run}.{number}".encode(),
            _SEAL,
            possession_ms=self._world.plan.setting.possession_ms,
            alive=lambda: self.alive,
        )

    def _down(self, _kind: str) -> None:
        self._pipeline.journal_up = False
        self._lost_journal.set()

    async def run(self) -> None:
        """All its tasks, until it dies."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for lane in self._lanes:
                        nursery.start_soon(lane.run)
                    nursery.start_soon(self._pipeline.watch)
                    nursery.start_soon(self._probe)
                    nursery.start_soon(self._listen)
        except* Killed:
            pass

    def die(self) -> None:
        """Everything that it has in hand is lost."""
        self.alive = False
        self.dead.set()
        for delivery in self._waiting.values():
            delivery.lost = True

    def cancel(self) -> None:
        """Take its tasks off the scheduler; the shielded ones end at their next call."""
        self._scope.cancel()

    async def _probe(self) -> None:
        """While the journal is down, look for its return."""
        session = self._journal()
        while True:
            await self._lost_journal.wait()
            self._lost_journal = trio.Event()
            while not self._pipeline.journal_up:
                await pause(_PROBE_PERIOD_S)
                with contextlib.suppress(JournalDown):
                    await session.rows("select 1")
                    self._pipeline.journal_up = True

    async def _listen(self) -> None:
        async for card_ids in self._reservations[0].notices():
            self._pipeline.freed_elsewhere(card_ids)

    def submit(self, sent: Sent, delivery: Delivery) -> None:
        """A message with an id of its own, into the pipeline."""
        transaction_id = counted_transaction_id(self._run, next(self._counts))
        request = msgspec.structs.replace(sent.request, transaction_id=transaction_id)
        now = trio.current_time()
        self._waiting[delivery.number] = delivery
        card_id = sent.message["card"]
        to_id = sent.message["to"]
        ticket = Ticket(request, card_id, now, now + ANSWER_WITHIN_S, delivery, to_id)
        self._pipeline.submit([ticket])

    # What the pipeline tells

    def answered(self, answers: Sequence[tuple[Ticket, Answer]]) -> None:
        """Answers on their way out; those of the dead stay in."""
        if not self.alive:
            return
        for ticket, answer in answers:
            delivery: Any = ticket.context
            self._waiting.pop(delivery.number, None)
            self._world.hear(delivery, plain(answer))

    def refusal_of(self, ticket: Ticket, answer: Answer) -> Refusal:
        """The refusal log's row for a request that reached no card."""
        key = ticket.request.key[:6].hex()
        return Refusal("pos", "0200", answer.response.value, answer.rule.value, "", key)

    def batch_committed(self, size: int, seconds: float) -> None:
        """Nobody counts here."""

    def batch_stale(self) -> None:
        """Seen in the trace, so that a story shows it."""
        if self.alive:
            self._world.say(f"worker {self._worker.index}: stale")

    def fault(self, where: str, error: BaseException) -> None:
        """Nothing may break in this world."""
        if self.alive:
            self._world.say(f"worker {self._worker.index}: {where} {error!r}")
            self._world.story.problems.append(f"fault in {where}: {error!r}")


def plain(answer: Answer) -> dict[str, Any]:
    """An answer in the words of the dialect."""
    return {
        "code": answer.response.value,
        "tx": answer.transaction_id,
        "rule": answer.rule.value,
        "rs": answer.reversal_state.value,
        "amount": answer.amount_minor,
        "requested": answer.requested_minor,
        "approval": answer.approval_code,
        "balances": answer.balances,
        "oc": answer.original_response,
        "os": answer.original_state.value,
        "rrn": answer.rrn,
    }
