"""Migrations: the plain SQL files of `migrations/`, each once, in order, in one transaction."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from switch.journal.bridge import STORE_ERRORS, Connection

__all__ = ["MigrationChanged", "migrate"]

_FILES = Path(__file__).with_name("migrations")
_LOCK = 0x63617264  # any number that is ours: two starts at once migrate one after the other


class MigrationChanged(Exception):
    """A migration that was applied is not what it was: the database and the program disagree."""


async def migrate(connection: Connection) -> list[str]:
    """Bring the schema up to date with the owner's rights; the names of what was applied."""
    await connection.value("select pg_advisory_lock($1)", _LOCK)
    try:
        await connection.script(
            "create table if not exists schema_migration ("
            " name text primary key, sha256 text not null, applied_at timestamptz default now())"
        )
        rows = await connection.rows("select name, sha256 from schema_migration")
        known = {row["name"]: row["sha256"] for row in rows}
        applied = []
        for path in sorted(_FILES.glob("*.sql")):
            text = path.read_text()
            digest = hashlib.sha256(text.encode()).hexdigest()
            if path.name in known:
                if known[path.name] != digest:
                    raise MigrationChanged(path.name)
                continue
            try:
                await connection.script(
                    f"begin;\n{text}\n"
                    f"insert into schema_migration values ('{path.name}', '{digest}');\ncommit;"
                )
            except STORE_ERRORS:
                with contextlib.suppress(*STORE_ERRORS):  # else the unlocking fails, and says so
                    await connection.script("rollback")
                raise
            applied.append(path.name)
        await connection.value("select ensure_months(24)")
        return applied
    finally:
        await connection.value("select pg_advisory_unlock($1)", _LOCK)
