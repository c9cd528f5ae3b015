"""Keys and repeats: the first answer again, and never a second effect.

What makes a key (DE 41, 42, 11, 12, 13, acquirer, year, time zone) is read from the message: those
rows are in tests/operations and tests/wire.
"""

from __future__ import annotations

import pytest

from .story import told

ROWS = {
    "same key, same content: the first answer": """
        sell 500 as sale                    -> 00
        repeat sale                         -> 00
        repeat sale                         -> 00
        card 9500
        links 1
    """,
    "also when the window has forgotten it": """
        sell 500 as sale                    -> 00
        busy 40
        repeat sale                         -> 00
        card 9500
    """,
    "a decline, also after a top-up": """
        sell 10500 as sale                  -> 51 FUNDS
        load 5000                           -> 00
        repeat sale                         -> 51 FUNDS
        card 15000
    """,
    "a partial approval, with RQ and DE 4": """
        sell 20000 partly as sale           -> 10 DE4=10000 RQ=20000
        load 5000                           -> 00
        repeat sale                         -> 10 DE4=10000 RQ=20000
        card 5000
    """,
    "reversed meanwhile: 05": """
        sell 500 as sale                    -> 00
        reverse sale                        -> 00 REVERSED
        repeat sale                         -> 05 REVERSED
        busy 40
        repeat sale                         -> 05 REVERSED
    """,
    "reversed in part: the first answer": """
        sell 500 as sale                    -> 00
        reverse sale to 100                 -> 00 PARTIAL
        repeat sale                         -> 00
    """,
    "same key, other content: 94, and nothing of the first": """
        sell 500 as sale                    -> 00
        repeat sale amount 600              -> 94 DUPLICATE
        repeat sale                         -> 00
        card 9500
    """,
    "a declined one with other content: 94, too": """
        sell 20000 as sale                  -> 51 FUNDS
        repeat sale amount 600              -> 94 DUPLICATE
        card 10000
    """,
    "a refusal by status stays": """
        block                               -> 00
        sell 500 as sale                    -> 62 STATUS
        unblock                             -> 00
        repeat sale                         -> 62 STATUS
        card 10000
    """,
    "a return, a load, a cash-out, a hold": """
        sell 500 as sale                    -> 00
        return 200 of sale as back          -> 00
        load 300 as load                    -> 00
        cash 100 as cash                    -> 00 DE4=100
        hold 50 as hold                     -> 00
        card 9850
        repeat back                         -> 00
        repeat load                         -> 00
        repeat cash                         -> 00 DE4=100
        repeat hold                         -> 00
        card 9850
        held 50
    """,
    "an enquiry is not kept": """
        balance as asked                    -> 00
        sell 500                            -> 00
        repeat asked                        -> 00
        links 1
    """,
    "a wrong PIN is counted once, however often it is repeated": """
        sell 500 pin wrong as sale          -> 55 PIN
        repeat sale                         -> 55 PIN
        repeat sale                         -> 55 PIN
        repeat sale                         -> 55 PIN
        repeat sale                         -> 55 PIN
        repeat sale                         -> 55 PIN
        sell 500 pin right                  -> 00
        card 9500
    """,
    "five wrong PINs lock the PIN, not the card": """
        sell 1 pin wrong                    -> 55 PIN
        sell 1 pin wrong                    -> 55 PIN
        sell 1 pin wrong                    -> 55 PIN
        sell 1 pin wrong                    -> 55 PIN
        sell 1 pin wrong                    -> 55 PIN
        sell 1 pin right                    -> 75 PINLOCKED
        sell 500                            -> 00
        card 9500
    """,
    "no oracle: keyed, everything wrong is 14": """
        sell 1 keyed                        -> 14 CARD
        sell 1 keyed code wrong             -> 14 CARD
        sell 1 keyed pin wrong              -> 14 CARD
        balance keyed                       -> 14 CARD
        sell 1 keyed code right             -> 00
        card 9999
    """,
    "a keyed one's key with other content is 14 again": """
        sell 1 keyed code wrong as sale     -> 14 CARD
        repeat sale amount 2                -> 14 CARD
        repeat sale                         -> 14 CARD
    """,
}


@pytest.mark.parametrize("name", ROWS)
def test_identity(name: str) -> None:
    told(ROWS[name])
