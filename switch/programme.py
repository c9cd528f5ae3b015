"""The programme in a worker's memory: links, merchants, terminals with their keys, card secrets."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastpath.mac import MacAlgorithm
from rules.requests import Terminal
from switch.keys import CardSecrets, KeyUsage, MasterKey
from switch.terminal_keys import PinFormat, TerminalKeys

__all__ = ["AcquirerLink", "Programme", "TerminalEntry", "load_programme", "read_epoch"]

Rows = Callable[[str], Awaitable[list[Any]]]

_TERMINALS = """
select t.terminal_id, trim(t.code) as code, t.link, t.network, t.mac_algorithm, t.pin_format,
       t.key_version, t.floor_limit_minor, t.utc_offset_min, t.may_return_unlinked,
       t.completion_tolerance_percent, t.enabled,
       m.merchant_id, trim(m.code) as merchant_code, m.open
from terminal t join merchant m using (merchant_id)
"""


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
    """All of it, replaced as a whole when it is loaded anew."""

    currency: str
    epoch: str
    links: Mapping[str, AcquirerLink]
    terminals: Mapping[str, TerminalEntry]
    secrets: CardSecrets
    token_key: bytes


async def load_programme(rows: Rows, master_key: MasterKey) -> Programme:
    """Read the programme; `rows` runs a query. Key blocks are opened for their one usage each."""
    programme = (await rows("select currency from programme order by programme_id limit 1"))[0]
    links = {
        row["name"]: AcquirerLink(
            row["name"],
            row["acquirer_id"],
            frozenset(row["foreign_acquirer_ids"]),
            row["packager"],
            row["header"],
            row["sign_on"],
        )
        for row in await rows("select * from acquirer_link")
    }
    keys: dict[tuple[int, str], dict[int, str]] = {}
    for row in await rows("select * from terminal_key"):
        keys.setdefault((row["terminal_id"], row["usage"]), {})[row["version"]] = row["block"]
    blocks = {row["usage"]: row["block"] for row in await rows("select * from programme_key")}
    return Programme(
        currency=programme["currency"],
        epoch=await read_epoch(rows),
        links=links,
        terminals={row["code"]: _terminal(row, keys, master_key) for row in await rows(_TERMINALS)},
        secrets=CardSecrets(
            master_key.unwrap(blocks["pvv"], KeyUsage.PVV),
            master_key.unwrap(blocks["code"], KeyUsage.CODE),
        ),
        token_key=master_key.unwrap(blocks["token"], KeyUsage.TOKEN),
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


def _terminal(
    row: Mapping[str, Any], keys: Mapping[tuple[int, str], Mapping[int, str]], master: MasterKey
) -> TerminalEntry:
    def opened(usage: str, as_usage: KeyUsage) -> dict[int, bytes]:
        blocks = keys.get((row["terminal_id"], usage), {})
        return {version: master.unwrap(block, as_usage) for version, block in blocks.items()}

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
            opened("mac", KeyUsage.MAC),
            row["key_version"],
            opened("pin", KeyUsage.PIN),
            PinFormat(row["pin_format"]),
        ),
    )
