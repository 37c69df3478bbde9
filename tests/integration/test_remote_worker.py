"""A worker over HTTPS against the service: ledger, files by signed URLs, what its key reaches."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from services.api.worker import routes
from services.client.call import Call, get
from services.client.errors import ProblemError
from services.domain.errors import LeaseLostError
from services.domain.fair_share import AGING, HALF_LIFE
from services.domain.ids import new_id
from services.domain.ledger import (
    ChildEvent,
    Claim,
    LedgerDownError,
    Outcome,
    StoredCheckpoint,
    StoredFiles,
)
from services.domain.quotas import Quotas
from services.objects.errors import ObjectMissingError, ObjectStoreRefusedError
from services.objects.folders import get_folder, put_folder
from services.objects.keys import (
    checkpoint_prefix,
    preview_key,
    result_prefix,
    sample_key,
    upload_key,
)
from services.remote.objects import LARGEST_FILE_BYTES
from services.remote.session import Held
from services.store import offers, operator_keys, run_previews, run_samples, worker_keys
from tests.support import api_keys
from tests.support.boxes import Box
from tests.support.fleet import Fleet
from tests.support.run_samples import png, preview_event, sample_event, write_sample
from tests.support.runs import LEASE, TenantDatabase
from tests.support.service import database_of

MINUTE = timedelta(minutes=1)
WRITE = {"key": "a/b", "size_bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}


@pytest.fixture
def tenant_db(fleet: Fleet) -> Iterator[TenantDatabase]:
    with database_of(fleet) as database:
        yield TenantDatabase.new(database)
        with database.transaction() as conn:  # no offer of this test goes to a worker of the next
            conn.execute("UPDATE workers SET draining = true")
            conn.execute(
                "UPDATE runs SET status = 'canceled', lease_until = NULL, offered_to = NULL"
            )


@pytest.fixture
def box(fleet: Fleet, tenant_db: TenantDatabase) -> Box:
    return Box(fleet.url, tenant_db.database)


def dispatched(tenant_db: TenantDatabase, box: Box) -> str:
    """Have the dispatcher offer the run that waits; it goes to this box."""
    with tenant_db.database.transaction() as conn:
        (offer,) = offers.take_offers(
            conn,
            offer=MINUTE,
            silence=MINUTE,
            half_life=HALF_LIFE,
            aging=AGING,
            quotas=Quotas(),
        )
    assert (offer.worker_id, offer.is_remote) == (box.key.worker_id, True)
    return offer.run_id


def held(tenant_db: TenantDatabase, box: Box) -> Claim:
    run_id = tenant_db.claimable().run_id
    box.is_offered(run_id)
    claim = box.claims(run_id)
    assert claim is not None
    return claim


def folder_with(tmp_path: Path, content: bytes) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "adapter.bin").write_bytes(content)
    facts = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": {"adapter.bin": facts}}))
    return folder


def test_a_box_finishes_what_the_dispatcher_offers_it(
    box: Box, tenant_db: TenantDatabase, tmp_path: Path
) -> None:
    tenant_db.claimable()
    claim = box.claims(dispatched(tenant_db, box))
    assert claim is not None
    run_id, fence = claim.run_id, claim.fence

    folder = folder_with(tmp_path, b"x" * 100_000)
    prefix = checkpoint_prefix(claim.tenant_id, run_id, fence, 5)
    stored = put_folder(box.objects, prefix, folder)
    box.ledger.commit_checkpoint(run_id, fence, StoredCheckpoint(step=5, files=stored))
    get_folder(box.objects, stored, tmp_path / "back")
    assert (tmp_path / "back" / "adapter.bin").read_bytes() == b"x" * 100_000

    picture = sample_event(6, png())
    sha256 = str(picture.data["sha256"])
    local = write_sample(tmp_path, picture, png())
    box.objects.put_file(sample_key(claim.tenant_id, run_id, fence, sha256), local)
    box.ledger.event(run_id, fence, [picture])
    with tenant_db.database.transaction() as conn:
        path = str(picture.data["path"])
        listed = run_samples.find(conn, tenant_db.tenant_id, run_id, path)
    assert listed is not None
    assert (listed.fence, listed.sha256, listed.step) == (fence, sha256, 6)

    box.objects.put_file(preview_key(claim.tenant_id, run_id, fence), local)
    box.objects.put_file(preview_key(claim.tenant_id, run_id, fence), local)  # replaced
    sampling = ChildEvent(type="stage", step=6, data={"stage": "sampling"})
    box.ledger.event(run_id, fence, [sampling, preview_event(6, png())])
    with tenant_db.database.transaction() as conn:
        preview = run_previews.find(conn, tenant_db.tenant_id, run_id)
    assert preview is not None
    assert (preview.fence, preview.step) == (fence, 6)

    result = put_folder(box.objects, result_prefix(claim.tenant_id, run_id, fence), folder)
    box.ledger.commit_result(run_id, fence, result, step=9)
    assert tenant_db.run(run_id).status == "succeeded"
    with pytest.raises(LeaseLostError):
        box.ledger.renew(run_id, fence, lease=LEASE)
    with pytest.raises(LeaseLostError):
        box.session.ask("sign-read", Held(run_id=run_id, fence=fence), {"key": "a/b"})


def test_a_box_that_is_gone_loses_its_run_to_another(
    fleet: Fleet, box: Box, tenant_db: TenantDatabase
) -> None:
    claim = held(tenant_db, box)
    tenant_db.let_lease_run_out(claim.run_id)
    tenant_db.sweep(max_attempts=3)
    tenant_db.due_now(claim.run_id)
    box.ledger.register(box.worker, draining=True, run_id=None)
    other = Box(fleet.url, tenant_db.database, name="other")
    taken = other.claims(dispatched(tenant_db, other))
    assert taken is not None
    assert (taken.run_id, taken.fence) == (claim.run_id, claim.fence + 1)
    for fence in (claim.fence, taken.fence):
        with pytest.raises(LeaseLostError):
            box.ledger.hand_back(claim.run_id, fence, Outcome.STOPPED, None)
        with pytest.raises(LeaseLostError):
            box.session.ask("sign-write", Held(run_id=claim.run_id, fence=fence), WRITE)
    other.ledger.hand_back(claim.run_id, taken.fence, Outcome.STOPPED, None)


def test_a_box_waits_for_its_offer_and_hears_of_the_trace(
    box: Box, tenant_db: TenantDatabase
) -> None:
    nothing = {"run_id": None, "traceparent": None}
    assert box.session.send(get("/v1/worker/offer", {"wait_s": 0})) == nothing
    run_id = tenant_db.claimable().run_id
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE runs SET traceparent = 'a trace' WHERE run_id = %s", (run_id,))
    box.is_offered(run_id)
    offered = {"run_id": run_id, "traceparent": "a trace"}
    assert box.session.send(get("/v1/worker/offer", {"wait_s": 20})) == offered


def test_a_box_claims_nothing_that_it_is_not_offered(box: Box, tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.claimable().run_id
    for each in (run_id, new_id("run"), "no-run"):
        assert box.claims(each) is None


def test_a_box_that_holds_a_run_claims_no_second(box: Box, tenant_db: TenantDatabase) -> None:
    held(tenant_db, box)
    second = tenant_db.claimable().run_id
    box.is_offered(second)
    assert box.claims(second) is None


def test_a_claim_that_arrives_again_is_the_same_claim(box: Box, tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.claimable().run_id
    box.is_offered(run_id)

    def claim(claim_id: str) -> Any:
        body = {"lease_s": 60, "claim_id": claim_id}
        path = f"/v1/worker/runs/{run_id}:claim"
        return box.session.send(
            Call(method="POST", path=path, body=body, read=lambda answer: answer.json())
        )

    first = claim("a" * 32)
    assert first["fence"] == 1
    tenant_db.let_lease_run_out(run_id)

    assert claim("a" * 32) == first  # with a fresh lease
    assert tenant_db.sweep(max_attempts=3) is None
    assert claim("b" * 32) is None  # another process with the same key
    assert [each.fence for each in tenant_db.attempts(run_id)] == [1]

    box.ledger.hand_back(run_id, 1, Outcome.STOPPED, None)
    box.is_offered(run_id)
    assert claim("a" * 32) is None  # it comes late
    assert claim("c" * 32)["fence"] == 2


def test_claims_that_arrive_at_once_are_one(box: Box, tenant_db: TenantDatabase) -> None:
    run_id = tenant_db.claimable().run_id
    box.is_offered(run_id)
    body = {"lease_s": 60, "claim_id": "a" * 32}

    def claim(_: int) -> Any:
        return httpx.post(
            f"{box.url}/v1/worker/runs/{run_id}:claim",
            json=body,
            headers={"Authorization": f"Bearer {box.secret}"},
        ).json()

    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(claim, range(4)))
    assert [each["fence"] for each in claims] == [1] * 4
    assert len(tenant_db.attempts(run_id)) == 1


def test_a_box_reads_and_writes_files_of_its_run_only(
    box: Box, tenant_db: TenantDatabase, tmp_path: Path
) -> None:
    claim = held(tenant_db, box)
    neighbour = tenant_db.neighbour().held()
    for key in (
        upload_key(claim.tenant_id, "a" * 64),
        f"tenants/{claim.tenant_id}/cache/{'b' * 64}/manifest.json",
        f"tenants/{neighbour.tenant_id}/cache/{claim.shards[0].digest}/manifest.json",
        result_prefix(neighbour.tenant_id, neighbour.run_id, 1) + "manifest.json",
    ):
        with pytest.raises(ObjectMissingError):
            box.objects.get_bytes(key, limit_bytes=10)
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for key in (
        upload_key(claim.tenant_id, hashlib.sha256(b"x").hexdigest()),
        result_prefix(claim.tenant_id, claim.run_id, claim.fence + 1) + "x",
        result_prefix(neighbour.tenant_id, neighbour.run_id, 1) + "x",
        result_prefix(claim.tenant_id, claim.run_id, claim.fence) + "manifest.json",
    ):
        with pytest.raises(ObjectStoreRefusedError):
            box.objects.put_file(key, file)
    with (tmp_path / "large").open("wb") as large:
        large.truncate(LARGEST_FILE_BYTES + 1)
    with pytest.raises(ObjectStoreRefusedError, match="stores files of up to"):
        box.objects.put_file(
            result_prefix(claim.tenant_id, claim.run_id, claim.fence) + "x", tmp_path / "large"
        )
    with pytest.raises(ObjectStoreRefusedError):
        box.objects.commit_once(
            result_prefix(neighbour.tenant_id, neighbour.run_id, 1) + "manifest.json", b"{}"
        )
    with pytest.raises(LeaseLostError):
        box.session.ask("sign-read", Held(run_id=neighbour.run_id, fence=1), {"key": "a/b"})


def test_a_commit_names_files_of_its_own_attempt(box: Box, tenant_db: TenantDatabase) -> None:
    claim = held(tenant_db, box)
    foreign = StoredFiles(
        key_prefix=f"tenants/{claim.tenant_id}/uploads/", manifest_sha256="a" * 64, size_bytes=1
    )
    with pytest.raises(ProblemError, match="not_of_attempt"):
        box.ledger.commit_checkpoint(
            claim.run_id, claim.fence, StoredCheckpoint(step=1, files=foreign)
        )
    with pytest.raises(ProblemError, match="not_of_attempt"):
        box.ledger.commit_result(claim.run_id, claim.fence, foreign, step=1)
    assert tenant_db.run(claim.run_id).checkpoint_step == 0


def test_addresses_of_workers_take_no_other_key(fleet: Fleet, tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        tenants_key = api_keys.new_api_key(conn, tenant_db.tenant_id)
        operators_key = operator_keys.create(conn, api_keys.KEY_PEPPER, name="ops")[1]
    asked, http = 0, httpx.Client(base_url=fleet.url)
    for route in iter_route_contexts(routes.router.routes):
        path = re.sub(r"\{run_id[^}]*\}", new_id("run"), str(route.path))
        for method in route.methods or ():
            for key, status in ((tenants_key, 403), (operators_key, 403), ("", 401)):
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                answer = http.request(method, path, headers=headers)
                assert answer.status_code == status, (method, path)
            asked += 1
    http.close()
    assert asked >= 14


def test_a_revoked_key_ends_the_attempt(box: Box, tenant_db: TenantDatabase) -> None:
    claim = held(tenant_db, box)
    with tenant_db.database.transaction() as conn:
        worker_keys.revoke(conn, box.key.key_id)
    with pytest.raises(LeaseLostError):
        box.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    with pytest.raises(LedgerDownError):
        box.ledger.register(box.worker, draining=False, run_id=None)


def test_a_signed_url_is_for_one_object_and_minutes(
    box: Box, tenant_db: TenantDatabase, tmp_path: Path
) -> None:
    claim = held(tenant_db, box)
    key = result_prefix(claim.tenant_id, claim.run_id, claim.fence) + "adapter.bin"
    holder = Held(run_id=claim.run_id, fence=claim.fence)
    signed = box.session.ask("sign-write", holder, {**WRITE, "key": key})
    expires_s = int(httpx.URL(signed["url"]).params["expires"]) - time.time()
    assert expires_s <= 300
    elsewhere = signed["url"].replace("adapter.bin", "other.bin")
    for url, body in ((elsewhere, b"x"), (signed["url"], b"other")):
        answer = httpx.request(signed["method"], url, content=body, headers=signed["headers"])
        assert answer.status_code in (400, 403)
    url = signed["url"]
    assert httpx.put(url, content=b"x", headers=signed["headers"]).status_code == 200
    for method in ("GET", "DELETE"):
        assert httpx.request(method, url).status_code in (403, 405)


def test_a_box_lists_nothing_and_sees_no_secret(box: Box, tenant_db: TenantDatabase) -> None:
    claim = held(tenant_db, box)
    for path in ("/v1/worker/runs", f"/v1/worker/runs/{claim.run_id}"):
        with pytest.raises(ProblemError, match=r"404|405"):
            box.session.send(get(path))
    assert set(box.session.send(get("/v1/worker"))) == {
        *("worker_id", "gpu_class", "node", "protocol", "version", "now"),
        *("lease_s", "renew_s", "orphan_s", "cancel_s", "heartbeat_s"),
    }
    assert {each.name for each in fields(Claim)} == {
        *("run_id", "tenant_id", "fence", "plan", "data_index", "base_model", "shards"),
        *("checkpoint", "older_checkpoints", "start", "budget_s", "pictures"),
        "picture_scores",
    }
