"""Key blocks of ANSI X9.143 (formerly TR-31): a key travels and rests encrypted, with its purpose.

Two versions are spoken: D (AES key derivation binding) and B (TDES key derivation binding). Both
derive an encryption and an authentication key from the key block protection key (KBPK) by CMAC,
take the CMAC over header and clear key data, and encrypt the key data in CBC mode with that MAC as
initialisation vector (X9.143:2021, 7; TR-31:2018, 5.3.2). Versions A and C are deprecated and
refused.
"""

from __future__ import annotations

import dataclasses
import enum
import hmac
import re
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from fastpath import mac

__all__ = [
    "BlockUsage",
    "BlockVersion",
    "Exportability",
    "KeyAlgorithm",
    "KeyBlock",
    "KeyBlockError",
    "KeyMode",
    "ProtectionKey",
    "unwrap",
    "wrap",
]


class KeyBlockError(ValueError):
    """A key block that cannot be made or taken. The text never holds key material."""


class BlockVersion(enum.Enum):
    """How a block is protected (X9.143:2021, 6.2, byte 0)."""

    TDES = "B"
    AES = "D"


class BlockUsage(enum.Enum):
    """What the key in a block is for (X9.143:2021, table 2). Numeric values are proprietary."""

    BASE_DERIVATION = "B0"
    DUKPT_INITIAL = "B1"
    CARD_VERIFICATION = "C0"
    DATA_ENCRYPTION = "D0"
    KEY_ENCRYPTION = "K0"
    KEY_BLOCK_PROTECTION = "K1"
    MAC_ALGORITHM_3 = "M3"  # ISO 9797-1 algorithm 3: the retail MAC
    MAC_CMAC = "M6"  # ISO 9797-1:2011 algorithm 5: CMAC
    PIN_ENCRYPTION = "P0"
    PIN_VERIFICATION_PVV = "V2"
    PAN_DIGEST = "10"  # proprietary: keyed digests of card numbers


class KeyAlgorithm(enum.Enum):
    """The algorithm the key in a block works with."""

    AES = "A"
    TDES = "T"


class KeyMode(enum.Enum):
    """What may be done with the key in a block (X9.143:2021, table 4)."""

    ENCRYPT_AND_DECRYPT = "B"
    GENERATE_AND_VERIFY = "C"
    DECRYPT = "D"
    ENCRYPT = "E"
    GENERATE = "G"
    UNRESTRICTED = "N"
    VERIFY = "V"
    DERIVE = "X"


class Exportability(enum.Enum):
    """Whether the key may leave under another key."""

    EXPORTABLE = "E"
    NOT_EXPORTABLE = "N"
    SENSITIVE = "S"


@dataclasses.dataclass(frozen=True, slots=True)
class KeyBlock:
    """An opened key block. The key is not part of the repr.

    `key_version` is two characters ("00": the key has none); `optional` holds the optional blocks
    in order, as (identifier, data).
    """

    key: bytes = dataclasses.field(repr=False)
    usage: BlockUsage
    algorithm: KeyAlgorithm
    mode: KeyMode
    key_version: str
    exportability: Exportability
    version: BlockVersion
    optional: tuple[tuple[str, str], ...] = ()


_HEADER_LENGTH = 16
_HEADER = re.compile(
    r"([BD])([0-9]{4})([0-9A-Z]{2})([0-9A-Z])([0-9A-Z])([0-9A-Za-z]{2})([0-9A-Z])([0-9]{2})[0-2]0"
)
_OPTIONAL_HEAD = re.compile(r"([0-9A-Z]{2})([0-9A-F]{2})")
_HEX = re.compile(r"(?:[0-9A-F]{2})*")
_KEY_VERSION = re.compile(r"[0-9A-Za-z]{2}")

_CIPHER_BLOCK = {BlockVersion.TDES: 8, BlockVersion.AES: 16}
_PROTECTION_ALGORITHM = {
    BlockVersion.TDES: KeyAlgorithm.TDES,
    BlockVersion.AES: KeyAlgorithm.AES,
}

_STRENGTH = {
    (KeyAlgorithm.TDES, 16): 1,
    (KeyAlgorithm.TDES, 24): 2,
    (KeyAlgorithm.AES, 16): 3,
    (KeyAlgorithm.AES, 24): 4,
    (KeyAlgorithm.AES, 32): 5,
}
"""Order of strength: a key is never protected by a weaker one (X9.143:2021, 5; PCI PIN 18)."""

