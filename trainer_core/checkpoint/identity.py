"""Checks whether a run may resume from a checkpoint. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from trainer_core.checkpoint.contents import base_differences, data_differences
from trainer_core.checkpoint.differences import differences
from trainer_core.checkpoint.folders import check_digests, read_manifest
from trainer_core.checkpoint.layout import CheckpointManifest
from trainer_core.checkpoint.matmul import matmul_of
from trainer_core.config.plan import Matmul
from trainer_core.config.plan.document import with_whole_steps
from trainer_core.data.orders import data_digest_of
from trainer_core.errors import CheckpointError
from trainer_core.process.job import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointIdentity:
    """Plan, data and base model of a run. A checkpoint resumes only a run with the same three."""

    identity_digest: str
    identity: dict[str, JsonValue]
    """``Plan.guarded_identity``, of which ``identity_digest`` is the digest."""
    data_digest: str
    base_digest: str
    matmul: Matmul
    """As the plan has it. ``auto`` resumes a checkpoint of any kind of products."""


def checkpoint_identity(job: Job) -> CheckpointIdentity:
    """The identity that the job's checkpoints have."""
    return CheckpointIdentity(
        identity_digest=job.plan.identity_digest(),
        identity=job.plan.guarded_identity(),
        data_digest=data_digest_of(job.plan.identity, job.index),
        base_digest=job.plan.identity.base.digest,
        matmul=job.plan.identity.precision.matmul,
    )


def check_checkpoint(
    folder: Path,
    run: CheckpointIdentity,
    *,
    last_step: int | None = None,
    jobs: tuple[Job, Job] | None = None,
    share: int = 0,
    shares: int = 1,
) -> CheckpointManifest:
    """Check that the run may resume from a checkpoint, and return its manifest.

    ``jobs``: of the run and of the checkpoint's; with them a refusal names files. ``share`` and
    ``shares``: as for ``check_digests``. Raises CheckpointError where

    - plan, data, base model or products differ; the message names the options that differ,
    - its step is after the run's ``last_step``,

    and CheckpointCorruptError where a file is missing or damaged.
    """
    manifest = read_manifest(folder)
    if differs := _differs(run, manifest, jobs):
        raise CheckpointError(f"{folder.name} cannot be resumed here: {'; '.join(differs)}")
    if last_step is not None and manifest.step > last_step:
        raise CheckpointError(
            f"the checkpoint is at step {manifest.step}, the plan ends at {last_step}"
        )
    return check_digests(folder, share=share, shares=shares)


def _differs(
    run: CheckpointIdentity, manifest: CheckpointManifest, jobs: tuple[Job, Job] | None
) -> list[str]:
    """What differs between the run and the checkpoint, as texts; empty where nothing does."""
    found: list[str] = []
    has_other_plan = run.identity_digest != manifest.identity_digest
    if has_other_plan and manifest.identity:
        there = with_whole_steps(manifest.identity)  # older ones have the ranks beside the steps
        found += differences(run.identity, there)
        has_other_plan = run.identity != there
    if run.matmul not in ("auto", kind := matmul_of(manifest)):
        found.append(f"base_model_matmul_precision: {run.matmul} here, {kind} in the checkpoint")
    if run.base_digest != manifest.base_digest:
        named = base_differences(*jobs) if jobs else []
        found += named or [_digests("the base model", run.base_digest, manifest.base_digest)]
    if run.data_digest != manifest.data_digest:
        found += _of_data(*jobs) if jobs else []
        # The options and the base model that the data is encoded with are named already.
        found += [] if found else [_digests("the data", run.data_digest, manifest.data_digest)]
    if has_other_plan and not found:
        found.append(_digests("the plan", run.identity_digest, manifest.identity_digest))
    return found


def _of_data(here: Job, there: Job) -> list[str]:
    names_count = here.plan.identity.sample_order == 1
    return data_differences(here.index, there.index, names_count=names_count)


def _digests(what: str, here: str, there: str) -> str:
    return f"{what}: {here[:12]} here, {there[:12]} in the checkpoint"
