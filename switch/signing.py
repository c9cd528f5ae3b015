"""Signatures that anybody can check: Ed25519 (RFC 8032)."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SigningKey", "SigningKeyError", "is_signed"]

_SEED_LENGTH = 32


class SigningKeyError(Exception):
    """The key file cannot be used; the text names it, never its content."""


class SigningKey:
    """A private key that does not leave its process."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw().hex()
        """The public key, 64 hex digits."""

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public})"

    @classmethod
    def open(cls, path: Path) -> SigningKey:
        """The key in a file for its owner alone (hex), made when there is none. SigningKeyError."""
        try:
            if not path.exists():
                _create(path)
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise SigningKeyError(f"{path}: lets others in, mode 0600 is required")
            return cls(bytes.fromhex(path.read_text().strip()))
        except OSError as error:
            raise SigningKeyError(f"{path}: {error.strerror}") from None
        except ValueError:
            raise SigningKeyError(f"{path}: expected {2 * _SEED_LENGTH} hex digits") from None

    def sign(self, data: bytes) -> str:
        """128 hex digits."""
        return self._key.sign(data).hex()


def _create(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SEED_LENGTH).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # never in the place of a key that is there
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def is_signed(public: str, data: bytes, signature: str) -> bool:
    """Whether the signature is of this data, under this public key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True
