"""Months beyond the horizon go into an archive, and nothing is lost that could be proved before."""

from __future__ import annotations

import datetime
import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from journal_world import APPEND, World, project

from rules.cards import CardStatus, WorkingCard
from rules.requests import CreditTerms, Operation, Terminal
from switch.archive import command, cut
from switch.archive.command import archive
from switch.archive.cut import CannotArchive
from switch.archive.files import ArchiveBroken, all_entries, read_manifests
from switch.journal.bridge import Connection
from switch.journal.journal import HistoryQuery, JournalSession
from switch.projections import reading, sealing
from switch.projections.images import link_image, posting_image
from switch.projections.rebuild import rebuild
from switch.projections.sealing import Sealer
from switch.signing import SigningKey
from switch.verify import Report, verify
from switch.verify import archives as archive_checks

HORIZON = datetime.timedelta(days=60)


def month(back: int) -> datetime.date:
    """The first day of the month so many months ago."""
    first = datetime.datetime.now(datetime.UTC).date().replace(day=1)
    for _ in range(back):
        first = (first - datetime.timedelta(days=1)).replace(day=1)
    return first


def midst(back: int) -> datetime.datetime:
    day = month(back)
    return datetime.datetime(day.year, day.month, 15, 12, tzinfo=datetime.UTC)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.open(tmp_path / "checkpoint.key")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.mkdir()
    return path


