"""What is deleted by its age, and what stays."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.domain.retention import Retention
from services.objects.errors import ObjectStoreRefusedError
from services.objects.folder_store import FolderStore
from services.objects.signing import UrlSigner
from services.results.retention import (
    delete_idempotency_keys,
    delete_unused_shards,
    retention_of,
    thin_events,
)
from services.store import run_control, runs, unusable_entries
from services.store.database import Database
from tests.support.deletions import LEASE, Deleting
from tests.support.runs import shard_digest

DAY = timedelta(days=1)


@pytest.fixture
def ada(database: Database, tmp_path: Path) -> Deleting:
    return Deleting.new(database, tmp_path)


def days_pass(ada: Deleting, days: int) -> None:
    """All runs ended, and all shards were first needed, so many days earlier."""
    for statement in (
        "UPDATE runs SET finished_at = finished_at - make_interval(days => %s)",
        "UPDATE cache_shards SET created_at = created_at - make_interval(days => %s)",
        "UPDATE cache_shards SET sweep_after = sweep_after - make_interval(days => %s)",
    ):
        ada.do(statement, days)


def stored(ada: Deleting) -> set[int]:
    """The numbers of the shards that are stored whole."""
    return {n for n in range(5) if len(ada.stored(f"cache/{shard_digest(n)}/")) == 2}


def sweep_shards(ada: Deleting, days: int = 30) -> int:
    age = timedelta(days=days)
    return delete_unused_shards(ada.db.database, ada.objects, age, lease=LEASE)


def test_a_shard_goes_when_its_runs_have_been_over_for_long(ada: Deleting) -> None:
    ada.finished_run(0, 1)
    ada.open_run(1)
    days_pass(ada, 31)
    newer = ada.finished_run(2)
    ada.do("UPDATE cache_shards SET created_at = created_at - make_interval(days => 31)")

    assert sweep_shards(ada) == 1
    assert stored(ada) == {1, 2}  # an open run needs the one, a run that has just ended the other
    assert ada.ask("SELECT count(*) FROM cache_shards") == [(2,)]
    assert sweep_shards(ada) == 0

    days_pass(ada, 31)
    assert sweep_shards(ada) == 1
    assert stored(ada) == {1}
    assert ada.db.run(newer).status == "succeeded"
    again = ada.db.queued().run_id  # whoever needs it again has it built again
    ada.admit(again, 0)
    assert ada.db.run(again).stage == "caching"


def test_the_entries_of_a_shard_go_with_it_and_what_cannot_be_encoded_is_forgotten(
    ada: Deleting,
) -> None:
    ada.finished_run(0, 1)
    ada.open_run(1)
    with ada.db.database.transaction() as conn:
        unusable_entries.record(conn, ada.db.tenant_id, {"a": "black", "b": "damaged"})
    ada.do("UPDATE unusable_entries SET created_at = '2020-01-01' WHERE digest = 'a'")
    days_pass(ada, 31)

    for work in retention_of(ada.db.database, ada.objects, Retention(), lease=LEASE).values():
        work()

    assert ada.ask("SELECT shard FROM cache_entries") == [(shard_digest(1),)]
    assert ada.ask("SELECT digest FROM unusable_entries") == [("b",)]


def test_a_shard_that_is_being_built_is_left_alone(ada: Deleting) -> None:
    run = ada.db.caching()
    with ada.db.database.transaction() as conn:
        run_control.cancel(conn, ada.db.tenant_id, run.run_id)
    ada.do("UPDATE cache_shards SET lease_until = clock_timestamp() + interval '1 hour'")
    days_pass(ada, 31)

    assert sweep_shards(ada) == 0
    ada.do("UPDATE cache_shards SET lease_until = NULL")
    days_pass(ada, 2)
    assert sweep_shards(ada) == 1


def test_of_an_old_runs_step_events_one_in_a_hundred_stays(ada: Deleting) -> None:
    old, young = ada.finished_run(0), ada.finished_run(1)
    going = ada.open_run(2)
    ada.do("UPDATE runs SET step = 250 WHERE run_id <> %s", going)
    for run_id in (old, young, going):
        ada.do(
            "INSERT INTO events (run_id, seq, tenant_id, fence, type, step, data)"
            " SELECT %s, 1000 + step, %s, 1, kind, step, '{}' FROM generate_series(1, 250) AS step,"
            " (VALUES ('step')) AS kinds (kind)",
            run_id,
            ada.db.tenant_id,
        )
        ada.do(
            "INSERT INTO run_logs (tenant_id, run_id, start_byte, num_bytes, fence, text)"
            " VALUES (%s, %s, 0, 2, 1, 'hi')",
            ada.db.tenant_id,
            run_id,
        )
    others = ada.ask(
        "SELECT seq FROM events WHERE run_id = %s AND type <> 'step' ORDER BY seq", old
    )
    ada.do("UPDATE runs SET finished_at = finished_at - interval '91 days' WHERE run_id = %s", old)

    assert thin_events(ada.db.database, 90 * DAY) == 250 - 3 + 1
    assert thin_events(ada.db.database, 90 * DAY) == 0
    steps = "SELECT step FROM events WHERE run_id = %s AND type = 'step' ORDER BY step"
    assert ada.ask(steps, old) == [(100,), (200,), (250,)]
    assert len(ada.ask(steps, young)) == len(ada.ask(steps, going)) == 250
    assert (
        ada.ask("SELECT seq FROM events WHERE run_id = %s AND type <> 'step' ORDER BY seq", old)
        == others
    )
    assert {r[0] for r in ada.ask("SELECT run_id FROM run_logs")} == {young, going}
    with ada.db.database.transaction() as conn:
        page = runs.events(conn, ada.db.tenant_id, old, 1000, 10)
    assert [event.step for event in page] == [100, 200, 250]


def test_used_idempotency_keys_go_after_a_week(ada: Deleting) -> None:
    for key, days in (("old", 8), ("young", 6)):
        ada.do(
            "INSERT INTO idempotency_keys (tenant_id, method, path, key, fingerprint, created_at)"
            " VALUES (%s, 'POST', '/v1/runs', %s, 'f',"
            " clock_timestamp() - make_interval(days => %s))",
            ada.db.tenant_id,
            key,
            days,
        )

    assert delete_idempotency_keys(ada.db.database) == 1
    assert ada.ask("SELECT key FROM idempotency_keys") == [("young",)]


def test_nothing_of_a_service_in_use_is_old(ada: Deleting) -> None:
    run_id = ada.finished_run(0, 1)
    ada.open_run(1)
    before = ada.stored(), ada.tables_with_rows()

    for work in retention_of(ada.db.database, ada.objects, Retention(), lease=LEASE).values():
        work()
    assert (ada.stored(), ada.tables_with_rows()) == before
    assert ada.db.run(run_id).status == "succeeded"


def test_a_shard_that_may_not_be_deleted_does_not_stop_the_others(
    ada: Deleting, tmp_path: Path
) -> None:
    for number in range(3):
        ada.finished_run(number)
    days_pass(ada, 31)

    class Locked(FolderStore):
        """Of a bucket that holds the objects of one shard."""

        def delete(self, key: str) -> None:
            if shard_digest(1) in key:
                raise ObjectStoreRefusedError(f"{key}: object lock")
            super().delete(key)

    signer = UrlSigner(api_url="http://localhost", signing_key=b"k" * 16)
    locked = replace(ada, objects=Locked(tmp_path / "objects", signer))
    assert sweep_shards(locked) == 2
    assert stored(ada) == {1}
    assert sweep_shards(locked) == 0
