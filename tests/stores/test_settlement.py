"""Closing a batch on a real Postgres: among live traffic, another close, failures."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import trio
from store_batches import NOW, batch, new_cards, request
from store_sessions import WAIT_S, Sessions, backend, until_in_doubt

from rules.identity import content_fingerprint, request_key
from rules.ledger import Answer
from rules.requests import CardRequest, Operation, Terminal
from rules.responses import Response, Rule
from rules.settlement import NO_TOTALS, CutOver, LastTransaction, Reconciled, Reconciliation, Totals
from switch import settlement
from switch.journal.bridge import Connection
from switch.journal.journal import JournalSession, Outcome
from switch.journal.rows import CardRow
from switch.settlement import _APPEND, Desk, DeskTicket

_numbers = itertools.count(1)
_DAY = datetime.timedelta(days=1)


class Agreeing(Totals, frozen=True, array_like=True, gc=False):
    """What a terminal would say that had counted to this very instant."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Totals.__hash__


class Around:
    """The pipeline as a desk sees it, and the lane's end of the answers."""

    def __init__(self) -> None:
        self.journal_up = True
        self.observer = self
        self.stale = 0
        self.faults: list[BaseException] = []
        self.onward: list[Any] = []
        self.answers: dict[object, Answer] = {}

    def batch_stale(self) -> None:
        self.stale += 1

    def fault(self, where: str, error: BaseException) -> None:
        self.faults.append(error)

    def submit(self, tickets: list[Any]) -> None:
        self.onward += tickets

    def deliver(self, answers: list[tuple[object, Answer]]) -> None:
        for context, answer in answers:
            assert context not in self.answers, "answered twice"
            self.answers[context] = answer


class Place:
    """A desk with what is around it."""

    def __init__(self, session: JournalSession, *, queue_max: int = 100) -> None:
        self.around = Around()
        self.session = session
        self.desk = Desk(
            self.around,  # type: ignore[arg-type]
            session,
            self.around.deliver,
            lambda: datetime.datetime.now(datetime.UTC),
            queue_max=queue_max,
        )

    async def ask(self, asked: Any, *, within_s: float = 4) -> Answer:
        """Through the desk, as the intake does it."""
        context = object()
        now = trio.current_time()
        self.desk.submit(DeskTicket(asked, now, now + within_s, context))
        with trio.fail_after(WAIT_S):
            while context not in self.around.answers:
                await trio.sleep(0.002)
        return self.around.answers[context]


Desks = Callable[..., Place]


@pytest.fixture
async def place(session: Sessions) -> AsyncIterator[Desks]:
    """Makes desks that run, each with a session of its own."""
    async with trio.open_nursery() as nursery:

        def make(**options: Any) -> Place:
            one = Place(session(), **options)
            nursery.start_soon(one.desk.run)
            return one

        yield make
        nursery.cancel_scope.cancel()


@pytest.fixture
async def terminal(owner: Connection) -> Terminal:
    """A terminal that nobody has used, of the programme's first merchant."""
    number = next(_numbers)
    await owner.rows(
        "insert into acquirer_link values ('test', '1', '{}', 'iso87-ascii', 'binary2', false)"
        " on conflict do nothing"
    )
    await owner.rows(
        "insert into terminal (terminal_id, code, merchant_id, link, mac_algorithm, pin_format)"
        " values ($1, $2, 1, 'test', 'aes-cmac', 0)",
        number + 500,
        f"{number + 500:08d}",
    )
    return Terminal(number + 500, 1, network=False)


def closing(terminal: Terminal, totals: Totals = NO_TOTALS, **changes: Any) -> Reconciliation:
    number = next(_numbers)
    given: dict[str, Any] = {
        "key": request_key(int(NOW.timestamp()), f"close {number}"),
        "fingerprint": content_fingerprint(f"{number}"),
        "transaction_id": f"{number:012d}",
        "rrn": "",
        "terminal": terminal,
        "currency": "978",
        "totals": totals,
    }
    return Reconciliation(**(given | changes))


def load(terminal: Terminal, amount_minor: int = 100, number: str = "") -> CardRequest:
    return request(Operation.LOAD, amount_minor, terminal=terminal, batch_number=number)


async def post(owner: Connection, journal: JournalSession, *requests: CardRequest) -> int:
    """Each on a card of its own, in one batch; the first card's id."""
    rows = await new_cards(owner, len(requests))
    work = {card_id: [one] for card_id, one in zip(rows, requests, strict=True)}
    assert await journal.append(batch(rows, work)) is Outcome.COMMITTED
    return min(rows)


