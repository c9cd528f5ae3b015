"""A worker that ends itself at a chosen point: `fault_worker.py FILE`.

It is the product's worker, with one of its methods wrapped here. What it shall do stands in
`fault-plan.json` of the data directory, which is looked at before each batch, so that a test can
change it while the workers run: {"point": name, "after": [low, high], "deaths": how many in all}.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from switch import worker
from switch.connection import Connection
from switch.intake import Intake
from switch.journal.journal import JournalSession, Outcome
from switch.key_desk import KeyDesk
from switch.pipeline import Pipeline
from switch.reservation.store import ReservationStore

POINTS = (
    "received",  # frames read, none looked at
    "parsed",  # authenticated and translated, not queued
    "queued",  # in the queue, in no batch
    "reserved",  # possession taken, nothing written
    "sent",  # the batch is on its way to Postgres
    "committed",  # durable, and nobody told
    "half-sent",  # a reply is out to its middle
    "half-told",  # some of the batch's replies are out
    "told",  # all replies out, the cards not given back
)
KEY_POINTS = (
    "key-asked",  # a terminal wants a new key, none is made
    "key-sent",  # the new key is on its way to Postgres
    "key-kept",  # durable, and the terminal not told
    "key-told",  # the terminal has it, and nothing else is done
    "key-used",  # first used, and that not noted
    "key-noted",  # noted as used, and what follows from it not read
)


class Plan:
    """When this process ends itself."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "fault-plan.json"
        self._deaths = data_dir / "fault-deaths"
        self._random = random.Random()
        self._named = ""
        self._left = 0

    def due(self, point: str) -> bool:
        """Whether the process is to end here and now: at the n-th passage of its plan's point."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return False
        plan: dict[str, Any] = json.loads(text)
        if plan["point"] != point:
            return False
        if text != self._named:
            self._named = text
            self._left = self._random.randint(*plan["after"])
        self._left -= 1
        return self._left <= 0 and self._claim(point, plan["deaths"])

    def _claim(self, point: str, deaths: int) -> bool:
        """One of the deaths that the plan allows, over all workers and their lives."""
        self._deaths.mkdir(exist_ok=True)
        for number in range(deaths):
            try:
                (self._deaths / f"{point}-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(plan: Plan) -> None:
    append: Callable[..., Any] = JournalSession.append
    settle: Callable[..., Any] = ReservationStore.settle
    reserve: Callable[..., Any] = ReservationStore.reserve
    send: Callable[..., Any] = Connection.send
    write: Callable[..., Any] = Connection._write
    receive: Callable[..., Any] = Intake.receive
    submit: Callable[..., Any] = Pipeline.submit

    def dying_receive(self: Intake, *rest: Any) -> None:
        if plan.due("received"):
            die()
        receive(self, *rest)

    def dying_submit(self: Pipeline, tickets: list[Any]) -> None:
        if plan.due("parsed"):
            die()
        submit(self, tickets)
        if plan.due("queued"):
            die()

    async def dying_append(self: JournalSession, arguments: tuple[Any, ...]) -> Outcome:
        if not arguments[3]:  # a batch without cards: the refusal log
            return await append(self, arguments)
        if plan.due("reserved"):
            die()
        if plan.due("sent"):
            threading.Timer(random.uniform(0.0005, 0.006), die).start()
        outcome = await append(self, arguments)
        if outcome is not Outcome.STALE and plan.due("committed"):
            die()
        return outcome

    async def dying_settle(self: ReservationStore, *rest: Any) -> None:
        if plan.due("told"):
            die()
        await settle(self, *rest)

    async def dying_reserve(self: ReservationStore, card_ids: Any, settled: Any = ()) -> Any:
        if settled and plan.due("told"):
            die()
        return await reserve(self, card_ids, settled)

    def dying_send(self: Connection, *rest: Any) -> None:
        send(self, *rest)
        if plan.due("half-told"):
            die()

    def dying_write(self: Connection, data: bytes) -> None:
        if data and plan.due("half-sent"):
            self._socket.send(data[: len(data) // 2])
            die()
        write(self, data)

    Connection._write = dying_write  # type: ignore[method-assign]
    Intake.receive = dying_receive  # type: ignore[method-assign]
    Pipeline.submit = dying_submit  # type: ignore[method-assign]
    JournalSession.append = dying_append  # type: ignore[method-assign]
    ReservationStore.settle = dying_settle  # type: ignore[method-assign]
    ReservationStore.reserve = dying_reserve  # type: ignore[method-assign]
    Connection.send = dying_send  # type: ignore[method-assign]


def wrap_desk(plan: Plan) -> None:
    hand_out: Callable[..., Any] = KeyDesk._hand_out
    note: Callable[..., Any] = KeyDesk._note_first_uses
    reply: Callable[..., Any] = Intake.reply

    async def dying_hand_out(self: KeyDesk, received: Any) -> Any:
        if plan.due("key-asked"):
            die()
        if plan.due("key-sent"):
            threading.Timer(random.uniform(0.0005, 0.006), die).start()
        answer = await hand_out(self, received)
        if plan.due("key-kept"):
            die()
        return answer

    async def dying_note(self: KeyDesk) -> None:
        there_are = bool(self._intake.first_uses)
        if there_are and plan.due("key-used"):
            die()
        await note(self)
        if there_are and plan.due("key-noted"):
            die()

    def dying_reply(self: Intake, answers: Any) -> None:
        reply(self, answers)
        if any("KB" in received.private for received, _ in answers) and plan.due("key-told"):
            die()

    KeyDesk._hand_out = dying_hand_out  # type: ignore[method-assign]
    KeyDesk._note_first_uses = dying_note  # type: ignore[method-assign]
    Intake.reply = dying_reply  # type: ignore[method-assign]


def own_cache(file: Path) -> Path:
    """The worker's file, with the cache that this worker alone has been given."""
    document = json.loads(file.read_bytes())
    caches = json.loads((Path(document["data_dir"]) / "fault-redis.json").read_text())
    document["redis_url"] = caches.get(str(document["index"]), document["redis_url"])
    own = file.with_suffix(".own.json")
    own.write_text(json.dumps(document))
    return own


if __name__ == "__main__":
    file = own_cache(Path(sys.argv[1]))
    plan = Plan(Path(json.loads(file.read_bytes())["data_dir"]))
    wrap(plan)
    wrap_desk(plan)
    sys.exit(worker.run_worker(file))
