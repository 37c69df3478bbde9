"""Supervises the training process: dispatches its events and sends it control requests."""

import time
from typing import Final

import structlog

from services.domain.ledger import ChildEvent
from services.domain.previews import PREVIEW
from services.domain.samples import is_picture
from services.metrics.progress import AttemptProgress
from services.trainer.child import Child
from services.trainer.commits import Committer
from services.trainer.context import HeldRun
from services.trainer.failures import AttemptFailedError
from services.trainer.feeder import Feeder
from services.trainer.previews import Previews
from services.trainer.reporter import Reporter
from services.trainer.samples import Samples
from services.trainer.scratch_use import ScratchUse
from services.trainer.stage_spans import StageSpans
from services.trainer.stalls import StallWatch
from trainer_core.process.attempt_times import AttemptTimes
from trainer_core.process.control import ControlRequest
from trainer_core.process.events import OUTCOMES, Event

log = structlog.get_logger(__name__)

_TICK_S: Final = 0.1
_LAST_TICK_S: Final = 0.01
"""While the budget of the run ends: each moment is charged."""
_EXIT_GRACE_S: Final = 60.0
"""Time for the process to exit after its outcome event; driver teardown can take seconds."""
_LEDGER_ANSWERS_WITHIN_S: Final = 1.0
"""When the budget is used up; without an answer the training stops all the same."""
_LOCAL_PATHS: Final = frozenset({"path"})


class Supervision:
    """Supervises one training process until it ends."""

    def __init__(
        self,
        held: HeldRun,
        child: Child,
        feeder: Feeder,
        reporter: Reporter,
        committer: Committer,
        *,
        samples: Samples,
        previews: Previews,
        scratch_use: ScratchUse,
    ) -> None:
        self._held = held
        self._lease = held.lease
        self._child = child
        self._feeder = feeder
        self._reporter = reporter
        self._committer = committer
        self._samples = samples
        self._previews = previews
        self._scratch_use = scratch_use
        self._progress = AttemptProgress(held.from_step)
        self._times = AttemptTimes()
        context = held.context
        self._stalls = StallWatch(stall_s=context.stall_s, start_stall_s=context.start_stall_s)
        self._stage_spans = StageSpans(child.pid)
        self._outcome: Event | None = None

    def until_end(self) -> Event | None:
        """Wait for the end; the outcome event of the process, None where it ended without one.

        The process may still be running: the caller must kill it. Raises NotWantedError,
        AttemptFailedError for a hung process, and errors of the attempt's threads.
        """
        with self._stage_spans:
            return self._until_end()

    def _until_end(self) -> Event | None:
        while True:
            # Asked before the events are read, so that the last one is not missed.
            is_running = self._child.is_running
            for event in self._child.events.new_events():
                self._handle(event)
            if not is_running:
                return self._outcome
            self._check_threads()
            self._child.request(self._request())
            self._check_stall()
            if self._outcome is not None and self._stalls.silent_s > _EXIT_GRACE_S:
                log.warning("child_slow_to_exit")
                return self._outcome
            time.sleep(self._tick_s())

    def _tick_s(self) -> float:
        left_s = self._lease.budget.left_s
        return _TICK_S if left_s is None else min(_TICK_S, max(_LAST_TICK_S, left_s))

    def _handle(self, event: Event) -> None:
        self._stalls.note(event)
        self._times.note(event)
        self._stage_spans.note(event)
        self._scratch_use.note(event)
        self._feeder.reached(event.step)
        self._progress.note(event.name, event.step, event.data)
        if event.name == "checkpoint":
            self._committer.checkpoint(event)
        elif is_picture(event.name, event.data):
            data = {"t_s": event.t_s, **event.data}
            # Without its number: it is reported when its file is stored, after later events.
            self._samples.take(ChildEvent(type=event.name, step=event.step, data=data))
            return
        data = {name: value for name, value in event.data.items() if name not in _LOCAL_PATHS}
        if event.name == PREVIEW:  # without its number, too: most of them are left out
            self._previews.take(ChildEvent(type=event.name, step=event.step, data=data))
            return
        if event.name == "stage":
            self._lease.budget.enter(str(event.data.get("stage")))
        if event.name in OUTCOMES:
            self._outcome = event
            self._progress.enter(None)
            self._lease.budget.enter(None)
            data["times"] = self._times.as_json()
        # A process that resumes reports step 0 while it loads; a run's step never decreases.
        step = max(event.step, self._held.from_step)
        self._reporter.add(
            ChildEvent(
                type=event.name, step=step, data={"t_s": event.t_s, **data}, number=event.seq
            )
        )

    def _check_threads(self) -> None:
        self._lease.check()
        self._committer.check()
        self._reporter.check()
        if self._feeder.failure is not None:
            raise AttemptFailedError(self._feeder.failure)

    def _request(self) -> ControlRequest:
        if self._held.must_stop() or self._is_overdrawn():
            return ControlRequest.STOP
        if self._lease.may_have_run_out:
            # Another worker may hold the run: pause until a renewal succeeds.
            self._stalls.excuse()
            return ControlRequest.PAUSE
        if self._committer.has_full_queue or self._feeder.is_waited_for:
            self._stalls.excuse()
        return ControlRequest.RUN

    def _is_overdrawn(self) -> bool:
        """Whether the run's budget is used up, and the ledger, which is asked then, is silent."""
        left_s = self._lease.budget.left_s
        if left_s is None or left_s > 0:
            return False
        if left_s < -_LEDGER_ANSWERS_WITHIN_S:
            return True
        self._lease.renew_now()
        return False

    def _check_stall(self) -> None:
        problem = self._stalls.problem()
        if self._outcome is None and problem is not None:
            self._lease.stop_renewing()
            raise AttemptFailedError(problem)
