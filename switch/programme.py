"""The programme in a worker's memory: links, merchants, terminals with their keys, card secrets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from fastpath.framing import Header
from fastpath.mac import MacAlgorithm
from fastpath.specs import packagers
from rules.requests import Terminal
from switch.keyblock import KeyBlockError
from switch.keys import CardSecrets, KeyUsage, MasterKey
from switch.logs import event
from switch.terminal_keys import PinFormat, TerminalKeys

__all__ = ["AcquirerLink", "Programme", "ProgrammeSource", "TerminalEntry", "read_epoch"]

Rows = Callable[..., Awaitable[list[Any]]]

# Terminals changed by a transaction that was not over when it was looked before. Their keys come
# with them, in one statement: of one moment.
_TERMINALS = """
select t.terminal_id, trim(t.code) as code, t.link, t.network, t.mac_algorithm, t.pin_format,
       t.key_version, t.floor_limit_minor, t.utc_offset_min, t.may_return_unlinked,
       t.completion_tolerance_percent, t.enabled, t.programme, t.changed_xid as xid,
       m.merchant_id, trim(m.code) as merchant_code, m.open,
       (select json_agg(json_build_object('usage', k.usage, 'version', k.version, 'block', k.block,
            'since_s', extract(epoch from k.issued_at)))
        from terminal_key k
        where k.terminal_id = t.terminal_id and k.usage in ('mac', 'pin'))::text as issued,
       (select json_agg(json_build_object('usage', c.usage, 'version', c.version, 'block', c.block,
            'since_s', extract(epoch from c.activated_at), 'window_s', c.window_s) order by c.place)
        from key_change c where c.terminal_id = t.terminal_id)::text as changes
from terminal t join merchant m using (merchant_id)
where t.changed_xid >= $1
"""
_OLDEST = "select pg_snapshot_xmin(pg_current_snapshot()) as xid"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class AcquirerLink:
    """What is agreed with whoever connects to a port."""

    name: str
    acquirer_id: str
    foreign_acquirer_ids: frozenset[str]
    packager: str
    header: str
    sign_on: bool
    enabled: bool = True


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
    tdes_since_s: float = 0
    """Since when (seconds since 1970) the oldest TDES key in force is; 0 where there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Programme:
    """All of it, replaced as a whole when something of it has changed."""

    currency: str
    epoch: str
    links: Mapping[str, AcquirerLink]
    terminals: Mapping[str, TerminalEntry]
    secrets: CardSecrets
    token_key: bytes


class _Key(msgspec.Struct, frozen=True, gc=False):
    """A key as the tables have it; `since_s` is None while it waits for its first use."""

    usage: str
    version: int
    block: str
    since_s: float | None = None
    window_s: int = 0

    def __repr__(self) -> str:
        return f"_Key({self.usage}, {self.version})"


_decode_keys = msgspec.json.Decoder(list[_Key]).decode


class _Versions:
    """Which keys of one usage are in force, were before, and will be."""

    def __init__(self, issued: list[_Key], changes: list[_Key]) -> None:
        """`issued`: the one that the owner gave the terminal, if it is still there."""
        in_force = issued + [key for key in changes if key.since_s is not None]
        self.current = in_force[-1] if in_force else None
        self.previous = in_force[-2] if len(in_force) > 1 else None
        self.pending = next((key for key in changes if key.since_s is None), None)

    @property
    def all(self) -> list[_Key]:
        """Those that may be taken."""
        return [key for key in (self.previous, self.current, self.pending) if key is not None]

    @property
    def previous_until_s(self) -> float:
        """When the previous one is taken no more; seconds since 1970."""
        if self.current is None or self.current.since_s is None:
            return 0
        return self.current.since_s + self.current.window_s


