"""Verification in short tasks: slices, their failures, and whose turn it is."""

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image

from services.cache_builder.verify import Verifier
from services.objects.errors import (
    ObjectStoreDownError,
    ObjectStoreError,
    ObjectStoreRefusedError,
)
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import cache_work, datasets, verification
from services.store.cache_work import CacheWork
from services.store.datasets import Dataset, NewFile
from services.store.verification import MAX_FAILURES, MAX_PROBLEMS
from tests.support.adapter_bytes import lora_bytes, packed
from tests.support.failing_store import FailingStore, store_in
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier
from tests.support.waiting import wait_until
from trainer_core.config.plan import plain_backend
from trainer_core.data.listed import items_of

BATCH = 32
OFFER = timedelta(seconds=10)


@pytest.fixture
def bob(ada: TenantDatabase) -> TenantDatabase:
    return ada.neighbour()


@pytest.fixture
def store(tmp_path: Path) -> FailingStore:
    return store_in(tmp_path)


@pytest.fixture
def verifier(
    ada: TenantDatabase, store: FailingStore, inspector: RequestChild, tmp_path: Path
) -> Iterator[Verifier]:
    with open_verifier(ada.database, store, inspector, tmp_path) as verifier:
        yield verifier


def verifying(
    tenant_db: TenantDatabase, store: FailingStore | None = None, *, num_files: int = 1
) -> str:
    """A completed dataset of equal pictures, uploaded where a store is given."""
    body = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 90, 40)).save(body, "JPEG")
    content = body.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    if store is not None:
        store.put_bytes(upload_key(tenant_db.tenant_id, sha256), content)
    files = [
        NewFile(path=f"{n:05d}.jpg", media="image", size_bytes=len(content), sha256=sha256)
        for n in range(num_files)
    ]
    with tenant_db.database.transaction() as conn:
        dataset_id = datasets.create(conn, tenant_db.tenant_id, "photos", files).dataset_id
        datasets.complete(conn, tenant_db.tenant_id, dataset_id)
    return dataset_id


def seen(tenant_db: TenantDatabase, dataset_id: str) -> Dataset:
    with tenant_db.database.transaction() as conn:
        return datasets.get(conn, tenant_db.tenant_id, dataset_id)


def execute(tenant_db: TenantDatabase, statement: str, *facts: object) -> None:
    with tenant_db.database.transaction() as conn:
        conn.execute(statement.encode(), facts)


def offered(tenant_db: TenantDatabase) -> list[CacheWork]:
    with tenant_db.database.transaction() as conn:
        return cache_work.take_offers(conn, offer=OFFER, silence=timedelta(seconds=30))