LOADED = Totals(credits_number=1, credits_minor=100)


async def batches(owner: Connection, terminal: Terminal) -> list[tuple[Any, ...]]:
    found = await owner.rows(
        "select place, batch_number, credits_number, credits_minor, debits_number"
        " from terminal_batch where terminal_id = $1 order by place",
        terminal.terminal_id,
    )
    return [tuple(row) for row in found]


# -- a close among live traffic -------------------------------------------------------------------


async def _write(
    rows: dict[int, CardRow],
    journal: JournalSession,
    terminal: Terminal,
    stop: trio.Event,
    seed: int,
) -> None:
    """Batches of loads and redemptions until it is told to stop, some with numbers."""
    for turn in itertools.count(seed):
        if stop.is_set():
            return
        number = ("", "", "1", "2", "3", "4", "never")[turn % 7]
        work = {card_id: [load(terminal, 100 + turn % 50, number)] for card_id in rows}
        if turn % 3 == 0:
            for card_id in list(rows)[:4]:
                one = request(Operation.REDEEM, 7, terminal=terminal, batch_number=number)
                work[card_id].append(one)
        assert await journal.append(batch(rows, work)) is Outcome.COMMITTED
        rows = await journal.read_cards(list(rows))


async def test_a_close_among_four_writers_loses_nothing_and_takes_nothing_twice(
    owner: Connection, session: Sessions, place: Desks, terminal: Terminal
) -> None:
    stop = trio.Event()
    desks = [place(), place()]
    agreeing = Agreeing()
    cards = [await new_cards(owner, 8) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for seed in range(4):
            nursery.start_soon(_write, cards[seed], session(), terminal, stop, seed)
        for number in ("", "1", "2", "", "3", ""):
            await trio.sleep(0.1)
            asked = [closing(terminal, agreeing, batch_number=number) for _ in desks]
            answers: list[Answer] = []

            async def close(at: int, asked: Any = asked, answers: Any = answers) -> None:
                answers.append(await desks[at].ask(asked[at]))

            async with trio.open_nursery() as both:
                both.start_soon(close, 0)
                both.start_soon(close, 1)
            codes = Counter(answer.response for answer in answers)
            # With a number one of them closes it; without, each closes what is open by then.
            expected = {Response.APPROVED: 1, Response.REFUSED: 1} if number else {}
            assert codes == (expected or {Response.APPROVED: 2})
        stop.set()
    for number in ("4", "never", ""):
        last = await desks[0].ask(closing(terminal, agreeing, batch_number=number))
        assert last.response is Response.APPROVED
    assert not any(desk.around.faults for desk in desks)
    # By the view, each link is in exactly one batch; stored totals are the sums over it.
    links = await owner.rows(
        "select place, counts, count(*) as number, sum(counted_minor)::bigint as minor"
        " from counted_link where terminal_id = $1 group by place, counts",
        terminal.terminal_id,
    )
    assert all(row["place"] is not None for row in links)
    viewed = {(r["place"], r["counts"]): (r["number"], r["minor"]) for r in links}
    stored = await owner.rows(
        "select * from terminal_batch where terminal_id = $1 order by place", terminal.terminal_id
    )
    assert [row["place"] for row in stored] == list(range(1, len(stored) + 1))
    filled = 0
    for row in stored:
        for counts, name in ((3, "credit"), (1, "debit")):
            told = (row[f"{name}s_number"], row[f"{name}s_minor"])
            assert told == viewed.get((row["place"], counts), (0, 0)), row["place"]
            filled += told[0] > 0
    assert filled > 8
    whole = await owner.rows(
        "select count(*) as number, sum(counted_minor)::bigint as minor from link"
        " where terminal_id = $1 and counts > 0",
        terminal.terminal_id,
    )
    assert whole[0]["number"] == sum(r["credits_number"] + r["debits_number"] for r in stored)
    assert whole[0]["minor"] == sum(r["credits_minor"] + r["debits_minor"] for r in stored)


async def test_an_open_transaction_falls_into_the_next_batch_whole(
    owner: Connection, session: Sessions, other: Connection, place: Desks, terminal: Terminal
) -> None:
    """It began before the close and commits after it, with a lower number than what was closed."""
    desk, journal = place(), session()
    rows = await new_cards(owner, 2)
    (slow, fast) = rows
    await other.script("begin")
    await other.rows(
        "select append_batch(" + ", ".join(f"${n}" for n in range(1, 44)) + ")",
        *batch({slow: rows[slow]}, {slow: [load(terminal, 30)]}),
    )
    first = batch({fast: rows[fast]}, {fast: [load(terminal, 100)]})
    assert await journal.append(first) is Outcome.COMMITTED
    assert (await desk.ask(closing(terminal, LOADED))).response is Response.APPROVED
    await other.script("commit")
    late = Totals(credits_number=1, credits_minor=30)
    assert (await desk.ask(closing(terminal, late))).response is Response.APPROVED
    assert await batches(owner, terminal) == [(1, "", 1, 100, 0), (2, "", 1, 30, 0)]


# -- two closes, lost answers -----------------------------------------------------------------


async def test_the_same_request_at_two_workers_closes_once(
    owner: Connection, session: Sessions, place: Desks, terminal: Terminal
) -> None:
    await post(owner, session(), load(terminal))
    asked = closing(terminal, LOADED)
    answers: list[Answer] = []

    async def close(desk: Place) -> None:
        answers.append(await desk.ask(asked))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(close, place())
    assert [answer.response for answer in answers] == [Response.APPROVED] * 4
    assert len(await batches(owner, terminal)) == 1


@pytest.mark.parametrize("totals", [LOADED, NO_TOTALS])
async def test_a_close_whose_connection_dies_is_answered_as_it_ended(
    owner: Connection,
    session: Sessions,
    other: Connection,
    place: Desks,
    terminal: Terminal,
    totals: Totals,
) -> None:
    """The backend is killed in the commit: the same rows are sent again, and meet themselves."""
    await post(owner, session(), load(terminal))
    desk = place()
    pid = await backend(desk.session)
    await other.script("begin")
    await other.script("lock table reconciliation in exclusive mode")
    answers: list[Answer] = []

    async def close() -> None:
        answers.append(await desk.ask(closing(terminal, totals), within_s=9))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with trio.fail_after(WAIT_S):
            while not await owner.rows(
                "select 1 from pg_stat_activity where pid = $1 and wait_event_type = 'Lock'", pid
            ):
                await trio.sleep(0.005)
        await owner.value("select pg_terminate_backend($1)", pid)
        await until_in_doubt(desk.session)
        await other.script("rollback")
    expected = Response.APPROVED if totals == LOADED else Response.TOTALS_DIFFER
    assert [answer.response for answer in answers] == [expected]
    assert len(await batches(owner, terminal)) == (totals == LOADED)


async def test_a_batch_that_was_closed_meanwhile_is_decided_again(
    owner: Connection, session: Sessions, place: Desks, terminal: Terminal
) -> None:
    """What was read before another close is never written: its place is taken."""
    await post(owner, session(), load(terminal))
    desk, now = place(), datetime.datetime.now(datetime.UTC)
    journal = session()
    stale = closing(terminal, LOADED)
    taken: list[tuple[Any, ...]] = []

    class Waiting(JournalSession):
        async def store(self, statement: str, arguments: tuple[Any, ...]) -> Outcome:
            taken.append(arguments)
            return Outcome.STALE

    desk.desk._session = Waiting(journal._url, 5)
    _, outcome = await desk.desk._compare(stale, now)
    await desk.desk._session.close()
    assert outcome is Outcome.STALE
    assert (await place().ask(closing(terminal, LOADED))).response is Response.APPROVED
    assert await journal.store(_APPEND, taken[0]) is Outcome.STALE
    assert len(await batches(owner, terminal)) == 1
    assert await owner.rows("select 1 from reconciliation where request_key = $1", stale.key) == []


async def test_a_repeat_that_runs_beside_its_original_hears_the_same(
    place: Desks, terminal: Terminal
) -> None:
    """It has looked for an answer in vain, and then meets the number that its original closed."""
    beside, asked = place(), closing(terminal, batch_number="000777")
    answers: list[Answer] = []
    rows = beside.session.rows

    async def slowly(query: str, *args: Any) -> list[Any]:
        found = await rows(query, *args)
        if query == settlement._STORED and not answers:
            assert found == []
            answers.append(Answer(Response.FAULT, "", ""))
            answers[0] = await place().ask(asked)
        return found

    beside.session.rows = slowly  # type: ignore[method-assign]
    again = msgspec.structs.replace(asked, transaction_id="3" * 12)
    heard = await beside.ask(again)
    assert (heard.response, heard) == (Response.APPROVED, answers[0])
    other = msgspec.structs.replace(asked, key=request_key(0, "other"), transaction_id="4" * 12)
    assert (await beside.ask(other)).rule is Rule.CLOSED


async def test_other_content_under_a_stored_key_is_refused(
    place: Desks, terminal: Terminal
) -> None:
    desk, asked = place(), closing(terminal)
    first = await desk.ask(asked)
    assert isinstance(first, Reconciled)
    assert first.response is Response.APPROVED
    other = msgspec.structs.replace(asked, fingerprint=b"other", transaction_id="2" * 12)
    assert (await desk.ask(other)).response is Response.DUPLICATE_DIFFERS
    again = msgspec.structs.replace(asked, transaction_id="3" * 12)
    assert await desk.ask(again) == first


# -- what the desk does without its store --------------------------------------------------------


async def test_without_postgres_it_is_91_at_once(place: Desks, terminal: Terminal) -> None:
    desk = place()
    desk.around.journal_up = False
    answer = await desk.ask(closing(terminal))
    assert (answer.response, answer.rule) == (Response.CANNOT_DECIDE, Rule.STORE)
    desk.around.journal_up = True
    desk.desk._session = JournalSession("postgresql://a:b@127.0.0.1:1/c", 5)
    answer = await desk.ask(closing(terminal))
    assert (answer.response, answer.rule) == (Response.CANNOT_DECIDE, Rule.STORE)


async def test_a_full_queue_and_a_late_request_are_91(
    session: Sessions, terminal: Terminal
) -> None:
    stopped = Place(session(), queue_max=1)
    now = trio.current_time()
    for context in ("first", "second"):
        stopped.desk.submit(DeskTicket(closing(terminal), now, now - 1, context))
    assert stopped.around.answers["second"].rule is Rule.BUSY
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopped.desk._watch)
        with trio.fail_after(WAIT_S):
            while "first" not in stopped.around.answers:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert stopped.around.answers["first"].rule is Rule.DEADLINE


