"""Settings: defaults, the file, flags, and what is said about wrong ones."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import msgspec
import pytest

from switch.config import (
    LogLevel,
    Settings,
    SettingsError,
    add_arguments,
    from_arguments,
    load_settings,
)

INTEGERS = sorted(
    field.name for field in msgspec.structs.fields(Settings) if field.type in (int, int | None)
)
PORTS = ("switch_port", "network_port", "web_port", "metrics_port")


def _file(folder: Path, text: str) -> Path:
    path = folder / "cardswitch.toml"
    path.write_text(text)
    return path


def _parse(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments))


def test_defaults() -> None:
    settings = load_settings(None)
    assert settings == Settings() == _parse()
    assert (settings.host, settings.switch_port, settings.network_port) == ("127.0.0.1", 8583, 8584)
    assert (settings.metrics_port, settings.postgres, settings.redis) == (9100, None, None)
    assert (settings.batch_max, settings.frame_length_max) == (256, 4096)
    assert settings.link_send_buffer_bytes_max == 1_048_576
    assert (settings.horizon_days, settings.clock_ahead_hours) == (60, 26)
    assert (settings.pin_tries_max, settings.code_tries_max) == (5, 5)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        'switch_port = 1000\nmetrics_port = 1001\ndata_dir = "/srv/cards"\nlog_level = "debug"\n',
    )
    settings = _parse("--config", str(path), "--switch-port", "2000", "--workers", "3")
    assert settings.switch_port == 2000
    assert settings.metrics_port == 1001
    assert settings.network_port == 8584
    assert settings.data_dir == Path("/srv/cards")
    assert settings.log_level is LogLevel.DEBUG
    assert settings.worker_count == 3


def test_all_flags() -> None:
    settings = _parse(
        *("--postgres", "postgresql://h/d", "--redis", "unix:///run/redis", "--data", "/d"),
        *("--switch-port", "0", "--network-port", "0", "--web-port", "0", "--metrics-port", "0"),
    )
    assert (settings.postgres, settings.redis) == ("postgresql://h/d", "unix:///run/redis")
    assert settings.data_dir == Path("/d")
    assert [getattr(settings, name) for name in PORTS] == [0, 0, 0, 0]


def test_a_namespace_of_another_command_is_taken() -> None:
    assert from_arguments(argparse.Namespace(verb="verify", data_dir=Path("/d"))) == Settings(
        data_dir=Path("/d")
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batch_maxx = 1", "there is no setting 'batch_maxx' (did you mean batch_max?)"),
        ("[limits]\nlanes = 1", "there is no setting 'limits'"),
        ('batch_max = "1"', "batch_max: Expected int, got str"),
        ("batch_max = true", "batch_max: Expected int, got bool"),
        ("batch_max = 1.5", "batch_max: Expected int, got float"),
        ("host = 1", "host: Expected str, got int"),
        ("data_dir = 3", "data_dir: expected a path"),
        ("batch_max = 0", "batch_max = 0: expected 1 to 4096"),
        ("web_port = 65536", "web_port = 65536: expected 0 to 65535"),
        ("answer_within_ms = -1", "answer_within_ms = -1: expected 10 to 120000"),
        ('log_level = "loud"', "log_level: expected one of debug, info, warning, error"),
        ("log_level = 10", "log_level: Expected str, got int"),
        ('host = ""', "host is empty"),
        ('redis = "http://h"', "redis: expected a URL that begins with redis://"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {"workers": 2})
    assert str(caught.value) == f"{path}: {complaint}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(_file(tmp_path, "a = [1"))
    path = tmp_path / "latin.toml"
    path.write_bytes(b'host = "\xe9"')
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(path)


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, "lanes = 3")
    with pytest.raises(SettingsError, match=r"^command line: switch_port = 70000: expected"):
        load_settings(path, {"switch_port": 70_000})
    with pytest.raises(SettingsError, match=r"^command line: there is no setting 'speed'"):
        load_settings(path, {"speed": 1})
    with pytest.raises(SettingsError, match=r"^command line: workers = 0"):
        _parse("--workers", "0")


@pytest.mark.parametrize("name", INTEGERS)
def test_every_number_is_bounded(name: str) -> None:
    for value in (-1, 1 << 40):
        with pytest.raises(SettingsError, match=f"^{name} = {value}: expected"):
            Settings(**{name: value})  # type: ignore[arg-type]
    if name not in PORTS:
        with pytest.raises(SettingsError, match=f"^{name} = 0: expected"):
            Settings(**{name: 0})  # type: ignore[arg-type]


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="two of them are the same"):
        Settings(switch_port=8000, web_port=8000)
    with pytest.raises(SettingsError, match="redis_timeout_ms = 5000: expected at most answer"):
        Settings(redis_timeout_ms=5_000)
    with pytest.raises(SettingsError, match="link_half_frame_timeout_s = 30: expected at most"):
        Settings(link_idle_timeout_s=20)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (16, 8)])
def test_workers_follow_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert Settings().worker_count == workers
    assert Settings(workers=7).worker_count == 7
    assert Settings().lane_count == (4 if workers == 1 else 2)
    assert Settings(lanes=3).lane_count == 3


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://switch:geheim@db/cards",
        "postgresql://switch:ge:heim@x@db/cards",
        "postgresql://db/cards?user=switch&password=geheim&ssl=on",
    ],
)
def test_passwords_are_not_shown(url: str) -> None:
    shown = repr(Settings(postgres=url, redis="redis://:geheim@cache:6379/0"))
    assert "heim" not in shown
    assert "db/cards" in shown
    assert "cache:6379" in shown
    with pytest.raises(SettingsError) as caught:
        Settings(postgres="mysql://switch:geheim@db")
    assert "geheim" not in str(caught.value)


def test_log_levels_are_those_of_logging() -> None:
    assert [level.number for level in LogLevel] == [10, 20, 30, 40]
