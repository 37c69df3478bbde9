"""Joining a service: what can be wrong with the address, the key, the version or the clock."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.client.errors import ClientError
from services.domain.api_keys import new_key
from services.domain.worker_protocol import WORKER_PROTOCOL
from services.remote.probe import CannotJoinError, probe
from services.remote.session import InsecureUrlError, Trust, WorkerSession
from services.store import operator_keys, worker_keys
from tests.support.api_keys import KEY_PEPPER
from tests.support.boxes import Box
from tests.support.fleet import Fleet
from tests.support.ports import free_port
from tests.support.proxy import FaultProxy
from tests.support.service import database_of
from tests.support.tls import new_authority


@pytest.fixture
def box(fleet: Fleet) -> Iterator[Box]:
    with database_of(fleet) as database:
        yield Box(fleet.url, database)


def test_a_box_joins_through_tls_with_the_authority_that_it_is_given(
    fleet: Fleet, box: Box, tmp_path: Path
) -> None:
    ca_file, tls = new_authority(tmp_path)
    with FaultProxy(fleet.port, tls).running() as proxy:
        url = f"https://127.0.0.1:{proxy.port}"
        identity = probe(WorkerSession(url, box.secret, Trust(ca_file=ca_file)))
        assert (identity.worker_id, identity.gpu_class) == (box.key.worker_id, "cpu")
        assert (identity.lease_s, identity.renew_s) == (3, 0.5)  # the service's settings

        with pytest.raises(CannotJoinError, match=r"not trusted.*--ca-file"):
            probe(WorkerSession(url, box.secret, Trust()))


def test_a_box_joins_over_https_only() -> None:
    url = "http://reverie.example.org"
    with pytest.raises(InsecureUrlError, match="--allow-http"):
        WorkerSession(url, "rvw_x", Trust())
    WorkerSession(url, "rvw_x", Trust(allow_http=True))


def test_a_file_of_certificates_has_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ClientError, match=f"--ca-file .*{name} cannot be read"):
            WorkerSession("https://127.0.0.1", "rvw_x", Trust(ca_file=tmp_path / name))


def test_the_address_of_nothing_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CannotJoinError, match=f"{url} cannot be reached.*--join"):
        probe(WorkerSession(url, "rvw_x", Trust()))


def test_a_key_that_is_not_a_workers_is_named(fleet: Fleet, box: Box) -> None:
    with database_of(fleet) as database, database.transaction() as conn:
        operators = operator_keys.create(conn, KEY_PEPPER, name="ops")[1]
        worker_keys.revoke(conn, box.key.key_id)
    for secret, reason in (
        (operators, "a key of another kind"),
        (new_key("rvw_"), "unknown, revoked or expired"),
        (box.secret, "unknown, revoked or expired"),
    ):
        with pytest.raises(CannotJoinError, match=reason):
            probe(WorkerSession(fleet.url, secret, Trust()))


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The address of a server that gives this answer to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def identity_of(**changes: Any) -> bytes:
    facts = {
        "worker_id": "wrk_x",
        "gpu_class": "cpu",
        "node": "box",
        "protocol": WORKER_PROTOCOL,
        "version": "9.9",
        "now": datetime.now(UTC).isoformat(),
        **dict.fromkeys(("lease_s", "renew_s", "orphan_s", "cancel_s", "heartbeat_s"), 1.0),
    }
    return json.dumps({**facts, **changes}).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, b"<html>not here</html>", "has no remote workers"),
        (200, b"<html>a page</html>", "is this address the service's"),
        (503, b"", "cannot be joined now"),
        (200, b"{}", "install the service's version"),
        (200, identity_of(protocol=WORKER_PROTOCOL + 1), "the service 9.9"),
        (200, identity_of(now=(datetime.now(UTC) + timedelta(hours=2)).isoformat()), "clock"),
    ],
)
def test_what_is_no_service_of_this_version_is_named(status: int, body: bytes, reason: str) -> None:
    with answering(status, body) as url, pytest.raises(ClientError, match=reason):
        probe(WorkerSession(url, "rvw_x", Trust()))


def test_the_command_says_why_it_ends(fleet: Fleet, tmp_path: Path) -> None:
    key_file = tmp_path / "worker.key"
    key_file.write_text(new_key("rvw_") + "\n")
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "worker", "--join", fleet.url],
        env={**fleet.env, "REVERIE_WORKER_KEY_FILE": str(key_file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "refuses this worker's key" in ended.stderr
    assert "Traceback" not in ended.stderr
