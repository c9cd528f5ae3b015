"""Starts the demo programme as an operator would, and hands out its terminals and cards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from .dialect import Packager
from .messages import Card, Identity
from .terminal import Connection, NoReplyError, Terminal

__all__ = ["Cards", "Demo", "DemoError", "eventually", "running_demo"]

# The programme of the tree these tests are in, where that is on the path before an installed one.
_COMMAND = (sys.executable, "-m", "switch")
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0
_VERIFY_TIMEOUT_S = 120.0
# What the contract promises before any further terminals and cards with other policies.
_STANDARD_POS_TERMINALS = 16
_STANDARD_NETWORK_TERMINALS = 4
_STANDARD_CARDS = 1000


class DemoError(Exception):
    """The programme did not start, did not stop, or its demo.json is not as promised."""


class Cards:
    """The demo's cards; each is handed out once, so that no two tests share one."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._lock = threading.Lock()
        self._by_status: dict[str, deque[Card]] = defaultdict(deque)
        self.others = [Card.from_demo(entry) for entry in entries if "programme" in entry]
        """Of other programmes than the contract's."""
        for entry in entries:
            if "programme" in entry:
                continue
            card = Card.from_demo(entry)
            if len(self._by_status[card.status]) < _STANDARD_CARDS:
                self._by_status[card.status].append(card)
        self._special = {
            status: self._by_status[status][0]
            for status in ("lost", "stolen", "expired")
            if self._by_status[status]
        }

    def active(self) -> Card:
        """An active card with 100.00."""
        return self._take("active")

    def issued(self) -> Card:
        """A card that has not been activated."""
        return self._take("issued")

    def left(self, status: str) -> int:
        """How many cards of this status have not been handed out."""
        return len(self._by_status[status])

    def special(self, status: str) -> Card:
        """The one card that is `lost`, `stolen` or `expired`. Never changed by a refusal."""
        if status not in self._special:
            raise DemoError(f"demo.json lists no {status} card")
        return self._special[status]

    def with_face_value(self) -> Card | None:
        """An issued card if demo.json lists it with a `face_value`, else None."""
        card = self.issued()
        return card if "face_value" in card.extra else None

    def _take(self, status: str) -> Card:
        with self._lock:
            if not self._by_status[status]:
                raise DemoError(f"no {status} card left in the demo")
            return self._by_status[status].popleft()


