"""The last request keys of a card, which answer "has this card seen this request before?".

A window holds the keys of the card's newest 16 links and travels with its state. Two facts make
"not in the window" an answer in most cases, without a look into the journal:

* a card with no more links than the window has entries has forgotten nothing;
* a key carries its message's own instant, and the window remembers the latest instant among the
  keys it has dropped. A key with a later instant cannot be one of those. No clock is compared with
  another, so a terminal whose clock is wrong costs a look-up at most, never a second purchase.

During a batch a window only grows: were it cut at each link, the batch's own links could push out
a key whose repeat stands further back in the same batch. `encode` cuts it.
"""

from __future__ import annotations

from rules.identity import KEY_LENGTH

__all__ = ["WINDOW_LENGTH", "Window"]

WINDOW_LENGTH = 16
_ENTRY = KEY_LENGTH + 4
_HEADER = 4
_EMPTY = bytes(_HEADER)
_BEGINNING = (1).to_bytes(_HEADER, "big")
"""The earliest instant that a key can have."""


class Window:
    """The keys of a card's newest links, each with the version of its link.

    Kept as the bytes it is stored as: four bytes for the latest instant dropped (0: none was), then
    per entry the key and its link's version, oldest first.
    """

    __slots__ = ("_data", "_found", "_sought")

    def __init__(self, data: bytes = b"") -> None:
        """Open an encoded window; empty bytes are the window of a card without links."""
        self._data = data or _EMPTY
        self._sought: bytes | None = None
        self._found: int | None = None

    def find(self, key: bytes) -> int | None:
        """The version of the newest link made for this key, if the window still holds it."""
        # Each request's key is looked for twice: to see what must be read, and to decide.
        if key is not self._sought:
            self._sought, self._found = key, self._find(key)
        return self._found

    def _find(self, key: bytes) -> int | None:
        data = self._data
        at = data.rfind(key, _HEADER)
        while at >= 0:
            if (at - _HEADER) % _ENTRY == 0:
                return int.from_bytes(data[at + KEY_LENGTH : at + _ENTRY], "big")
            at = data.rfind(key, _HEADER, at + KEY_LENGTH - 1)
        return None

    def add(self, key: bytes, version: int) -> None:
        """Remember a new link's key."""
        self._data += key + version.to_bytes(4, "big")
        self._sought = None

    def surely_knows(self, key: bytes) -> bool:
        """Whether a key that is not in the window is certainly new to this card."""
        dropped = self._data[:_HEADER]  # big-endian, as a key's instant: compared as they stand
        return dropped == _EMPTY or key[:_HEADER] > dropped

    def encode(self) -> bytes:
        """The window cut to its newest 16 entries, as bytes for the card's row."""
        surplus = len(self._data) - _HEADER - WINDOW_LENGTH * _ENTRY
        if surplus <= 0:
            return self._data
        data = self._data
        # One without an instant leaves a trace, too: another such key is never surely new then.
        dropped = max(data[:_HEADER], _BEGINNING)
        for at in range(_HEADER, _HEADER + surplus, _ENTRY):
            instant = data[at : at + _HEADER]  # big-endian: compared as they stand
            dropped = max(dropped, instant)
        return dropped + data[_HEADER + surplus :]