class ProgrammeSource:
    """Reads the programme, and later what has changed of it.

    `rows` runs a query. Key blocks are opened for their one usage each. A terminal or link whose
    rows make no sense is named in the log and stays as it was, or away; but what is disabled or
    closed is so even then.
    """

    def __init__(self, rows: Rows, master_key: MasterKey) -> None:
        self._rows = rows
        self._master_key = master_key
        self._seen = 0
        self._taken: dict[int, int] = {}
        self.faulty: set[str] = set()
        """Terminals and links whose latest change could not be taken."""

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
        self._taken.clear()
        return await self.refreshed(empty)

    async def refreshed(self, programme: Programme) -> Programme:
        """The programme with what has changed since; the very same one where nothing has."""
        oldest = (await self._rows(_OLDEST))[0]["xid"]
        rows = await self._rows(_TERMINALS, self._seen)
        links = self._links(await self._rows("select * from acquirer_link"), programme.links)
        self._seen = oldest
        # While a long transaction runs, what was changed since its beginning is read each time.
        changed = [row for row in rows if self._taken.get(row["terminal_id"]) != row["xid"]]
        if not changed and links == programme.links:
            return programme
        before = {entry.rules.terminal_id: entry for entry in programme.terminals.values()}
        ids = {row["terminal_id"] for row in changed}
        terminals = {
            code: entry
            for code, entry in programme.terminals.items()
            if entry.rules.terminal_id not in ids
        }
        for row in changed:
            entry = self._entry(row, before.get(row["terminal_id"]))
            self._taken[row["terminal_id"]] = row["xid"]
            if entry is not None:
                terminals[entry.code] = entry
        return dataclasses.replace(programme, links=links, terminals=terminals)

    def _links(
        self, rows: Iterable[Any], before: Mapping[str, AcquirerLink]
    ) -> dict[str, AcquirerLink]:
        """Those that are gone stay, disabled: somebody may still be connected."""
        links = {name: dataclasses.replace(link, enabled=False) for name, link in before.items()}
        for row in rows:
            name = row["name"]
            try:
                links[name] = _link(row)
                self.faulty.discard(f"link {name}")
            except (ValueError, LookupError) as error:
                if f"link {name}" not in self.faulty:
                    self._fault(f"link {name}", error)
                if name in before:
                    enabled = before[name].enabled and row["enabled"]
                    links[name] = dataclasses.replace(before[name], enabled=enabled)
        return links

    def _fault(self, name: str, error: Exception) -> None:
        self.faulty.add(name)
        event(log, logging.ERROR, "change-not-taken", what=name, kind=type(error).__name__)

    def _entry(self, row: Mapping[str, Any], before: TerminalEntry | None) -> TerminalEntry | None:
        """The terminal as its row is now; as it was, where that makes no sense."""
        try:
            entry = self._terminal(row)
        except (KeyBlockError, ValueError) as error:
            self._fault(row["code"], error)
            if before is None:
                return None
            return dataclasses.replace(
                before,
                enabled=before.enabled and row["enabled"],
                merchant_open=before.merchant_open and row["open"],
            )
        self.faulty.discard(entry.code)
        return entry

    def _terminal(self, row: Mapping[str, Any]) -> TerminalEntry:
        issued, changes = _decode_keys(row["issued"] or "[]"), _decode_keys(row["changes"] or "[]")
        macs = [key for key in issued if key.usage == "mac" and key.version == row["key_version"]]
        pins = sorted((key for key in issued if key.usage == "pin"), key=lambda key: key.version)
        mac = _Versions(macs, [key for key in changes if key.usage == "mac"])
        pin = _Versions(pins[-1:], [key for key in changes if key.usage == "pin"])
        if mac.current is None:
            raise ValueError("no MAC key in force")
        algorithm, pin_format = MacAlgorithm(row["mac_algorithm"]), PinFormat(row["pin_format"])
        tdes = [mac.current] if algorithm is MacAlgorithm.RETAIL else []
        if pin.current is not None and pin_format is PinFormat.FORMAT_0:
            tdes.append(pin.current)
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
                row["programme"],
            ),
            keys=TerminalKeys(
                algorithm,
                self._opened(mac, KeyUsage.MAC),
                mac.current.version,
                self._opened(pin, KeyUsage.PIN),
                pin_format,
                previous=mac.previous.version if mac.previous else 0,
                previous_until_s=mac.previous_until_s,
                pending=mac.pending.version if mac.pending else 0,
                current_pin=pin.current.version if pin.current else 0,
                pending_pin=pin.pending.version if pin.pending else 0,
                previous_pin=pin.previous.version if pin.previous else 0,
                previous_pin_until_s=pin.previous_until_s,
            ),
            tdes_since_s=min((key.since_s or 0 for key in tdes), default=0),
        )

    def _opened(self, versions: _Versions, usage: KeyUsage) -> dict[int, bytes]:
        return {key.version: self._master_key.unwrap(key.block, usage) for key in versions.all}


def _link(row: Mapping[str, Any]) -> AcquirerLink:
    """ValueError, LookupError where nothing is known by its packager or header."""
    return AcquirerLink(
        row["name"],
        row["acquirer_id"],
        frozenset(row["foreign_acquirer_ids"]),
        packagers()[row["packager"]].name,
        Header(row["header"]).value,
        row["sign_on"],
        row["enabled"],
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
