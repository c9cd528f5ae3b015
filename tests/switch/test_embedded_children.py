"""Children that live no longer than they shall: the stub, identities, locks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from store_scratch import eventually, gone, scratch_directory

from switch.embedded import child
from switch.embedded.process import Backoff, Identity, RunAs, processes_within, spawn, try_lock
from switch.embedded.stores import EmbeddedStores

ROOT = Path(__file__).resolve().parents[2]
LINUX = sys.platform == "linux"
AS_ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that another account reaches; pytest's own are private."""
    with scratch_directory() as path:
        yield path


def _output(process: subprocess.Popen[bytes]) -> bytes:
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    return output.strip()


def test_a_child_has_its_own_session_private_files_and_no_core(tmp_path: Path) -> None:
    script = "umask; ulimit -c; ps -o sid= -p $$ || echo $$; pwd"
    process = spawn(["/bin/sh", "-c", script], directory=tmp_path, stdout=subprocess.PIPE)
    mask, core, session, directory = _output(process).split()
    assert (mask, core) == (b"0077", b"0")
    assert int(session) == process.pid
    assert directory == os.fsencode(tmp_path)


def test_a_child_gets_default_signals() -> None:
    process = spawn(["/usr/bin/env", "cat", "/proc/self/status"], stdout=subprocess.PIPE)
    status = dict(line.split(b":\t", 1) for line in _output(process).splitlines() if b":\t" in line)
    assert int(status[b"SigBlk"], 16) == 0
    assert int(status[b"SigIgn"], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_a_child_whose_parent_is_gone_does_not_start(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    stub = [sys.executable, "-I", "-S", child.__file__]
    absent = subprocess.run(
        [*stub, "1", "9", "keep", "-", "/usr/bin/touch", str(mark)], check=False, timeout=10
    )
    assert absent.returncode == 0
    assert not mark.exists()


def test_the_stub_says_why_it_cannot(tmp_path: Path) -> None:
    def code(*command: str, **options: Any) -> int:
        return spawn(command, stderr=subprocess.DEVNULL, **options).wait(10)

    assert code("/nothing/here") == child.EXIT_PROGRAM
    assert code("/bin/true", directory=tmp_path / "none") == child.EXIT_DIRECTORY
    assert code("/bin/true") == 0
    if not AS_ROOT:
        assert code("/bin/true", run_as=RunAs(Identity.DROP, 0, 0)) == child.EXIT_IDENTITY


def test_children_start_from_the_main_thread_only(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def attempt() -> None:
        for start in (lambda: spawn(["/bin/true"]), EmbeddedStores(tmp_path).start):
            try:
                start()
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(errors) == 2 and all("main thread" in str(error) for error in errors)


@pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
def test_drop_is_another_user_for_good(open_dir: Path) -> None:
    run_as = RunAs(Identity.DROP, NOBODY, NOBODY)
    script = "id -u; id -g; id -G; touch own; stat -c %u own"
    own = open_dir / "work"
    own.mkdir()
    run_as.own(own)
    process = spawn(["/bin/sh", "-c", script], run_as=run_as, directory=own, stdout=subprocess.PIPE)
    assert _output(process).split() == [str(NOBODY).encode()] * 4


@pytest.mark.skipif(not (AS_ROOT and LINUX), reason="needs root and Linux")
def test_a_user_namespace_keeps_files_ours(tmp_path: Path) -> None:
    process = spawn(
        ["/bin/sh", "-c", "id -u; touch own; grep CapEff /proc/self/status"],
        run_as=RunAs.caller(Identity.USERNS),
        directory=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    output, _ = process.communicate(timeout=10)
    if process.returncode == child.EXIT_IDENTITY:
        pytest.skip("user namespaces are refused here")
    user, _, capabilities = output.split()
    assert int(user) == NOBODY
    assert int(capabilities, 16) == 0
    assert (tmp_path / "own").stat().st_uid == 0


@pytest.mark.skipif(not LINUX, reason="parent death signals are Linux's")
@pytest.mark.parametrize("identity", list(Identity))
def test_a_child_dies_with_a_killed_parent(identity: Identity) -> None:
    if identity is not Identity.KEEP and not AS_ROOT:
        pytest.skip("only root changes its identity")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from switch.embedded.process import *\n"
            f"run_as = RunAs(Identity({identity.value!r}), {NOBODY}, {NOBODY})\n"
            "process = spawn(['/bin/sleep', '60'], run_as=run_as)\n"
            "print(process.pid, flush=True); process.wait()",
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        pid = int(parent.stdout.readline())
        name = eventually(lambda: psutil.Process(pid).name() == "sleep", 5)
        parent.kill()
    assert name
    assert eventually(lambda: gone(pid), 5)


def test_backoff_is_none_at_first_and_two_seconds_at_most() -> None:
    backoff = Backoff()
    assert [backoff.delay_s(0.1) for _ in range(8)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff.delay_s(30.0) == 0
    assert backoff.delay_s(0.1) == 0


def test_a_lock_lasts_as_long_as_who_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path, inheritable=True)
    assert lock is not None
    process = spawn(["/bin/sleep", "60"], keep_fds=(lock,))
    os.close(lock)
    assert try_lock(path) is None
    process.kill()
    process.wait()
    again = try_lock(path)
    assert again is not None
    os.close(again)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_only_the_program_in_question_counts_as_left_over(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    process = spawn([sleep, "60"], directory=tmp_path)
    try:
        assert eventually(lambda: processes_within(tmp_path, Path(sleep)) == [process.pid], 5)
        assert processes_within(tmp_path, Path("/usr/bin/postgres")) == []
        assert processes_within(tmp_path.parent, Path(sleep)) == []
    finally:
        process.kill()
        process.wait()
