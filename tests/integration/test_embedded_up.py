"""`reverie up`: it starts, restarts what ends, refuses a second one, and leaves no process."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import pytest

from services.embedded.errors import EmbeddedError, HomeInUseError
from services.embedded.owner import server_owner, servers_folder
from services.embedded.service import EmbeddedService
from services.processes.tree import descendants, is_alive, send_signal
from tests.support.fleet import children_of, command_of
from tests.support.ports import free_port
from tests.support.waiting import wait_until
from trainer_core.process.stat import ProcessId, identify

PARTS = {"postgres", "valkey", "api", "dispatcher", "cache-builder", "results", "trainer"}
UP = [sys.executable, "-m", "services.cli.main", "up"]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One home for the module, so that its base model and its database are made once."""
    with tempfile.TemporaryDirectory(prefix="reverie-") as folder:
        # Under root the servers run as another user, who must be able to enter the home.
        Path(folder).chmod(0o711)
        yield Path(folder) / "home"


@pytest.fixture
def service(home: Path) -> Iterator[EmbeddedService]:
    with EmbeddedService(home, port=free_port()) as running:
        yield running


def pids_of(service: EmbeddedService) -> list[ProcessId]:
    """Every process of a running service, with children of children."""
    found = [identify(pid) for pid in service.processes.values()]
    return [p for p in found if p is not None] + descendants(service.processes.values())


def wait_gone(processes: list[ProcessId], *, deadline_s: float = 20) -> None:
    wait_until(
        lambda: not any(is_alive(p) for p in processes),
        deadline_s=deadline_s,
        what="every process of the service to be gone",
    )


def facts_of(home: Path) -> dict[str, Any]:
    return dict(json.loads((home / "service.json").read_text()))


def begin_up(home: Path, *options: str) -> subprocess.Popen[bytes]:
    """``reverie up`` as a command of its own."""
    env = {**os.environ, "REVERIE_HOME": str(home)}
    command = [*UP, "--port", str(free_port()), *options]
    with (home.parent / "up.log").open("wb") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)


def start_up(home: Path, *options: str) -> subprocess.Popen[bytes]:
    """``reverie up``, and wait until it is up."""
    process = begin_up(home, *options)

    def is_up() -> bool:
        assert process.poll() is None, (home.parent / "up.log").read_text()
        return (home / "service.json").exists() and facts_of(home)["pid"] == process.pid

    wait_until(is_up, deadline_s=120, what="`reverie up` to be up")
    return process


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What a killed ``reverie up`` was and left."""

    processes: list[ProcessId]
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def killed(home: Path) -> Killed:
    process = start_up(home, "--quiet")
    everyone = descendants([process.pid])
    process.kill()
    process.wait()
    return Killed(processes=everyone, facts=facts_of(home))


def test_a_killed_up_leaves_no_process(killed: Killed) -> None:
    assert len(killed.processes) >= len(PARTS)
    wait_gone(killed.processes)


def test_a_process_that_ends_is_restarted_and_a_server_that_ends_ends_all(
    home: Path, killed: Killed, service: EmbeddedService
) -> None:
    assert set(service.processes) == PARTS
    assert service.api_key == killed.facts["api_key"]
    key = {"Authorization": f"Bearer {service.api_key}"}
    assert httpx.get(f"{service.url}/v1/runs", headers=key, timeout=10).status_code == 200
    assert httpx.get(f"{service.url}/v1/runs", timeout=10).status_code == 401
    audited = httpx.get(f"{service.url}/v1/audit-events", headers=key, timeout=10).json()["data"]
    assert [event["action"] for event in audited] == ["key.created", "tenant.created"]
    assert facts_of(home)["url"] == service.url
    key = {"Authorization": f"Bearer {facts_of(home)['operator_key']}"}
    assert httpx.get(f"{service.url}/v1/admin/workers", headers=key, timeout=10).status_code == 200
    for name in ("service.json", "secrets.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600

    with pytest.raises(HomeInUseError):
        EmbeddedService(home).start()

    old = service.processes["results"]
    os.kill(old, signal.SIGKILL)
    wait_until(
        lambda: service.processes.get("results", old) != old,
        deadline_s=30,
        what="results to be started again",
    )

    everyone = pids_of(service)
    os.kill(service.processes["valkey"], signal.SIGKILL)

    wait_until(lambda: not service.is_running(), deadline_s=60, what="the service to end by itself")
    assert "valkey" in str(service.failure)
    assert [p for p in everyone if is_alive(p)] == []
    assert not (home / "service.json").exists()


@pytest.mark.deep
def test_a_second_stop_waits_for_no_checkpoint(home: Path) -> None:
    process = start_up(home, "--quiet")
    everyone = descendants([process.pid])
    (trainer,) = (each for each in everyone if "-m services.trainer" in command_of(each.pid))
    send_signal(trainer, signal.SIGSTOP)  # it would be waited for, for its checkpoint
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in (home.parent / "up.log").read_text(), what="the stop")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert [p for p in everyone if is_alive(p)] == []
    assert not (home / "service.json").exists()


def test_a_taken_port_is_refused_by_name(tmp_path: Path) -> None:
    with socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        with pytest.raises(EmbeddedError, match=f"port {taken} is taken"):
            EmbeddedService(tmp_path / "home", port=taken).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the servers as another user")
def test_the_mode_of_a_private_home_is_not_changed(tmp_path: Path) -> None:
    home = tmp_path / "closed" / "home"
    home.mkdir(parents=True)
    home.parent.chmod(0o700)
    owner = server_owner()

    folder = servers_folder(home, owner)

    try:
        assert not folder.is_relative_to(tmp_path)
        assert owner.can_enter(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
        assert home.parent.stat().st_uid == 0
    finally:
        folder.rmdir()


@pytest.mark.deep
@pytest.mark.parametrize("children", range(1, len(PARTS) + 1))
def test_no_process_is_left_when_up_is_killed_while_it_starts(home: Path, children: int) -> None:
    """SIGKILL as soon as this many children run: all of them end soon after."""
    up = begin_up(home, "--quiet")

    def started() -> list[ProcessId] | None:
        return descendants([up.pid]) if len(children_of(up.pid)) >= children else None

    everyone = wait_until(started, deadline_s=120, what=f"{children} children", every_s=0.02)
    up.kill()
    up.wait()

    wait_gone(everyone)
