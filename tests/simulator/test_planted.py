"""The simulator against itself: each bug planted here must be found within the seeds of CI.

A check that finds nothing wrong means something only when it is shown to find what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

import rules.advices
import rules.authorize
import rules.dormancy
import rules.holds
import rules.limits
import rules.outcome
import rules.reversal
import rules.transfers
from rules.booking import approve
from rules.cards import CardState, WorkingCard
from rules.lots import Lot, LotMove, Origin, give_back
from rules.policy import Policy
from rules.requests import Operation
from rules.window import Window
from switch.batch import Ticket
from switch.journal import journal
from switch.journal.journal import JournalSession, Outcome
from switch.lane import Decided, Lane
from switch.pipeline import Batch, Pipeline
from switch.reservation import store

from .many import fault_of
from .memory_journal import MemoryDatabase
from .plan import draw
from .test_simulator import SEEDS

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, Plant] = {}


def bug(plant: Plant) -> Plant:
    """Register a bug under its function's name."""
    BUGS[plant.__name__] = plant
    return plant


@bug
def cut_the_window_during_a_batch(patch: pytest.MonkeyPatch) -> None:
    append = WorkingCard.append

    def cutting(card: WorkingCard, *args: Any) -> None:
        append(card, *args)
        card.window = Window(card.window.encode())
        newest = sorted(card.known)[-16:]
        card.known = {version: card.known[version] for version in newest}

    patch.setattr(WorkingCard, "append", cutting)


@bug
def trust_the_window_to_know_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "surely_knows", lambda self, key: True)


@bug
def forget_declines(patch: pytest.MonkeyPatch) -> None:
    append = WorkingCard.append

    def forgetting(card: WorkingCard, link: Any, batch_id: int) -> None:
        if link.approved or link.operation is Operation.TOMBSTONE:
            append(card, link, batch_id)

    patch.setattr(WorkingCard, "append", forgetting)


@bug
def answer_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    decide = Lane._decide

    async def hasty(lane: Lane, *args: Any) -> Decided:
        decided = await decide(lane, *args)
        lane._observer.answered(decided.answers)
        decided.answers = []
        return decided

    patch.setattr(Lane, "_decide", hasty)


@bug
def skip_the_tombstone(patch: pytest.MonkeyPatch) -> None:
    for module in (rules.reversal, rules.outcome):
        patch.setattr(module, "bar", lambda *args: None)


@bug
def let_a_request_in_after_its_advice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.advices, "bar", lambda *args: None)


@bug
def undo_a_return_whose_sale_is_undone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.reversal, "settled_minor", lambda card, back, undone_minor: 0)


@bug
def treat_an_unknown_outcome_as_failed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal, "is_outcome_unknown", lambda error: False)
    patch.setattr(journal, "is_retryable", lambda error: True)


@bug
def say_91_when_the_outcome_is_unknown(patch: pytest.MonkeyPatch) -> None:
    unknown = journal.is_outcome_unknown
    patch.setattr(journal, "is_outcome_unknown", lambda error: False)
    patch.setattr(journal, "is_server_unfit", unknown)


@bug
def treat_an_unknown_outcome_as_committed(patch: pytest.MonkeyPatch) -> None:
    append = JournalSession.append

    async def trusting(session: JournalSession, arguments: Any) -> Outcome:
        before = session.outcomes_unknown
        outcome = await append(session, arguments)
        return Outcome.COMMITTED if session.outcomes_unknown > before else outcome

    patch.setattr(JournalSession, "append", trusting)


@bug
def take_a_stale_batch_for_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryDatabase, "knows_batch", lambda self, month, batch_id: bool(self.links))


@bug
def ignore_the_batch_id_in_the_row_condition(patch: pytest.MonkeyPatch) -> None:
    def by_version(database: MemoryDatabase, card: dict[str, Any]) -> bool:
        return bool(database.rows[card["card_id"]]["version"] == card["version_from"])

    patch.setattr(MemoryDatabase, "is_as_expected", by_version)


@bug
def ignore_the_seal(patch: pytest.MonkeyPatch) -> None:
    def believe(key: object, card_ids: object, states: Iterable[bytes]) -> list[Any]:
        return [msgspec.msgpack.decode(state[8:]) for state in states]

    patch.setattr(store, "open_states", believe)


@bug
def decide_from_a_stale_row_after_a_refusal(patch: pytest.MonkeyPatch) -> None:
    read = Lane._read_rows

    async def half(lane: Lane, batch: Batch, known: Any, rows: Any) -> None:
        before = dict(rows)
        await read(lane, batch, known, rows)
        for card_id, row in rows.items():
            if card_id in before and not known:  # the new row's fence, the old row's amounts
                fields = msgspec.msgpack.decode(before[card_id].state)
                fields[:2] = msgspec.msgpack.decode(row.state)[:2]
                row.state = msgspec.msgpack.encode(fields)

    patch.setattr(Lane, "_read_rows", half)


@bug
def do_not_decide_all_requests_again(patch: pytest.MonkeyPatch) -> None:
    decide = Lane._decide
    first: dict[int, Any] = {}

    async def lazy(lane: Lane, *args: Any) -> Decided:
        decided = await decide(lane, *args)
        decided.answers = [
            (ticket, first.setdefault(id(ticket.context), answer))
            for ticket, answer in decided.answers
        ]
        return decided

    patch.setattr(Lane, "_decide", lazy)


@bug
def drop_the_pins_of_a_hold(patch: pytest.MonkeyPatch) -> None:
    def anywhere(lots: Any, sources: Any, amount_minor: int) -> Any:
        return give_back(
            lots, [source.with_amount(amount_minor) for source in sources], amount_minor
        )

    patch.setattr(rules.holds, "give_back", anywhere)


