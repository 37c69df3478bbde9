"""The sweep deletes objects that no row references, and only those."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain.ledger import Claim, Outcome, StoredCheckpoint, StoredFiles
from services.objects.errors import ObjectStoreRefusedError
from services.objects.folder_store import FolderStore
from services.objects.keys import (
    attempts_prefix,
    checkpoint_prefix,
    result_prefix,
    shard_prefix,
    upload_key,
)
from services.objects.signing import UrlSigner
from services.results.repeating import Repeating
from services.results.sweep import sweep_runs
from services.results.upkeep import keep_up
from tests.support.runs import LEASE, TenantDatabase, plan


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    return FolderStore(tmp_path / "objects", signer)


def _upload(objects: FolderStore, prefix: str) -> StoredFiles:
    objects.put_bytes(f"{prefix}state.safetensors", b"numbers")
    objects.put_bytes(f"{prefix}manifest.json", b"{}")
    return StoredFiles(key_prefix=prefix, manifest_sha256="aa" * 32, size_bytes=7)


def _checkpoint(objects: FolderStore, claim: Claim, step: int) -> StoredCheckpoint:
    prefix = checkpoint_prefix(claim.tenant_id, claim.run_id, claim.fence, step)
    return StoredCheckpoint(step=step, files=_upload(objects, prefix))


def _result(objects: FolderStore, claim: Claim) -> StoredFiles:
    return _upload(objects, result_prefix(claim.tenant_id, claim.run_id, claim.fence))


def _folders(objects: FolderStore, claim: Claim) -> set[str]:
    """Folders below ``attempts/`` that are not empty."""
    prefix = attempts_prefix(claim.tenant_id, claim.run_id)
    keys = objects.list_keys(prefix)
    return {key.removeprefix(prefix).rpartition("/")[0] for key in keys}


def _let_it_be_due(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE runs SET sweep_after = clock_timestamp() - interval '1 second'"
            " WHERE sweep_after IS NOT NULL"
        )


def test_nothing_is_swept_before_it_is_due(tenant_db: TenantDatabase, objects: FolderStore) -> None:
    claim = tenant_db.held()
    _checkpoint(objects, claim, 10)  # a disconnected holder may still be writing
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, _result(objects, claim), step=20)

    assert sweep_runs(tenant_db.database, objects) == 0


def test_objects_that_an_ended_run_does_not_reference_are_deleted(
    tenant_db: TenantDatabase, objects: FolderStore
) -> None:
    lost = tenant_db.held(plan=plan(checkpoints=2))
    tenant_db.ledger.commit_checkpoint(lost.run_id, lost.fence, _checkpoint(objects, lost, 10))
    _checkpoint(objects, lost, 20)  # uploaded, never committed
    _result(objects, lost)
    tenant_db.ledger.hand_back(lost.run_id, lost.fence, Outcome.STOPPED, None)
    tenant_db.due_now(lost.run_id)
    claim = tenant_db.ledger.claim(lost.run_id, worker_id=tenant_db.worker(), lease=LEASE)
    assert claim is not None
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, _checkpoint(objects, claim, 20))
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, _result(objects, claim), step=30)
    others = _neighbours(objects, claim)
    _let_it_be_due(tenant_db)

    assert sweep_runs(tenant_db.database, objects) == 4
    assert _folders(objects, claim) == {
        "1/checkpoints/step-00000010",
        "2/checkpoints/step-00000020",
        "2/result",
    }
    assert all(objects.size(key) is not None for key in others)
    assert sweep_runs(tenant_db.database, objects) == 0


def test_objects_that_a_holder_is_writing_are_kept(
    tenant_db: TenantDatabase, objects: FolderStore
) -> None:
    claim = tenant_db.held(plan=plan(checkpoints=1))
    for step in (10, 20):
        tenant_db.ledger.commit_checkpoint(
            claim.run_id, claim.fence, _checkpoint(objects, claim, step)
        )
    _checkpoint(objects, claim, 30)  # on its way
    _result(objects, claim)
    _let_it_be_due(tenant_db)

    sweep_runs(tenant_db.database, objects)

    assert _folders(objects, claim) == {
        "1/checkpoints/step-00000020",
        "1/checkpoints/step-00000030",
        "1/result",
    }


def test_uploads_in_parts_of_an_attempt_that_ended_are_ended(
    tenant_db: TenantDatabase, objects: FolderStore
) -> None:
    """A worker that was cut off may finish one after the sweep: nobody would delete the object."""
    lost = tenant_db.held()
    tenant_db.ledger.hand_back(lost.run_id, lost.fence, Outcome.STOPPED, None)
    tenant_db.due_now(lost.run_id)
    claim = tenant_db.ledger.claim(lost.run_id, worker_id=tenant_db.worker(), lease=LEASE)
    assert claim is not None
    late, wanted = (
        f"{checkpoint_prefix(each.tenant_id, each.run_id, each.fence, 10)}state.safetensors"
        for each in (lost, claim)
    )
    for key in (late, wanted):
        objects.parts.begin(key)
    _let_it_be_due(tenant_db)

    sweep_runs(tenant_db.database, objects)

    assert objects.parts.keys("tenants/") == {wanted}


class Locked(FolderStore):
    """Of a bucket that holds the objects of some runs."""

    locked: frozenset[str] = frozenset()

    def delete(self, key: str) -> None:
        if any(run_id in key for run_id in self.locked):
            raise ObjectStoreRefusedError(f"{key}: object lock")
        super().delete(key)


def test_a_run_whose_objects_may_not_be_deleted_does_not_stop_the_others(
    tenant_db: TenantDatabase, tmp_path: Path
) -> None:
    objects = Locked(tmp_path / "objects", UrlSigner(api_url="", signing_key=b"k" * 16))
    first, second = tenant_db.held(), tenant_db.held()
    for claim in (first, second):
        _checkpoint(objects, claim, 10)
        tenant_db.ledger.commit_result(claim.run_id, claim.fence, _result(objects, claim), step=20)
    _let_it_be_due(tenant_db)
    objects.locked = frozenset({first.run_id})

    assert sweep_runs(tenant_db.database, objects) == 2
    assert _folders(objects, second) == {"1/result"}
    assert sweep_runs(tenant_db.database, objects) == 0  # it is postponed
    objects.locked = frozenset()
    _let_it_be_due(tenant_db)
    assert sweep_runs(tenant_db.database, objects) == 2
    assert _folders(objects, first) == {"1/result"}


def test_of_the_works_of_a_minute_one_that_fails_does_not_stop_the_others() -> None:
    done: list[str] = []
    stopping = threading.Event()

    def fail(error: Exception) -> None:
        done.append(str(error))
        raise error

    works: dict[str, Callable[[], object]] = {
        "refused": lambda: fail(ObjectStoreRefusedError("refused")),
        "mistaken": lambda: fail(ValueError("mistaken")),
        "last": stopping.set,
        "too late": lambda: fail(AssertionError("too late")),
    }
    keep_up(lambda: done.append("settled"), works, stopping.is_set)
    assert done == ["settled", "refused", "mistaken"]
    assert stopping.is_set()


def test_the_sweeper_thread_sweeps_periodically_and_ends(
    tenant_db: TenantDatabase, objects: FolderStore
) -> None:
    claim = tenant_db.held()
    _checkpoint(objects, claim, 10)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, _result(objects, claim), step=20)
    _let_it_be_due(tenant_db)

    sweeping = Repeating(
        "sweep",
        lambda: sweep_runs(tenant_db.database, objects),
        every_s=3600,
        stopping=threading.Event(),
    )
    with sweeping:
        deadline = time.monotonic() + 20
        while _folders(objects, claim) != {"1/result"}:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _neighbours(objects: FolderStore, claim: Claim) -> list[str]:
    """Objects of the same tenant, and of a run whose id is a longer string, that must be kept."""
    upload = upload_key(claim.tenant_id, "ab" * 32)
    shard = f"{shard_prefix(claim.tenant_id, 'ab' * 32)}manifest.json"
    other = replace(claim, run_id=claim.run_id[:-1] + ("0" if claim.run_id[-1] != "0" else "1"))
    objects.put_bytes(upload, b"1")
    objects.put_bytes(shard, b"1")
    prefix = _result(objects, other).key_prefix
    return [upload, shard, f"{prefix}manifest.json", f"{prefix}state.safetensors"]
