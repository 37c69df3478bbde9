"""Training processes for a trainer, forked from a server that has imported torch.

The trainer starts ``python forked_training.py SOCKET train …`` in place of ``python -m trainer_core
train …`` (see ``child_command``). That small process asks the server for a fork, which runs
``trainer_core`` with the same arguments, environment and folder. The two end together: if
either is killed, so is the other. Only the seconds of importing are saved.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_START_S = 120
_REQUEST_BYTES = 1 << 20


def child_command(path: str) -> tuple[str, ...]:
    """The program of the training process, for the trainer's context."""
    return (sys.executable, "-I", "-S", str(Path(__file__).resolve()), path)


@contextmanager
def training_server(path: Path) -> Iterator[None]:
    """A server on the Unix socket ``path``; it ends with the block, with its children."""
    with path.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_training", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "REVERIE_ENV": "test"},
            process_group=0,
        )
    try:
        deadline_s = time.monotonic() + _START_S
        while not path.exists():
            assert process.poll() is None, path.with_suffix(".log").read_text()[-2000:]
            assert time.monotonic() < deadline_s, "the server of training processes is not up"
            time.sleep(0.05)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _serve(path: str) -> None:
    import bitsandbytes.optim  # noqa: F401
    import peft  # noqa: F401
    import prodigyopt  # noqa: F401

    import trainer_core.__main__
    import trainer_core.commands.make_tiny
    import trainer_core.commands.train
    import trainer_core.engine.loop  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    server.listen()
    Path(path + ".new").rename(path)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    """Run the request in a fork of its own; kill it if the asking process dies. Never returns."""
    body, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 1)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run(json.loads(body), descriptors[0])
    training = os.pidfd_open(pid)
    ready, _, _ = select.select([training, connection.fileno()], [], [])
    if training not in ready:
        os.kill(pid, signal.SIGKILL)
    _, ended = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(ended)
    with contextlib.suppress(OSError):  # the asking process may be gone
        connection.sendall(json.dumps(status).encode())
    os._exit(0)


def _run(request: dict[str, Any], output: int) -> None:
    status = 1
    try:
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["folder"])
        status = sys.modules["trainer_core.__main__"].main(request["argv"])
    except BaseException:  # noqa: BLE001 - the child must never continue as a server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _ask(path: str, argv: list[str]) -> int:
    """Ask the server for the fork and end as it ends."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    request = {"argv": argv, "env": dict(os.environ), "folder": str(Path.cwd())}
    socket.send_fds(server, [json.dumps(request).encode()], [1])
    status = int(json.loads(server.recv(64) or b"1"))
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(sys.argv[1])
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
