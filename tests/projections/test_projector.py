"""The projector reads in the order of commits, and each link once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio
from journal_world import APPEND, DAY_S, World, project

from rules.cards import CardState
from rules.money import Purse
from rules.policy import PROMOTIONAL
from rules.requests import Operation
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.projections import projector, reading
from switch.projections.effects import ProjectionFault
from switch.projections.projector import JournalBehind, run_projector, step
from switch.projections.sealing import Sealer

BALANCES = """
select coalesce(sum(credits_minor - debits_minor), 0)::bigint from merchant_balance
where account_kind = 2
"""


async def busy(world: World, cards: list[int], batches: int, seed: int = 1) -> None:
    """Loads, sales, returns, holds, completions and reversals, some of them refused."""
    luck = random.Random(seed)
    done: list[tuple[int, Any]] = []
    held: list[tuple[int, Any]] = []
    await world.do(*[(card, world.request(Operation.LOAD, 20_000)) for card in cards])
    for _ in range(batches):
        work = []
        for chosen in luck.sample(cards, luck.randint(1, len(cards))):
            card = chosen
            match luck.randint(0, 7):
                case 0:
                    request = world.request(Operation.LOAD, luck.randint(1, 5_000))
                case 1:
                    request = world.request(Operation.HOLD, luck.randint(1, 3_000))
                    held.append((card, request))
                case 2 if held:
                    card, hold = held.pop(luck.randrange(len(held)))
                    request = world.request(
                        Operation.ADVICE,
                        luck.randint(1, 4_000),
                        original_transaction_id=hold.transaction_id,
                    )
                case 3 if held:
                    card, hold = held.pop(luck.randrange(len(held)))
                    request = world.reversal(hold, final_amount_minor=luck.choice([None, 1]))
                case 4 if done:
                    card, sale = done.pop(luck.randrange(len(done)))
                    request = world.reversal(sale)
                case 5:
                    request = world.request(Operation.REDEEM, 10**9)
                case _:
                    request = world.request(Operation.REDEEM, luck.randint(1, 2_000))
                    done.append((card, request))
            work.append((card, request))
        await world.do(*work)


async def test_a_late_commit_is_waited_for_and_comes_in_its_order(
    url: str, world: World, app: Connection
) -> None:
    early, late = await world.add_cards(2)
    slow = await Connection.open(url, timeout_s=10)
    first, _ = world.decide([(early, world.request(Operation.LOAD, 100))])
    second, _ = world.decide([(late, world.request(Operation.LOAD, 200))])
    await slow.script("begin")
    assert await slow.value(APPEND, *first) == 0  # has its transaction number, is not committed
    assert await world.connection.value(APPEND, *second) == 0  # a higher number, committed

    assert await project(app) == 0
    assert await app.value(BALANCES) == 0

    await slow.script("commit")
    assert await project(app) == 2
    assert await app.value(BALANCES) == -300
    read = await app.unit(lambda raw: reading.read_entries(raw, reading.START, 10))
    assert [entry.link["card_id"] for entry in read] == [early, late]
    await slow.close()


async def test_a_batch_that_is_rolled_back_holds_nothing_up(
    url: str, world: World, app: Connection
) -> None:
    early, late = await world.add_cards(2)
    slow = await Connection.open(url, timeout_s=10)
    first, _ = world.decide([(early, world.request(Operation.LOAD, 100))])
    await slow.script("begin")
    assert await slow.value(APPEND, *first) == 0
    await world.do((late, world.request(Operation.LOAD, 200)))
    assert await project(app) == 0
    await slow.script("rollback")
    assert await project(app) == 1
    assert await app.value(BALANCES) == -200
    await slow.close()


async def test_lower_batch_ids_that_come_later_are_not_missed(
    world: World, app: Connection
) -> None:
    cards = await world.add_cards(6)
    batches = [world.decide([(card, world.request(Operation.LOAD, 1))])[0] for card in cards]
    for arguments in reversed(batches):
        assert await world.connection.value(APPEND, *arguments) == 0
        assert await project(app) == 1
    assert await app.value(BALANCES) == -6


@pytest.mark.parametrize("limit", [1, 3, 7, 2_000])
async def test_any_length_of_step_gives_the_same(
    world: World, app: Connection, sealer: Sealer, limit: int
) -> None:
    cards = await world.add_cards(5)
    await busy(world, cards, 30)
    links = await world.connection.value("select count(*) from link")
    assert await project(app, sealer, limit=limit) == links
    await agrees(world, app)


async def test_a_step_that_dies_before_its_commit_leaves_nothing(
    world: World, app: Connection, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = await world.add_cards(5)
    await busy(world, cards, 10)
    assert await app.unit(lambda raw: step(raw, sealer, limit=9)) == 9
    before = await app.rows("select * from projection_position")

    async def die(raw: Any, blocks: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(projector, "write_blocks", die)
        with pytest.raises(RuntimeError, match="killed"):
            await app.unit(lambda raw: step(raw, sealer, limit=9))
    assert await app.rows("select * from projection_position") == before
    assert await project(app, sealer, limit=9) > 0
    await agrees(world, app)


async def test_two_at_once_and_one_that_loses_its_connection_count_each_link_once(
    world: World, app_url: str, app: Connection, sealer: Sealer
) -> None:
    cards = await world.add_cards(8)
    await busy(world, cards, 40)
    links = await world.connection.value("select count(*) from link")
    luck = random.Random(3)

    async def follow(dies: bool) -> None:
        while await app.value("select links from projection_position") < links:
            connection = await Connection.open(app_url, timeout_s=10)
            try:
                with trio.move_on_after(luck.random() / 50 if dies else 10):
                    await connection.unit(lambda raw: step(raw, sealer, limit=5))
            except (*STORE_ERRORS, projector.Overtaken):
                pass
            finally:
                connection.discard()

    lock = trio.Lock()  # `app` is asked by both
    value = app.value

    async def one_at_a_time(query: str, *args: Any) -> Any:
        async with lock:
            return await value(query, *args)

    app.value = one_at_a_time  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, False)
        nursery.start_soon(follow, True)
    await agrees(world, app)


async def test_it_follows_by_itself_and_only_one_works(
    world: World, app_url: str, app: Connection, sealer: Sealer
) -> None:
    cards = await world.add_cards(3)
    steps: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(_run, app_url, sealer, steps, name)
        await busy(world, cards, 10)
        links = await world.connection.value("select count(*) from link")
        with trio.fail_after(10):
            while await app.value("select links from projection_position") < links:
                await trio.sleep(0.02)
        assert await app.value("select links from projection_lag()") == 0
        nursery.cancel_scope.cancel()
    assert len(steps) == 1
    await agrees(world, app)


async def _run(url: str, sealer: Sealer, steps: Counter[str], name: str) -> None:
    await run_projector(url, sealer, after_step=lambda links: steps.update({name: 1}))


async def test_the_lag_is_what_has_not_been_projected(world: World, app: Connection) -> None:
    (card,) = await world.add_cards(1)
    assert tuple((await app.rows("select * from projection_lag()"))[0]) == (0, 0)
    for _ in range(3):
        await world.do((card, world.request(Operation.LOAD, 1)))
    links, seconds = (await app.rows("select * from projection_lag()"))[0]
    assert links == 3
    assert 0 <= seconds < 60
    await app.unit(lambda raw: step(raw, None, limit=2))
    assert await app.value("select links from projection_lag()") == 1


async def test_a_server_whose_numbers_went_back_is_not_followed(
    world: World, app: Connection
) -> None:
    """A journal restored from a dump into a new server: its transactions count from the start."""
    (card,) = await world.add_cards(1)
    await world.do((card, world.request(Operation.LOAD, 1)))
    await project(app)
    await world.connection.script("update projection_position set xid = '4000000000'")
    with pytest.raises(JournalBehind, match="4000000000"):
        await app.unit(lambda raw: step(raw, None))


async def test_a_link_that_cannot_be_read_is_named_and_stops_the_rest(
    world: World, app: Connection
) -> None:
    (card,) = await world.add_cards(1)
    for _ in range(3):
        await world.do((card, world.request(Operation.LOAD, 1)))
    await world.connection.script(r"update link set body = '\x93' where version = 2")
    with pytest.raises(ProjectionFault, match=f"card {card}, link 2"):
        await app.unit(lambda raw: step(raw, None))
    assert await app.value("select links from projection_position") == 0


async def test_a_purse_that_does_not_exist_is_named(world: World, app: Connection) -> None:
    (card,) = await world.add_cards(1)
    await world.do((card, world.request(Operation.LOAD, 1)))
    await world.connection.script("update link set purse = 61 where version = 1")
    with pytest.raises(ProjectionFault, match="no purse 61"):
        await app.unit(lambda raw: step(raw, None))
    assert await app.value("select links from projection_position") == 0


async def test_the_switchs_role_deletes_nothing_and_changes_no_digest(
    world: World, app: Connection, sealer: Sealer
) -> None:
    (card,) = await world.add_cards(1)
    await world.do((card, world.request(Operation.LOAD, 1)))
    await project(app, sealer)
    for statement in (
        "delete from journal_digest",
        "update journal_digest set digest = digest",
        "truncate open_item",
        "delete from card_life",
        "delete from merchant_balance",
    ):
        with pytest.raises(STORE_ERRORS, match="permission denied"):
            await app.script(statement)


async def agrees(world: World, app: Connection) -> None:
    """The projections are what the journal and the cards' rows say, summed up another way."""
    journal = {
        f"{row['kind']}:{row['id']}": row["total"]
        for row in await app.rows(
            "select kind, id, sum(amount)::bigint as total from ("
            " select credit_kind as kind, credit_id as id, amount_minor as amount from posting"
            " union all select debit_kind, debit_id, -amount_minor from posting) as legs"
            " where kind <> 1 group by kind, id"
        )
    }
    projected = {
        f"{row['account_kind']}:{row['merchant_id']}": row["total"]
        for row in await app.rows(
            "select account_kind, merchant_id, sum(credits_minor - debits_minor)::bigint as total"
            " from merchant_balance group by 1, 2"
        )
    }
    assert projected == journal
    states = {card_id: card.state for card_id, card in world.cards.items() if card.state.version}
    lives = {row["card_id"]: tuple(row)[2:] for row in await app.rows("select * from card_life")}
    assert lives == {card_id: _life(state) for card_id, state in states.items()}
    held = {
        (row["card_id"], row["version"]): (row["amount_minor"], row["expires_at"].timestamp())
        for row in await app.rows("select * from open_hold where ended_by is null")
    }
    assert held == {
        (card_id, hold.version): (hold.amount_minor, hold.expires_s)
        for card_id, state in states.items()
        for hold in state.holds
    }
    owed: Counter[tuple[Any, ...]] = Counter()
    for state in states.values():
        for purse in Purse:
            for lot in state.purse(purse).lots:
                owed[_kind(purse, lot), "available"] += lot.available_minor
        for hold in state.holds:
            for move in hold.pinned:
                owed[_kind(hold.purse, move), "held"] -= move.amount_minor
    found: Counter[tuple[Any, ...]] = Counter()
    for row in await app.rows("select * from liability"):
        kind = (row["purse"], row["origin"], row["cashable"], row["expires_day"])
        found[kind, "available"] += row["available_minor"]
        found[kind, "held"] += row["held_minor"]
    assert +found == +owed
    assert -found == Counter()