_DERIVATION_INDICATOR = {
    (BlockVersion.TDES, 16): b"\x00\x00",
    (BlockVersion.TDES, 24): b"\x00\x01",
    (BlockVersion.AES, 16): b"\x00\x02",
    (BlockVersion.AES, 24): b"\x00\x03",
    (BlockVersion.AES, 32): b"\x00\x04",
}
_FOR_ENCRYPTION = b"\x00\x00"
_FOR_AUTHENTICATION = b"\x00\x01"

_KEY_LENGTH_MAX = {KeyAlgorithm.TDES: 24, KeyAlgorithm.AES: 32}
"""Every key is padded as if it had this length, so that a block does not tell how long it is."""


def wrap(
    kbpk: bytes,
    key: bytes,
    usage: BlockUsage,
    algorithm: KeyAlgorithm,
    mode: KeyMode,
    *,
    exportability: Exportability = Exportability.NOT_EXPORTABLE,
    version: BlockVersion = BlockVersion.AES,
    key_version: str = "00",
) -> str:
    """The key as a block under `kbpk` (version D: AES of 16, 24, 32 bytes; B: TDES of 16, 24).

    Raises `KeyBlockError` for a length the algorithm does not have and for a key stronger than
    the one that is to protect it.
    """
    return ProtectionKey(kbpk, version).wrap(
        key, usage, algorithm, mode, exportability=exportability, key_version=key_version
    )


def unwrap(kbpk: bytes, block: str) -> KeyBlock:
    """Open a block under `kbpk`; the version is the one the block claims.

    Raises `KeyBlockError` for anything but a well-formed block whose MAC is right.
    """
    if not block or block[0] not in "BD":
        raise KeyBlockError("key block version is not supported")
    return ProtectionKey(kbpk, BlockVersion(block[0])).unwrap(block)


class ProtectionKey:
    """A KBPK with its two derived keys, for whoever opens many blocks under one key."""

    __slots__ = ("_authentication", "_encryption", "_strength", "version")

    version: BlockVersion

    def __init__(self, kbpk: bytes, version: BlockVersion = BlockVersion.AES) -> None:
        strength = _STRENGTH.get((_PROTECTION_ALGORITHM[version], len(kbpk)))
        if strength is None:
            raise KeyBlockError(f"protection key has a wrong length for version {version.value}")
        self.version = version
        self._strength = strength
        self._encryption = _derive(kbpk, version, _FOR_ENCRYPTION)
        self._authentication = _derive(kbpk, version, _FOR_AUTHENTICATION)

    def __repr__(self) -> str:
        return f"ProtectionKey(***, version={self.version.value})"

    def __reduce__(self) -> str:
        raise TypeError("a protection key is not to be copied out of its process")

    def wrap(
        self,
        key: bytes,
        usage: BlockUsage,
        algorithm: KeyAlgorithm,
        mode: KeyMode,
        *,
        exportability: Exportability = Exportability.NOT_EXPORTABLE,
        key_version: str = "00",
    ) -> str:
        """See the function of the same name."""
        self._check_strength(algorithm, len(key))
        if _KEY_VERSION.fullmatch(key_version) is None:
            raise KeyBlockError("key version is not two letters or digits")
        cipher_block = _CIPHER_BLOCK[self.version]
        # bit length and key, then padding up to the longest key there is and a whole cipher block
        data_length = 2 + _KEY_LENGTH_MAX[algorithm]
        data_length += -data_length % cipher_block
        padding = secrets.token_bytes(data_length - 2 - len(key))
        clear = (len(key) * 8).to_bytes(2, "big") + key + padding
        block_length = _HEADER_LENGTH + 2 * (data_length + cipher_block)
        header = (
            f"{self.version.value}{block_length:04d}{usage.value}{algorithm.value}{mode.value}"
            f"{key_version}{exportability.value}0000"
        )
        authenticator = self._cmac(header.encode() + clear)
        sealed = self._encrypt(authenticator, clear)
        return header + (sealed + authenticator).hex().upper()

    def unwrap(self, block: str) -> KeyBlock:
        """See the function of the same name; a block of another version is refused."""
        match = _HEADER.match(block)
        if match is None or match[1] != self.version.value:
            raise KeyBlockError("key block header is malformed or of another version")
        if int(match[2]) != len(block):
            raise KeyBlockError("key block length differs from its header")
        optional, header_length = _parse_optional(block, int(match[8]))
        cipher_block = _CIPHER_BLOCK[self.version]
        body = block[header_length:]
        # upper case only: one key block has one spelling
        if _HEX.fullmatch(body) is None or len(body) < 4 * cipher_block:
            raise KeyBlockError("key block body is malformed")
        if header_length % cipher_block or len(body) % (2 * cipher_block):
            raise KeyBlockError("key block is not made of whole cipher blocks")
        sealed = bytes.fromhex(body)
        received = sealed[-cipher_block:]
        clear = self._decrypt(received, sealed[:-cipher_block])
        expected = self._cmac(block[:header_length].encode() + clear)
        if not hmac.compare_digest(expected, received):
            raise KeyBlockError("key block MAC is wrong")
        try:
            usage, algorithm = BlockUsage(match[3]), KeyAlgorithm(match[4])
            mode, exportability = KeyMode(match[5]), Exportability(match[7])
        except ValueError:
            raise KeyBlockError("key block attribute is not supported") from None
        return KeyBlock(
            key=self._key_of(clear, algorithm),
            usage=usage,
            algorithm=algorithm,
            mode=mode,
            key_version=match[6],
            exportability=exportability,
            version=self.version,
            optional=optional,
        )

    def _key_of(self, clear: bytes, algorithm: KeyAlgorithm) -> bytes:
        length, odd_bits = divmod(int.from_bytes(clear[:2], "big"), 8)
        if odd_bits or 2 + length > len(clear):
            raise KeyBlockError("key length in the block is malformed")
        self._check_strength(algorithm, length)
        return clear[2 : 2 + length]

    def _check_strength(self, algorithm: KeyAlgorithm, length: int) -> None:
        strength = _STRENGTH.get((algorithm, length))
        if strength is None:
            raise KeyBlockError(f"key has a wrong length for {algorithm.name}")
        if strength > self._strength:
            raise KeyBlockError("key is stronger than the key that protects it")

    def _cmac(self, data: bytes) -> bytes:
        return _cmac(self._authentication, self.version, data)

    def _encrypt(self, vector: bytes, data: bytes) -> bytes:
        if self.version is BlockVersion.TDES:
            return mac.tdes_encrypt_cbc(self._encryption, vector, data)
        cipher = Cipher(algorithms.AES(self._encryption), modes.CBC(vector)).encryptor()
        return cipher.update(data) + cipher.finalize()

    def _decrypt(self, vector: bytes, data: bytes) -> bytes:
        if self.version is BlockVersion.TDES:
            return mac.tdes_decrypt_cbc(self._encryption, vector, data)
        cipher = Cipher(algorithms.AES(self._encryption), modes.CBC(vector)).decryptor()
        return cipher.update(data) + cipher.finalize()


