"""Deleting over HTTP and from the command line, and the audit log as its tenant sees it."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.connection import CommandError, Invocation
from services.cli.program import app
from services.objects.folder_store import FolderStore
from services.objects.folders import put_folder
from services.objects.keys import result_prefix
from services.objects.signing import UrlSigner
from services.results.deletion.deleter import Deleter
from services.results.retention import anchor_audit_logs
from services.results.targets.folder import FolderTarget
from services.store import operator_keys, tenants
from services.store.database import Database
from tests.support.api_keys import KEY_PEPPER
from tests.support.deletions import LEASE
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_tenant, run_request
from tests.support.tenant import Json, Tenant

Cli = Callable[..., Any]


@pytest.fixture
def database(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture
def objects(fleet: Fleet) -> FolderStore:
    root = Path(fleet.env["REVERIE_OBJECTS_URL"].removeprefix("file://"))
    return FolderStore(root, UrlSigner(api_url=fleet.url, signing_key=b"unused here 0123"))


@pytest.fixture
def ada(fleet: Fleet) -> Tenant:
    return new_tenant(fleet, "ada")


@pytest.fixture
def delete_all(database: Database, objects: FolderStore, tmp_path: Path) -> Callable[[], None]:
    """Do what the process ``results`` does, long after the requests."""
    deleter = Deleter(database, objects, FolderTarget(tmp_path / "published"), lease=LEASE)

    def work() -> None:
        with database.transaction() as conn:
            conn.execute("UPDATE runs SET sweep_after = NULL")
            conn.execute("UPDATE datasets SET updated_at = updated_at - interval '3 hours'")
            conn.execute(
                "UPDATE deletions SET ring_after = clock_timestamp() WHERE status <> 'succeeded'"
            )
        deleter.work()

    return work


@pytest.fixture
def cli(
    fleet: Fleet, ada: Tenant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Cli:
    """Run a command as ada, and return the JSON or the text that it prints."""
    for name in ("REVERIE_DATABASE_URL", "REVERIE_KEY_PEPPER"):
        monkeypatch.setenv(name, fleet.env[name])
    key = str(ada.http.headers["Authorization"]).removeprefix("Bearer ")

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        invocation = Invocation(env={"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key})
        app(list(arguments), obj=invocation, standalone_mode=False)
        text = capsys.readouterr().out
        return json.loads(text) if "--json" in arguments else text

    return run


def submit(ada: Tenant) -> tuple[str, str]:
    """Ids of a run and of its dataset."""
    dataset = ada.push({"a.jpg": b"not looked at here"})
    return ada.submit(run_request(dict.fromkeys(("photos", "held-out"), dataset))), dataset


def finished_run(ada: Tenant, database: Database, objects: FolderStore, folder: Path) -> str:
    """A run with a result."""
    run_id, _ = submit(ada)
    with database.transaction() as conn:
        row = conn.execute("SELECT tenant_id FROM runs WHERE run_id = %s", (run_id,)).fetchone()
        assert row is not None
        prefix = result_prefix(row[0], run_id, 1)
        folder.mkdir()
        (folder / "adapter.bin").write_bytes(b"numbers")
        sha256 = hashlib.sha256(b"numbers").hexdigest()
        files = {"adapter.bin": {"size_bytes": 7, "sha256": sha256}}
        (folder / "manifest.json").write_text(json.dumps({"files": files}))
        stored = put_folder(objects, prefix, folder)
        conn.execute(
            "UPDATE runs SET status = 'succeeded', stage = NULL, ring_after = NULL,"
            " finished_at = clock_timestamp(), result_step = 1, result_key_prefix = %s,"
            " result_manifest_sha256 = %s, result_size_bytes = %s WHERE run_id = %s",
            (prefix, stored.manifest_sha256, stored.size_bytes, run_id),
        )
    return run_id


def test_a_deleted_run_is_found_nowhere_and_its_links_fail(
    *,
    fleet: Fleet,
    ada: Tenant,
    database: Database,
    objects: FolderStore,
    delete_all: Callable[[], None],
    tmp_path: Path,
) -> None:
    run_id = finished_run(ada, database, objects, tmp_path / "result")
    (file,) = [f for f in ada.get(f"/v1/runs/{run_id}/result")["files"] if f["path"][0] == "a"]
    assert httpx.get(file["url"]).content == b"numbers"

    asked = ada.http.delete(f"/v1/runs/{run_id}")
    assert asked.status_code == 202
    document = httpx.get(f"{fleet.url}/openapi.json").json()
    about_runs = {
        path: item["get"]["parameters"]
        for path, item in document["paths"].items()
        if "{run_id}" in path and "get" in item
    }
    assert len(about_runs) > 4
    for path, parameters in about_runs.items():
        address = path.replace("{run_id}", run_id).replace("{path}", "adapter.bin")
        needed = {p["name"]: run_id for p in parameters if p["in"] == "query" and p["required"]}
        assert ada.http.get(address, params=needed).status_code == 404, path
    assert ada.get("/v1/runs")["data"] == []
    assert ada.http.post(f"/v1/runs/{run_id}:cancel").status_code == 404
    publication = {"run_id": run_id, "target": {"kind": "folder"}}
    assert ada.http.post("/v1/publications", json=publication).status_code == 404
    again = ada.http.delete(f"/v1/runs/{run_id}")
    assert (again.status_code, again.json()["id"]) == (202, asked.json()["id"])

    delete_all()
    deletion = ada.get(f"/v1/deletions/{asked.json()['id']}")
    assert (deletion["kind"], deletion["target"]) == ("run", run_id)
    assert (deletion["status"], deletion["waits_for"]) == ("succeeded", None)
    assert deletion["report"]["objects"]["runs"]["num_objects"] == 2
    assert httpx.get(file["url"]).status_code == 404


def test_what_is_needed_is_refused_with_the_way_out(ada: Tenant) -> None:
    run_id, dataset_id = submit(ada)

    for path, way_out in (
        (f"/v1/runs/{run_id}", "Cancel it, and delete it when it is over."),
        (f"/v1/datasets/{dataset_id}", run_id),
    ):
        answer = ada.http.delete(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "still_needed")
        assert way_out in answer.json()["detail"]
    for path in ("/v1/tenant", "/v1/tenant?name=bob"):
        assert ada.http.delete(path).status_code == 422
    assert ada.get(f"/v1/runs/{run_id}")["status"] == "queued"
    assert ada.http.get("/v1/deletions/del_1").status_code == 404


def test_runs_and_datasets_are_deleted_from_the_command_line(
    ada: Tenant, cli: Cli, delete_all: Callable[[], None]
) -> None:
    run_id, dataset_id = submit(ada)
    cli("runs", "cancel", run_id)
    deletion = cli("runs", "delete", run_id, "--json")
    assert dataset_id in cli("datasets", "delete", dataset_id)
    delete_all()

    shown = cli("deletion", deletion["id"])
    assert "succeeded" in shown
    assert "rows of runs" in shown
    assert ada.get("/v1/datasets")["data"] == []


def test_the_audit_log_is_read_and_verified(
    ada: Tenant, cli: Cli, database: Database, objects: FolderStore
) -> None:
    run_id, _ = submit(ada)
    ada.post(f"/v1/runs/{run_id}:cancel", {})
    ada.post(f"/v1/runs/{run_id}:cancel", {})  # changes nothing, and is no event

    events: list[Json] = []
    after = ""
    while True:
        page = ada.get(f"/v1/audit-events?limit=2{after}")
        events += page["data"]
        if not page["has_more"]:
            break
        after = f"&after={page['next_cursor']}"
    assert [event["action"] for event in events] == [
        "run.canceled",
        "run.created",
        "dataset.completed",
        "dataset.created",
    ]
    assert [event["seq"] for event in events] == [4, 3, 2, 1]
    of_run = ada.get(f"/v1/audit-events?target={run_id}&action=run.created")["data"]
    assert [event["seq"] for event in of_run] == [3]
    key_id = ada.get("/v1/api-keys")["data"][0]["id"]
    assert len(ada.get(f"/v1/audit-events?actor={key_id}")["data"]) == 4
    assert ada.get("/v1/audit-events?actor=key_0")["data"] == []
    assert ada.http.get("/v1/audit-events?target=%00").status_code == 422
    assert run_id in cli("audit", "list")
    assert "whole" in cli("audit", "verify")

    anchor_audit_logs(database, objects)
    assert cli("audit", "verify", "--json")["anchored_seq"] == 4
    with database.transaction() as conn:
        conn.execute(
            "UPDATE audit_events SET target = 'run_0' WHERE seq = 3 AND target = %s", (run_id,)
        )
    with pytest.raises(CommandError, match="event 3 was changed"):
        cli("audit", "verify")
    found = ada.get("/v1/audit-events:verify")
    assert (found["is_whole"], found["misfit"]["seq"]) == (False, 3)
    assert ada.get("/v1/audit-events:verify?after=4")["is_whole"]
    with database.transaction() as conn:
        tenant_id = max(tenants.find(conn, "ada"))  # the newest
        _, secret = operator_keys.create(conn, KEY_PEPPER, name="operator")
    answer = ada.http.get(
        f"/v1/admin/tenants/{tenant_id}/audit-events:verify",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.json() == found


def test_a_tenant_deletes_itself_by_its_name(
    ada: Tenant, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(ada)
    with pytest.raises(CommandError, match="needs the tenant's name"):
        cli("tenant", "delete", "--yes")
    monkeypatch.setattr("sys.stdin", io.StringIO("bob\nada\n"))
    with pytest.raises(CommandError, match="nothing was deleted"):
        cli("tenant", "delete", "ada")
    assert len(ada.get("/v1/runs")["data"]) == 1

    assert cli("tenant", "delete", "--json")["kind"] == "tenant"  # with the second line
    assert ada.http.get("/v1/runs").status_code == 401


def test_an_operator_deletes_a_tenant_and_reads_the_report(
    ada: Tenant, cli: Cli, database: Database, delete_all: Callable[[], None]
) -> None:
    submit(ada)
    with database.transaction() as conn:
        tenant_id = max(tenants.find(conn, "ada"))  # the newest

    with pytest.raises(CommandError, match="not the tenant's name"):
        cli("admin", "delete-tenant", tenant_id, "--confirm", "bob")
    deletion = cli("admin", "delete-tenant", tenant_id, "--confirm", "ada", "--json")
    assert ada.http.get("/v1/runs").status_code == 401
    delete_all()
    delete_all()
    shown = cli("admin", "show-deletion", deletion["id"])
    assert "succeeded" in shown
    assert "rows of api_keys" in shown
    with database.transaction() as conn:
        assert tenant_id not in tenants.find(conn, "ada")
    with pytest.raises(CommandError, match="there is no tenant"):
        cli("admin", "delete-tenant", tenant_id, "--confirm", "ada")
