"""A shard whose encoder fails: what counts as a try, and whether the builder drains.

A short program takes the encoder's place: it answers every request with one failure.
"""

import hashlib
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from services.cache_builder.build import Builder
from services.cache_builder.indexing.deciding import needed_entries
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import admission, datasets
from services.store.database import Database
from services.store.datasets import NewFile
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from tests.support.failing_store import store_in
from tests.support.runs import INDEX, LEASE, TenantDatabase, shard_digest
from tests.unit.config_examples import TINY_CONFIG, import_small
from trainer_core.data.index import Caption, FileItem
from trainer_core.data.indexing import build_index
from trainer_core.data.shards import ShardSpec

SPEC = ShardSpec(kind="text", encoder={}, entries=(Caption(text="a wall"),))
ENCODER = textwrap.dedent(
    """
    import json, os, sys
    reply_fd, code = int(sys.argv[sys.argv.index("--reply-fd") + 1]), sys.argv[1]
    open(sys.argv[2], "w").write(str(os.getpid()))
    for line in sys.stdin:
        error = {"code": code, "category": "infra", "message": "m", "retryable": True}
        reply = {"id": json.loads(line)["id"], "ok": False, "error": error}
        os.write(reply_fd, json.dumps(reply).encode() + b"\\n")
    """
)


WRITER = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    from tests.support.shard_files import write_shard
    from trainer_core.data.shards import ShardSpec
    reply_fd = int(sys.argv[sys.argv.index("--reply-fd") + 1])
    for line in sys.stdin:
        request = json.loads(line)
        spec = ShardSpec.model_validate(request["spec"])
        names = {each.sha256 for each in spec.entries} if spec.kind == "latents" else set()
        assert request["inputs"].keys() == names
        output = write_shard(Path(request["output"]), dict.fromkeys(spec.digests(), b"numbers"))
        reply = {"id": request["id"], "ok": True, "size_bytes": output.stat().st_size}
        os.write(reply_fd, json.dumps(reply).encode() + b"\\n")
    """
)


@contextmanager
def builder(
    database: Database, folder: Path, code: str, *, program: str = ENCODER
) -> Iterator[Builder]:
    """With an encoder that answers with this code; ``WRITER`` writes shards of no meaning."""
    store = store_in(folder)
    with (
        Scratch(folder / "scratch", "wrk") as scratch,
        RequestChild(
            (sys.executable, "-c", program, code, str(folder / "encoder_pid")), env=os.environ
        ) as encoder,
        WorkerHealth(
            scratch,
            store,
            scratch_bytes=1 << 60,
            models_dir=folder,
            needs_gpu=False,
            program=(sys.executable, "-c", "import sys; sys.exit(1)"),  # no GPU computes
            on_change=lambda: None,
        ) as health,
    ):
        yield Builder(
            database=database, objects=store, encoder=encoder, scratch=scratch, health=health
        )


@pytest.mark.parametrize(
    ("code", "reason", "tries"),
    [
        ("disk_full", "worker_disk_full", 0),
        ("gpu_failed", "gpu_failed", 1),  # perhaps it is the shard's doing
        ("gpu_memory_taken", "gpu_memory_taken", 0),
        ("shard_torn", None, 1),
    ],
)
def test_a_machine_that_fails_drains(
    database: Database, tmp_path: Path, code: str, reason: str | None, tries: int
) -> None:
    ada = TenantDatabase.new(database)
    ada.caching()
    with database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET spec = %s", (Jsonb(SPEC.model_dump(mode="json")),))

    with builder(database, tmp_path, code) as it:
        it.answer_ring(ada.tenant_id, shard_digest())
        drains = it.health.drain_reason

        pid = (tmp_path / "encoder_pid").read_text()
        is_running = Path("/proc", pid).exists()

    assert (None if drains is None else drains.code) == reason
    assert is_running == (code not in ("gpu_failed", "gpu_memory_taken"))
    with database.transaction() as conn:
        row = conn.execute("SELECT status, attempts FROM cache_shards").fetchone()
    assert row == ("pending", tries)


def test_a_shard_of_another_version_is_not_built_and_fails_no_run_that_is_indexed_again(
    database: Database, tmp_path: Path
) -> None:
    ada = TenantDatabase.new(database)
    older, newer = ada.caching().run_id, ada.caching().run_id
    spec = SPEC.model_dump(mode="json") | {"version": 1}
    with database.transaction() as conn:
        conn.execute("UPDATE cache_shards SET spec = %s", (Jsonb(spec),))
        conn.execute("UPDATE run_documents SET index_version = NULL WHERE run_id = %s", (older,))

    with builder(database, tmp_path, "shard_torn") as it:
        it.answer_ring(ada.tenant_id, shard_digest())
        assert it.health.drain_reason is None
    assert not (tmp_path / "encoder_pid").exists(), "nothing was encoded"

    with database.transaction() as conn:
        row = conn.execute("SELECT status, attempts, error FROM cache_shards").fetchone()
        assert row is not None
        status, tries, error = row
        assert (status, tries, error["code"]) == ("failed", 1, "shard_of_other_version")
        assert admission.runs_cached(conn, 10) == [newer], "of its own version, it fails"
        assert admission.readmit_older(conn, 10) == 1
    assert (ada.run(older).status, ada.run(older).stage) == ("queued", "admission")


PLAN = import_small(backends=[{"id": "photos", "caption_strategy": "textfile"}]).plan


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Datasets of one picture each, and runs with some of them."""

    db: TenantDatabase
    builder: Builder

    def push(self, name: str) -> str:
        """A dataset with a picture of this name; its id."""
        body = name.encode()
        self.builder.objects.put_bytes(self.key_of(name), body)
        file = NewFile(path=f"{name}.png", media="image", size_bytes=1, sha256=sha256_of(name))
        with self.db.database.transaction() as conn:
            return datasets.create(conn, self.db.tenant_id, name, [file]).dataset_id

    def key_of(self, name: str) -> str:
        return upload_key(self.db.tenant_id, sha256_of(name))

    def admit(self, **dataset_of: str) -> str:
        """A run with the pictures of these names from these datasets; its id."""
        items = [
            FileItem(
                backend="photos",
                path=f"{name}.png",
                sha256=sha256_of(name),
                width_px=256,
                height_px=256,
                captions=("a photo",),
            )
            for name in dataset_of
        ]
        index = build_index(PLAN, items, TINY_CONFIG)
        run_id = self.db.queued(datasets=dataset_of).run_id
        with self.db.database.transaction() as conn:
            assert admission.admit(conn, run_id, INDEX, needed_entries(index), [])
        return run_id

    def build(self, run_id: str) -> dict[str, str]:
        """Build what is due; digest and status of the run's shards."""
        for digest, status in self.db.shards_of(run_id).items():
            if status == "pending":
                with self.db.database.transaction() as conn:
                    conn.execute("UPDATE cache_shards SET ring_after = NULL, lease_until = NULL")
                self.builder.answer_ring(self.db.tenant_id, digest)
        return self.db.shards_of(run_id)

    def do(self, statement: str, *facts: object) -> None:
        with self.db.database.transaction() as conn:
            conn.execute(statement.encode(), facts)

    def delete(self, name: str, dataset_id: str) -> None:
        """As the deletion of a dataset does, whose runs are over."""
        self.builder.objects.delete(self.key_of(name))
        self.do("DELETE FROM dataset_files WHERE dataset_id = %s", dataset_id)
        self.do("DELETE FROM datasets WHERE dataset_id = %s", dataset_id)

    def lose_shards(self) -> None:
        """As if all stored shards were found damaged."""
        for key in list(self.builder.objects.list_keys(f"tenants/{self.db.tenant_id}/cache/")):
            self.builder.objects.delete(key)
        self.do("UPDATE cache_shards SET status = 'pending', attempts = 0")

    def entries(self, kind: str) -> int:
        with self.db.database.transaction() as conn:
            query = """SELECT count(*) FROM cache_entries JOIN cache_shards
                ON cache_shards.digest = shard WHERE kind = %s AND cache_entries.size_bytes = 7"""
            row = conn.execute(query, (kind,)).fetchone()
        assert row is not None
        return int(row[0])


