"""What verification asks of a card's window, against the window itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rules.window import WINDOW_LENGTH, Window
from switch.verify.rows import _window

INSTANTS = st.sampled_from((0, 0, 0, 1, 2)).map(lambda instant: instant.to_bytes(4, "big"))
KEY = st.tuples(INSTANTS, st.binary(min_size=12, max_size=12)).map(b"".join)
KEYS = st.integers(0, 24).flatmap(lambda size: st.lists(KEY, min_size=size, max_size=size))


@given(KEYS, KEYS)
def test_it_goes_on_from_a_signed_opening(archived: list[bytes], there: list[bytes]) -> None:
    """Also where keys without an instant are dropped, out of the opening or out of the journal."""
    window = Window()
    for version, key in enumerate(archived, 1):
        window.add(key, version)
    opening = window.encode()
    window = Window(opening)
    entries = []
    for version, key in enumerate(there, len(archived) + 1):
        window.add(key, version)
        entries.append(key + version.to_bytes(4, "big"))
    # As the query reads them: the newest keys, and the latest instant of the others.
    older = [max(key[:4], b"\0\0\0\1").hex() for key in there[:-WINDOW_LENGTH]]
    row = {
        "opening_window": opening,
        "keys": b"".join(entries[-WINDOW_LENGTH:]),
        "dropped": max(older, default=None),
    }
    assert _window(row) == window.encode()
