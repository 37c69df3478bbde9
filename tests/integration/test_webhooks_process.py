"""Webhooks over HTTP and from the terminal, with real processes and the receiver of the guide."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.connection import Invocation
from services.cli.program import app
from services.client.client import Client
from services.client.errors import ProblemError
from tests.support.backups import dump_text
from tests.support.canaries import Canaries
from tests.support.fleet import Fleet, children_of, command_of
from tests.support.ports import free_port
from tests.support.service import database_of, new_tenant
from tests.support.waiting import wait_until

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "webhooks.md"


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_WEBHOOK_NETWORKS="127.0.0.0/8")
    once = str(fleet.home / "killed")
    fleet.start("results", FAULT_AT="webhook.sent=kill", FAULT_ONCE=once)
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def key(fleet: Fleet) -> str:
    return str(new_tenant(fleet, "ada").http.headers["Authorization"]).removeprefix("Bearer ")


@pytest.fixture
def client(fleet: Fleet, key: str) -> Iterator[Client]:
    with Client(fleet.url, key) as client:
        yield client


class DocumentedReceiver:
    """The guide's receiver as a process; its lines are ``id type data``."""

    def __init__(self, folder: Path, secret: str, port: int) -> None:
        (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        (folder / "receiver.py").write_text(code)
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "receiver.py"],
                cwd=folder,
                env={**os.environ, "SECRET": secret, "PORT": str(port)},
                stdout=said,
                stderr=subprocess.DEVNULL,
            )

    def lines(self) -> list[list[str]]:
        return [line.split(" ", 2) for line in self._said.read_text().splitlines()]


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[[str, int], DocumentedReceiver]]:
    started: list[DocumentedReceiver] = []

    def start(secret: str, port: int) -> DocumentedReceiver:
        started.append(DocumentedReceiver(tmp_path, secret, port))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_from_the_first_event_to_a_replay(
    fleet: Fleet,
    client: Client,
    receive: Callable[[str, int], DocumentedReceiver],
) -> None:
    port = free_port()
    webhook = client.create_webhook({"url": f"http://127.0.0.1:{port}/hook"})
    assert webhook["secret"] is not None
    receiver = receive(webhook["secret"], port)
    webhook_id = webhook["id"]
    assert "secret" not in client.get_webhook(webhook_id)

    def lines(number: int) -> list[list[str]]:
        return wait_until(
            lambda: found if len(found := receiver.lines()) >= number else None,
            deadline_s=30,
            what=lambda: f"{number} events\n{(fleet.home / 'results.log').read_text()[-3000:]}",
        )

    first = client.test_webhook(webhook_id)
    # The process that sends it is killed before it records the answer.
    wait_until((fleet.home / "killed").exists, what="the kill")
    wait_until(
        lambda: "sending_process_died" in (fleet.home / "results.log").read_text(), what="the log"
    )
    pending = client.get_delivery(webhook_id, first["id"])
    assert (pending["status"], pending["attempts"]) == ("pending", 1)
    with database_of(fleet) as database, database.transaction() as conn:
        # Instead of waiting for the end of the lease.
        conn.execute("UPDATE webhook_deliveries SET due_at = now(), lease_until = now()")
    assert [line[:2] for line in lines(2)] == [[first["event_id"], "webhook.test"]] * 2

    def is_done() -> bool:
        return client.get_delivery(webhook_id, first["id"])["status"] == "succeeded"

    wait_until(is_done, what="the record")

    rotated = client.rotate_webhook_secret(webhook_id)
    assert rotated["secret"] not in (None, webhook["secret"])
    assert rotated["old_secret_expires_at"] is not None
    second = client.test_webhook(webhook_id)
    assert lines(3)[2][0] == second["event_id"]  # verified with the old secret

    assert client.replay_delivery(webhook_id, first["id"])["event_id"] == first["event_id"]
    assert lines(4)[3][0] == first["event_id"]

    client.change_webhook(webhook_id, {"enabled": False})
    with pytest.raises(ProblemError) as refused:
        client.test_webhook(webhook_id)
    assert (refused.value.status, refused.value.code) == (409, "webhook_disabled")
    with pytest.raises(ProblemError) as refused:
        client.create_webhook({"url": "http://10.0.0.1/"})
    assert [each.pointer for each in refused.value.errors] == ["/url"]

    canaries = Canaries([webhook["secret"], rotated["secret"]])
    assert canaries.in_files(fleet.home) == {}
    assert canaries.in_bytes(dump_text(fleet.env["REVERIE_DATABASE_URL"])) == set()
    assert fleet.processes["results"].pid not in canaries.in_memory()


def test_from_the_terminal(fleet: Fleet, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key}

    def reverie(*words: str) -> str:
        app(["webhooks", *words], obj=Invocation(env=env), standalone_mode=False)
        return capsys.readouterr().out

    def shown(*words: str) -> Any:
        return json.loads(reverie(*words, "--json"))

    nowhere = f"http://127.0.0.1:{free_port()}/hook"
    made = shown("create", nowhere, "--event", "run.failed")
    webhook_id = made["id"]
    assert made["secret"].startswith("whsec_")
    assert made["events"] == ["run.failed"]
    assert "whsec_" in reverie("rotate-secret", webhook_id, "--grace", "1h")
    assert "enabled" in reverie("show", webhook_id)
    reverie("change", webhook_id, "--all-events", "--disable")
    assert "disabled (requested)" in reverie("list")
    assert shown("change", webhook_id, "--enable")["events"] is None
    delivery_id = shown("test", webhook_id)["id"]
    assert delivery_id in reverie("deliveries", webhook_id)
    assert shown("replay", webhook_id, delivery_id)["id"] == delivery_id
    reverie("delete", webhook_id)
    assert webhook_id not in reverie("list")


def test_a_sending_process_that_hangs_does_not_hold_its_parent(
    fleet: Fleet, client: Client
) -> None:
    """The last test of this file: the results process ends."""
    webhook = client.create_webhook({"url": f"http://127.0.0.1:{free_port()}/hook"})
    client.test_webhook(webhook["id"])

    def sending() -> list[int]:
        children = children_of(fleet.processes["results"].pid)
        return [pid for pid in children if "spawn_main" in command_of(pid)]

    (sender,) = wait_until(sending, what="the sending process")
    os.kill(sender, signal.SIGSTOP)

    fleet.signal("results", signal.SIGTERM)

    assert fleet.wait("results") == 0
    assert "sending_process_killed" in fleet.tail("results")
