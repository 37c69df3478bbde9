"""The Python client against the service: every call is documented, downloads work."""

import asyncio
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest

from services.client import batch_shapes, dataset_shapes, run_output_shapes, shapes, tenant_shapes
from services.client.async_client import AsyncClient
from services.client.client import Client
from services.client.errors import ProblemError
from services.client.pages import every, every_async
from services.client.retry import Retry
from services.objects.open import open_store
from services.settings.env import Settings
from tests.support.api_keys import new_api_key
from tests.support.finished_runs import finish
from tests.support.fleet import Fleet
from tests.support.runs import TenantDatabase, plan
from tests.support.service import database_of, run_request


@pytest.fixture
def tenant_db(fleet: Fleet) -> Iterator[TenantDatabase]:
    with database_of(fleet) as database:
        yield TenantDatabase.new(database)


@pytest.fixture
def client(fleet: Fleet, tenant_db: TenantDatabase) -> Iterator[Client]:
    with tenant_db.database.transaction() as conn:
        api_key = new_api_key(conn, tenant_db.tenant_id)
    with Client(fleet.url, api_key, retry=Retry(tries=1)) as client:
        yield client


def is_shape(body: dict[str, Any], shape: type) -> bool:
    """Whether an answer has every field that the client's types promise."""
    return get_type_hints(shape).keys() <= body.keys()


def test_every_call_of_the_client_is_documented(fleet: Fleet, client: Client) -> None:
    document = httpx.get(f"{fleet.url}/openapi.json").json()
    documented = [
        (method.upper(), re.compile(re.sub(r"\{[^}]*\}", "[^/:]+", path)))
        for path, item in document["paths"].items()
        for method in item
    ]
    made: list[tuple[str, str]] = []
    transport = client._transport.http
    transport.event_hooks["request"] = [lambda r: made.append((r.method, r.url.path))]

    sha256 = hashlib.sha256(b"x").hexdigest()
    dataset = client.create_dataset("a", [{"path": "a.jpg", "size_bytes": 1, "sha256": sha256}])
    (upload,) = client.sign_uploads(dataset["id"]).data
    assert upload["url"]
    httpx.put(upload["url"], content=b"x").raise_for_status()
    client.complete_dataset(dataset["id"])
    request: Any = run_request({"photos": dataset["id"], "held-out": dataset["id"]})
    run = client.submit_run(request)
    changed = client.change_run(run["id"], {"priority": "high", "max_gpu_hours": 2.0})
    paused, resumed = client.pause_run(run["id"]), client.resume_run(run["id"])
    assert (changed["priority"], paused["status"], resumed["status"]) == (
        "high",
        "paused",
        "queued",
    )
    seen = []
    for event in client.stream_events(run["id"]):
        seen.append(event)
        if len(seen) == 1:
            client.cancel_run(run["id"], now=True)
    shown: list[tuple[Any, Any]] = [
        (dataset, dataset_shapes.Dataset),
        (client.get_dataset(dataset["id"]), dataset_shapes.Dataset),
        (client.list_datasets().data[0], dataset_shapes.Dataset),
        (upload, dataset_shapes.Upload),
        (run, shapes.Run),
        (changed, shapes.Run),
        (paused, shapes.Run),
        (client.get_run(run["id"]), shapes.Run),
        (client.list_runs().data[0], shapes.RunSummary),
    ]
    assert client.list_events(run["id"]).data == seen
    assert client.list_checkpoints(run["id"]).data == []
    assert client.list_publications(run_id=run["id"]).data == []
    with pytest.raises(ProblemError):
        client.get_publication("pub_" + "0" * 32)
    secret = client.put_secret("my-hub", "hub", "hf_0123456789abcdef")
    shown += [
        (secret, tenant_shapes.Secret),
        (client.get_secret("my-hub"), tenant_shapes.Secret),
        (client.list_secrets().data[0], tenant_shapes.Secret),
    ]
    client.delete_secret("my-hub")

    batch = client.submit_batch({"runs": [request]})
    compared = client.compare_batch(batch["id"])
    shown += [
        (batch, batch_shapes.Batch),
        (batch["runs"][0], batch_shapes.BatchRow),
        (client.get_batch(batch["id"]), batch_shapes.Batch),
        (client.list_batches().data[0], batch_shapes.BatchSummary),
        (compared, batch_shapes.Comparison),
        (compared["runs"][0], batch_shapes.ComparedRun),
        (client.cancel_batch(batch["id"]), batch_shapes.Batch),
    ]

    member = client.create_member("bob", "viewer")
    key = client.create_key({"name": "ci", "member_id": member["id"]})
    shown += [
        (member, tenant_shapes.Member),
        (client.get_member(member["id"]), tenant_shapes.Member),
        (client.change_member(member["id"], {"role": "owner"}), tenant_shapes.Member),
        (client.list_members().data[0], tenant_shapes.Member),
        (key, tenant_shapes.NewApiKey),
        (client.get_key(key["id"]), tenant_shapes.ApiKey),
        (client.list_keys().data[0], tenant_shapes.ApiKey),
        (client.rotate_key(key["id"]), tenant_shapes.NewApiKey),
        (client.list_quotas().data[0], tenant_shapes.Quota),
    ]
    client.revoke_key(key["id"])
    client.remove_member(member["id"])
    assert client.list_usage().data == []

    for body, shape in shown:
        assert is_shape(dict(body), shape), shape
    for method, path in made:
        assert any(m == method and p.fullmatch(path) for m, p in documented), (method, path)
    assert document["openapi"].startswith("3.1")
    assert document["paths"]["/v1/runs"]["post"]["security"] == [{"api_key": ["runs:write"]}]


