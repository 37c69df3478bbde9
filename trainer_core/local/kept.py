"""What a run that goes on keeps of the run that it goes on with: the seed, the order of samples."""

import contextlib
from pathlib import Path

from pydantic import JsonValue

from trainer_core.checkpoint.folders import read_manifest
from trainer_core.config.plan import Plan
from trainer_core.config.plan.frozen import digest_of
from trainer_core.data.index import DataIndex
from trainer_core.data.orders import data_digest_of
from trainer_core.local.folder import JOB_NAME
from trainer_core.local.start import StartedRun
from trainer_core.process.job import BadJobError, read_job


def run_digest(plan: Plan, index: DataIndex, *, seed_is_drawn: bool) -> str:
    """Digest of the plan and the data, without the seed if it was drawn at random."""
    drawn: dict[str, JsonValue] = {"seed": None} if seed_is_drawn else {}
    return digest_of([plan.guarded_identity() | drawn, data_digest_of(plan.identity, index)])


def with_kept_seed(plan: Plan, checkpoint: Path | None, output_dir: Path) -> Plan:
    """The plan with the seed that was drawn when the run started; a resume needs the same seed."""
    identity = None if checkpoint is None else read_manifest(checkpoint).identity
    seed = None if identity is None else identity.get("seed")
    # There may be no checkpoint yet, or an old one that stores no identity.
    if seed is None and plan.operation.resume_from:
        with contextlib.suppress(BadJobError):
            seed = read_job(output_dir / JOB_NAME).plan.identity.seed
    return _changed(plan, seed=seed) if isinstance(seed, int) else plan


def with_kept_order(plan: Plan, checkpoint: Path | None) -> Plan:
    """The plan with the order of samples that the checkpoint's run began with.

    Runs of versions that had one order only say nothing of it.
    """
    if checkpoint is None:
        return plan
    order = (read_manifest(checkpoint).identity or {}).get("sample_order", 1)
    return _changed(plan, sample_order=1) if order == 1 else plan


def with_started_order(
    plan: Plan, index: DataIndex, started: StartedRun | None, *, seed_is_drawn: bool
) -> Plan:
    """The plan with the order of the unfinished run, where it is this run in the older order."""
    earlier = _changed(plan, sample_order=1)
    if started is None or started.digest != run_digest(earlier, index, seed_is_drawn=seed_is_drawn):
        return plan
    return earlier


def _changed(plan: Plan, **fields: JsonValue) -> Plan:
    return plan.model_copy(update={"identity": plan.identity.model_copy(update=fields)})
