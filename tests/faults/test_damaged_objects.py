"""F25: objects are truncated, changed by a bit, longer, or gone. No damage is loaded silently."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.objects.keys import MANIFEST_NAME, shard_prefix, upload_key
from services.objects.port import ObjectStore
from tests.faults.proxied import INTERVAL, ProxiedService, ServiceOn
from tests.faults.random import rows, stored
from tests.support.objects import open_bucket
from tests.support.rgw import Bucket
from tests.support.waiting import wait_until

pytestmark = pytest.mark.deep

DAMAGES = ("truncated", "flipped", "longer", "gone")
STEPS = 40


@pytest.fixture(scope="module")
def service(service_on: ServiceOn, bucket: Bucket) -> Iterator[ProxiedService]:
    with service_on(bucket) as service:
        service.start("trainer-1")
        yield service


@pytest.fixture(scope="module")
def unbroken(service: ProxiedService) -> str:
    """A run that met no damage."""
    run_id = service.submit(max_train_steps=STEPS)
    service.ended_once(run_id)
    return run_id


@pytest.fixture
def objects(bucket: Bucket) -> ObjectStore:
    """The bucket, past the proxy."""
    return open_bucket(bucket)


def damage(objects: ObjectStore, key: str, how: str) -> bytes:
    """Damage the object in one of the four ways; returns what it was."""
    body = objects.get_bytes(key, limit_bytes=1 << 26)
    half = len(body) // 2
    match how:
        case "truncated":
            objects.put_bytes(key, body[:half])
        case "flipped":
            objects.put_bytes(key, body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :])
        case "longer":
            objects.put_bytes(key, body + b"\0")
        case "gone":
            objects.delete(key)
    return body


def content_key(objects: ObjectStore, prefix: str) -> str:
    """Key of the largest object below the prefix: a shard's, or a checkpoint's state."""
    keys = [key for key in objects.list_keys(prefix) if not key.endswith(MANIFEST_NAME)]
    return max(keys, key=lambda key: objects.size(key) or 0)


def assert_equal(
    service: ProxiedService, objects: ObjectStore, run_id: str, other_id: str, folder: Path
) -> None:
    """The two runs ended with the same weights and the same state, bit for bit."""
    with service.connection() as conn:
        pair = [each for each in rows.runs(conn) if each.run_id in (run_id, other_id)]
        folders = [each for each in rows.folders(conn) if each.run_id in (run_id, other_id)]
    ours = [each for each in folders if "/result/" in each.key_prefix or each.step == STEPS]
    local, torn = stored.fetch_all(objects, ours, folder)
    assert torn == []
    configs, unbroken = {run_id: "same"}, {"same": other_id}
    assert stored.differing(pair, ours, local, configs, unbroken) == (1, 1, [])


def test_a_damaged_upload_is_rejected_by_name(
    service: ProxiedService, objects: ObjectStore
) -> None:
    files = {f"{how}.txt": f"a caption that will be {how}".encode() for how in DAMAGES}
    dataset_id = service.tenant.push(files, complete=False)
    with service.frozen("cache_builder"):
        service.tenant.complete(dataset_id)
        listed = service.ask(
            "SELECT path, sha256 FROM dataset_files WHERE dataset_id = %(id)s", id=dataset_id
        )
        for path, sha256 in listed:
            damage(objects, upload_key(service.tenant_id, sha256), Path(path).stem)

    dataset = service.wait_decided(dataset_id)

    assert dataset["status"] == "rejected"
    assert {each["pointer"]: each["code"] for each in dataset["errors"]} == {
        "truncated.txt": "size_mismatch",
        "flipped.txt": "sha256_mismatch",
        "longer.txt": "size_mismatch",
        "gone.txt": "not_uploaded",
    }
    assert all(each["pointer"] in each["message"] for each in dataset["errors"])


def test_a_file_that_is_damaged_after_its_verification_is_named(
    service: ProxiedService, objects: ObjectStore
) -> None:
    datasets = service.push_photos("later")
    service.wait_decided(datasets["photos"])
    picture, sha256 = service.ask(
        "SELECT path, sha256 FROM dataset_files WHERE dataset_id = %(id)s AND media = 'image'"
        " ORDER BY path LIMIT 1",
        id=datasets["photos"],
    )[0]
    key = upload_key(service.tenant_id, sha256)

    body = objects.get_bytes(key, limit_bytes=1 << 20)

    def reason_after(hurt: Callable[[], object]) -> tuple[str, str]:
        """Why a run failed, and the file that its message begins with."""
        with service.frozen("cache_builder"):
            run_id = service.submit(datasets, max_train_steps=5)
            wait_until(lambda: service.tenant.run(run_id)["stage"] == "caching", what="admission")
            hurt()
        wait_until(lambda: service.tenant.run(run_id)["status"] == "failed", what="its end")
        reason = service.tenant.run(run_id)["status_reason"]
        return reason["code"], reason["message"].partition(" ")[0]

    assert reason_after(lambda: damage(objects, key, "flipped")) == ("input_corrupt", picture)
    assert reason_after(lambda: objects.delete(key)) == ("input_missing", picture)
    objects.put_bytes(key, body)
    assert len(service.ended_once(service.submit(datasets, max_train_steps=5))) == 1


SHARDS = """
SELECT digest FROM cache_shards JOIN run_shards USING (tenant_id, digest)
WHERE run_id = %(run_id)s AND kind = %(kind)s
"""


@pytest.mark.parametrize(
    ("kind", "how"), [("latents", "truncated"), ("text", "flipped"), ("text", "gone")]
)
def test_a_damaged_shard_is_named_and_built_again(  # noqa: PLR0917 - fixtures
    service: ProxiedService,
    objects: ObjectStore,
    unbroken: str,
    tmp_path: Path,
    kind: str,
    how: str,
) -> None:
    digest = service.ask(SHARDS, run_id=unbroken, kind=kind)[0][0]
    damage(objects, content_key(objects, shard_prefix(service.tenant_id, digest)), how)

    run_id = service.submit(max_train_steps=STEPS)

    first, _ = service.ended_once(run_id)
    assert (first["outcome"], first["last_step"]) == ("failed", 0)
    assert first["reason"]["code"] == "shard_corrupt"
    assert digest in first["reason"]["message"]
    assert_equal(service, objects, run_id, unbroken, tmp_path)


def test_bytes_behind_the_entries_of_a_shard_change_nothing(
    service: ProxiedService, objects: ObjectStore, unbroken: str, tmp_path: Path
) -> None:
    """Only the entries are read, each one alone, and compared with its digest."""
    digest = service.ask(SHARDS, run_id=unbroken, kind="latents")[0][0]
    damage(objects, content_key(objects, shard_prefix(service.tenant_id, digest)), "longer")

    run_id = service.submit(max_train_steps=STEPS)

    assert len(service.ended_once(run_id)) == 1
    assert_equal(service, objects, run_id, unbroken, tmp_path)


NEWEST = """
SELECT step, key_prefix FROM checkpoints WHERE run_id = %(run_id)s ORDER BY step DESC LIMIT 2
"""


@pytest.mark.parametrize("how", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_is_used(
    service: ProxiedService, objects: ObjectStore, unbroken: str, tmp_path: Path, how: str
) -> None:
    run_id = service.submit(max_train_steps=STEPS)
    wait_until(lambda: len(service.ask(NEWEST, run_id=run_id)) == 2, what="two checkpoints")
    service.fleet.processes["trainer-1"].kill()
    service.fleet.wait("trainer-1")
    (step, prefix), (older, _) = service.ask(NEWEST, run_id=run_id)
    damage(objects, content_key(objects, prefix), how)

    service.start("trainer-1")

    first, second = service.ended_once(run_id)
    assert (first["outcome"], second["from_step"]) == ("lost", step)
    (warning,) = service.tenant.events(run_id, "warning")
    assert warning["data"]["code"] == "checkpoint_corrupt"
    assert warning["data"]["message"] == (
        f"The checkpoint of step {step} is missing or damaged in the store. The run goes on from "
        f"step {older}."
    )
    steps = [event["step"] for event in service.tenant.events(run_id, "run.checkpoint")]
    assert steps == sorted([*range(INTERVAL, STEPS + 1, INTERVAL), step])
    assert_equal(service, objects, run_id, unbroken, tmp_path)


def test_a_damaged_result_is_neither_published_nor_listed(
    service: ProxiedService, objects: ObjectStore
) -> None:
    with service.frozen("results"):
        run_id = service.submit(max_train_steps=10)
        service.tenant.wait_over(run_id)
        query = "SELECT result_key_prefix FROM runs WHERE run_id = %(run_id)s"
        result = service.ask(query, run_id=run_id)[0][0]
        _, checkpoint = service.ask(NEWEST, run_id=run_id)[0]
        for prefix in (result, checkpoint):
            damage(objects, prefix + MANIFEST_NAME, "flipped")

    publication = service.tenant.wait_published(run_id)

    assert publication["status"] == "failed"
    assert publication["error"]["code"] == "result_unavailable"
    answer = service.tenant.http.get(f"/v1/runs/{run_id}/result")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_result")
    assert "damaged" in answer.json()["detail"]
    damaged, older = service.tenant.get(f"/v1/runs/{run_id}/checkpoints")["data"]
    assert damaged["files"] == []
    assert older["files"]
    assert len(service.logged("api", "folder_damaged")) == 2