def test_results_and_checkpoints_are_downloaded_by_signed_links(
    fleet: Fleet, client: Client, tenant_db: TenantDatabase, tmp_path: Path
) -> None:
    store = open_store(Settings.from_env(fleet.env))
    whole_plan = plan()
    claim = tenant_db.held(plan=whole_plan)
    with pytest.raises(ProblemError) as early:
        client.get_result(claim.run_id)
    assert (early.value.status, early.value.code) == (404, "no_result")
    finish(tenant_db, claim, store, tmp_path)

    run = client.get_run(claim.run_id)
    page = client.list_checkpoints(claim.run_id, limit=1)
    checkpoints = list(
        every(lambda after: client.list_checkpoints(claim.run_id, limit=1, after=after))
    )
    made = client.get_result(claim.run_id)

    assert (run["status"], [a["outcome"] for a in run["attempts"]]) == ("succeeded", ["finished"])
    assert [c["step"] for c in checkpoints] == [20, 10]
    assert (page.has_more, page.next_cursor) == (True, "20")
    assert is_shape(dict(checkpoints[0]), run_output_shapes.Checkpoint)
    (file,) = checkpoints[0]["files"]
    download = httpx.get(file["url"])  # without a key
    assert download.content == b"weights" * 1000
    assert download.headers["Content-Length"] == "7000"
    assert [f["path"] for f in made["files"]] == ["adapter.safetensors", "card.json"]
    assert httpx.get(made["files"][1]["url"]).content == b"{}"
    key = file["url"].partition("?")[0]
    assert httpx.get(key).status_code == 403
    publication = client.create_publication({"run_id": claim.run_id, "target": {"kind": "folder"}})
    assert publication["status"] == "pending"
    assert client.get_publication(publication["id"])["run_id"] == claim.run_id
    listed = client.list_publications(run_id=claim.run_id).data
    assert publication["id"] in [p["id"] for p in listed]
    with pytest.raises(ProblemError) as caught:
        client.cancel_run(claim.run_id)
    assert (caught.value.status, caught.value.code) == (409, "illegal_move")


def test_the_asynchronous_client_reads_the_same(
    fleet: Fleet, client: Client, tenant_db: TenantDatabase, tmp_path: Path
) -> None:
    claim = tenant_db.held(plan=plan())
    finish(tenant_db, claim, open_store(Settings.from_env(fleet.env)), tmp_path)
    with tenant_db.database.transaction() as conn:
        api_key = new_api_key(conn, tenant_db.tenant_id)

    async def seen() -> tuple[Any, ...]:
        async with AsyncClient(fleet.url, api_key) as other:
            page = functools.partial(other.list_checkpoints, claim.run_id, limit=1)
            return (
                await other.get_run(claim.run_id),
                [each async for each in other.stream_events(claim.run_id)],
                [each["step"] async for each in every_async(lambda after: page(after=after))],
            )

    run, events, steps = asyncio.run(seen())
    assert run == client.get_run(claim.run_id)
    assert events == list(client.stream_events(claim.run_id))
    assert (len(events) > 2, steps) == (True, [20, 10])
