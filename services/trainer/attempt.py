"""One attempt at a run: claim, prepare, run the training process, commit what it wrote, hand back.

An error between the claim and the end hands the run back at once, with an error code. After a lost
lease nothing is written any more: another worker may hold the run.
"""

import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from services.domain.ledger import Claim, Outcome
from services.metrics import work as metrics
from services.traces.spans import continued, record_span, span
from services.trainer.background import Background
from services.trainer.budget import Budget
from services.trainer.child import Child, training_command
from services.trainer.commits import Committer
from services.trainer.context import Assignment, HeldRun, TrainerContext
from services.trainer.entry_fetcher import EntryFetcher
from services.trainer.failures import (
    AttemptFailedError,
    failure_of_attempt,
    failure_of_child,
    infra_failed,
)
from services.trainer.feeder import Feeder
from services.trainer.lease import (
    UNREACHABLE,
    CanceledError,
    GivenUpError,
    Lease,
    NotWantedError,
    StoppedError,
)
from services.trainer.log_shipper import LogShipper
from services.trainer.prepare import Prepared, prepare
from services.trainer.previews import Previews
from services.trainer.reporter import Reporter
from services.trainer.samples import Samples
from services.trainer.scratch_use import ScratchUse
from services.trainer.supervision import Supervision
from trainer_core.faultpoints import fault_point
from trainer_core.process.events import Event
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)


def answer_ring(context: TrainerContext, assignment: Assignment, run_id: str) -> None:
    """Claim the run and train it, if it can be claimed; returns when the attempt is over."""
    if context.stopping.is_set():
        return
    if (reason := context.health.must_decline()) is not None:
        log.warning("ring_declined", run_id=run_id, reason=reason.code)
        return  # offered again, to another worker or when this one works again
    with span("claim", kind="consumer", run_id=run_id, worker_id=context.worker_id) as claiming:
        claim = _claim(context, run_id)
        if claim is not None:
            claiming.note(tenant_id=claim.tenant_id, fence=claim.fence)
    if claim is None:
        return
    assignment.run_id = run_id
    try:
        with (
            metrics.attempts_running.track_inprogress(),
            structlog.contextvars.bound_contextvars(
                run_id=run_id, tenant_id=claim.tenant_id, fence=claim.fence
            ),
            # Its spans follow the claim, which is sent at once, and not one that ends in hours.
            continued(claiming.traceparent),
        ):
            _hold(context, claim)
    finally:
        assignment.run_id = None


def _claim(context: TrainerContext, run_id: str) -> Claim | None:
    """None where it cannot be claimed, or the ledger does not answer: it is offered again."""
    lease = timedelta(seconds=context.times.lease_s)
    try:
        claim = context.ledger.claim(run_id, worker_id=context.worker_id, lease=lease)
    except UNREACHABLE as error:
        log.warning("claim_failed", run_id=run_id, error=type(error).__name__)
        return None
    if claim is None:
        log.info("ring_ignored", run_id=run_id)
    return claim


def _hold(context: TrainerContext, claim: Claim) -> None:
    """Hold the lease for one attempt."""
    budget = Budget(claim.budget_s)
    with Lease(context.ledger, claim.run_id, claim.fence, context.times, budget) as lease:
        held = HeldRun(context=context, claim=claim, lease=lease)
        log.info("attempt_started", from_step=held.from_step)
        started_s = time.time()
        try:
            ended = _train_and_hand_back(held)
        except GivenUpError:
            ended = "given_up"
        metrics.attempts.labels(end=ended).inc()
        log.info("attempt_over", ended=ended)
        record_span("attempt", started_s=started_s, ended_s=time.time(), outcome=ended)


def _train_and_hand_back(held: HeldRun) -> str:
    """How the attempt ended, for the log; raises GivenUpError when the lease is lost."""
    try:
        fault_point("attempt.claimed")
        with held.context.scratch.work_folder("attempt") as folder:
            is_finished = _train(held, folder)
    except GivenUpError:
        raise
    except (CanceledError, StoppedError):
        _hand_back(held, Outcome.STOPPED, None)
        return "stopped"
    except Exception as error:  # noqa: BLE001 - any error: the run must not wait for its lease
        failure = failure_of_attempt(error)
        held.context.health.note_failure(failure)
        _hand_back(held, Outcome.FAILED, failure)
        return failure.code
    held.context.health.note_success()
    if is_finished:
        return "finished"
    _hand_back(held, Outcome.STOPPED, None)
    return "stopped"


