"""POST /v1/runs:validate foretells what POST /v1/runs does, and what the run would need."""

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.domain.errors import Problem
from services.store import datasets as dataset_rows
from services.store import gpu_classes, measured, quotas, tenants
from services.store.database import Database
from services.store.datasets import FileFacts
from tests.support.fleet import Fleet
from tests.support.previews import tiny_autoencoder
from tests.support.run_requests import run_requests
from tests.support.service import database_of, new_tenant, run_request
from tests.support.tenant import Json, Tenant
from tests.support.tiny_clip import write_tiny_clip
from tests.support.verifying import end_verification

GIB = 2**30
FILES = {f"{n}.jpg": f"picture {n}".encode() for n in range(4)} | {
    f"{n}.txt": b"a cat" if n < 2 else b"a dog" for n in range(4)
}


@pytest.fixture(scope="module")
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    fleet = fleet_of(REVERIE_SINGLE_TENANT="false")
    fleet.start_api()
    return fleet


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Iterator[Database]:
    with database_of(fleet) as database:
        yield database


@pytest.fixture(scope="module")
def datasets(tenant: Tenant) -> dict[str, str]:
    dataset = tenant.push(FILES)
    return {"photos": dataset, "held-out": dataset}


@pytest.fixture(scope="module")
def ready(tenant: Tenant, database: Database) -> dict[str, str]:
    """Two verified datasets: four pictures of two sizes, and one that is held out."""
    names = {"photos": 4, "held-out": 1}
    found = {}
    for backend, number in names.items():
        files = {name: body for name, body in FILES.items() if int(name[0]) < number}
        found[backend] = tenant.push(files)
        facts = [
            FileFacts(path=name, text=body.decode())
            if name.endswith(".txt")
            else FileFacts(path=name, width_px=128 if int(name[0]) < 3 else 256, height_px=128)
            for name, body in files.items()
        ]
        with database.transaction() as conn:
            tenant_id = tenants.find(conn, "ada")[0]
            end_verification(conn, tenant_id, found[backend], facts=facts)
    return found


@pytest.fixture(scope="module")
def rejected(tenant: Tenant, database: Database) -> str:
    dataset_id = tenant.push({"torn.jpg": b"half a picture"})
    problem = Problem(pointer="torn.jpg", code="bad_image", message="It ends too early.")
    with database.transaction() as conn:
        tenant_id = tenants.find(conn, "ada")[0]
        end_verification(conn, tenant_id, dataset_id, problems=[problem])
    return dataset_id


