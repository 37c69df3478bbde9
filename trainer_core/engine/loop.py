"""A run from its first step to its result."""

from pathlib import Path

from trainer_core.disk import writing
from trainer_core.engine.complete import complete_step
from trainer_core.engine.control import check_control
from trainer_core.engine.evaluating import evaluate_if_due
from trainer_core.engine.evaluation import measure_loss
from trainer_core.engine.feed import Feed
from trainer_core.engine.finish import finish
from trainer_core.engine.pictures import make_first_pictures, make_pictures, report_training
from trainer_core.engine.reporting import (
    report_plan,
    report_stopped,
    report_warning,
)
from trainer_core.engine.saving import resume, save, save_if_unsaved, wait_until_stored
from trainer_core.engine.setup import load_run
from trainer_core.engine.shared_folder import check_shared
from trainer_core.engine.state import Run, TrainingState, open_run
from trainer_core.engine.throughput import Throughput
from trainer_core.errors import TrainerError
from trainer_core.faultpoints import fault_point
from trainer_core.process.control import Control, StopRequestedError
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job


def run_job(job: Job, events: EventWriter, control: Control) -> bool:
    """Load the job's models and data, then ``train``."""
    events.emit("stage", 0, {"stage": "loading"})
    loaded = load_run(job, control)
    fault_point("train.loaded")
    run = open_run(job, loaded, events, control)
    check_shared(run)
    is_finished = train(run)
    loaded.backend.close()
    return is_finished


def train(run: Run) -> bool:
    """Train from the start, or from the job's checkpoint, to the last step.

    Returns True after the last event ``finished``, and False after the last event ``stopped``. A
    failure is raised, and reported by the caller.
    """
    with writing(run.job.checkpoints_dir):  # missing later, it has gone with its disk
        run.job.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    state = TrainingState(throughput=Throughput(run.last_step))
    report_plan(run, state)
    if run.job.resume_from is not None:
        resume(run, state, Path(run.job.resume_from))
    run.loaded.start_times.end("resume_s")
    try:
        if state.step == 0:
            state.loss_before = measure_loss(run, state).as_json()
        evaluate_if_due(run, state)
        run.loaded.start_times.end("validation_s")
        if run.plan.operation.pictures is not None:
            make_first_pictures(run, state)
            run.loaded.start_times.end("pictures_s")
        report_training(run, state)
        with Feed(run, state.step) as feed:
            take_steps(run, state, feed)
        save_if_unsaved(run, state)
        run.backend.free_memory()
        with run.backend.with_means():
            finish(run, state, measure_loss(run, state))
    except StopRequestedError:
        save_if_unsaved(run, state)
        report_stopped(run, state)
        # torchrun ends the others 30 s after one has ended with this status: rank 0 writes first.
        run.backend.max_across_ranks(0)
        return False
    return True


def take_steps(run: Run, state: TrainingState, feed: Feed) -> None:
    """Take the remaining steps.

    The numbers of a step are read after the next step is launched, so that the device never waits
    for the host. Before a checkpoint, a pause and the end they are read at once.
    """
    for step in range(state.step + 1, run.last_step + 1):
        try:
            agreed = run.agreement.take()
            check_control(run, state, agreed=agreed.request)
            if not agreed.has_batches:
                feed.await_step()
            fault_point("train.before_launch")
            launched = run.backend.launch(
                feed.take(run.micro_batches_per_step // run.backend.ranks),
                count=run.micro_batches_per_step,
                step=step,
                learning_rate=run.learning_rate(step),
            )
            if step < run.last_step:
                run.agreement.offer(has_batch=feed.has_batch)
        except TrainerError:
            complete_step(run, state)
            raise
        complete_step(run, state)
        for message in run.backend.take_warnings():
            report_warning(run, state, "without_graph", message)
        state.launched = launched
        is_saved, has_pictures = run.is_checkpoint_step(step), run.is_picture_step(step)
        is_evaluated = run.is_evaluation_step(step)
        is_due = is_saved or has_pictures or is_evaluated
        if is_due or step == run.last_step or launched.is_done():
            complete_step(run, state)
        if is_evaluated:  # first, so that the checkpoint knows of it
            evaluate_if_due(run, state)
        if is_saved:
            save(run, state)
            if step < run.last_step:
                wait_until_stored(run, state)
        if has_pictures:
            if step == run.last_step:
                save_if_unsaved(run, state)
            make_pictures(run, state)
        if is_due:
            report_training(run, state)