def _hand_back(held: HeldRun, outcome: Outcome, failure: Failure | None) -> None:
    claim, ledger = held.claim, held.context.ledger
    with span("hand back", outcome=outcome) as handing_back:
        if failure is not None:
            handing_back.note(code=failure.code)
        held.lease.until_handed_back(
            lambda: ledger.hand_back(claim.run_id, claim.fence, outcome, failure)
        )


def _train(held: HeldRun, folder: Path) -> bool:
    """True once the result is committed, False where a request ended the training before.

    Raises NotWantedError, and any other error as it is.
    """
    with span("prepare"), Background(held.lease, "prepare") as background:
        preparing = background.start(lambda: prepare(held, folder))
        prepared = background.result_of(preparing, check=held.check_wanted)
    held.check_wanted()
    with (
        LogShipper(held, prepared.folder) as shipper,
        Reporter(held) as reporter,
        Committer(held, prepared.output_dir) as committer,
    ):
        try:
            outcome = _run_child(held, prepared, reporter, committer)
            if outcome.name == "failed":
                raise AttemptFailedError(failure_of_child(outcome.data))
            reporter.flush()
            committer.wait()
        except NotWantedError:
            raise
        except Exception:  # raised again: what was saved before any error is kept
            _keep_progress(reporter, committer)
            raise
        if outcome.name == "stopped":
            return False
        shipper.finish()  # nothing of the attempt is stored after its result
        committer.result(outcome)
        return True


def _run_child(
    held: HeldRun, prepared: Prepared, reporter: Reporter, committer: Committer
) -> Event:
    """Run the training process to its end and return its outcome.

    The process is dead when this returns or raises.
    """
    context, claim = held.context, held.claim
    command = training_command(context.child_command, prepared.world_size)
    child = Child(command, prepared.job, prepared.folder, os.environ)
    log.info("child_started", pid=child.pid)
    try:
        fault_point("attempt.child_started")
        newest = claim.checkpoint
        use = ScratchUse(
            prepared.folder,
            prepared.shards_dir,
            adapter_files=_adapter_files(claim.plan["identity"]),
            checkpoint_bytes=None if newest is None else newest.files.size_bytes,
        )
        with (
            Feeder(
                prepared.order,
                EntryFetcher(held, prepared.shards_dir),
                prepared.shards_dir,
                limit_bytes=context.scratch_bytes,
                from_step=prepared.from_step,
                other_bytes=use.bytes_taken,
                is_uploading=lambda: committer.is_busy,
            ) as feeder,
            Background(held.lease, "previews") as background,
        ):
            output_dir = prepared.output_dir
            samples = Samples(held, output_dir, start=committer.start, report=reporter.add)
            outcome = Supervision(
                held,
                child,
                feeder,
                reporter,
                committer,
                samples=samples,
                previews=Previews(held, output_dir, start=background.start, report=reporter.add),
                scratch_use=use,
            ).until_end()
    finally:
        child.kill()
    if outcome is None:
        how = child.how_it_died()
        log.error("child_died", how=how, output_tail=child.output_tail())
        raise infra_failed("child_died", f"The training process ended without an outcome ({how}).")
    return outcome


def _adapter_files(identity: Mapping[str, Any]) -> int:
    """How many a checkpoint of the plan has: with a running mean that of the last step, too."""
    if identity["adapter"] is None:
        return 0
    return 1 if identity["ema"] is None else 2


def _keep_progress(reporter: Reporter, committer: Committer) -> None:
    """After a failure, store the events and checkpoints of before, as far as possible."""
    for write in (reporter.flush, committer.wait):
        try:
            write()
        except NotWantedError:
            raise
        except Exception as error:  # noqa: BLE001 - must not hide the first error
            log.warning("progress_not_kept", error=type(error).__name__)
