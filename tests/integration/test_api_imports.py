"""Datasets with a source, over HTTP: what is accepted, shown and refused."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli.connection import Invocation
from services.cli.program import app
from services.client.client import Client
from services.client.errors import DatasetRejectedError
from services.domain.errors import Problem
from services.store import imports
from services.store.imports import Portion
from tests.support.fleet import Fleet
from tests.support.service import database_of, new_tenant
from tests.support.tenant import Tenant, listed
from tests.support.waiting import wait_until
from tests.unit.config_examples import SMALL_CONFIG, SMALL_LYCORIS

CSV = "url,caption\nhttps://example.org/a.png,a cat\nhttps://example.org/b.png,a dog\n"
HUB = {"id": "cats", "type": "huggingface", "dataset_name": "someone/cats", "resolution": 1024}


def test_a_dataset_of_the_hub_is_imported_and_its_progress_shown(
    fleet: Fleet, tenant: Tenant
) -> None:
    body = {"name": "cats", "source": HUB}
    key = {"Idempotency-Key": "once"}
    dataset = tenant.post("/v1/datasets", body, **key)
    assert tenant.post("/v1/datasets", body, **key)["id"] == dataset["id"]
    assert (dataset["status"], dataset["num_files"]) == ("uploading", None)
    assert dataset["source"]["backend"] == HUB
    assert (dataset["source"]["status"], dataset["source"]["rows_per_s"]) == ("importing", None)
    for path, more in (("/v1/uploads", {"dataset_id": dataset["id"]}), (None, {})):
        answer = tenant.http.post(path or f"/v1/datasets/{dataset['id']}:complete", json=more)
        assert (answer.status_code, answer.json()["code"]) == (409, "dataset_not_open")
    with database_of(fleet) as database, database.transaction() as conn:
        row = conn.execute(
            "SELECT tenant_id FROM datasets WHERE dataset_id = %s", (dataset["id"],)
        ).fetchone()
        assert row is not None
        work = imports.take(conn, row[0], dataset["id"])
        assert work is not None
        portion = Portion(
            files=[],
            facts=[],
            left_out=[{"row": "x", "message": "x: the server answers 404"}],
            position={"row": 5},
            rows_done=5,
            rows_total=20,
        )
        imports.advance(conn, work, portion, rules=1)
    source = tenant.get(f"/v1/datasets/{dataset['id']}")["source"]
    assert (source["rows_done"], source["rows_total"], source["left_out"]) == (5, 20, 1)
    assert source["left_out_rows"] == [{"row": "x", "message": "x: the server answers 404"}]
    assert source["seconds_left"] == pytest.approx(15 / source["rows_per_s"])
    (first, *_) = tenant.get("/v1/datasets?limit=1")["data"]
    assert first["source"]["rows_done"] == 5
    eve = new_tenant(fleet, "eve")
    assert eve.http.get(f"/v1/datasets/{dataset['id']}").status_code == 404


def test_a_list_is_sent_or_named_by_its_address(fleet: Fleet, tenant: Tenant) -> None:
    at = {"type": "csv", "csv_file": "https://example.org/list.csv"}
    tenant.post("/v1/datasets", {"name": "photos", "source": at})
    key = tenant.http.headers["Authorization"].removeprefix("Bearer ")
    with Client(fleet.url, key) as client:
        dataset = client.create_dataset("photos", source={"type": "csv"}, csv=CSV)
    assert dataset["status"] == "uploading"
    assert dataset["source"] is not None
    uploaded = tenant.post("/v1/datasets", {"name": "a", "files": listed({"a.jpg": b"x"})})
    assert uploaded["source"] is None


def test_the_command_sends_the_backend_and_its_list_and_waits(fleet: Fleet, tmp_path: Path) -> None:
    lists = new_tenant(fleet, "lists")
    (tmp_path / "list.csv").write_text(CSV)
    (tmp_path / "config.json").write_text(
        json.dumps({**SMALL_CONFIG, "lycoris_config": "ly.json", "data_backend_config": "b.json"})
    )
    (tmp_path / "ly.json").write_text(json.dumps(SMALL_LYCORIS))
    backend = {"id": "list", "type": "csv", "csv_file": "list.csv"}
    folder = {"id": "here", "type": "local", "instance_data_dir": "photos"}
    (tmp_path / "b.json").write_text(json.dumps([backend, folder]))
    key = lists.http.headers["Authorization"].removeprefix("Bearer ")
    env = {"REVERIE_URL": fleet.url, "REVERIE_API_KEY": key}

    def command(*options: str) -> Result:
        argv = ["datasets", "import", str(tmp_path), *options]
        return CliRunner().invoke(app, argv, obj=Invocation(env=env))

    sent = command("--backend", "list", "--json")
    assert sent.exit_code == 0, sent.output
    dataset = json.loads(sent.stdout)
    assert (dataset["name"], dataset["source"]["backend"]) == ("list", backend)
    shown = CliRunner().invoke(app, ["datasets", "show", dataset["id"]], obj=Invocation(env=env))
    assert "importing, 0 rows, 0 pictures" in shown.output
    assert "datasets push DIR" in str(command("--backend", "here").exception)

    def reject_all() -> None:
        with database_of(fleet) as database:
            both = "both datasets"
            wait_until(lambda: len(lists.get("/v1/datasets")["data"]) == 2, what=both)
            with database.transaction() as conn:
                rows = conn.execute(
                    "SELECT tenant_id, dataset_id FROM dataset_imports"
                    " JOIN tenants USING (tenant_id)"
                    " WHERE tenants.name = 'lists' AND status = 'importing'"
                ).fetchall()
                for tenant_id, dataset_id in rows:
                    work = imports.take(conn, tenant_id, dataset_id)
                    assert work is not None
                    problem = Problem(pointer="", code="mostly_unusable", message="too few")
                    imports.reject(conn, work, problem)

    thread = threading.Thread(target=reject_all)
    thread.start()
    waited = command("--backend", "list", "--wait")
    thread.join()
    assert isinstance(waited.exception, DatasetRejectedError)
    assert "too few" in str(waited.exception)


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"source": {"type": "csv", "csv_file": "/etc/passwd"}}, "/source/csv_file", "as csv"),
        ({"source": {"type": "csv"}}, "/source/csv_file", "needs a csv_file"),
        ({"source": {"type": "huggingface"}}, "/source/dataset_name", "needs a dataset_name"),
        ({"source": {**HUB, "hf_token": "hf_secret"}}, "/source/hf_token", "datasets push"),
        ({"source": {**HUB, "datset_name": "x"}}, "/source/datset_name", "no option"),
        ({"source": {"type": "local"}}, "/source/instance_data_dir", "missing"),
        ({"source": HUB, "csv": CSV}, "/source/type", "only type csv has"),
        ({"source": HUB, "files": [{"path": "a.jpg", "size_bytes": 1, "sha256": "0" * 64}]},
         "/files", "no others"),
        ({"csv": CSV, "files": [{"path": "a.jpg", "size_bytes": 1, "sha256": "0" * 64}]},
         "/csv", "there is no source"),
        ({"source": "csv"}, "/source", "dictionary"),
        ({"source": {**HUB, "instance_prompt": "x" * 70_000}}, "/source", "65,536 characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_refused_with_the_way_out(
    tenant: Tenant, body: dict[str, Any], pointer: str, words: str
) -> None:
    answer = tenant.http.post("/v1/datasets", json={"name": "x", **body})
    assert answer.status_code == 422, answer.text
    problems = {each["pointer"]: each["message"] for each in answer.json()["errors"]}
    assert words in problems[pointer], problems
    assert "hf_secret" not in answer.text
