"""Holds and their completions, named in three ways."""

from __future__ import annotations

import pytest

from .story import told

ROWS = {
    "a hold takes nothing, and cannot be spent": """
        hold 9000 as hold                   -> 00
        card 1000
        held 9000
        sell 1001                           -> 51 FUNDS
        cash 1001                           -> 51 CASHABLE
    """,
    "less will do": """
        hold 20000 partly                   -> 10 DE4=10000 RQ=20000
        held 10000
    """,
    "completed for less: the rest goes back to the very lots": """
        hold 500 as hold                    -> 00
        lots 2:9500
        advise 200 completing hold          -> 00
        lots 1:100 2:9700
        held 0
    """,
    "more than the hold, within the tolerance": """
        hold 1000 at pump as hold           -> 00
        advise 1100 completing hold         -> 00
        card 8900
        owes nothing
    """,
    "more than the hold, beyond the tolerance: suspense": """
        hold 1000 at pump as hold           -> 00
        advise 1500 completing hold         -> 00 TOLERANCE
        card 8900
        owes suspense 400
    """,
    "within the tolerance, and not there: shortfall": """
        hold 10000 at pump as hold          -> 00
        advise 11000 completing hold        -> 00 SHORTFALL
        card 0
        owes shortfall 1000
        status frozen
    """,
    "released: posted as an advice": """
        hold 500 as hold                    -> 00
        reverse hold                        -> 00 REVERSED
        advise 500 completing hold          -> 00
        card 9500
    """,
    "expired: posted as an advice": """
        hold 500 as hold                    -> 00
        sweep hold                          -> 25 ORIGINAL
        later 7 days
        sweep hold                          -> 00
        held 0
        card 10000
        advise 500 completing hold          -> 00
        card 9500
    """,
    "past its time, but not swept: completed": """
        hold 500 as hold                    -> 00
        later 30 days
        advise 500 completing hold          -> 00
        card 9500
        held 0
    """,
    "completed before: no effect": """
        hold 500 as hold                    -> 00
        advise 400 completing hold          -> 00
        advise 100 completing hold          -> 00 DONEBEFORE
        advise 400 completing hold by DE38  -> 00 DONEBEFORE
        advise 400 completing hold by DE90  -> 00 DONEBEFORE
        card 9600
        owes nothing
    """,
    "on a blocked card": """
        hold 500 as hold                    -> 00
        block                               -> 00
        advise 500 completing hold          -> 00
        held 0
        owes nothing
    """,
    "another merchant, by OR": """
        hold 500 as hold                    -> 00
        advise 400 completing hold at other -> 00
        held 500
        card 9100
        advise 500 completing hold          -> 00
        held 0
        card 9100
    """,
    "another merchant, by DE 38": """
        hold 500 as hold                    -> 00
        advise 400 completing hold by DE38 at other -> 00
        held 500
    """,
    "a hold of which part was released": """
        hold 500 as hold                    -> 00
        reverse hold to 200                 -> 00 PARTIAL
        advise 300 completing hold          -> 00 TOLERANCE
        card 9800
        owes suspense 100
    """,
    "its completion undone: nothing is held again": """
        hold 500 as hold                    -> 00
        advise 500 completing hold as done  -> 00
        reverse done                        -> 00 REVERSED
        card 10000
        held 0
        reverse hold                        -> 00 NOTHING
        advise 500 completing hold          -> 00 DONEBEFORE
        card 10000
    """,
    "before its hold: a sale of its own, and the hold stands alone": """
        write hold 500 as hold
        advise 500 completing hold by DE90  -> 00
        card 9500
        send hold                           -> 00
        card 9000
        held 500
    """,
}


@pytest.mark.parametrize("way", ["OR", "DE38", "DE90"])
def test_a_hold_is_named_in_three_ways(way: str) -> None:
    told(f"""
        hold 500 as hold                    -> 00
        hold 300 as other                   -> 00
        advise 500 completing hold by {way} -> 00
        held 300
        card 9200
    """)


@pytest.mark.parametrize("name", ROWS)
def test_hold(name: str) -> None:
    told(ROWS[name])
