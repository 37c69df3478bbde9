"""The audit log: a chain without gaps, and every way to tamper with it is found."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from services.api.audit_log.checking import check_part
from services.domain.audit import hash_of
from services.domain.quotas import Quotas
from services.objects.audit_anchors import read_anchors
from services.objects.folder_store import FolderStore
from services.results.retention import anchor_audit_logs, trim_audit_logs
from services.store import audit, quotas, run_control, runs
from services.store.database import Connection, Database
from services.store.scoped_database import ScopedDatabase
from tests.support.audit_logs import KEY, age, first_misfit, folder_store, record, verify
from tests.support.runs import TenantDatabase

YEAR = timedelta(days=365)


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return folder_store(tmp_path)


@pytest.fixture
def ada(database: Database) -> TenantDatabase:
    return TenantDatabase.new(database)


def change(ada: TenantDatabase, statement: str, **facts: object) -> None:
    with ada.database.transaction() as conn:
        changed = conn.execute(statement.encode(), {"tenant_id": ada.tenant_id, **facts})
        assert changed.rowcount > 0


def test_an_event_says_who_did_what_to_what_and_the_chain_holds(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "created", "canceled", "deleted")

    with ada.database.transaction() as conn:
        newest, *_, oldest = audit.list_page(conn, ada.tenant_id, 10)
        (canceled,) = audit.list_page(conn, ada.tenant_id, 10, action="canceled")
        (deleted,) = audit.list_page(conn, ada.tenant_id, 10, target="run_deleted")
        of_member = audit.list_page(conn, ada.tenant_id, 10, actor="mem_1")
        of_others = audit.list_page(conn, ada.tenant_id, 10, actor="key_2")
        before = audit.list_page(conn, ada.tenant_id, 10, 3)
    assert (newest.seq, newest.action, newest.target) == (3, "deleted", "run_deleted")
    assert newest.actor == {"kind": "key", "id": "key_1", "member_id": "mem_1"}
    assert (newest.client, newest.data) == ("192.0.2.7", {"of": "deleted"})
    assert (oldest.seq, oldest.hash_before) == (1, "0" * 64)
    assert (canceled.seq, deleted.seq) == (2, 3)
    assert ([e.seq for e in of_member], of_others) == ([3, 2, 1], [])
    assert [e.seq for e in before] == [2, 1]
    assert verify(ada, objects).is_whole


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", "2020-01-01T00:00:00Z"),
        ("actor", Jsonb({"kind": "key", "id": "key_2", "member_id": "mem_1"})),
        ("action", "run.created"),
        ("target", "run_other"),
        ("client", "203.0.113.1"),
        ("data", Jsonb({})),
        ("hash_before", "a" * 64),
        ("hash", "a" * 64),
    ],
)
def test_a_changed_column_is_found(
    ada: TenantDatabase, objects: FolderStore, column: str, value: object
) -> None:
    record(ada, "a", "b", "c", "d")
    change(
        ada,
        f"UPDATE audit_events SET {column} = %(value)s WHERE tenant_id = %(tenant_id)s AND seq = 3",
        value=value,
    )

    assert first_misfit(ada, objects) == (3, "edited")


def test_an_event_that_was_moved_to_another_tenant_is_found(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    bob = ada.neighbour()
    record(bob, "a")
    record(ada, "a", "b")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq = 1")
    change(
        ada,
        "UPDATE audit_events SET tenant_id = %(tenant_id)s WHERE tenant_id = %(bob)s",
        bob=bob.tenant_id,
    )

    assert first_misfit(ada, objects) == (1, "edited")


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_removed_event_is_found(ada: TenantDatabase, objects: FolderStore, seq: int) -> None:
    record(ada, "a", "b", "c", "d")
    change(
        ada,
        "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq = %(seq)s",
        seq=seq,
    )

    assert first_misfit(ada, objects) == (seq, "removed")


def test_two_events_that_changed_places_are_found(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c", "d")
    for here, there in ((2, -1), (3, 2), (-1, 3)):
        change(
            ada,
            "UPDATE audit_events SET seq = %(there)s"
            " WHERE tenant_id = %(tenant_id)s AND seq = %(here)s",
            here=here,
            there=there,
        )

    assert first_misfit(ada, objects) == (2, "edited")


def _with_correct_hash(conn: Connection, tenant_id: str, seq: int) -> None:
    """What a forger does who knows how hashes are made, and stops at this event."""
    (event,) = audit.chain(conn, tenant_id, seq, 1)
    conn.execute(
        "UPDATE audit_events SET hash = %s WHERE tenant_id = %s AND seq = %s",
        (hash_of(event), tenant_id, seq),
    )


def test_a_changed_or_added_event_with_a_correct_hash_does_not_fit_the_next_one(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c", "d")
    with ada.database.transaction() as conn:
        conn.execute("UPDATE audit_events SET action = 'x' WHERE seq = 2")
        _with_correct_hash(conn, ada.tenant_id, 2)

    assert first_misfit(ada, objects) == (3, "reordered")


def test_a_chain_that_was_made_anew_is_found_by_its_anchor(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c")
    assert anchor_audit_logs(ada.database, objects) == 1
    record(ada, "d")
    assert verify(ada, objects).anchored_seq == 3
    age(ada, range(2, 3), days=1)

    assert first_misfit(ada, objects) == (3, "rewritten")


def test_a_missing_end_is_found_up_to_the_last_anchor(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c")
    anchor_audit_logs(ada.database, objects)
    record(ada, "d")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq = 4")
    assert verify(ada, objects).is_whole  # nothing outside the database knew of it

    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq > 1")
    assert first_misfit(ada, objects) == (2, "truncated")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s")
    assert first_misfit(ada, objects) == (1, "truncated")


def test_each_log_that_grew_is_anchored_once_a_day(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    bob = ada.neighbour()
    record(ada, "a")
    assert anchor_audit_logs(ada.database, objects) == 1
    record(ada, "b")
    record(bob, "a")
    assert anchor_audit_logs(ada.database, objects) == 1  # bob's
    change(ada, "UPDATE tenants SET audit_anchored_at = audit_anchored_at - interval '1 day'")
    assert anchor_audit_logs(ada.database, objects) == 1  # ada's; bob's did not grow
    with ada.database.transaction() as conn:
        service_id = audit.service_id(conn)
    assert service_id is not None
    assert [a.seq for a in read_anchors(objects, service_id, ada.tenant_id)] == [1, 2]
    assert not list(objects.list_keys(f"tenants/{ada.tenant_id}/"))


def test_a_log_that_was_trimmed_by_age_still_verifies_and_is_still_watched(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c")
    age(ada, range(1, 4), days=500)
    anchor_audit_logs(ada.database, objects)
    record(ada, "d", "e")
    assert trim_audit_logs(ada.database, objects, 2 * YEAR) == 0

    assert trim_audit_logs(ada.database, objects, YEAR) == 2  # up to the anchored one
    assert trim_audit_logs(ada.database, objects, YEAR) == 0
    found = verify(ada, objects)
    assert (found.is_whole, found.first_seq, found.last_seq) == (True, 3, 5)
    record(ada, "f")
    assert verify(ada, objects).last_seq == 6

    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq = 3")
    assert first_misfit(ada, objects) == (1, "removed")


def test_a_log_does_not_begin_where_nothing_was_trimmed(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c")
    anchor_audit_logs(ada.database, objects)
    record(ada, "d")
    change(ada, "DELETE FROM audit_events WHERE tenant_id = %(tenant_id)s AND seq < 3")
    assert first_misfit(ada, objects) == (1, "removed")


def test_nothing_is_trimmed_at_an_anchor_that_does_not_fit(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    record(ada, "a", "b", "c", "d")
    age(ada, range(1, 5), days=500)
    anchor_audit_logs(ada.database, objects)
    age(ada, range(2, 3), days=1)

    assert trim_audit_logs(ada.database, objects, YEAR) == 0
    assert first_misfit(ada, objects) == (4, "rewritten")


def test_a_long_chain_is_checked_in_parts(
    ada: TenantDatabase,
) -> None:
    record(ada, *"abcdefg")
    with ada.database.transaction() as conn:
        events = audit.chain(conn, ada.tenant_id, 3, 100)

    assert check_part(events, [], 3).is_whole
    for without_it in (events[1:], []):
        misfit = check_part(without_it, [], 3).misfit
        assert misfit is not None
        assert (misfit.seq, misfit.kind) == (3, "removed")


def test_a_hundred_submits_at_once_leave_a_chain_without_gaps(
    ada: TenantDatabase, objects: FolderStore
) -> None:
    database = Database(ada.database._url, max_size=16)
    new = runs.NewRun(
        request={},
        plan={},
        plan_digest="d" * 64,
        base_model="hidream-tiny",
        datasets={},
        gpu_class="cpu",
        max_steps=1,
    )

    def submit(number: int) -> str:
        with database.transaction() as conn:
            run = runs.create(conn, ada.tenant_id, new)
            quotas.check_new_runs(conn, ada.tenant_id, Quotas(queued_runs=1000))
            audit.record(conn, ada.tenant_id, KEY, "run.created", run.run_id)
        if number % 2:  # other actions do not lock the tenant
            with database.transaction() as conn:
                run_control.cancel(conn, ada.tenant_id, run.run_id)
                audit.record(conn, ada.tenant_id, KEY, "run.canceled", run.run_id)
        return run.run_id

    with ThreadPoolExecutor(16) as pool:
        run_ids = list(pool.map(submit, range(100)))
    database.close()

    with ada.database.transaction() as conn:
        events = audit.chain(conn, ada.tenant_id, 0, 1000)
    assert [event.seq for event in events] == list(range(1, 151))
    created = [event.target for event in events if event.action == "run.created"]
    assert sorted(created) == sorted(run_ids)
    assert verify(ada, objects).is_whole


def test_requests_may_add_events_and_neither_change_nor_delete_them(
    ada: TenantDatabase,
) -> None:
    bob = ada.neighbour()
    record(bob, "a")
    scoped = ScopedDatabase(ada.database._url, 1, statement_timeout=timedelta(seconds=10))
    with scoped.transaction(ada.tenant_id) as conn:
        audit.record(conn, ada.tenant_id, KEY, "a", "run_a")
    forbidden: list[Callable[[Connection], object]] = [
        lambda conn: conn.execute("UPDATE audit_events SET action = 'x'"),
        lambda conn: conn.execute("DELETE FROM audit_events"),
        lambda conn: conn.execute("TRUNCATE audit_events"),
        lambda conn: audit.record(conn, bob.tenant_id, KEY, "b", "run_b"),
    ]
    for act in forbidden:
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            scoped.transaction(ada.tenant_id) as conn,
        ):
            act(conn)
    with scoped.transaction(ada.tenant_id) as conn:
        assert [e.target for e in audit.list_page(conn, bob.tenant_id, 10)] == []
    scoped.close()
