"""Prepares the local files that a training process needs to start, except for the cache entries."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from pydantic import JsonValue

from services.domain.failures import start_damaged
from services.domain.ledger import ChildEvent, StoredCheckpoint
from services.domain.starts import shown
from services.objects.errors import ObjectCorruptError
from services.objects.folders import get_folder
from services.objects.local_files import sha256_of
from services.trainer.auxiliary import autoencoder_folder, clip_folder
from services.trainer.commits import WAITING_CHECKPOINTS
from services.trainer.context import HeldRun
from services.trainer.failures import AttemptFailedError, infra_failed
from services.trainer.feed_order import FeedOrder
from services.trainer.intact import intact
from services.trainer.lease import Lease
from services.trainer.ranks import ranks_for
from services.workers.base_models import find_base_model
from services.workers.documents import read_index, read_plan
from trainer_core.base_models.describe import home_of
from trainer_core.base_models.unchanged import check_described
from trainer_core.config.plan import Plan
from trainer_core.data.length import steps_on
from trainer_core.data.orders import sampler_of
from trainer_core.errors import Category
from trainer_core.process.failure import Failure
from trainer_core.process.job import Job, MadeScore
from trainer_core.progress import SilentReporter

log = structlog.get_logger(__name__)

_SHARD_WAIT_S: Final = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The job of an attempt whose files are in place, except for the cache entries."""

    folder: Path
    """The scratch folder of this attempt."""
    job: Job
    from_step: int
    """The step of the checkpoint that it resumes from; 0 without one."""
    order: FeedOrder
    world_size: int
    """How many processes train it."""
    output_dir: Path
    shards_dir: Path


def prepare(held: HeldRun, folder: Path) -> Prepared:
    """Find the base model, download the newest intact checkpoint into ``folder``, build the job.

    Without a checkpoint the adapter that the run starts from is downloaded, where there is one.

    Raises AttemptFailedError, BaseModelError where the base model is damaged,
    UnreadableDocumentError, ObjectStoreError, OSError for the local disk, or NotWantedError.
    """
    claim = held.claim
    plan, index = read_plan(claim.plan), read_index(claim.data_index)
    if held.context.needs_gpu:
        plan = _on_a_gpu(plan)
    base_dir = _base_model(held, plan)
    output_dir, shards_dir = folder / "output", folder / "shards"
    output_dir.mkdir()
    shards_dir.mkdir()
    checkpoint = _fetch_checkpoint(held, folder)
    start_dir = _fetch_start(held, folder) if checkpoint is None else None
    clip_dir, autoencoder = clip_folder(held, plan), autoencoder_folder(held, plan)
    identity = plan.identity
    return Prepared(
        folder=folder,
        job=Job(
            plan=plan,
            index=index,
            base_model_dir=str(base_dir),
            shards_dir=str(shards_dir),
            entries_are_checked=True,
            output_dir=str(output_dir),
            resume_from=None if checkpoint is None else str(_resume_dir(folder, checkpoint)),
            start_from=None if start_dir is None else str(start_dir),
            pictures_made=claim.pictures,
            scores_made={
                path: MadeScore(
                    clip_score=score.clip_score,
                    similarity=score.similarity,
                    clip_model_digest=score.clip_model_digest,
                )
                for path, score in claim.picture_scores.items()
            },
            clip_dir=None if clip_dir is None else str(clip_dir),
            preview_autoencoder=None if autoencoder is None else str(autoencoder),
            waiting_checkpoints=WAITING_CHECKPOINTS,
            shard_wait_s=_SHARD_WAIT_S,
            node_cache=held.context.node_cache,
        ),
        from_step=0 if checkpoint is None else checkpoint.step,
        order=FeedOrder(
            index,
            sampler_of(identity, index),
            micro_batches_per_step=identity.micro_batches_per_step,
            last_step=steps_on(identity, index),
        ),
        world_size=ranks_for(plan, needs_gpu=held.context.needs_gpu, env=os.environ),
        output_dir=output_dir,
        shards_dir=shards_dir,
    )