def validated(tenant: Tenant, body: Any) -> Json:
    """The answer, in which each null is explained."""
    answer = tenant.http.post("/v1/runs:validate", json=body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    nulls = {f"/{name}" for name, value in found.items() if value is None}
    assert nulls <= {each["field"] for each in found["unknown"]}
    return found


def test_validate_says_valid_exactly_where_submit_answers_201(
    tenant: Tenant, datasets: dict[str, str], rejected: str
) -> None:
    seen = set()
    for body in run_requests(datasets, rejected):
        found = validated(tenant, body)
        submitted = tenant.http.post("/v1/runs", json=body)
        seen.add(submitted.status_code)
        assert found["is_valid"] == (submitted.status_code == 201), (body, found["problems"])
        if submitted.status_code == 201:
            run = submitted.json()
            assert (found["max_steps"] or 0) == run["max_steps"]
            if body["config"].get("seed") != -1:  # that one is drawn each time
                assert found["plan_digest"] == run["plan_digest"]
                assert found["plan"] == tenant.get(run["links"]["plan"])
                assert found["warnings"] == run["warnings"]
        else:
            assert found["problems"] == submitted.json()["errors"], body
    assert seen == {201, 422}


def test_notices_are_fields_in_three_groups_and_no_credential_is_stored(
    tenant: Tenant, datasets: dict[str, str], database: Database
) -> None:
    written = {"prodigy_steps": 9, "validation_randomize": True, "compress_disk_cache": True}
    request = run_request(datasets, **written)
    cache = {"id": "t", "type": "aws", "dataset_type": "text_embeds", "default": True}
    keys = {"aws_access_key_id": "AKIA-not-a-key", "--aws_secret_access_key": "not-a-secret"}
    request["data_backends"] = [*request["data_backends"], {**cache, **keys}]

    found = validated(tenant, request)
    run = tenant.post("/v1/runs", request)

    assert found["notices"] == run["notices"] == tenant.run(run["id"])["notices"]
    groups = {
        group: {each["option"] for each in each_group}
        for group, each_group in run["notices"].items()
    }
    assert "validation_randomize" in groups["differs"]
    assert "prodigy_steps" in groups["no_effect"]
    assert {"compress_disk_cache", "dataset_type"} <= groups["handled"]
    (idle,) = (n for n in run["notices"]["no_effect"] if n["option"] == "prodigy_steps")
    assert idle["pointers"] == ["/config/prodigy_steps"]
    (unneeded,) = (n for n in run["notices"]["handled"] if n["option"] == "dataset_type")
    assert unneeded["data_backends"] == ["text-embeds", "t"]
    assert any(text.startswith("validation_randomize: ") for text in run["warnings"])
    assert not any("prodigy_steps" in text for text in run["warnings"])
    with database.transaction() as conn:
        stored = conn.execute("SELECT request::text FROM run_documents").fetchall()
    assert stored
    assert not any("not-a-" in text for (text,) in stored)


@pytest.mark.parametrize(
    ("option", "asked", "kind", "write"),
    [
        (
            "--pretrained_evaluation_model_name_or_path",
            {"evaluation_type": "clip"},
            "CLIP model",
            write_tiny_clip,
        ),
        (
            "validation_preview_autoencoder",
            {"validation_preview": True},
            "Tiny AutoEncoder",
            lambda folder: tiny_autoencoder(4).save_pretrained(folder),
        ),
    ],
)
def test_a_model_of_pictures_is_one_that_the_operator_has(
    option: str,
    asked: Json,
    kind: str,
    write: Callable[[Path], object],
    *,
    tenant: Tenant,
    datasets: dict[str, str],
    models_dir: Path,
) -> None:
    def problems(name: str) -> list[Json]:
        request = run_request(datasets, validation_step_interval=2, **asked, **{option: name})
        return list(validated(tenant, request)["problems"])

    (none_yet,) = problems("someone/small")
    assert none_yet["pointer"] == f"/config/{option}"
    told = f"The service has no {kind} someone/small. Its operator has none."
    assert none_yet["message"] == told
    write(models_dir / "someone/small")
    try:
        assert problems("someone/small") == []
        for name in ("someone/other", "../models/someone/small", "hidream-tiny"):
            (unknown,) = problems(name)
            told = f"The service has no {kind} {name}. It has someone/small."
            assert unknown["message"] == told
    finally:
        shutil.rmtree(models_dir / "someone")


def test_a_run_that_the_quota_refuses_is_not_valid(
    tenant: Tenant, fleet: Fleet, database: Database
) -> None:
    mary = new_tenant(fleet, "mary")
    dataset = mary.push({"a.jpg": b"1"})
    body = run_request({"photos": dataset, "held-out": dataset})
    with database.transaction() as conn:
        tenant_id = tenants.find(conn, "mary")[0]
        quotas.change(conn, tenant_id, {"queued_runs": 1, "concurrent_runs": 0})
    assert [each["effect"] for each in validated(mary, body)["quota"]] == [
        "none", "none", "waits", "none",
    ]  # fmt: skip
    mary.submit(body)
    found = validated(mary, body)
    refused = mary.http.post("/v1/runs", json=body)
    assert refused.status_code == 403
    assert not found["is_valid"]
    assert found["problems"] == refused.json()["errors"]
    (queued, *_) = found["quota"]
    assert queued == {"quota": "queued_runs", "limit": 1, "used": 1, "effect": "refused"}


def contents(database: Database) -> dict[str, str]:
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    with database.transaction() as conn:
        names = [name for (name,) in conn.execute(tables) if name != "rate_buckets"]
        return {
            name: str(
                conn.execute(f"SELECT t::text FROM {name} AS t ORDER BY 1".encode()).fetchall()
            )
            for name in names
        }


def test_nothing_is_written(
    tenant: Tenant, database: Database, ready: dict[str, str], rejected: str
) -> None:
    before = contents(database)
    for body in (run_request(ready), run_request({"photos": rejected}), {}, []):
        validated(tenant, body)
    in_json = {"Content-Type": "application/json"}
    for content, status in ((b"null", 200), (b"", 422)):
        answer = tenant.http.post("/v1/runs:validate", content=content, headers=in_json)
        assert answer.status_code == status, answer.text
    assert contents(database) == before


def test_it_counts_like_a_submit(tenant: Tenant) -> None:
    answer = tenant.http.post("/v1/runs:validate", json={})
    assert answer.headers["ratelimit-policy"].startswith('"create"')
    torn = tenant.http.post(
        "/v1/runs:validate", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert torn.status_code == 400


def test_without_datasets_only_what_depends_on_pictures_is_unknown(tenant: Tenant) -> None:
    body = run_request({})
    del body["datasets"]
    found = validated(tenant, body)
    assert found["is_valid"]
    assert found["data"] is None
    assert found["plan"]["identity"]["adapter"]["factor"] == 16
    assert found["trainable_parameters"] > 0
    why = {each["field"]: each["reason"] for each in found["unknown"]}
    assert why["/data"] == "The datasets are left out."
    assert why["/estimate"].startswith("No run of this base model")
    assert found["waiting"]["code"] == "no_worker_of_this_class"


def test_a_verified_dataset_is_reported_with_buckets_and_cache_hits(
    tenant: Tenant, ready: dict[str, str], database: Database
) -> None:
    data = validated(tenant, run_request(ready))["data"]
    assert data["is_verified"]
    assert data["problems"] == []
    for each in data["backends"]:
        dataset = tenant.get(f"/v1/datasets/{each['dataset_id']}")
        assert each["digest"] == dataset["digest"]
        assert dataset["digest"].startswith("sha256:")
    assert {
        (each["backend"], each["num_images"], each["num_captions"]) for each in data["backends"]
    } == {
        ("photos", 4, 4),
        ("held-out", 1, 1),
    }
    buckets = {
        (each["backend"], each["width_px"], each["height_px"]): each["num_images"]
        for each in data["buckets"]
    }
    assert sum(number for (backend, *_), number in buckets.items() if backend == "photos") == 4
    assert buckets["held-out", 64, 64] == 1
    (crops,) = (each["crops"] for each in data["buckets"] if each["backend"] == "held-out")
    assert 0 <= crops["loss_mean"] == crops["loss_worst"] < 1
    assert crops["num_enlarged"] == 0
    # Latents of each bucket, captions, and prompts of the sample.
    assert data["cache"]["num_stored"] == data["cache"]["num_entries_stored"] == 0
    assert data["cache"]["num_shards"] >= 2
    assert data["cache"]["num_entries"] >= 4


def test_the_steps_of_epochs_are_counted_where_the_pictures_are_known(
    tenant: Tenant, ready: dict[str, str], datasets: dict[str, str]
) -> None:
    epochs = {"max_train_steps": 0, "num_train_epochs": 3, "train_batch_size": 2}
    found = validated(tenant, run_request(ready, **epochs))
    uses = [each["samples_per_epoch"] for each in found["data"]["buckets"]]
    assert found["max_steps"] == 3 * sum(math.ceil(number / 2) for number in uses) > 0
    unread = validated(tenant, run_request(datasets, **epochs))
    assert unread["is_valid"]
    assert unread["max_steps"] is unread["estimate"] is None
    assert unread["plan"]["identity"]["num_train_epochs"] == 3
    why = {each["field"]: each["reason"] for each in unread["unknown"]}
    assert why["/max_steps"] == (
        "The length is in epochs, whose steps are counted from the data. "
        "A dataset is not verified yet."
    )


def test_data_for_which_the_run_would_fail_is_told(
    tenant: Tenant, database: Database, ready: dict[str, str]
) -> None:
    body = run_request(ready)
    for backend in body["data_backends"]:
        if backend["id"] == "photos":
            backend["minimum_image_size"] = 1024
    found = validated(tenant, body)
    assert found["is_valid"]  # it is accepted, and fails when its data is read
    assert [each["code"] for each in found["data"]["problems"]] == ["empty_dataset"]
    assert found["data"]["buckets"] is None


def test_memory_is_told_for_classes_that_the_operator_described(
    tenant: Tenant, ready: dict[str, str], database: Database
) -> None:
    with database.transaction() as conn:
        for name, memory_bytes in (("roomy", 64 * GIB), ("narrow", GIB // 64)):
            gpu_classes.set_price(conn, name, price_micros_per_hour=1, currency="USD")
            gpu_classes.set_hardware(conn, name, memory_bytes=memory_bytes, capability="9.0")
        gpu_classes.set_price(conn, "strange", price_micros_per_hour=1, currency="USD")
    found = validated(tenant, run_request(ready, mixed_precision="bf16"))
    by_name = {each["gpu_class"]: each for each in found["memory"]["gpu_classes"]}
    assert by_name.keys() == {"cpu", "narrow", "roomy", "strange"}
    assert by_name["roomy"]["fits"] is True
    assert 0 < by_name["roomy"]["peak_estimate_bytes"] < 64 * GIB
    assert by_name["roomy"]["plan"]["offloaded_blocks"] == []
    assert by_name["narrow"]["fits"] is False
    assert "GiB" in by_name["narrow"]["refusal"]
    assert by_name["strange"]["fits"] is None
    assert any("strange" in each["reason"] for each in found["unknown"])
    assert {each["sharding"] for each in by_name.values()} == {None}


def test_estimates_come_with_a_price_and_their_basis(
    tenant: Tenant, ready: dict[str, str], database: Database
) -> None:
    run = tenant.post("/v1/runs", run_request(ready))
    assert run["estimate"] is None
    with database.transaction() as conn:
        gpu_classes.set_price(conn, "cpu", price_micros_per_hour=3_600_000, currency="EUR")
        conn.execute(
            "INSERT INTO measured_attempts SELECT 'att_' || n, 'cpu', base_model, work, 99, 2, 10,"
            " 1, 5, 240, 230, 200 FROM runs, generate_series(1, 5) AS n WHERE run_id = %s",
            (run["id"],),
        )
        measured.record_encoding(conn, "hidream-tiny", "text", units=8, took_s=4)
    found = validated(tenant, run_request(ready, max_train_steps=50, checkpoint_step_interval=10))
    # 10 outside, 10 start, 50 steps of 2 s, 5 checkpoints, 5 end.
    assert found["estimate"]["seconds"]["p50"] == pytest.approx(130, rel=0.03)
    assert found["estimate"]["charged_s"]["p50"] == pytest.approx(102, rel=0.03)
    assert found["estimate"]["cost_micros"]["p50"] == pytest.approx(102_000, rel=0.03)
    assert found["estimate"]["currency"] == "EUR"
    assert found["estimate"]["basis"]["num_attempts"] == 5
    with database.transaction() as conn:
        gpu_classes.set_price(conn, "cpu", price_micros_per_hour=0, currency="EUR")
    free = validated(tenant, {**run_request(ready), "max_cost_micros": 1_000_000})
    assert free["is_valid"]
    assert (free["estimate"]["cost_micros"]["p50"], free["estimate"]["currency"]) == (0, "EUR")
    assert found["encoding_s"] is None  # no builder works, and latents were never measured
    shown = tenant.run(run["id"])["estimate"]
    assert shown["seconds"]["p90"] > shown["seconds"]["p50"] > 0


def test_a_clone_is_validated_like_one(tenant: Tenant, datasets: dict[str, str]) -> None:
    run_id = tenant.submit(run_request(datasets))
    found = validated(tenant, {"clone_of": run_id, "changes": {"config": {"max_train_steps": 3}}})
    assert (found["is_valid"], found["max_steps"]) == (True, 3)
    wrong: list[tuple[Json, str]] = [
        ({"clone_of": "run_" + "0" * 32}, "/clone_of"),
        ({"clone_of": run_id, "changes": 1}, "/changes"),
        ({"clone_of": run_id, "chances": {}}, "/chances"),
        ({"clone_of": run_id, "changes": {"config": {"seed": "x"}}}, "/config/seed"),
        ({"clone_of": run_id, "changes": {"surprise": 1}}, "/surprise"),
    ]
    for body, pointer in wrong:
        found = validated(tenant, copy.deepcopy(body))
        assert not found["is_valid"]
        assert [each["pointer"] for each in found["problems"]] == [pointer]


def test_a_large_dataset_is_counted_by_sizes(
    tenant: Tenant, database: Database, ready: dict[str, str]
) -> None:
    files = {f"{n}.jpg": b"one picture" for n in range(2001)}
    dataset_id = tenant.push(files, name="many", complete=False)
    tenant.complete(dataset_id)
    with database.transaction() as conn:
        tenant_id = tenants.find(conn, "ada")[0]
        facts = [FileFacts(path=name, width_px=128, height_px=128) for name in files]
        end_verification(conn, tenant_id, dataset_id, facts=facts)
        assert dataset_rows.get(conn, tenant_id, dataset_id).status == "ready"
    found = validated(tenant, run_request({**ready, "photos": dataset_id}))
    numbers = {each["backend"]: each["num_images"] for each in found["data"]["buckets"]}
    assert numbers == {"photos": 2001, "held-out": 1}
    assert {each["crops"] for each in found["data"]["buckets"]} == {None}
    assert found["data"]["cache"] is None
    assert any(each["field"] == "/data/cache" for each in found["unknown"])
    drawn = {"crop": True, "crop_aspect": "random", "crop_aspect_buckets": [0.5, 1, 2]}
    request = run_request({**ready, "photos": dataset_id})
    request["data_backends"][0].update(drawn)
    found = validated(tenant, request)
    assert found["is_valid"]
    assert found["data"]["buckets"] is None  # each picture's depends on its content
    assert any(each["field"] == "/data/buckets" for each in found["unknown"])
    request = run_request({**ready, "photos": dataset_id})
    request["data_backends"][0]["max_num_samples"] = 100
    found = validated(tenant, request)
    assert found["is_valid"]
    assert found["data"]["buckets"] is None  # which of them, only their content says
