"""Keys of the switch: the master key, keys at rest as key blocks, and what checks cards.

One key has one usage: a key block is only opened by who names the usage it was made for, and a
block of another usage is refused even though its MAC is right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastpath import mac, pinblock
from fastpath.mac import MacAlgorithm, MacKey
from switch.keyblock import (
    BlockUsage,
    Exportability,
    KeyAlgorithm,
    KeyBlockError,
    KeyMode,
    ProtectionKey,
)

__all__ = [
    "MASTER_KEY_VARIABLE",
    "CardSecrets",
    "KeyUsage",
    "MasterKey",
    "MasterKeyError",
    "WrongUsage",
    "check_value",
    "derive",
    "unwrap_key",
    "wrap_key",
]

MASTER_KEY_VARIABLE = "CARDSWITCH_MASTER_KEY"
_MASTER_KEY_LENGTH = 32
_MASTER_KEY_FILE_LENGTH_MAX = 80  # 64 hex digits and some white space
_DERIVE_SALT = b"cardswitch demo secrets, version 1"
_PVV_KEY_INDEX = 1
_TOKEN_LENGTH = 12


class MasterKeyError(Exception):
    """No master key can be had. The text names file or variable, never the content."""


class WrongUsage(KeyBlockError):
    """The block is whole, but its key is for something else."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Profile:
    """How a usage is written in a block: the attributes for each algorithm it may have."""

    usages: Mapping[KeyAlgorithm, BlockUsage]
    mode: KeyMode  # what is written
    modes: frozenset[KeyMode]  # what is taken


def _profile(mode: KeyMode, *also: KeyMode, **usages: BlockUsage) -> _Profile:
    by_algorithm = {KeyAlgorithm[name]: usage for name, usage in usages.items()}
    return _Profile(by_algorithm, mode, frozenset({mode, KeyMode.UNRESTRICTED, *also}))


_CHECKING = KeyMode.GENERATE_AND_VERIFY


class KeyUsage(enum.Enum):
    """What the switch uses a key for, and how X9.143 writes it.

    | usage | algorithm: X9.143 usage | mode |
    |---|---|---|
    | `MAC` | TDES: M3 (ISO 9797-1 algorithm 3), AES: M6 (CMAC) | C |
    | `PIN` | P0 (TDES: format 0, AES: format 4) | D (also B): the switch only opens PIN blocks |
    | `KEK` | K1 (a key that protects key blocks; K0 would protect bare keys) | E (also B) |
    | `PVV` | TDES: V2 | C |
    | `CODE` | AES: C0 (digests of card verification codes) | C |
    | `TOKEN` | AES: 10 (proprietary: keyed digests of card numbers) | C |

    Mode N (no restriction) is taken, too. No two usages share a spelling, so that none can stand
    in for another.
    """

    MAC = _profile(_CHECKING, TDES=BlockUsage.MAC_ALGORITHM_3, AES=BlockUsage.MAC_CMAC)
    PIN = _profile(
        KeyMode.DECRYPT,
        KeyMode.ENCRYPT_AND_DECRYPT,
        TDES=BlockUsage.PIN_ENCRYPTION,
        AES=BlockUsage.PIN_ENCRYPTION,
    )
    KEK = _profile(
        KeyMode.ENCRYPT,
        KeyMode.ENCRYPT_AND_DECRYPT,
        TDES=BlockUsage.KEY_BLOCK_PROTECTION,
        AES=BlockUsage.KEY_BLOCK_PROTECTION,
    )
    PVV = _profile(_CHECKING, TDES=BlockUsage.PIN_VERIFICATION_PVV)
    CODE = _profile(_CHECKING, AES=BlockUsage.CARD_VERIFICATION)
    TOKEN = _profile(_CHECKING, AES=BlockUsage.PAN_DIGEST)


def wrap_key(
    protection: ProtectionKey,
    key: bytes,
    usage: KeyUsage,
    algorithm: KeyAlgorithm,
    *,
    exportability: Exportability = Exportability.NOT_EXPORTABLE,
    key_version: int = 0,
) -> str:
    """The key as a block for one usage; `key_version` (0 to 99) is written into the header.

    Raises `KeyBlockError`, for an algorithm that does not serve the usage, too.
    """
    block_usage = usage.value.usages.get(algorithm)
    if block_usage is None:
        raise KeyBlockError(f"{algorithm.name} is no algorithm for usage {usage.name}")
    return protection.wrap(
        key,
        block_usage,
        algorithm,
        usage.value.mode,
        exportability=exportability,
        key_version=f"{key_version:02d}",
    )


def unwrap_key(protection: ProtectionKey, block: str, usage: KeyUsage) -> bytes:
    """The key of a block that was made for `usage`; `WrongUsage` for any other block."""
    opened = protection.unwrap(block)
    profile = usage.value
    if profile.usages.get(opened.algorithm) is not opened.usage or opened.mode not in profile.modes:
        raise WrongUsage(f"the key in the block is not for usage {usage.name}")
    return opened.key


