"""The cache builder as a process, with real servers and the encoders of the tiny model."""

import hashlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
import redis

from services.domain.ids import new_id
from services.objects.keys import upload_key
from services.objects.open import open_store
from services.queue.app import CACHE_QUEUE
from services.queue.rings import Rings
from services.settings.env import Settings
from services.store import datasets, imports
from services.store.database import Database
from services.store.datasets import NewFile
from tests.support.builder_process import DEADLINE_S, Service, image_of, picture, start_builder
from tests.support.file_server import File, FileServer
from tests.support.own_disk import own_disk
from tests.support.redis import RedisServer
from tests.support.waiting import wait_until
from tests.unit.config_examples import import_small
from trainer_core.base_models.describe import read_base_models
from trainer_core.data.index import DataIndex, FileItem
from trainer_core.data.indexing import build_index


@pytest.fixture
def faults() -> dict[str, str]:
    """Further environment variables of the first builder; tests override it."""
    return {}


@pytest.fixture
def disk() -> str:
    """Mount options of a disk of its own for the first builder; tests override it."""
    return ""


@pytest.fixture
def service(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    faults: dict[str, str],
    disk: str,
    database_url: str,
    database: Database,
    redis_server: RedisServer,
    models_dir: Path,
) -> Iterator[Service]:
    env = {
        "REVERIE_DATABASE_URL": database_url,
        "REVERIE_BROKER_URL": redis_server.url,
        "REVERIE_OBJECTS_URL": f"file://{tmp_path}/objects",
        "REVERIE_SIGNING_KEY": "5f" * 32,
        "REVERIE_SCRATCH_DIR": str(tmp_path / "scratch"),
        "REVERIE_MODELS_DIR": str(models_dir),
        "REVERIE_HEARTBEAT_S": "0.5",
        "REVERIE_IMPORT_NETWORKS": "127.0.0.0/8",
        "OMP_NUM_THREADS": "1",
    }
    tenant_id = new_id("ten")
    with psycopg.connect(database_url) as conn:
        conn.execute("INSERT INTO tenants (tenant_id, name) VALUES (%s, 'ada')", (tenant_id,))
    log = tmp_path / "log"
    with log.open("wb") as output, Rings(redis_server.url) as rings:
        store = open_store(Settings.from_env(env))
        launcher = own_disk(tmp_path / "scratch", disk) if disk else []
        process = start_builder({**env, **faults}, output, launcher)
        service = Service(database, store, rings, tenant_id, process, log, env)
        yield service
    service.process.kill()
    service.process.wait()


def test_a_good_dataset_becomes_ready(service: Service) -> None:
    body, words = picture(300, 200), b"a brick wall\n"
    service.upload(body)
    caption = NewFile(
        path="a.txt", media="caption", size_bytes=len(words), sha256=service.upload(words)
    )

    dataset_id = service.dataset_of({"a": image_of("a.jpg", body), "t": caption})

    decided = service.wait_decided(dataset_id)
    assert (decided.status, decided.errors) == ("ready", []), service.log.read_text()
    with service.database.transaction() as conn:
        image, text = datasets.files(conn, service.tenant_id, dataset_id)
    assert (image.width_px, image.height_px) == (300, 200)
    assert text.text == "a brick wall\n"


def test_a_source_is_fetched_and_its_dataset_becomes_ready(service: Service) -> None:
    with FileServer() as web:
        web.files["/a.jpg"] = File(body=picture(300, 200))
        csv = f"url,caption\n{web.url('/a.jpg')},a wall\n{web.url('/gone.jpg')},b\n"
        with service.database.transaction() as conn:
            dataset_id = datasets.create(conn, service.tenant_id, "photos", []).dataset_id
            imports.create(conn, service.tenant_id, dataset_id, {"type": "csv"}, csv)
        service.rings.dataset_import(service.tenant_id, dataset_id)
        wait_until(
            lambda: service.dataset(dataset_id).status != "uploading", what=service.log.read_text
        )
    service.rings.dataset(service.tenant_id, dataset_id)
    decided = service.wait_decided(dataset_id)
    assert (decided.status, decided.num_files) == ("ready", 2), service.log.read_text()


