"""One attempt at a run: claim, prepare, run the child, commit what it wrote, hand back.

The child's last event decides how the attempt ended, never its exit status. Safety comes from the
fence: once the lease is lost everything here is discarded and nothing more is written.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from services.domain.ledger import ChildEvent, Claim, Ledger, Outcome, RequestedAction
from services.objects.port import ObjectStore
from services.trainer.child import OUTCOMES, Child, Event, Word
from services.trainer.commits import AttemptFailedError, Committer
from services.trainer.feeder import Feeder
from services.trainer.lease import AWAY, GivenUpError, Lease, LeaseTimes
from services.trainer.prepare import Prepared, prepare, shard_fetcher
from services.trainer.reporter import Reporter
from services.workers.scratch import Scratch
from trainer_core.errors import Category
from trainer_core.faultpoints import fault_point
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_TICK_S: Final = 0.1
_EXIT_GRACE_S: Final = 60.0
"""After its outcome event the child has this long to end; driver teardown can take seconds."""
_LOCAL_PATHS: Final = frozenset({"path"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What a trainer works with, the same for every attempt."""

    ledger: Ledger
    objects: ObjectStore
    worker_id: str
    scratch: Scratch
    models_dir: Path
    scratch_bytes: int
    times: LeaseTimes
    stall_s: float
    """Without a new event for this long the child counts as hung."""
    stopping: threading.Event
    """Set when this process is told to end."""
    child_command: Sequence[str] = (sys.executable, "-m", "trainer_core")


@dataclass(slots=True)
class Duty:
    """Which run this worker holds now; read by the heartbeat."""

    run_id: str | None = field(default=None)


def answer_ring(bench: Bench, duty: Duty, run_id: str) -> None:
    """Train the run if it is to be had; returns when the attempt is over, whatever its end."""
    if bench.stopping.is_set():
        return
    lease_s = timedelta(seconds=bench.times.lease_s)
    try:
        claim = bench.ledger.claim(run_id, worker_id=bench.worker_id, lease=lease_s)
    except AWAY as error:
        log.warning("claim_failed", run_id=run_id, error=type(error).__name__)
        return  # offered again
    if claim is None:
        log.info("ring_too_many", run_id=run_id)
        return
    duty.run_id = run_id
    try:
        with structlog.contextvars.bound_contextvars(
            run_id=run_id, tenant_id=claim.tenant_id, fence=claim.fence
        ):
            _hold(bench, claim)
    finally:
        duty.run_id = None


def _hold(bench: Bench, claim: Claim) -> None:
    log.info("attempt_begun", from_step=0 if claim.checkpoint is None else claim.checkpoint.step)
    with (
        bench.scratch.room("attempt") as folder,
        Lease(bench.ledger, claim.run_id, claim.fence, bench.times) as lease,
    ):
        try:
            fault_point("attempt.claimed")
            ending = _Attempt(bench, claim, lease, folder).run()
        except GivenUpError:
            ending = "given_up"
        log.info("attempt_over", ending=ending)