@bug
def forget_what_was_restored_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.reversal, "restorable_minor", lambda card, original: original.amount_minor)
    patch.setattr(rules.reversal, "restoring_moves", lambda card, original: [])


@bug
def repeat_the_first_answer_after_a_reversal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.authorize, "is_reversed", lambda card, original: False)


@bug
def lose_who_waits_for_a_card(patch: pytest.MonkeyPatch) -> None:
    def forgetful(pipeline: Pipeline, card_ids: Any) -> None:
        for card_id in card_ids:
            pipeline._waiting -= len(pipeline._held.pop(card_id, ()))
            pipeline._foreign.pop(card_id, None)

    patch.setattr(Pipeline, "give_back", forgetful)


@bug
def answer_a_batch_that_was_refused(patch: pytest.MonkeyPatch) -> None:
    append = JournalSession.append

    async def deaf(session: JournalSession, arguments: Any) -> Outcome:
        await append(session, arguments)
        return Outcome.COMMITTED

    patch.setattr(JournalSession, "append", deaf)


@bug
def look_for_originals_without_slack(patch: pytest.MonkeyPatch) -> None:
    read = JournalSession.read_history

    async def bounded(session: JournalSession, query: Any, oldest_month: Any) -> Any:
        if oldest_month.year == 1:  # the second look, for what the window names
            return []
        return await read(session, query, oldest_month)

    patch.setattr(JournalSession, "read_history", bounded)


@bug
def take_only_one_of_the_two_cards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ticket, "card_ids", property(lambda ticket: (ticket.card_id,)))


@bug
def forget_the_receivers_link(patch: pytest.MonkeyPatch) -> None:
    def half(request: Any, card: Any, *args: Any, **named: Any) -> Any:
        if request.operation is Operation.RECEIPT:
            return None
        return approve(request, card, *args, **named)

    patch.setattr(rules.transfers, "approve", half)


@bug
def give_back_more_than_the_receiver_has(patch: pytest.MonkeyPatch) -> None:
    """The sender gets all of it back, the receiver gives what there is."""

    def generous(request: Any, card: Any, moment: Any, **named: Any) -> Any:
        if request.operation is Operation.REVERSAL and named.get("rule") and card.state.ecash.lots:
            lot = card.state.ecash.lots[-1]
            lot.available_minor += 1
            more = LotMove(lot.lot_id, 1, lot.origin, lot.cashable, lot.expires_day, 0)
            named["moves"] = [*named.get("moves", ()), more]
            named["effect_minor"] = named.get("effect_minor", 0) + 1
        return approve(request, card, moment, **named)

    patch.setattr(rules.transfers, "approve", generous)


@bug
def receive_everything_as_paid_value(patch: pytest.MonkeyPatch) -> None:
    receive = rules.transfers._receive

    def paid(card: Any, purse: Any, sent: Any) -> Any:
        plain = [
            LotMove(
                m.lot_id, m.amount_minor, Origin.PAID, cashable=True, expires_day=0, sponsor_id=0
            )
            for m in sent
        ]
        return receive(card, purse, plain)

    patch.setattr(rules.transfers, "_receive", paid)


@bug
def undo_a_transfer_on_the_senders_side_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.transfers, "take_back", lambda lots, given, amount_minor: [])


@bug
def learn_of_no_receiver(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lane, "_learn_receivers", lambda *args: False)


@bug
def spend_value_past_its_last_day(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.authorize, "expire_due", lambda card, moment, policy: None)
    patch.setattr(rules.authorize, "renew_returned", lambda card, moment, policy: None)


@bug
def expire_a_day_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lot, "is_over", lambda lot, today: 0 < lot.expires_day <= today)


@bug
def renew_nothing_that_comes_back_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.authorize, "renew_returned", lambda card, moment, policy: None)


@bug
def renew_what_should_have_expired(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.authorize, "expire_due", lambda card, moment, policy: None)


@bug
def show_value_past_its_last_day(patch: pytest.MonkeyPatch) -> None:
    shown = WorkingCard.balances
    patch.setattr(WorkingCard, "balances", lambda card, purse, today=0: shown(card, purse))


@bug
def look_for_no_lot_that_comes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CardState, "note_end", lambda state, last_day: None)


@bug
def forget_what_was_spent_today(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.limits, "count_spent", lambda *args: None)


@bug
def keep_what_a_reversal_gives_back_of_today(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.reversal, "uncount_spent", lambda *args, **named: None)


@bug
def let_a_day_pass_without_a_new_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Policy, "day", lambda policy, now_s: 20_000)


@bug
def receive_more_than_a_card_may_have(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.transfers, "room_for", lambda *args: True)


@bug
def charge_cards_that_are_in_use(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.dormancy, "_is_due", lambda *args: True)


@bug
def charge_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.dormancy, "_is_due", lambda *args: False)


FINDERS = {
    "charge_nobody": 192,
    "give_back_more_than_the_receiver_has": 1684,
    "receive_more_than_a_card_may_have": 319,
    "undo_a_return_whose_sale_is_undone": 690,
}
"""Where to look first for what few seeds find. All others are looked at when that finds nothing."""


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    in_order = sorted(SEEDS, key=lambda seed: seed != FINDERS.get(name))
    found = next((seed for seed in in_order if fault_of(draw(seed))), None)
    assert found is not None, f"{len(SEEDS)} seeds see nothing"
    monkeypatch.undo()
    assert fault_of(draw(found)) == "", "the seed fails without the bug"
    print(f"{name}: seed {found}")
