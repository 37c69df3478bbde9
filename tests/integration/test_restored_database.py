"""An older backup of the database is restored while the object store knows more."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.errors import LeaseLostError
from services.domain.ledger import Claim, StoredCheckpoint, StoredFiles
from services.objects.folder_store import FolderStore
from services.objects.folders import put_folder
from services.objects.keys import attempts_prefix, checkpoint_prefix, result_prefix
from services.objects.signing import UrlSigner
from services.results.restored import compare, reconcile, settle
from services.results.sweep import sweep_runs
from services.store import restore_guard
from services.store.restored_runs import FENCE_STEP
from services.workers.scratch import Scratch
from tests.support.backups import back_up, copy_data, restore
from tests.support.runs import LEASE, TenantDatabase, plan
from trainer_core.errors import InjectedFaultError


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    return FolderStore(tmp_path / "objects", signer)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with Scratch(tmp_path / "scratch", "wrk_test") as made:
        yield made


class Service:
    """A tenant's runs, the objects, and a backup of the database."""

    def __init__(self, tenant_db: TenantDatabase, objects: FolderStore, folder: Path) -> None:
        self.db = tenant_db
        self.objects = objects
        self._folder = folder
        self._backup = folder / "backup.dump"

    @property
    def url(self) -> str:
        return self.db.database._url

    def back_up(self) -> None:
        assert not compare(self.db.database, self.objects)
        back_up(self.url, self._backup)

    def restore(self) -> None:
        restore(self.url, self._backup)

    def copy_data(self) -> None:
        copy_data(self.url, self._backup)

    def claim(self, run_id: str) -> Claim | None:
        self.db.due_now(run_id)
        return self.db.ledger.claim(run_id, worker_id=self.db.worker(), lease=LEASE)

    def upload(self, prefix: str, content: str) -> StoredFiles:
        """Store a folder with a manifest, as a trainer does."""
        local = self._folder / prefix.replace("/", "_")
        local.mkdir()
        body = content.encode()
        (local / "state.safetensors").write_bytes(body)
        facts = {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        (local / "manifest.json").write_text(json.dumps({"files": {"state.safetensors": facts}}))
        return put_folder(self.objects, prefix, local)

    def checkpoint(self, claim: Claim, step: int) -> StoredFiles:
        """Upload and commit a checkpoint."""
        prefix = checkpoint_prefix(claim.tenant_id, claim.run_id, claim.fence, step)
        files = self.upload(prefix, f"weights of {claim.fence} at {step}")
        stored = StoredCheckpoint(step=step, files=files)
        self.db.ledger.commit_checkpoint(claim.run_id, claim.fence, stored)
        return files

    def keys(self, claim: Claim) -> set[str]:
        return set(self.objects.list_keys(attempts_prefix(claim.tenant_id, claim.run_id)))

    def sweep_now(self) -> int:
        with self.db.database.transaction() as conn:
            conn.execute("UPDATE runs SET sweep_after = clock_timestamp() - interval '1 second'")
        return sweep_runs(self.db.database, self.objects)


@pytest.fixture
def service(tenant_db: TenantDatabase, objects: FolderStore, tmp_path: Path) -> Service:
    return Service(tenant_db, objects, tmp_path)


def lost_and_claimed_again(service: Service, claim: Claim) -> Claim:
    """The worker is lost; another one claims the run."""
    service.db.let_lease_run_out(claim.run_id)
    assert service.db.sweep(max_attempts=9) is not None
    again = service.claim(claim.run_id)
    assert again is not None
    return again


def test_an_ordinary_service_is_not_restored(service: Service, scratch: Scratch) -> None:
    claim = service.db.held()

    for _ in range(3):
        settle(service.db.database, service.objects, scratch)

    assert service.db.run(claim.run_id).fence == 1
    assert "run.restored" not in service.db.event_types(claim.run_id)


@pytest.mark.parametrize("how", ["restore", "copy_data"])
def test_a_run_goes_on_from_the_newest_checkpoint_of_the_store(
    service: Service, scratch: Scratch, how: str
) -> None:
    old = service.db.held(plan=plan(checkpoints=1))
    service.checkpoint(old, 10)
    service.back_up()
    alive = lost_and_claimed_again(service, old)
    newest = service.checkpoint(alive, 20)
    if how == "copy_data":  # found by the marker, which counts up once a minute
        assert not compare(service.db.database, service.objects)
    before = service.keys(old)

    getattr(service, how)()
    assert service.db.run(old.run_id).checkpoint_step == 10
    settle(service.db.database, service.objects, scratch)

    run = service.db.run(old.run_id)
    assert (run.status, run.stage, run.checkpoint_step) == ("queued", "capacity", 20)
    restored = next(e for e in service.db.events(old.run_id) if e.type == "run.restored")
    assert restored.data["checkpoint_step"] == 20
    assert restored.data["reason"]["code"] == "database_restored"
    # The worker that still trains is told to stop, and so is the one that the backup names.
    for claim in (old, alive):
        with pytest.raises(LeaseLostError):
            service.db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
        with pytest.raises(LeaseLostError):
            service.checkpoint(claim, 30)
    again = service.claim(old.run_id)
    assert again is not None
    assert again.fence > FENCE_STEP
    assert again.checkpoint is not None
    assert again.checkpoint.files == newest
    service.sweep_now()
    assert {key for key in before if "step-00000020" in key} <= service.keys(old)
    with pytest.raises(LeaseLostError):  # also once another worker holds it
        service.checkpoint(alive, 40)


def test_until_the_runs_are_reconciled_none_is_claimed_and_nothing_is_deleted(
    service: Service, scratch: Scratch
) -> None:
    old = service.db.held(plan=plan(checkpoints=1))
    waiting = service.db.claimable()
    service.back_up()
    service.checkpoint(old, 10)
    service.upload(result_prefix(old.tenant_id, old.run_id, old.fence), "adapter")
    before = service.keys(old)

    service.restore()

    assert service.claim(waiting.run_id) is None
    assert service.sweep_now() == 0
    assert service.keys(old) == before
    settle(service.db.database, service.objects, scratch)
    assert service.claim(waiting.run_id) is not None
    assert service.sweep_now() == 2  # the result, which the run makes again from its checkpoint


def test_a_damaged_checkpoint_is_not_adopted(service: Service, scratch: Scratch) -> None:
    claim = service.db.held(plan=plan(checkpoints=3))
    service.back_up()
    service.checkpoint(claim, 10)
    damaged = service.checkpoint(claim, 20)
    service.objects.put_bytes(f"{damaged.key_prefix}state.safetensors", b"torn")

    service.restore()
    settle(service.db.database, service.objects, scratch)

    assert service.db.run(claim.run_id).checkpoint_step == 10


def test_a_checkpoint_that_was_deleted_after_the_backup_is_forgotten(
    service: Service, scratch: Scratch
) -> None:
    claim = service.db.held(plan=plan(checkpoints=1))
    first = service.checkpoint(claim, 10)
    service.back_up()
    for name in ("manifest.json", "state.safetensors"):
        service.objects.delete(first.key_prefix + name)

    service.restore()
    settle(service.db.database, service.objects, scratch)

    again = service.claim(claim.run_id)
    assert again is not None
    assert again.checkpoint is None  # from the beginning, and its event says so
    restored = next(e for e in service.db.events(claim.run_id) if e.type == "run.restored")
    assert (restored.data["known_step"], restored.data["checkpoint_step"]) == (10, 0)


@pytest.mark.parametrize("place", ["restored.run", "restored.before_end"])
def test_a_reconciliation_that_dies_is_done_again(
    service: Service, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    claims = [service.db.held(plan=plan(checkpoints=1)) for _ in range(2)]
    service.back_up()
    for claim in claims:
        service.checkpoint(claim, 10)
    service.restore()
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", f"{place}=raise")

    with pytest.raises(InjectedFaultError):
        settle(service.db.database, service.objects, scratch)
    assert service.claim(claims[0].run_id) is None
    monkeypatch.delenv("FAULT_AT")
    settle(service.db.database, service.objects, scratch)

    for claim in claims:
        again = service.claim(claim.run_id)
        assert again is not None
        assert again.checkpoint is not None
        assert again.checkpoint.step == 10


def test_runs_that_the_backup_does_not_know_keep_their_objects_and_are_named(
    service: Service, scratch: Scratch
) -> None:
    service.back_up()
    unknown = service.db.held()
    service.checkpoint(unknown, 10)
    before = service.keys(unknown)

    service.restore()
    assert compare(service.db.database, service.objects)
    done = reconcile(service.db.database, service.objects, scratch)

    assert done.unknown_runs == (unknown.run_id,)
    service.sweep_now()
    assert service.keys(unknown) == before


def test_a_finished_reconciliation_is_not_repeated(service: Service, scratch: Scratch) -> None:
    claim = service.db.held()
    service.back_up()
    service.restore()
    settle(service.db.database, service.objects, scratch)
    fence = service.db.run(claim.run_id).fence

    settle(service.db.database, service.objects, scratch)

    assert service.db.run(claim.run_id).fence == fence
    with service.db.database.transaction() as conn:
        assert not restore_guard.is_restored(conn)


def test_the_operator_can_reconcile_by_hand(service: Service, tmp_path: Path) -> None:
    claim = service.db.held(plan=plan(checkpoints=1))
    back_up(service.url, tmp_path / "backup.dump")  # the service never compared itself
    service.checkpoint(claim, 10)
    copy_data(service.url, tmp_path / "backup.dump")

    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "admin", "restore", "--json"],
        env={
            **os.environ,
            "REVERIE_DATABASE_URL": service.url,
            "REVERIE_OBJECTS_URL": f"file://{tmp_path}/objects",
            "REVERIE_SIGNING_KEY": "5f" * 16,
            "REVERIE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"resume_steps": {claim.run_id: 10}, "unknown_runs": []}