class Demo:
    """A running `cardswitch up --demo`, from its start to its stop."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._command_options = options
        self.data = directory / "data"
        self.log = directory / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.json: dict[str, Any] = {}
        self.cards = Cards([])
        self.pos_entries: list[dict[str, Any]] = []
        self.network_entries: list[dict[str, Any]] = []
        self.programme_entries: list[dict[str, Any]] = []
        """Terminals that speak for the programme."""

    def start(self) -> None:
        """Returns once demo.json is there and the `ready` line is printed. DemoError otherwise."""
        arguments = ["up", "--demo", "--data", str(self.data)]
        ports = ["--switch-port", "0", "--network-port", "0", "--metrics-port", "0"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_COMMAND, *arguments, *ports, *self._command_options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            self._wait_until_ready()
            self.adopt(json.loads((self.data / "demo.json").read_text()))
        except BaseException:
            self.kill()
            raise

    def adopt(self, contents: dict[str, Any]) -> None:
        """Takes over demo.json. DemoError where it lacks what the contract promises."""
        self.json = contents
        self.cards = Cards(contents["cards"])
        pos = [entry for entry in contents["terminals"] if entry["link"] is None]
        network = [entry for entry in contents["terminals"] if entry["link"] == "network"]
        self.pos_entries = pos[:_STANDARD_POS_TERMINALS]
        self.network_entries = network[:_STANDARD_NETWORK_TERMINALS]
        self.programme_entries = [entry for entry in network if entry.get("programme")]
        if len(self.pos_entries) < _STANDARD_POS_TERMINALS:
            raise DemoError(f"{len(pos)} POS terminals, fewer than promised")
        if len(self.network_entries) < _STANDARD_NETWORK_TERMINALS:
            raise DemoError(f"{len(network)} network terminals, fewer than promised")

    def stop(self) -> int:
        """SIGTERM, and the exit status. DemoError when it does not end or leaves a child."""
        process = self._process
        assert process is not None
        pids = self._child_pids()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoError(f"not stopped {_STOP_TIMEOUT_S:.0f} s after SIGTERM") from None
        deadline = time.monotonic() + 10
        while left := [pid for pid in pids if _alive(pid)]:
            if time.monotonic() > deadline:
                raise DemoError(f"left {len(left)} of its processes running after SIGTERM")
            time.sleep(0.05)
        return status

    def kill(self) -> None:
        """The last resort: SIGKILL of the supervisor, with which all it started must end."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def verify(self) -> subprocess.CompletedProcess[str]:
        """`cardswitch verify` on this programme while it runs."""
        return subprocess.run(
            [*_COMMAND, "verify", "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=_VERIFY_TIMEOUT_S,
            check=False,
        )

    def open_items(self) -> list[dict[str, Any]]:
        """What `cardswitch open-items` lists, once all that was answered is projected."""
        deadline = time.monotonic() + _VERIFY_TIMEOUT_S
        while asyncio.run(_waiting_links(self.json["postgres"])):
            if time.monotonic() > deadline:
                raise DemoError("the projections do not follow")
            time.sleep(0.05)
        listed = subprocess.run(
            [*_COMMAND, "open-items", "--json", "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=_VERIFY_TIMEOUT_S,
            check=True,
        )
        items: list[dict[str, Any]] = json.loads(listed.stdout)
        return items

    # -- what tests ask for -----------------------------------------------------------------

    @property
    def host(self) -> str:
        return str(self.json["switch"]["host"])

    @property
    def port(self) -> int:
        return int(self.json["switch"]["port"])

    @property
    def network_port(self) -> int:
        return int(self.json["switch"]["network_port"])

    @property
    def worker_pids(self) -> list[int]:
        return list(self.json["pids"]["workers"])

    def entry(self, *, mac: str = "aes-cmac", merchant: str | None = None) -> dict[str, Any]:
        """The first POS terminal with this MAC algorithm (and merchant)."""
        for entry in self.pos_entries:
            if entry["mac"] == mac and merchant in {None, entry["merchant"]}:
                return entry
        raise DemoError(f"no POS terminal with {mac} in demo.json")

    def other_merchant_entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A POS terminal of another merchant than `entry`'s."""
        for other in self.pos_entries:
            if other["merchant"] != entry["merchant"]:
                return other
        raise DemoError("only one merchant among the POS terminals of demo.json")

    def pos(self, entry: dict[str, Any] | None = None) -> Terminal:
        """A POS terminal on a connection of its own."""
        packager = self.json["switch"]["packager"]
        return Terminal.connect(entry or self.entry(), self.host, self.port, packager)

    def network(self, entry: dict[str, Any] | None = None) -> Terminal:
        """A network terminal on a connection of its own, not yet signed on."""
        packager = self.json["switch"]["network_packager"]
        chosen = entry or self.network_entries[0]
        return Terminal.connect(chosen, self.host, self.network_port, packager)

    def identity(self, entry: dict[str, Any]) -> Identity:
        """What `entry` is on its port."""
        name = "packager" if entry["link"] is None else "network_packager"
        return Identity.from_demo(entry, Packager(self.json["switch"][name]))

    def connection(self, **options: Any) -> Connection:
        """A bare connection to the POS port."""
        return Connection(self.host, self.port, **options)

    # -- waiting ----------------------------------------------------------------------------

    def metrics(self, name: str) -> list[float]:
        """A metric's samples of all workers."""
        with urllib.request.urlopen(self.json["metrics"], timeout=30) as page:
            lines = page.read().decode().splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith(name + "{")]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None:
                raise DemoError(f"`up` ended with {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"not ready after {_START_TIMEOUT_S:.0f} s:\n{self._tail()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        lines = self.log.read_text(errors="replace").splitlines()
        printed = any(line.startswith("ready") for line in lines)
        return printed and (self.data / "demo.json").exists()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _child_pids(self) -> list[int]:
        pids = self.json["pids"]
        return [pid for pid in (*pids["workers"], pids["postgres"], pids["redis"]) if pid]


async def _waiting_links(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("select links from projection_lag()"))
    finally:
        await connection.close()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextlib.contextmanager
def running_demo(prefix: str, *options: str, settings: str = "") -> Iterator[Demo]:
    """A demo in a directory of its own, stopped by SIGTERM at the end; `settings` is TOML."""
    # A short path: Unix sockets of the private stores lie below it (at most 107 bytes).
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    if settings:
        (directory / "cardswitch.toml").write_text(settings)
        options = (*options, "--config", str(directory / "cardswitch.toml"))
    demo = Demo(directory, *options)
    try:
        demo.start()
        yield demo
        status = demo.stop()
        assert status == 0, f"`up` ended with {status} after SIGTERM"
    finally:
        demo.kill()
        shutil.rmtree(directory, ignore_errors=True)


def eventually(what: Callable[[], Any], timeout_s: float) -> Any:
    """What it returns once that is true, whatever the switch is doing meanwhile."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, NoReplyError, DemoError):
            value = what()
            if value:
                return value
        time.sleep(0.05)
    raise AssertionError(f"did not happen in {timeout_s:.0f} s")
