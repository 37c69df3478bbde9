"""Publishing over a real database, a real object store and a real process."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.domain.errors import LeaseLostError
from services.domain.ids import new_id
from services.domain.ledger import ChildEvent, StoredFiles
from services.objects.folder_store import FolderStore
from services.objects.folders import put_folder
from services.objects.keys import result_prefix, sample_key
from services.objects.signing import UrlSigner
from services.queue.rings import Rings
from services.results.publish import MAX_ATTEMPTS, Publisher, retry_after
from services.results.targets.folder import FolderTarget
from services.results.targets.hub import HubAccess, HubTarget
from services.store import publications, run_samples
from services.store.database import Database
from services.store.publications import Publication
from services.store.run_rows import Run
from services.workers.scratch import Scratch
from tests.support.finished_runs import write_result
from tests.support.hub import HubServer
from tests.support.pictures import png_text
from tests.support.redis import RedisServer
from tests.support.run_samples import png, sample_event
from tests.support.runs import TenantDatabase, plan

_HUB = {"kind": "hub", "repo_id": "tester/moon", "private": True}
_PUBLISHED = {
    "README.md",
    "lycoris_config.json",
    "pytorch_lora_weights.safetensors",
    "samples/0.png",
}


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """A run that succeeded, and a publisher."""

    tenant_db: TenantDatabase
    objects: FolderStore
    run_id: str
    stored: StoredFiles
    result: Path
    publications_dir: Path
    scratch_dir: Path
    publisher: Publisher

    def asked(self, target: dict[str, Any]) -> str:
        with self.tenant_db.database.transaction() as conn:
            return publications.create(
                conn, self.tenant_db.tenant_id, self.run_id, target
            ).publication_id

    def first(self) -> str:
        """The publication that was created with the result."""
        return self.all()[0].publication_id

    def all(self) -> list[Publication]:
        with self.tenant_db.database.transaction() as conn:
            return publications.list_page(conn, self.tenant_db.tenant_id, 10, None)

    def row(self, publication_id: str) -> Publication:
        with self.tenant_db.database.transaction() as conn:
            return publications.get(conn, self.tenant_db.tenant_id, publication_id)

    def ring(self, publication_id: str) -> Publication:
        self.publisher.answer_ring(self.tenant_db.tenant_id, publication_id)
        return self.row(publication_id)


@pytest.fixture
def publishing(database: Database, tmp_path: Path, hub_server: HubServer) -> Iterator[Publishing]:
    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    objects = FolderStore(tmp_path / "objects", signer)
    tenant_db = TenantDatabase.new(database)
    claim = tenant_db.held(plan=plan())
    result = tmp_path / "result"
    write_result(result)
    stored = put_folder(objects, result_prefix(claim.tenant_id, claim.run_id, claim.fence), result)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, stored, step=10)
    with Scratch(tmp_path / "scratch", new_id("wrk")) as scratch:
        publisher = Publisher(
            database=database,
            objects=objects,
            targets={
                "folder": FolderTarget(tmp_path / "publications"),
                "hub": HubTarget(HubAccess(token=hub_server.token, endpoint=hub_server.url)),
            },
            scratch=scratch,
            lease=timedelta(seconds=60),
        )
        yield Publishing(
            tenant_db=tenant_db,
            objects=objects,
            run_id=claim.run_id,
            stored=stored,
            result=result,
            publications_dir=tmp_path / "publications",
            scratch_dir=scratch.folder,
            publisher=publisher,
        )


def _read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _assert_is_the_result(files: dict[str, bytes], publishing: Publishing) -> None:
    assert set(files) == _PUBLISHED
    for name in _PUBLISHED - {"README.md"}:
        assert files[name] == (publishing.result / name).read_bytes()
    assert b"LoKr adapter of" in files["README.md"]


def test_pictures_of_the_training_go_with_a_result(publishing: Publishing) -> None:
    """A missing one is left out, and the picture of a later step than the result's is not known."""
    db, run_id = publishing.tenant_db, publishing.run_id
    run = db.run(run_id)
    made = [
        sample_event(0, png((0, 0, 0)), weights="base"),
        *(sample_event(step, png((step, 0, 0))) for step in (5, 10, 11)),
        sample_event(10, png((9, 9, 9)), "dog"),
        sample_event(10, b"gone", "bird", size_bytes=4),
    ]
    with db.database.transaction() as conn:
        run_samples.record(conn, run, made)
    colours = (0, 0, 0), (5, 0, 0), (10, 0, 0), (11, 0, 0), (9, 9, 9)
    for event, colour in zip(made, colours, strict=False):  # the last one's file is gone
        _store_picture(publishing, run, event, png(colour))

    row = publishing.ring(publishing.first())

    assert (row.status, row.error) == ("succeeded", None)
    files = _read(Path(str(row.location)))
    newest = {f"samples/step-000010/{name}-64x48-42.png" for name in ("cat", "dog")}
    assert set(files) == {*_PUBLISHED, "samples/contact-sheet.png", *newest}
    assert files["samples/step-000010/dog-64x48-42.png"] == png((9, 9, 9))
    with Image.open(io.BytesIO(files["samples/contact-sheet.png"])) as sheet:
        contents = json.loads(png_text(sheet)["Description"])
    assert contents["rows"] == ["base", "step 5", "step 10"]
    assert contents["columns"] == ["cat", "dog"]
    assert b"| `dog` | `a dog` |" in files["README.md"]
    assert b"bird" not in files["README.md"]


