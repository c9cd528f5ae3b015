"""What the two private stores have in common: start, wait until it answers, restart, stop.

A store runs in the foreground as a child of ours and holds a lock that all its own processes
inherit. So nothing is started on data that somebody still works on: a restart waits just as long
as the last process of the store before lives.
"""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from switch.embedded.layout import Layout, StoreFailed
from switch.embedded.locate import Binaries
from switch.embedded.process import (
    Backoff,
    RunAs,
    has_ended,
    processes_within,
    reap_quietly,
    spawn,
    try_lock,
)

__all__ = ["STOP_TIMEOUT_S", "StoreProcess"]

STOP_TIMEOUT_S = 30.0

_POLL_S = 0.01
_ANSWER_TIMEOUT_S = 1.0
_ANSWER_BYTES = 1024
_LEFTOVERS_ASKED_AFTER_S = 2.0
_LEFTOVERS_KILLED_AFTER_S = 60.0
_LEFTOVERS_GIVEN_UP_AFTER_S = 70.0
_LEFTOVERS_KILLED_AT_RESTART_AFTER_S = 5.0
_STILL_WAITING_EVERY_S = 5.0
_LOG_KEPT_BYTES = 16 * 1024 * 1024
_LOG_TAIL_BYTES = 2000


class StoreProcess(abc.ABC):
    """One private store. Use from the main thread only."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    hasten_signal: ClassVar[signal.Signals]
    death_signal: ClassVar[signal.Signals]
    answer_within_s: ClassVar[float]

    def __init__(
        self, layout: Layout, binaries: Binaries, run_as: RunAs, progress: Callable[[str], None]
    ) -> None:
        self.layout = layout
        self.binaries = binaries
        self.run_as = run_as
        self.progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._backoff = Backoff()
        self._died_at: float | None = None
        self._exit_code: int | None = None
        self._restart_due = 0.0

    # what each store says of itself

    @property
    @abc.abstractmethod
    def directory(self) -> Path:
        """Where it works."""

    @property
    @abc.abstractmethod
    def socket_path(self) -> Path:
        """The socket it answers at."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The server in the foreground, with all its settings."""

    @abc.abstractmethod
    def recorded_pid(self) -> int | None:
        """The process number that the last server left in its directory."""

    @abc.abstractmethod
    def greeting(self) -> tuple[bytes, bytes]:
        """What to send to its socket, and how the answer begins when it is ready for work."""

    @abc.abstractmethod
    def before_first_start(self, lock: int) -> None:
        """Make the data when there is none yet; `lock` is for children to inherit."""

    @abc.abstractmethod
    def remove_stale_files(self) -> None:
        """Remove what a dead server left behind; only called while the lock is ours."""

    # life

    @property
    def pid(self) -> int | None:
        """Its process number while it lives."""
        return None if self._process is None or has_ended(self._process) else self._process.pid

    def begin(self) -> None:
        """Start it without waiting for its answer. Raises StoreFailed."""
        lock = self._lock_when_free()
        try:
            self.before_first_start(lock)
            self._launch(lock)
        except OSError as error:
            raise StoreFailed(f"cannot start {self.name}: {error}") from None
        finally:
            os.close(lock)

    def wait_until_it_answers(self) -> None:
        """Return when it is ready for work. Raises StoreFailed when it died or took too long."""
        begun = time.monotonic()
        next_word = begun + _STILL_WAITING_EVERY_S
        while not self.answers():
            if self.pid is None:
                raise StoreFailed(f"{self.name} ended while starting: {self.log_tail()}")
            now = time.monotonic()
            if now > begun + self.answer_within_s:
                raise StoreFailed(f"{self.name} gives no answer: {self.log_tail()}")
            if now > next_word:
                next_word = now + _STILL_WAITING_EVERY_S
                self.progress(f"still waiting for {self.name} ({now - begun:.0f} s)")
            time.sleep(_POLL_S)

    def answers(self) -> bool:
        """Whether it is ready for work now."""
        question, expected = self.greeting()
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link,
        ):
            link.settimeout(_ANSWER_TIMEOUT_S)
            link.connect(str(self.socket_path))
            link.sendall(question)
            # all that came, for a close with bytes unread reaches the server as a broken link
            return link.recv(_ANSWER_BYTES)[: len(expected)] == expected
        return False

    def tend(self) -> bool:
        """Start it again when it has died, without waiting; True when it was started just now."""
        process = self._process
        if process is None or not has_ended(process):
            return False
        now = time.monotonic()
        if self._died_at is None:
            self._died_at = now
            self._exit_code = process.returncode
            delay_s = self._backoff.delay_s(now - self._started_at)
            self._restart_due = now + delay_s
        if now < self._restart_due:
            return False
        lock = try_lock(self._lock_path, inheritable=True)
        if lock is None:
            # its backends outlive it for a moment; one in the middle of a long query for longer
            if now > self._died_at + _LEFTOVERS_KILLED_AT_RESTART_AFTER_S:
                self._signal_leftovers(signal.SIGKILL)
            return False
        try:
            self._launch(lock)
        except (OSError, StoreFailed) as error:
            self.progress(f"cannot start {self.name} again: {error}")
            self._restart_due = now + self._backoff.delay_s(0.0)
            return False
        finally:
            os.close(lock)
        return True

    def ask_to_stop(self) -> None:
        """Begin a clean stop."""
        self._send(self.stop_signal)

    def hasten(self) -> None:
        """End at once; what was committed is kept, the next start repairs the rest."""
        self._send(self.hasten_signal)

    def kill(self) -> None:
        """End it by force and reap it."""
        if self._process is not None:
            reap_quietly(self._process)

    def log_tail(self) -> str:
        """The last words of its log, on one line."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
            return " | ".join(line.strip() for line in lines[-5:])
        return f"see {self.log_path}"

    @property
    def log_path(self) -> Path:
        """Its log."""
        return self.layout.log / f"{self.name}.log"

    @property
    def exit_code(self) -> int | None:
        """How it ended last (a negative number is a signal's); None before it ended."""
        return self._exit_code

    def run_to_end(
        self,
        command: list[str],
        directory: Path,
        lock: int,
        stdin: bytes = b"",
        *,
        quiet: bool = False,
    ) -> tuple[int, bytes]:
        """Run one of its own tools as its account: exit code and output.

        What it says of errors goes to the store's log, unless `quiet`.
        """
        with self._open_log() as log:
            process = spawn(
                command,
                run_as=self.run_as,
                directory=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if quiet else log,
                keep_fds=(lock,),
                environment=_environment(),
            )
            try:
                output, _ = process.communicate(stdin)
            except BaseException:
                reap_quietly(process)
                raise
        return process.returncode, output

    def leftovers(self) -> list[int]:
        """Processes of an earlier server that still work on our data (Linux)."""
        return processes_within(self.directory, self.binaries.program)

    # within

    @property
    def _lock_path(self) -> Path:
        return self.layout.run / f"{self.name}.lock"

    def _open_log(self) -> contextlib.AbstractContextManager[int]:
        path = self.log_path
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _LOG_KEPT_BYTES:
                path.replace(path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return _closing(os.open(path, flags, 0o600))

    def _launch(self, lock: int) -> None:
        self.remove_stale_files()
        with self._open_log() as log:
            self._process = spawn(
                self.command(),
                run_as=self.run_as,
                directory=self.directory,
                death_signal=self.death_signal,
                stdout=log,
                stderr=log,
                keep_fds=(lock,),
                environment=_environment(),
            )
        self._started_at = time.monotonic()
        self._died_at = None

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _lock_when_free(self) -> int:
        """The store's lock. A server whose supervisor was killed may still be ending: wait."""
        begun = time.monotonic()
        asked = killed = told = False
        while True:
            lock = try_lock(self._lock_path, inheritable=True)
            if lock is not None:
                return lock
            waited_s = time.monotonic() - begun
            if not told and waited_s > 0.5:
                told = True
                self.progress(f"waiting for the {self.name} before to end")
            if not asked and waited_s > _LEFTOVERS_ASKED_AFTER_S:
                asked = True
                self._signal_leftovers(self.stop_signal, only_server=True)
            if not killed and waited_s > _LEFTOVERS_KILLED_AFTER_S:
                killed = True
                self._signal_leftovers(signal.SIGKILL)
            if waited_s > _LEFTOVERS_GIVEN_UP_AFTER_S:
                raise StoreFailed(f"a {self.name} of an earlier run does not end")
            time.sleep(_POLL_S)

    def _signal_leftovers(self, number: signal.Signals, *, only_server: bool = False) -> None:
        """Signal processes of an earlier server on our data; the taken lock proves there are."""
        recorded = self.recorded_pid()
        found = self.leftovers()
        if sys.platform != "linux" and recorded is not None:
            found = [recorded]  # nothing tells where it works: its own record must do
        for pid in found:
            if only_server and pid != recorded:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """What a store may know of our environment: nothing that would change its behaviour."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return environment | {"LC_ALL": "C", "TZ": "UTC"}
