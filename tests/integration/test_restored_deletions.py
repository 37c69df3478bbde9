"""A deletion that a restored database has forgotten is done once more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.domain.errors import NotFoundError
from services.results.restored import settle
from services.store import deletions, run_control, runs
from services.store.database import Database
from services.workers.scratch import Scratch
from tests.support.backups import back_up, restore
from tests.support.deletions import Deleting
from trainer_core.errors import InjectedFaultError


@pytest.fixture
def ada(database: Database, tmp_path: Path) -> Deleting:
    return Deleting.new(database, tmp_path)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with Scratch(tmp_path / "scratch", "wrk_test") as made:
        yield made


def test_what_was_deleted_after_the_backup_is_deleted_again(
    ada: Deleting, scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, backup = ada.db.database._url, tmp_path / "backup.dump"
    settle(ada.db.database, ada.objects, scratch)
    kept = ada.finished_run(0)
    deleted = ada.finished_run(1)
    open_then = ada.open_run(2)
    follower = ada.db.queued(start_adapter={"source": deleted, "step": None, "files": []}).run_id
    bob = Deleting(db=ada.db.neighbour(), objects=ada.objects, folder=tmp_path / "bob")
    bob.finished_run(0)
    back_up(url, backup)
    with ada.db.database.transaction() as conn:
        run_control.cancel(conn, ada.db.tenant_id, open_then)
        run_control.cancel(conn, ada.db.tenant_id, follower)
    asked = [ada.delete_run(deleted), ada.delete_run(open_then), bob.delete_tenant("bob")]
    ada.nobody_writes_any_more()
    assert {ada.work(each).status for each in asked} == {"succeeded"}
    reports = [ada.now(each).report for each in asked]

    restore(url, backup)
    ada.do("UPDATE deletions SET ring_after = clock_timestamp()")
    assert ada.deleter.work() == 0  # not before the runs are reconciled
    monkeypatch.setenv("REVERIE_ENV", "test")
    monkeypatch.setenv("FAULT_AT", "restored.deletion=raise")
    with pytest.raises(InjectedFaultError):
        settle(ada.db.database, ada.objects, scratch)
    monkeypatch.delenv("FAULT_AT")
    settle(ada.db.database, ada.objects, scratch)

    with ada.db.database.transaction() as conn:
        for run_id in (deleted, open_then):
            with pytest.raises(NotFoundError):
                runs.get(conn, ada.db.tenant_id, run_id)
        assert deletions.find(conn, ada.db.tenant_id, "run", kept) is None
    for run_id in (open_then, follower):
        assert ada.ask("SELECT status FROM runs WHERE run_id = %s", run_id) == [("canceled",)]
    ada.nobody_writes_any_more()
    for _ in range(3):  # the run of the tenant is stopped first
        ada.due_now()
        ada.deleter.work()
    for before, each in zip(reports, asked, strict=True):
        again = ada.now(each)
        assert (again.deletion_id, again.status) == (each.deletion_id, "succeeded")
        assert again.report["objects"] == before.get("objects", {})
        assert again.report["rows"]["runs"] == 2 * before["rows"]["runs"]
    assert ada.db.run(kept).status == "succeeded"
    assert bob.tables_with_rows().keys() == {"tenants", "deletions"}
    assert bob.stored() == set()
