"""A lane's own connection to Postgres: the wire protocol on a Trio stream, one call at a time.

Only what a journal needs: prepared statements with binary parameters and results, one round trip a
call. Everything else (migrations, projections, checks) goes through `switch.journal.bridge`.
Protocol 3.0: PostgreSQL documentation, chapter "Frontend/Backend Protocol".
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import trio

from fastpath.pgwire import Messages, bind_execute, decode_row, message, parse_describe
from switch.journal.scram import ScramFailed, ScramLogin
from switch.journal.server import ConnectionLost, ServerError, server_error, severity
from switch.store_socket import StoreSocket

__all__ = ["JournalConnection", "ServerAddress"]

_Stream = StoreSocket | trio.SSLStream[trio.SocketStream]

_PROTOCOL = (3 << 16).to_bytes(4, "big")
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
_READ_BYTES = 65_536
_SETTINGS = {
    "application_name": "cardswitch",
    "client_encoding": "UTF8",
    "timezone": "UTC",
    # The tables' statistics are those of a quiet night when a plan is cached: never a full scan.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "idle_in_transaction_session_timeout": "10s",
}
_DEAD_PEER_S = 10
"""A server's machine that is gone without a word is given up after so long."""
_PEER_CLOSED = getattr(select, "POLLRDHUP", 0)
"""Not every system tells of a half that is closed; of a whole one and of errors all do, unasked."""
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# Types of backend messages
_AUTHENTICATION, _ERROR, _NOTICE, _READY = ord("R"), ord("E"), ord("N"), ord("Z")
_DATA_ROW, _PARAMETERS, _COLUMNS = ord("D"), ord("t"), ord("T")


@dataclass(frozen=True)
class ServerAddress:
    """Where a URL points: `postgresql://user:password@host:port/database?option=value`.

    `host` may be a directory with the server's Unix socket, in the authority (escaped) or as an
    option; several hosts, separated by commas, are tried in turn.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    database: str
    ssl_mode: str
    root_certificate: str

    @classmethod
    def of(cls, url: str) -> ServerAddress:
        """ValueError for a URL that names no server; its text holds no password."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        authority = parts.netloc.rpartition("@")[2]
        names = options.get("host") or authority
        ports = options.get("port", "").split(",")
        hosts = []
        for at, name in enumerate(names.split(",")):
            found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:]*)(?::(\d+))?", name)
            if found is None:
                raise ValueError("the URL of Postgres names no host")
            port = found[2] or (ports[at] if at < len(ports) else ports[0]) or "5432"
            hosts.append((unquote(found[1]).strip("[]") or "localhost", int(port)))
        ssl_mode = options.get("sslmode", "prefer")
        if ssl_mode not in _SSL_MODES:
            raise ValueError(f"sslmode {ssl_mode!r} is not one of {', '.join(_SSL_MODES)}")
        user = unquote(parts.username or options.get("user", "postgres"))
        return cls(
            tuple(hosts),
            user,
            unquote(parts.password or options.get("password", "")),
            unquote(parts.path.lstrip("/")) or user,
            ssl_mode,
            options.get("sslrootcert", ""),
        )

    def tls(self) -> ssl.SSLContext:
        """The context for this address' `sslmode`: only verify-ca and verify-full verify."""
        context = ssl.create_default_context(cafile=self.root_certificate or None)
        context.check_hostname = self.ssl_mode == "verify-full"
        if self.ssl_mode not in ("verify-ca", "verify-full"):
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class _Statement:
    name: bytes
    takes: tuple[int, ...]
    columns: tuple[str, ...]
    gives: tuple[int, ...]


