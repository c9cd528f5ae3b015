"""Reversals: each row of the table, and the sentences below it.

Not here yet: card to card (spent by the receiver), and an original whose batch is closed. They come
with these operations.
"""

from __future__ import annotations

import pytest

from .story import told

ROWS = {
    "approved, unreversed: undone to the very lots": """
        sell 500 as sale                    -> 00
        lots 2:9500
        reverse sale                        -> 00 REVERSED
        lots 1:300 2:9700
        owes nothing
    """,
    "approved, DE 95: down to the final amount": """
        sell 500 as sale                    -> 00
        reverse sale to 200                 -> 00 PARTIAL
        card 9800
        repeat sale                         -> 00
        reverse sale to 200                 -> 00 ALREADY
        reverse sale to 201                 -> 13 AMOUNT
        reverse sale                        -> 00 REVERSED
        card 10000
    """,
    "DE 95 above what it was": """
        sell 500 as sale                    -> 00
        reverse sale to 501                 -> 13 AMOUNT
        reverse sale to 500                 -> 00 ALREADY
        card 9500
    """,
    "reversed before: this message's own repeat, and a new STAN": """
        sell 500 as sale                    -> 00
        reverse sale as undo                -> 00 REVERSED
        repeat undo                         -> 00 REVERSED
        reverse sale                        -> 00 ALREADY
        repeat sale                         -> 05 REVERSED
        card 10000
    """,
    "unknown on this card: barred under its key": """
        write sell 500 as sale
        reverse sale as undo                -> 00 NOTHING
        send sale                           -> 05 BARRED
        repeat sale                         -> 05 BARRED
        repeat undo                         -> 00 NOTHING
        reverse sale                        -> 00 NOTHING
        card 10000
        links 3
    """,
    "barred for good, also when the window has forgotten": """
        write sell 500 as sale
        reverse sale                        -> 00 NOTHING
        busy 40
        send sale                           -> 05 BARRED
        card 10000
    """,
    "known under another card: 94, nothing barred": """
        write sell 500 as sale
        elsewhere sale
        reverse sale                        -> 94 OTHERCARD
        links 0
        send sale                           -> 00
        reverse sale                        -> 00 REVERSED
    """,
    "declined: NOTHING, nothing barred": """
        sell 20000 as sale                  -> 51 FUNDS
        reverse sale                        -> 00 NOTHING
        repeat sale                         -> 51 FUNDS
        links 2
    """,
    "an enquiry: NOTHING, nothing barred": """
        balance as enquiry                  -> 00
        reverse enquiry                     -> 00 NOTHING
        repeat enquiry                      -> 00
        links 1
    """,
    "a hold that was completed: NOTHING, the completion is what can be undone": """
        hold 500 as hold                    -> 00
        advise 400 completing hold as done  -> 00
        reverse hold                        -> 00 NOTHING
        card 9600
        reverse done                        -> 00 REVERSED
        card 10000
        held 0
    """,
    "an open hold": """
        hold 500 as hold                    -> 00
        reverse hold to 200                 -> 00 PARTIAL
        held 200
        reverse hold to 201                 -> 13 AMOUNT
        reverse hold to 200                 -> 00 ALREADY
        reverse hold                        -> 00 REVERSED
        reverse hold                        -> 00 ALREADY
        held 0
        lots 1:300 2:9700
    """,
    "a load, not spent": """
        load 700 as load                    -> 00
        reverse load                        -> 00 REVERSED
        repeat load                         -> 05 REVERSED
        lots 1:300 2:9700
        status active
    """,
    "a load, spent meanwhile, time-out: what is there, and a shortfall": """
        load 700 as load                    -> 00
        sell 10400                          -> 00
        reverse load                        -> 00 PARTIAL
        card 0
        owes shortfall 400
        status frozen
        reverse load                        -> 00 ALREADY
        owes shortfall 400
    """,
    "a load, spent meanwhile, customer or merchant: refused": """
        load 700 as load                    -> 00
        sell 10400                          -> 00
        reverse load for customer           -> 05 SPENT
        reverse load for merchant           -> 05 SPENT
        card 300
        owes nothing
        status active
    """,
    "a load, still there, for any reason": """
        load 700 as load                    -> 00
        reverse load for customer           -> 00 REVERSED
        card 10000
    """,
    "an activation": """
        new issued
        activate 700 as start               -> 00
        status active
        reverse start                       -> 00 REVERSED
        status issued
        card 0
    """,
    "an activation, spent meanwhile": """
        new issued
        activate 700 as start               -> 00
        sell 500                            -> 00
        reverse start for customer          -> 05 SPENT
        reverse start                       -> 00 PARTIAL
        owes shortfall 500
        status frozen
    """,
    "older than the horizon, whatever the reason": """
        sell 500 as sale                    -> 00
        later 61 days
        reverse sale                        -> 05 LATE
        reverse sale for customer           -> 05 LATE
        card 9500
    """,
    "an unknown one older than the horizon is not barred": """
        write sell 500 as sale
        later 61 days
        reverse sale                        -> 05 LATE
        links 1
    """,
    "DE 4 is the requested amount, the approved one, or absent": """
        sell 20000 partly as sale           -> 10 DE4=10000 RQ=20000
        reverse sale amount 500             -> 13 AMOUNT
        card 0
        reverse sale amount 10000           -> 00 REVERSED
        card 10000
        sell 20000 partly as more           -> 10 DE4=10000 RQ=20000
        reverse more amount 20000           -> 00 REVERSED
        sell 500 as less                    -> 00
        reverse less amount 0               -> 00 REVERSED
        card 10000
    """,
    "a cash-out": """
        cash 400 as cash                    -> 00 DE4=400
        reverse cash                        -> 00 REVERSED
        lots 1:300 2:9700
    """,
    "a reversal is final": """
        sell 500 as sale                    -> 00
        reverse sale as undo                -> 00 REVERSED
        reverse undo                        -> 00 NOTHING
        card 10000
    """,
    "a frozen, blocked, lost card takes its reversal": """
        sell 500 as sale                    -> 00
        becomes lost
        reverse sale                        -> 00 REVERSED
        card 10000
        status lost
    """,
    "a status goes back while it is still the one that was set": """
        block as block                      -> 00
        reverse block                       -> 00 REVERSED
        status active
        block as again                      -> 00
        unblock                             -> 00
        reverse again                       -> 00 NOTHING
        status active
    """,
    "same key, other content": """
        sell 500 as sale                    -> 00
        reverse sale as undo                -> 00 REVERSED
        repeat undo amount 400              -> 94 DUPLICATE
        card 10000
    """,
}


@pytest.mark.parametrize("name", ROWS)
def test_reversal(name: str) -> None:
    told(ROWS[name])
