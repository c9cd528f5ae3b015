"""Switches to break, one for most faults and one whose workers die by plan."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from fault_switch import BrokenSwitch  # noqa: E402

from switch.embedded.stores import EmbeddedStores  # noqa: E402

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 * 1024**3


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory with a short path, in memory where there is enough: nobody pulls the plug."""
    base = None
    with contextlib.suppress(OSError):
        space = os.statvfs(_MEMORY)
        if space.f_bavail * space.f_frsize > _ENOUGH_BYTES and os.access(_MEMORY, os.W_OK):
            base = _MEMORY
    path = Path(tempfile.mkdtemp(prefix="fault-", dir=base))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running_switch(**options: object) -> Iterator[BrokenSwitch]:
    with scratch_directory() as directory:
        switch = BrokenSwitch(directory, **options)
        try:
            switch.start()
            yield switch
            switch.refresh()
            assert switch.stop() == 0
        finally:
            switch.kill()


@pytest.fixture(scope="session")
def switch() -> Iterator[BrokenSwitch]:
    """`cardswitch up --demo --workers 4`, as anybody would start it."""
    with running_switch() as running:
        yield running


@pytest.fixture(scope="session")
def own_cache() -> Iterator[EmbeddedStores]:
    """A Redis that nobody starts again but the test."""
    with scratch_directory() as directory:
        stores = EmbeddedStores(directory, postgres=False)
        try:
            stores.start()
            yield stores
        finally:
            stores.stop()


@pytest.fixture(scope="session")
def mortal_switch(own_cache: EmbeddedStores) -> Iterator[BrokenSwitch]:
    """Four workers that look into a plan for when to die, and a cache of the test's own."""
    with running_switch(plan=True, redis_url=own_cache.redis_url) as running:
        yield running
