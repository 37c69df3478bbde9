"""Processes of ``python -m MODULE`` that start fast: forked from a server that has imported it.

A server (``fork_server``) has imported what its processes import, and has run nothing of it. A fork
takes the environment, the folder and the descriptors of the request, and then runs the module as
``python -m`` does: it is as a new process, without the second or more of importing. It ends after
its last exit handler: to take the modules apart would copy most pages of the server. Only
``/proc/PID/cmdline`` and ``/proc/PID/environ`` are the server's, and so are pages of memory. A test
that looks at these, or at what happens after the exit handlers, asks for a new process. A process
ends with the one that asked for it.
"""

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.fork_server import FEW_SAMPLES, MESSAGE_BYTES

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 300.0
_READ_ON_IMPORT = (
    "PYTHON",
    "LD_",
    "TORCH",
    "TRITON_",
    "CUDA_",
    "HF_HOME",
    "HF_HUB_",
    "HF_ENDPOINT",
    "LC_",
    "TZ",
)
"""Beginnings of the variables that an import reads: for other values, a fork would be too late."""
_SET_BY_IMPORTS = ("TORCHINDUCTOR_CACHE_DIR",)
"""Of those, the ones that importing PyTorch may set in the process of the tests."""
_SESSION = "TESTS_FORK_SERVERS"
"""Environment variable: the folder of the session's servers."""
_OWNER = "owner"
"""The pipe in it."""


@dataclass(frozen=True)
class Kind:
    """A server, by what it has imported; ``start_module`` starts the process."""

    imported: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    """Variables that the server is given beside those of the tests."""


SERVICES = Kind(
    (
        # What Celery and Kombu import when a process connects to its queue, and takes from it.
        "celery.app.amqp",
        "celery.app.control",
        "celery.apps.worker",
        "celery.concurrency.thread",
        "celery.fixups.django",
        "celery.worker.consumer",
        "celery.worker.strategy",
        "kombu.transport.redis",
        "services.cache_builder.main",
        "services.cache_builder.indexing.main",
        "services.dispatcher.main",
        "services.queue.consumer",
        "services.results.main",
        "services.trainer.join",
        "services.trainer.main",
        "tokenizers",
    )
)
TRAINING = Kind(
    (
        "bitsandbytes.optim",
        "deepspeed",
        "numpy.ctypeslib",
        "optimum.quanto.tensor.weights.marlin",
        "peft",
        "prodigyopt",
        "services.cli.hub_publishing",
        "services.cli.program",
        "services.cli.train_view",
        "tensorboardX",
        "tests.support.conversion_names",
        FEW_SAMPLES,
        "torch.distributed.run",
        "trainer_core.commands.encode",
        "trainer_core.commands.make_tiny",
        "trainer_core.commands.train",
        "trainer_core.engine.loop",
        "trainer_core.export.checkpoint_adapter",
        "trainer_core.export.merge",
        "trainer_core.local.cache",
        "trainer_core.local.run",
        "trainer_core.painting.generate",
    ),
    (("OMP_NUM_THREADS", "1"), ("REVERIE_ENV", "test")),
)
"""One thread, so that two runs on two cores do not take many times as long."""
COMMANDS = Kind(
    (
        "httpcore",
        "rich.console",
        "services.cli.config_folder",
        "services.cli.documents",
        "services.cli.program",
        "services.cli.run_sources",
        "services.cli.run_start",
        "services.cli.sweeps",
        "services.cli.watch",
        "services.client.client",
        "services.client.push",
        "typer.rich_utils",
    )
)
"""Commands of ``reverie`` that compute nothing; see ``command_line``."""
# prometheus_client looks for this variable when it is imported; the API names its own folder later.
API = Kind(
    (
        "anyio._backends._asyncio",
        "cryptography.hazmat.primitives.asymmetric.ec",
        "services.api.main",
        "uvicorn.lifespan.on",
        "uvicorn.loops.auto",
    ),
    (("PROMETHEUS_MULTIPROC_DIR", tempfile.gettempdir()),),
)