async def month_of(world: World, back: int, cards: list[int], sales: int = 4) -> None:
    """Loads, sales, returns to lots by reversal, a hold that is completed, refusals by rule.

    And a load that ends 40 days later: whoever moves then expires it, the others have it still.
    """
    world.now = midst(back)
    terms = CreditTerms(last_day=int(world.now.timestamp()) // 86_400 + 40)
    given = {"terminal": Terminal(2, 1, network=True, programme=True), "terms": terms}
    for card in cards:
        await world.do((card, world.request(Operation.LOAD, 77, **given)))
    await world.do(*[(card, world.request(Operation.LOAD, 1_000 + card)) for card in cards])
    for number in range(sales):
        sale = world.request(Operation.REDEEM, 10 + number)
        hold = world.request(Operation.HOLD, 50)
        await world.do(*[(card, world.request(Operation.REDEEM, 5)) for card in cards])
        await world.do(
            (cards[0], sale), (cards[1], hold), (cards[1], world.request(Operation.REDEEM, 10**7))
        )
        done = world.request(Operation.ADVICE, 40, original_transaction_id=hold.transaction_id)
        await world.do((cards[0], world.reversal(sale)), (cards[1], done))


@pytest.fixture
async def past(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose journal has room for the last seven months; four cards."""
    monkeypatch.setattr(sealing, "BLOCK_LINKS_MAX", 10)
    for back in range(7):
        for parent in ("link", "refusal"):
            first, end = month(back), (month(back) + datetime.timedelta(days=31)).replace(day=1)
            await world.connection.script(
                f"create table if not exists {parent}_{first:%Y_%m} partition of {parent}"
                f" for values from ('{first}') to ('{end}')"
            )
    await world.add_cards(4)
    return world


@pytest.fixture
async def old(past: World, app: Connection, sealer: Sealer) -> World:
    """Months 6, 5, 4 and this one; one card is quiet since month 5, one from month 4 on."""
    world = past
    await month_of(world, 6, [1, 2, 3])
    await month_of(world, 5, [1, 2, 3])
    await month_of(world, 4, [2, 1, 4], sales=6)
    await month_of(world, 0, [1, 2, 4])
    await world.connection.script(
        "insert into refusal select date_trunc('month', $1::timestamptz)::date, 1, 1, $1, 'pos',"
        " '0200', 14, 'CARD', '00000001', '000001', ''".replace("$1", f"'{midst(5)}'")
    )
    await project(app, sealer)
    return world


LAST_LINKS = """
select distinct on (card_id) card_id, version, available_after, held_after, posted_at
from link where month <= $1 order by card_id, version desc
"""


async def cut_through(
    url: str, place: Path, back: int, sealer: Sealer, key: SigningKey, **more: Any
) -> list[str]:
    options: dict[str, Any] = {"horizon": HORIZON} | more
    return (await archive(url, place, month(back), sealer=sealer, key=key, **options))[1]


async def checked(url: str, sealer: Sealer | None, **options: Any) -> Report:
    return (await verify(url, sealer=sealer, full=True, **options))[0]


async def equal(url: str, **options: Any) -> bool:
    _, compared = await rebuild(url, **options)
    return all(one.equal for one in compared)


def archived(place: Path) -> Any:
    manifests = [manifest for manifest, _ in read_manifests(place)]
    return lambda: (entry for _, entry in all_entries(place, manifests))


async def test_images_are_those_of_postgres(old: World) -> None:
    entries = await old.connection.unit(lambda raw: reading.read_entries(raw, reading.START, 500))
    assert len(entries) > 60
    assert {len(postings) for _, postings in entries} == {0, 1}
    for link, postings in entries:
        assert link_image(link) == link["image"]
        for posting in postings:
            assert posting_image(posting) == posting["image"]


@pytest.mark.parametrize("drop", [False, True])
async def test_an_archive_takes_months_away_and_everything_still_holds(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey, drop: bool
) -> None:
    links = await old.connection.value("select count(*) from link")
    lives = await old.connection.rows("select * from card_life order by card_id")
    last = await old.connection.rows(LAST_LINKS, month(5))
    said = await cut_through(url, place, 5, sealer, key, drop_tables=drop)
    assert sum(line.startswith("detached") for line in said) == 4
    assert sum(line.startswith("dropped") for line in said) == (4 if drop else 0)
    left = await old.connection.value("select count(*) from link")
    assert 0 < left < links

    whole = await checked(url, sealer, archive=place, trusted=[key.public])
    assert whole.findings == []
    assert (whole.links, whole.archived_links) == (left, links - left)
    assert archive_checks.CHECK in whole.checks
    alone = await checked(url, sealer, trusted=[key.public])
    assert (alone.findings, alone.archived_links) == ([], 0)
    assert alone.skipped == [f"{links - left} archived links (their signed openings stand)"]
    assert await equal(url)
    assert await equal(url, archived=archived(place))
    # What was on each card is what its last archived link left.
    heads = await old.connection.rows("select * from opening.card_head order by card_id")
    assert [tuple(row) for row in heads] == [
        (card_id, version, CardStatus.ACTIVE, available, held, 0, 0, 0, 0, posted_at)
        for card_id, version, available, held, posted_at in map(tuple, last)
    ]
    assert len(heads) == 3
    assert await old.connection.rows("select * from card_life order by card_id") == lives
    # Card 3 is quiet since: what time will do to it is known from the archive alone.
    ends = int(midst(6).timestamp()) // 86_400 + 40
    opening = "select due_day, ecash_there from opening.card_life where card_id = 3"
    assert [tuple(row) for row in await old.connection.rows(opening)] == [(ends, True)]
    expired = "select count(*) from link where operation = 17"
    assert await old.connection.value(expired) > 0


async def test_a_second_archive_goes_on_from_the_first(
    old: World, url: str, app: Connection, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    await cut_through(url, place, 6, sealer, key)
    await cut_through(url, place, 4, sealer, key)
    assert [manifest.number for manifest, _ in read_manifests(place)] == [1, 2]
    for options in ({"archive": place}, {}):
        assert (await checked(url, sealer, trusted=[key.public], **options)).findings == []
    assert await equal(url)
    assert await equal(url, archived=archived(place))
    old.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    await old.do((3, old.request(Operation.REDEEM, 7)), (1, old.request(Operation.LOAD, 7)))
    await project(app, sealer)
    for options in ({"archive": place}, {}):
        assert (await checked(url, sealer, trusted=[key.public], **options)).findings == []
    assert await equal(url)


async def test_the_archive_is_read_with_ordinary_tools(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    wanted = await old.connection.rows(
        "select tx, card_id, version, amount_minor from link where month = $1"
        " order by xid, batch_id, n, card_id",
        month(5),
    )
    await cut_through(url, place, 5, sealer, key)
    with gzip.open(place / f"links-{month(5):%Y-%m}.jsonl.gz") as lines:
        found = [msgspec.json.decode(line)[0] for line in lines]
    assert [(row[9], row[3], row[4], row[11]) for row in found] == [tuple(r) for r in wanted]
    with gzip.open(place / f"refusals-{month(5):%Y-%m}.jsonl.gz") as lines:
        assert len(lines.readlines()) == 1


async def refused(url: str, place: Path, back: int, sealer: Sealer, key: SigningKey) -> str:
    with pytest.raises(CannotArchive) as fault:
        await cut_through(url, place, back, sealer, key)
    return str(fault.value)


async def test_what_is_still_needed_stays(
    past: World, url: str, app: Connection, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    world = past
    assert "no link up to" in await refused(url, place, 5, sealer, key)
    world.now = midst(6)
    hold = world.request(Operation.HOLD, 5)
    await world.do(*[(card, world.request(Operation.LOAD, 100)) for card in (1, 2, 3)], (1, hold))
    assert "within the horizon" in await refused(url, place, 1, sealer, key)
    assert "card 1, link 1 is not projected yet" in await refused(url, place, 6, sealer, key)
    await project(app, sealer)
    assert "card 1, link 2 is a hold that is still open" in await refused(
        url, place, 6, sealer, key
    )

    world.now = midst(5)
    await world.do((1, world.reversal(hold)), (2, world.request(Operation.ADVICE, 10**6)))
    await project(app, sealer)
    assert "card 2, link 2 is an open item" in await refused(url, place, 5, sealer, key)
    await world.connection.script("update open_item set cleared_at = now()")

    world.now = midst(6)  # a clock that went back
    await world.do((1, world.request(Operation.LOAD, 1)))
    await project(app, sealer)
    assert "card 1, link 4 stands behind" in await refused(url, place, 6, sealer, key)
    assert await world.connection.value("select count(*) from archive_cut") == 0
    await cut_through(url, place, 5, sealer, key)
    assert (await checked(url, sealer, archive=place)).findings == []
    assert await equal(url)
    assert await equal(url, archived=archived(place))


async def test_a_journal_that_was_changed_is_not_archived(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    await old.connection.script("update link set terminal_id = 2 where card_id = 1 and version = 3")
    assert "run verify" in await refused(url, place, 5, sealer, key)
    attached = await old.connection.value(
        "select count(*) from pg_inherits where inhparent = 'link'::regclass"
    )
    assert attached >= 7


DAMAGE = ("missing", "changed", "cut", "swapped", "manifest")


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_file_that_is_not_what_it_was_is_named(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey, damage: str
) -> None:
    await cut_through(url, place, 5, sealer, key)
    first, second = (place / f"links-{month(back):%Y-%m}.jsonl.gz" for back in (6, 5))
    name = first.name
    match damage:
        case "missing":
            first.unlink()
        case "changed":
            lines = gzip.decompress(first.read_bytes()).splitlines(keepends=True)
            first.write_bytes(gzip.compress(b"".join([*lines[:-2], lines[-1], lines[-2]])))
        case "cut":
            first.write_bytes(first.read_bytes()[:-30])
        case "swapped":
            content = first.read_bytes()
            first.write_bytes(second.read_bytes())
            second.write_bytes(content)
        case _:
            name = "manifest-0001.json"
            path = place / name
            path.write_bytes(path.read_bytes().replace(b'"number": 1', b'"number": 1 '))
    report = await checked(url, sealer, archive=place, trusted=[key.public])
    assert [found.check for found in report.findings] == [archive_checks.CHECK] * len(
        report.findings
    )
    assert name in " ".join(found.what for found in report.findings)
    if damage != "manifest":
        with pytest.raises(ArchiveBroken, match=name):
            await cut_through(url, place, 5, sealer, key, drop_tables=True)


OPENINGS = (
    "update opening.chain set version = version + 1 where card_id = 3",
    "update opening.chain set state = state || '\\x00' where card_id = 1",
    "delete from opening.chain where card_id = 3",
    "update opening.card_head set ecash_available = ecash_available + 1 where card_id = 3",
    "update opening.merchant_balance set credits_minor = credits_minor + 1",
    "update journal_digest set digest = sha256('x') where block = 1",
    "update journal_digest set made_at = made_at + interval '1 second' where block = 1",
    "update archive_cut set through = (through + interval '1 month')::date",
    "update archive_cut set manifest = manifest || ' '",
    "delete from archive_cut",
)


@pytest.mark.parametrize("change", OPENINGS)
async def test_openings_and_manifests_that_were_changed_are_noticed(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey, change: str
) -> None:
    await cut_through(url, place, 5, sealer, key)
    await old.connection.script(change)
    for options in ({"archive": place}, {}):
        report = await checked(url, sealer, trusted=[key.public], **options)
        if not ("manifest ||" in change and not options):  # alone, what was signed still is
            assert report.findings != [], options


async def test_openings_signed_by_somebody_else_are_noticed(
    old: World, url: str, place: Path, tmp_path: Path, sealer: Sealer, key: SigningKey
) -> None:
    other = SigningKey.open(tmp_path / "other.key")
    await cut_through(url, place, 5, sealer, other)
    report = await checked(url, sealer, trusted=[key.public])
    assert "its signature is wrong, or another's" in report.findings[0].what


async def test_an_archive_that_was_interrupted_is_finished_by_the_next_run(
    old: World,
    url: str,
    place: Path,
    sealer: Sealer,
    key: SigningKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every step: the cut is there or it is not, and what the books say is the same."""
    steps = {
        cut: ("write_manifest", "_check_blocks", "blocks_digest"),
        command: ("_take_out", "detach"),
    }

    async def killed(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("killed")

    def killed_at_once(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("killed")

    for module, names in steps.items():
        for name in names:
            with monkeypatch.context() as patch:
                patch.setattr(module, name, killed_at_once if name == "write_manifest" else killed)
                with pytest.raises(RuntimeError, match="killed"):
                    await cut_through(url, place, 5, sealer, key)
            report = await checked(url, sealer, trusted=[key.public])
            assert report.findings == [], name
            assert await equal(url), name
    said = await cut_through(url, place, 5, sealer, key)
    assert sum(line.startswith("detached") for line in said) == 4
    assert (await checked(url, sealer, archive=place, trusted=[key.public])).findings == []


async def test_work_goes_on_while_months_are_taken_away(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    """A batch that is being committed meanwhile delays the archive, not the other batches."""
    old.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    arguments, _ = old.decide([(1, old.request(Operation.LOAD, 1))])
    slow = await Connection.open(url, timeout_s=10)
    await slow.script("begin")
    assert await slow.value(APPEND, *arguments) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_through, url, place, 5, sealer, key)
        waits = (
            "select count(*) from pg_stat_activity"
            " where query like 'alter table%concurrently' and wait_event_type = 'Lock'"
        )
        with trio.fail_after(30):
            while not await old.connection.value(waits):
                await trio.sleep(0.05)
        for _ in range(3):  # nobody waits behind it
            with trio.fail_after(2):
                await old.do((2, old.request(Operation.REDEEM, 1)))
        await slow.script("commit")
    await slow.close()
    assert (await checked(url, sealer, archive=place, trusted=[key.public])).findings == []


async def test_repeats_inside_the_horizon_find_their_links(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    """As the pipeline asks for them, before and after: the same links, bodies and all."""
    session = JournalSession(url, 1)
    rows = await old.connection.rows("select request_key from link where month = $1", month(0))
    query = HistoryQuery(keys={row["request_key"] for row in rows}, card_ids={1, 2, 4})
    before = await session.read_history(query, month(2))
    await cut_through(url, place, 4, sealer, key, drop_tables=True)
    assert await session.read_history(query, month(2)) == before
    assert {link.key for link in before} >= query.keys
    await session.close()


async def test_what_a_quiet_card_remembers_is_found_in_the_openings(
    old: World, url: str, place: Path, sealer: Sealer, key: SigningKey
) -> None:
    """Its window names links that no month has any more; the pipeline asks, and is told so."""
    session = JournalSession(url, 1)
    (link,) = await old.connection.rows(
        "select request_key, version from link where card_id = 3 order by version desc limit 1"
    )
    assert await session.read_archived([1, 2, 3, 4]) == []
    await cut_through(url, place, 4, sealer, key, drop_tables=True)
    query = HistoryQuery(keys={link["request_key"]}, card_ids={3})
    assert await session.read_history(query, datetime.date.min) == []
    archived_versions = dict(await session.read_archived([3, 99]))
    assert archived_versions == {3: link["version"]}
    row = (await session.read_cards([3]))[3]
    card = WorkingCard(3, row.facts, row.state, row.window)
    assert card.lacks_link([link["request_key"]])
    card.archived_version = archived_versions[3]
    assert card.is_archived(link["request_key"])
    assert not card.is_archived(bytes(16))
    await session.close()


async def test_the_verb_says_it_in_words_and_in_exit_codes(
    old: World, url: str, tmp_path: Path
) -> None:
    (tmp_path / "master.key").write_text(bytes(range(32)).hex())
    (tmp_path / "master.key").chmod(0o600)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "switch", *words, "--data", str(tmp_path)]
        return subprocess.run(
            [*command, "--postgres", url],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("archive", "--month", "yesterday").returncode == 2
    early = run("archive", "--month", f"{month(0):%Y-%m}")
    assert early.returncode == 1
    assert "within the horizon" in early.stderr
    first = run("archive", "--month", f"{month(5):%Y-%m}")
    assert (first.returncode, first.stdout.count("detached")) == (0, 4), first.stderr
    assert f"archived through {month(5):%Y-%m}" in first.stdout
    again = run("archive", "--month", f"{month(5):%Y-%m}", "--drop")
    assert (again.returncode, again.stdout.count("dropped")) == (0, 4), again.stderr
    whole = run("verify", "--full")
    assert whole.returncode == 0, whole.stdout
    assert "holds   what was archived is what was signed" in whole.stdout
    assert run("rebuild").returncode == 0
    (tmp_path / "archive" / f"links-{month(6):%Y-%m}.jsonl.gz").unlink()
    broken = run("verify")
    assert broken.returncode == 1
    assert f"links-{month(6):%Y-%m}.jsonl.gz: is missing" in broken.stdout
    assert run("rebuild").returncode == 2
    assert run("verify", "--archive", str(tmp_path / "nowhere")).returncode == 2
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    alone = run("verify", "--full")
    assert alone.returncode == 0, alone.stdout
    assert "archived links (their signed openings stand)" in alone.stdout
    assert run("rebuild").returncode == 0