class MasterKey:
    """The AES-256 key under which all other keys rest, as X9.143 version D blocks."""

    __slots__ = ("_check_value", "_protection", "_root")

    def __init__(self, key: bytes) -> None:
        if len(key) != _MASTER_KEY_LENGTH:
            raise MasterKeyError("the master key is not 32 bytes")
        self._protection = ProtectionKey(key)
        self._check_value = check_value(KeyAlgorithm.AES, key)
        self._root = derive(key, "root of derived keys", _MASTER_KEY_LENGTH)

    @classmethod
    def load(cls, path: Path | None, environment: Mapping[str, str] | None = None) -> MasterKey:
        """From a file (hex digits or 32 raw bytes, for its owner alone), else the environment.

        With no path the variable CARDSWITCH_MASTER_KEY (64 hex digits) is taken. Raises
        `MasterKeyError` when there is none, when it is malformed, and when anybody but the owner
        may read or write the file.
        """
        if path is not None:
            return cls(_parse_master_key(_read_private(path), str(path)))
        text = (os.environ if environment is None else environment).get(MASTER_KEY_VARIABLE)
        if text is None:
            raise MasterKeyError(f"no master key: neither a file nor {MASTER_KEY_VARIABLE} is set")
        return cls(_parse_hex(text.encode(), MASTER_KEY_VARIABLE))

    @classmethod
    def create(cls, path: Path) -> MasterKey:
        """A new random key in a new file (mode 0600, hex). `FileExistsError` if there is one.

        The file appears under its name only when it is whole and on the disk.
        """
        key = secrets.token_bytes(_MASTER_KEY_LENGTH)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(key.hex().encode() + b"\n")
                file.flush()
                os.fsync(descriptor)
            os.link(draft, path)  # unlike a rename it never replaces an existing key
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(key)

    def __repr__(self) -> str:
        return "MasterKey(***)"

    def __reduce__(self) -> str:
        raise TypeError("the master key is not to be copied out of its process")

    @property
    def check_value(self) -> str:
        """Six hex digits by which a wrong master key is noticed before it does harm."""
        return self._check_value

    def wrap(
        self, key: bytes, usage: KeyUsage, algorithm: KeyAlgorithm, *, key_version: int = 0
    ) -> str:
        """The key as a block under this master key. Raises `KeyBlockError`."""
        return wrap_key(self._protection, key, usage, algorithm, key_version=key_version)

    def unwrap(self, block: str, usage: KeyUsage) -> bytes:
        """The key of a block made for `usage`; `WrongUsage`, `KeyBlockError` otherwise."""
        return unwrap_key(self._protection, block, usage)

    def derive(self, label: str, length: int = 32) -> bytes:
        """A key that only the master key and `label` decide, for uses that need no key block."""
        return derive(self._root, label, length)


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MasterKeyError(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)  # of the opened file: nobody can swap it in between
        if not stat.S_ISREG(status.st_mode):
            raise MasterKeyError(f"{path}: not a regular file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise MasterKeyError(f"{path}: mode {mode:04o} lets others in, 0600 is required")
        if status.st_uid not in (0, os.geteuid()):
            raise MasterKeyError(f"{path}: belongs to another user")
        return os.read(descriptor, _MASTER_KEY_FILE_LENGTH_MAX + 1)
    finally:
        os.close(descriptor)


def _parse_master_key(content: bytes, source: str) -> bytes:
    return content if len(content) == _MASTER_KEY_LENGTH else _parse_hex(content, source)


def _parse_hex(content: bytes, source: str) -> bytes:
    with contextlib.suppress(ValueError):
        key = bytes.fromhex(content.strip().decode("ascii"))
        if len(key) == _MASTER_KEY_LENGTH:
            return key
    raise MasterKeyError(f"{source}: expected 64 hex digits")


def check_value(algorithm: KeyAlgorithm, key: bytes) -> str:
    """The key check value as six hex digits (X9.24-1): by encryption for TDES, CMAC for AES."""
    return (
        mac.key_check_value("aes" if algorithm is KeyAlgorithm.AES else "tdes", key).hex().upper()
    )


def derive(master: bytes, label: str, length: int, *, odd_parity: bool = False) -> bytes:
    """`length` bytes that only `master` and `label` decide: secrets of the demo programme.

    HKDF with SHA-256 (RFC 5869). `odd_parity` sets each byte's lowest bit as DES keys have it.
    """
    kdf = HKDF(algorithm=SHA256(), length=length, salt=_DERIVE_SALT, info=label.encode())
    derived = kdf.derive(master)
    if odd_parity:
        derived = bytes(byte ^ (byte.bit_count() + 1 & 1) for byte in derived)
    return derived


class CardSecrets:
    """What the switch knows of a card's PIN and code: values that only its keys can check."""

    __slots__ = ("_code_key", "_pvv_key")

    def __init__(self, pvv_key: bytes, code_key: bytes) -> None:
        """`pvv_key`: TDES, 16 bytes (Visa PVV); `code_key`: AES, 16, 24 or 32 bytes."""
        if len(pvv_key) != 16:
            raise ValueError("PVV key is not 16 bytes")
        self._pvv_key = pvv_key
        self._code_key = MacKey(MacAlgorithm.AES_CMAC, code_key)

    def __repr__(self) -> str:
        return "CardSecrets(***)"

    def pvv(self, pin: str, pan: str) -> str:
        """The Visa PIN verification value, 4 digits. `ValueError` for a malformed PIN or PAN."""
        return pinblock.visa_pvv(pin, pan, _PVV_KEY_INDEX, self._pvv_key)

    def verify_pin(self, pin: str, pan: str, pvv: str) -> bool:
        """Whether the PIN has this PVV, in a time that does not tell how nearly."""
        try:
            expected = self.pvv(pin, pan)
        except ValueError:
            return False
        return hmac.compare_digest(expected.encode(), pvv.encode())

    def code_digest(self, card_token: bytes, code: str) -> bytes:
        """8 bytes of AES-CMAC over the card's token (12 bytes) and its verification code."""
        if len(card_token) != _TOKEN_LENGTH:
            raise ValueError(f"card token is not {_TOKEN_LENGTH} bytes")
        return self._code_key.sign(card_token + code.encode())

    def verify_code(self, card_token: bytes, code: str, digest: bytes) -> bool:
        """Whether the code has this digest, in a time that does not tell how nearly."""
        return hmac.compare_digest(self.code_digest(card_token, code), digest)
