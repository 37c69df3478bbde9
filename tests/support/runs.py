"""Rows for tests of the ledger and the dispatcher, made through the store's own functions."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from services.domain.ids import new_id
from services.domain.ledger import (
    CachedShard,
    Claim,
    StoredCheckpoint,
    StoredFiles,
    Worker,
)
from services.store import admission, datasets, leases, run_documents, runs, shards, tenants
from services.store.cache_entries import NeededEntries, NeededShard
from services.store.database import Connection, Database
from services.store.datasets import Dataset, FileFacts, NewFile
from services.store.leases import DeadAttempt
from services.store.ledger import PostgresLedger
from services.store.run_documents import RunDocuments
from services.store.run_rows import Run
from tests.support.verifying import end_verification
from trainer_core.errors import Category
from trainer_core.process.failure import Failure

LEASE = timedelta(seconds=60)
INDEX = '{"version": 2}'
"""As much of a data index as the store reads: nothing."""


def plan(*, checkpoints: int = 2, hub_model_id: str | None = None) -> dict[str, Any]:
    """As much of a plan as the store reads."""
    operation = {
        "checkpoints_total_limit": checkpoints,
        "publication": {"hub_model_id": hub_model_id},
    }
    return {"operation": operation}


def shard_digest(number: int = 0) -> str:
    return f"{number:064x}"


def entry_digest(number: int = 0) -> str:
    return f"e{number:063x}"


def needed(*numbers: int) -> NeededEntries:
    """Cache entries of these numbers; each one that is missing gets a shard of its number."""
    digests = {entry_digest(number): shard_digest(number) for number in numbers}

    def shards_of(missing: Collection[str]) -> list[NeededShard]:
        return [
            NeededShard(digest=shard, kind="text", spec="{}", entries=(entry,))
            for entry, shard in digests.items()
            if entry in missing
        ]

    return NeededEntries(digests=tuple(digests), shards_of=shards_of)


def stored_shard(number: int = 0) -> CachedShard:
    """The shard of this number and its entry, as a builder stores them."""
    return CachedShard(
        digest=shard_digest(number),
        kind="text",
        manifest_sha256="e" * 64,
        size_bytes=3,
        entries={entry_digest(number): 2},
    )


def files_at(key_prefix: str, manifest: str = "aa") -> StoredFiles:
    return StoredFiles(key_prefix=key_prefix, manifest_sha256=manifest * 32, size_bytes=10)


def checkpoint_at(claim: Claim, step: int, manifest: str = "aa") -> StoredCheckpoint:
    prefix = f"tenants/{claim.tenant_id}/runs/{claim.run_id}/attempts/{claim.fence}/"
    return StoredCheckpoint(
        step=step, files=files_at(f"{prefix}checkpoints/step-{step:08d}/", manifest)
    )


def result_of(claim: Claim, manifest: str = "bb") -> StoredFiles:
    prefix = f"tenants/{claim.tenant_id}/runs/{claim.run_id}/attempts/{claim.fence}/"
    return files_at(f"{prefix}result/", manifest)


@dataclass(frozen=True, kw_only=True)
class TenantDatabase:
    """One tenant in a fresh database, with shortcuts to runs in each state."""

    database: Database
    tenant_id: str
    ledger: PostgresLedger

    @classmethod
    def new(
        cls, database: Database, *, max_attempts: int = 3, name: str = "ada"
    ) -> "TenantDatabase":
        with database.transaction() as conn:
            tenant_id = tenants.create_tenant(conn, name)
        ledger = PostgresLedger(database, max_attempts=max_attempts)
        return cls(database=database, tenant_id=tenant_id, ledger=ledger)

    def neighbour(self) -> "TenantDatabase":
        """Another tenant of the same database."""
        with self.database.transaction() as conn:
            return replace(self, tenant_id=tenants.create_tenant(conn, "bob"))

    def dataset(self, conn: Connection, *, ready: bool = True) -> Dataset:
        """Two pictures with a caption each."""
        files = []
        facts = []
        for stem in ("a", "b"):
            image, text = f"{stem}.png", f"{stem}.txt"
            files += [
                NewFile(path=image, media="image", size_bytes=9, sha256=stem * 64),
                NewFile(path=text, media="caption", size_bytes=5, sha256="c" * 64),
            ]
            facts += [
                FileFacts(path=image, width_px=128, height_px=128),
                FileFacts(path=text, text=f"picture {stem}"),
            ]
        dataset = datasets.create(conn, self.tenant_id, "photos", files)
        if ready:
            datasets.complete(conn, self.tenant_id, dataset.dataset_id)
            end_verification(conn, self.tenant_id, dataset.dataset_id, facts=facts)
        return datasets.get(conn, self.tenant_id, dataset.dataset_id)

    def queued(self, **changes: Any) -> Run:
        """A run in ``queued/admission`` on a ready dataset."""
        with self.database.transaction() as conn:
            dataset = self.dataset(conn)
            facts: dict[str, Any] = {
                "request": {},
                "plan": plan(),
                "plan_digest": "d" * 64,
                "base_model": "hidream-tiny",
                "datasets": {"photos": dataset.dataset_id},
                "gpu_class": "cpu",
                "max_steps": 100,
                **changes,
            }
            return runs.create(conn, self.tenant_id, runs.NewRun(**facts))

    def caching(self, **changes: Any) -> Run:
        """A run that needs one shard: ``running/caching`` unless an earlier run had it built."""
        run = self.queued(**changes)
        with self.database.transaction() as conn:
            assert admission.admit(conn, run.run_id, INDEX, needed(0), [])
        return self.run(run.run_id)

    def build_shard(self) -> None:
        stored = stored_shard()
        with self.database.transaction() as conn:
            shards.done(conn, self.tenant_id, stored.digest, stored)

    def claimable(self, **changes: Any) -> Run:
        """A run in ``queued/capacity`` whose shard is built."""
        run = self.caching(**changes)
        if run.stage == "capacity":
            return run
        self.build_shard()
        with self.database.transaction() as conn:
            admission.end_caching(conn, run.run_id)
        return self.run(run.run_id)

    def held(self, *, lease: timedelta = LEASE, **changes: Any) -> Claim:
        """A run that a worker has just claimed."""
        run = self.claimable(**changes)
        claim = self.ledger.claim(run.run_id, worker_id=self.worker(), lease=lease)
        assert claim is not None
        return claim

    def builder(self) -> str:
        """A cache builder, without which the dispatcher rings for no cache work."""
        return self.worker(kind="cache_builder")

    def worker(
        self,
        *,
        kind: str = "trainer",
        draining: bool = False,
        gpu_class: str = "cpu",
        node: str = "",
    ) -> str:
        worker = Worker(
            worker_id=new_id("wrk"), kind=kind, gpu_class=gpu_class, version="0", node=node
        )
        self.ledger.register(worker, draining=draining, run_id=None)
        return worker.worker_id

    def run(self, run_id: str) -> Run:
        with self.database.transaction() as conn:
            return runs.get(conn, self.tenant_id, run_id)

    def documents(self, run_id: str) -> RunDocuments:
        with self.database.transaction() as conn:
            return run_documents.read(conn, self.tenant_id, run_id)

    def data_index(self, run_id: str) -> dict[str, Any]:
        """Of a run that was admitted."""
        index = self.documents(run_id).data_index
        assert index is not None
        return index

    def shards_of(self, run_id: str) -> dict[str, str]:
        """Digest and status of each shard that the run needs."""
        with self.database.transaction() as conn:
            query = """SELECT digest, status FROM run_shards
                JOIN cache_shards USING (tenant_id, digest) WHERE run_id = %s"""
            return dict(conn.execute(query, (run_id,)).fetchall())

    def events(self, run_id: str) -> list[runs.Event]:
        with self.database.transaction() as conn:
            return runs.events(conn, self.tenant_id, run_id, 0, 1000)

    def event_types(self, run_id: str) -> list[str]:
        return [event.type for event in self.events(run_id)]

    def attempts(self, run_id: str) -> list[runs.Attempt]:
        with self.database.transaction() as conn:
            return runs.attempts(conn, self.tenant_id, run_id)

    def sweep(self, *, max_attempts: int) -> DeadAttempt | None:
        """Close the attempt whose lease ran out first; None where there is none."""
        with self.database.transaction() as conn:
            for run_id in leases.dead_runs(conn, 1):
                return leases.close_dead(conn, run_id, max_attempts=max_attempts)
        return None

    def due_now(self, run_id: str) -> None:
        """Make the run due at once, after a failure's pause."""
        with self.database.transaction() as conn:
            conn.execute("UPDATE runs SET ring_after = NULL WHERE run_id = %s", (run_id,))

    def let_lease_run_out(self, run_id: str) -> None:
        with self.database.transaction() as conn:
            conn.execute(
                "UPDATE runs SET lease_until = clock_timestamp() - interval '1 second'"
                " WHERE run_id = %s",
                (run_id,),
            )


def failure(
    *, retryable: bool = True, code: str = "child_died", category: Category | None = None
) -> Failure:
    category = category or (Category.INFRA if retryable else Category.USER)
    return Failure(code=code, category=category, message=f"{code}.", retryable=retryable)


@pytest.fixture
def tenant_db(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)
