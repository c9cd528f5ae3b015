"""The mutations: a name that says what is left open, the line, the tests that must see it.

`old` stands exactly once in its file. `tests` are pytest's node ids, without parameters.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One protecting line changed."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_RULES, _STORES, _SIM = "tests/rules/test_rules_", "tests/stores/test_", "tests/simulator/test_"
_PIPELINE, _PROJECTIONS = "tests/switch/test_pipeline.py::test_", "tests/projections/test_"
_LANE, _SERVER = "tests/switch/test_lane.py::test_", "tests/switch/test_server.py::test_"
_APPEND = "switch/journal/migrations/0013_postings_in_links.sql"
_LUA = "switch/reservation/library.lua"

MUTANTS = (
    # The card's row and the batch
    Mutant(
        "the row is not fenced by its version",
        _APPEND,
        "where c.card_id = u.card_id and c.version = c_version_from[u.i]\n          and",
        "where c.card_id = u.card_id\n          and",
        (f"{_STORES}journal.py::test_a_version_of_the_future_is_stale",),
    ),
    Mutant(
        "the row is not fenced by the batch that wrote it",
        _APPEND,
        "\n          and c.batch_id = c_batch_from[u.i];",
        ";",
        (f"{_STORES}journal.py::test_the_right_version_written_by_another_batch_is_stale",),
    ),
    Mutant(
        "one stale card does not refuse its batch",
        _APPEND,
        "if hit <> cardinality(c_card) then\n            --",
        "if false then\n            --",
        (f"{_STORES}journal.py::test_one_stale_card_refuses_the_whole_batch",),
    ),
    Mutant(
        "a batch that meets itself is called stale",
        _APPEND,
        "return case when found then 1 else 2 end;",
        "return 2;",
        (f"{_STORES}journal_doubt.py::test_a_batch_sent_again_meets_itself",),
    ),
    Mutant(
        "rows are locked in no order",
        _APPEND,
        "as i\n              order by c_card[i]) as u",
        "as i) as u",
        (
            f"{_STORES}journal.py::"
            "test_rows_are_locked_in_order_of_card_in_whatever_order_they_come",
        ),
    ),
    Mutant(
        "a link takes the postings of those behind it",
        _APPEND,
        "else p_numbers[l_first[i] : l_first[i + 1] - 1]",
        "else p_numbers[l_first[i] : cardinality(p_numbers)]",
        (f"{_STORES}journal.py::test_each_link_gets_its_own_postings",),
    ),
    Mutant(
        "a posting may move nothing",
        _APPEND,
        "when 6 then (postings[5] > 0) is true",
        "when 6 then true",
        (f"{_STORES}journal.py::test_a_posting_without_an_amount_spoils_its_batch",),
    ),
    Mutant(
        "half a posting may be written",
        _APPEND,
        "and cardinality(numbers) % 6 = 0 and",
        "and",
        (f"{_STORES}journal.py::test_half_a_posting_spoils_its_batch",),
    ),
    Mutant(
        "postings of no link are left behind by the migration",
        _APPEND,
        "raise exception 'there are postings of links that are not there: run verify before';",
        "null;",
        (
            f"{_STORES}migrate.py::test_a_posting_of_no_link_stops_the_migration_and_nothing_is_lost",
        ),
    ),
    Mutant(
        "numbers that are no postings pass for some",
        "switch/verify/sql.py",
        "cardinality(postings) % 6 <> 0 or odd as misposted",
        "false as misposted",
        (f"{_PROJECTIONS}tamper_everywhere.py::test_anything_in_a_links_postings",),
    ),
    Mutant(
        "an available amount may be below zero",
        "switch/journal/migrations/0001_schema.sql",
        "ecash_available bigint not null check (ecash_available >= 0),",
        "ecash_available bigint not null,",
        (f"{_STORES}journal.py::test_one_bad_row_spoils_its_batch_and_leaves_nothing",),
    ),
    Mutant(
        "the switch's role may change a link",
        "switch/journal/migrations/0004_rights.sql",
        "grant insert on link,",
        "grant update, delete on link to cardswitch_app;\ngrant insert on link,",
        (f"{_STORES}journal_tables.py::test_the_switchs_role_cannot_change_the_past",),
    ),
    # A commit whose outcome is unknown
    Mutant(
        "a lost connection is taken for a batch that did nothing",
        "switch/journal/server.py",
        "    if not isinstance(error, ServerError):\n        return True\n",
        "    if not isinstance(error, ServerError):\n        return False\n",
        (f"{_STORES}journal_doubt.py::test_a_connection_that_is_lost_says_nothing_of_the_commit",),
    ),
    Mutant(
        "a server that shuts down is taken for a batch that did nothing",
        "switch/journal/server.py",
        'return error.severity != "ERROR" or error.sqlstate.startswith(("57P", "08"))',
        "return False",
        (f"{_STORES}journal_doubt.py::test_what_an_error_of_the_server_says_of_the_commit",),
    ),
    Mutant(
        "a doubt is forgotten when the next try is cancelled",
        "switch/journal/journal.py",
        "                    if not in_doubt:\n                        return Outcome.STALE\n",
        "                    return Outcome.STALE\n",
        (f"{_STORES}journal.py::test_a_cancelled_second_attempt_is_still_a_doubt",),
    ),
    Mutant(
        "a batch that is stale in part is an error like any other",
        "switch/journal/journal.py",
        "                if isinstance(error, ServerError) and error.sqlstate == _STALE:\n",
        "                if False:\n",
        (f"{_STORES}journal.py::test_one_stale_card_refuses_the_whole_batch",),
    ),
    Mutant(
        "no barrier after a doubt",
        "switch/journal/journal.py",
        "if not in_doubt or outcome is Outcome.STALE or await self._barrier(connection):",
        "if True:",
        (
            f"{_STORES}journal_doubt.py::"
            "test_a_commit_cut_short_is_no_commit_until_a_barrier_is_durable",
        ),
    ),
    Mutant(
        "91 in a doubt while no server can be reached",
        "switch/journal/journal.py",
        "            except JournalDown:\n"
        "                if not in_doubt:\n                    raise\n",
        "            except JournalDown:\n                raise\n",
        (f"{_STORES}journal_doubt.py::test_a_doubt_lasts_while_no_server_can_be_reached",),
    ),
    Mutant(
        "a connection that was lost while idle is used once more",
        "switch/journal/journal.py",
        "            if not connection.hung_up():\n",
        "            if True:\n",
        (f"{_STORES}journal_doubt.py::test_a_connection_lost_while_idle_is_not_even_in_doubt",),
    ),
    # The pipeline
    Mutant(
        "answers leave before the commit",
        "switch/lane.py",
        "            outcome = Outcome.COMMITTED\n",
        "            outcome = Outcome.COMMITTED\n"
        "            self._observer.answered(decided.answers)\n"
        "            decided.answers = []\n",
        (f"{_PIPELINE}nothing_is_answered_before_append_has_returned",),
    ),
    Mutant(
        "a stale batch is decided again from the cache",
        "switch/lane.py",
        "            cached = False\n            self._decline_late(batch)\n",
        "            self._decline_late(batch)\n",
        (f"{_PIPELINE}a_stale_batch_is_decided_again_from_the_rows",),
    ),
    Mutant(
        "a balance is told from the cache",
        "switch/lane.py",
        "if card not in known or card in asked]",
        "if card not in known]",
        (f"{_PIPELINE}a_balance_is_read_from_the_row_whatever_the_cache_says",),
    ),
    Mutant(
        "a receiver that cannot receive is believed without its row",
        "switch/lane.py",
        "        asked |= {t.other_id for t in batch.tickets"
        " if t.request.operation is _TRANSFER}\n",
        "",
        (
            "tests/switch/test_pipeline_two_cards.py::"
            "test_that_a_receiver_cannot_receive_is_read_from_its_row",
        ),
    ),
    Mutant(
        "a lane is cancelled in its batch",
        "switch/lane.py",
        "                with trio.CancelScope(shield=True):\n"
        "                    await self._carry(batch)\n",
        "                await self._carry(batch)\n",
        (f"{_PIPELINE}a_lane_that_is_cancelled_finishes_its_batch_first",),
    ),
    Mutant(
        "one poisonous card spoils its batch",
        "switch/lane.py",
        "            if len(parts) > 1 or cached:\n",
        "            if False:\n",
        (f"{_PIPELINE}a_poisonous_card_gets_96_and_its_neighbours_do_not_notice",),
    ),
    Mutant(
        "an idle worker stays in the old server's cache",
        "switch/watch.py",
        "                await self._check_epoch()\n                await self.add_new_cards()",
        "                await self.add_new_cards()",
        ("tests/switch/test_watch.py::test_an_idle_worker_learns_of_another_server",),
    ),
    Mutant(
        "originals are looked for without regard to clocks that ran ahead",
        "switch/lane.py",
        "CLOCK_SLACK = datetime.timedelta(days=2)",
        "CLOCK_SLACK = datetime.timedelta(0)",
        (f"{_SIM}found.py::test_a_terminal_ahead_of_time_finds_its_sale_in_the_month_before",),
    ),
    # The cache
    Mutant(
        "a card is given to two batches at once",
        _LUA,
        "tonumber(string.sub(held, 1, 13)) > now then",
        "false then",
        (f"{_STORES}reservation.py::test_a_hundred_racers_and_one_winner",),
    ),
    Mutant(
        "anybody brings a state back",
        _LUA,
        "if marks[i] and string.sub(marks[i], 14) == holder then",
        "if true then",
        (f"{_STORES}reservation.py::test_only_the_holder_brings_a_state_back",),
    ),
    Mutant(
        "a mark of possession never ends",
        _LUA,
        "string.format('%013.0f', now + tonumber(args[2]))",
        "string.format('%013.0f', now + 9e11)",
        (f"{_STORES}reservation.py::test_a_mark_is_respected_for_its_time_only",),
    ),
    Mutant(
        "states in the cache are believed without their seal",
        "switch/reservation/store.py",
        "opened = open_states(self._key, card_ids, states)",
        'opened = [__import__("msgspec").msgpack.decode(state[8:]) for state in states]',
        (f"{_STORES}reservation.py::test_a_state_with_one_changed_byte_is_ignored",),
    ),
    Mutant(
        "a card that another waits for is taken again",
        _LUA,
        "if waits[i] then waited[back[i + 2]] = true end",
        "if false then waited[back[i + 2]] = true end",
        (f"{_STORES}reservation.py::test_a_card_that_another_waits_for_is_its_turn",),
    ),
    Mutant(
        "what is given back with the next reservation is forgotten",
        _LUA,
        "    settle(back, states)\n",
        "",
        (
            f"{_STORES}reservation.py::"
            "test_what_is_given_back_is_there_for_the_next_and_what_is_asked_for_is_taken",
        ),
    ),
    Mutant(
        "a lane keeps its last cards when it ends",
        "switch/lane.py",
        "        finally:\n"
        "            with trio.CancelScope(shield=True):\n"
        "                await self._settle()\n",
        "        finally:\n            pass\n",
        (f"{_LANE}a_lane_that_ends_gives_its_cards_back",),
    ),
    Mutant(
        "another lane asks for a card before it is known to be free",
        "switch/pipeline.py",
        "        for card_id in last_cards:\n            if card_id in batch",
        "        for card_id in ():\n            if card_id in batch",
        (f"{_LANE}a_card_is_the_lanes_until_redis_knows_that_it_is_not",),
    ),
    Mutant(
        "a batch that is held up holds up all",
        "switch/pipeline.py",
        "return trio.current_time() >= self._taken_at + HASTEN_AFTER_S",
        "return False",
        (f"{_LANE}what_is_on_its_way_and_held_up_holds_up_nothing_else",),
    ),
    # Connections
    Mutant(
        "one message's fault costs the others their answers",
        "switch/intake.py",
        "            except Exception as error:  # it must",
        "            except ZeroDivisionError as error:  # it must",
        (f"{_STORES}intake.py::test_a_message_that_meets_a_fault_costs_no_other_its_answer",),
    ),
    Mutant(
        "a peer that is ahead is read all the same",
        "switch/server.py",
        "            connection.pause()\n",
        "            pass\n",
        (f"{_SERVER}a_peer_that_is_ahead_is_read_again_once_it_has_its_replies",),
    ),
    Mutant(
        "who was left over waits for ever",
        "switch/poller.py",
        "        if self._left:\n            await trio.lowlevel.checkpoint()\n",
        "        self._left.clear()\n",
        (
            "tests/switch/test_poller.py::"
            "test_what_is_left_over_has_its_turn_before_who_has_had_one",
        ),
    ),
    # Repeats
    Mutant(
        "the window is trusted to know everything",
        "rules/window.py",
        "return dropped == _EMPTY or key[:_HEADER] > dropped",
        "return True",
        (f"{_PIPELINE}a_repeat_that_the_window_has_forgotten_is_found_in_the_journal",),
    ),
    Mutant(
        "a key without an instant is forgotten without a trace",
        "rules/window.py",
        "dropped = max(data[:_HEADER], _BEGINNING)",
        "dropped = data[:_HEADER]",
        (
            f"{_RULES}window.py::test_after_a_key_without_an_instant_no_other_such_key_is_surely_new",
        ),
    ),
    Mutant(
        "a batch forgets its own first keys",
        "rules/cards.py",
        "        self.known[link.version] = link\n",
        "        self.window = Window(self.window.encode())\n"
        "        self.known = {v: self.known[v] for v in sorted(self.known)[-15:]}\n"
        "        self.known[link.version] = link\n",
        (f"{_RULES}repeats.py::test_a_repeat_far_back_in_the_same_batch",),
    ),
    Mutant(
        "a decline leaves no link",
        "rules/booking.py",
        "    link.status_before = card.state.status\n    card.append(link, moment.batch_id)\n",
        "    link.status_before = card.state.status\n",
        (f"{_RULES}repeats.py::test_a_decline_stays_a_decline_after_a_top_up",),
    ),
    Mutant(
        "the same key with other content is answered as a repeat",
        "rules/authorize.py",
        "    if prior.fingerprint != request.fingerprint:\n        return _differs(request)\n",
        "",
        (f"{_RULES}repeats.py::test_the_same_key_with_other_content",),
    ),
    Mutant(
        "the repeat of a reversed sale hears that it was approved",
        "rules/authorize.py",
        "    if is_reversed(card, prior):",
        "    if False:",
        (f"{_RULES}repeats.py::test_reversed_meanwhile",),
    ),
    # Reversals
    Mutant(
        "the reversal of an unknown original bars nothing",
        "rules/reversal.py",
        "        bar(request, card, moment)\n",
        "",
        (f"{_RULES}restoring.py::test_in_every_order_original_and_reversals_end_alike",),
    ),
    Mutant(
        "a key of another card is barred",
        "rules/authorize.py",
        "        if request.original_key in card.keys_elsewhere and",
        "        if False and",
        (f"{_PIPELINE}a_reversal_under_another_cards_key_bars_nothing",),
    ),
    Mutant(
        "a reversal that names another card alarms nobody",
        "switch/refusal_row.py",
        "    if rule is Rule.OTHER_CARD:",
        "    if False:",
        (
            "tests/operations/test_operation_reversal_rows.py::"
            "test_a_reversal_under_another_card_is_refused_bars_nothing_and_is_an_alarm",
        ),
    ),
    Mutant(
        "what a receiver gets later is taken for a transfer that was undone",
        "rules/transfers.py",
        "    if at_its_end or left_minor in (0, final_minor):",
        "    if left_minor in (0, final_minor):",
        (f"{_RULES}transfers.py::test_nothing_left_at_all_is_partial_of_nothing",),
    ),
    Mutant(
        "an advice of an archived request is posted again",
        "rules/archived.py",
        "is Operation.ADVICE and card.is_archived(request.own_request_key):",
        "is Operation.ADVICE and False:",
        (f"{_RULES}archived.py::test_the_advice_of_an_archived_request_is_for_people_to_look_at",),
    ),
    Mutant(
        "what a quiet card remembers is not looked for in the openings",
        "switch/lane.py",
        "                working[card_id].archived_version = version",
        "                pass",
        (f"{_PIPELINE}the_repeat_of_what_was_archived_is_told_so_once_it_was_looked_for",),
    ),
    Mutant(
        "a receiver that has nothing left is believed without its row",
        "rules/transfers.py",
        "    given = net([*receipt.moves, *restoring_moves(other, receipt)])",
        "    if not found_minor:\n"
        "        how = {'undoes': original.version, 'rule': rule, 'reversal_state': state}\n"
        "        return approve(request, card, moment, status_before=status, **how)\n"
        "    given = net([*receipt.moves, *restoring_moves(other, receipt)])",
        (f"{_RULES}transfers.py::test_nothing_left_at_all_is_partial_of_nothing",),
    ),
    Mutant(
        "a close repeated beside itself hears that its number is closed",
        "switch/settlement.py",
        "                return await self._stored(request) or answer",
        "                return answer",
        (f"{_STORES}settlement.py::test_a_repeat_that_runs_beside_its_original_hears_the_same",),
    ),
    Mutant(
        "any network thaws a card",
        "rules/operations.py",
        "    if card.state.status is CardStatus.FROZEN and request.terminal.programme:",
        "    if card.state.status is CardStatus.FROZEN:",
        (f"{_RULES}freeze.py::test_nobody_else_thaws_a_card",),
    ),
    Mutant(
        "a reversal can be reversed",
        "rules/reversal.py",
        "    if not original.approved or original.operation is Operation.REVERSAL:\n",
        "    if not original.approved:\n",
        (f"{_RULES}reversal.py::test_a_reversal_is_final",),
    ),
    Mutant(
        "a return undone after its sale takes what the sale's reversal settled",
        "rules/restoring.py",
        "        return max(self.left_minor + undone_minor - self.ceiling_minor, 0)\n",
        "        return 0\n",
        (f"{_RULES}restoring.py::test_sale_and_return_reversed_in_either_order",),
    ),
    Mutant(
        "a sale gives back what a return has given back",
        "rules/restoring.py",
        "        self.left_minor -= link.amount_minor\n",
        "        self.left_minor -= link.amount_minor * (link.operation is Operation.REVERSAL)\n",
        (f"{_RULES}restoring.py::test_a_reversal_undoes_what_returns_have_left",),
    ),
    Mutant(
        "a spent load is undone below zero",
        "rules/reversal.py",
        "    found_minor = min(purse.available_minor, due_minor)\n",
        "    found_minor = due_minor\n",
        (f"{_RULES}reversal.py::test_spent_meanwhile_after_a_time_out",),
    ),
    Mutant(
        "a shortfall does not freeze the card",
        "rules/reversal.py",
        "        card.state.freeze()\n",
        "",
        ("tests/scenarios/test_reversals.py::test_reversal",),
    ),
    Mutant(
        "a customer cancels a load that is spent",
        "rules/reversal.py",
        "    if missing_minor and request.reason is not ReversalReason.TIME_OUT:\n",
        "    if False:\n",
        (f"{_RULES}reversal.py::test_spent_meanwhile_for_any_other_reason",),
    ),
    # Holds and advices
    Mutant(
        "a hold of another merchant is completed",
        "rules/holds.py",
        " or link.merchant_id != merchant_id:",
        ":",
        (f"{_RULES}completions.py::test_nobody_completes_the_hold_of_another_merchant",),
    ),
    Mutant(
        "a completed hold is completed again",
        "rules/advices.py",
        "        if any(link.operation is Operation.COMPLETION for link in undoers):\n",
        "        if False and undoers:\n",
        (f"{_RULES}completions.py::test_a_hold_that_was_completed_before",),
    ),
    Mutant(
        "an advice takes again what its request has taken",
        "rules/advices.py",
        "    if decided is not None and decided.approved:\n",
        "    if False and decided is not None:\n",
        (f"{_RULES}advices.py::test_after_its_approved_request_it_has_no_second_effect",),
    ),
    Mutant(
        "a request takes again what its advice has taken",
        "rules/advices.py",
        "        bar(request, card, moment, own_key)\n",
        "        pass\n",
        (f"{_RULES}advices.py::test_a_request_that_comes_after_its_advice_is_barred",),
    ),
    Mutant(
        "an advice takes any amount",
        "rules/advices.py",
        "    if request.amount_minor > request.terminal.floor_limit_minor:\n",
        "    if False:\n",
        (f"{_RULES}advices.py::test_up_to_the_floor_limit",),
    ),
    Mutant(
        "suspense is undone in the purse's currency",
        "rules/reversal.py",
        "    if original.foreign_currency:  # suspense",
        "    if False:  # suspense",
        (f"{_RULES}advices.py::test_suspense_is_undone_in_the_currency_that_it_stands_in",),
    ),
    # Secrets
    Mutant(
        "wrong PINs are not counted",
        "rules/verification.py",
        "    card.state.pin_tries += 1\n",
        "",
        (f"{_RULES}secrets.py::test_five_wrong_ones_lock",),
    ),
    Mutant(
        "a locked code can be tried on",
        "rules/verification.py",
        "    if card.state.code_tries >= policy.code_tries_max:\n",
        "    if False:\n",
        (f"{_RULES}secrets.py::test_five_wrong_ones_lock",),
    ),
    Mutant(
        "a keyed number needs no secret",
        "rules/verification.py",
        "        if request.entry is not _READ:\n            return refuse",
        "        if False:\n            return refuse",
        (f"{_RULES}secrets.py::test_a_keyed_card_looks_like_an_unknown_one",),
    ),
    # The journal read afterwards
    Mutant(
        "the projector reads past a transaction that is still open",
        "switch/projections/reading.py",
        " and xid < pg_snapshot_xmin(pg_current_snapshot())",
        "",
        (f"{_PROJECTIONS}projector.py::test_a_late_commit_is_waited_for_and_comes_in_its_order",),
    ),
    Mutant(
        "a unit of work that fails is left open",
        "switch/journal/unit.py",
        '                    await self.execute("rollback")\n',
        "                    pass\n",
        (
            f"{_STORES}journal_unit.py::test_what_ends_well_is_committed_and_what_raises_leaves_nothing",
        ),
    ),
    Mutant(
        "the projector follows the numbers of batches",
        "switch/projections/reading.py",
        "where (xid, batch_id, n) > ($1, $2, $3)",
        "where xid >= $1 and (batch_id, n) > ($2, $3)",
        (f"{_PROJECTIONS}projector.py::test_lower_batch_ids_that_come_later_are_not_missed",),
    ),
    Mutant(
        "digests leave out the postings",
        "switch/projections/sealing.py",
        '            image.update(posting["image"])\n',
        "            pass\n",
        (f"{_PROJECTIONS}tamper.py::test_a_changed_posting_names_its_link",),
    ),
    Mutant(
        "a block does not stand on the one before it",
        "switch/projections/sealing.py",
        "head = _encode((_FORMAT, before, said,",
        "head = _encode((_FORMAT, said,",
        (f"{_PROJECTIONS}tamper.py::test_a_block_of_another_history_does_not_fit_before_the_next",),
    ),
    # What time does
    Mutant(
        "value is spent after its last day",
        "rules/authorize.py",
        "    if card.state.ends_from:\n        expire_due(card, moment, policy)\n",
        "",
        (f"{_RULES}lot_life.py::test_what_is_past_its_last_day_is_not_spent",),
    ),
    Mutant(
        "the receiver of a transfer keeps what is over",
        "rules/authorize.py",
        "    if ends and other.state.ends_from:\n        expire_due(other, moment, policy)\n",
        "",
        (
            f"{_RULES}lot_life.py::test_both_cards_of_a_transfer_lose_what_is_over",
            f"{_RULES}lot_life.py::test_a_transfer_that_is_undone_late_gives_no_expired_value_back",
        ),
    ),
    Mutant(
        "what comes back late expires at once",
        "rules/authorize.py",
        "    if card.state.ends_from:\n        renew_returned(card, moment, policy)\n",
        "",
        (f"{_RULES}lot_life.py::test_a_sale_that_is_undone_late_gets_a_new_life_for_each_lot",),
    ),
    Mutant(
        "a lot that comes to a card is never looked for",
        "rules/booking.py",
        "            card.state.note_end(move.expires_day)\n",
        "            pass\n",
        (
            f"{_RULES}lot_life.py::test_a_lot_that_comes_to_a_card_without_ends_is_looked_for",
            f"{_RULES}model.py::test_deep_sequences_agree_with_the_model",
        ),
    ),
    Mutant(
        "replay takes a state in which no lot is looked for",
        "rules/replay.py",
        "    if first_end and not 0 < state.ends_from <= first_end:\n",
        "    if False:\n",
        (f"{_RULES}lot_life.py::test_replay_finds_a_lot_that_nobody_looks_for",),
    ),
    Mutant(
        "a sponsor's value that nobody spent is breakage",
        "rules/expiry.py",
        "            if lot.origin in PROMOTIONAL:\n",
        "            if False:\n",
        (f"{_RULES}lot_life.py::test_what_a_sponsor_gave_goes_back_there",),
    ),
    Mutant(
        "a month is charged twice",
        "rules/dormancy.py",
        "        and state.fee_month < month\n",
        "",
        (f"{_RULES}lot_life.py::test_a_fee_is_taken_once_a_month_and_never_below_zero",),
    ),
    Mutant(
        "a card that is in use pays for being idle",
        "rules/dormancy.py",
        "        and month - idle_from >= policy.dormancy_months\n",
        "",
        (f"{_RULES}lot_life.py::test_whoever_uses_a_card_wakes_it",),
    ),
    Mutant(
        "a till gives promotional value",
        "rules/operations.py",
        "    if not request.terminal.programme:\n",
        "    if False:\n",
        (f"{_RULES}lot_life.py::test_who_may_say_what_kind_of_value_it_is",),
    ),
    Mutant(
        "promotional value is paid out",
        "rules/operations.py",
        "    elif terms.cashable and not _may_be_cashable(terms.origin, policy):\n",
        "    elif False:\n",
        (f"{_RULES}lot_life.py::test_who_may_say_what_kind_of_value_it_is",),
    ),
    Mutant(
        "anybody's promotion is given",
        "rules/operations.py",
        "    if terms.sponsor_id not in (",
        "    if False and terms.sponsor_id not in (",
        (f"{_RULES}lot_life.py::test_who_may_say_what_kind_of_value_it_is",),
    ),
    Mutant(
        "a repeat with another order is the first one's",
        "switch/wire/translate.py",
        "    if terms is not None:\n        content = ",
        "    if False:\n        content = ",
        ("tests/operations/test_lot_life.py::test_an_order_that_was_not_filled_is_refunded_once",),
    ),
    # Limits
    Mutant(
        "what was spent before is not counted",
        "rules/limits.py",
        "    if 0 < limits.day_minor < spent_minor + amount_minor:\n",
        "    if 0 < limits.day_minor < amount_minor:\n",
        (f"{_RULES}lot_life.py::test_a_day_is_limited_in_amount_until_the_next",),
    ),
    Mutant(
        "a clock that goes back gives another day",
        "rules/limits.py",
        "    if state.spent is None or state.spent.day < day:\n",
        "    if state.spent is None or state.spent.day != day:\n",
        (f"{_RULES}lot_life.py::test_a_clock_that_goes_back_gives_no_second_day",),
    ),
    Mutant(
        "yesterday's sale, undone, gives back of today",
        "rules/limits.py",
        "    if totals is not None and version > totals.from_version:\n",
        "    if totals is not None:\n",
        (f"{_RULES}lot_life.py::test_a_reversal_of_yesterdays_sale_gives_nothing_back",),
    ),
    Mutant(
        "a return without its sale has no limit",
        "rules/operations.py",
        "    refusal = refusal_by_return_limit(request, card, moment, policy)\n",
        "    refusal = None\n",
        (f"{_RULES}lot_life.py::test_a_return_that_names_no_sale_is_limited",),
    ),
    Mutant(
        "a transfer brings a card above its limit",
        "rules/transfers.py",
        "        and room_for(other, policy, request.purse, request.amount_minor)\n",
        "",
        (f"{_RULES}transfers.py::test_whatever_keeps_a_card_from_receiving_looks_alike",),
    ),
    Mutant(
        "a return brings a card above its limit",
        "rules/operations.py",
        "amount_minor):\n        return refuse(request, card, moment, Response.OVER_AMOUNT_LIMIT,"
        " Rule.BALANCE_LIMIT)\n    moves = give_back",
        "amount_minor):\n        pass\n    moves = give_back",
        (
            f"{_RULES}lot_life.py::"
            "test_a_return_brings_a_card_to_no_more_than_it_may_have_a_reversal_does",
        ),
    ),
    # The wire
    Mutant(
        "a keyed advice tells whether there is such a card",
        "switch/wire/replies.py",
        "    return accepted and entry_mode(message) is Entry.KEYED\n",
        "    return False\n",
        (
            "tests/operations/test_operation_one_effect.py::test_a_keyed_advice_tells_nothing_of_the_card",
        ),
    ),
    Mutant(
        "a wrong MAC is taken",
        "switch/authentication.py",
        "        (wrong if received.mac_key is None else verified)",
        "        received.mac_key = received.mac_key or (own[0] if own else None)\n"
        "        (wrong if received.mac_key is None else verified)",
        (
            "tests/operations/test_operation_security.py::test_a_wrong_or_missing_mac_is_refused_without_one_and_nothing_is_done",
        ),
    ),
)
