"""The programme in a worker's memory: links, merchants, terminals with their keys, card secrets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastpath.mac import MacAlgorithm
from rules.requests import Terminal
from switch.keyblock import KeyBlockError
from switch.keys import CardSecrets, KeyUsage, MasterKey
from switch.logs import event
from switch.terminal_keys import PinFormat, TerminalKeys

__all__ = ["AcquirerLink", "Programme", "ProgrammeSource", "TerminalEntry", "read_epoch"]

log = logging.getLogger(__name__)

Rows = Callable[..., Awaitable[list[Any]]]

# Terminals changed by a transaction that was not over when it was looked before, with all of it.
_TERMINALS = """
select t.terminal_id, trim(t.code) as code, t.link, t.network, t.mac_algorithm, t.pin_format,
       t.key_version, t.floor_limit_minor, t.utc_offset_min, t.may_return_unlinked,
       t.completion_tolerance_percent, t.enabled,
       m.merchant_id, trim(m.code) as merchant_code, m.open
from terminal t join merchant m using (merchant_id)
where t.changed_xid >= $1
"""
_KEYS = """
select terminal_id, usage, version, block from terminal_key where terminal_id = any($1::int[])
"""
_CHANGES = """
select terminal_id, usage, version, block, extract(epoch from activated_at)::float8 as activated_s
from key_change where terminal_id = any($1::int[]) order by made_at, activated_at
"""
_OLDEST = "select pg_snapshot_xmin(pg_current_snapshot()) as xid"


@dataclasses.dataclass(frozen=True, slots=True)
class AcquirerLink:
    """What is agreed with whoever connects to a port."""

    name: str
    acquirer_id: str
    foreign_acquirer_ids: frozenset[str]
    packager: str
    header: str
    sign_on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class TerminalEntry:
    """A terminal as a message names it."""

    code: str
    merchant_code: str
    merchant_open: bool
    link: str
    enabled: bool
    utc_offset_min: int
    rules: Terminal
    keys: TerminalKeys


@dataclasses.dataclass(frozen=True, slots=True)
class Programme:
    """All of it, replaced as a whole when something of it has changed."""

    currency: str
    epoch: str
    links: Mapping[str, AcquirerLink]
    terminals: Mapping[str, TerminalEntry]
    secrets: CardSecrets
    token_key: bytes


class ProgrammeSource:
    """Reads the programme, and later what has changed of it.

    `rows` runs a query. Key blocks are opened for their one usage each; a terminal whose blocks or
    numbers make no sense is named in the log, and stays as it was, or away.
    """

    def __init__(
        self,
        rows: Rows,
        master_key: MasterKey,
        *,
        key_window_s: float = 3600,
    ) -> None:
        self._rows = rows
        self._master_key = master_key
        self._key_window_s = key_window_s
        self._seen = 0

    async def load(self) -> Programme:
        """All of it."""
        rows, master_key = self._rows, self._master_key
        programme = (await rows("select currency from programme order by programme_id limit 1"))[0]
        blocks = {row["usage"]: row["block"] for row in await rows("select * from programme_key")}
        empty = Programme(
            currency=programme["currency"],
            epoch=await read_epoch(rows),
            links={},
            terminals={},
            secrets=CardSecrets(
                master_key.unwrap(blocks["pvv"], KeyUsage.PVV),
                master_key.unwrap(blocks["code"], KeyUsage.CODE),
            ),
            token_key=master_key.unwrap(blocks["token"], KeyUsage.TOKEN),
        )
        self._seen = 0
        return await self.refreshed(empty)

    async def refreshed(self, programme: Programme) -> Programme:
        """The programme with what has changed since; the very same one where nothing has."""
        oldest = (await self._rows(_OLDEST))[0]["xid"]
        changed = await self._rows(_TERMINALS, self._seen)
        links = {row["name"]: _link(row) for row in await self._rows("select * from acquirer_link")}
        ids = {row["terminal_id"] for row in changed}
        keys = _by_terminal(await self._rows(_KEYS, list(ids))) if ids else {}
        changes = _by_terminal(await self._rows(_CHANGES, list(ids))) if ids else {}
        self._seen = oldest
        if not ids and links == programme.links:
            return programme
        before = {entry.rules.terminal_id: entry for entry in programme.terminals.values()}
        terminals = {
            code: entry
            for code, entry in programme.terminals.items()
            if entry.rules.terminal_id not in ids
        }
        for row in changed:
            number = row["terminal_id"]
            try:
                entry = self._terminal(row, keys.get(number, ()), changes.get(number, ()))
            except (KeyBlockError, ValueError) as error:
                faulty = {"terminal": row["code"], "kind": type(error).__name__}
                event(log, logging.ERROR, "terminal-not-loaded", **faulty)
                if number not in before:
                    continue
                entry = before[number]
            terminals[entry.code] = entry
        return dataclasses.replace(programme, links=links, terminals=terminals)

    def _terminal(
        self, row: Mapping[str, Any], issued: Iterable[Any], changes: Iterable[Any]
    ) -> TerminalEntry:
        blocks: dict[str, dict[int, str]] = {"mac": {}, "pin": {}}
        for key in issued:
            blocks.setdefault(key["usage"], {})[key["version"]] = key["block"]
        issued_pin = max(blocks["pin"], default=0)
        in_force = {"mac": [(row["key_version"], 0.0)], "pin": [(issued_pin, 0.0)]}
        pending = {"mac": 0, "pin": 0}
        for key in changes:
            usage, version, since_s = key["usage"], key["version"], key["activated_s"]
            blocks[usage][version] = key["block"]
            if since_s is None:
                pending[usage] = version
            else:
                in_force[usage].append((version, since_s))
        keys: dict[str, dict[int, bytes]] = {}
        for usage, as_usage in (("mac", KeyUsage.MAC), ("pin", KeyUsage.PIN)):
            wanted = {*(version for version, _ in in_force[usage][-2:]), pending[usage]}
            keys[usage] = {
                version: self._master_key.unwrap(blocks[usage][version], as_usage)
                for version in wanted & blocks[usage].keys()
            }
        previous, _ = in_force["mac"][-2] if len(in_force["mac"]) > 1 else (0, 0)
        previous_pin, _ = in_force["pin"][-2] if len(in_force["pin"]) > 1 else (0, 0)
        (current, since_s), (current_pin, since_pin_s) = in_force["mac"][-1], in_force["pin"][-1]
        return TerminalEntry(
            code=row["code"],
            merchant_code=row["merchant_code"],
            merchant_open=row["open"],
            link=row["link"],
            enabled=row["enabled"],
            utc_offset_min=row["utc_offset_min"],
            rules=Terminal(
                row["terminal_id"],
                row["merchant_id"],
                row["network"],
                row["may_return_unlinked"],
                row["floor_limit_minor"],
                row["completion_tolerance_percent"],
            ),
            keys=TerminalKeys(
                MacAlgorithm(row["mac_algorithm"]),
                keys["mac"],
                current,
                keys["pin"],
                PinFormat(row["pin_format"]),
                previous=previous,
                previous_until_s=since_s + self._key_window_s,
                pending=pending["mac"],
                current_pin=current_pin or None,
                pending_pin=pending["pin"],
                previous_pin=previous_pin,
                previous_pin_until_s=since_pin_s + self._key_window_s,
            ),
        )


def _by_terminal(rows: Iterable[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row["terminal_id"], []).append(row)
    return found


def _link(row: Mapping[str, Any]) -> AcquirerLink:
    return AcquirerLink(
        row["name"],
        row["acquirer_id"],
        frozenset(row["foreign_acquirer_ids"]),
        row["packager"],
        row["header"],
        row["sign_on"],
    )


async def read_epoch(rows: Rows) -> str:
    """Names this server and its history; part of every cache key.

    A restored or promoted server has another one: what was cached of the old may be ahead of it.
    The timeline is that of the log being written: the last checkpoint's is, after a promotion, for
    a while still the old one. On a standby this fails.
    """
    found = await rows(
        "select concat_ws('.', left(i.epoch::text, 8), s.system_identifier,"
        " left(pg_walfile_name(pg_current_wal_lsn()), 8)) as epoch"
        " from installation i, pg_control_system() s"
    )
    return str(found[0]["epoch"])
