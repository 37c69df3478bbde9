"""A shard whose encoder fails: what counts as a try, and whether the builder drains.

A short program takes the encoder's place: it answers every request with one failure.
"""

import hashlib
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from services.cache_builder.build import Builder
from services.cache_builder.indexing.deciding import needed_entries
from services.objects.keys import upload_key
from services.processes.request_child import RequestChild
from services.store import admission, datasets, unusable_entries
from services.store.database import Database
from services.store.datasets import NewFile
from services.workers.health import WorkerHealth
from services.workers.scratch import Scratch
from tests.support.failing_store import store_in
from tests.support.runs import LEASE, TenantDatabase, shard_digest
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
        is_text = spec.kind == "text"
        names = set() if is_text else {each.sha256 for each in spec.entries}
        assert request["inputs"].keys() == names
        named = dict(zip(spec.digests(), spec.entries))
        bad = {n for n, each in named.items() if not is_text and each.path.startswith("bad")}
        good, size = dict.fromkeys(named.keys() - bad, b"numbers"), 0
        if good:
            size = write_shard(Path(request["output"]), good).stat().st_size
        unusable = dict.fromkeys(bad, "the picture is damaged")
        reply = {"id": request["id"], "ok": True, "size_bytes": size, "unusable": unusable}
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

    def admit(
        self, run_id: str | None = None, *, unusable: Mapping[str, str] = {}, **dataset_of: str
    ) -> str:
        """A run with the pictures of these names from these datasets; its id."""
        items = [picture_of(name) for name in dataset_of]
        index = build_index(PLAN, items, TINY_CONFIG, unusable=unusable)
        run_id = run_id or self.db.queued(datasets=dataset_of).run_id
        with self.db.database.transaction() as conn:
            stored = index.model_dump_json()
            assert admission.admit(conn, run_id, stored, needed_entries(index), [])
        return run_id

    def places(self, *run_ids: str) -> list[tuple[str, str | None]]:
        """Status and stage of each run, after the dispatcher's round."""
        with self.db.database.transaction() as conn:
            for run_id in admission.runs_cached(conn, 10):
                admission.end_caching(conn, run_id)
        runs = map(self.db.run, run_ids)
        return [(each.status, each.stage) for each in runs]

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


@pytest.fixture
def photos(tenant_db: TenantDatabase, tmp_path: Path) -> Iterator[Photos]:
    """With a builder whose encoder writes shards of no meaning."""
    with builder(tenant_db.database, tmp_path, "", program=WRITER) as it:
        yield Photos(db=tenant_db, builder=it)


def sha256_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def test_a_shard_is_built_again_without_pictures_of_a_deleted_dataset(photos: Photos) -> None:
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
    with photos.db.database.transaction() as conn:
        admission.end_caching(conn, third)
    claim = photos.db.ledger.claim(third, worker_id=photos.db.worker(), lease=LEASE)
    assert claim is not None
    latents = [each for each in claim.shards if each.kind == "latents"]
    assert [len(each.entries) for each in latents] == [1, 1]


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_lost_picture_fails_only_the_runs_that_need_it_and_at_once(
    photos: Photos, *, is_changed: bool
) -> None:
    one, two = photos.push("one"), photos.push("two")
    first = photos.admit(one=one, two=two)
    second = photos.admit(two=two)  # linked to the shard that the first one made
    photos.builder.objects.delete(photos.key_of("one"))
    if is_changed:
        photos.builder.objects.put_bytes(photos.key_of("one"), b"eno")

    assert set(photos.build(first).values()) == {"done"}

    assert photos.places(first, second) == [("failed", None), ("queued", "capacity")]
    reason = photos.db.run(first).status_reason
    assert reason is not None
    assert reason["code"] == ("input_corrupt" if is_changed else "input_missing")
    assert reason["message"].startswith("one.png is no")
    assert reason["message"].endswith("create the dataset again and upload its files.")
    assert photos.entries("latents") == 1
    # Once it is uploaded again, it is encoded for the next run.
    photos.builder.objects.put_bytes(photos.key_of("one"), b"one")
    third = photos.admit(one=one, two=two)
    assert set(photos.build(third).values()) == {"done"}
    assert photos.places(third) == [("queued", "capacity")]
    assert photos.entries("latents") == 2


def test_an_image_that_cannot_be_encoded_is_left_out_by_the_runs_that_need_it(
    photos: Photos,
) -> None:
    bad, two = photos.push("bad"), photos.push("two")
    first = photos.admit(bad=bad, two=two)
    second = photos.admit(two=two)

    assert set(photos.build(first).values()) == {"done"}

    with photos.db.database.transaction() as conn:
        tries = conn.execute("SELECT max(attempts) FROM cache_shards").fetchone()
    assert tries == (1,)
    assert photos.places(first, second) == [("queued", "admission"), ("queued", "capacity")]
    index = build_index(PLAN, [picture_of("bad"), picture_of("two")], TINY_CONFIG)
    with photos.db.database.transaction() as conn:
        known = unusable_entries.reasons(conn, photos.db.tenant_id, index.picture_digests())
    assert set(known.values()) == {"the picture is damaged"}
    assert len(known) == 1
    again = photos.admit(first, unusable=known, bad=bad, two=two)
    assert again == first
    assert photos.places(first) == [("queued", "capacity")]


def test_a_builder_that_was_too_slow_leaves_no_object_behind(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = photos.admit(one=photos.push("one"))
    taken = []

    def delete_all(name: str) -> None:  # where a test may also end the process
        if name == "shard.uploaded" and not taken:
            taken.append(name)
            photos.do("DELETE FROM run_shards")
            photos.do("DELETE FROM cache_shards")

    monkeypatch.setattr("services.cache_builder.build.fault_point", delete_all)
    assert photos.build(run_id) == {}

    assert list(photos.builder.objects.list_keys(f"tenants/{photos.db.tenant_id}/cache/")) == []


def test_a_shard_of_which_no_image_can_be_used_is_tried_once(photos: Photos) -> None:
    run_id = photos.admit(bad=photos.push("bad"))

    assert sorted(photos.build(run_id).values()) == ["done", "done", "failed"]

    assert photos.places(run_id) == [("queued", "admission")]
    photos.do("UPDATE cache_shards SET status = 'pending' WHERE status = 'failed'")
    assert sorted(photos.build(run_id).values()) == ["done", "done", "failed"], (
        "the builder had died"
    )


def picture_of(name: str) -> FileItem:
    return FileItem(
        backend="photos",
        path=f"{name}.png",
        sha256=sha256_of(name),
        width_px=256,
        height_px=256,
        captions=("a photo",),
    )
