"""A dataset of 100,000 files grows by ten: in seconds, and only the ten are verified."""

import time
from pathlib import Path

import pytest

from services.cache_builder.verify import RULES
from services.processes.request_child import RequestChild
from services.store import dataset_versions, datasets
from services.store.datasets import NewFile
from tests.support.failing_store import store_in
from tests.support.runs import TenantDatabase
from tests.support.verifying import open_verifier

pytestmark = pytest.mark.deep

FILES = 100_000
LIMIT_S = 30.0
"""For each step, on a machine that has other work; a statement of the API has ten seconds."""


def file(number: int) -> NewFile:
    path = f"folder-{number % 100:02d}/picture-{number:06d}.jpg"
    return NewFile(path=path, media="image", size_bytes=1, sha256=f"{number:064x}")


def test_a_large_dataset_grows_in_seconds(
    ada: TenantDatabase, inspector: RequestChild, tmp_path: Path
) -> None:
    took_s: dict[str, float] = {}
    began_s = time.monotonic()

    def note(step: str) -> None:
        nonlocal began_s
        now_s = time.monotonic()
        took_s[step], began_s = now_s - began_s, now_s

    with ada.database.transaction() as conn:
        base = datasets.create(conn, ada.tenant_id, "base", map(file, range(FILES))).dataset_id
        note("create")
        datasets.complete(conn, ada.tenant_id, base)
        note("complete")
        conn.execute(
            "UPDATE dataset_files SET width_px = 64, height_px = 64, verified_by = %s", (RULES,)
        )
        conn.execute("UPDATE datasets SET status = 'ready'")
    with ada.database.transaction() as conn:
        note("mark verified")
        found = {*dataset_versions.paths(conn, ada.tenant_id, base)}
        note("read paths")
    with ada.database.transaction() as conn:
        added = map(file, range(FILES, FILES + 10))
        version = datasets.create(conn, ada.tenant_id, "v", added, based_on=base).dataset_id
        removed = [file(number).path for number in range(100)]
        size_bytes = dataset_versions.take_over(
            conn, ada.tenant_id, version, base=base, removed=removed
        )
        note("take over")
        open_files = datasets.files_page(conn, ada.tenant_id, version, 1000, unverified=True)
        note("list what is new")
        datasets.complete(conn, ada.tenant_id, version)
        note("complete version")
    with ada.database.transaction() as conn:
        counts = dataset_versions.count_changes(conn, ada.tenant_id, base, version)
        note("count changes")
        changes = dataset_versions.changes_page(conn, ada.tenant_id, base, version, limit=1000)
        note("list changes")
    with open_verifier(ada.database, store_in(tmp_path), inspector, tmp_path) as verifier:
        rings = 0
        while datasets_status(ada, version) == "verifying":
            verifier.answer_ring(ada.tenant_id, version)
            rings += 1
        note("verify what is known")
        whole = plain_copy(ada)
        note("create and complete a plain copy")
        while datasets_status(ada, whole) == "verifying":
            verifier.answer_ring(ada.tenant_id, whole)
        note("verify a plain copy")
    print({step: round(each, 2) for step, each in took_s.items()}, rings)

    assert len(found) == FILES
    assert size_bytes == FILES - 90
    assert len(open_files) == 10
    assert (counts.added, counts.removed, counts.changed) == (10, 100, 0)
    assert counts.unchanged == FILES - 100
    assert len(changes) == 110
    with ada.database.transaction() as conn:
        row = datasets.get(conn, ada.tenant_id, version)
        copy = datasets.get(conn, ada.tenant_id, whole)
    assert [each["code"] for each in row.errors] == [
        "not_uploaded"
    ] * 10  # only they were looked at
    assert (copy.status, copy.verified_files) == ("ready", FILES)
    assert max(took_s.values()) < LIMIT_S, took_s


def datasets_status(ada: TenantDatabase, dataset_id: str) -> str:
    with ada.database.transaction() as conn:
        return datasets.get(conn, ada.tenant_id, dataset_id).status


def plain_copy(ada: TenantDatabase) -> str:
    """The base once more, as somebody declares it who does not know of it."""
    with ada.database.transaction() as conn:
        made = datasets.create(conn, ada.tenant_id, "copy", map(file, range(FILES))).dataset_id
        datasets.complete(conn, ada.tenant_id, made)
    return made
