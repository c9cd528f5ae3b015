"""The journal's own connection: values as the server understands them, logins, failures."""

from __future__ import annotations

import datetime
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from store_sessions import WAIT_S, Stores

from fastpath.pgwire import message
from switch.journal.bridge import Connection
from switch.journal.connection import JournalConnection, ServerAddress
from switch.journal.scram import ScramFailed, ScramLogin
from switch.journal.server import ConnectionLost, ServerError
from tests.client.identity import Identity, issue

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
async def connection(stores: Stores) -> AsyncIterator[JournalConnection]:
    opened = await JournalConnection.open(stores.app_url)
    yield opened
    await opened.close()


# -- values -------------------------------------------------------------------------------------

NOW = datetime.datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("type_name", "value", "as_text"),
    [
        ("bigint", -(1 << 63), "-9223372036854775808"),
        ("bigint", (1 << 63) - 1, "9223372036854775807"),
        ("int", -1, "-1"),
        ("smallint", 32_767, "32767"),
        ("text", "Käse; -- '\"\\", "Käse; -- '\"\\"),
        ("char(3)", "978", "978"),
        ("bytea", bytes(range(256)), "\\x" + bytes(range(256)).hex()),
        ("boolean", False, "false"),
        ("date", datetime.date(2024, 2, 29), "2024-02-29"),
        ("date", datetime.date(1970, 1, 1), "1970-01-01"),
        ("timestamptz", NOW, "2026-11-25 23:59:59.999999+00"),
        ("bigint[]", [1, -2, 3], "{1,-2,3}"),
        ("smallint[]", [], "{}"),
        ("int[]", [5], "{5}"),
        ("text[]", ["", "a,b", "{}"], '{"","a,b","{}"}'),
        ("boolean[]", [True, False], "{t,f}"),
        ("timestamptz[]", [NOW], '{"2026-11-25 23:59:59.999999+00"}'),
        ("bytea[]", [b"", b"\0\xff"], '{"\\\\x","\\\\x00ff"}'),
    ],
)
async def test_a_value_goes_there_and_comes_back(
    connection: JournalConnection, type_name: str, value: Any, as_text: str
) -> None:
    told = await connection.rows(
        f"select $1::{type_name} as same, ($1::{type_name})::text as words", value
    )
    assert told == [{"same": value, "words": as_text}]
    assert type(told[0]["same"]) is type(value)


async def test_a_null_an_infinite_date_and_no_rows(connection: JournalConnection) -> None:
    rows = await connection.rows("select null::int as a, '-infinity'::date as b, 0.5::float8 as c")
    assert rows == [{"a": None, "b": datetime.date.min, "c": 0.5}]
    assert await connection.rows("select 1 as a where false") == []
    assert await connection.value("select 1 where false") is None
    assert math.isclose(await connection.value("select pi()"), math.pi)


async def test_many_rows_come_in_order(connection: JournalConnection) -> None:
    rows = await connection.rows(
        "select n::bigint as n, repeat('x', 40) as s from generate_series(1, 20000) n order by n"
    )
    assert [row["n"] for row in rows] == list(range(1, 20_001))


# -- failures -----------------------------------------------------------------------------------


async def test_an_error_of_a_statement_leaves_the_connection(connection: JournalConnection) -> None:
    for query, state in (
        ("select 1 / $1::int", "22012"),
        ("select * from nowhere", "42P01"),
        ("delete from link", "42501"),
    ):
        with pytest.raises(ServerError) as caught:
            await connection.value(query, *([0] if "$1" in query else []))
        assert (caught.value.severity, caught.value.sqlstate) == ("ERROR", state)
        assert not connection.closed
    assert await connection.value("select $1::int", 7) == 7


async def test_arguments_of_another_type_are_never_sent(connection: JournalConnection) -> None:
    for value in ("1", 1 << 31, None.__class__):
        with pytest.raises((TypeError, OverflowError)):
            await connection.value("select $1::int", value)
    assert await connection.value("select $1::int", 1) == 1


async def test_a_time_out_closes_it(connection: JournalConnection) -> None:
    with pytest.raises(ConnectionLost, match="TimeoutError"):
        await connection.value("select pg_sleep(5)", timeout_s=0.05)
    assert connection.closed
    with pytest.raises(ConnectionLost, match="closed"):
        await connection.value("select 1")


async def test_a_cancelled_call_closes_it(connection: JournalConnection) -> None:
    """Its answer, when it comes, must not be taken for that of the next."""
    with trio.move_on_after(0.05):
        await connection.value("select pg_sleep(5)")
    assert connection.closed


async def test_a_killed_backend_is_a_fatal_error_or_a_lost_connection(
    connection: JournalConnection, owner: Connection
) -> None:
    pid = await connection.value("select pg_backend_pid()")
    await owner.value("select pg_terminate_backend($1)", pid)
    with pytest.raises((ServerError, ConnectionLost)) as caught:
        await connection.value("select 1")
    if isinstance(caught.value, ServerError):
        assert (caught.value.severity, caught.value.sqlstate) == ("FATAL", "57P01")
    assert connection.closed


async def test_a_warning_is_noticed_and_a_notice_is_not(stores: Stores) -> None:
    connection = await JournalConnection.open(stores.owner_url)
    with pytest.raises(ServerError):
        await connection.value("do $$ begin raise notice 'words'; perform 1 / 0; end $$")
    await connection.value("do $$ begin raise notice 'words'; end $$")
    assert not connection.warned
    await connection.value("do $$ begin raise warning 'words'; end $$")
    assert connection.warned
    await connection.close()