def test_all_problems_of_a_dataset_are_reported_together(service: Service) -> None:
    good, torn, missing = picture(64, 64), picture(640, 480)[:-900], picture(80, 80)
    other, binary = picture(96, 96), b"\x00\xffcaption"
    for body in (good, torn, binary):
        service.upload(body)
    # Stored under another content's digest, which only a bug of the store or of ours could cause.
    swapped = hashlib.sha256(other).hexdigest()
    service.store.put_bytes(upload_key(service.tenant_id, swapped), other[:-1] + b"x")
    caption = NewFile(
        path="bad.txt", media="caption", size_bytes=len(binary), sha256=service.upload(binary)
    )

    dataset_id = service.dataset_of(
        {
            "1": image_of("good.jpg", good),
            "2": image_of("torn.jpg", torn),
            "3": image_of("missing.jpg", missing),
            "4": image_of("swapped.jpg", other),
            "5": caption,
        }
    )

    decided = service.wait_decided(dataset_id)
    assert decided.status == "rejected"
    assert {error["pointer"]: error["code"] for error in decided.errors} == {
        "torn.jpg": "bad_image",
        "missing.jpg": "not_uploaded",
        "swapped.jpg": "sha256_mismatch",
        "bad.txt": "bad_caption",
    }


@pytest.mark.parametrize(
    "faults", [{"FAULT_AT": "verify.checked@2=kill", "REVERIE_ENV": "test"}], ids=["kill"]
)
def test_a_killed_builder_repeats_one_batch(service: Service) -> None:
    body = picture(64, 64)
    service.upload(body)
    files = {str(n): image_of(f"{n:03d}.jpg", body) for n in range(40)}

    dataset_id = service.dataset_of(files)

    assert service.process.wait(DEADLINE_S) == -signal.SIGKILL
    dataset = service.dataset(dataset_id)
    assert (dataset.status, dataset.verified_files) == ("verifying", 32)
    service.restart()
    service.rings.dataset(service.tenant_id, dataset_id)
    assert service.wait_decided(dataset_id).status == "ready"
    assert service.dataset(dataset_id).verified_files == 40


@pytest.mark.parametrize("disk", ["size=100m"], ids=["small"])
def test_a_builder_whose_disk_is_full_drains_and_keeps_its_ring(service: Service) -> None:
    scratch = service.env["REVERIE_SCRATCH_DIR"]
    ballast = Path(f"/proc/{service.process.pid}/root{scratch}/ballast")

    def state() -> tuple[bool, str | None] | None:
        with service.database.transaction() as conn:
            return conn.execute("SELECT draining, drain_reason->>'code' FROM workers").fetchone()

    wait_until(lambda: state() == (False, None), what=service.log.read_text)
    ballast.write_bytes(bytes(60 << 20))
    body = picture(64, 64)
    service.upload(body)

    dataset_id = service.dataset_of({"a": image_of("a.jpg", body)})

    full = (True, "worker_disk_full")
    wait_until(lambda: state() == full, what=service.log.read_text)
    assert service.dataset(dataset_id).status == "verifying"
    ballast.unlink()
    assert service.wait_decided(dataset_id).status == "ready"
    wait_until(lambda: state() == (False, None), what=service.log.read_text)


def index_of(models_dir: Path, bodies: dict[str, bytes]) -> DataIndex:
    model = read_base_models(models_dir)["hidream-tiny"]
    plan = import_small({}, backends=[{"id": "a", "caption_strategy": "filename"}]).plan
    base = plan.identity.base.model_copy(update={"digest": model.digest})
    identity = plan.identity.model_copy(update={"base": base})
    plan = plan.model_copy(update={"identity": identity})
    items = [
        FileItem(
            backend="a",
            path=path,
            sha256=hashlib.sha256(body).hexdigest(),
            width_px=256,
            height_px=256,
            captions=("a wall",),
        )
        for path, body in bodies.items()
    ]
    return build_index(plan, items, model.transformer_config)


def test_shards_are_built_once_although_the_ring_is_repeated(
    service: Service, models_dir: Path, tmp_path: Path
) -> None:
    body = picture(256, 256)
    service.upload(body)

    digests = service.want(index_of(models_dir, {"a.jpg": body}))

    for digest in digests:
        wait_until(lambda: service.shard(digest)["status"] == "done", what=service.log.read_text)  # noqa: B023 - called at once
    row = service.shard(digests[0])
    for digest in digests:
        service.rings.shard(service.tenant_id, digest)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(DEADLINE_S) == 0
    assert service.shard(digests[0]) == row
    for digest in digests:
        service.check_entries(digest, tmp_path / "entries")
    assert len(list((tmp_path / "entries").iterdir())) == len(digests)
    with service.database.transaction() as conn:
        assert conn.execute("SELECT kind, draining FROM workers").fetchall() == [
            ("cache_builder", True)
        ]


