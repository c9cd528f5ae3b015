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
    key's bytes. `current` is the MAC key version in force; lower ones are former versions, higher
    ones were handed out by a key change and have not been used yet. `taken_until_s` says up to
    which instant (seconds since 1970) a former version is still taken; one without an entry
    is not taken any more. `reply_keys` are there for terminals whose replies have a key of their
    own. `current_pin` defaults to the highest version of `pin_keys`.
    """

    __slots__ = (
        "_mac_keys",
        "_pin_keys",
        "_reply_keys",
        "_taken_until_s",
        "algorithm",
        "current",
        "current_pin",
        "pin_format",
    )

    def __init__(
        self,
        algorithm: MacAlgorithm,
        mac_keys: Mapping[int, bytes],
        current: int,
        pin_keys: Mapping[int, bytes],
        pin_format: PinFormat = PinFormat.FORMAT_0,
        *,
        taken_until_s: Mapping[int, float] | None = None,
        reply_keys: Mapping[int, bytes] | None = None,
        current_pin: int | None = None,
    ) -> None:
        for version in (*mac_keys, *pin_keys, *(reply_keys or ())):
            if not 1 <= version <= _VERSION_MAX:
                raise ValueError(f"key version {version} is not between 1 and {_VERSION_MAX}")
        if current not in mac_keys:
            raise ValueError(f"there is no MAC key of the current version {current}")
        if current_pin is not None and current_pin not in pin_keys:
            raise ValueError(f"there is no PIN key of the current version {current_pin}")
        lengths = (16, 24) if pin_format is PinFormat.FORMAT_0 else (16, 24, 32)
        if any(len(key) not in lengths for key in pin_keys.values()):
            raise ValueError(f"PIN key has a wrong length for format {pin_format.value}")
        self.algorithm = algorithm
        self.current = current
        self.pin_format = pin_format
        self.current_pin = max(pin_keys, default=0) if current_pin is None else current_pin
        self._mac_keys = {number: MacKey(algorithm, key) for number, key in mac_keys.items()}
        self._pin_keys = dict(pin_keys)
        self._taken_until_s = dict(taken_until_s or {})
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

        A named version is that one alone, nothing when it is unknown or its window is over.
        None named (or 0): the current one, then the previous inside its window, then one that a
        key change handed out, for its first right MAC makes it the current one. `now_s` defaults
        to the wall clock, which is only asked where a former version exists.
        """
        if version:
            key = self._mac_keys.get(version)
            return () if key is None or not self._is_taken(version, now_s) else (key,)
        keys = self._mac_keys
        if len(keys) == 1:
            return (keys[self.current],)
        former = max((number for number in keys if number < self.current), default=0)
        later = sorted(number for number in keys if number > self.current)
        previous = [former] if former and self._is_taken(former, now_s) else []
        return tuple(keys[number] for number in (self.current, *previous, *later))

    def _is_taken(self, version: int, now_s: float | None) -> bool:
        if version >= self.current:
            return True
        until_s = self._taken_until_s.get(version)
        return until_s is not None and (time.time() if now_s is None else now_s) < until_s

    def version_of(self, key: MacKey) -> int:
        """The version of a key that `mac_candidates` gave. `LookupError` for a foreign one."""
        for version, own in self._mac_keys.items():
            if own is key:
                return version
        raise LookupError("not a key of this terminal")

    def reply_key(self, version: int) -> MacKey:
        """The key that signs the reply to a request under `version`. `KeyError` if unknown."""
        return self._reply_keys.get(version) or self._mac_keys[version]

    def pin_key(self, version: int | None = None) -> bytes | None:
        """The PIN key of a version (none named, or 0: the current one); None if there is none."""
        return self._pin_keys.get(version or self.current_pin)