# -- logging in ---------------------------------------------------------------------------------


async def test_a_wrong_password_says_so(stores: Stores) -> None:
    scheme, rest = stores.app_url.split("://", 1)
    url = f"{scheme}://cardswitch_app:wrong@{rest.split('@', 1)[1]}"
    with pytest.raises(ServerError) as caught:
        await JournalConnection.open(url)
    assert caught.value.sqlstate == "28P01"
    assert "wrong" not in str(caught.value)


async def test_where_nobody_listens_is_a_lost_connection(tmp_path: Path) -> None:
    for url in (f"postgresql://a:b@/c?host={tmp_path}", "postgresql://a:b@127.0.0.1:1/c"):
        with pytest.raises(ConnectionLost):
            await JournalConnection.open(url)


def test_a_url_says_where_and_as_whom() -> None:
    address = ServerAddress.of("postgresql://me:s%40crt@/books?host=/run/pg&port=5433")
    assert (address.hosts, address.user) == ((("/run/pg", 5433),), "me")
    assert (address.password, address.database) == ("s@crt", "books")
    address = ServerAddress.of("postgres://me@[::1]:6000,db.example:6001/?sslmode=verify-full")
    assert address.hosts == (("::1", 6000), ("db.example", 6001))
    assert (address.database, address.ssl_mode) == ("me", "verify-full")
    assert address.tls().check_hostname
    assert not ServerAddress.of("postgresql://me@h/x?sslmode=require").tls().check_hostname
    with pytest.raises(ValueError, match="sslmode"):
        ServerAddress.of("postgresql://me:secret@h/x?sslmode=perhaps")


def test_the_second_host_is_taken_when_the_first_is_away(stores: Stores, tmp_path: Path) -> None:
    host = stores.app_url.partition("host=")[2].partition("&")[0]
    url = stores.app_url.replace(f"host={host}", f"host={tmp_path},{host}")

    async def ask() -> int:
        connection = await JournalConnection.open(url)
        answer: int = await connection.value("select 5")
        await connection.close()
        return answer

    assert trio.run(ask) == 5


def test_scram_by_the_book() -> None:
    """The example of RFC 7677, section 3."""
    login = ScramLogin("pencil", user="user", nonce="rOprNGfwEbeRWgbNEkqO")
    assert login.answer(10, b"SCRAM-SHA-256\0\0").endswith(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    server_first = (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert login.answer(11, server_first) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert login.answer(12, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    assert login.answer(0, b"") == b""


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (11, b"r=another%nonce,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        (11, b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        (11, b"r=rOprNGfwEbeRWgbNEkqO%x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=2000000000"),
        (11, b"r=rOprNGfwEbeRWgbNEkqO%x,s=!,i=4096"),
        (11, b"\xff"),
        (12, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
        (12, b""),
        (0, b""),  # let in without a proof
        (3, b""),  # the password in the clear
        (5, b"salt"),  # MD5
    ],
)
def test_a_server_that_does_not_prove_itself_is_refused(asked: int, body: bytes) -> None:
    login = ScramLogin("pencil", nonce="rOprNGfwEbeRWgbNEkqO")
    login.answer(10, b"SCRAM-SHA-256\0\0")
    with pytest.raises(ScramFailed):
        login.answer(asked, body)


def test_a_server_without_scram_is_refused() -> None:
    with pytest.raises(ScramFailed):
        ScramLogin("pencil").answer(10, b"SCRAM-SHA-256-PLUS\0\0")
    with pytest.raises(ScramFailed):
        ScramLogin("pencil").answer(3, b"")


# -- TLS, with a server that only lets in -----------------------------------------------------


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return issue(tmp_path_factory.mktemp("tls"), "server")


async def _let_in(stream: trio.abc.Stream) -> None:
    await stream.receive_some(4096)
    await stream.send_all(message(b"R", bytes(4)) + message(b"Z", b"I"))


async def _opened_at(serve: Serve, options: str) -> bool:
    """Whether a connection comes about with a server that `serve` plays."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        try:
            with trio.fail_after(WAIT_S):
                connection = await JournalConnection.open(
                    f"postgresql://me:x@localhost:{port}/x?{options}"
                )
            connection.discard()
        except ConnectionLost:
            return False
        else:
            return True
        finally:
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("options", "tls", "comes_about"),
    [
        ("sslmode=prefer", True, True),
        ("sslmode=prefer", False, True),
        ("sslmode=require", True, True),
        ("sslmode=require", False, False),
        ("sslmode=verify-full", True, False),  # an authority that nobody here knows
        ("sslmode=verify-full&sslrootcert={root}", True, True),
        ("sslmode=verify-full&sslrootcert={root}", False, False),
    ],
)
async def test_tls_as_the_url_wants_it(
    identity: Identity, options: str, *, tls: bool, comes_about: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)

    async def serve(stream: trio.SocketStream) -> None:
        assert bytes(await stream.receive_some(8))[4:] == (80877103).to_bytes(4, "big")
        await stream.send_all(b"S" if tls else b"N")
        try:
            await _let_in(trio.SSLStream(stream, context, server_side=True) if tls else stream)
        except (trio.BrokenResourceError, ssl.SSLError):
            return

    assert await _opened_at(serve, options.format(root=identity.certificate)) is comes_about
