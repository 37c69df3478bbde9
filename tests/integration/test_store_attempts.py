"""How attempts end on a real PostgreSQL: whose budget they use up, and what the next one gets."""

from dataclasses import replace

import pytest

from services.domain.ledger import ChildEvent, Claim, Outcome, PictureScore
from services.store import admission
from services.store.ledger import PostgresLedger
from tests.support.run_samples import CLIP_DIGEST, sample_event
from tests.support.runs import LEASE, TenantDatabase, checkpoint_at, failure, result_of
from tests.support.sample_rows import RED
from trainer_core.errors import Category


def claim_again(tenant_db: TenantDatabase, run_id: str, worker_id: str = "w") -> Claim:
    tenant_db.due_now(run_id)
    claim = tenant_db.ledger.claim(run_id, worker_id=worker_id, lease=LEASE)
    assert claim is not None
    return claim


def test_failures_without_progress_end_the_run(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for attempt in (1, 2, 3):
        wrong = failure(code="internal_error", category=Category.PLATFORM)
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, wrong)
        run = tenant_db.run(claim.run_id)
        assert (run.attempts_without_progress, run.infra_failures) == (attempt, 0)
        if attempt < 3:
            assert (run.status, run.stage) == ("queued", "capacity")
            assert run.ring_after is not None
            assert tenant_db.ledger.claim(claim.run_id, worker_id="w", lease=LEASE) is None
            claim = claim_again(tenant_db, claim.run_id)
    assert run.status == "failed"
    assert run.status_reason is not None
    assert run.status_reason["code"] == "attempts_exhausted"
    assert "internal_error." in run.status_reason["message"]


def test_faults_of_the_service_have_a_budget_of_their_own(tenant_db: TenantDatabase) -> None:
    ledger = PostgresLedger(tenant_db.database, max_attempts=3, max_infra_failures=7)
    claim = tenant_db.held()
    for attempt in range(1, 8):
        ledger.hand_back(
            claim.run_id, claim.fence, Outcome.FAILED, failure(code="worker_disk_full")
        )
        run = tenant_db.run(claim.run_id)
        assert (run.attempts_without_progress, run.infra_failures) == (0, attempt)
        if attempt < 7:
            assert run.status == "queued"
            claim = claim_again(tenant_db, claim.run_id)
    assert run.status == "failed"
    assert run.status_reason is not None
    assert run.status_reason["code"] == "attempts_exhausted"
    assert "worker_disk_full." in run.status_reason["message"]


