"""Keys of the switch: the master key, keys at rest as key blocks, keys of terminals and of cards.

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
import time
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
    "PinFormat",
    "TerminalKeys",
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
_VERSION_MAX = 99  # two digits of DE 53


class MasterKeyError(Exception):
    """No master key can be had. The text names file or variable, never the content."""


class WrongUsage(KeyBlockError):
    """The block is whole, but its key is for something else."""


class PinFormat(enum.IntEnum):
    """The ISO 9564-1 format of a terminal's PIN blocks."""

    FORMAT_0 = 0  # DE 52, under a TDES key
    FORMAT_4 = 4  # tag PB, under an AES key


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

    __slots__ = ("_check_value", "_protection")

    def __init__(self, key: bytes) -> None:
        if len(key) != _MASTER_KEY_LENGTH:
            raise MasterKeyError("the master key is not 32 bytes")
        self._protection = ProtectionKey(key)
        self._check_value = check_value(KeyAlgorithm.AES, key)

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
