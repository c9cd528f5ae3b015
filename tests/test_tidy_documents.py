"""The house rules for documents and deploy/: what they name is there, and nothing is left out."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tidy_tree import ROOMS, ROOT, files, text_of

from fastpath.codec import decode
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.specs import packagers
from rules.responses import Response, ReversalState, Rule
from switch.config import Settings, add_arguments, load_settings
from switch.metrics import FrameRefusal, Metrics, render
from switch.pos import add_parser
from switch.supervised_metrics import merge_pages
from switch.wire.translate import _operations

DOCUMENTS = tuple(name for name in files() if name.endswith(".md"))
DIALECT = text_of("docs/dialect.md")


def test_what_a_stranger_needs_is_there() -> None:
    needed = {
        *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".ci/run"),
        *("docs/architecture.md", "docs/dialect.md", "docs/dependencies.md", "docs/runbook.md"),
        *("docs/performance.md", "deploy/cardswitch.service", "deploy/cardswitch.toml.example"),
        "deploy/prometheus-rules.yml",
    }
    assert needed <= set(files())
    assert text_of("LICENSE").lstrip().startswith("Apache License")


# What documents name

_TICKED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_PATH = re.compile(r"[\w.-]+(?:/[\w.*-]+)*/?")
_MODULE = re.compile(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+")
_TOP = frozenset(name.partition("/")[0] for name in files() if "/" in name) - {"build"}
_BARE = (".py", ".pyx", ".pxd", ".pyi", ".sql", ".lua", ".md")


def named_faults(text: str) -> list[str]:
    """Names in backticks that look like a file or module of ours, and are none."""
    found = []
    for name in _TICKED.findall(text):
        if _MODULE.fullmatch(name) and not name.endswith(_BARE):
            there = _is_module(name)
        elif not _PATH.fullmatch(name):
            continue
        elif name.partition("/")[0] in _TOP and "/" in name:
            there = bool(list(ROOT.glob(name)))
        elif name.endswith(_BARE):
            there = any(Path(each).name == name for each in files())
        else:
            continue
        if not there:
            found.append(name)
    return found


def _is_module(name: str) -> bool:
    """Whether it is a module, or something that stands in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        sources = [path.with_suffix(suffix) for suffix in (".py", ".pyi")]
        sources = [each for each in (*sources, path / "__init__.py") if each.is_file()]
        if sources:
            return all(part in sources[0].read_text() for part in parts[count:])
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_modules_that_a_document_names_exist(document: str) -> None:
    assert named_faults(text_of(document)) == []


def test_a_name_that_is_nowhere_is_seen() -> None:
    text = "`switch/nowhere.py` `nowhere.sql` `rules.nowhere` `switch.keys.Nothing` `docs/none/`"
    assert len(named_faults(text)) == 5
    text = "`switch/` `rules.window` `switch.keys.MasterKey` `pipeline.py` `demo.json` `a/b` `x.y`"
    assert named_faults(text) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_a_document_lead_somewhere(document: str) -> None:
    text = text_of(document)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert anchor in anchors, target


def test_decisions_are_numbered_and_say_what_they_must() -> None:
    decisions = [Path(name) for name in DOCUMENTS if name.startswith("docs/decisions/")]
    numbers = [int(path.name[:4]) for path in decisions]
    assert numbers == list(range(1, len(numbers) + 1))
    for path in decisions:
        text = (ROOT / path).read_text()
        assert text.startswith(f"# {int(path.name[:4])}. ")
        for part in ("**Context.**", "**Choice.**", "**What it costs.**"):
            assert part in text, path


# Dependencies


def requirements() -> Iterator[str]:
    """Every requirement of pyproject.toml."""
    project = tomllib.loads(text_of("pyproject.toml"))
    yield from project["build-system"]["requires"]
    yield from project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        yield from extra


_PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][^;\s,]*)\s*(?:;.+)?")


@pytest.mark.parametrize("requirement", sorted(set(requirements())))
def test_a_dependency_is_pinned_and_explained(requirement: str) -> None:
    pinned = _PINNED.fullmatch(requirement)
    assert pinned is not None, "not pinned to one version"
    row = f"| `{pinned['name']}` | {pinned['version']} |"
    assert row in text_of("docs/dependencies.md"), row


def test_no_dependency_is_explained_that_is_none() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \|", text_of("docs/dependencies.md"), re.MULTILINE)
    assert set(rows) == {re.split(r"[=<>~;\[ ]", each)[0] for each in requirements()}


# Metrics

_METRIC = re.compile(r"\b(?:cardswitch|process)_[a-z_]+\b")
_NO_METRICS = frozenset({"cardswitch_app"})  # the database role


def exported() -> set[str]:
    """The names on the metrics page, without a running switch."""
    page = render(Metrics(["pos"]).registry).decode()
    merged = merge_pages({"0": page}, {"worker-0": 1}).decode()
    return set(re.findall(r"^(?:# TYPE )?([a-z_]+)", merged, re.MULTILINE)) - {""}


