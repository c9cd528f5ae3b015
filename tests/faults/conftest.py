"""Stacks to break: one as anybody would start it, and one between proxies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from fault_stack import Apart, Plain, Stack  # noqa: E402
from fault_switch import BrokenSwitch  # noqa: E402


def running(kind: type[Stack]) -> Iterator[Stack]:
    stack = kind()
    stack.start()
    try:
        yield stack
        stack.switch.until_whole()
        stack.verify()
        stack.stop()
    finally:
        stack.throw_away()


@pytest.fixture(scope="session")
def plain() -> Iterator[Stack]:
    yield from running(Plain)


@pytest.fixture(scope="session")
def apart() -> Iterator[Stack]:
    yield from running(Apart)


@pytest.fixture(scope="session")
def switch(plain: Stack) -> BrokenSwitch:
    """`cardswitch up --demo --workers 4`, as anybody would start it."""
    return plain.switch
