"""The keys of a terminal in a worker's memory: expanded once, by version, never shown."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping

from fastpath.mac import MacAlgorithm, MacKey

__all__ = ["PinFormat", "TerminalKeys"]

_VERSION_MAX = 99  # two digits of DE 53


class PinFormat(enum.IntEnum):
    """The ISO 9564-1 format of a terminal's PIN blocks."""

    FORMAT_0 = 0  # DE 52, under a TDES key
    FORMAT_4 = 4  # tag PB, under an AES key


class TerminalKeys:
    """The keys of a terminal, or of a link for all its terminals: expanded once, never shown.

    Versions are 1 to 99, as DE 53 names them. `mac_keys` and `pin_keys` map a version to the
    key's bytes. `current` is the MAC key version in force. `previous` was in force before it and is
    taken until `previous_until_s` (seconds since 1970). `pending` was handed out by a key change
    and has not been used yet; its first right MAC makes it the current one. Other versions are not
    taken. `reply_keys` are there for terminals whose replies have a key of their own. Of PIN keys
    `current_pin` is in force (by default the highest of `pin_keys`), `pending_pin` from its first
    use, and `previous_pin` is taken until `previous_pin_until_s`.
    """

    __slots__ = (
        "_mac_keys",
        "_pin_keys",
        "_previous_pin",
        "_previous_pin_until_s",
        "_previous_until_s",
        "_reply_keys",
        "algorithm",
        "awaits_use",
        "current",
        "current_pin",
        "pending",
        "pending_pin",
        "pin_format",
        "previous",
    )

    def __init__(
        self,
        algorithm: MacAlgorithm,
        mac_keys: Mapping[int, bytes],
        current: int,
        pin_keys: Mapping[int, bytes],
        pin_format: PinFormat = PinFormat.FORMAT_0,
        *,
        previous: int = 0,
        previous_until_s: float = 0,
        pending: int = 0,
        reply_keys: Mapping[int, bytes] | None = None,
        current_pin: int | None = None,
        pending_pin: int = 0,
        previous_pin: int = 0,
        previous_pin_until_s: float = 0,
    ) -> None:
        for version in (*mac_keys, *pin_keys, *(reply_keys or ())):
            if not 1 <= version <= _VERSION_MAX:
                raise ValueError(f"key version {version} is not between 1 and {_VERSION_MAX}")
        for version in (current, *filter(None, (previous, pending))):
            if version not in mac_keys:
                raise ValueError(f"there is no MAC key of version {version}")
        if len({current, previous, pending} - {0}) < 1 + bool(previous) + bool(pending):
            raise ValueError("one MAC key version in two places")
        if current_pin and current_pin not in pin_keys:
            raise ValueError(f"there is no PIN key of the current version {current_pin}")
        lengths = (16, 24) if pin_format is PinFormat.FORMAT_0 else (16, 24, 32)
        if any(len(key) not in lengths for key in pin_keys.values()):
            raise ValueError(f"PIN key has a wrong length for format {pin_format.value}")
        self.algorithm = algorithm
        self.current = current
        self.previous = previous
        self.pending = pending
        self.pending_pin = pending_pin
        self.awaits_use = bool(pending or pending_pin)
        """Whether a key was handed out that no message has used yet."""
        self.pin_format = pin_format
        usable = [version for version in pin_keys if version != pending_pin]
        self.current_pin = max(usable, default=0) if current_pin is None else current_pin
        self._mac_keys = {number: MacKey(algorithm, key) for number, key in mac_keys.items()}
        self._pin_keys = dict(pin_keys)
        self._previous_until_s = previous_until_s
        self._previous_pin = previous_pin
        self._previous_pin_until_s = previous_pin_until_s
        self._reply_keys = {
            number: MacKey(algorithm, key) for number, key in (reply_keys or {}).items()
        }

    def __repr__(self) -> str:
        return (
            f"TerminalKeys({self.algorithm.value}, current={self.current}, "
            f"versions={sorted(self._mac_keys)})"
        )

    def mac_candidates(
        self, version: int | None = None, now_s: float | None = None
    ) -> tuple[MacKey, ...]:
        """The keys a request's MAC may be made with, the likeliest first.

        A named version is that one alone, nothing when it is not taken (any more). None named (or
        0): the current one, then the previous inside its window, then the pending one. `now_s`
        defaults to the wall clock, which is only asked where a previous version exists.
        """
        keys = self._mac_keys
        if version:
            taken = version in (self.current, self.pending) or (
                version == self.previous and self._is_in_window(now_s)
            )
            return (keys[version],) if taken else ()
        if not self.previous and not self.pending:
            return (keys[self.current],)
        versions = [self.current]
        if self.previous and self._is_in_window(now_s):
            versions.append(self.previous)
        if self.pending:
            versions.append(self.pending)
        return tuple(keys[number] for number in versions)

    def _is_in_window(self, now_s: float | None) -> bool:
        return _is_before(now_s, self._previous_until_s)

    def version_of(self, key: MacKey) -> int:
        """The version of a key that `mac_candidates` gave. `LookupError` for a foreign one."""
        for version, own in self._mac_keys.items():
            if own is key:
                return version
        raise LookupError("not a key of this terminal")

    def reply_key(self, version: int) -> MacKey:
        """The key that signs the reply to a request under `version`. `KeyError` if unknown."""
        return self._reply_keys.get(version) or self._mac_keys[version]

    def pin_candidates(
        self, version: int | None = None, now_s: float | None = None
    ) -> tuple[tuple[int, bytes], ...]:
        """(version, key) of each key a PIN block may be made with, the likeliest first.

        By the same rule as `mac_candidates`: a named version is that one alone. A block opens under
        another key than its own to what is no PIN block, but for one in ten million.
        """
        versions = [self.current_pin]
        if self._previous_pin and _is_before(now_s, self._previous_pin_until_s):
            versions.append(self._previous_pin)
        versions.append(self.pending_pin)
        keys = self._pin_keys
        if version:
            versions = [version] if version in versions else []
        return tuple((number, keys[number]) for number in versions if number in keys)


def _is_before(now_s: float | None, until_s: float) -> bool:
    return (time.time() if now_s is None else now_s) < until_s
