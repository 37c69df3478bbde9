"""The program that a worker starts in place of ``python -m trainer_core``: it asks for a fork.

``python forked_training.py SOCKET train …`` asks the server of training processes (see ``forking``)
for ``trainer_core`` with the same arguments, environment, folder and descriptors. The two end
together: if either is killed, so is the other. Only the seconds of importing are saved.
"""

import json
import os
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


def _ask(address: str, argv: list[str]) -> int:
    """Ask for the fork and end as it ends."""
    opened = sorted(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - numbers, no paths
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(address)
    opened = [each for each in opened if Path(f"/proc/self/fd/{each}").exists()]
    descriptors = [each for each in opened if each != server.fileno()]
    request = {
        "module": "trainer_core",
        "argv": argv,
        "env": dict(os.environ),
        "folder": str(Path.cwd()),
        "descriptors": descriptors,
    }
    socket.send_fds(server, [json.dumps(request).encode()], descriptors)
    for each in descriptors:
        if each > 2:
            os.close(each)
    server.recv(_MESSAGE_BYTES)  # its pid
    status = int(json.loads(server.recv(_MESSAGE_BYTES) or b'{"status": 1}')["status"])
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    if sys.argv[2] == "inspect":  # its address space is limited, and it imports no torch
        program = [sys.executable, "-m", "trainer_core", *sys.argv[2:]]
        os.execv(sys.executable, program)
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