@pytest.mark.parametrize("name", ["deploy/prometheus-rules.yml", "docs/runbook.md"])
def test_a_metric_that_is_named_is_exported(name: str) -> None:
    named = set(_METRIC.findall(text_of(name))) - _NO_METRICS
    assert len(named) > 10
    assert named - exported() == set()


def test_every_metric_of_ours_is_in_the_runbook() -> None:
    page = render(Metrics(["pos"]).registry).decode()
    merged = merge_pages({"0": page}, {"worker-0": 1}).decode()
    ours = set(re.findall(r"^# TYPE (cardswitch_\w+) ", merged, re.MULTILINE))
    assert len(ours) > 10
    assert ours - set(_METRIC.findall(text_of("docs/runbook.md"))) == set()


def test_alerts_are_complete() -> None:
    rules = [
        rule
        for group in yaml.safe_load(text_of("deploy/prometheus-rules.yml"))["groups"]
        for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    reasons = {reason.value for reason in FrameRefusal}
    for rule in rules:
        assert _METRIC.search(rule["expr"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert set(re.findall(r'reason="(\w+)"', rule["expr"])) <= reasons
        assert set(re.findall(r'response="(\w+)"', rule["expr"])) <= set(Response)
        assert rule["expr"].count("(") == rule["expr"].count(")")


# Settings, unit, continuous integration


def test_the_example_names_every_setting_with_its_default(tmp_path: Path) -> None:
    text = text_of("deploy/cardswitch.toml.example")
    load_settings(ROOT / "deploy/cardswitch.toml.example")
    whole = tmp_path / "whole.toml"
    whole.write_text(re.sub(r"^#(?=\w+ = |\[\w+\]$)", "", text, flags=re.MULTILINE))
    named = tomllib.loads(whole.read_text())
    assert set(named) == set(Settings.__struct_fields__)
    shown, default = load_settings(whole), Settings()
    chosen = {
        "data_dir",
        "lanes",
        "master_key_file",
        "network_tls",
        "postgres",
        "redis",
        "switch_tls",
        "workers",
    }
    for name in set(named) - chosen:
        assert getattr(shown, name) == getattr(default, name), name


def test_the_unit_starts_what_there_is() -> None:
    unit = text_of("deploy/cardswitch.service")
    command = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    assert len(command) == 1
    program, verb, *flags = shlex.split(command[0])
    assert (Path(program).name, verb) == ("cardswitch", "up")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(flags).config == Path("/etc/cardswitch/cardswitch.toml")
    assert "KillMode=mixed" in unit


def test_the_tour_uses_verbs_and_options_that_there_are() -> None:
    commands = re.findall(r"^\$ \.venv/bin/cardswitch (.+)$", text_of("README.md"), re.MULTILINE)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    of_pos = [shlex.split(command) for command in commands if command.startswith("pos ")]
    assert [words[1] for words in of_pos] == ["activate", "redeem", "repeat", "reverse", "balance"]
    for words in of_pos:
        assert parser.parse_args(words).verb == words[1]


def test_continuous_integration_is_a_script_that_bash_reads() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "set -euo pipefail" in lines
    assert lines[-1].startswith("make test")


# The dialect's page


def test_the_dialect_names_every_operation() -> None:
    missing = [code for _, code in _operations() if f"`{code}`" not in DIALECT]
    assert missing == []


def test_the_dialect_names_every_answer() -> None:
    rows = re.findall(r"^\| (\d\d(?:, \d\d)*) \|", DIALECT, re.MULTILINE)
    codes = {code for row in rows for code in row.split(", ")}
    reserved = re.findall(r"^Reserved: ([\d, ]+)\.$", DIALECT, re.MULTILINE)[0].split(", ")
    assert codes | set(reserved) == {each.value for each in Response}
    rules = {rule.value for rule in Rule if rule.value}
    assert {rule for rule in rules if f"`{rule}`" not in DIALECT} == set()
    assert {state for state in ReversalState if state and state not in DIALECT} == set()


def test_the_frames_of_the_dialect_are_right() -> None:
    binary, text = re.findall(r"```\n(0200.+?)```", DIALECT, re.DOTALL)
    retail = MacKey(MacAlgorithm.RETAIL, bytes.fromhex("0123456789ABCDEFFEDCBA9876543210"))
    cmac = MacKey(MacAlgorithm.AES_CMAC, bytes(range(16)))
    frames = [(retail, "iso87-binary", bytes.fromhex(part)) for part in binary.split("\n\n")]
    frames += [
        (cmac, "iso87-ascii", part.replace("\n", "").encode()) for part in text.split("\n\n")
    ]
    assert len(frames) == 4
    for key, packager, frame in frames:
        message = decode(packagers()[packager], frame)
        assert key.verify(message.raw[: message.mac_covers], message.mac or b"")
