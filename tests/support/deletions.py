"""A tenant with everything that a deletion has to find, and the process that deletes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from services.domain.audit import Author
from services.domain.ledger import Claim
from services.objects.folder_store import FolderStore
from services.objects.keys import (
    checkpoint_prefix,
    result_prefix,
    shard_prefix,
    tenant_prefix,
    upload_key,
)
from services.objects.port import ObjectStore
from services.objects.signing import UrlSigner
from services.results.deletion.deleter import Deleter
from services.results.targets.folder import FolderTarget
from services.store import admission, audit, deletions, publications, runs, shards
from services.store.database import Database
from services.store.deletions import Deletion
from services.store.shard_removal import Shard
from tests.support.runs import (
    INDEX,
    TenantDatabase,
    checkpoint_at,
    plan,
    result_of,
    shard_digest,
    stored_shard,
)
from tests.support.runs import needed as entries_of

LEASE = timedelta(seconds=60)
KEY = Author(kind="key", id="key_1")


@dataclass(frozen=True, kw_only=True)
class Deleting:
    """One tenant, its objects, and what deletes them."""

    db: TenantDatabase
    objects: ObjectStore
    folder: Path

    @classmethod
    def new(cls, database: Database, folder: Path) -> "Deleting":
        signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
        objects = FolderStore(folder / "objects", signer)
        return cls(db=TenantDatabase.new(database), objects=objects, folder=folder)

    @property
    def deleter(self) -> Deleter:
        published = FolderTarget(self.folder / "publications")
        return Deleter(self.db.database, self.objects, published, lease=LEASE)

    def ask(self, query: str, *facts: object) -> list[tuple[Any, ...]]:
        with self.db.database.transaction() as conn:
            return conn.execute(query.encode(), facts).fetchall()

    def do(self, statement: str, *facts: object) -> int:
        with self.db.database.transaction() as conn:
            return conn.execute(statement.encode(), facts).rowcount

    def finished_run(self, *needed: int, dataset_id: str | None = None) -> str:
        """A run that succeeded, with objects of each kind, over shards of these numbers."""
        changes = {} if dataset_id is None else {"datasets": {"photos": dataset_id}}
        claim = self._held(needed or (0,), **changes)
        for step in (10, 20):
            self._put(checkpoint_prefix(claim.tenant_id, claim.run_id, claim.fence, step))
            self.db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
        self._put(result_prefix(claim.tenant_id, claim.run_id, claim.fence))
        self.db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=20)
        published = self.folder / "publications" / claim.tenant_id / claim.run_id
        for name in (claim.run_id, f"{claim.run_id}-step-00000010", f".{claim.run_id}.ab12.new"):
            (published.parent / name).mkdir(parents=True)
            (published.parent / name / "adapter.safetensors").write_bytes(b"12345")
        return claim.run_id

    def open_run(self, *needed: int) -> str:
        """A run that waits for a worker."""
        return self._admitted(needed)

    def _held(self, needed: Sequence[int], **changes: Any) -> Claim:
        run_id = self._admitted(needed, **changes)
        claim = self.db.ledger.claim(run_id, worker_id=self.db.worker(), lease=LEASE)
        assert claim is not None
        return claim

    def _admitted(self, needed: Sequence[int], **changes: Any) -> str:
        run = self.db.queued(plan=plan(), **changes)
        with self.db.database.transaction() as conn:
            files = conn.execute(
                "SELECT DISTINCT sha256 FROM dataset_files WHERE tenant_id = %s",
                (self.db.tenant_id,),
            ).fetchall()
        for (sha256,) in files:
            self.objects.put_bytes(upload_key(self.db.tenant_id, sha256), b"123456789")
        self.admit(run.run_id, *needed)
        for number in needed:
            self.build(number)
        with self.db.database.transaction() as conn:
            if runs.get(conn, self.db.tenant_id, run.run_id).stage == "caching":
                admission.end_caching(conn, run.run_id)
        return run.run_id

    def admit(self, run_id: str, *needed: int) -> None:
        """The run starts to need these shards."""
        with self.db.database.transaction() as conn:
            assert admission.admit(conn, run_id, INDEX, entries_of(*needed), [])

    def build(self, number: int) -> None:
        """Store a shard and its row, as a builder does."""
        stored = stored_shard(number)
        self._put(shard_prefix(self.db.tenant_id, stored.digest))
        with self.db.database.transaction() as conn:
            shards.done(conn, self.db.tenant_id, stored.digest, stored)

    def shard(self, number: int) -> Shard:
        return Shard(tenant_id=self.db.tenant_id, digest=shard_digest(number))

    def publish_to_hub(self, run_id: str) -> str:
        """A publication that succeeded on the Hub; its id."""
        target = {"kind": "hub", "repo_id": "ada/photos"}
        with self.db.database.transaction() as conn:
            publication = publications.insert(conn, self.db.tenant_id, run_id, target)
            work = publications.claim(conn, publication.publication_id, LEASE)
            assert work is not None
            publications.succeed(
                conn, work.publication_id, work.fence, "https://huggingface.co/ada/photos", "1"
            )
        return publication.publication_id

    def _put(self, prefix: str) -> None:
        self.objects.put_bytes(f"{prefix}state.safetensors", b"numbers")
        self.objects.put_bytes(f"{prefix}manifest.json", b"{}")

    def delete_run(self, run_id: str) -> Deletion:
        with self.db.database.transaction() as conn:
            deletion, _ = deletions.delete_run(conn, self.db.tenant_id, run_id)
            audit.record(conn, self.db.tenant_id, KEY, "run.deletion_requested", run_id)
        return deletion

    def delete_dataset(self, dataset_id: str) -> Deletion:
        with self.db.database.transaction() as conn:
            return deletions.delete_dataset(conn, self.db.tenant_id, dataset_id)[0]

    def delete_tenant(self, name: str = "ada") -> Deletion:
        with self.db.database.transaction() as conn:
            return deletions.delete_tenant(conn, self.db.tenant_id, name=name)[0]

    def nobody_writes_any_more(self) -> None:
        """As if the time had passed in which workers and addresses may still write."""
        self.do("UPDATE runs SET sweep_after = clock_timestamp() WHERE sweep_after IS NOT NULL")
        self.do("UPDATE datasets SET updated_at = updated_at - interval '3 hours'")

    def due_now(self) -> None:
        """As if the pauses and leases of all deletions were over."""
        self.do(
            "UPDATE deletions SET ring_after = clock_timestamp(), lease_until = clock_timestamp()"
            " WHERE status <> 'succeeded'"
        )
        self.do("UPDATE cache_shards SET lease_until = NULL, ring_after = clock_timestamp()")

    def now(self, deletion: Deletion) -> Deletion:
        with self.db.database.transaction() as conn:
            return deletions.get(conn, deletion.deletion_id, tenant_id=None)

    def work(self, deletion: Deletion) -> Deletion:
        """Let one process do what it can now."""
        self.due_now()
        self.deleter.work()
        return self.now(deletion)

    def stored(self, folder: str = "") -> set[str]:
        """The tenant's objects, below this folder."""
        return set(self.objects.list_keys(f"{tenant_prefix(self.db.tenant_id)}{folder}"))

    def tombstone(self, deletion: Deletion) -> dict[str, Any]:
        """The report in the object store."""
        (key,) = [
            key
            for key in self.objects.list_keys("services/")
            if key.endswith(f"/deletions/{deletion.deletion_id}")
        ]
        body: dict[str, Any] = json.loads(self.objects.get_bytes(key, limit_bytes=1 << 20))
        return body

    def tables_with_rows(self) -> dict[str, int]:
        """Rows of the tenant in every table that has a ``tenant_id``, without empty ones."""
        tables = self.ask(
            "SELECT table_name FROM information_schema.columns"
            " WHERE column_name = 'tenant_id' AND table_schema = current_schema()"
        )
        found = {}
        for (table,) in tables:
            ((count,),) = self.ask(
                f"SELECT count(*) FROM {table} WHERE tenant_id = %s", self.db.tenant_id
            )
            if count:
                found[table] = count
        return found
