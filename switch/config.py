"""Settings: every limit of the switch by name and unit, from defaults, a TOML file and flags.

Flags win over the file, the file over the defaults. Secrets are no settings: the master key is
named by its file. Connection URLs may hold a password, which the repr hides.
"""

from __future__ import annotations

import argparse
import difflib
import enum
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = [
    "LogLevel",
    "Settings",
    "SettingsError",
    "Tls",
    "add_arguments",
    "from_arguments",
    "load_settings",
]


class SettingsError(ValueError):
    """A setting that does not exist or cannot be; the text names it and where it stands."""


class LogLevel(enum.Enum):
    """From which level on lines are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The level as the standard library's logging counts it."""
        return {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}.get(
            self.value, logging.ERROR
        )


_INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "switch_port": (0, 65_535),
    "network_port": (0, 65_535),
    "web_port": (0, 65_535),
    "metrics_port": (0, 65_535),
    "workers": (1, 1_024),
    "batch_max": (1, 4_096),
    "lanes": (1, 64),
    "hold_lasts_s": (1, 31_536_000),
    "key_overlap_minutes": (1, 10_080),
    "queue_max": (1, 1_000_000),
    "link_in_flight_max": (1, 1_000_000),
    "link_connections_max": (1, 1_000_000),
    "frame_length_max": (64, 65_535),  # what a 2-byte length can say
    "link_idle_timeout_s": (1, 86_400),
    "link_half_frame_timeout_s": (1, 3_600),
    "link_send_buffer_bytes_max": (65_536, 1 << 30),
    "keepalives_per_minute_max": (1, 1_000_000),
    "answer_within_ms": (10, 120_000),
    "redis_timeout_ms": (1, 60_000),
    "possession_ms": (10, 600_000),
    "horizon_days": (1, 3_650),
    "clock_ahead_hours": (1, 720),
    "pin_tries_max": (1, 10),  # PCI DSS 8.3.4: not more than ten
    "code_tries_max": (1, 10),
}
_PORTS = ("switch_port", "network_port", "web_port", "metrics_port")
_URL_SCHEMES = {
    "postgres": ("postgresql://", "postgres://"),
    "redis": ("redis://", "rediss://", "unix://"),
}
_URL_SECRETS = re.compile(r"(?<=://).*(?=@)|(?<=password=)[^&]*")


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS of one port: PEM files. With `peers` a peer must show a certificate of that authority."""

    certificate: Path
    key: Path
    peers: Path | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of one `cardswitch` installation. Raises `SettingsError` for impossible ones."""

    # Where the switch listens. Port 0: any free one.
    host: str = "127.0.0.1"
    switch_port: int = 8583  # terminals
    network_port: int = 8584  # networks and programme hosts
    web_port: int = 8080  # back office
    metrics_port: int = 9100  # /metrics, /healthz, /readyz

    # TLS 1.2 or newer of the two ports; not set: plain TCP. In TOML a table: [network_tls]
    switch_tls: Tls | None = None
    network_tls: Tls | None = None

    # Worker processes. Not set: half as many as there are cores, at least two where there are two.
    workers: int | None = None

    # Stores. Not set: private ones below `data_dir`, started and stopped with the switch.
    postgres: str | None = None  # postgresql://user@host:port/database
    redis: str | None = None  # redis://, rediss:// or unix://
    data_dir: Path = Path(".data")

    # The AES-256 master key, in a file that only its owner may read. Not set: from the environment.
    master_key_file: Path | None = None

    # The pipeline of one worker.
    batch_max: int = 256  # requests one batch takes at most
    # Batches of one worker between reservation and commit at the same time. Not set: four where
    # there is one worker, else two each: others have work while these wait for the stores.
    lanes: int | None = None
    queue_max: int = 8_192  # requests that wait for a batch; the next one is answered 91

    # Links.
    link_in_flight_max: int = 2_048  # unanswered requests of one connection before reading stops
    link_connections_max: int = 10_000  # connections of one worker
    frame_length_max: int = 4_096  # bytes of a message without its length
    link_idle_timeout_s: int = 900  # silence after which a connection is closed
    link_half_frame_timeout_s: int = 30  # how long the rest of a begun frame may take
    link_send_buffer_bytes_max: int = 1 << 20  # unread replies after which a peer is dropped
    keepalives_per_minute_max: int = 120  # frames of length 0 one connection may send

    # Keys.
    key_overlap_minutes: int = 60  # how long a MAC or PIN key is still taken after a key change

    # Time.
    answer_within_ms: int = 4_000  # older requests are declined (91) before they enter a batch
    redis_timeout_ms: int = 200  # silence after which a worker goes on without Redis
    possession_ms: int = 1_000  # life of the mark that a batch holds a card
    horizon_days: int = 60  # how far back originals are looked for and repeats recognised
    clock_ahead_hours: int = 26  # how far a terminal's clock may be ahead

    # Cards.
    hold_lasts_s: int = 604_800  # until a hold that nobody completes is given back
    pin_tries_max: int = 5  # wrong PINs that lock PIN entry
    code_tries_max: int = 5  # wrong verification codes that lock the code

    log_level: LogLevel = LogLevel.INFO

    def __post_init__(self) -> None:
        for name, (least, most) in _INTEGER_RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise SettingsError(f"{name} = {value}: expected {least} to {most}")
        if not self.host:
            raise SettingsError("host is empty")
        for name, schemes in _URL_SCHEMES.items():
            url = getattr(self, name)
            if url is not None and not url.startswith(schemes):
                raise SettingsError(f"{name}: expected a URL that begins with {schemes[0]}")
        ports = [port for port in (getattr(self, name) for name in _PORTS) if port]
        if len(set(ports)) != len(ports):
            raise SettingsError(f"{', '.join(_PORTS)}: two of them are the same")
        _check_order(self, "redis_timeout_ms", "answer_within_ms")
        _check_order(self, "link_half_frame_timeout_s", "link_idle_timeout_s")

    def __repr__(self) -> str:
        shown = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in _URL_SCHEMES and value is not None:
                value = _URL_SECRETS.sub("***", value)
            shown.append(f"{name}={value!r}")
        return f"Settings({', '.join(shown)})"

    @property
    def worker_count(self) -> int:
        """How many workers to start: as set, else derived from the cores this process may use."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0))  # a container often has fewer than os.cpu_count()
        return min(cores, max(2, cores // 2))

    @property
    def lane_count(self) -> int:
        """How many lanes each worker has: as set, else as many as keep it busy."""
        if self.lanes is not None:
            return self.lanes
        return 4 if self.worker_count == 1 else 2


def _check_order(settings: Settings, smaller: str, larger: str) -> None:
    low, high = getattr(settings, smaller), getattr(settings, larger)
    if low > high:
        raise SettingsError(f"{smaller} = {low}: expected at most {larger} = {high}")


def load_settings(path: Path | None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Settings from a TOML file (None: none), with `overrides` before it.

    Raises `SettingsError` naming file and key: unknown keys, wrong types, values out of range.
    """
    in_file = {} if path is None else _read_file(path)
    over = overrides or {}

    def complaint(key: str, text: str) -> SettingsError:
        source = "command line" if path is None or key in over else path
        return SettingsError(f"{source}: {text}")

    for key in (*in_file, *over):
        if key not in Settings.__struct_fields__:
            near = difflib.get_close_matches(key, Settings.__struct_fields__, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise complaint(key, f"there is no setting {key!r}{hint}")
    try:
        return msgspec.convert({**in_file, **over}, Settings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        # what __post_init__ raised is inside, and names its setting; msgspec's own text ends so
        found = re.fullmatch(r"(.*) - at `\$\.(\w+)`", str(error))
        if found is None:
            key, text = str(error).split(" ")[0].rstrip(",:"), str(error)
        else:
            key, text = found[2], f"{found[2]}: {found[1].replace('`', '')}"
        if text.startswith("log_level: Invalid"):
            text = f"log_level: expected one of {', '.join(level.value for level in LogLevel)}"
        raise complaint(key, text) from None


def _read_file(path: Path) -> dict[str, object]:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=dict[str, object])
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def _decode_path(expected: type, value: object) -> object:
    if expected is Path and isinstance(value, str | Path):
        return Path(value)
    raise TypeError("expected a path")


_FLAGS: dict[str, tuple[str, type, str]] = {
    "--postgres": ("postgres", str, "URL of Postgres; without it a private one is started"),
    "--redis": ("redis", str, "URL of Redis or Valkey; without it a private one is started"),
    "--data": ("data_dir", Path, "directory of all files of this installation"),
    "--switch-port": ("switch_port", int, "port for terminals, 0 for any free one"),
    "--network-port": ("network_port", int, "port for networks, 0 for any free one"),
    "--web-port": ("web_port", int, "port of the back office, 0 for any free one"),
    "--metrics-port": ("metrics_port", int, "port for metrics and health, 0 for any free one"),
    "--workers": ("workers", int, "number of worker processes"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that set what most installations set; everything else is in the file."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML")
    for flag, (name, kind, text) in _FLAGS.items():
        metavar = "DIR" if kind is Path else "N" if kind is int else "URL"
        parser.add_argument(flag, dest=name, type=kind, metavar=metavar, help=text)


def from_arguments(namespace: argparse.Namespace) -> Settings:
    """Settings from parsed flags and the file that `--config` names. Raises `SettingsError`."""
    given = {name: getattr(namespace, name, None) for name, _, _ in _FLAGS.values()}
    overrides = {name: value for name, value in given.items() if value is not None}
    return load_settings(getattr(namespace, "config", None), overrides)