class ForkedProcess:
    """What tests use of ``subprocess.Popen``, for a process that a server forked."""

    def __init__(self, server: socket.socket) -> None:
        message, (self._handle,), _, _ = socket.recv_fds(server, MESSAGE_BYTES, 1)
        self._server = server
        self._lock = threading.Lock()
        self.pid = int(json.loads(message)["pid"])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status as of ``Popen``; None while the process runs."""
        with self._lock:
            return self._status()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status; raises TimeoutExpired after ``timeout`` seconds."""
        select.select([self._server], [], [], 0 if self.returncode is not None else timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        with self._lock:
            if self._status() is None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _status(self) -> int | None:
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            message = self._server.recv(MESSAGE_BYTES)
            assert message, "the server of forked processes is gone"
            self.returncode = int(json.loads(message)["status"])
            os.close(self._handle)
        return self.returncode


Process = subprocess.Popen[bytes] | ForkedProcess


class ForkServer:
    """The server of one kind; ``address`` is its Unix socket.

    All pytest processes of a session share it: the first that asks starts it. It ends with the
    session.
    """

    def __init__(self, kind: Kind) -> None:
        self.address = _address_of(kind)
        self._processes: list[ForkedProcess] = []
        """Held: a process ends when nobody holds its connection."""
        with self.address.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.address.exists():
                process = _begun.pop(kind, None) or _begin_server(kind)
                _await_server(process, self.address)
        self.env: dict[str, str] = json.loads(_env_of(self.address).read_text())

    def fits(self, env: Mapping[str, str]) -> bool:
        """Whether a fork can have this environment."""
        named = {name for name in {*env, *self.env} if name.startswith(_READ_ON_IMPORT)}
        return all(
            env.get(name) == self.env.get(name) for name in named.difference(_SET_BY_IMPORTS)
        )

    def fork(
        self,
        module: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        output: IO[Any],
        errors: IO[Any],
        folder: Path,
    ) -> ForkedProcess:
        """As ``start_module``."""
        request = {
            "module": module,
            "argv": list(argv),
            "env": dict(env),
            "folder": str(folder),
            "descriptors": [0, 1, 2],
        }
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.connect(str(self.address))
        with Path(os.devnull).open() as nothing:
            opened = [each.fileno() for each in (nothing, output, errors)]
            socket.send_fds(server, [json.dumps(request).encode()], opened)
        process = ForkedProcess(server)
        self._processes.append(process)
        return process


def session_folder() -> Path:
    """Where the servers of this session are; the first process that asks makes it, and owns it.

    The servers end when their owner does: they read a pipe that it alone holds open. Its child
    processes, such as those that ``parallel`` forks, find the folder by an environment variable.
    """
    if _SESSION not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="forking-"))
        os.mkfifo(folder / _OWNER)
        held = os.open(folder / _OWNER, os.O_RDWR)
        os.environ[_SESSION] = str(folder)

        def end() -> None:
            os.close(held)
            shutil.rmtree(folder, ignore_errors=True)

        atexit.register(end)
    return Path(os.environ[_SESSION])


def open_owner() -> int:
    """The pipe that ends with the session's owner, for a process that is to end with it, too."""
    return os.open(session_folder() / _OWNER, os.O_RDONLY | os.O_NONBLOCK)


def begin_servers() -> None:
    """Start the server of each kind; this process calls ``await_servers`` before it forks."""
    for kind in (TRAINING, SERVICES, API, COMMANDS):
        _begun[kind] = _begin_server(kind)


def await_servers() -> None:
    """Wait until those that have begun have imported what their forks need."""
    for kind in list(_begun):
        server_of(kind)


def _begin_server(kind: Kind) -> subprocess.Popen[bytes]:
    address = _address_of(kind)
    env = {**os.environ, **dict(kind.env)}
    _env_of(address).write_text(json.dumps(env))
    owner = open_owner()
    try:
        with _log_of(address).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(address), *kind.imported],
                stdin=owner,
                stdout=output,
                stderr=output,
                env=env,
            )
    finally:
        os.close(owner)


def _await_server(process: subprocess.Popen[bytes], address: Path) -> None:
    end_s = time.monotonic() + _START_S
    while not address.exists():
        assert process.poll() is None, _log_of(address).read_text()[-2000:]
        assert time.monotonic() < end_s, "the server of forked processes is not up"
        time.sleep(0.02)
    _started.append(process)


def _address_of(kind: Kind) -> Path:
    return session_folder() / hashlib.sha256(repr(kind).encode()).hexdigest()[:12]


def _env_of(address: Path) -> Path:
    return address.with_suffix(".json")


def _log_of(address: Path) -> Path:
    return address.with_suffix(".log")


_begun: dict[Kind, subprocess.Popen[bytes]] = {}
"""Not awaited yet."""
_started: list[subprocess.Popen[bytes]] = []
_servers: dict[Kind, ForkServer] = {}
_starting = threading.Lock()


def server_of(kind: Kind) -> ForkServer:
    """The server of this kind; the first call of the session starts it."""
    with _starting:
        if kind not in _servers:
            _servers[kind] = ForkServer(kind)
        return _servers[kind]


def start_module(
    module: str,
    argv: Sequence[str] = (),
    *,
    env: Mapping[str, str],
    output: IO[Any],
    errors: IO[Any] | None = None,
    folder: Path | None = None,
    kind: Kind | None,
) -> Process:
    """Start ``python -m MODULE ARGV``; its stdin is empty.

    Args:
        errors: stderr; without one, it goes to ``output``.
        folder: its working directory; None for that of this process.
        kind: whose fork it may be; None: a new process. It is a new one also where ``env`` says
            what imports read.
    """
    errors, folder = errors or output, folder or Path.cwd()
    if kind is not None and (server := server_of(kind)).fits(env):
        return server.fork(module, argv, env=env, output=output, errors=errors, folder=folder)
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        cwd=folder,
        env={"PYTHONPATH": str(_ROOT), **env},  # in another folder, it would be the installed one
    )
