"""What a demo terminal must not forget: its last STAN, its keys, and what it may have to undo.

One file per terminal, `pos-<terminal>.json` in the data directory, mode 0600. A reversal needs the
card number of its original, and a repeat its PIN block and code, so this file has them in clear
form, which a real terminal would keep in its secure memory. It belongs to this demo client alone:
the switch neither reads nor writes it. PIN block and code are kept for the last message only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from switch.wire.private import build_private, parse_private

__all__ = ["STAN_MAX", "HeldKey", "Sent", "StateError", "StateFile", "TerminalState"]

STAN_MAX = 999_999
MESSAGES_MAX = 256
PIN_BLOCK = 52
PRIVATE = 48
SECRET_TAGS = frozenset({"CV", "PB"})


class StateError(RuntimeError):
    """The file of a terminal cannot be used. The text is for the person at the keyboard."""


class Sent(msgspec.Struct):
    """A message as it was first sent (text fields by DE number), and what is known of its answer.

    `pin_block` is DE 52 in hex. `approved_amount` is DE 4 of the answer. `counted`: it is in the
    totals, and `left_minor` of it has been neither returned nor reversed.
    """

    mti: str
    fields: dict[int, str]
    pin_block: str = ""
    response: str = ""
    tx: str = ""
    approved_amount: str = ""
    counted: bool = False
    left_minor: int = 0

    def __repr__(self) -> str:
        return f"<Sent {self.mti} {sorted(self.fields)}>"

    @property
    def stan(self) -> int:
        return int(self.fields[11])


class HeldKey(msgspec.Struct, frozen=True):
    """A key that a key change gave the terminal; `key` in hex."""

    version: int
    key: str

    def __repr__(self) -> str:
        return f"<HeldKey version {self.version}>"


class TerminalState(msgspec.Struct):
    """All that a terminal remembers; `messages` in the order of sending.

    `keys` has the keys in force by usage ("mac", "pin") where they are not those of demo.json.
    `totals` of the open batch are in the order of DE 74 to 77 and 86 to 89.
    """

    last_stan: int = 0
    messages: list[Sent] = []
    keys: dict[str, HeldKey] = {}
    batch_number: int = 1
    totals: list[int] = msgspec.field(default_factory=lambda: [0] * 8)

    def next_stan(self) -> int:
        """Draw the next STAN: 1 to 999999, then 1 again."""
        self.last_stan = self.last_stan % STAN_MAX + 1
        return self.last_stan

    def record(self, mti: str, fields: dict[int, str | bytes]) -> None:
        """Remember a message that is about to be sent, in place of an older one of its STAN."""
        for earlier in self.messages:
            _forget_secrets(earlier)
        text = {int(number): value for number, value in fields.items() if isinstance(value, str)}
        pin_block = fields.get(PIN_BLOCK, b"")
        sent = Sent(mti, text, pin_block.hex() if isinstance(pin_block, bytes) else "")
        kept = [earlier for earlier in self.messages if earlier.stan != sent.stan]
        self.messages = [*kept[1 - MESSAGES_MAX :], sent]

    def answered(self, stan: int, *, response: str, tx: str, approved_amount: str) -> Sent | None:
        """Add what the answer to this STAN said. A repeat's answer stands for its original's."""
        sent = self.find(stan, lambda sent: True)
        if sent is not None:
            sent.response = response
            sent.tx = tx or sent.tx
            sent.approved_amount = approved_amount or sent.approved_amount
        return sent

    def close_batch(self, claimed: list[int]) -> None:
        """The batch is closed with these totals: what was counted meanwhile is in the next one."""
        self.totals = [have - said for have, said in zip(self.totals, claimed, strict=True)]
        if min(self.totals) < 0:  # it was closed with totals given by hand
            self.totals = [0] * 8
        self.batch_number += 1

    def find(self, stan: int | None, wanted: Callable[[Sent], bool]) -> Sent | None:
        """The message with this STAN, or the last one, among those that are wanted."""
        for sent in reversed(self.messages):
            if (stan is None or sent.stan == stan) and wanted(sent):
                return sent
        return None


def _forget_secrets(sent: Sent) -> None:
    sent.pin_block = ""
    if PRIVATE in sent.fields:
        private = parse_private(sent.fields[PRIVATE])
        kept = {tag: value for tag, value in private.items() if tag not in SECRET_TAGS}
        if kept:
            sent.fields[PRIVATE] = build_private(kept)
        else:
            del sent.fields[PRIVATE]


class StateFile:
    """The file of one terminal. Several commands may use it at once, each for a moment."""

    def __init__(self, data_dir: Path, terminal_id: str) -> None:
        name = f"pos-{urllib.parse.quote(terminal_id, safe='')}"
        self.path = data_dir / f"{name}.json"
        self._lock_path = data_dir / f"{name}.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[TerminalState]:
        """The terminal's state, for this process alone; written back in one rename at the end.

        Nothing is written when the block raises. `StateError` when the file cannot be used.
        """
        try:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{self._lock_path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._load()
            yield state
            self._save(state)
        finally:
            os.close(lock)  # which gives the lock back

    def _load(self) -> TerminalState:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=TerminalState)
        except FileNotFoundError:
            return TerminalState()
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror}") from None
        except msgspec.DecodeError:
            raise StateError(f"{self.path} is damaged; remove it to begin anew") from None

    def _save(self, state: TerminalState) -> None:
        fresh = self.path.with_suffix(".json.tmp")
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:
                file.write(msgspec.json.encode(state))
                file.flush()
                os.fsync(handle)
            fresh.replace(self.path)
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror}") from None