def _store_picture(publishing: Publishing, run: Run, event: ChildEvent, body: bytes) -> None:
    sha256 = hashlib.sha256(body).hexdigest()
    assert sha256 == event.data["sha256"]
    key = sample_key(run.tenant_id, run.run_id, run.fence, sha256)
    publishing.objects.put_bytes(key, body)


def test_a_result_goes_to_its_folder(publishing: Publishing) -> None:
    row = publishing.ring(publishing.first())

    assert (row.status, row.attempts, row.error) == ("succeeded", 1, None)
    place = publishing.publications_dir / publishing.tenant_db.tenant_id / publishing.run_id
    assert row.location == str(place)
    assert row.revision
    _assert_is_the_result(_read(place), publishing)
    assert [path.name for path in publishing.scratch_dir.iterdir()] == ["lock"]


def test_a_result_goes_to_the_hub(publishing: Publishing, hub_server: HubServer) -> None:
    row = publishing.ring(publishing.asked(_HUB))

    repo = hub_server.repos["tester/moon"]
    assert (row.status, row.location) == ("succeeded", f"{hub_server.url}/tester/moon")
    assert row.revision == repo.revision
    _assert_is_the_result(repo.files, publishing)


def test_a_repeated_ring_changes_nothing(publishing: Publishing, hub_server: HubServer) -> None:
    publication_id = publishing.asked(_HUB)
    first = publishing.ring(publication_id)

    assert publishing.ring(publication_id) == first
    assert len(hub_server.repos["tester/moon"].commits) == 1
    publishing.publisher.answer_ring(publishing.tenant_db.tenant_id, new_id("pub"))


def test_a_ring_for_another_tenant_does_nothing(publishing: Publishing) -> None:
    publishing.publisher.answer_ring(new_id("ten"), publishing.first())

    assert publishing.row(publishing.first()).status == "pending"


def test_publishing_is_retried_while_the_hub_is_down(
    publishing: Publishing, hub_server: HubServer
) -> None:
    publication_id = publishing.asked(_HUB)
    hub_server.failing_with = 503
    row = publishing.ring(publication_id)
    assert (row.status, row.attempts) == ("pending", 1)
    assert row.error is not None
    assert row.error["code"] == "hub_down"

    hub_server.failing_with = None
    row = publishing.ring(publication_id)

    assert (row.status, row.attempts, row.error) == ("succeeded", 2, None)
    assert publishing.tenant_db.run(publishing.run_id).status == "succeeded"


def test_a_refusal_is_final_and_the_run_stays_succeeded(
    publishing: Publishing, hub_server: HubServer
) -> None:
    hub_server.token = "hf_another"  # ours was revoked
    row = publishing.ring(publishing.asked(_HUB))

    assert row.status == "failed"
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == ("hub_token_refused", False)
    assert publishing.tenant_db.run(publishing.run_id).status == "succeeded"


def test_an_unknown_kind_of_target_is_not_retried(publishing: Publishing) -> None:
    row = publishing.ring(publishing.asked({"kind": "floppy"}))

    assert row.status == "failed"
    assert row.error is not None
    assert row.error["code"] == "unknown_target"


def test_a_damaged_result_is_never_published(publishing: Publishing) -> None:
    publishing.objects.put_bytes(publishing.stored.key_prefix + "lycoris_config.json", b"[]")
    row = publishing.ring(publishing.first())

    assert row.status == "failed"
    assert row.error is not None
    assert row.error["code"] == "result_unavailable"
    assert not publishing.publications_dir.exists()


