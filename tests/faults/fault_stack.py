"""What rounds are played on: a switch with its stores, used for many rounds and then thrown away.

`Plain` is the product as anybody would start it. `Apart` has stores of the tests' own, reached
through proxies: workers that die by plan, two caches, a cluster with a standby, a small disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fault_cluster import Cluster, first_cluster, mount_small, unmount
from fault_invariants import demand
from fault_proxy import Proxy
from fault_switch import BrokenSwitch, eventually

from switch.embedded.stores import EmbeddedStores
from tests.client.demo import Cards

__all__ = ["Apart", "Plain", "Stack", "clear_scratch", "scratch_directory"]

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 * 1024**3
_CARDS_PER_ROUND = 40
_LOG_MEGABYTES = 320


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory with a short path, in memory where there is enough: nobody pulls the plug."""
    base = None
    with contextlib.suppress(OSError):
        space = os.statvfs(_MEMORY)
        if space.f_bavail * space.f_frsize > _ENOUGH_BYTES and os.access(_MEMORY, os.W_OK):
            base = _MEMORY
    path = Path(tempfile.mkdtemp(prefix=f"fault-{os.getpid()}-", dir=base))
    path.chmod(0o755)
    try:
        yield path
    finally:
        unmount(path)
        shutil.rmtree(path, ignore_errors=True)


def clear_scratch() -> None:
    """Remove what runs left behind that were killed."""
    for base in (_MEMORY, Path(tempfile.gettempdir())):
        for path in base.glob("fault-*-*"):
            found = re.fullmatch(r"fault-(\d+)-\w+", path.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                unmount(path)
                shutil.rmtree(path, ignore_errors=True)


class Stack:
    """A switch, and how to end it with a last look at everything."""

    switch: BrokenSwitch

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()
        self.directory = self._cleanup.enter_context(scratch_directory())
        self._numbers: list[str] = []

    def start(self) -> None:
        """Start all of it."""
        try:
            self._begin()
            # all numbers, before any card is handed out
            self._numbers = [entry["pan"] for entry in self.switch.json["cards"]]
        except BaseException:
            self.throw_away()
            raise

    def _begin(self) -> None:
        raise NotImplementedError

    @property
    def is_used_up(self) -> bool:
        """Whether there are too few fresh cards for another round."""
        cards: Cards = self.switch.cards
        return cards.left("active") < _CARDS_PER_ROUND

    def verify(self) -> None:
        """What `cardswitch verify` says, and that no card number is where none may be."""
        program = [sys.executable, "-m", "switch", "verify", "--full"]
        done = subprocess.run(
            [*program, "--data", str(self.switch.data_dir)],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        demand(done.returncode == 0, "verify", done.stdout[-2000:], done.stderr[-2000:])
        numbers = re.compile("|".join(map(re.escape, self._numbers)))
        for log in (*self.directory.glob("*.log"), *self.directory.glob("*/log/*")):
            demand(not numbers.search(log.read_text(errors="replace")), "a number in a log", log)
        text = self.dump()
        demand(not numbers.search(text), "a card number in the database")
        coded = re.compile("|".join(number.encode().hex() for number in self._numbers))
        demand(not coded.search(text), "a card number in the database, coded")

    def dump(self) -> str:
        """The whole database as text."""
        program = Path(os.readlink(f"/proc/{self._postmaster}/exe")).with_name("pg_dump")
        done = subprocess.run(
            [str(program), self.switch.postgres_url, "--data-only"],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout

    @property
    def _postmaster(self) -> int:
        return self.switch.pid("postgres")

    def stop(self) -> None:
        """SIGTERM drains it and leaves nothing behind."""
        try:
            self.switch.refresh()
            status = self.switch.stop()
            demand(status == 0, "the switch did not end in good order", status)
        finally:
            self.throw_away()

    def throw_away(self) -> None:
        """End all of it anyhow."""
        if hasattr(self, "switch"):
            self.switch.kill()
        self._cleanup.close()


class Plain(Stack):
    """`cardswitch up --demo --workers 4`."""

    def _begin(self) -> None:
        self.switch = BrokenSwitch(self.directory)
        self.switch.start()


class Apart(Stack):
    """The switch between proxies: worker 0 has a way of its own to the cache."""

    def _begin(self) -> None:
        self.primary = first_cluster(self.directory / "a")
        self._cleanup.callback(self.primary.end)
        self.log_directory = self.primary.directory / "pg_wal"
        self.cannot_fill = mount_small(self.log_directory, _LOG_MEGABYTES)
        self.primary.start()
        self.primary.settings(max_wal_size="128MB", min_wal_size="32MB")
        self.caches = [self._cache(name) for name in ("r0", "r1")]
        self.to_postgres = self._proxy(self.primary.socket)
        self.to_cache = [self._proxy(self._cache_socket(0)) for _ in range(2)]
        urls = [f"redis://127.0.0.1:{proxy.port}" for proxy in self.to_cache]
        self.switch = BrokenSwitch(
            self.directory,
            plan=True,
            postgres_url=self.primary.url_at(self.to_postgres.port),
            redis_url=urls[1],
            redis_of={"0": urls[0]},
        )
        self.switch.judged_at = self.primary.url
        self.switch.start()
        self.to_switch = self._proxy((self.switch.host, self.switch.port))
        self.standby: Cluster | None = None
        self._copies = 0

    def _proxy(self, target: Path | tuple[str, int]) -> Proxy:
        proxy = Proxy(target, f"{target}")
        proxy.start()
        self._cleanup.callback(proxy.stop)
        return proxy

    def _cache(self, name: str) -> EmbeddedStores:
        stores = EmbeddedStores(self.directory / name, postgres=False)
        stores.start()
        self._cleanup.callback(stores.stop)
        return stores

    def _cache_socket(self, number: int) -> Path:
        return Path(self.caches[number].redis_url.removeprefix("unix://"))

    def all_to_cache(self, number: int, proxies: tuple[int, ...] = (0, 1)) -> None:
        """Turn workers to one of the two caches."""
        for proxy in proxies:
            self.to_cache[proxy].turn_to(self._cache_socket(number))

    def revive(self) -> None:
        """Start again what a round has killed and left dead."""
        for stores in self.caches:
            eventually(lambda stores=stores: stores.pids or not stores.ensure_running())
        if not self.primary.alive:
            self.primary.start()

    def with_standby(self) -> Cluster:
        """The standby of the primary, made anew where there is none."""
        if self.standby is None:
            self._copies += 1
            self.standby = self.primary.standby(self.directory / f"copy{self._copies}")
            self._cleanup.callback(self.standby.end)
        return self.standby

    def fail_over(self) -> None:
        """The primary has gone for good, the standby is the primary now."""
        assert self.standby is not None
        lost, self.primary, self.standby = self.primary, self.standby, None
        lost.end()
        unmount(lost.directory)
        lost.remove()
        self.primary.promote()
        self.cannot_fill = "the primary's log is on no small disk after a failover"
        self.switch.judged_at = self.primary.url
        self.to_postgres.turn_to(self.primary.socket)

    def drop_standby(self) -> None:
        """There is no standby any more, and none is waited for."""
        if self.standby is not None:
            self.standby.remove()
            self.standby = None

    @property
    def _postmaster(self) -> int:
        return self.primary.pid