def _cmac(key: bytes, version: BlockVersion, data: bytes) -> bytes:
    if version is BlockVersion.TDES:
        return mac.tdes_cmac(key, data)
    context = CMAC(algorithms.AES(key))
    context.update(data)
    return context.finalize()


def _derive(kbpk: bytes, version: BlockVersion, purpose: bytes) -> bytes:
    """As many key bytes as the KBPK has: CMAC over counter, purpose, 0, algorithm, bit length."""
    tail = (
        purpose + b"\x00" + _DERIVATION_INDICATOR[version, len(kbpk)]
        + (len(kbpk) * 8).to_bytes(2, "big")
    )  # fmt: skip
    rounds = -(-len(kbpk) // _CIPHER_BLOCK[version])
    material = b"".join(_cmac(kbpk, version, bytes([n + 1]) + tail) for n in range(rounds))
    return material[: len(kbpk)]


def _parse_optional(block: str, count: int) -> tuple[tuple[tuple[str, str], ...], int]:
    """The optional blocks and the offset behind them (X9.143:2021, 6.3)."""
    found: list[tuple[str, str]] = []
    offset = _HEADER_LENGTH
    for _ in range(count):
        head = _OPTIONAL_HEAD.match(block, offset)
        if head is None:
            raise KeyBlockError("optional block is malformed")
        length, head_length = int(head[2], 16), 4
        if length == 0:  # extended form: "02", then four hex digits
            extended = block[offset + 4 : offset + 10]
            if extended[:2] != "02" or len(extended) != 6 or _HEX.fullmatch(extended) is None:
                raise KeyBlockError("optional block length is malformed")
            length, head_length = int(extended[2:], 16), 10
        data = block[offset + head_length : offset + length]
        if length < head_length or offset + length > len(block):
            raise KeyBlockError("optional block length is malformed")
        if not (data.isascii() and data.isprintable()):
            raise KeyBlockError("optional block is not printable ASCII")
        found.append((head[1], data))
        offset += length
    return tuple(found), offset
