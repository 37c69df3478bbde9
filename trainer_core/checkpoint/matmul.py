"""How a run multiplies with the base, and where its checkpoints store it. Imports no torch."""

from pathlib import Path
from typing import Final, get_args

from pydantic import JsonValue

from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.layout import CheckpointManifest
from trainer_core.config.plan import MatmulKind
from trainer_core.config.plan.matmul import Capability, MatmulPick, pick_matmul, picked_earlier
from trainer_core.errors import CheckpointError
from trainer_core.process.job import Job

_SCALAR: Final = "matmul"
"""Scalar of the manifest: the kind that the run picked."""
_KINDS: Final[tuple[MatmulKind, ...]] = get_args(MatmulKind)


def matmul_scalar(pick: MatmulPick) -> dict[str, JsonValue]:
    """The entry of the manifest's scalars that ``matmul_of`` reads."""
    return {_SCALAR: pick.kind}


def matmul_of(manifest: CheckpointManifest) -> MatmulKind:
    """How the checkpoint's run multiplied.

    Older versions stored nothing and had no 8-bit products. Raises CheckpointError for a kind that
    this version does not have.
    """
    stored = manifest.scalars.get(_SCALAR, "no_change")
    for kind in _KINDS:
        if kind == stored:
            return kind
    raise CheckpointError(f"the checkpoint was trained with {stored} products, unknown here")


def matmul_for(job: Job, capability: Capability | None) -> MatmulPick:
    """How the job's run multiplies: picked for its card, or as in the checkpoint it resumes from.

    Args:
        job: a checkpoint that contradicts the plan is left to ``check_checkpoint``.
        capability: of the run's card; None: it runs on a CPU.

    Raises:
        DeviceError: the card does not have the products of the plan or of the checkpoint.
        CheckpointError: the checkpoint cannot be read.
    """
    if job.resume_from is None:
        return pick_matmul(job.plan.identity.precision, capability)
    return picked_earlier(matmul_of(read_manifest(Path(job.resume_from))), capability)
