"""`cardswitch describe` says what runs."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

import fastpath
from fastpath import mac
from switch.cli import main
from switch.describe import describe


def test_json_says_versions_paths_and_modules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == describe()
    assert found["cardswitch"] == version("cardswitch")
    assert found["libraries"]["trio"] == version("trio")
    assert found["compiled"] == list(fastpath.compiled_modules())
    for name, runs in mac.implementation().items():
        assert found["paths"][name] == {"runs": runs, "here": list(mac.paths()[name])}


def test_it_tells_the_path_that_runs_and_not_the_best_there_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mac._use_paths(aes="portable", des="portable")
    try:
        assert main(["describe"]) == 0
    finally:
        mac._use_paths()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "aes: portable (of " in lines["paths"] and "des: portable (of " in lines["paths"]
    assert lines["cardswitch"] == version("cardswitch")
    assert lines["compiled"].startswith("framing, codec, mac")


def test_a_reader_that_has_gone_is_no_fault() -> None:
    """As behind `| head`: no traceback, neither while it prints nor at the end."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        command = [sys.executable, "-m", "switch", "describe"]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
