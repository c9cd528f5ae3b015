"""Outcome queries: what has become of a message, and the bar that they can set."""

from __future__ import annotations

import pytest

from .story import told

ROWS = {
    "approved": """
        sell 500 as sale                    -> 00
        ask sale                            -> 00 APPROVED OC=00
        links 1
    """,
    "approved in part": """
        sell 20000 partly as sale           -> 10 DE4=10000 RQ=20000
        ask sale                            -> 00 APPROVED OC=10
    """,
    "declined": """
        sell 20000 as sale                  -> 51 FUNDS
        ask sale                            -> 00 DECLINED OC=51
    """,
    "reversed, wholly and in part": """
        sell 500 as sale                    -> 00
        reverse sale to 200                 -> 00 PARTIAL
        ask sale                            -> 00 PARTIAL OC=00
        reverse sale                        -> 00 REVERSED
        ask sale                            -> 00 REVERSED OC=00
    """,
    "returned: that is no reversal": """
        sell 500 as sale                    -> 00
        return 500 of sale                  -> 00
        ask sale                            -> 00 APPROVED OC=00
    """,
    "unknown: nothing is done": """
        write sell 500 as sale
        ask sale                            -> 25 ORIGINAL
        send sale                           -> 00
        card 9500
    """,
    "unknown, with TB: barred for good": """
        write sell 500 as sale
        ask sale barring                    -> 25 ORIGINAL BARRED
        ask sale                            -> 25 ORIGINAL BARRED
        send sale                           -> 05 BARRED
        reverse sale                        -> 00 NOTHING
        card 10000
    """,
    "barred by a reversal": """
        write sell 500 as sale
        reverse sale                        -> 00 NOTHING
        ask sale                            -> 25 ORIGINAL BARRED
    """,
    "known, with TB: nothing is barred": """
        sell 500 as sale                    -> 00
        ask sale barring                    -> 00 APPROVED OC=00
        repeat sale                         -> 00
    """,
    "an enquiry, what is too old, another card's key: not barred": """
        balance as asked                    -> 00
        ask asked barring                   -> 25 ORIGINAL
        write sell 500 as sale
        elsewhere sale
        ask sale barring                    -> 25 ORIGINAL
        later 61 days
        write sell 600 as old
        ask old barring                     -> 25 ORIGINAL
        links 0
    """,
    "a query is not kept: its repeat hears what is so now": """
        sell 500 as sale                    -> 00
        ask sale as query                   -> 00 APPROVED OC=00
        reverse sale                        -> 00 REVERSED
        repeat query                        -> 00 REVERSED OC=00
    """,
    "an advice in suspense": """
        advise 6000 as told                 -> 00 FLOORLIMIT
        ask told                            -> 00 APPROVED OC=00
    """,
}


@pytest.mark.parametrize("name", ROWS)
def test_outcome(name: str) -> None:
    told(ROWS[name])