def _life(state: CardState) -> tuple[Any, ...]:
    """The row of `card_life` but for the card and its programme."""
    given_minor = sum(lot.available_minor for lot in state.ecash.lots if lot.origin in PROMOTIONAL)
    available_minor = state.ecash.available_minor
    return (
        *(int(state.status), state.first_end(), state.last_active_day, state.fee_month),
        *(available_minor > 0, available_minor > given_minor),
    )


def _kind(purse: Purse, lot: Any) -> tuple[Any, ...]:
    return (int(purse), int(lot.origin), lot.cashable, lot.expires_day)


async def test_liability_tells_purses_and_kinds_of_lots_apart(
    world: World, app: Connection
) -> None:
    (card,) = await world.add_cards(1)
    await world.do(
        (card, world.request(Operation.LOAD, 500)),
        (card, world.request(Operation.LOAD, 300, purse=Purse.VOUCHER)),
        (card, world.request(Operation.LOAD, 70, purse=Purse.POINTS)),
        (card, world.request(Operation.HOLD, 120)),
    )
    await project(app)
    rows = await app.rows(
        "select purse, currency, origin, cashable, available_minor, held_minor"
        " from liability order by purse"
    )
    assert [tuple(row) for row in rows] == [
        (60, "978", 1, True, 380, 120),
        (80, "978", 1, False, 300, 0),
        (90, "999", 1, False, 70, 0),
    ]
    await agrees(world, app)


