"""A cache builder as a process, and what it is asked for."""

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image
from psycopg.types.json import Jsonb

from services.domain.ledger import CachedShard
from services.objects.keys import upload_key
from services.objects.port import ObjectStore
from services.objects.shards import get_contents, get_entry
from services.queue.rings import Rings
from services.store import datasets
from services.store.database import Database
from services.store.datasets import NewFile
from services.store.ledger import PostgresLedger
from tests.support.forked_builder import OWN_DISK
from tests.support.forked_trainer import SOCKET
from tests.support.forking import SERVICES, TRAINING, Process, server_of, start_module
from tests.support.runs import TenantDatabase
from tests.support.waiting import wait_until
from trainer_core.data.entry_files import damage_of, entry_name
from trainer_core.data.index import DataIndex
from trainer_core.data.shards import shards_of

DEADLINE_S = 60.0


def picture(width_px: int, height_px: int) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (200, 90, 40)).save(body, "JPEG")
    return body.getvalue()


@dataclass
class Service:
    database: Database
    store: ObjectStore
    rings: Rings
    tenant_id: str
    process: Process
    log: Path
    env: dict[str, str]

    def restart(self) -> None:
        """Start another builder after the first one has died; its leases count as run out."""
        with self.database.transaction() as conn:
            conn.execute("UPDATE datasets SET lease_until = clock_timestamp()")
            conn.execute("UPDATE cache_shards SET lease_until = clock_timestamp()")
        with self.log.open("ab") as output:
            self.process = start_builder(self.env, output)

    def upload(self, body: bytes) -> str:
        sha256 = hashlib.sha256(body).hexdigest()
        self.store.put_bytes(upload_key(self.tenant_id, sha256), body)
        return sha256

    def dataset_of(self, files: dict[str, NewFile]) -> str:
        """Declare, complete and ring; returns the id."""
        with self.database.transaction() as conn:
            dataset = datasets.create(conn, self.tenant_id, "photos", list(files.values()))
            datasets.complete(conn, self.tenant_id, dataset.dataset_id)
        self.rings.dataset(self.tenant_id, dataset.dataset_id)
        return dataset.dataset_id

    def dataset(self, dataset_id: str) -> datasets.Dataset:
        with self.database.transaction() as conn:
            return datasets.get(conn, self.tenant_id, dataset_id)

    def wait_decided(self, dataset_id: str) -> datasets.Dataset:
        wait_until(lambda: self.dataset(dataset_id).status != "verifying", what=self.log.read_text)
        return self.dataset(dataset_id)

    def shard(self, digest: str) -> dict[str, Any]:
        columns = "status, attempts, error, kind, manifest_sha256, size_bytes"
        with self.database.transaction() as conn:
            query = f"SELECT {columns} FROM cache_shards WHERE tenant_id = %s AND digest = %s"
            row = conn.execute(query, (self.tenant_id, digest)).fetchone()
        assert row is not None
        return dict(zip(columns.split(", "), row, strict=True))

    def want(self, index: DataIndex) -> list[str]:
        """Have all entries of the index encoded, one a shard; returns the shards' digests."""
        digests = []
        ledger = PostgresLedger(self.database)
        tenant = TenantDatabase(database=self.database, tenant_id=self.tenant_id, ledger=ledger)
        run_id = tenant.queued().run_id
        with self.database.transaction() as conn:
            for entry in index.entries:
                (shard,) = shards_of(index, {entry.digest})
                spec = Jsonb(shard.model_dump(mode="json"))
                conn.execute(
                    """INSERT INTO cache_shards (tenant_id, digest, kind, spec, base_model)
                       VALUES (%s, %s, %s, %s, 'hidream-tiny')""",
                    (self.tenant_id, shard.digest(), shard.kind, spec),
                )
                conn.execute(
                    "INSERT INTO cache_entries (tenant_id, digest, shard) VALUES (%s, %s, %s)",
                    (self.tenant_id, entry.digest, shard.digest()),
                )
                conn.execute(
                    "INSERT INTO run_shards (run_id, tenant_id, digest) VALUES (%s, %s, %s)",
                    (run_id, self.tenant_id, shard.digest()),
                )
                digests.append(shard.digest())
        for digest in digests:
            self.rings.shard(self.tenant_id, digest)
        return digests

    def stored(self, digest: str) -> CachedShard:
        """A shard that is built, with the sizes of its entries."""
        row = self.shard(digest)
        with self.database.transaction() as conn:
            entries = conn.execute(
                "SELECT digest, size_bytes FROM cache_entries WHERE tenant_id = %s AND shard = %s",
                (self.tenant_id, digest),
            ).fetchall()
        return CachedShard(
            digest=digest,
            kind=row["kind"],
            manifest_sha256=row["manifest_sha256"],
            size_bytes=row["size_bytes"],
            entries=dict(entries),
        )

    def check_entries(self, digest: str, folder: Path) -> None:
        """Read all entries of a built shard, as a trainer does."""
        shard = self.stored(digest)
        contents = get_contents(self.store, self.tenant_id, shard)
        assert {d: place.size_bytes for d, place in contents.places.items()} == shard.entries
        folder.mkdir(exist_ok=True)
        for entry in shard.entries:
            get_entry(self.store, contents, entry, folder)
            assert damage_of(folder / entry_name(entry)) is None


def start_builder(env: dict[str, str], output: IO[bytes], launcher: Sequence[str] = ()) -> Process:
    """A builder as a fork, or started by ``launcher``; the processes that it starts are forks."""
    module = "tests.support.forked_builder"
    own = {**os.environ, **env, SOCKET: str(server_of(TRAINING).address)}
    if not launcher:
        return start_module(module, env=own, output=output, kind=SERVICES)
    own[OWN_DISK] = "1"
    return subprocess.Popen(
        [*launcher, sys.executable, "-m", module], env=own, stdout=output, stderr=output
    )


def image_of(path: str, body: bytes) -> NewFile:
    sha256 = hashlib.sha256(body).hexdigest()
    return NewFile(path=path, media="image", size_bytes=len(body), sha256=sha256)
