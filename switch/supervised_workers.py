"""Ports and processes of the workers, as the supervisor sees them.

A port is held by the supervisor through a bound socket that never listens, so the number stays
ours while workers come and go. Workers bind it too, with SO_REUSEPORT *and* SO_REUSEADDR (without
the latter, links that linger after a stop would keep the next start from the port), and listen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from switch.embedded.process import Backoff, has_ended, reap_quietly, spawn

__all__ = ["PARENT_FD_VARIABLE", "READY_FD_VARIABLE", "PortTaken", "Worker", "reserve_port"]

READY_FD_VARIABLE = "CARDSWITCH_READY_FD"
PARENT_FD_VARIABLE = "CARDSWITCH_PARENT_FD"

_STDERR = 2
_TAKEN_RETRY_S = 0.5
_TAKEN_POLL_S = 0.05


class PortTaken(RuntimeError):
    """A port cannot be had; the text says which and why."""


def reserve_port(what: str, host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket bound to `host`:`port` (0: any free one), which does not listen yet.

    `shared`: processes of the same user may bind it too, with SO_REUSEPORT. It is bound alone
    first: a shared bind would quietly share the port with another switch. Raises PortTaken.
    """
    deadline = time.monotonic() + _TAKEN_RETRY_S
    while True:
        try:
            return _bind_alone(host, port, shared)
        except OSError as error:
            # workers of a supervisor that was killed just now may still be ending
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(_TAKEN_POLL_S)
                continue
            reason = (
                "is in use by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used: {error.strerror or error}"
            )
            raise PortTaken(f"the {what} port {host}:{port} {reason}") from None


def _bind_alone(host: str, port: int, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        # over links of an earlier run that linger, though not over a socket that somebody holds
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        bound.close()
        raise
    return bound


class Worker:
    """One worker process: started, watched, started again. Main thread only.

    It gets its settings file as last argument, and two descriptors by number in the environment:
    it writes `ready` and a newline to CARDSWITCH_READY_FD, and finds CARDSWITCH_PARENT_FD at its
    end when the supervisor is gone (on Linux it has been killed by then).
    """

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        settings: Path,
        metrics_socket: Path,
        parent_fd: int,
    ) -> None:
        program = shutil.which(command[0]) or command[0]
        self.index = index
        self.settings = settings
        self.metrics_socket = metrics_socket
        self.exit_code: int | None = None
        self.deaths_before_ready = 0
        self._command = [os.path.abspath(program), *command[1:], str(settings)]
        self._parent_fd = parent_fd
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_fd: int | None = None
        self._ready = b""
        self._started_at = 0.0
        self._backoff = Backoff()
        self._restart_due: float | None = None

    @property
    def name(self) -> str:
        """How it is called in logs and figures."""
        return f"worker-{self.index}"

    @property
    def pid(self) -> int | None:
        """Its process number while it lives."""
        return None if self._process is None or has_ended(self._process) else self._process.pid

    @property
    def lived_s(self) -> float:
        """Seconds since its last start."""
        return time.monotonic() - self._started_at

    @property
    def is_ready(self) -> bool:
        """Whether it has said so since its last start."""
        return self._ready.startswith(b"ready\n")

    def start(self) -> None:
        """Start the process. Raises OSError."""
        self._close_ready_fd()
        self.metrics_socket.unlink(missing_ok=True)
        ready, theirs = os.pipe()
        try:
            os.set_blocking(ready, False)
            self._process = spawn(
                self._command,
                death_signal=signal.SIGKILL,
                # standard output is the supervisor's own: a program may wait for its ready line
                stdout=_STDERR,
                keep_fds=(theirs, self._parent_fd),
                environment=os.environ
                | {READY_FD_VARIABLE: str(theirs), PARENT_FD_VARIABLE: str(self._parent_fd)},
            )
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(theirs)
        self._ready_fd = ready
        self._ready = b""
        self._started_at = time.monotonic()
        self._restart_due = None

    def has_become_ready(self) -> bool:
        """True once per start: when it has just said that it is ready."""
        if self.is_ready or self._ready_fd is None:
            return False
        with contextlib.suppress(BlockingIOError):
            self._ready += os.read(self._ready_fd, 64)[:64]
        if self.is_ready:
            self.deaths_before_ready = 0
        return self.is_ready

    def has_died(self) -> bool:
        """True once per death: when its end has just been seen. Its next start is then planned."""
        process = self._process
        if process is None or self._restart_due is not None or not has_ended(process):
            return False
        self.exit_code = process.returncode
        if not self.is_ready:
            self.deaths_before_ready += 1
        self._ready = b""
        self._restart_due = time.monotonic() + self._backoff.delay_s(self.lived_s)
        return True

    def restart_when_due(self) -> bool:
        """Start it again when it has died and its time has come; True when it was started now."""
        if self._restart_due is None or time.monotonic() < self._restart_due:
            return False
        self.start()
        return True

    def ask_to_stop(self) -> None:
        """Let it finish what it has and end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def end(self) -> bool:
        """Make sure it is gone, and tidy up; True when it had to be killed."""
        killed = False
        if self._process is not None and not has_ended(self._process):
            reap_quietly(self._process)
            killed = True
        self._close_ready_fd()
        for path in (self.metrics_socket, self.settings):
            path.unlink(missing_ok=True)
        return killed

    def _close_ready_fd(self) -> None:
        if self._ready_fd is not None:
            os.close(self._ready_fd)
            self._ready_fd = None
