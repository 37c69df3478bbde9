"""The program that a worker starts in place of ``python -m MODULE``: it asks for a fork.

``python forked_training.py SOCKET train …`` asks the server of training processes, see ``forking``,
for ``trainer_core`` with the same arguments, environment, folder and descriptors. After SOCKET,
``-m MODULE`` asks for that module instead. SIGTERM is handed on to it. The two end together: if
either is killed, so is the other. Only the seconds of importing are saved.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

ALL_SAMPLES = "TESTS_ALL_SAMPLES"
"""Environment variable of a training process, and of a trainer; see ``few_samples``."""
_MESSAGE_BYTES = 1 << 17


def child_command(address: Path | str) -> tuple[str, ...]:
    """The program, before its arguments; ``address`` is the server's socket."""
    # The supervisor hands on only what training has to know.
    told = ("/usr/bin/env", f"{ALL_SAMPLES}=1") if ALL_SAMPLES in os.environ else ()
    return (*told, sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(address))


def module_command(address: Path | str, module: str) -> tuple[str, ...]:
    """As ``child_command``, for another module, which the server has imported."""
    return (*child_command(address), "-m", module)


def _ask(address: str, module: str, argv: list[str]) -> int:
    """Ask for the fork and end as it ends; it gets the SIGTERM that this process gets."""
    opened = sorted(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - numbers, no paths
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(address)
    opened = [each for each in opened if Path(f"/proc/self/fd/{each}").exists()]
    descriptors = [each for each in opened if each != server.fileno()]
    request = {
        "module": module,
        "argv": argv,
        "env": dict(os.environ),
        "folder": str(Path.cwd()),
        "descriptors": descriptors,
    }
    socket.send_fds(server, [json.dumps(request).encode()], descriptors)
    for each in descriptors:
        if each > 2:
            os.close(each)
    _, (handle,), _, _ = socket.recv_fds(server, _MESSAGE_BYTES, 1)
    signal.signal(signal.SIGTERM, lambda number, _: _hand_on(handle, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})  # by a launcher
    status = int(json.loads(server.recv(_MESSAGE_BYTES) or b'{"status": 1}')["status"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def _hand_on(handle: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        signal.pidfd_send_signal(handle, number)


if __name__ == "__main__":
    if sys.argv[2] == "inspect":  # its address space is limited, and it imports no torch
        program = [sys.executable, "-m", "trainer_core", *sys.argv[2:]]
        os.execv(sys.executable, program)
    if sys.argv[2] == "-m":
        sys.exit(_ask(sys.argv[1], sys.argv[3], sys.argv[4:]))
    sys.exit(_ask(sys.argv[1], "trainer_core", sys.argv[2:]))
