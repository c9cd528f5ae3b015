"""First program of every supervised child: ties it to its parent's life, then becomes the child.

Run as a plain file by a bare interpreter (`python -I -S child.py ...`), so it imports nothing of
ours and costs some 20 ms. The order of the steps matters:

1. a session of its own, so that Ctrl-C at the terminal reaches the supervisor alone;
2. the user it shall run as, for PostgreSQL refuses to run as root;
3. the *parent death signal*: Linux sends it when the parent's thread ends, also after SIGKILL.
   A change of user clears that setting, hence after step 2;
4. a look whether the parent died in the meantime, which no signal would tell any more;
5. exec. The process number stays the same all the way, so the supervisor's handle stays true.

Arguments: PARENT_PID DEATH_SIGNAL IDENTITY DIRECTORY PROGRAM [ARGUMENT...]. IDENTITY is `keep`,
`userns` (nobody within a user namespace of its own; files stay owned by the caller) or
`drop:UID:GID`. DIRECTORY is the one to work in, or `-`. Exit codes when it cannot: 125 identity,
126 directory, 127 program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

__all__ = ["EXIT_DIRECTORY", "EXIT_IDENTITY", "EXIT_PROGRAM", "main"]

EXIT_IDENTITY = 125
EXIT_DIRECTORY = 126
EXIT_PROGRAM = 127

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_NOBODY = 65534
_OPEN_FILES_WANTED = 65536


def _libc_call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _enter_user_namespace() -> None:
    """Become nobody in a new user namespace in which nobody *is* the caller outside."""
    user, group = os.geteuid(), os.getegid()
    _libc_call("unshare", _CLONE_NEWUSER)
    _write("/proc/self/uid_map", f"{_NOBODY} {user} 1")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/gid_map", f"{_NOBODY} {group} 1")


def _take_identity(identity: str) -> None:
    if identity == "userns":
        _enter_user_namespace()
    elif identity.startswith("drop:"):
        _, user, group = identity.split(":")
        os.setgroups([])
        os.setgid(int(group))
        os.setuid(int(user))
    elif identity != "keep":
        raise ValueError(f"unknown identity {identity!r}")


def _set_limits() -> None:
    # a core file would hold keys and card data
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_WANTED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _reset_signals() -> None:
    # Python ignores these two for itself, and an ignored signal stays ignored over exec
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(arguments: list[str]) -> int:
    """Turn this process into PROGRAM; returns an exit code only when that was not possible."""
    parent, death_signal, identity, directory, *command = arguments
    os.setsid()
    os.umask(0o077)
    _set_limits()
    try:
        _take_identity(identity)
        if sys.platform == "linux":
            _libc_call("prctl", _PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    except OSError as error:
        print(f"cannot take identity {identity}: {error}", file=sys.stderr)
        return EXIT_IDENTITY
    if os.getppid() != int(parent):
        return 0  # the parent is gone: nobody wants this child any more
    if directory != "-":
        try:
            os.chdir(directory)
        except OSError as error:
            print(f"cannot enter the directory: {error}", file=sys.stderr)
            return EXIT_DIRECTORY
    _reset_signals()
    try:
        os.execv(command[0], command)  # noqa: S606 - to become it is the point
    except OSError as error:
        print(f"cannot run {command[0]}: {error}", file=sys.stderr)
    return EXIT_PROGRAM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
