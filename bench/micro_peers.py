"""What the pieces of the fast path are measured against: other libraries, at the same work."""

from __future__ import annotations

import copy
import ctypes
import ctypes.util
import hashlib
import hmac
import warnings
from collections.abc import Callable

import iso8583
import iso8583.specs
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from psec.mac import generate_retail_mac

__all__ = [
    "CITED",
    "HashedCards",
    "Iso8583Peer",
    "OpenSslCore",
    "psec_retail_mac",
    "pyca_aes_cmac",
    "pyca_retail_mac",
    "pyca_tdes_mac",
]

CITED = {
    "jPOS, decode": "1.33 us (HEAD of August 2026, JDK 17; a 0200 of 21 fields, 2026-11-22)",
    "jPOS, pack": "2.4 to 3.4 us (as above)",
    "moov iso8583, decode": "5.4 to 7.7 us (HEAD of August 2026, Go 1.27.3; as above)",
}
"""Peers that are not Python, on a machine of the same kind; not measured in the same run."""

_BLOCK = 8
_LONG = 1 << 16


class OpenSslCore:
    """DES of libcrypto on one long buffer: the cipher itself, without key setup or calls.

    `retail_mac` and `tdes_mac` time what the blocks of one message cost: as many as the MAC of a
    message of `size` bytes takes.
    """

    def __init__(self, size: int) -> None:
        path = ctypes.util.find_library("crypto")
        self.library = None if path is None else ctypes.CDLL(path)
        self.blocks = -(-size // _BLOCK)
        self._in = ctypes.create_string_buffer(_LONG)
        self._out = ctypes.create_string_buffer(_LONG)
        self._schedules = [ctypes.create_string_buffer(128) for _ in range(3)]
        if self.library is not None:
            for n, schedule in enumerate(self._schedules):
                self.library.DES_set_key_unchecked(bytes(range(n, n + _BLOCK)), schedule)

    @property
    def name(self) -> str:
        """Which library was found."""
        if self.library is None:
            return "no libcrypto here"
        self.library.OpenSSL_version.restype = ctypes.c_char_p
        return str(self.library.OpenSSL_version(0).decode())

    def chain_des(self) -> int:
        """Enciphers the buffer in CBC; how many blocks that were."""
        assert self.library is not None
        chain = ctypes.create_string_buffer(_BLOCK)
        length = ctypes.c_long(_LONG)
        self.library.DES_ncbc_encrypt(self._in, self._out, length, self._schedules[0], chain, 1)
        return _LONG // _BLOCK

    def chain_tdes(self) -> int:
        """The same with Triple DES."""
        assert self.library is not None
        chain = ctypes.create_string_buffer(_BLOCK)
        length = ctypes.c_long(_LONG)
        self.library.DES_ede3_cbc_encrypt(self._in, self._out, length, *self._schedules, chain, 1)
        return _LONG // _BLOCK


def pyca_retail_mac(key: bytes, data: bytes) -> bytes:
    """By OpenSSL through the cryptography library, `key` of 24 bytes: DES is Triple DES of three
    equal keys, and the last block goes under all of it."""
    left, right = TripleDES(key[:8] * 3), TripleDES(key)
    padded = data + bytes(-len(data) % _BLOCK)
    encryptor = Cipher(left, modes.CBC(bytes(8))).encryptor()
    chain = encryptor.update(padded[:-_BLOCK])[-_BLOCK:] if len(padded) > _BLOCK else bytes(8)
    last = bytes(one ^ other for one, other in zip(chain, padded[-_BLOCK:], strict=True))
    return Cipher(right, modes.ECB()).encryptor().update(last)  # noqa: S305 - one block


def pyca_tdes_mac(key: bytes, data: bytes) -> bytes:
    """MAC algorithm 1 with Triple DES."""
    padded = data + bytes(-len(data) % _BLOCK)
    return Cipher(TripleDES(key), modes.CBC(bytes(8))).encryptor().update(padded)[-8:]


def pyca_aes_cmac(key: bytes, data: bytes) -> bytes:
    """The leftmost 8 bytes."""
    other = CMAC(AES(key))
    other.update(data)
    return other.finalize()[:8]


def psec_retail_mac(key: bytes, data: bytes) -> bytes:
    """psec gives OpenSSL keys of 8 bytes, of which it warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(generate_retail_mac(key[:8], key[8:], data, 1))


class Iso8583Peer:
    """pyiso8583 with the table of `iso87-ascii`."""

    def __init__(self) -> None:
        self.spec = copy.deepcopy(iso8583.specs.default_ascii)
        for number in ("52", "64", "128"):
            self.spec[number].update(data_enc="ascii", max_len=16)
        for number in ("p", "1"):
            self.spec[number].update(data_enc="ascii", max_len=16)
        self.spec["55"].update(data_enc="ascii", len_enc="ascii", len_type=3, max_len=999)

    def decode(self, frame: bytes) -> dict[str, str]:
        """All fields as text."""
        opened, _ = iso8583.decode(frame, self.spec)
        return dict(opened)

    def encode(self, fields: dict[str, str]) -> bytes:
        """With "t" for the message type."""
        frame, _ = iso8583.encode(dict(fields), self.spec)
        return bytes(frame)


class HashedCards:
    """What one would write without a token table: a dict of keyed digests."""

    def __init__(self, key: bytes, pans: list[str]) -> None:
        self.key = key
        self.ids = {self.digest(pan): n for n, pan in enumerate(pans, 1)}
        self.digest_of: Callable[[str], bytes] = self.digest

    def digest(self, pan: str) -> bytes:
        """The leading half of an HMAC-SHA-256."""
        return hmac.new(self.key, pan.encode(), hashlib.sha256).digest()[:16]

    def get(self, pan: str) -> int:
        """0 when unknown."""
        return self.ids.get(self.digest(pan), 0)
