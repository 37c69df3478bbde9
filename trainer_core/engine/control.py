"""Pause and stop requests of the supervisor; all ranks act on them at the same step."""

from trainer_core.engine.complete import complete_step
from trainer_core.engine.reporting import Stage, report_stage, report_step
from trainer_core.engine.state import Run, TrainingState
from trainer_core.process.control import ControlRequest, StopRequestedError


def check_control(
    run: Run,
    state: TrainingState,
    *,
    stage: Stage = "training",
    agreed: ControlRequest | None = None,
) -> None:
    """Wait while a pause is requested; raise StopRequestedError where a stop is.

    Every rank calls it before it launches the same step, or makes the same picture.

    Args:
        stage: in which the run goes on after a pause.
        agreed: what the ranks have agreed on; None: they agree now.
    """
    request = _request(run) if agreed is None else agreed
    if request is ControlRequest.PAUSE:
        complete_step(run, state)
        report_step(run, state)
        report_stage(run, state, "paused")
        while request is ControlRequest.PAUSE:
            run.control.wait()
            request = _request(run)
        state.throughput.start(state.step)
        report_stage(run, state, stage)
    if request is ControlRequest.STOP:
        raise StopRequestedError("a stop was requested")


def check_stop(run: Run) -> None:
    """Raise StopRequestedError where a stop is requested. Every rank calls it at the same place."""
    if _request(run) is ControlRequest.STOP:
        raise StopRequestedError("a stop was requested")


def check_own_stop(run: Run) -> None:
    """The same in a run of one process, at any place; one of several ranks may not stop alone."""
    if run.backend.ranks == 1:
        check_stop(run)


def _request(run: Run) -> ControlRequest:
    """The most urgent request that any rank has read.

    Ranks read the control file at slightly different times. If each acted on its own reading, one
    would stop while the others wait for it in a collective operation.
    """
    by_urgency = list(ControlRequest)
    own = by_urgency.index(run.control.requested())
    return by_urgency[run.backend.max_across_ranks(own)]
