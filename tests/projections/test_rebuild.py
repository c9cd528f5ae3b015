"""Projections made anew are the same; open items are there for those who look."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from journal_world import DAY_S, World, project

from rules.requests import Operation
from switch.journal.bridge import Connection
from switch.projections.open_items import open_items
from switch.projections.rebuild import Comparison, rebuild
from switch.projections.sealing import Sealer

CARD = 1
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def journal(world: World, app: Connection, sealer: Sealer) -> World:
    """A suspense, a shortfall, a late reversal, a hold; projected."""
    await world.add_cards(3)
    unknown = await world.add_suspense_chain()
    sale = world.request(Operation.REDEEM, 100, age_s=61 * DAY_S)
    await world.do(
        (CARD, world.request(Operation.LOAD, 1_000)),
        (CARD, world.request(Operation.HOLD, 200)),
        (2, world.request(Operation.LOAD, 300)),
        (2, world.request(Operation.ADVICE, 450)),
        (unknown, world.request(Operation.ADVICE, 77, card_unknown=True)),
        (3, world.reversal(sale)),
        (3, world.request(Operation.REDEEM, 1)),
    )
    await project(app, sealer)
    return world


def differing(compared: list[Comparison]) -> dict[str, tuple[int, int]]:
    return {one.table: (one.wrong, one.lacking) for one in compared if not one.equal}


async def test_what_is_made_anew_is_equal(journal: World, url: str) -> None:
    links, compared = await rebuild(url)
    assert links == 7
    assert {one.table: one.rows for one in compared} == {
        "merchant_balance": 3,
        "programme_balance": 1,
        "liability": 1,
        "card_life": 4,
        "open_hold": 1,
        "open_item": 3,
    }
    assert differing(compared) == {}
    assert await journal.connection.value("select to_regnamespace('shadow')") is None


async def test_links_that_are_not_projected_yet_do_not_differ(
    journal: World, url: str, app: Connection
) -> None:
    await journal.do((CARD, journal.request(Operation.LOAD, 5)))
    links, compared = await rebuild(url)
    assert (links, differing(compared)) == (7, {})
    assert await project(app) == 1
    assert (await rebuild(url))[0] == 8


async def test_nothing_projected_is_nothing_to_compare(world: World, url: str) -> None:
    await world.add_cards(1)
    await world.do((CARD, world.request(Operation.LOAD, 5)))
    links, compared = await rebuild(url)
    assert (links, differing(compared)) == (0, {})


TAMPER = {
    "merchant_balance": (
        "update merchant_balance set credits_minor = credits_minor + 1 where account_kind = 2",
        (1, 1),
    ),
    "liability": ("delete from liability", (0, 1)),
    "card_life": ("update card_life set status = 4 where card_id = 1", (1, 1)),
    "open_hold": ("update open_hold set ended_by = 3", (1, 1)),
    "open_item": ("delete from open_item where kind = 1", (0, 1)),
    "projection_position": ("update projection_position set links = 6", (1, 0)),
}


@pytest.mark.parametrize("table", TAMPER)
async def test_what_differs_is_shown_and_replaced_when_asked(
    journal: World, url: str, app: Connection, table: str
) -> None:
    change, counts = TAMPER[table]
    await journal.connection.script(change)
    _, compared = await rebuild(url)
    assert differing(compared) == {table: counts}
    assert next(one for one in compared if one.table == table).examples
    assert differing((await rebuild(url))[1]) == {table: counts}  # only compared, not mended
    assert differing((await rebuild(url, replace=True))[1]) == {table: counts}
    assert differing((await rebuild(url))[1]) == {}
    await journal.do((CARD, journal.request(Operation.LOAD, 5)))
    assert await project(app) == 1
    assert differing((await rebuild(url))[1]) == {}


async def test_what_people_cleared_stays_cleared(journal: World, url: str) -> None:
    await journal.connection.script(
        "update open_item set cleared_at = now(), cleared_note = 'paid' where kind = 3"
    )
    assert len(await open_items(url)) == 2
    assert differing((await rebuild(url, replace=True))[1]) == {}
    assert {item["kind"] for item in await open_items(url)} == {"late", "suspense"}
    assert await journal.connection.value("select cleared_note from open_item where kind = 3")


async def test_open_items_tell_what_a_person_needs(journal: World, url: str) -> None:
    items = {item["kind"]: item for item in await open_items(url)}
    wanted = ("rule", "merchant", "amount_minor", "currency", "operation", "card_id", "version")
    assert {kind: tuple(item[name] for name in wanted) for kind, item in items.items()} == {
        "suspense": ("CARD", "000000000000001", 77, "978", "advice", -(1 << 60) - 1, 1),
        "shortfall": ("SHORTFALL", "000000000000001", 150, "978", "advice", 2, 2),
        "late": ("LATE", "000000000000001", 100, "978", "reversal", 3, 1),
    }
    assert all(0 <= item["age_s"] < 60 and len(item["tx"]) == 12 for item in items.values())


async def test_a_completion_can_leave_two_items(world: World, url: str, app: Connection) -> None:
    """Within its tolerance the card lacks some, and some is above the tolerance."""
    await world.add_cards(1)
    hold = world.request(Operation.HOLD, 1_000)
    await world.do((CARD, world.request(Operation.LOAD, 1_000)), (CARD, hold))
    completion = world.request(Operation.ADVICE, 1_300, original_transaction_id=hold.transaction_id)
    await world.do((CARD, completion))
    await project(app)
    items = [(item["kind"], item["amount_minor"]) for item in await open_items(url)]
    assert sorted(items) == [("shortfall", 100), ("suspense", 200)]


def command(url: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "switch", *words, "--data", str(tmp_path), "--postgres", url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_staff_clears_an_item_and_says_why(journal: World, url: str, tmp_path: Path) -> None:
    items = {item["kind"]: item for item in await open_items(url)}
    words = ("open-items", "--clear", items["late"]["tx"])
    for wrong in (
        (),
        ("--kind", "late"),
        ("--kind", "late", "--note", "  "),
        ("--kind", "late", "--note", "x" * 501),
        ("--note", "who, why"),
        ("--kind", "late", "--note", "two\nlines"),
    ):
        assert command(url, tmp_path, *words, *wrong).returncode == 2
    other = command(url, tmp_path, *words, "--kind", "suspense", "--note", "who, why")
    assert (other.returncode, len(await open_items(url))) == (1, 3)
    done = command(url, tmp_path, *words, "--kind", "late", "--note", "who, why")
    assert (done.returncode, done.stdout) == (0, "1 item(s) cleared\n")
    assert {item["kind"] for item in await open_items(url)} == {"suspense", "shortfall"}
    rows = await journal.connection.rows("select cleared_note from open_item where kind = 1")
    assert [row["cleared_note"] for row in rows] == ["who, why"]
    assert command(url, tmp_path, *words, "--kind", "late", "--note", "again").returncode == 1
    assert differing((await rebuild(url))[1]) == {}


def told_progress(text: str) -> bool:
    """Nothing but where each phase was, with its count and how long it took."""
    lines = text.splitlines()
    return bool(lines) and all(re.fullmatch(r"[^:]+(: [\d,]+.*)?, \d+\.\d s", x) for x in lines)


async def test_the_verbs_say_it_in_words_and_in_exit_codes(
    journal: World, url: str, tmp_path: Path
) -> None:
    (tmp_path / "master.key").write_text(bytes(range(32)).hex())
    (tmp_path / "master.key").chmod(0o600)
    shown = command(url, tmp_path, "open-items")
    assert shown.returncode == 0
    assert "3 open item(s)" in shown.stdout
    listed = command(url, tmp_path, "open-items", "--json")
    items: list[dict[str, Any]] = json.loads(listed.stdout)
    assert {item["kind"] for item in items} == {"late", "suspense", "shortfall"}

    checkpoints = tmp_path / "auditor.jsonl"
    good = command(url, tmp_path, "verify", "--full", "--export", str(checkpoints))
    assert good.returncode == 0
    assert told_progress(good.stderr)
    assert "holds   the journal is what its digests say it was" in good.stdout
    again = command(url, tmp_path, "verify", "--against", str(checkpoints))
    assert again.returncode == 0
    assert told_progress(again.stderr)
    assert "holds   the journal goes on from its checkpoints" in again.stdout
    await journal.connection.script("update link set terminal_id = 2 where card_id = 2")
    bad = command(url, tmp_path, "verify", "--export", str(checkpoints))
    assert bad.returncode == 1
    assert "card 2, link 1: it or its postings were changed" in bad.stdout
    assert len(checkpoints.read_text().splitlines()) == 1

    await journal.connection.script("update link set terminal_id = 1 where card_id = 2")
    assert command(url, tmp_path, "rebuild").returncode == 0
    await journal.connection.script("update card_life set status = 4")
    differs = command(url, tmp_path, "rebuild")
    assert differs.returncode == 1
    assert "differs card_life, 4 rows" in differs.stdout
    assert command(url, tmp_path, "rebuild", "--replace").returncode == 0
    assert command(url, tmp_path, "rebuild").returncode == 0


def test_what_cannot_run_says_so(tmp_path: Path) -> None:
    for verb in ("verify", "rebuild", "open-items"):
        result = subprocess.run(
            [sys.executable, "-m", "switch", verb, "--data", str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 2
        assert "no --postgres was given" in result.stderr
        unreachable = command(f"postgresql://nobody@/none?host={tmp_path}", tmp_path, verb)
        assert unreachable.returncode == 2
        assert unreachable.stderr.startswith("cardswitch: ")
