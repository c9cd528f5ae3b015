"""What a demo terminal is: `demo.json` of a running demo switch, as far as a terminal needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fastpath.mac import MacAlgorithm, MacKey
from fastpath.packager import Packager
from fastpath.specs import packagers

__all__ = ["Demo", "PosTerminal", "UsageError", "load_demo"]


class UsageError(ValueError):
    """What was asked cannot be done. The text is for the person at the keyboard."""


@dataclass(frozen=True)
class PosTerminal:
    """One terminal of the demo programme, where it connects to, and its keys."""

    terminal_id: str
    merchant_id: str
    network: bool
    host: str
    port: int
    packager: Packager = field(repr=False)
    mac_key: MacKey = field(repr=False)
    pin_key: bytes = field(repr=False)
    kek: bytes = field(default=b"", repr=False)
    pin_format: int = 0
    utc_offset_min: int = 0
    mac_version: int = 0
    """Of the MAC key, for DE 53; 0: not named. `pin_version` likewise."""
    pin_version: int = 0


@dataclass(frozen=True)
class Demo:
    """What `demo.json` says, as far as a terminal needs it. `currency` is ISO 4217 numeric."""

    currency: str
    terminals: tuple[PosTerminal, ...]

    def terminal(self, terminal_id: str | None, *, network: bool) -> PosTerminal:
        """The terminal of that id, else the first one at a till (or behind a network link)."""
        for terminal in self.terminals:
            if terminal.terminal_id == terminal_id:
                return terminal
            if terminal_id is None and terminal.network is network:
                return terminal
        if terminal_id is None:
            raise UsageError(f"demo.json has no {'network' if network else 'POS'} terminal")
        known = ", ".join(terminal.terminal_id for terminal in self.terminals[:4])
        raise UsageError(f"demo.json has no terminal {terminal_id!r} (it has {known}, …)")


class _SwitchPart(msgspec.Struct):
    host: str
    port: int
    packager: str
    network_port: int
    network_packager: str


class _TerminalPart(msgspec.Struct):
    id: str
    merchant: str
    mac: str
    mac_key: str
    pin_key: str
    kek: str = ""
    link: str | None = None
    pin_format: int = 0
    utc_offset_min: int = 0


class _DemoPart(msgspec.Struct):
    switch: _SwitchPart
    currency: str
    terminals: list[_TerminalPart]


def load_demo(data_dir: Path) -> Demo:
    """Read `demo.json` of a running demo switch. `UsageError` when it is not there or not whole."""
    path = data_dir / "demo.json"
    try:
        part = msgspec.json.decode(path.read_bytes(), type=_DemoPart)
        terminals = tuple(_terminal(part.switch, terminal) for terminal in part.terminals)
    except FileNotFoundError:
        raise UsageError(
            f"there is no {path}: is the switch running? cardswitch up --demo --data {data_dir}"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, KeyError, ValueError):
        # the cause is not shown: it could quote a key
        raise UsageError(f"{path} is not a demo.json that this version understands") from None
    return Demo(part.currency, terminals)


def _terminal(switch: _SwitchPart, part: _TerminalPart) -> PosTerminal:
    network = part.link == "network"
    return PosTerminal(
        terminal_id=part.id,
        merchant_id=part.merchant,
        network=network,
        host=switch.host,
        port=switch.network_port if network else switch.port,
        packager=packagers()[switch.network_packager if network else switch.packager],
        mac_key=MacKey(MacAlgorithm(part.mac), bytes.fromhex(part.mac_key)),
        pin_key=bytes.fromhex(part.pin_key),
        kek=bytes.fromhex(part.kek),
        pin_format=part.pin_format,
        utc_offset_min=part.utc_offset_min,
    )
