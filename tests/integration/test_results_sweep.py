"""The sweep deletes objects that no row references, and only those."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain.ledger import Claim, Outcome, StoredCheckpoint, StoredFiles
from services.objects.folder_store import FolderStore
from services.objects.keys import (
    attempts_prefix,
    checkpoint_prefix,
    result_prefix,
    shard_prefix,
    upload_key,
)
from services.objects.signing import UrlSigner
from services.results.sweep import Sweeper
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

    assert Sweeper(tenant_db.database, objects).sweep() == 0


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

    assert Sweeper(tenant_db.database, objects).sweep() == 4
    assert _folders(objects, claim) == {
        "1/checkpoints/step-00000010",
        "2/checkpoints/step-00000020",
        "2/result",
    }
    assert all(objects.size(key) is not None for key in others)
    assert Sweeper(tenant_db.database, objects).sweep() == 0


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

    Sweeper(tenant_db.database, objects).sweep()

    assert _folders(objects, claim) == {
        "1/checkpoints/step-00000020",
        "1/checkpoints/step-00000030",
        "1/result",
    }


def test_the_sweeper_thread_sweeps_periodically_and_ends(
    tenant_db: TenantDatabase, objects: FolderStore
) -> None:
    claim = tenant_db.held()
    _checkpoint(objects, claim, 10)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, _result(objects, claim), step=20)
    _let_it_be_due(tenant_db)

    with Sweeper(tenant_db.database, objects, every_s=3600):
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