def sha256_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def test_a_shard_is_built_again_without_pictures_of_a_deleted_dataset(
    database: Database, tmp_path: Path
) -> None:
    ada = TenantDatabase.new(database)
    with builder(database, tmp_path, "", program=WRITER) as it:
        photos = Photos(db=ada, builder=it)
        one, two = photos.push("one"), photos.push("two")
        first = photos.admit(one=one, two=two)
        assert set(photos.build(first).values()) == {"done"}
        assert photos.entries("latents") == 2
        photos.do("UPDATE runs SET status = 'succeeded', stage = NULL")
        second = photos.admit(two=two)
        assert set(photos.build(second).values()) == {"done"}
        photos.delete("one", one)
        photos.lose_shards()

        assert set(photos.build(second).values()) == {"done"}
        assert photos.entries("latents") == 1

        third = photos.admit(one=photos.push("one"), two=two)
        assert set(photos.build(third).values()) == {"done"}
        assert photos.entries("latents") == 2
        with database.transaction() as conn:
            admission.end_caching(conn, third)
        claim = ada.ledger.claim(third, worker_id=ada.worker(), lease=LEASE)
        assert claim is not None
        latents = [each for each in claim.shards if each.kind == "latents"]
        assert [len(each.entries) for each in latents] == [1, 1]


def test_a_picture_that_an_open_run_needs_is_never_left_out(
    database: Database, tmp_path: Path
) -> None:
    ada = TenantDatabase.new(database)
    with builder(database, tmp_path, "", program=WRITER) as it:
        photos = Photos(db=ada, builder=it)
        one, two = photos.push("one"), photos.push("two")
        run_id = photos.admit(one=one, two=two)
        it.objects.delete(photos.key_of("one"))

        statuses = photos.build(run_id)

        assert sorted(statuses.values()) == ["done", "done", "pending"]
        with database.transaction() as conn:
            (row,) = conn.execute(
                "SELECT error->>'code', error->>'message', jsonb_array_length(spec->'entries')"
                " FROM cache_shards WHERE status = 'pending'"
            ).fetchall()
        assert row[0] == "input_missing"
        assert row[1].startswith("one.png is no longer in the object store: ")
        assert row[2] == 2
        it.objects.put_bytes(photos.key_of("one"), b"one")
        assert set(photos.build(run_id).values()) == {"done"}