def test_a_users_error_names_the_file_and_is_not_retried(
    service: Service, models_dir: Path
) -> None:
    body = picture(256, 256)[:-600]
    service.upload(body)

    digests = service.want(index_of(models_dir, {"torn.jpg": body}))

    (latents,) = [digest for digest in digests if service.shard(digest)["kind"] == "latents"]
    wait_until(lambda: service.shard(latents)["status"] == "failed", what=service.log.read_text)
    error = service.shard(latents)["error"]
    assert error["code"] == "bad_image"
    assert "torn.jpg" in error["message"]


def wait_built(service: Service, digests: Sequence[str]) -> None:
    for digest in digests:
        wait_until(lambda: service.shard(digest)["status"] == "done", what=service.log.read_text)  # noqa: B023 - called at once


def stored_times(service: Service) -> dict[str, int]:
    """Content of shards in the store → when it was written."""
    found = (service.log.parent / "objects").rglob("*.safetensors")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


BUILDER = ("shard.before_manifest", "shard.uploaded")


ENCODER = ("encode.before_write", "encode.before_rename", "encode.after_rename")


@pytest.mark.deep
@pytest.mark.parametrize("place", BUILDER + ENCODER)
def test_a_builder_killed_at_its_second_shard_loses_only_that_one(
    service: Service, models_dir: Path, place: str, tmp_path: Path
) -> None:
    """Another builder goes on: what is finished stays as it is, and nothing is read half."""
    body = picture(256, 256)
    service.upload(body)
    service.process.kill()
    service.process.wait()
    once = str(tmp_path / "once")
    faults = {"FAULT_AT": f"{place}@2=kill", "FAULT_ONCE": once, "REVERIE_ENV": "test"}
    service.env |= faults
    service.restart()
    first, second, *rest = service.want(index_of(models_dir, {"a.jpg": body}))

    if place in ENCODER:
        wait_until(
            lambda: (service.shard(second)["error"] or {}).get("code") == "encoder_died",
            what=service.log.read_text,
        )
        wait_until(
            lambda: all(service.shard(digest)["status"] == "done" for digest in rest),
            what=service.log.read_text,
        )
        service.process.kill()
    assert service.process.wait(DEADLINE_S) == -signal.SIGKILL
    assert [service.shard(digest)["status"] for digest in (first, second)] == ["done", "pending"]
    finished = [digest for digest in (first, *rest) if service.shard(digest)["status"] == "done"]
    for digest in finished:
        service.check_entries(digest, tmp_path / "before")
    before = stored_times(service)
    manifests = (service.log.parent / "objects").rglob("manifest.json")
    has_manifest = {path.parent.name for path in manifests}
    assert has_manifest == {*finished} | ({second} if place == "shard.uploaded" else set())
    service.env = {name: value for name, value in service.env.items() if name not in faults}
    service.restart()
    for digest in (second, *rest):
        service.rings.shard(service.tenant_id, digest)
    wait_built(service, [first, second, *rest])

    after = stored_times(service)
    assert set(after) == {first, second, *rest}
    for digest in finished:
        assert after[digest] == before[digest]
        assert service.shard(digest)["attempts"] == 1
    assert len(list((service.log.parent / "objects").rglob("manifest.json"))) == len(after)
    for digest in (first, second, *rest):
        service.check_entries(digest, tmp_path / "after")


@pytest.mark.deep
@pytest.mark.parametrize("disk", ["size=64k"], ids=["without room"])
def test_a_shard_waits_for_a_builder_with_room(service: Service, models_dir: Path) -> None:
    body = picture(256, 256)
    service.upload(body)

    digests = service.want(index_of(models_dir, {"a.jpg": body}))

    wait_until(lambda: "worker_draining" in service.log.read_text(), what=service.log.read_text)
    with redis.Redis.from_url(service.env["REVERIE_BROKER_URL"]) as broker:
        wait_until(lambda: broker.llen(CACHE_QUEUE) == len(digests) - 1, what="one ring taken")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(DEADLINE_S) == 0
    for digest in digests:
        row = service.shard(digest)
        assert (row["status"], row["attempts"], row["error"]) == ("pending", 0, None)
    service.restart()
    for digest in digests:
        service.rings.shard(service.tenant_id, digest)
    wait_built(service, digests)
