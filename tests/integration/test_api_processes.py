"""The API's processes: replaced when they die, ended with their parent, refused as a whole."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.fleet import Fleet, children_of
from tests.support.forking import API, start_module
from tests.support.service import new_tenant
from tests.support.waiting import wait_until


@pytest.fixture
def fleet(fleet_of: Callable[..., Fleet]) -> Iterator[Fleet]:
    fleet = fleet_of(REVERIE_API_PROCESSES="2")
    fleet.start_api()
    yield fleet
    fleet.stop()


def processes_of(fleet: Fleet) -> list[int]:
    """Two that serve, and the checker of long lists."""
    return children_of(fleet.processes["api"].pid)


def checker_of(fleet: Fleet) -> int:
    niceness = {pid: os.getpriority(os.PRIO_PROCESS, pid) for pid in processes_of(fleet)}
    return max(niceness, key=niceness.__getitem__)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists()


def refuses(fleet: Fleet) -> bool:
    try:
        httpx.get(f"{fleet.url}/healthz", timeout=2)
    except httpx.TransportError as error:  # a connection that was not accepted yet is reset
        return isinstance(error, httpx.ConnectError)
    return False


def test_a_dead_process_is_replaced_while_the_other_one_serves(fleet: Fleet) -> None:
    tenant = new_tenant(fleet, "ada")
    before = processes_of(fleet)
    killed = next(pid for pid in before if pid != checker_of(fleet))

    os.kill(killed, signal.SIGKILL)

    assert tenant.get("/v1/runs")["data"] == []
    now = wait_until(
        lambda: (pids := processes_of(fleet)) and killed not in pids and len(pids) == 3 and pids,
        deadline_s=20,
        what="a new process",
    )
    assert set(before) - {killed} < set(now)
    assert fleet.processes["api"].poll() is None


def test_a_long_list_is_checked_although_the_checker_died(fleet: Fleet) -> None:
    tenant = new_tenant(fleet, "ada")
    files = [
        {"path": f"{n:060d}.jpg", "size_bytes": 1, "sha256": f"{n:064x}"} for n in range(30_000)
    ]
    os.kill(checker_of(fleet), signal.SIGKILL)
    dataset_id = tenant.post("/v1/datasets", {"name": "long", "files": files})["id"]
    files[7]["path"] = "a.exe"
    refused = tenant.http.post("/v1/datasets", json={"name": "long", "files": files})

    assert len(tenant.post("/v1/uploads", {"dataset_id": dataset_id})["data"]) == 1000
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/files/7/path"]


def test_all_processes_end_with_a_killed_parent(fleet: Fleet) -> None:
    pids = processes_of(fleet)

    fleet.processes["api"].kill()

    wait_until(lambda: all(map(is_gone, pids)), deadline_s=10, what="the processes to end")
    wait_until(lambda: refuses(fleet), deadline_s=10, what="its address to refuse connections")


def test_a_stop_ends_all_processes_with_status_0(fleet: Fleet) -> None:
    pids = processes_of(fleet)

    fleet.signal("api", signal.SIGTERM)

    assert fleet.wait("api", deadline_s=20) == 0
    assert len(pids) == 3
    assert all(map(is_gone, pids))


def test_a_stop_during_the_start_ends_it_at_once(fleet_of: Callable[..., Fleet]) -> None:
    fleet = fleet_of(REVERIE_API_PROCESSES="2")
    fleet.start("api")
    wait_until(lambda: len(processes_of(fleet)) == 3, deadline_s=30, what="its processes")

    fleet.signal("api", signal.SIGTERM)

    assert fleet.wait("api", deadline_s=10) == 0


@pytest.mark.parametrize(
    ("env", "arguments", "status", "message"),
    [
        ({"REVERIE_DATABASE_URL": ""}, ["--port", "0"], 2, "REVERIE_DATABASE_URL is not set"),
        ({}, ["--port", "{taken}"], 3, "Address already in use"),
        # Each process finds out for itself that it cannot write there.
        ({"REVERIE_OBJECTS_URL": "file:///proc/nowhere"}, ["--port", "0"], 3, "/proc/nowhere"),
    ],
)
def test_a_start_that_cannot_work_fails_as_a_whole(
    fleet_of: Callable[..., Fleet],
    env: dict[str, str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    fleet = fleet_of(REVERIE_API_PROCESSES="2", **env)
    log = fleet.home / "log"
    with socket.create_server(("127.0.0.1", 0)) as taken, log.open("wb") as output:
        port = taken.getsockname()[1]
        given = [argument.format(taken=port) for argument in arguments]
        process = start_module("services.api", given, env=fleet.env, output=output, kind=API)
        ended = process.wait(60)

    assert ended == status, log.read_text()
    assert message in log.read_text()