class _Attempt:
    def __init__(self, bench: Bench, claim: Claim, lease: Lease, folder: Path) -> None:
        self._bench = bench
        self._claim = claim
        self._lease = lease
        self._folder = folder
        self._from_step = 0 if claim.checkpoint is None else claim.checkpoint.step
        self._last_news_s = time.monotonic()
        self._outcome: Event | None = None

    def run(self) -> str:
        """Returns a word for the log; raises GivenUpError once the run is no longer ours."""
        bench, claim = self._bench, self._claim
        try:
            prepared = prepare(
                claim,
                self._folder,
                objects=bench.objects,
                models_dir=bench.models_dir,
                lease=self._lease,
            )
        except AttemptFailedError as error:
            return self._hand_back(Outcome.FAILED, error.failure)
        if self._must_stop():
            return self._hand_back(Outcome.STOPPED, None)
        with (
            Reporter(bench.ledger, claim.run_id, claim.fence, self._lease) as reporter,
            Committer(
                bench.objects, bench.ledger, claim, self._lease, prepared.output_dir
            ) as committer,
        ):
            return self._train(prepared, reporter, committer)

    def _train(self, prepared: Prepared, reporter: Reporter, committer: Committer) -> str:
        try:
            self._run_child(prepared, reporter, committer)
            failure = self._failure_of_outcome()
        except AttemptFailedError as error:
            failure = error.failure
        # What the child saved stands even where it failed afterwards: no progress is thrown away.
        reporter.flush()
        try:
            committer.wait()
            if failure is None and self._outcome is not None and self._outcome.type == "finished":
                committer.result(self._outcome)
                return "finished"
        except AttemptFailedError as error:
            failure = failure or error.failure
        return self._hand_back(Outcome.STOPPED if failure is None else Outcome.FAILED, failure)

    def _run_child(self, prepared: Prepared, reporter: Reporter, committer: Committer) -> None:
        """Supervise the child to its end; on the way out, however that comes, it is dead."""
        bench = self._bench
        child = Child(self._command(prepared), prepared.job, self._folder, os.environ)
        log.info("child_started", pid=child.pid)
        try:
            fault_point("attempt.child_started")
            with Feeder(
                prepared.order,
                self._claim.shards,
                prepared.shards_dir,
                limit_bytes=bench.scratch_bytes,
                from_step=prepared.from_step,
                fetch=shard_fetcher(self._claim, bench.objects, self._lease),
            ) as feeder:
                self._supervise(child, feeder, reporter, committer)
        finally:
            child.kill()
        if self._outcome is None:
            log.error("child_died", how=child.how_it_died(), output_tail=child.output_tail())
            message = f"The training process ended without an outcome ({child.how_it_died()})."
            raise AttemptFailedError(_infra("child_died", message))

    def _supervise(
        self, child: Child, feeder: Feeder, reporter: Reporter, committer: Committer
    ) -> None:
        while True:
            is_running = child.is_running  # asked before reading: nothing is written after it
            while events := child.events.read():
                for event in events:
                    self._note(event, feeder, reporter, committer)
            if not is_running:
                return
            self._lease.check()
            committer.check()
            if feeder.failure is not None:
                raise AttemptFailedError(feeder.failure)
            child.say(self._word())
            self._check_stall()
            if self._outcome is not None and self._quiet_s() > _EXIT_GRACE_S:
                log.warning("child_lingers")
                return
            time.sleep(_TICK_S)

    def _note(self, event: Event, feeder: Feeder, reporter: Reporter, committer: Committer) -> None:
        self._last_news_s = time.monotonic()
        feeder.reached(event.step)
        if event.type == "checkpoint":
            committer.checkpoint(event)
        if event.type in OUTCOMES:
            self._outcome = event
        data = {name: value for name, value in event.data.items() if name not in _LOCAL_PATHS}
        # A child that resumes says step 0 while it loads; the run does not go back.
        step = max(event.step, self._from_step)
        reporter.add(ChildEvent(type=event.type, step=step, data=data, number=event.seq))

    def _word(self) -> Word:
        if self._must_stop():
            return Word.STOP
        if self._lease.may_have_run_out:
            # Another holder may exist: train no further until our fence is confirmed.
            self._last_news_s = time.monotonic()  # a child that waits is not a hung one
            return Word.PAUSE
        return Word.RUN

    def _must_stop(self) -> bool:
        return self._bench.stopping.is_set() or self._lease.wish is not RequestedAction.RUN

    def _check_stall(self) -> None:
        if self._outcome is None and self._quiet_s() > self._bench.stall_s:
            self._lease.stop_renewing()
            message = f"The training process reported nothing for {self._bench.stall_s:g} s."
            raise AttemptFailedError(_infra("stalled", message))

    def _quiet_s(self) -> float:
        return time.monotonic() - self._last_news_s

    def _failure_of_outcome(self) -> Failure | None:
        assert self._outcome is not None
        if self._outcome.type != "failed":
            return None
        data = self._outcome.data
        try:
            category = Category(str(data.get("category")))
        except ValueError:
            category = Category.PLATFORM
        return Failure(
            code=str(data.get("code", "unknown")),
            category=category,
            message=str(data.get("message", "")),
            # A user's error stays one, whatever the child says of it.
            retryable=bool(data.get("retryable")) and category is not Category.USER,
        )

    def _hand_back(self, outcome: Outcome, failure: Failure | None) -> str:
        self._lease.until_answered(
            lambda: self._bench.ledger.hand_back(
                self._claim.run_id, self._claim.fence, outcome, failure
            ),
            doing="hand_back",
        )
        return outcome.value if failure is None else failure.code

    def _command(self, prepared: Prepared) -> Sequence[str]:
        if prepared.world_size == 1:
            return self._bench.child_command
        program, *rest = self._bench.child_command
        launcher = ("-m", "torch.distributed.run", "--standalone", "--max-restarts", "0")
        return (program, *launcher, "--nproc-per-node", str(prepared.world_size), *rest)


def _infra(code: str, message: str) -> Failure:
    return Failure(code=code, category=Category.INFRA, message=message, retryable=True)
