"""Advices: always accepted, posted to the card where they may be, in suspense where not.

Not here yet: 0320, the batch upload; it comes with reconciliation.
"""

from __future__ import annotations

import pytest

from .story import told

ROWS = {
    "a sale within the floor limit": """
        advise 5000 as told                 -> 00
        repeat told                         -> 00
        card 5000
        owes nothing
    """,
    "what the card lacks: shortfall, and the card is frozen": """
        sell 9000                           -> 00
        advise 4000 as told                 -> 00 SHORTFALL
        card 0
        owes shortfall 3000
        status frozen
        repeat told                         -> 00 SHORTFALL
        owes shortfall 3000
    """,
    "a later load does not repay a shortfall": """
        sell 9000                           -> 00
        advise 4000                         -> 00 SHORTFALL
        load 5000                           -> 62 STATUS
        becomes active
        load 5000                           -> 00
        card 5000
        owes shortfall 3000
    """,
    "over the floor limit: suspense": """
        advise 5001                         -> 00 FLOORLIMIT
        card 10000
        owes suspense 5001
    """,
    "a terminal without a floor limit": """
        advise 1 at network                 -> 00 FLOORLIMIT
        card 10000
    """,
    "barred: its request was reversed before": """
        write sell 500 as sale
        reverse sale                        -> 00 NOTHING
        advise 500 instead sale             -> 00 BARRED
        card 10000
        owes suspense 500
        send sale                           -> 05 BARRED
    """,
    "barred itself: its own reversal came first": """
        write advise 500 as told
        reverse told                        -> 00 NOTHING
        send told                           -> 05 BARRED
        card 10000
        owes nothing
    """,
    "an unknown card: the merchant's chain": """
        unknown
        advise 500 as told                  -> 00 CARD
        owes suspense 500
        repeat told                         -> 00 CARD
        owes suspense 500
        reverse told                        -> 00 REVERSED
        owes nothing
        ask told                            -> 00 REVERSED OC=00
    """,
    "another DE 3: suspense": """
        advise 500 code 210060              -> 00 OPERATION
        card 10000
        owes suspense 500
    """,
    "a foreign currency: suspense in its own": """
        advise 500 currency 840 as told     -> 00 CURRENCY
        postings 840
        reverse told currency 826           -> 12 CURRENCY
        reverse told to 200                 -> 00 PARTIAL
        reverse told currency 840           -> 00 REVERSED
        postings 840
        owes nothing
    """,
    "a card that is not active": """
        block                               -> 00
        advise 500                          -> 00 STATUS
        unblock                             -> 00
        card 10000
        owes suspense 500
    """,
    "no clock refuses it: too old, far ahead": """
        advise 500 day -61                  -> 00 CLOCK
        advise 700 day 90                   -> 00
        card 9300
        owes suspense 500
    """,
    "after its declined request: decided anew": """
        sell 20000 as sale                  -> 51 FUNDS
        advise 20000 instead sale           -> 00 FLOORLIMIT
        sell 10000                          -> 00
        sell 400 as small                   -> 51 FUNDS
        advise 400 instead small            -> 00 SHORTFALL
        repeat small                        -> 51 FUNDS
    """,
    "after its approved request: no second effect": """
        sell 500 as sale                    -> 00
        advise 500 instead sale as told     -> 00 DONEBEFORE
        repeat told                         -> 00 DONEBEFORE
        reverse told                        -> 00 NOTHING
        card 9500
        owes nothing
    """,
    "before its request: the request is barred": """
        write sell 500 as sale
        advise 500 instead sale as told     -> 00
        send sale                           -> 05 BARRED
        repeat sale                         -> 05 BARRED
        ask sale                            -> 25 ORIGINAL BARRED
        reverse sale                        -> 00 NOTHING
        card 9500
        reverse told                        -> 00 REVERSED
        send sale                           -> 05 BARRED
        card 10000
    """,
    "in suspense before its request: barred all the same": """
        write sell 5001 as sale
        advise 5001 instead sale            -> 00 FLOORLIMIT
        send sale                           -> 05 BARRED
        card 10000
        owes suspense 5001
    """,
    "undone: what the card has not paid goes first": """
        sell 9000                           -> 00
        advise 4000 as told                 -> 00 SHORTFALL
        reverse told to 2000                -> 00 PARTIAL
        card 0
        owes shortfall 1000
        reverse told                        -> 00 REVERSED
        card 1000
        owes nothing
        status frozen
    """,
    "suspense undone": """
        advise 6000 as told                 -> 00 FLOORLIMIT
        reverse told to 6000                -> 00 ALREADY
        reverse told                        -> 00 REVERSED
        repeat told                         -> 05 REVERSED
        owes nothing
        card 10000
    """,
    "of nothing": """
        advise 0                            -> 00
        card 10000
        owes nothing
    """,
    "same key, other content": """
        advise 500 as told                  -> 00
        repeat told amount 400              -> 94 DUPLICATE
        card 9500
    """,
}


@pytest.mark.parametrize("name", ROWS)
def test_advice(name: str) -> None:
    told(ROWS[name])