async def test_a_fault_is_answered_and_the_next_one_served(
    place: Desks, terminal: Terminal
) -> None:
    desk = place()
    poison = closing(terminal, Totals(credits_number=1 << 80))
    assert (await desk.ask(poison)).response is Response.FAULT
    assert len(desk.around.faults) == 1
    assert (await desk.ask(closing(terminal))).response is Response.APPROVED


# -- cut-over, last transaction ----------------------------------------------------------------


async def test_two_cut_overs_at_once_are_one(
    owner: Connection, place: Desks, terminal: Terminal
) -> None:
    await owner.rows(
        "insert into acquirer_link values ('race', '9', '{}', 'iso87-ascii', 'binary2', false)"
    )
    day = datetime.datetime.now(datetime.UTC).date() + _DAY
    answers: list[Answer] = []

    async def cut(desk: Place, number: int, wanted: datetime.date) -> None:
        asked = CutOver(
            key=bytes([number]) * 16,
            transaction_id=f"{number:012d}",
            rrn="",
            terminal_id=terminal.terminal_id,
            link="race",
            business_date=wanted,
        )
        answers.append(await desk.ask(asked))

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(cut, place(), number, day + _DAY * (number % 2))
    rows = await owner.rows("select * from cut_over where link = 'race' order by place")
    assert [row["business_date"] for row in rows] in ([day, day + _DAY], [day + _DAY])
    assert {answer.response for answer in answers} <= {
        Response.APPROVED,
        Response.INVALID_TRANSACTION,
    }
    assert rows[0]["ended_date"] == rows[0]["business_date"] - _DAY


async def test_the_last_transaction_is_the_last_committed(
    owner: Connection, session: Sessions, place: Desks, terminal: Terminal
) -> None:
    desk, journal = place(), session()
    asked = LastTransaction(
        key=b"k" * 16, transaction_id="1" * 12, rrn="", terminal=terminal, card_id=None
    )
    assert (await desk.ask(asked)).response is Response.NO_SUCH_ORIGINAL
    first = await post(owner, journal, load(terminal))
    last = load(terminal, 7)
    second = await post(owner, journal, last)
    for card_id, expected in ((None, second), (first, first), (second, second)):
        one = msgspec.structs.replace(asked, card_id=card_id)
        now = trio.current_time()
        desk.desk.submit(DeskTicket(one, now, now + 4, "context"))
        with trio.fail_after(WAIT_S):
            while not desk.around.onward:
                await trio.sleep(0.002)
        ticket = desk.around.onward.pop()
        assert (ticket.card_id, ticket.context) == (expected, "context")
    assert ticket.request.original_key == last.key
    assert ticket.request.rrn == last.transaction_id