class JournalConnection:
    """One connection. A call that fails half way closes it: no answer is ever another's."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._messages = Messages()
        self._statements: dict[str, _Statement] = {}
        self._closed = False
        self._hang_ups = select.poll()
        self._hang_ups.register(_socket_of(stream).fileno(), _PEER_CLOSED)
        self.warned = False
        """The server warned, as it does when it gives up waiting for its standby: what was
        committed may not be safe. Its words are not looked at, they come in its language."""

    @classmethod
    async def open(cls, url: str, *, timeout_s: float = 2.0) -> JournalConnection:
        """Connect and log in; ConnectionLost or ServerError when that fails."""
        address = ServerAddress.of(url)
        failed: Exception = ConnectionLost("no host")
        for host, port in address.hosts:
            try:
                with trio.fail_after(timeout_s):
                    return await cls._open_at(address, host, port)
            except trio.TooSlowError:
                failed = ConnectionLost("TimeoutError")
            except (ConnectionLost, ServerError) as error:
                failed = error
        raise failed

    @classmethod
    async def _open_at(cls, address: ServerAddress, host: str, port: int) -> JournalConnection:
        plain: trio.SocketStream | None = None
        stream: _Stream | None = None
        try:
            if host.startswith("/"):
                plain = await trio.open_unix_socket(f"{host}/.s.PGSQL.{port}")
            else:
                plain = await trio.open_tcp_stream(host, port)
                _notice_a_dead_peer(plain)
                if address.ssl_mode not in ("disable", "allow"):
                    stream = await _secured(plain, address, host)
            stream = stream or StoreSocket(plain)
            connection = cls(stream)
            await connection._log_in(address)
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
            _drop(stream or plain)
            raise ConnectionLost(type(error).__name__) from None
        except BaseException:
            _drop(stream or plain)
            raise
        return connection

    async def _log_in(self, address: ServerAddress) -> None:
        settings = {"user": address.user, "database": address.database, **_SETTINGS}
        words = b"".join(f"{k}\0{v}\0".encode() for k, v in settings.items())
        await self._stream.send_all(message(b"", _PROTOCOL + words + b"\0"))
        login: ScramLogin | None = None
        while True:
            kind, body = await self._next()
            if kind == _READY:
                return
            if kind == _ERROR:
                raise server_error(body)
            if kind != _AUTHENTICATION:
                continue
            try:
                login = login or ScramLogin(address.password)
                answer = login.answer(int.from_bytes(body[:4], "big"), body[4:])
            except ScramFailed as error:
                raise ServerError("FATAL", "28000", str(error)) from None
            if answer:
                await self._stream.send_all(message(b"p", answer))

    @property
    def closed(self) -> bool:
        """Whether a call has failed here, or somebody closed it."""
        return self._closed

    def hung_up(self) -> bool:
        """Whether the server has closed its end while nobody called: the kernel knows."""
        return bool(self._hang_ups.poll(0))

    async def value(self, query: str, *args: Any, timeout_s: float | None = None) -> Any:
        """The first column of the first row; None where there is no row."""
        _, rows = await self._call(query, args, timeout_s)
        return rows[0][0] if rows else None

    async def rows(
        self, query: str, *args: Any, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        """All rows, each by column name."""
        columns, rows = await self._call(query, args, timeout_s)
        if len(columns) == 1:  # as the journal's images come, by the thousand
            (column,) = columns
            return [{column: value} for (value,) in rows]
        return [dict(zip(columns, row, strict=True)) for row in rows]

    async def _call(
        self, query: str, args: Sequence[Any], timeout_s: float | None
    ) -> tuple[tuple[str, ...], list[list[Any]]]:
        """One statement and its rows.

        ServerError for what the server says against it: the connection stays where it can.
        ConnectionLost for all else that goes wrong on the way, TypeError, OverflowError or
        ValueError for arguments that are not of their types: nothing was sent then.
        """
        if self._closed:
            raise ConnectionLost("closed")
        finished = False
        try:
            with trio.move_on_after(timeout_s or float("inf")):
                statement = self._statements.get(query) or await self._prepare(query)
                data = bind_execute(statement.name, statement.takes, tuple(args))
                await self._stream.send_all(data)
                rows = await self._rows_until_ready(statement)
                finished = True
                return statement.columns, rows
        except ServerError as error:
            finished = error.severity == "ERROR"
            raise
        except (TypeError, ValueError, OverflowError):
            finished = True
            raise
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(type(error).__name__) from None
        finally:
            if not finished:
                self.discard()
        raise ConnectionLost("TimeoutError")

    async def _prepare(self, query: str) -> _Statement:
        name = f"s{len(self._statements)}".encode()
        await self._stream.send_all(parse_describe(name, query))
        takes: tuple[int, ...] = ()
        columns: tuple[str, ...] = ()
        gives: tuple[int, ...] = ()
        failed: ServerError | None = None
        while True:
            kind, body = await self._next()
            if kind == _PARAMETERS:
                takes = tuple(
                    int.from_bytes(body[at : at + 4], "big") for at in range(2, len(body), 4)
                )
            elif kind == _COLUMNS:
                columns, gives = _columns(body)
            elif kind == _ERROR:
                failed = server_error(body)
                if failed.severity != "ERROR":
                    raise failed
            elif kind == _READY:
                break
        if failed is not None:
            raise failed
        statement = self._statements[query] = _Statement(name, takes, columns, gives)
        return statement

    async def _rows_until_ready(self, statement: _Statement) -> list[list[Any]]:
        rows: list[list[Any]] = []
        failed: ServerError | None = None
        while True:
            kind, body = await self._next()
            if kind == _DATA_ROW:
                try:
                    rows.append(decode_row(body, statement.gives))
                    rows += self._messages.rows(statement.gives)
                except ValueError as error:
                    raise ConnectionLost(str(error)) from None
            elif kind == _ERROR:
                failed = server_error(body)
                if failed.severity != "ERROR":
                    raise failed
            elif kind == _READY:
                if failed is not None:
                    raise failed
                return rows

    async def _next(self) -> tuple[int, bytes]:
        """The next message but for notices and changed settings, which are for nobody here."""
        while True:
            try:
                found = self._messages.next()
            except ValueError as error:
                raise ConnectionLost(str(error)) from None
            if found is None:
                data = await self._stream.receive_some(_READ_BYTES)
                if not data:
                    raise ConnectionLost("closed by the server")
                self._messages.feed(data)
            elif found[0] == _NOTICE:
                if severity(found[1]) == "WARNING":
                    self.warned = True
            else:
                return found

    def discard(self) -> None:
        """Close without waiting for the server."""
        self._closed = True
        _drop(self._stream)

    async def close(self) -> None:
        """Close in good order, within a second."""
        if not self._closed:
            with trio.move_on_after(1), contextlib.suppress(OSError, trio.BrokenResourceError):
                await self._stream.send_all(message(b"X", b""))
        self.discard()


def _notice_a_dead_peer(stream: trio.SocketStream) -> None:
    """An append has no time-out of ours, and the kernel's own is a quarter of an hour or none."""
    limits = {
        "TCP_KEEPIDLE": _DEAD_PEER_S // 2,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": _DEAD_PEER_S // 2,
        "TCP_USER_TIMEOUT": _DEAD_PEER_S * 1000,
    }
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in limits.items():
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


async def _secured(
    stream: trio.SocketStream, address: ServerAddress, host: str
) -> trio.SSLStream[trio.SocketStream] | None:
    """TLS where the server has it, else None; ConnectionLost where it has to and has not."""
    await stream.send_all(_SSL_REQUEST)
    answer = bytes(await stream.receive_some(1))
    if answer == b"S":
        secured = trio.SSLStream(stream, address.tls(), server_hostname=host)
        await secured.do_handshake()
        return secured
    if answer != b"N" or address.ssl_mode != "prefer":
        raise ConnectionLost("the server has no TLS")
    return None


def _socket_of(stream: _Stream | trio.SocketStream) -> socket.socket | trio.socket.SocketType:
    return stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket


def _drop(stream: _Stream | trio.SocketStream | None) -> None:
    """Close at once."""
    if isinstance(stream, StoreSocket):
        stream.close()
    elif stream is not None:
        _socket_of(stream).close()


def _columns(body: bytes) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and types of a RowDescription."""
    names: list[str] = []
    types: list[int] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        types.append(int.from_bytes(body[end + 7 : end + 11], "big"))
        at = end + 19
    return tuple(names), tuple(types)