def _on_a_gpu(plan: Plan) -> Plan:
    """The plan with the device ``cuda``; ``auto`` would train on the CPU where the GPU is gone."""
    operation = plan.operation.model_copy(update={"device": "cuda"})
    return plan.model_copy(update={"operation": operation})


def _base_model(held: HeldRun, plan: Plan) -> Path:
    claim, models_dir = held.claim, held.context.models_dir
    if not os.access(models_dir, os.R_OK | os.X_OK):
        message = "This worker cannot read its base models."
        raise infra_failed("base_models_unreadable", message)
    model = find_base_model(models_dir, claim.base_model)
    if model is None or model.digest != plan.identity.base.digest:
        # Another worker may have it.
        message = f"This worker does not have the base model {claim.base_model} of the plan."
        raise infra_failed("base_model_missing", message)
    check_described(model, home_of(os.environ), _WhileHeld(held.lease))
    return model.folder


class _WhileHeld(SilentReporter):
    """Ends long work where the lease is given up, or the run canceled."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def check_control(self) -> None:
        self._lease.check()


def _fetch_checkpoint(held: HeldRun, folder: Path) -> StoredCheckpoint | None:
    """Download the newest checkpoint that is intact; None where the run has none at all.

    Rows and objects of damaged ones are kept for the operator. Training reaches their steps again
    and replaces them. A warning names each damaged one, and the step from which the run goes on.
    """
    claim = held.claim
    if claim.checkpoint is None:
        return None
    damaged: list[StoredCheckpoint] = []
    for checkpoint in (claim.checkpoint, *claim.older_checkpoints):
        dest = _resume_dir(folder, checkpoint)

        def get(checkpoint: StoredCheckpoint = checkpoint, dest: Path = dest) -> None:
            get_folder(held.context.objects, checkpoint.files, dest)

        if intact(get, held.lease, doing="fetch_checkpoint"):
            _report_damaged(held, damaged, f" The run goes on from step {checkpoint.step}.")
            return checkpoint
        damaged.append(checkpoint)
        shutil.rmtree(dest, ignore_errors=True)
    _report_damaged(held, damaged, "")
    # Not retried: the next attempt would read the same objects. An operator must repair one.
    raise AttemptFailedError(
        Failure(
            code="checkpoint_corrupt",
            category=Category.INFRA,
            message=f"The checkpoint of step {claim.checkpoint.step} and all older ones are "
            "missing or damaged in the store.",
            retryable=False,
        )
    )


def _fetch_start(held: HeldRun, folder: Path) -> Path | None:
    """Download the adapter that the run starts from; None where it starts from none."""
    start = held.claim.start
    if start is None:
        return None
    dest = folder / "start"
    dest.mkdir()

    def get() -> None:
        for file in start.files:
            held.context.objects.get_to(file.key, dest / file.name)
            if sha256_of(dest / file.name) != file.sha256:
                raise ObjectCorruptError(file.key, "has another SHA-256 than the run names")

    if not intact(get, held.lease, doing="fetch_start"):
        raise AttemptFailedError(start_damaged(shown(start)))
    return dest


def _resume_dir(folder: Path, checkpoint: StoredCheckpoint) -> Path:
    """Named as in the child's output folder; the child reads the step from the manifest."""
    return folder / "resume" / f"step-{checkpoint.step:08d}"


def _report_damaged(held: HeldRun, damaged: Sequence[StoredCheckpoint], goes_on: str) -> None:
    if not damaged:
        return
    claim = held.claim
    warnings: list[ChildEvent] = []
    for each in damaged:
        log.error("checkpoint_damaged", step=each.step, key_prefix=each.files.key_prefix)
        message = f"The checkpoint of step {each.step} is missing or damaged in the store.{goes_on}"
        data: dict[str, JsonValue] = {"code": "checkpoint_corrupt", "message": message}
        warnings.append(ChildEvent(type="warning", step=held.from_step, data=data))
    held.lease.until_answered(
        lambda: held.context.ledger.event(claim.run_id, claim.fence, warnings), doing="report"
    )
