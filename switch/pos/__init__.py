"""A demo terminal at the command line: `cardswitch pos`."""

from __future__ import annotations

from switch.pos.command import add_parser, run

__all__ = ["add_parser", "run"]
