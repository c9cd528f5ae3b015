"""TLS on a connection, without the connection: bytes in, bytes out.

TLS 1.2 or newer, and mutual wherever a certificate authority for the peers is named: then a peer
without a certificate of it never gets as far as a frame.
"""

from __future__ import annotations

import ssl
from pathlib import Path

__all__ = ["TlsEnd", "TlsFailed", "server_context"]

_READ_BYTES = 65_536


class TlsFailed(Exception):
    """The handshake or a record is not as it must be; the connection is of no more use."""


def server_context(certificate: Path, key: Path, peers_authority: Path | None) -> ssl.SSLContext:
    """The server's side. ssl.SSLError or OSError for files that do not serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if peers_authority is not None:
        context.load_verify_locations(peers_authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsEnd:
    """One end of a TLS connection over bytes that somebody else carries."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._shaken = False

    def receive(self, data: bytes) -> bytes:
        """What the peer's bytes say; afterwards `outgoing` may have something to send."""
        self._incoming.write(data)
        plain = []
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
            while part := self._tls.read(_READ_BYTES):
                plain.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsFailed(error.reason or "TLS") from None
        return b"".join(plain)

    def send(self, data: bytes) -> bytes:
        """The bytes to send for these."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise TlsFailed(error.reason or "TLS") from None
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """What the protocol itself has to send."""
        return self._outgoing.read()