async def test_a_life_is_written_where_it_changes_and_only_there(
    world: World, app: Connection
) -> None:
    lives = "select status, ecash_there, xmin from card_life order by card_id"
    spent, other = await world.add_cards(2)
    await world.do(
        (spent, world.request(Operation.LOAD, 5)), (other, world.request(Operation.LOAD, 5))
    )
    await project(app)
    before = await app.rows(lives)
    await world.do((spent, world.request(Operation.REDEEM, 3)))
    await project(app)
    assert await app.rows(lives) == before
    await world.do(
        (spent, world.request(Operation.REDEEM, 2)), (other, world.request(Operation.REDEEM, 1))
    )
    await project(app)
    emptied, untouched = await app.rows(lives)
    assert (emptied["ecash_there"], untouched) == (False, before[1])
    assert emptied["xmin"] != before[0]["xmin"]
    await agrees(world, app)


async def test_an_expired_hold_is_found_and_then_is_not(world: World, app: Connection) -> None:
    (card,) = await world.add_cards(1)
    hold = world.request(Operation.HOLD, 100)
    await world.do((card, world.request(Operation.LOAD, 500)), (card, hold))
    await project(app)
    overdue = "select version from open_hold where ended_by is null and expires_at < $1"
    in_time = world.now.replace(microsecond=0)
    assert await app.value(overdue, in_time) is None
    late = in_time + (DAY_S * 8) * (world.now.resolution * 1_000_000)
    assert await app.value(overdue, late) == 2
    await world.do((card, world.reversal(hold)))
    await project(app)
    assert await app.value(overdue, late) is None
    assert await app.value("select ended_by from open_hold") == 3


async def test_a_statement_shows_links_with_where_the_value_went(
    world: World, app: Connection
) -> None:
    (card,) = await world.add_cards(1)
    await world.do(
        (card, world.request(Operation.LOAD, 500)), (card, world.request(Operation.REDEEM, 600))
    )
    rows = await app.rows(
        "select version, response, amount_minor, available_after, merchant, debit, credit,"
        " posted_minor from card_statement where card_id = $1 order by version",
        card,
    )
    shop = "merchant:000000000000001"
    assert [tuple(row) for row in rows] == [
        (1, 0, 500, 500, "000000000000001", shop, f"card:{card}", 500),
        (2, 51, 0, 500, "000000000000001", None, None, None),
    ]
