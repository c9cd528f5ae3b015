"""The projector's process: a child of the first worker, below it in priority.

It is a process of its own because its steps compute for tens of milliseconds, for which no answer
must wait. The worker hands it its file on standard input and keeps that open: when the worker is
gone, however that came, the projector ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import trio

from switch.journal.connection import JournalConnection
from switch.journal.server import STORE_ERRORS
from switch.journal.unit import UnitConnection
from switch.logs import configure, event
from switch.prepare import load_master_key, load_saved_settings
from switch.projections.checkpoints import (
    CHECKPOINTS_FILE,
    SIGNING_KEY_FILE,
    append_checkpoint,
    checkpoint_of,
    newest_block,
)
from switch.projections.projector import run_projector
from switch.projections.sealing import Sealer, last_block
from switch.signing import SigningKey

__all__ = ["ProjectorFile", "keep_projecting", "note_checkpoints", "project"]

_CHECKPOINT_PERIOD_S = 60.0
_RESTART_S = 1.0
_NICENESS = 10

log = logging.getLogger(__name__)


class ProjectorFile(msgspec.Struct, frozen=True):
    """What the worker tells its projector."""

    url: str
    """Of the switch's own role."""
    data_dir: str


# In the worker


async def keep_projecting(file: ProjectorFile) -> None:
    """Run the projector's process until cancelled; start it again when it dies."""
    while True:
        await _run_process(file)
        event(log, logging.ERROR, "projector-died")
        await trio.sleep(_RESTART_S)


async def _run_process(file: ProjectorFile) -> None:
    command = [sys.executable, "-m", "switch", "projector"]
    async with trio.open_nursery() as nursery:
        run = functools.partial(trio.run_process, command, stdin=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(run)
        assert process.stdin is not None
        try:
            await process.stdin.send_all(msgspec.json.encode(file) + b"\n")
            await process.wait()
        except trio.BrokenResourceError:
            await process.wait()


# The process


def project() -> int:
    """`python -m switch projector`: follow the journal until standard input ends or SIGTERM."""
    os.nice(_NICENESS)
    line = sys.stdin.buffer.readline()
    if not line.strip():
        return 2
    file = msgspec.json.decode(line, type=ProjectorFile)
    data_dir = Path(file.data_dir)
    settings = load_saved_settings(data_dir)
    configure(settings.log_level.number, fixed={"process": "projector"})
    sealer = Sealer(load_master_key(settings, data_dir))
    gc.set_threshold(100_000, 20, 20)  # a step holds some ten thousand objects, none in a ring
    gc.freeze()
    trio.run(_project, file, sealer)
    return 0


async def _project(file: ProjectorFile, sealer: Sealer) -> None:
    data_dir = Path(file.data_dir)
    key = SigningKey.open(data_dir / SIGNING_KEY_FILE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_input, nursery.cancel_scope)
        nursery.start_soon(_end_with_signal, nursery.cancel_scope)
        nursery.start_soon(note_checkpoints, file.url, data_dir / CHECKPOINTS_FILE, key)
        await run_projector(file.url, sealer)


async def _end_with_input(scope: trio.CancelScope) -> None:
    """The worker has gone."""
    while True:
        await trio.lowlevel.wait_readable(0)
        if not os.read(0, 64):
            scope.cancel()
            return


async def _end_with_signal(scope: trio.CancelScope) -> None:
    """SIGINT comes to all of a terminal's processes: the worker sees to it for this one, too."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if number == signal.SIGTERM:
                scope.cancel()
                return


async def note_checkpoints(
    url: str, path: Path, key: SigningKey, *, period_s: float = _CHECKPOINT_PERIOD_S
) -> None:
    """Write a checkpoint into the data directory each minute in which the journal has grown."""
    noted = newest_block(path)
    while True:
        with contextlib.suppress(*STORE_ERRORS):
            connection = await JournalConnection.open(url, timeout_s=5)
            try:
                block = await last_block(UnitConnection(connection))
            finally:
                await connection.close()
            if block.number < noted:
                event(log, logging.ERROR, "journal-cut-back", block=block.number, noted=noted)
            elif block.number > noted:
                append_checkpoint(path, checkpoint_of(block, key))
                noted = block.number
        await trio.sleep(period_s)
