"""What must be there before a worker starts: schema, role, keys, programme, token table.

Runs each time the switch starts, and does only what is missing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import trio

from fastpath.token_entries import TokenEntries
from switch import demo, demo_database
from switch.config import Settings, load_settings
from switch.journal.bridge import STORE_ERRORS, Connection, bridge
from switch.journal.migrate import MigrationChanged, migrate
from switch.journal.witness import DIRECTORY, missing_batch
from switch.keys import MASTER_KEY_VARIABLE, MasterKey, MasterKeyError
from switch.progress import Progress
from switch.supervisor import CannotPrepare

__all__ = ["Preparation", "build_token_table", "load_master_key", "load_saved_settings"]

_CARDS_PER_READ = 50_000
_MANY_CARDS = 1_000_000
# As `TokenEntries.add_packed` takes them. Chains of suspense have ids below zero and no number.
_TOKENS = """
select max(card_id) as last, string_agg(digest || int4send(card_id::int), ''::bytea) as packed
from (select card_id, digest from card where card_id > $1 order by card_id limit $2) as page
"""
_FAULTS_OF_THE_INSTALLATION: tuple[type[Exception], ...] = (
    CannotPrepare,
    MasterKeyError,
    MigrationChanged,
    *STORE_ERRORS,
)


class Preparation:
    """Prepares stores and data directory for the workers; called by the supervisor."""

    def __init__(
        self, settings: Settings, *, demo_cards: int | None, demo_issued: int | None = None
    ) -> None:
        """`demo_cards`: how many active cards the demo programme gets; None makes no demo.

        `demo_issued`: how many that wait for their activation; None leaves that to the programme.
        """
        self._settings = settings
        self._demo_cards = demo_cards
        self._demo_issued = demo_issued or demo.ISSUED_CARDS

    def __call__(self, postgres_url: str, redis_url: str) -> Mapping[str, object]:
        """The programme's part of demo.json; empty without a demo."""
        _write_private(
            self._settings.data_dir / "run" / "settings.json",
            msgspec.json.encode(self._settings, enc_hook=str),
        )
        # A loop of its own, away from the supervisor's signal handling in the main thread.
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
            try:
                return pool.submit(trio.run, self._prepare, postgres_url).result()
            except* _FAULTS_OF_THE_INSTALLATION as group:
                reason = _first(group)
        named = "" if isinstance(reason, CannotPrepare) else f"{type(reason).__name__}: "
        raise CannotPrepare(f"{named}{reason}")

    async def _prepare(self, postgres_url: str) -> Mapping[str, object]:
        data_dir = self._settings.data_dir
        async with bridge(), connected(postgres_url) as connection:
            await migrate(connection)
            await _refuse_what_lags(connection, data_dir)
            await _set_app_password(connection, data_dir)
            master_key = load_master_key(self._settings, data_dir, create=True)
            programme: Mapping[str, object] = {}
            if self._demo_cards is not None:
                seed = demo.load_seed(data_dir, self._demo_cards, self._demo_issued)
                if not await connection.rows("select 1 from programme"):
                    await demo_database.create(connection, seed, master_key)
                programme = demo.describe(seed)
            elif not await connection.rows("select 1 from programme"):
                raise CannotPrepare(
                    "the database holds no programme: give it one, or start with --demo"
                )
            await build_token_table(connection, data_dir / "tokens.tab")
        return programme


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection with the owner's rights."""
    connection = await Connection.open(url, timeout_s=10)
    try:
        yield connection
    finally:
        await connection.close()


async def _refuse_what_lags(connection: Connection, data_dir: Path) -> None:
    """A database that lacks what terminals were told of is another one, or an older state of it."""
    missing = await missing_batch(connection.rows, data_dir / DIRECTORY)
    if missing is not None:
        raise CannotPrepare(
            f"the database lacks batch {missing[1]} of {missing[0]}, whose answers were "
            "given out: it is a standby that lagged when it was promoted, or a copy from before. "
            "Bring back the server that has it; or, to go on without what is lost, remove "
            f"{data_dir / DIRECTORY}"
        )


async def _set_app_password(connection: Connection, data_dir: Path) -> None:
    """The switch's own role gets a random password, kept in a file for its owner alone."""
    path = data_dir / "app-role"
    if not path.exists():
        _write_private(path, secrets.token_hex(24).encode())
    password = path.read_text().strip()
    # An identifier and a literal of our own making: 48 hex digits. DDL takes no parameters.
    await connection.script(f"alter role cardswitch_app password '{password}'")


async def build_token_table(
    connection: Connection, path: Path, *, cards_per_read: int = _CARDS_PER_READ
) -> None:
    """All cards, page by page; whoever waits for millions of them sees how far it is."""
    entries, progress = TokenEntries(), Progress()
    last = 0
    while True:
        page = (await connection.rows(_TOKENS, last, cards_per_read))[0]
        if page["last"] is None:
            break
        entries.add_packed(page["packed"])
        last = page["last"]
        if len(entries) >= _MANY_CARDS:
            progress.tell("token table: cards read", len(entries))
    await trio.to_thread.run_sync(entries.write, path)
    progress.clear()


def load_master_key(settings: Settings, data_dir: Path, *, create: bool = False) -> MasterKey:
    """From the file the settings name, else the environment, else the data directory's own.

    With `create` the data directory's own is made where there is no other. Raises MasterKeyError.
    """
    own = data_dir / "master.key"
    if settings.master_key_file is not None:
        return MasterKey.load(settings.master_key_file)
    if MASTER_KEY_VARIABLE in os.environ:
        return MasterKey.load(None)
    if create and not own.exists():
        return MasterKey.create(own)
    return MasterKey.load(own)


def load_saved_settings(data_dir: Path) -> Settings:
    """The settings that `up` runs with, for workers and tools on the same data directory."""
    saved = msgspec.json.decode((data_dir / "run" / "settings.json").read_bytes())
    return load_settings(None, saved)


def _write_private(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)
