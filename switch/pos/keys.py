"""What a demo terminal does with a key change: it opens the new key, checks it, and keeps it."""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Mapping
from typing import Final

from fastpath.mac import MacAlgorithm, MacKey
from switch.keyblock import (
    BlockUsage,
    BlockVersion,
    KeyAlgorithm,
    KeyBlockError,
    KeyMode,
    ProtectionKey,
)
from switch.keys import check_value
from switch.pos.demo import PosTerminal
from switch.pos.state import HeldKey

__all__ = ["KeyUnusable", "take_key", "with_keys"]

_VERSIONS: Final = range(1, 100)


class KeyUnusable(Exception):
    """What came as a new key is none that this terminal may use. The old one stays in force."""


def take_key(terminal: PosTerminal, usage: str, private: Mapping[str, str]) -> HeldKey:
    """The key of `usage` ("mac" or "pin") in `KB`, opened under the KEK and checked by `KC`.

    Raises KeyUnusable, whose text holds no key material.
    """
    algorithm, block_usage, modes = _expected(terminal, usage)
    aes = terminal.mac_key.algorithm is MacAlgorithm.AES_CMAC
    try:
        kek = ProtectionKey(terminal.kek, BlockVersion.AES if aes else BlockVersion.TDES)
        opened = kek.unwrap(private.get("KB", ""))
    except KeyBlockError as error:
        raise KeyUnusable(f"the key block cannot be opened: {error}") from None
    if opened.algorithm is not algorithm or opened.usage is not block_usage:
        raise KeyUnusable(f"the key in the block is for something else than a {usage} key")
    if opened.mode not in modes:
        raise KeyUnusable("the key in the block is for another use")
    if not opened.key_version.isdigit() or int(opened.key_version) not in _VERSIONS:
        raise KeyUnusable("the key in the block has no version")
    check = check_value(algorithm, opened.key)
    if not hmac.compare_digest(check.encode(), private.get("KC", "").encode()):
        raise KeyUnusable("its check value is another than KC says")
    return HeldKey(int(opened.key_version), opened.key.hex())


def _expected(
    terminal: PosTerminal, usage: str
) -> tuple[KeyAlgorithm, BlockUsage, frozenset[KeyMode]]:
    if usage == "pin":
        algorithm = KeyAlgorithm.AES if terminal.pin_format == 4 else KeyAlgorithm.TDES
        return algorithm, BlockUsage.PIN_ENCRYPTION, frozenset({KeyMode.ENCRYPT})
    modes = frozenset({KeyMode.GENERATE_AND_VERIFY})
    if terminal.mac_key.algorithm is MacAlgorithm.AES_CMAC:
        return KeyAlgorithm.AES, BlockUsage.MAC_CMAC, modes
    return KeyAlgorithm.TDES, BlockUsage.MAC_ALGORITHM_3, modes


def with_keys(terminal: PosTerminal, keys: Mapping[str, HeldKey]) -> PosTerminal:
    """The terminal with the keys that it was given by key changes, where there were any."""
    if "mac" in keys:
        held = keys["mac"]
        key = MacKey(terminal.mac_key.algorithm, bytes.fromhex(held.key))
        terminal = dataclasses.replace(terminal, mac_key=key, mac_version=held.version)
    if "pin" in keys:
        held = keys["pin"]
        key_bytes = bytes.fromhex(held.key)
        terminal = dataclasses.replace(terminal, pin_key=key_bytes, pin_version=held.version)
    return terminal