def test_deaths_at_one_step_become_the_runs_own(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    counts = []
    for step in (5, 9, 5, 6):
        events = [ChildEvent(type="step", step=step, data={})]
        tenant_db.ledger.event(claim.run_id, claim.fence, events)
        tenant_db.let_lease_run_out(claim.run_id)
        assert tenant_db.sweep(max_attempts=3) is not None
        run = tenant_db.run(claim.run_id)
        counts.append((run.attempts_without_progress, run.infra_failures))
        if run.status == "queued":
            claim = claim_again(tenant_db, claim.run_id)
    assert counts == [(0, 1), (0, 2), (2, 1), (3, 1)]
    assert run.status == "failed"
    assert run.status_reason is not None
    assert "worker that held the run was lost" in run.status_reason["message"]


def test_a_poisoned_run_is_not_failed_by_one_machine_of_two(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    nodes = {tenant_db.worker(): node for node in ("one", "two")}
    with tenant_db.database.transaction() as conn:
        for worker_id, node in nodes.items():
            conn.execute("UPDATE workers SET node = %s WHERE worker_id = %s", (node, worker_id))
    for node in ("one", "one", "one", "two"):
        with tenant_db.database.transaction() as conn:
            conn.execute("UPDATE attempts SET node = %s WHERE outcome IS NULL", (node,))
        assert tenant_db.run(claim.run_id).status == "running"
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure())
        if node == "one":
            claim = claim_again(tenant_db, claim.run_id)
    assert tenant_db.run(claim.run_id).status == "failed"


def test_a_damaged_shard_is_built_again_before_the_next_attempt(
    tenant_db: TenantDatabase,
) -> None:
    claim = tenant_db.held()
    (shard,) = claim.shards
    assert tenant_db.ledger.rebuild_shard(claim.run_id, claim.fence, shard)
    assert not tenant_db.ledger.rebuild_shard(claim.run_id, claim.fence, shard)
    tenant_db.ledger.hand_back(
        claim.run_id, claim.fence, Outcome.FAILED, failure(code="shard_corrupt")
    )

    run = tenant_db.run(claim.run_id)
    assert (run.status, run.stage, run.is_held) == ("running", "caching", False)
    assert run.infra_failures == 1

    tenant_db.build_shard()
    with tenant_db.database.transaction() as conn:
        assert admission.runs_cached(conn, 10) == [claim.run_id]
        admission.end_caching(conn, claim.run_id)
    assert claim_again(tenant_db, claim.run_id).fence == claim.fence + 1


def test_a_shard_that_was_built_anew_meanwhile_is_left_alone(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    (shard,) = claim.shards
    stale = replace(shard, manifest_sha256="f" * 64)
    assert not tenant_db.ledger.rebuild_shard(claim.run_id, claim.fence, stale)


def test_a_claim_names_the_older_checkpoints_too(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for step in (1, 2, 3):
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    again = claim_again(tenant_db, claim.run_id)
    assert again.checkpoint == checkpoint_at(claim, 3)
    assert again.older_checkpoints == (checkpoint_at(claim, 2),)


def test_a_claim_names_the_pictures_of_the_weights_it_starts_from(
    tenant_db: TenantDatabase,
) -> None:
    """Those of an attempt that had no such checkpoint show other weights, if only by rounding."""
    claim = tenant_db.held()
    ledger = tenant_db.ledger
    assert claim.pictures == ()
    base, of_1, of_2 = (sample_event(step, RED) for step in (0, 1, 2))
    ledger.event(claim.run_id, claim.fence, [base, of_2])
    ledger.hand_back(claim.run_id, claim.fence, Outcome.STOPPED, None)
    second = claim_again(tenant_db, claim.run_id)
    assert second.pictures == (base.data["path"],)

    for step in (1, 2):
        ledger.commit_checkpoint(second.run_id, second.fence, checkpoint_at(second, step))
    ledger.event(second.run_id, second.fence, [of_1])
    ledger.hand_back(second.run_id, second.fence, Outcome.STOPPED, None)
    third = claim_again(tenant_db, claim.run_id)
    assert third.pictures == (of_1.data["path"],)

    ledger.event(third.run_id, third.fence, [of_2])
    ledger.hand_back(third.run_id, third.fence, Outcome.STOPPED, None)
    paths = of_1.data["path"], of_2.data["path"]
    fourth = claim_again(tenant_db, claim.run_id)
    assert fourth.pictures == paths
    score = PictureScore(clip_score=0.25, similarity=0.75, clip_model_digest=CLIP_DIGEST)
    assert fourth.picture_scores == dict.fromkeys(paths, score)
    other = tenant_db.held()
    assert other.pictures == ()


def test_a_new_checkpoint_resets_the_attempt_count(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    for step in range(1, 6):
        tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, step))
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure())
        assert tenant_db.run(claim.run_id).attempts_without_progress == 0
        tenant_db.due_now(claim.run_id)
        again = tenant_db.ledger.claim(claim.run_id, worker_id="w", lease=LEASE)
        assert again is not None
        claim = again


@pytest.mark.parametrize("end", ["stopped", "failed", "lost"])
def test_an_attempt_says_what_it_lost(tenant_db: TenantDatabase, end: str) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_checkpoint(claim.run_id, claim.fence, checkpoint_at(claim, 4))
    events = [ChildEvent(type="step", step=7, data={})]
    tenant_db.ledger.event(claim.run_id, claim.fence, events)
    with tenant_db.database.transaction() as conn:
        conn.execute(
            "UPDATE attempts SET started_at = clock_timestamp() - interval '1 hour';"
            "UPDATE checkpoints SET created_at = clock_timestamp() - interval '1 minute'"
        )
    if end == "lost":
        tenant_db.let_lease_run_out(claim.run_id)
        assert tenant_db.sweep(max_attempts=3) is not None
    else:
        reason = failure() if end == "failed" else None
        tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome(end), reason)

    (attempt,) = tenant_db.attempts(claim.run_id)
    assert (attempt.outcome, attempt.lost_steps) == (end, 3)
    assert attempt.lost_s is not None
    assert 60 <= attempt.lost_s < 90


def test_an_attempt_without_a_checkpoint_lost_all_its_time(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    with tenant_db.database.transaction() as conn:
        conn.execute("UPDATE attempts SET started_at = clock_timestamp() - interval '1 hour'")
    tenant_db.ledger.hand_back(claim.run_id, claim.fence, Outcome.FAILED, failure())

    (attempt,) = tenant_db.attempts(claim.run_id)
    assert attempt.lost_steps == 0
    assert attempt.lost_s is not None
    assert 3600 <= attempt.lost_s < 3630


def test_a_finished_attempt_lost_nothing(tenant_db: TenantDatabase) -> None:
    claim = tenant_db.held()
    tenant_db.ledger.commit_result(claim.run_id, claim.fence, result_of(claim), step=100)
    (attempt,) = tenant_db.attempts(claim.run_id)
    assert (attempt.lost_steps, attempt.lost_s) == (None, None)
