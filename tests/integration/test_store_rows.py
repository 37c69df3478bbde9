"""Tenants' rows on a real PostgreSQL: isolation, cancel in each state, publications."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from services.domain.errors import (
    IllegalTransitionError,
    InvalidRequestError,
    LeaseLostError,
    NotFoundError,
    Problem,
)
from services.domain.ids import new_id
from services.domain.ledger import ChildEvent, Outcome
from services.store import (
    api_keys,
    datasets,
    publications,
    run_control,
    run_documents,
    run_lists,
    runs,
    shards,
    tenants,
    unreferenced,
    verification,
)
from services.store.database import (
    EVENTS,
    WORK,
    Connection,
    Database,
    DatabaseBusyError,
    DatabaseDownError,
)
from services.store.ledger import PostgresLedger
from services.store.run_rows import Run
from tests.support.api_keys import KEY_PEPPER, digest
from tests.support.postgres import PostgresServer
from tests.support.runs import (
    LEASE,
    TenantDatabase,
    checkpoint_at,
    failure,
    result_of,
    shard_digest,
)


def finished(tenant_db: TenantDatabase) -> Run:
    claim = tenant_db.held()
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 50))
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    return tenant_db.run(claim.run_id)


READS: dict[str, Callable[[Connection, str, Run, str], Any]] = {
    "run": lambda c, t, run, pub: runs.get(c, t, run.run_id),
    "documents": lambda c, t, run, pub: run_documents.read(c, t, run.run_id),
    "plan": lambda c, t, run, pub: run_documents.read_plan(c, t, run.run_id),
    "cancel": lambda c, t, run, pub: run_control.cancel(c, t, run.run_id),
    "pause": lambda c, t, run, pub: run_control.pause(c, t, run.run_id),
    "resume": lambda c, t, run, pub: run_control.resume(c, t, run.run_id),
    "events": lambda c, t, run, pub: runs.events(c, t, run.run_id, 0, 100),
    "checkpoints": lambda c, t, run, pub: runs.checkpoints(c, t, run.run_id),
    "attempts": lambda c, t, run, pub: runs.attempts(c, t, run.run_id),
    "dataset": lambda c, t, run, pub: datasets.get(c, t, run.datasets["photos"]),
    "files": lambda c, t, run, pub: datasets.files(c, t, run.datasets["photos"]),
    "complete": lambda c, t, run, pub: datasets.complete(c, t, run.datasets["photos"]),
    "publication": lambda c, t, run, pub: publications.get(c, t, pub),
    "publish": lambda c, t, run, pub: publications.create(c, t, run.run_id, {"kind": "folder"}),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_another_tenants_rows_are_not_found(
    tenant_db: TenantDatabase, read: Callable[[Connection, str, Run, str], Any]
) -> None:
    run = finished(tenant_db)
    with tenant_db.database.transaction() as conn:
        (publication,) = publications.list_page(conn, tenant_db.tenant_id, 10)
        other = tenants.create_tenant(conn, "eve")
    with pytest.raises(NotFoundError), tenant_db.database.transaction() as conn:
        read(conn, other, run, publication.publication_id)
    with tenant_db.database.transaction() as conn:
        assert run_lists.list_page(conn, other, 10) == []
        assert datasets.list_page(conn, other, 10) == []
        assert publications.list_page(conn, other, 10) == []
        assert publications.list_page(conn, other, 10, run_id=run.run_id) == []
        assert shards.take(conn, other, shard_digest()) is None
    assert tenant_db.run(run.run_id) == run


def test_pages_go_from_new_to_old_without_repeats(tenant_db: TenantDatabase) -> None:
    made = [tenant_db.queued().run_id for _ in range(5)]
    seen: list[str] = []
    with tenant_db.database.transaction() as conn:
        while page := run_lists.list_page(conn, tenant_db.tenant_id, 2, seen[-1] if seen else None):
            seen += [run.run_id for run in page]
    assert seen == sorted(made, reverse=True)


@pytest.mark.parametrize("state", ["queued", "caching", "claimable"])
def test_a_run_without_a_holder_is_canceled_at_once(tenant_db: TenantDatabase, state: str) -> None:
    run = getattr(tenant_db, state)()
    with tenant_db.database.transaction() as conn:
        canceled = run_control.cancel(conn, tenant_db.tenant_id, run.run_id)
    assert canceled.status == "canceled"
    assert canceled == tenant_db.run(run.run_id)
    assert canceled.finished_at is not None
    assert tenant_db.event_types(run.run_id)[-2:] == ["run.canceling", "run.canceled"]
    assert tenant_db.ledger.claim(run.run_id, worker_id="w", lease=LEASE) is None


def test_a_held_run_is_canceled_by_its_holder(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for _ in range(2):  # asking twice changes nothing
        with tenant_db.database.transaction() as conn:
            asked = run_control.cancel(conn, tenant_db.tenant_id, claim.run_id)
        assert (asked.status, asked.is_held) == ("canceling", True)
    assert tenant_db.event_types(claim.run_id).count("run.canceling") == 1
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    assert tenant_db.run(claim.run_id).status == "canceled"


def test_a_run_that_finishes_while_canceling_is_canceled_and_not_published(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    with tenant_db.database.transaction() as conn:
        run_control.cancel(conn, tenant_db.tenant_id, claim.run_id)
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    run = tenant_db.run(claim.run_id)
    assert (run.status, run.result_step) == ("canceled", 100)
    with tenant_db.database.transaction() as conn:
        assert publications.list_page(conn, tenant_db.tenant_id, 10) == []


def test_a_run_that_ended_cannot_be_canceled(tenant_db: TenantDatabase) -> None:
    run = finished(tenant_db)
    with pytest.raises(IllegalTransitionError), tenant_db.database.transaction() as conn:
        run_control.cancel(conn, tenant_db.tenant_id, run.run_id)


def test_a_concurrent_cancel_and_result_leave_one_outcome(tenant_db: TenantDatabase) -> None:
    for _ in range(10):
        claim = tenant_db.held()
        start = threading.Barrier(2)

        def cancel(run_id: str = claim.run_id, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                with tenant_db.database.transaction() as conn:
                    run_control.cancel(conn, tenant_db.tenant_id, run_id)
            except IllegalTransitionError:
                pass  # the result was first

        with ThreadPoolExecutor(1) as pool:
            canceling = pool.submit(cancel)
            start.wait()
            tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
            canceling.result()
        ends = {"run.succeeded", "run.canceled"} & set(tenant_db.event_types(claim.run_id))
        assert ends == {f"run.{tenant_db.run(claim.run_id).status}"}


def test_an_api_key_identifies_its_tenant(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        key, secret = api_keys.create(conn, tenant_db.tenant_id, KEY_PEPPER, name="laptop")
        assert secret.startswith("rv_")
        assert api_keys.tenant_of(conn, digest(secret)) == tenant_db.tenant_id
        assert api_keys.tenant_of(conn, digest(secret + "x")) is None
        assert api_keys.tenant_of(conn, api_keys.digest(b"another pepper", secret)) is None
        api_keys.revoke(conn, tenant_db.tenant_id, key.key_id)
        assert api_keys.tenant_of(conn, digest(secret)) is None


def test_a_dataset_is_verified_once(tenant_db: TenantDatabase) -> None:
    with tenant_db.database.transaction() as conn:
        dataset = tenant_db.dataset(conn, ready=False)
        scope = (tenant_db.tenant_id, dataset.dataset_id)
        assert verification.take(conn, *scope) is None  # still open
        for _ in range(2):
            assert datasets.complete(conn, *scope).status == "verifying"
        work = verification.take(conn, *scope)
        assert work is not None
        assert verification.take(conn, *scope) is None  # it has a builder
        batch = list(verification.next_files(conn, work, rules=1))
        wrong = Problem(pointer="a.png", code="bad_image", message="a.png is damaged.")
        recorded = verification.record(conn, work, batch, [], [wrong], rules=1)
        assert recorded is not None
        again = verification.record(conn, work, batch, [], [wrong], rules=1)
        assert again is None  # another builder's
        assert verification.finish(conn, recorded) == "rejected"
        assert verification.finish(conn, recorded) is None
        rejected = datasets.get(conn, *scope)
        assert rejected.status == "rejected"
        assert rejected.errors == [
            {"pointer": "a.png", "code": "bad_image", "message": "a.png is damaged."}
        ]


def test_a_publication_has_one_holder_and_is_retried(tenant_db: TenantDatabase) -> None:
    finished(tenant_db)
    with tenant_db.database.transaction() as conn:
        (publication,) = publications.list_page(conn, tenant_db.tenant_id, 10)
        id_ = publication.publication_id
        work = publications.claim(conn, id_, LEASE)
        assert work is not None
        assert work.files is not None
        assert work.files.size_bytes == 10
        assert publications.claim(conn, id_, LEASE) is None
        publications.fail(conn, id_, work.fence, failure(), timedelta(0))
        again = publications.claim(conn, id_, LEASE)
        assert again is not None
        assert (again.fence, again.attempts) == (2, 2)
        with pytest.raises(LeaseLostError):
            publications.succeed(conn, id_, work.fence, "/stale", None)
        publications.succeed(conn, id_, again.fence, "/there", "r1")
        assert publications.get(conn, tenant_db.tenant_id, id_).location == "/there"
        with pytest.raises(LeaseLostError):
            publications.fail(conn, id_, again.fence, failure(), None)


def test_only_a_result_can_be_published(tenant_db: TenantDatabase) -> None:
    run = tenant_db.queued()
    with pytest.raises(InvalidRequestError), tenant_db.database.transaction() as conn:
        publications.create(conn, tenant_db.tenant_id, run.run_id, {"kind": "folder"})


def test_a_shard_fails_after_its_last_try(tenant_db: TenantDatabase) -> None:
    tenant_db.caching()
    with tenant_db.database.transaction() as conn:
        for tries in range(shards.MAX_TRIES):
            work = shards.take(conn, tenant_db.tenant_id, shard_digest())
            assert work is not None
            assert work.attempts == tries + 1
            shards.failed(conn, work, failure())
        assert shards.take(conn, tenant_db.tenant_id, shard_digest()) is None


def test_objects_of_replaced_checkpoints_are_unreferenced(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    kept = [checkpoint_at(claim, step).files.key_prefix for step in (20, 30)]
    for step in (10, 20, 30):
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
    with tenant_db.database.transaction() as conn:
        (due,) = unreferenced.runs_to_sweep(conn)  # the first one was retired
        assert (due.run_id, due.is_held, due.checkpoint_step) == (claim.run_id, True, 30)
        assert unreferenced.referenced_prefixes(conn, claim.run_id) == set(kept)
        unreferenced.mark_swept(conn, due)
        assert unreferenced.runs_to_sweep(conn) == []
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    with tenant_db.database.transaction() as conn:
        assert (
            unreferenced.runs_to_sweep(conn) == []
        )  # only after a disconnected holder must have given up
        conn.execute("UPDATE runs SET sweep_after = now() - interval '1 second'")
        (due,) = unreferenced.runs_to_sweep(conn)
        assert not due.is_held
        live = unreferenced.referenced_prefixes(conn, claim.run_id)
        assert live == {*kept, result_of(claim).key_prefix}


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, {50}), (2, {20, 50}), (3, {20, 40, 50}), (4, {20, 30, 40, 50})]
)
def test_the_checkpoint_with_the_lowest_evaluation_loss_is_kept(
    tenant_db: TenantDatabase, limit: int, kept: set[int]
) -> None:
    claim = tenant_db.held()
    changed = {"checkpoints_total_limit": limit, "evaluation": {"images": 4}}
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE run_documents SET plan = jsonb_set(plan, '{operation}', "
            "plan -> 'operation' || %s::jsonb) WHERE run_id = %s",
            (json.dumps(changed), claim.run_id),
        )
    # Step 5 has no checkpoint, step 10 was measured again, and 40 was not finite.
    means = [(5, 0.1), (10, 0.2), (10, 3.0), (20, 1.0), (30, 1.0), (40, None), (50, 2.0)]
    for step, mean in means:
        found = [{"name": "evaluation", "mean": mean}, {"name": "probe", "mean": 0.0}]
        events = [ChildEvent(type="eval", step=step, data=data) for data in found]
        tenant_db.ledger.event(claim.run_id, claim.fence, events)
        if step > 5 and mean != 0.2:
            stored = checkpoint_at(claim, step)
            tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, stored)

    with tenant_db.database.transaction() as conn:
        rows = conn.execute("SELECT step FROM checkpoints WHERE run_id = %s", (claim.run_id,))
        assert {step for (step,) in rows} == kept


def test_listeners_are_notified_of_work_and_of_events(tenant_db: TenantDatabase) -> None:
    work, events = tenant_db.database.listen(WORK), tenant_db.database.listen(EVENTS)
    assert next(work) is None
    assert next(events) is None
    run = tenant_db.queued()
    assert next(work) == ""
    assert next(events) == run.run_id
    work.close()
    events.close()


def test_a_crash_of_the_server_loses_nothing_and_the_pool_recovers(
    postgres_server: PostgresServer, tenant_db: TenantDatabase
) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 10))
    postgres_server.stop("immediate")
    try:
        with pytest.raises(DatabaseDownError):
            tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    finally:
        postgres_server.start()
    tenant_db.ledger.renew(claim.run_id, claim.fence, lease=LEASE)
    assert tenant_db.run(claim.run_id).checkpoint_step == 10


def test_rows_and_events_are_read_and_written_without_documents(
    database_url: str, tenant_db: TenantDatabase
) -> None:
    claim = tenant_db.held()
    impatient = Database(database_url, max_size=2, lock_timeout=timedelta(seconds=0.2))
    ledger = PostgresLedger(impatient)
    with tenant_db.database.transaction() as elsewhere:
        elsewhere.execute("LOCK TABLE run_documents IN ACCESS EXCLUSIVE MODE")
        with impatient.transaction() as conn:
            runs.get(conn, tenant_db.tenant_id, claim.run_id)
            run_lists.list_page(conn, tenant_db.tenant_id, 10)
            runs.events(conn, tenant_db.tenant_id, claim.run_id, 0, 10)
        ledger.renew(claim.run_id, claim.fence, lease=LEASE)
        ledger.event(claim.run_id, claim.fence, [ChildEvent(type="step", step=1, data={})])
        with pytest.raises(DatabaseBusyError), impatient.transaction() as conn:
            run_documents.read(conn, tenant_db.tenant_id, claim.run_id)
    impatient.close()


def test_an_unknown_run_is_named_in_the_error(tenant_db: TenantDatabase) -> None:
    run_id = new_id("run")
    with pytest.raises(NotFoundError, match=run_id), tenant_db.database.transaction() as conn:
        runs.get(conn, tenant_db.tenant_id, run_id)
