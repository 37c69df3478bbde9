"""Forked processes end as new ones do, and their server outlives those that ask it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forking import API, COMMANDS, SERVICES, TRAINING, ForkServer, Kind, server_of

_MODULE = "tests.support.run_text"
_KIND = Kind(("json",))
_SECONDS = 30.0


@pytest.fixture(scope="module")
def server() -> ForkServer:
    return ForkServer(_KIND)


def ended(server: ForkServer, text: str, folder: Path) -> tuple[int, str]:
    """Exit status of a fork that runs these lines, and what it printed."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = server.fork(
            _MODULE, [text], env=os.environ, output=output, errors=output, folder=folder
        )
    return process.wait(_SECONDS), log.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "print('unflushed', end='')",
        "print('a'); sys.exit(300)",
        "print('a'); sys.exit()",
        "sys.exit('why')",
        "raise KeyError('why')",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import atexit; atexit.register(print, 'first'); atexit.register(print, 'second')",
        "import threading; threading.Timer(0.05, print, ['thread']).start()",
        "sys.stdout = open('/dev/full', 'w'); print('lost')",
    ],
)
def test_a_fork_ends_as_a_new_process_does(server: ForkServer, text: str, tmp_path: Path) -> None:
    new = subprocess.run(
        [sys.executable, "-m", _MODULE, text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )

    status, printed = ended(server, text, tmp_path)

    assert status == new.returncode
    assert printed.splitlines()[-1:] == new.stdout.splitlines()[-1:]  # tracebacks differ above


def test_a_fork_leaves_no_temporary_folder(server: ForkServer, tmp_path: Path) -> None:
    text = "import tempfile; kept = tempfile.TemporaryDirectory(dir='.'); print(kept.name)"
    status, printed = ended(server, text, tmp_path)
    assert (status, [each.name for each in tmp_path.iterdir()]) == (0, ["log.txt"]), printed


def test_the_server_outlives_whoever_is_killed_while_it_asks(
    server: ForkServer, tmp_path: Path
) -> None:
    request = {
        "module": _MODULE,
        "argv": ["pass"],
        "env": {},
        "folder": "/",
        "descriptors": [0, 1, 2],
    }
    for messages in ([], [json.dumps(request).encode()]):
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed,
            Path(os.devnull).open("r+b") as nothing,
        ):
            killed.connect(str(server.address))
            if messages:
                socket.send_fds(killed, messages, [nothing.fileno()] * 3)
    assert ended(server, "print('others go on')", tmp_path) == (0, "others go on\n")


@pytest.mark.parametrize("kind", [TRAINING, SERVICES, API, COMMANDS])
def test_processes_of_tests_are_forked(kind: Kind) -> None:
    """Another module that sets such a variable on import would start each of them anew."""
    import torch._inductor.runtime.runtime_utils  # noqa: F401 - sets TORCHINDUCTOR_CACHE_DIR

    assert server_of(kind).fits({**os.environ, **dict(kind.env)})
