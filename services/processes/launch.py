"""Run a program that is signalled when its parent dies.

``python -I -S launch.py SIGNAL PARENT_PID UID GID COMMAND…`` gives up root where a UID is named
(-1: no change), asks the kernel for SIGNAL when the parent ends, and executes the command with the
same pid. It is a script and no ``preexec_fn``, because code between fork and exec may deadlock in a
process with threads. The user is changed first, because that clears the request to the kernel.
Source: prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def launch_command(
    command: tuple[str, ...], *, orphan_signal: int, uid: int, gid: int
) -> tuple[str, ...]:
    """The command that runs ``command`` through this script, as a child of this process.

    Args:
        command: the first part is an absolute path.
        orphan_signal: what the kernel sends when the *thread* that starts the child ends.
        uid: user to run as; -1 for the user of this process.
        gid: group to run as; ignored if ``uid`` is -1.
    """
    numbers = (int(orphan_signal), os.getpid(), uid, gid)
    return (sys.executable, "-I", "-S", __file__, *(str(n) for n in numbers), *command)


def main(argv: list[str]) -> None:
    """Execute the command; raises OSError, or exits if the parent has already ended."""
    death_signal, parent_pid, uid, gid = (int(text) for text in argv[:4])
    command = argv[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with_parent(death_signal, parent_pid)
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606  # no shell is wanted here


def die_with_parent(death_signal: int, parent_pid: int) -> None:
    """Ask the kernel for ``death_signal`` when the parent ends; exits where it has ended.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(1)  # the parent died before the request, so no signal would come


if __name__ == "__main__":
    main(sys.argv[1:])
