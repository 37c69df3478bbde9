"""Prepares the local files that a training process needs to start, except for the shards."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pydantic
import structlog

from services.domain.ledger import CachedShard, Claim
from services.objects.errors import ObjectCorruptError, ObjectMissingError
from services.objects.folders import get_folder, get_shard
from services.trainer.context import HeldRun
from services.trainer.failures import AttemptFailedError, infra_failed, platform_failed
from services.trainer.feeder import FeedOrder
from services.trainer.lease import Lease
from services.workers.base_models import find_base_model
from trainer_core.config.plan import Plan
from trainer_core.data.index import DataIndex
from trainer_core.data.sampler import Sampler
from trainer_core.errors import Category
from trainer_core.process.failure import Failure
from trainer_core.process.job import Job

log = structlog.get_logger(__name__)

_TRIES: Final = 3
"""Damage in transit is repaired by a second download; damage in the store is not."""
_SHARD_WAIT_S: Final = 600

Document = TypeVar("Document", bound=pydantic.BaseModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The job of an attempt whose files are in place, except for the shards."""

    folder: Path
    """The scratch folder of this attempt."""
    job: Job
    order: FeedOrder
    world_size: int
    output_dir: Path
    shards_dir: Path


def prepare(held: HeldRun, folder: Path) -> Prepared:
    """Find the base model, download the newest checkpoint into ``folder``, build the job.

    Raises AttemptFailedError, ObjectStoreError, OSError for the local disk, or GivenUpError when
    the lease is lost.
    """
    claim = held.claim
    plan = _read(Plan, claim.plan, "plan")
    index = _read(DataIndex, claim.data_index, "data_index")
    base_dir = _base_model(claim, plan, held.context.models_dir)
    output_dir, shards_dir = folder / "output", folder / "shards"
    output_dir.mkdir()
    shards_dir.mkdir()
    resume_from = _fetch_checkpoint(held, folder)
    identity = plan.identity
    return Prepared(
        folder=folder,
        job=Job(
            plan=plan,
            index=index,
            base_model_dir=str(base_dir),
            shards_dir=str(shards_dir),
            output_dir=str(output_dir),
            resume_from=None if resume_from is None else str(resume_from),
            shard_wait_s=_SHARD_WAIT_S,
            node_cache=held.context.node_cache,
        ),
        order=FeedOrder(
            index=index,
            sampler=Sampler(index, identity.seed, identity.micro_batch_size),
            micro_batches_per_step=identity.accumulation_steps * identity.world_size,
        ),
        world_size=identity.world_size,
        output_dir=output_dir,
        shards_dir=shards_dir,
    )


def shard_fetcher(held: HeldRun) -> Callable[[CachedShard, Path], None]:
    """The feeder's function that downloads one shard to a path and verifies it."""

    def fetch(shard: CachedShard, dest: Path) -> None:
        def get() -> None:
            get_shard(held.context.objects, held.claim.tenant_id, shard, dest)

        if not _intact(get, held.lease, doing="fetch_shard"):
            message = f"Cache shard {shard.digest} is missing or does not match its manifest."
            raise infra_failed("shard_corrupt", message)

    return fetch


def _read(kind: type[Document], body: dict[str, Any], name: str) -> Document:
    """Parse a stored document of the run; not retried, because the document stays as it is."""
    try:
        return kind.model_validate(body)
    except pydantic.ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)  # inputs are the tenant's
        log.error("document_unreadable", document=name, errors=[e["loc"] for e in wrong[:10]])
        message = f"The stored {name.replace('_', ' ')} of the run cannot be read by this worker."
        raise platform_failed(f"{name}_unreadable", message) from error


def _base_model(claim: Claim, plan: Plan, models_dir: Path) -> Path:
    model = find_base_model(models_dir, claim.base_model)
    if model is None or model.digest != plan.identity.base.digest:
        # Another worker may have it.
        message = f"This worker does not have the base model {claim.base_model} of the plan."
        raise infra_failed("base_model_missing", message)
    return model.folder


def _fetch_checkpoint(held: HeldRun, folder: Path) -> Path | None:
    checkpoint = held.claim.checkpoint
    if checkpoint is None:
        return None
    # Named as in the child's output folder; the child reads the step from the manifest.
    dest = folder / "resume" / f"step-{checkpoint.step:08d}"

    def get() -> None:
        get_folder(held.context.objects, checkpoint.files, dest)

    if not _intact(get, held.lease, doing="fetch_checkpoint"):
        # Not retried: the next attempt would read the same object. An operator must repair it.
        message = f"The checkpoint of step {checkpoint.step} is missing or damaged in the store."
        raise AttemptFailedError(
            Failure(
                code="checkpoint_corrupt",
                category=Category.INFRA,
                message=message,
                retryable=False,
            )
        )
    return dest


def _intact(get: Callable[[], None], lease: Lease, *, doing: str) -> bool:
    """Download up to three times; False where the object was damaged or missing each time."""
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
