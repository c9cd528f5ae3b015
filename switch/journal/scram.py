"""The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), as PostgreSQL speaks it: no user name,
no channel binding."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import unicodedata

__all__ = ["ScramFailed", "ScramLogin"]

_MECHANISM = b"SCRAM-SHA-256"
_OK, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 10, 11, 12
"""What an Authentication message of the server asks for."""
_WITHOUT_BINDING = "n,,"
_ITERATIONS_MAX = 10_000_000
"""What a server may ask for before it is taken for one that wants to keep us busy."""


class ScramFailed(Exception):
    """The server speaks another mechanism, breaks the rules, or does not know the password."""


class ScramLogin:
    """One login: `first`, then `proof`, then `check`; `answer` takes them in turn."""

    def __init__(self, password: str, *, user: str = "", nonce: str = "") -> None:
        """PostgreSQL knows the user from the start of the connection and ignores it here."""
        # SASLprep (RFC 4013) but for its prohibitions, which the server leaves out as well.
        self._password = unicodedata.normalize("NFKC", password).encode()
        self._nonce = nonce or base64.b64encode(secrets.token_bytes(18)).decode()
        self._first = f"n={user},r={self._nonce}"
        self._expected = b""
        self._begun = self._checked = False

    def answer(self, asked: int, body: bytes) -> bytes:
        """What to send for an Authentication message; b"" for nothing.

        ScramFailed for another mechanism, and for a server that lets us in without a proof once
        it has asked for one. A server that asks for nothing (trust, peer) is let be.
        """
        if asked == _SASL:
            self._begun = True
            return self.first(body)
        if asked == _SASL_CONTINUE and self._begun:
            return self.proof(body)
        if asked == _SASL_FINAL and self._begun:
            self.check(body)
        elif asked != _OK:
            raise ScramFailed("the server asks for another login than SCRAM-SHA-256")
        elif self._begun and not self._checked:
            raise ScramFailed("the server did not prove that it knows the password")
        return b""

    def first(self, mechanisms: bytes) -> bytes:
        """The body of SASLInitialResponse, for the mechanisms that the server offers."""
        if _MECHANISM not in mechanisms.split(b"\0"):
            raise ScramFailed("the server offers no SCRAM-SHA-256")
        words = (_WITHOUT_BINDING + self._first).encode()
        return _MECHANISM + b"\0" + len(words).to_bytes(4, "big") + words

    def proof(self, challenge: bytes) -> bytes:
        """The body of SASLResponse."""
        words = challenge.decode("ascii", "replace")
        try:
            fields = dict(part.split("=", 1) for part in words.split(","))
            nonce, salt = fields["r"], base64.b64decode(fields["s"], validate=True)
            iterations = int(fields["i"])
        except (ValueError, KeyError, binascii.Error):
            raise ScramFailed("the server's challenge cannot be read") from None
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramFailed("the server's challenge is not for this login")
        if not 1 <= iterations <= _ITERATIONS_MAX:
            raise ScramFailed("the server asks for too many iterations")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        binding = base64.b64encode(_WITHOUT_BINDING.encode()).decode()
        last = f"c={binding},r={nonce}"
        signed = f"{self._first},{words},{last}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        self._expected = hmac.digest(server_key, signed, "sha256")
        return f"{last},p={base64.b64encode(proof).decode()}".encode()

    def check(self, outcome: bytes) -> None:
        """The server's own proof; ScramFailed where it is none."""
        try:
            found = base64.b64decode(outcome.removeprefix(b"v="), validate=True)
        except binascii.Error:
            found = b""
        if not self._expected or not hmac.compare_digest(found, self._expected):
            raise ScramFailed("the server did not prove that it knows the password")
        self._checked = True
