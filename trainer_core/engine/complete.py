"""Completes a launched step: its numbers become the run's state, and its event is written."""

from trainer_core.engine.reporting import report_start, report_step
from trainer_core.engine.state import Run, TrainingState
from trainer_core.faultpoints import fault_point


def complete_step(run: Run, state: TrainingState) -> None:
    """Wait for the step that is launched, if one is, and report it if it is due.

    Afterwards parameters and optimizer state are those after ``state.step``. Raises
    NonFiniteLossError where the step was not finite; it has then changed nothing.
    """
    launched, state.launched = state.launched, None
    if launched is None:
        return
    state.pending_event = launched.read()
    state.loss = state.pending_event.loss
    state.step += 1
    fault_point("train.after_step")
    if not state.has_started:
        state.has_started = True
        run.loaded.start_times.end("first_step_s")
        report_start(run, state)
    if state.throughput.is_due(state.step):
        report_step(run, state)
