"""Everything a training process needs on local disk before it starts, but for the shards."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from services.domain.ledger import CachedShard, Claim
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folders import get_folder, get_shard
from services.objects.port import ObjectStore
from services.trainer.commits import AttemptFailedError
from services.trainer.feeder import FeedOrder, FetchFailedError
from services.trainer.lease import Lease
from trainer_core.base_models.describe import read_base_models
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex
from trainer_core.data.sampler import Sampler
from trainer_core.errors import BaseModelError, Category
from trainer_core.process.failure import Failure

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""A flipped bit on the way is cured by asking again; one at rest is not."""
_SHARD_WAIT_S: Final = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """An attempt that can start."""

    job: dict[str, Any]
    order: FeedOrder
    from_step: int
    world_size: int
    output_dir: Path
    shards_dir: Path


def prepare(
    claim: Claim, folder: Path, *, objects: ObjectStore, models_dir: Path, lease: Lease
) -> Prepared:
    """Find the base model, bring the newest checkpoint, write the job down.

    Raises AttemptFailedError, or GivenUpError once the run is no longer ours.
    """
    plan = Plan.model_validate(claim.plan)
    index = DataIndex.model_validate(claim.data_index)
    base_dir = _base_model(claim, plan, models_dir)
    output_dir, shards_dir = folder / "output", folder / "shards"
    output_dir.mkdir()
    shards_dir.mkdir()
    resume_from = _bring_checkpoint(claim, folder, objects, lease)
    identity = plan.identity
    return Prepared(
        job={
            "plan": claim.plan,
            "index": claim.data_index,
            "base_model_dir": str(base_dir),
            "shards_dir": str(shards_dir),
            "output_dir": str(output_dir),
            "resume_from": None if resume_from is None else str(resume_from),
            "shard_wait_s": _SHARD_WAIT_S,
        },
        order=FeedOrder(
            index=index,
            sampler=Sampler(index, identity.seed, identity.micro_batch_size),
            micro_batches_per_step=identity.accumulation_steps * identity.world_size,
        ),
        from_step=0 if claim.checkpoint is None else claim.checkpoint.step,
        world_size=identity.world_size,
        output_dir=output_dir,
        shards_dir=shards_dir,
    )


def shard_fetcher(
    claim: Claim, objects: ObjectStore, lease: Lease
) -> Callable[[CachedShard, Path], None]:
    """A function for the feeder: one shard, checked, onto local disk."""

    def fetch(shard: CachedShard, dest: Path) -> None:
        def get() -> None:
            get_shard(objects, claim.tenant_id, shard, dest)

        if not _intact(get, lease, doing="fetch_shard"):
            message = f"Cache shard {shard.digest} is missing or not what its manifest says."
            raise FetchFailedError(_infra("shard_corrupt", message, retryable=True))

    return fetch


def _base_model(claim: Claim, plan: Plan, models_dir: Path) -> Path:
    try:
        model = read_base_models(models_dir).get(claim.base_model)
    except BaseModelError as error:
        log.error("base_models_unreadable", reason=str(error))
        model = None
    if model is None or model.digest != plan.identity.base.digest:
        # Another worker may have it.
        message = f"This worker does not have the base model {claim.base_model} of the plan."
        raise AttemptFailedError(_infra("base_model_missing", message, retryable=True))
    return model.folder


def _bring_checkpoint(
    claim: Claim, folder: Path, objects: ObjectStore, lease: Lease
) -> Path | None:
    checkpoint = claim.checkpoint
    if checkpoint is None:
        return None
    # The name that it had where it was written: the child reads the step from the manifest.
    dest = folder / "resume" / f"step-{checkpoint.step:08d}"

    def get() -> None:
        get_folder(objects, checkpoint.files, dest)

    if not _intact(get, lease, doing="fetch_checkpoint"):
        # Not retried: the next attempt would meet the same object. An operator has to look.
        message = f"The checkpoint of step {checkpoint.step} is missing or damaged in the store."
        raise AttemptFailedError(_infra("checkpoint_corrupt", message, retryable=False))
    return dest


def _intact(get: Callable[[], None], lease: Lease, *, doing: str) -> bool:
    """Run ``get`` up to three times; False where it was damaged or missing each time."""
    for _ in range(_TRIES):
        try:
            lease.until_answered(get, doing=doing)
        except (ObjectCorruptError, ObjectMissingError) as error:
            log.warning(
                "object_damaged", doing=doing, error=type(error).__name__, reason=str(error)
            )
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - jitter, no secret
        else:
            return True
    return False


def _infra(code: str, message: str, *, retryable: bool) -> Failure:
    return Failure(code=code, category=Category.INFRA, message=message, retryable=retryable)