def test_a_publisher_with_an_expired_lease_writes_nothing(publishing: Publishing) -> None:
    """A slow publisher returns after its lease expired and another one has published."""
    publication_id = publishing.first()
    with publishing.tenant_db.database.transaction() as conn:
        slow = publications.claim(conn, publication_id, timedelta(seconds=-1))
    assert slow is not None
    row = publishing.ring(publication_id)
    assert row.status == "succeeded"

    with pytest.raises(LeaseLostError), publishing.tenant_db.database.transaction() as conn:
        publications.succeed(conn, publication_id, slow.fence, "elsewhere", "0")
    assert publishing.row(publication_id) == row


def test_an_unexpected_error_counts_as_a_try(publishing: Publishing) -> None:
    shutil.rmtree(publishing.scratch_dir)
    row = publishing.ring(publishing.first())

    assert (row.status, row.attempts) == ("pending", 1)
    assert row.error is not None
    assert (row.error["code"], row.error["retryable"]) == ("publishing_failed", True)


def test_a_publication_with_which_processes_die_ends(publishing: Publishing) -> None:
    publication_id = publishing.first()
    for _ in range(MAX_ATTEMPTS):
        with publishing.tenant_db.database.transaction() as conn:
            assert publications.claim(conn, publication_id, timedelta(seconds=-1)) is not None
    row = publishing.ring(publication_id)

    assert row.status == "failed"
    assert row.error is not None
    assert row.error["code"] == "publishing_failed"
    assert not publishing.publications_dir.exists()


def test_the_pause_between_tries_grows_and_tries_are_limited() -> None:
    waits = [retry_after(attempts) for attempts in range(1, MAX_ATTEMPTS + 1)]

    assert waits[-1] is None
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert len(seconds) == MAX_ATTEMPTS - 1
    assert 2.5 <= seconds[0] <= 5
    assert max(seconds) <= 3600
    assert sum(seconds) > 6 * 3600


# --- the process


@pytest.fixture
def start_process(
    publishing: Publishing,
    database_url: str,
    redis_server: RedisServer,
    tmp_path: Path,
    hub_server: HubServer,
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "REVERIE_DATABASE_URL": database_url,
            "REVERIE_BROKER_URL": redis_server.url,
            "REVERIE_OBJECTS_URL": f"file://{tmp_path}/objects",
            "REVERIE_PUBLICATIONS_DIR": str(publishing.publications_dir),
            "REVERIE_SCRATCH_DIR": str(tmp_path / "scratch-of-process"),
            "REVERIE_SIGNING_KEY": "5f" * 32,
            "REVERIE_LOG_FORMAT": "json",
            "HF_TOKEN": hub_server.token,
            "HF_ENDPOINT": hub_server.url,
        }
        with (tmp_path / "results.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.results"], env=env, stdout=log, stderr=log
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _wait_for(publishing: Publishing, publication_id: str, status: str, log: Path) -> Publication:
    deadline = time.monotonic() + 60
    while (row := publishing.row(publication_id)).status != status:
        assert time.monotonic() < deadline, f"{row}\n{log.read_text()}"
        time.sleep(0.05)
    return row


def test_the_process_publishes_on_a_ring_and_ends_cleanly(
    publishing: Publishing,
    start_process: Callable[[], subprocess.Popen[bytes]],
    redis_server: RedisServer,
    hub_server: HubServer,
    tmp_path: Path,
) -> None:
    process, log = start_process(), tmp_path / "results.log"
    to_folder, to_hub = publishing.first(), publishing.asked(_HUB)
    with Rings(redis_server.url) as rings:
        for publication_id in (to_folder, to_hub):
            rings.publication(publishing.tenant_db.tenant_id, publication_id)
    folder_row = _wait_for(publishing, to_folder, "succeeded", log)
    _wait_for(publishing, to_hub, "succeeded", log)

    assert folder_row.location is not None
    _assert_is_the_result(_read(Path(folder_row.location)), publishing)
    _assert_is_the_result(hub_server.repos["tester/moon"].files, publishing)

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0, log.read_text()
    assert list((tmp_path / "scratch-of-process").glob("wrk_*")) == []
    assert hub_server.token not in log.read_text()
    assert "publication_succeeded" in log.read_text()


def test_a_publication_of_a_killed_process_is_taken_over_after_its_lease(
    publishing: Publishing, hub_server: HubServer
) -> None:
    """When the lease of a killed process has expired, the next ring claims its publication."""
    publication_id = publishing.asked(_HUB)
    with publishing.tenant_db.database.transaction() as conn:
        dead = publications.claim(conn, publication_id, timedelta(seconds=0.2))
    assert dead is not None
    assert publishing.ring(publication_id).status == "running"

    deadline = time.monotonic() + 10
    while (row := publishing.ring(publication_id)).status == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (row.status, row.attempts) == ("succeeded", 2)
