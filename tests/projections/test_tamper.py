"""Whoever changes the journal behind the switch's back is found, and the first link is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from journal_world import World, project

from rules.requests import Operation
from switch.journal.bridge import Connection
from switch.keys import MasterKey
from switch.projections import sealing
from switch.projections.checkpoints import (
    append_checkpoint,
    checkpoint_of,
    newest_block,
    read_checkpoints,
)
from switch.projections.reading import START, read_entries
from switch.projections.sealing import FIRST, Sealer, last_block
from switch.signing import SigningKey, SigningKeyError
from switch.verify import CHECKS, Finding, Report, chains, digests, rows, verify

CARD, OTHER = 1, 2


@pytest.fixture
async def journal(
    world: World, app: Connection, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> World:
    """Two cards with ten links each, sealed in blocks of six."""
    monkeypatch.setattr(sealing, "BLOCK_LINKS_MAX", 6)
    await world.add_cards(2)
    for number in range(10):
        operation = Operation.REDEEM if number % 3 == 2 else Operation.LOAD
        await world.do(
            *[(card, world.request(operation, 100 * card + number)) for card in (CARD, OTHER)]
        )
    assert await project(app, sealer) == 20
    assert await app.value("select count(*) from journal_digest") == 4
    return world


async def checked(url: str, sealer: Sealer | None, **options: Any) -> Report:
    return (await verify(url, sealer=sealer, full=True, **options))[0]


def named(report: Report, check: str) -> list[tuple[int, int]]:
    return [(found.card_id, found.version) for found in report.findings if found.check == check]


async def test_an_honest_journal_holds(journal: World, url: str, sealer: Sealer) -> None:
    report = await checked(url, sealer)
    assert report.findings == []
    assert (report.links, report.sealed_links, report.replayed_links) == (20, 20, 20)
    assert report.replayed_cards == 2
    assert {*CHECKS, digests.CHECK, chains.CHECK} == set(report.checks)


THE_LINK = f"card_id = {CARD} and version = 4"
COLUMNS = (
    "batch_id = batch_id + 1",
    "prev_batch_id = prev_batch_id + 1",
    "request_key = set_byte(request_key, 9, get_byte(request_key, 9) # 1)",
    "operation = 5 - operation + 6",
    "response = 51",
    "tx = 'AAAAAAAAAAAA'",
    "purse = 80",
    "amount_minor = amount_minor + 1",
    "available_after = available_after + 1",
    "held_after = held_after + 1",
    "undoes = 1",
    "terminal_id = 2",
    "merchant_id = 2",
    "posted_at = posted_at - interval '1 day'",
    "body = set_byte(body, 20, get_byte(body, 20) # 1)",
)


@pytest.mark.parametrize("change", COLUMNS)
async def test_a_changed_link_is_named(
    journal: World, url: str, sealer: Sealer, change: str
) -> None:
    await journal.connection.script(f"update link set {change} where {THE_LINK}")
    report = await checked(url, sealer)
    broken = named(report, digests.CHECK)
    if change.startswith("batch_id"):  # another batch is another place: it is missed in its own
        assert broken == [(OTHER, 4)]
    else:
        assert broken == [(CARD, 4)]


@pytest.mark.parametrize(
    "change",
    [
        "postings[5] = postings[5] + 1",
        "postings[1] = 8",
        "postings[2] = 2",
        "postings[3] = 8",
        "postings[4] = 2",
        "postings[6] = 840",
    ],
)
async def test_a_changed_posting_names_its_link(
    journal: World, url: str, sealer: Sealer, change: str
) -> None:
    await journal.connection.script(f"update link set {change} where {THE_LINK}")
    assert named(await checked(url, sealer), digests.CHECK) == [(CARD, 4)]


async def test_a_deleted_link_is_noticed(journal: World, url: str, sealer: Sealer) -> None:
    await journal.connection.script(f"delete from link where {THE_LINK}")
    report = await checked(url, sealer)
    assert [found.what for found in report.findings if found.check == digests.CHECK] == [
        "a link in front of it is missing (block 2, place 1)"
    ]
    assert named(report, digests.CHECK) == [(OTHER, 4)]
    assert named(report, chains.CHECK) == [(CARD, 5)]


async def test_the_last_link_of_a_block_and_of_all_is_missed_too(
    journal: World, url: str, sealer: Sealer
) -> None:
    await journal.connection.script(f"delete from link where card_id = {OTHER} and version = 10")
    report = await checked(url, sealer)
    assert [found.what for found in report.findings if found.check == digests.CHECK] == [
        "a link behind it is missing (block 4, place 2)"
    ]
    assert named(report, digests.CHECK) == [(CARD, 10)]


async def test_a_deleted_posting_names_its_link(journal: World, url: str, sealer: Sealer) -> None:
    await journal.connection.script(f"update link set postings = '{{}}' where {THE_LINK}")
    assert named(await checked(url, sealer), digests.CHECK) == [(CARD, 4)]


async def test_an_inserted_link_is_named(journal: World, url: str, sealer: Sealer) -> None:
    """With the transaction number of its neighbours: nobody would read it as new."""
    await journal.connection.script(
        "insert into link select month, batch_id, 77, card_id, 99, prev_batch_id, request_key,"
        " operation, response, 'ZZZZZZZZZZZZ', purse, amount_minor, available_after, held_after,"
        " undoes, terminal_id, merchant_id, batch_number, counts, counted_minor, posted_at, xid,"
        f" body, postings from link where {THE_LINK}"
    )
    report = await checked(url, sealer)
    assert named(report, digests.CHECK) == [(CARD, 99)]
    assert "was added later" in next(f.what for f in report.findings if f.check == digests.CHECK)


async def test_an_inserted_posting_names_its_link(journal: World, url: str, sealer: Sealer) -> None:
    await journal.connection.script(
        "update link set postings = postings || array[2, 1, 2, 2, 1, 978]::bigint[]"
        f" where {THE_LINK}"
    )
    assert named(await checked(url, sealer), digests.CHECK) == [(CARD, 4)]


@pytest.mark.parametrize("column", ["posted_at", "request_key", "tx", "body"])
async def test_swapped_contents_name_the_first_of_both(
    journal: World, url: str, sealer: Sealer, column: str
) -> None:
    await journal.connection.script(
        f"update link l set {column} = o.{column} from link o where l.card_id = {CARD}"
        f" and o.card_id = {CARD} and l.version + o.version = 12 and l.version in (4, 8)"
    )
    report = await checked(url, sealer)
    if column != "posted_at":  # all at one instant here: nothing has changed
        assert named(report, digests.CHECK) == [(CARD, 4), (CARD, 8)]
    else:
        assert report.findings == []


async def test_swapped_places_are_noticed(journal: World, url: str, sealer: Sealer) -> None:
    """Two links of one batch change their numbers."""
    await journal.connection.script(
        f"update link set n = 90 where {THE_LINK};"
        f"update link set n = 1 where card_id = {OTHER} and version = 4;"
        f"update link set n = 2 where {THE_LINK}"
    )
    assert named(await checked(url, sealer), digests.CHECK)[0] in {(CARD, 4), (OTHER, 4)}


async def test_swapped_postings_name_the_first_of_both(
    journal: World, url: str, sealer: Sealer
) -> None:
    await journal.connection.script(
        f"update link l set postings = m.postings from link m"
        f" where l.card_id = {CARD} and m.card_id = {CARD} and l.version + m.version = 12"
        f" and l.version in (4, 8)"
    )
    assert named(await checked(url, sealer), digests.CHECK) == [(CARD, 4), (CARD, 8)]


async def test_digests_made_anew_without_the_key_are_seen(
    journal: World, app: Connection, url: str, sealer: Sealer
) -> None:
    """All of them, over a journal that has been changed, as somebody with the database could."""
    await journal.connection.script(f"update link set terminal_id = 2 where {THE_LINK}")
    await _start_anew(journal)
    await project(app, Sealer(MasterKey(bytes(32))))
    report = await checked(url, sealer)
    assert "sealed under another key" in report.findings[0].what
    await journal.connection.rows("update journal_digest set key_check = $1", sealer.key_check)
    report = await checked(url, sealer)
    assert {found.check for found in report.findings} == {digests.CHECK}


async def test_a_digest_row_that_was_changed_or_removed_is_seen(
    journal: World, url: str, sealer: Sealer
) -> None:
    await journal.connection.script("update journal_digest set digest = sha256('x') where block=2")
    whats = [found.what for found in (await checked(url, sealer)).findings]
    assert whats[0] == "block 2's digest is not that of its links"
    await journal.connection.script("delete from journal_digest where block = 2")
    whats = [found.what for found in (await checked(url, sealer)).findings]
    assert whats[0] == "the digest before block 3 is missing"
    await journal.connection.script("delete from journal_digest where block > 2")
    whats = [found.what for found in (await checked(url, sealer)).findings]
    assert whats[0] == "the digests end with block 1, the projections not"


async def test_a_block_of_another_history_does_not_fit_before_the_next(
    journal: World, app: Connection, url: str, sealer: Sealer
) -> None:
    """Sealed under the right key, as out of a copy of this installation that went its own way."""
    await journal.connection.script(
        f"update link set terminal_id = 2 where card_id = {CARD} and version = 1"
    )
    entries = await app.unit(lambda raw: read_entries(raw, START, 6))
    assert (entries[0].link["card_id"], entries[0].link["version"]) == (CARD, 1)
    block = sealer.seal(entries, FIRST)[0]
    await journal.connection.rows(
        "update journal_digest set marks = $1, digest = $2, made_at = $3 where block = 1",
        *(block.marks, block.digest, block.made_at),
    )
    found = [f.what for f in (await checked(url, sealer)).findings if f.check == digests.CHECK]
    assert found == ["block 2's digest is not that of its links"]


async def _start_anew(journal: World) -> None:
    await journal.connection.script(
        "truncate journal_digest, merchant_balance, programme_balance, liability, card_life;"
        "update projection_position set xid = '0', batch_id = 0, n = 0, links = 0, postings = 0"
    )


async def test_a_journal_that_was_cut_back_is_seen_by_its_checkpoint(
    journal: World, app: Connection, url: str, sealer: Sealer, tmp_path: Path
) -> None:
    """The end of it removed, without a trace: rows, digests and cards as they were before."""
    path, key = tmp_path / "checkpoints", SigningKey.open(tmp_path / "key")
    append_checkpoint(path, checkpoint_of(await app.unit(last_block), key))
    assert newest_block(path) == 4
    checkpoints = read_checkpoints(path)
    assert (await checked(url, sealer, checkpoints=checkpoints)).findings == []
    (end,) = await journal.connection.rows("select * from journal_digest where block = 3")
    await journal.connection.script(
        "delete from journal_digest where block > 3;"
        f"delete from link where batch_id > {end['batch_id']};"
        f"update projection_position set xid = '{end['xid']}', batch_id = {end['batch_id']},"
        f" n = {end['n']};"
    )
    report = await checked(url, sealer, checkpoints=checkpoints)
    assert named(report, digests.CHECK) == []
    what = "block 4 is not there any more: the journal was cut back"
    assert what in [found.what for found in report.findings]


async def test_a_checkpoint_of_another_history_and_a_forged_one_are_seen(
    journal: World, app: Connection, url: str, sealer: Sealer, tmp_path: Path
) -> None:
    key = SigningKey.open(tmp_path / "key")
    block = await app.unit(last_block)
    true = checkpoint_of(block, key)
    other = checkpoint_of(block._replace(digest=bytes(32)), key)
    forged = msgspec.structs.replace(true, made_at="2020-01-01")
    whats = [
        found.what
        for found in (await checked(url, sealer, checkpoints=[true, other, forged])).findings
    ]
    assert len(whats) == 2
    assert whats[0].startswith("block 4 is another than it was at")
    assert whats[1] == "the signature of the checkpoint at block 4 is wrong"


def test_the_signing_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = SigningKey.open(path)
    assert SigningKey.open(path).public == key.public
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().strip() not in repr(key)
    path.chmod(0o644)
    with pytest.raises(SigningKeyError, match="0600"):
        SigningKey.open(path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(SigningKeyError, match="hex digits"):
        SigningKey.open(path)


# What the replay sees without any digest


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            f"update card_state set state = (select state from card_state where card_id = {OTHER})"
            f" where card_id = {CARD}",
            "the state in its row is not what its last link left",
        ),
        (
            f"update card_state set request_window = request_window || '\\x00' "
            f"where card_id = {CARD}",
            "the window in its row does not hold its last keys",
        ),
        (
            f"update card_state set status = 4 where card_id = {CARD}",
            "its row's columns are not what its state says",
        ),
        (
            f"update card_state set points_available = 1, ecash_available = ecash_available - 1"
            f" where card_id = {CARD}",
            "its row's columns are not what its state says",
        ),
    ],
)
async def test_a_row_that_is_not_its_last_links_state_is_named(
    journal: World, url: str, change: str, what: str
) -> None:
    await journal.connection.script(change)
    report = await checked(url, None)
    assert Finding(rows.CHECK, CARD, 10, what) in report.findings
    assert report.skipped == [f"{digests.CHECK} (no master key)"]


async def test_a_card_that_holds_something_from_nowhere_is_named(journal: World, url: str) -> None:
    await journal.add_cards(1, first=50)
    await journal.connection.script(
        f"update card_state set state = (select state from card_state where card_id = {CARD})"
        " where card_id = 50"
    )
    assert (50, 0) in named(await checked(url, None), rows.CHECK)


async def test_without_full_a_sample_and_what_is_not_sealed_is_replayed(
    journal: World, url: str, sealer: Sealer
) -> None:
    await journal.do((CARD, journal.request(Operation.LOAD, 5)))
    await journal.connection.script("update link set body = '\\x90' where version = 11")
    report, _ = await verify(url, sealer=sealer)
    assert named(report, digests.CHECK) == []
    assert named(report, chains.CHECK) == [(CARD, 11)]