def test_a_ring_verifies_a_slice_and_the_next_one_goes_on(
    ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    dataset_id = verifying(ada, store, num_files=BATCH + 8)
    ada.builder()

    verifier.answer_ring(ada.tenant_id, dataset_id)

    half = seen(ada, dataset_id)
    assert (half.status, half.verified_files, half.num_files) == ("verifying", BATCH, BATCH + 8)
    assert [work.id for work in offered(ada)] == [dataset_id]  # due again at once
    verifier.answer_ring(ada.tenant_id, dataset_id)
    assert seen(ada, dataset_id).verified_files == BATCH + 8
    verifier.answer_ring(ada.tenant_id, dataset_id)  # nothing is left
    assert seen(ada, dataset_id).status == "ready"
    with ada.database.transaction() as conn:
        files = datasets.files(conn, ada.tenant_id, dataset_id)
    assert {(file.width_px, file.height_px) for file in files} == {(64, 48)}


def test_a_ring_to_a_dataset_that_another_builder_verifies_does_nothing(
    ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    dataset_id = verifying(ada, store)
    with ada.database.transaction() as conn:
        assert verification.take(conn, ada.tenant_id, dataset_id) is not None
    verifier.answer_ring(ada.tenant_id, dataset_id)
    assert seen(ada, dataset_id).verified_files == 0
    execute(ada, "UPDATE datasets SET lease_until = clock_timestamp()")  # it died
    verifier.answer_ring(ada.tenant_id, dataset_id)
    assert seen(ada, dataset_id).verified_files == 1


def test_verification_stops_after_many_problems(ada: TenantDatabase, verifier: Verifier) -> None:
    dataset_id = verifying(ada, num_files=MAX_PROBLEMS + 3 * BATCH)  # nothing is uploaded
    while seen(ada, dataset_id).status == "verifying":
        verifier.answer_ring(ada.tenant_id, dataset_id)
    rejected = seen(ada, dataset_id)
    codes = [error["code"] for error in rejected.errors]
    assert rejected.status == "rejected"
    assert MAX_PROBLEMS < len(codes) <= MAX_PROBLEMS + BATCH
    assert set(codes[:-1]) == {"not_uploaded"}
    assert codes[-1] == "too_many_problems"


def test_unexpected_failures_in_a_row_reject_the_dataset(
    ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    dataset_id = verifying(ada, store)
    execute(ada, "ALTER TABLE dataset_files ADD CONSTRAINT never CHECK (width_px IS NULL)")
    for _ in range(MAX_FAILURES):
        assert seen(ada, dataset_id).status == "verifying"
        verifier.answer_ring(ada.tenant_id, dataset_id)
    rejected = seen(ada, dataset_id)
    assert rejected.status == "rejected"
    assert [error["code"] for error in rejected.errors] == ["verification_failed"]


def test_builders_that_die_are_counted(ada: TenantDatabase, store: FailingStore) -> None:
    dataset_id = verifying(ada, store)
    for _ in range(MAX_FAILURES):
        with ada.database.transaction() as conn:
            assert verification.take(conn, ada.tenant_id, dataset_id) is not None
        execute(ada, "UPDATE datasets SET lease_until = clock_timestamp()")  # it died
    with ada.database.transaction() as conn:
        assert verification.take(conn, ada.tenant_id, dataset_id) is None
    assert [error["code"] for error in seen(ada, dataset_id).errors] == ["verification_failed"]


@pytest.mark.parametrize(
    ("error", "drains"), [(ObjectStoreDownError("a"), False), (ObjectStoreRefusedError("b"), True)]
)
def test_a_store_that_fails_is_not_the_datasets_fault(
    ada: TenantDatabase,
    store: FailingStore,
    verifier: Verifier,
    error: ObjectStoreError,
    drains: bool,
) -> None:
    dataset_id = verifying(ada, store)
    store.error = error
    for _ in range(2):
        verifier.answer_ring(ada.tenant_id, dataset_id)
    with ada.database.transaction() as conn:
        row = conn.execute("SELECT status, verify_failures FROM datasets").fetchone()
    assert row == ("verifying", 0)
    assert offered(ada) == []  # postponed
    reason = verifier.health.drain_reason
    assert (reason is not None and reason.code == error.code) == drains
    store.error = None
    wait_until(lambda: verifier.health.drain_reason is None, what="a healthy builder")
    for _ in range(2):
        verifier.answer_ring(ada.tenant_id, dataset_id)
    assert seen(ada, dataset_id).status == "ready"


def test_tenants_take_turns(ada: TenantDatabase, bob: TenantDatabase) -> None:
    for _ in range(5):
        verifying(ada)
    ada.caching()  # and a shard
    late = verifying(bob)
    assert offered(ada) == []  # there is no builder
    ada.builder()

    first = offered(ada)

    assert [work.tenant_id for work in first] == [ada.tenant_id, bob.tenant_id]
    assert offered(ada) == []  # two a builder are in flight
    with ada.database.transaction() as conn:
        work = verification.take(conn, bob.tenant_id, late)
        assert work is not None
    assert offered(ada) == []  # one that a builder works on is in flight, too
    with ada.database.transaction() as conn:
        verification.put_back(conn, work)
    assert [each.id for each in offered(ada)] == [late]  # ada has one already


def test_two_builders_work_for_two_tenants(ada: TenantDatabase, bob: TenantDatabase) -> None:
    for _ in range(5):
        verifying(ada)
    late = verifying(bob)
    ada.builder()
    ada.builder()

    first = offered(ada)

    assert [work.tenant_id for work in first] == [
        *(ada.tenant_id, bob.tenant_id),
        *(ada.tenant_id, ada.tenant_id),
    ]
    assert first[1].id == late  # the second builder's, while the first one has ada's


def test_a_lost_ring_is_sent_again(ada: TenantDatabase) -> None:
    dataset_id = verifying(ada)
    ada.builder()
    assert len(offered(ada)) == 1
    execute(
        ada,
        "UPDATE datasets SET ring_after = clock_timestamp(), offered_until = clock_timestamp()",
    )
    assert [work.id for work in offered(ada)] == [dataset_id]


def test_a_locked_row_takes_no_place(ada: TenantDatabase, bob: TenantDatabase) -> None:
    locked, free = verifying(ada), verifying(bob)
    ada.builder()
    with ada.database.transaction() as other:
        other.execute("SELECT FROM datasets WHERE dataset_id = %s FOR UPDATE", (locked,))
        assert [work.id for work in offered(ada)] == [free]


def test_a_locked_run_does_not_hold_up_the_builder(
    ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    dataset_id = verifying(ada, store)
    run_id = ada.queued(datasets={"photos": dataset_id}).run_id
    verifier.answer_ring(ada.tenant_id, dataset_id)
    with ada.database.transaction() as other:
        other.execute("SELECT FROM runs WHERE run_id = %s FOR UPDATE", (run_id,))
        verifier.answer_ring(ada.tenant_id, dataset_id)  # returns
        assert seen(ada, dataset_id).status == "ready"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lora_bytes(4, out_features=64), None),
        (lora_bytes(4, out_features=64, value=math.nan), "lora_A.weight holds values that are not"),
        (lora_bytes(4, out_features=64)[:-1], "old.safetensors is cut off"),
        (b"x" * 300, "old.safetensors is cut off in its header, or no safetensors file"),
        (packed(b'{"a\\u0000": 1}'), "or cannot be shown: a\\x00"),
    ],
    ids=["whole", "not finite", "cut off", "other", "name that cannot be stored"],
)
def test_an_adapter_file_is_verified(
    body: bytes, words: str | None, ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    sha256 = hashlib.sha256(body).hexdigest()
    store.put_bytes(upload_key(ada.tenant_id, sha256), body)
    file = NewFile(path="old.safetensors", media="adapter", size_bytes=len(body), sha256=sha256)
    with ada.database.transaction() as conn:
        dataset_id = datasets.create(conn, ada.tenant_id, "old", [file]).dataset_id
        datasets.complete(conn, ada.tenant_id, dataset_id)

    for _ in range(2):
        verifier.answer_ring(ada.tenant_id, dataset_id)

    found = seen(ada, dataset_id)
    if words is None:
        assert (found.status, found.errors) == ("ready", [])
    else:
        assert [(each["pointer"], each["code"]) for each in found.errors] == [
            ("old.safetensors", "bad_adapter_file")
        ]
        assert words in found.errors[0]["message"]
        assert str(verifier.scratch.folder) not in found.errors[0]["message"]


def test_a_damaged_upload_is_deleted_so_that_it_can_be_sent_again(
    ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    dataset_id = verifying(ada, store)
    with ada.database.transaction() as conn:
        (file,) = datasets.files(conn, ada.tenant_id, dataset_id)
    key = upload_key(ada.tenant_id, file.sha256)
    store.put_bytes(key, bytes(file.size_bytes))

    for _ in range(2):
        verifier.answer_ring(ada.tenant_id, dataset_id)

    rejected = seen(ada, dataset_id)
    assert [error["code"] for error in rejected.errors] == ["sha256_mismatch"]
    assert store.size(key) is None


def test_a_black_mask_is_known_before_it_is_encoded(
    ada: TenantDatabase, store: FailingStore, verifier: Verifier
) -> None:
    painted = {
        "a.png": Image.new("L", (64, 48), 200),
        "b.jpg": Image.new("L", (64, 48)),
        "c.png": Image.new("RGB", (64, 48), "blue"),
        "d.png": Image.new("LA", (64, 48), (255, 0)),
        "e.png": Image.new("L", (64, 48), 201),
        "f.png": Image.new("L", (64, 48), 202),
    }
    files = []
    for name, image in painted.items():
        body = io.BytesIO()
        image.save(body, "JPEG" if name.endswith("jpg") else "PNG")
        content, sha256 = body.getvalue(), hashlib.sha256(body.getvalue()).hexdigest()
        store.put_bytes(upload_key(ada.tenant_id, sha256), content)
        files.append(NewFile(path=name, media="image", size_bytes=len(content), sha256=sha256))
    masks = plain_backend("m", role="mask", caption_strategy="filename")

    for _ in range(2):  # what the second one has is known from the first one
        with ada.database.transaction() as conn:
            dataset_id = datasets.create(conn, ada.tenant_id, "masks", files).dataset_id
            datasets.complete(conn, ada.tenant_id, dataset_id)
        while seen(ada, dataset_id).status == "verifying":
            verifier.answer_ring(ada.tenant_id, dataset_id)
        with ada.database.transaction() as conn:
            rows = datasets.files(conn, ada.tenant_id, dataset_id)

        assert [row.lit for row in rows] == ["red", "nothing", "other", "nothing", "red", "red"]
        by_red = items_of(masks.model_copy(update={"mask_kind": "mask"}), rows)
        by_all = items_of(masks.model_copy(update={"mask_kind": "segmentation"}), rows)
        assert [item.path for item in by_red.items] == ["a.png", "e.png", "f.png"]
        assert [item.path for item in by_all.items] == ["a.png", "c.png", "e.png", "f.png"]
        assert by_all.notes == [
            "m: 2 of 6 images cannot be used and are left out.",
            "m: b.jpg: the mask is black everywhere; paint in white what is to be learnt",
            "m: d.png: the mask is black everywhere; paint in white what is to be learnt",
        ]
        unseen = [replace(row, lit=None) for row in rows]  # verified by an earlier version
        assert len(items_of(masks.model_copy(update={"mask_kind": "mask"}), unseen).items) == 6
