"""The private Valkey or Redis: a cache of the present that keeps nothing on disk.

Losing it costs time, never money, so it is stopped and killed without ceremony.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from switch.embedded.store_process import StoreProcess

__all__ = ["RedisStore"]


class RedisStore(StoreProcess):
    """Valkey or Redis as a supervised child."""

    name = "redis"
    stop_signal = signal.SIGTERM
    hasten_signal = signal.SIGKILL
    death_signal = signal.SIGKILL
    answer_within_s = 30.0

    @property
    def directory(self) -> Path:
        """Its working directory."""
        return self.layout.redis

    @property
    def socket_path(self) -> Path:
        """Its unix socket."""
        return self.layout.store_sockets / "redis.sock"

    @property
    def url(self) -> str:
        """URL of the socket, which only its owner reaches."""
        return f"unix://{self.socket_path}"

    @property
    def _pid_file(self) -> Path:
        return self.directory / "redis.pid"

    def command(self) -> list[str]:
        """The server in the foreground, with all its settings on the command line."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "pidfile": str(self._pid_file),
            "daemonize": "no",
            "logfile": "",
            "appendonly": "no",
            "save": "",
            "maxmemory": "512mb",
            "maxmemory-policy": "allkeys-lru",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [str(self.binaries.program), *options]

    def recorded_pid(self) -> int | None:
        """Its pid file."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._pid_file.read_text(encoding="ascii"))
        return None

    def greeting(self) -> tuple[bytes, bytes]:
        """PING; while loading it would answer with an error."""
        return b"PING\r\n", b"+PONG"

    def before_first_start(self, lock: int) -> None:
        """Nothing: it keeps no data."""

    def remove_stale_files(self) -> None:
        """Remove the socket of a dead server, so that nobody waits for it."""
        for path in (self.socket_path, self._pid_file):
            path.unlink(missing_ok=True)
