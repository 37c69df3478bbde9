"""Checkpoints of a run: writing, retention, and resuming from one."""

from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue

from trainer_core.checkpoint.folders import committed_checkpoints, keep_newest
from trainer_core.checkpoint.identity import checkpoint_identity
from trainer_core.checkpoint.matmul import matmul_scalar
from trainer_core.checkpoint.ranks import CheckpointRanks
from trainer_core.checkpoint.read import read_checkpoint
from trainer_core.checkpoint.write import (
    CheckpointFacts,
    TrainedTensors,
    write_checkpoint,
    write_part,
)
from trainer_core.disk import require_folder
from trainer_core.engine.control import check_stop
from trainer_core.engine.determinism import environment_changes, environment_fingerprint
from trainer_core.engine.reporting import (
    report_checkpoint,
    report_stage,
    report_step,
    report_warning,
)
from trainer_core.engine.state import Run, TrainingState
from trainer_core.engine.step import Backend
from trainer_core.errors import NonFiniteLossError
from trainer_core.export.origin import BASE_MODEL
from trainer_core.export.parameters_in_memory import ParametersInMemory
from trainer_core.export.write_adapter import write_adapters
from trainer_core.faultpoints import fault_point
from trainer_core.validation.evaluations import evaluations_in

_LOSS_BEFORE = "probe_before"
"""Scalar of the manifest: the fixed validation loss before the first step."""
_EVALUATIONS = "evaluations"
"""Scalar of the manifest, where there are any."""


def save(run: Run, state: TrainingState) -> None:
    """Write a checkpoint of the current step and report it.

    Rank 0 writes it; where the tensors are sharded, each rank writes its own part of them.

    The step event always comes before the checkpoint event. Older checkpoints are deleted, except
    as many as ``keep_checkpoints`` of the job says, unless the supervisor deletes them. Raises
    NonFiniteLossError where a tensor is not finite, and DiskError.
    """
    report_step(run, state)
    report_stage(run, state, "checkpointing")
    trained, ranks = run.backend.tensors(), ranks_of(run.backend)
    _check_finite(trained, state.step, ranks)
    state.saved_step = state.step
    if state.evaluations is not None:
        state.evaluations = state.evaluations.with_checkpoint(state.step)
    if run.backend.rank != 0:
        if trained.is_sharded:
            write_part(run.job.checkpoints_dir, state.step, trained, ranks)
        return
    facts = CheckpointFacts(
        step=state.step,
        cursor=state.step * run.micro_batches_per_step,
        run=checkpoint_identity(run.job),
        scalars={
            _LOSS_BEFORE: state.loss_before,
            "loss": state.loss,
            **_evaluations_scalar(state),
            BASE_MODEL: run.plan.identity.base.name,
            **matmul_scalar(run.loaded.matmul),
            **environment_fingerprint(run.loaded.network.compute.device),
        },
    )
    folder = run.job.checkpoints_dir
    require_folder(folder)
    adapters = partial(
        write_adapters,
        identity=run.plan.identity,
        step=state.step,
        live=ParametersInMemory(trained.parameters),
        ema=ParametersInMemory(trained.ema) if trained.ema else None,
    )
    written = write_checkpoint(folder, facts, trained, adapters, ranks)
    fault_point("checkpoint.after_rename")
    if run.job.waiting_checkpoints is None:
        keep_newest(folder, run.job.keep_checkpoints, best_step=_best_step(state))
    fault_point("checkpoint.before_event")
    report_checkpoint(run, state, written)


def wait_until_stored(run: Run, state: TrainingState) -> None:
    """Wait while the supervisor still has to store ``waiting_checkpoints`` checkpoints of the job.

    So a kill costs no more steps than those since the last checkpoint but so many. Every rank calls
    it at the same step. Raises StopRequestedError where a stop is requested.
    """
    if not _has_to_wait(run):
        return
    while _has_to_wait(run):
        check_stop(run)
        run.control.wait()
    state.throughput.start(state.step)


def _has_to_wait(run: Run) -> bool:
    """What rank 0, which writes the checkpoints, finds on the disk; the answer of every rank."""
    limit = run.job.waiting_checkpoints
    if limit is None:
        return False
    waiting = len(committed_checkpoints(run.job.checkpoints_dir)) if run.backend.rank == 0 else 0
    return run.backend.max_across_ranks(waiting) >= limit


def save_if_unsaved(run: Run, state: TrainingState) -> None:
    """``save``, unless the current step already has a checkpoint."""
    if state.step > state.saved_step:
        save(run, state)


def resume(run: Run, state: TrainingState, folder: Path) -> None:
    """Continue from a checkpoint: set the state and the backend to what it holds.

    Raises CheckpointError where it is damaged, or written with another plan, data or base model.
    """
    checkpoint = read_checkpoint(
        folder,
        checkpoint_identity(run.job),
        last_step=run.last_step,
        ranks=ranks_of(run.backend),
    )
    manifest = checkpoint.manifest
    here = environment_fingerprint(run.loaded.network.compute.device)
    # Allowed: the result is as good, but not the same bit for bit.
    for message in environment_changes(manifest.scalars, here):
        report_warning(run, state, "other_environment", message)
    run.backend.load(checkpoint)
    state.step = state.saved_step = manifest.step
    before = manifest.scalars.get(_LOSS_BEFORE)
    state.loss_before = before if isinstance(before, dict) else None
    if run.evaluation_set is not None:
        written = manifest.scalars.get(_EVALUATIONS)
        state.evaluations = evaluations_in(written, run.evaluation_set.digest())
    loss = manifest.scalars.get("loss")
    state.loss = loss if isinstance(loss, float) else None


def _evaluations_scalar(state: TrainingState) -> dict[str, JsonValue]:
    if state.evaluations is None:
        return {}
    return {_EVALUATIONS: state.evaluations.model_dump(mode="json")}


def _best_step(state: TrainingState) -> int | None:
    """The step of the checkpoint with the lowest evaluation loss; None where none has one."""
    best = None if state.evaluations is None else state.evaluations.best_checkpoint
    return None if best is None else best.step


def _check_finite(trained: TrainedTensors, step: int, ranks: CheckpointRanks) -> None:
    """An update can overflow although loss and gradient are finite. Do not save its result."""
    if name := ranks.first_text(_not_finite(trained)):
        raise NonFiniteLossError(
            f"step {step}: after the update {name} has numbers that are not finite; the previous "
            "checkpoint is kept. Lower learning_rate or max_grad_norm."
        )


def _not_finite(trained: TrainedTensors) -> str:
    """The name of a tensor of this rank with such numbers; empty where there is none."""
    for tensors in (trained.parameters, trained.optimizer_state, trained.ema):
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return name
    return ""


def ranks_of(backend: Backend) -> CheckpointRanks:
    """The processes of a backend, for the functions that write and read checkpoints."""
    return CheckpointRanks(
        rank=backend.rank, count=backend.ranks, exchange=partial(_exchange, backend)
    )


def _exchange(backend: Backend, body: bytes) -> list[bytes]:
    """What each rank passes; a short text, sent as numbers."""
    length = backend.max_across_ranks(len(body))
    own = torch.zeros(backend.ranks, 1 + length, dtype=torch.float64)
    own[backend.rank, : 1 + len(body)] = torch.tensor([len(body), *body], dtype=torch.float64)
    told = backend.sum_across_ranks(own).long().tolist()
    return [bytes(row[1 : 1 + row[0]]) for row in told]
