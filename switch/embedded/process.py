"""Supervised child processes of one machine: identity, start through the stub, backoff, locks.

Everything here is to be called from the main thread: on Linux a child dies with the *thread* that
started it (see `child`), and the main thread lives as long as the process.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from switch.embedded import child as child_stub

__all__ = [
    "Backoff",
    "Identity",
    "RunAs",
    "fallback_account",
    "has_ended",
    "processes_within",
    "reap_quietly",
    "spawn",
    "try_lock",
]

_NOBODY = 65534
_ACCOUNTS = ("cardswitch", "postgres", "nobody")


class Identity(enum.Enum):
    """As whom a store runs: the caller, nobody in a user namespace, or another account."""

    KEEP = "keep"
    USERNS = "userns"
    DROP = "drop"


@dataclass(frozen=True)
class RunAs:
    """An identity; user and group number (of the caller, unless it is DROP)."""

    identity: Identity
    user: int
    group: int

    @staticmethod
    def caller(identity: Identity = Identity.KEEP) -> RunAs:
        """The calling user, plain or within a user namespace."""
        return RunAs(identity, os.geteuid(), os.getegid())

    @property
    def argument(self) -> str:
        """What the stub expects."""
        if self.identity is Identity.DROP:
            return f"drop:{self.user}:{self.group}"
        return str(self.identity.value)

    def own(self, path: Path) -> None:
        """Hand a file or directory over to the account, where it is another."""
        if self.identity is Identity.DROP:
            os.chown(path, self.user, self.group)


def fallback_account() -> tuple[int, int]:
    """User and group number for stores started by root where user namespaces are refused."""
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return entry.pw_uid, entry.pw_gid
    return _NOBODY, _NOBODY


def spawn(
    command: Sequence[str],
    *,
    run_as: RunAs | None = None,
    directory: Path | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    keep_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute program and its arguments) so that it ends with this process.

    It gets `death_signal` when this process is gone, works in `directory`, has a session of its
    own and file mode mask 077. Raises OSError when nothing could be started, RuntimeError off the
    main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("supervised children must be started from the main thread")
    arguments = [
        sys.executable,
        "-I",
        "-S",
        str(Path(child_stub.__file__)),
        str(os.getpid()),
        str(int(death_signal)),
        run_as.argument if run_as is not None else Identity.KEEP.value,
        str(directory) if directory is not None else "-",
        *command,
    ]
    return subprocess.Popen(
        arguments,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(keep_fds),
        env=dict(environment) if environment is not None else None,
    )


class Backoff:
    """How long to wait before the next start of what died: at once, unless it keeps dying young."""

    _YOUNG_S = 1.0
    _FIRST_S = 0.1
    _LONGEST_S = 2.0

    def __init__(self) -> None:
        self._young_deaths = 0

    def delay_s(self, lived_s: float) -> float:
        """Seconds to wait after a life of `lived_s` seconds: 0, 0, 0.1, 0.2, ... at most 2."""
        if lived_s >= self._YOUNG_S:
            self._young_deaths = 0
            return 0.0
        self._young_deaths += 1
        if self._young_deaths == 1:
            return 0.0
        exponent = min(self._young_deaths - 2, 10)
        return float(min(self._FIRST_S * 2**exponent, self._LONGEST_S))


def try_lock(path: Path, *, inheritable: bool = False) -> int | None:
    """Take the advisory lock on `path`: a descriptor that holds it, or None when another does.

    The lock belongs to the open file, so it lasts until the last process that inherited the
    descriptor has ended.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    os.set_inheritable(descriptor, inheritable)
    return descriptor


def processes_within(directory: Path, program: Path) -> list[int]:
    """Living processes of `program` that work in `directory` (Linux; elsewhere none are found).

    A shell in which somebody looks at the directory is none of them.
    """
    found: list[int] = []
    name = program.resolve().name
    try:
        wanted = directory.stat()
        entries = os.listdir("/proc")
    except OSError:
        return found
    for entry in entries:
        if entry.isdigit():
            # a zombie has no working directory any more, and a foreign process does not tell
            with contextlib.suppress(OSError):
                runs = Path(os.readlink(f"/proc/{entry}/exe")).name.removesuffix(" (deleted)")
                if runs == name and os.path.samestat(os.stat(f"/proc/{entry}/cwd"), wanted):
                    found.append(int(entry))
    return found


def has_ended(process: subprocess.Popen[bytes] | None) -> bool:
    """Whether there is no such process (any more); reaps it."""
    return process is None or process.poll() is not None


def reap_quietly(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL and wait: for what was asked to end and did not."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
