"""What can still be restored: approved - returned - reversed, whatever their order and number."""

from __future__ import annotations

import itertools

import pytest

from .story import told

ROWS = {
    "a return above what is left": """
        sell 500 as sale                    -> 00
        return 501 of sale                  -> 13 RESTORABLE
        return 200 of sale                  -> 00
        return 301 of sale                  -> 13 RESTORABLE
        return 300 of sale                  -> 00
        return 1 of sale                    -> 13 RESTORABLE
        card 10000
    """,
    "a return after a partial reversal": """
        sell 500 as sale                    -> 00
        reverse sale to 200                 -> 00 PARTIAL
        return 201 of sale                  -> 13 RESTORABLE
        return 200 of sale                  -> 00
        reverse sale                        -> 00 ALREADY
        card 10000
    """,
    "a reversal undoes what returns have left": """
        sell 500 as sale                    -> 00
        return 200 of sale                  -> 00
        reverse sale to 301                 -> 13 AMOUNT
        reverse sale                        -> 00 REVERSED
        card 10000
        repeat sale                         -> 05 REVERSED
    """,
    "all returned: ALREADY, and the sale's repeat hears its answer": """
        sell 500 as sale                    -> 00
        return 500 of sale                  -> 00
        reverse sale                        -> 00 ALREADY
        repeat sale                         -> 00
        card 10000
    """,
    "all returned and reversed, then the return undone: nothing is taken": """
        sell 500 as sale                    -> 00
        return 500 of sale as back          -> 00
        reverse sale                        -> 00 ALREADY
        reverse back                        -> 00 REVERSED
        card 10000
        repeat sale                         -> 05 REVERSED
        repeat back                         -> 05 REVERSED
        ask sale                            -> 00 REVERSED OC=00
    """,
    "a return that was undone can be made again": """
        sell 500 as sale                    -> 00
        return 500 of sale as back          -> 00
        reverse back                        -> 00 REVERSED
        card 9500
        return 500 of sale                  -> 00
        card 10000
    """,
    "returned, spent, the return undone, then the sale: the customer has had it": """
        new active 500
        sell 500 as sale                    -> 00
        return 300 of sale as back          -> 00
        sell 300                            -> 00
        reverse back                        -> 00 PARTIAL
        owes shortfall 300
        reverse sale                        -> 00 REVERSED
        card 200
        owes nothing
    """,
    "the same, the sale first: one end": """
        new active 500
        sell 500 as sale                    -> 00
        return 300 of sale as back          -> 00
        sell 300                            -> 00
        reverse sale                        -> 00 REVERSED
        reverse back                        -> 00 REVERSED
        card 200
        owes nothing
        status active
    """,
    "a return of another merchant's sale": """
        sell 500 as sale                    -> 00
        return 500 of sale at other         -> 58 OTHERMERCHANT
        card 9500
    """,
    "a return of what is no sale": """
        load 500 as load                    -> 00
        return 500 of load                  -> 25 ORIGINAL
        hold 500 as hold                    -> 00
        return 500 of hold                  -> 25 ORIGINAL
    """,
    "a return of an offline sale: what the card has paid of it": """
        new active 500
        advise 800 as told                  -> 00 SHORTFALL
        becomes active
        return 501 of told                  -> 13 RESTORABLE
        return 500 of told                  -> 00
        reverse told                        -> 00 REVERSED
        card 500
        owes nothing
    """,
}


@pytest.mark.parametrize("name", ROWS)
def test_restorable(name: str) -> None:
    told(ROWS[name])


STEPS = ("reverse sale", "reverse one", "reverse two")


@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids=" - ".join)
def test_a_sale_and_two_returns_undone_in_any_order(order: tuple[str, ...]) -> None:
    undone = "\n".join(f"{step} -> 00 REVERSED" for step in order)
    story = told(f"""
        sell 500 as sale -> 00
        return 200 of sale as one -> 00
        return 100 of sale as two -> 00
        {undone}
        card 10000
        lots 1:300 2:9700
        owes nothing
    """)
    assert story.chain.status.name == "ACTIVE"
