"""Keys that change while the switch runs: new ones handed out, first uses noted, changes learnt.

One task per worker, beside the pipeline. It looks for changes of the programme each second, and
at once (ten times a second at most) when a MAC was wrong under all keys that this worker knows:
another worker may have handed out a new one in this very moment. Such messages wait for that look.

A new key is kept, under the master key, before it is sent. Until it is used a terminal that asks
again gets the same one: an answer that was lost costs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import trio

from fastpath.errors import FormatError
from fastpath.mac import MacAlgorithm
from fastpath.specs import DE
from rules.identity import request_key
from rules.ledger import Answer
from rules.responses import Response, Rule
from switch.authentication import Received
from switch.intake import Intake
from switch.journal.journal import JournalDown, JournalSession
from switch.keyblock import (
    BlockUsage,
    BlockVersion,
    Exportability,
    KeyAlgorithm,
    KeyBlockError,
    KeyMode,
    ProtectionKey,
)
from switch.keys import KeyUsage, MasterKey, check_value
from switch.logs import RateLimited
from switch.metrics import Metrics
from switch.programme import ProgrammeSource, TerminalEntry
from switch.terminal_keys import PinFormat
from switch.wire.private import parse_private
from switch.wire.replies import plain_answer

__all__ = ["KeyDesk"]

_LOOK_PERIOD_S = 1.0
_LOOKS_APART_S = 0.1
_RETIRE_PERIOD_S = 60.0
_HAND_OUTS_PER_LOOK = 16
"""Whoever asks for keys all the time must not keep waiting what has only to be looked up."""
_TRIES = 5
_ALGORITHM_AT = 7
"""Where a key block's header names the algorithm of its key (X9.143, table 2)."""
_STAN, _RRN, _PRIVATE = int(DE.STAN), int(DE.RRN), int(DE.PRIVATE)
_TIME, _DATE = int(DE.LOCAL_TIME), int(DE.LOCAL_DATE)

_KEK = """
select block from terminal_key
where terminal_id = $1 and usage = 'kek' order by version desc limit 1
"""
_DUE = "select version, sent, check_value, noted from key_change_due($1, $2, $3)"
_HAND_OUT = """
select version, sent, check_value, noted from hand_out_key($1, $2, $3, $4, $5, $6, $7)
"""
_ACTIVATE = "select activate_key($1, $2, $3, $4) as changed"
_RETIRE = "select retire_keys() as removed"

