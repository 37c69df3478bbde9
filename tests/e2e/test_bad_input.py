"""Wrong input gets a clear problem that names the file, option or pointer; nothing is retried."""

import io
from collections.abc import Callable

import pytest
from PIL import Image

from tests.support.fleet import Fleet
from tests.support.service import EXAMPLES, new_tenant, run_request
from tests.support.tenant import Json, Tenant
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of()
    fleet.start_all(trainers=0)
    return fleet


def jpeg(width_px: int = 160, height_px: int = 160) -> bytes:
    body = io.BytesIO()
    Image.effect_noise((width_px, height_px), 60).convert("RGB").save(body, "JPEG")
    return body.getvalue()


def refused(tenant: Tenant, request: Json) -> Json:
    answer = tenant.http.post("/v1/runs", json=request, headers={"Idempotency-Key": "refused"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text
    return dict(answer.json())


def wait_verified(tenant: Tenant, dataset_id: str) -> Json:
    def ask() -> Json | None:
        dataset = tenant.get(f"/v1/datasets/{dataset_id}")
        return dataset if dataset["status"] in ("ready", "rejected") else None

    return wait_until(ask, deadline_s=60, what="the dataset to be verified")


def half_broken() -> dict[str, bytes]:
    good = jpeg()
    return {
        "ok.jpg": good,
        "ok.txt": b"noise",
        "sub/half.jpg": good[: len(good) // 2],
        "sub/half.txt": b"half a photo",
    }


def test_a_corrupt_photo_is_left_out_and_its_run_says_so(tenant: Tenant) -> None:
    dataset = tenant.push(half_broken())
    held_out = tenant.push({"held.jpg": jpeg(), "held.txt": b"held out"})
    run_id = tenant.submit(run_request({"photos": dataset, "held-out": held_out}))

    verified = wait_verified(tenant, dataset)
    assert verified["status"] == "ready"
    assert [error["pointer"] for error in verified["left_out"]] == ["sub/half.jpg"]
    (left_out,) = tenant.get(f"/v1/datasets/{dataset}/files?left_out=only")["data"]
    assert (left_out["path"], left_out["left_out"]["code"]) == ("sub/half.jpg", "bad_image")
    wait_until(
        lambda: tenant.get(f"/v1/runs/{run_id}")["stage"] == "capacity",
        deadline_s=60,
        what="the run's cache",
    )
    warnings = str(tenant.get(f"/v1/runs/{run_id}")["warnings"])
    assert "photos: 1 of 2 images cannot be used and is left out." in warnings
    assert "sub/half.jpg" in warnings
    tenant.post(f"/v1/runs/{run_id}:cancel", {})


def test_corrupt_photos_are_named_and_their_run_fails_without_a_retry(tenant: Tenant) -> None:
    dataset = tenant.push(
        half_broken() | {"web.jpg": b"<html>not found</html>"},
        complete=False,  # verified only once its run waits for it
    )
    held_out = tenant.push({"held.jpg": jpeg(), "held.txt": b"held out"})
    run_id = tenant.submit(run_request({"photos": dataset, "held-out": held_out}))
    tenant.complete(dataset)

    verified = wait_verified(tenant, dataset)
    run = tenant.wait_over(run_id, deadline_s=60)

    assert verified["status"] == "rejected"
    assert [each["pointer"] for each in verified["errors"]] == ["sub/half.jpg", "web.jpg", ""]
    assert run["status"] == "failed"
    assert run["status_reason"]["category"] == "user"
    assert run["status_reason"]["retryable"] is False
    assert "sub/half.jpg" in run["status_reason"]["message"]
    assert run["attempts"] == []


def test_bytes_that_are_not_what_was_announced_are_refused(tenant: Tenant) -> None:
    import hashlib

    import httpx

    body = jpeg()
    listed = [
        {"path": "a.jpg", "size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    ]
    dataset = tenant.post("/v1/datasets", {"name": "forged", "files": listed})
    (upload,) = tenant.post("/v1/uploads", {"dataset_id": dataset["id"]})["data"]

    forged = httpx.put(upload["url"], headers=upload["headers"], content=body[::-1])
    longer = httpx.put(upload["url"], headers={}, content=body + b"x")

    assert forged.status_code >= 400
    assert longer.status_code >= 400
    missing = tenant.http.post(f"/v1/datasets/{dataset['id']}:complete", json={})
    assert missing.status_code == 409
    assert "a.jpg" in missing.text


def test_every_wrong_option_is_named_at_once_with_the_nearest_name(tenant: Tenant) -> None:
    request = run_request({}, optimiser="lion", learning_rate="fast", controlnet=True)

    problem = refused(tenant, request)

    by_pointer = {error["pointer"]: error for error in problem["errors"]}
    assert by_pointer["/config/optimiser"]["code"] == "unknown_option"
    assert "optimizer" in by_pointer["/config/optimiser"]["message"]
    assert "/config/learning_rate" in by_pointer
    assert by_pointer["/config/controlnet"]["code"] == "not_implemented"


def test_a_plan_that_wraps_no_module_fails(tenant: Tenant) -> None:
    request = run_request({})
    request["lycoris_config"]["apply_preset"] = {"target_module": ["NoSuchClass"]}

    problem = refused(tenant, request)

    assert any(
        error["pointer"].startswith("/lycoris_config/apply_preset") for error in problem["errors"]
    )


def test_an_unreadable_body_is_a_problem_with_a_position(tenant: Tenant) -> None:
    answer = tenant.http.post(
        "/v1/runs", content=b'{"config": {', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_json"


def test_a_wrong_key_is_refused(tenant: Tenant) -> None:
    for authorization in ("Bearer rv_wrong", "Bearer", "Basic cm9vdDpyb290", ""):
        answer = tenant.http.get("/v1/runs", headers={"Authorization": authorization})
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthenticated"


def test_objects_of_another_tenant_are_not_found(fleet: Fleet, tenant: Tenant) -> None:
    held_out = tenant.push_folder(EXAMPLES / "photos" / "held_out")
    run_id = tenant.submit(run_request({"photos": held_out, "held-out": held_out}))
    other = new_tenant(fleet, "grace")

    for path in (
        f"/v1/runs/{run_id}",
        f"/v1/runs/{run_id}/events",
        f"/v1/runs/{run_id}/checkpoints",
        f"/v1/datasets/{held_out}",
    ):
        answer = other.http.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "not_found"
    assert other.http.post(f"/v1/runs/{run_id}:cancel", json={}).status_code == 404
    assert other.http.post("/v1/uploads", json={"dataset_id": held_out}).status_code == 404
    borrowed = other.http.post(
        "/v1/runs", json=run_request({"photos": held_out, "held-out": held_out})
    )
    assert borrowed.status_code == 422
    assert {e["pointer"] for e in borrowed.json()["errors"]} == {
        "/datasets/photos",
        "/datasets/held-out",
    }
    for path in ("/v1/runs", "/v1/datasets", "/v1/publications"):
        assert other.get(path)["data"] == []
    tenant.post(f"/v1/runs/{run_id}:cancel", {})