log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What a new key is, and how its block says so to the terminal."""

    usage: KeyUsage
    algorithm: KeyAlgorithm
    block_usage: BlockUsage
    mode: KeyMode

    @property
    def column(self) -> str:
        """The usage as the tables name it."""
        return "mac" if self.usage is KeyUsage.MAC else "pin"


def _kind(terminal: TerminalEntry, asked: str) -> _Kind | None:
    """The kind of key that `KU` asks for: MAC (also where it is absent) or PIN."""
    if asked in ("", "MAC"):
        if terminal.keys.algorithm is MacAlgorithm.RETAIL:
            usage = BlockUsage.MAC_ALGORITHM_3
            return _Kind(KeyUsage.MAC, KeyAlgorithm.TDES, usage, KeyMode.GENERATE_AND_VERIFY)
        usage = BlockUsage.MAC_CMAC
        return _Kind(KeyUsage.MAC, KeyAlgorithm.AES, usage, KeyMode.GENERATE_AND_VERIFY)
    if asked != "PIN":
        return None
    tdes = terminal.keys.pin_format is PinFormat.FORMAT_0
    algorithm = KeyAlgorithm.TDES if tdes else KeyAlgorithm.AES
    return _Kind(KeyUsage.PIN, algorithm, BlockUsage.PIN_ENCRYPTION, KeyMode.ENCRYPT)


def new_key(algorithm: KeyAlgorithm) -> bytes:
    """16 random bytes; for TDES two different halves, with odd parity as DES keys have it."""
    while True:
        key = secrets.token_bytes(16)
        if algorithm is KeyAlgorithm.AES:
            return key
        key = bytes(byte ^ (byte.bit_count() + 1 & 1) for byte in key)
        if key[:8] != key[8:]:
            return key


class KeyDesk:
    """One worker's desk."""

    def __init__(
        self,
        session: JournalSession,
        master_key: MasterKey,
        source: ProgrammeSource,
        intake: Intake,
        metrics: Metrics,
        next_transaction_id: Callable[[], str],
        *,
        window_s: int,
        answer_within_s: float,
    ) -> None:
        """`window_s`: how long the key before a new one is taken after the new one's first use."""
        self._session = session
        self._master_key = master_key
        self._source = source
        self._intake = intake
        self._metrics = metrics
        self._next_transaction_id = next_transaction_id
        self._window_s = window_s
        self._answer_within_s = answer_within_s
        self._limited = RateLimited(log)
        self._work = trio.Event()
        self._looked = self._retired = -math.inf
        self._asked: deque[Received] = deque()
        self._doubts: deque[Received] = deque()
        intake.doubts, intake.key_changes = self._doubts, self._asked
        intake.on_key_work = self._wake

    def _wake(self) -> None:
        self._work.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        self._measure()
        while True:
            if not self._asked:
                with trio.move_on_after(_LOOK_PERIOD_S):
                    await self._work.wait()
            await self.turn()

    async def turn(self) -> None:
        """All that there is to do now, once."""
        self._work = trio.Event()
        handed_out = await self._hand_out_some()
        await self._note_first_uses()
        if not handed_out:
            await trio.sleep_until(self._looked + _LOOKS_APART_S)
        self._looked = trio.current_time()
        await self._look()
        if handed_out:  # a new key is known here before its terminal is told of it
            self._intake.reply(handed_out)
        if self._looked - self._retired >= _RETIRE_PERIOD_S:
            self._retired = self._looked
            await self.retire()

    async def _look(self) -> None:
        """Learn what has changed; then the doubtful messages are told."""
        waiting = list(self._doubts)
        self._doubts.clear()
        before = self._intake.programme
        try:
            after = await self._source.refreshed(before)
        except Exception as error:  # the programme as it was goes on
            if not isinstance(error, JournalDown):
                self._limited.event(logging.ERROR, "programme-not-read", exception=error)
            self._intake.cannot_look(waiting)
            return
        if after is not before:
            self._intake.programme = after
            self._metrics.programme_changes.inc()
            self._limited.event(logging.INFO, "programme-changed", terminals=len(after.terminals))
        self._measure()
        self._intake.resume(waiting)

    def _measure(self) -> None:
        terminals = self._intake.programme.terminals.values()
        oldest_s = min((t.tdes_since_s for t in terminals if t.tdes_since_s), default=0)
        self._metrics.tdes_key_since.set(oldest_s)
        self._metrics.programme_faults.set(len(self._source.faulty))

    async def _note_first_uses(self) -> None:
        """Kept for later where Postgres is down: until then both keys are taken."""
        with contextlib.suppress(JournalDown):
            for use in list(self._intake.first_uses):
                rows = await self._session.rows(_ACTIVATE, *use, self._window_s)
                self._intake.first_uses.discard(use)
                if rows[0]["changed"]:
                    terminal_id, usage, version = use
                    more = {"terminal_id": terminal_id, "usage": usage, "version": version}
                    self._limited.event(logging.INFO, "key-activated", **more)

    async def retire(self) -> None:
        """Keys whose window is over are removed, here and in the tables."""
        with contextlib.suppress(JournalDown):
            removed = (await self._session.rows(_RETIRE))[0]["removed"]
            if removed:
                self._limited.event(logging.INFO, "keys-retired", count=removed)

    async def _hand_out_some(self) -> list[tuple[Received, Answer]]:
        """Answers to some of those that asked for a key, in order. Nothing has been sent yet."""
        handed_out: list[tuple[Received, Answer]] = []
        while self._asked and len(handed_out) < _HAND_OUTS_PER_LOOK:
            # The request itself may be the first use of the last new key.
            await self._note_first_uses()
            handed_out.append(await self._hand_out(self._asked.popleft()))
        if any(received.private for received, _ in handed_out):
            try:
                await self._session.confirm()
            except JournalDown:
                for at, (received, _) in enumerate(handed_out):
                    received.private = {}
                    handed_out[at] = self._cannot(received, Rule.STORE)
        return handed_out

    def _cannot(self, received: Received, rule: Rule) -> tuple[Received, Answer]:
        return received, self._answer(received, Response.CANNOT_DECIDE, rule)

    def _answer(self, received: Received, response: Response, rule: Rule) -> Answer:
        rrn = received.message.get(_RRN) or ""
        return plain_answer(self._next_transaction_id(), response, rule, rrn)

    async def _hand_out(self, received: Received) -> tuple[Received, Answer]:
        terminal, message = received.terminal, received.message
        assert terminal is not None
        if trio.current_time() - received.arrived > self._answer_within_s:
            return self._cannot(received, Rule.DEADLINE)
        response, rule = Response.APPROVED, Rule.NONE
        try:
            private = parse_private(message.get(_PRIVATE) or "")
            kind = _kind(terminal, private.get("KU", ""))
            if kind is None:
                response, rule = Response.INVALID_TRANSACTION, Rule.OPERATION
            else:
                sent, check = await self._key_for(received, terminal, kind)
                received.private = {"KB": sent, "KC": check}
        except JournalDown:
            response, rule = Response.CANNOT_DECIDE, Rule.STORE
        except FormatError:
            response, rule = Response.FORMAT_ERROR, Rule.FORMAT
        except (KeyBlockError, LookupError) as error:
            more = {"terminal": terminal.code, "kind": type(error).__name__}
            self._limited.event(logging.ERROR, "key-not-handed-out", **more)
            response, rule = Response.FAULT, Rule.FAULT
        return received, self._answer(received, response, rule)

    async def _key_for(
        self, received: Received, terminal: TerminalEntry, kind: _Kind
    ) -> tuple[str, str]:
        """`KB` and `KC`: of the key that is due to this request, else of a new one."""
        message = received.message
        key = request_key(
            0,
            f"{terminal.code}|{message.get(_DATE)}|{message.get(_TIME)}|80|{message.get(_STAN)}",
        )
        terminal_id = terminal.rules.terminal_id
        protection = await self._kek_of(terminal_id)
        due = (await self._session.rows(_DUE, terminal_id, kind.column, key))[0]
        for _ in range(_TRIES):
            version = due["version"]
            if due["noted"]:
                return due["sent"], due["check_value"]
            if due["sent"] is not None:  # a key that another request was given, unused as yet
                pending = (terminal_id, kind.column, version, key, "", "", "")
                due = (await self._session.rows(_HAND_OUT, *pending))[0]
                continue
            fresh = new_key(kind.algorithm)
            sent = protection.wrap(
                *(fresh, kind.block_usage, kind.algorithm, kind.mode),
                exportability=Exportability.NOT_EXPORTABLE,
                key_version=f"{version:02d}",
            )
            block = self._master_key.wrap(fresh, kind.usage, kind.algorithm, key_version=version)
            check = check_value(kind.algorithm, fresh)
            kept = (terminal_id, kind.column, version, key, block, sent, check)
            due = (await self._session.rows(_HAND_OUT, *kept))[0]
            if due["sent"] == sent:
                more = {"terminal": terminal.code, "usage": kind.column, "version": version}
                self._limited.event(logging.INFO, "key-handed-out", **more)
        raise LookupError("the key's version was taken again and again")

    async def _kek_of(self, terminal_id: int) -> ProtectionKey:
        """The terminal's key-encrypting key. LookupError where it has none."""
        rows = await self._session.rows(_KEK, terminal_id)
        if not rows:
            raise LookupError("the terminal has no key-encrypting key")
        kek = self._master_key.unwrap(rows[0]["block"], KeyUsage.KEK)
        aes = rows[0]["block"][_ALGORITHM_AT] == KeyAlgorithm.AES.value
        return ProtectionKey(kek, BlockVersion.AES if aes else BlockVersion.TDES)
