"""What a checkpoint of a local run holds: which weights, of which adapter, of which base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from trainer_core.checkpoint.opening import OpenCheckpoint
from trainer_core.checkpoint.state_files import NotAStateError
from trainer_core.config.plan import LokrAdapter, LoraAdapter
from trainer_core.errors import CheckpointError
from trainer_core.export.origin import BASE_MODEL, Weights
from trainer_core.export.parameters_in_state import (
    NOT_A_STATE,
    ParametersInState,
    parameters_in_state,
    why_not_a_state,
)
from trainer_core.export.safetensors_file import FileType
from trainer_core.export.transformer_folder import file_type_of
from trainer_core.local.folder import job_beside
from trainer_core.process.job import Job
from trainer_core.progress import Reporter

Adapter = LokrAdapter | LoraAdapter

_ADAPTER: Final = TypeAdapter[Adapter | None](Adapter | None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The weights in a checkpoint that a result would have."""

    step: int
    weights: Weights
    parameters: ParametersInState
    adapter: Adapter | None
    """None: full rank."""
    file_type: FileType
    """Of an exported transformer."""
    base_name: str | None
    """None where neither the checkpoint nor a job beside it has it."""
    base_digest: str
    job: Job | None
    """The job that wrote the checkpoint, where it is beside it."""


def trained_in(checkpoint: OpenCheckpoint, weights: Weights | None, reporter: Reporter) -> Trained:
    """The weights that are asked for; None: the running mean (EMA) where the run keeps one.

    ``reporter`` gets progress as they are read. Raises CheckpointError where the checkpoint has not
    these weights, or does not tell its adapter.
    """
    manifest = checkpoint.manifest
    job = job_beside(checkpoint.folder, manifest)
    if job is not None and job.plan.identity.base.digest != manifest.base_digest:
        job = None
    named = manifest.scalars.get(BASE_MODEL)
    if not isinstance(named, str):
        named = None if job is None else job.plan.identity.base.name
    taken, parameters = _parameters(checkpoint, weights, reporter)
    return Trained(
        step=manifest.step,
        weights=taken,
        parameters=parameters,
        adapter=_adapter(checkpoint, job),
        file_type=_file_type(checkpoint, job),
        base_name=named,
        base_digest=manifest.base_digest,
        job=job,
    )


def not_the_state(checkpoint: OpenCheckpoint, error: Exception) -> CheckpointError:
    """For what the state lacks, or has in another form."""
    names, why = list(checkpoint.state), why_not_a_state(error)
    place = f"{checkpoint.folder.name}/{names[0]}" if len(names) == 1 else checkpoint.folder.name
    return CheckpointError(f"{place} is not the state of its run: {why}")


def _adapter(checkpoint: OpenCheckpoint, job: Job | None) -> Adapter | None:
    identity = checkpoint.manifest.identity
    if identity is None:
        if job is None:
            raise CheckpointError(
                f"{checkpoint.folder} was written by an older version, which did not note its "
                "adapter, and no job.json of its run is beside it"
            )
        return job.plan.identity.adapter
    try:
        return _ADAPTER.validate_python(identity.get("adapter"))
    except ValidationError as error:
        raise CheckpointError(
            f"{checkpoint.folder}: the adapter in its manifest cannot be read; it may be of a "
            "newer version"
        ) from error


def _file_type(checkpoint: OpenCheckpoint, job: Job | None) -> FileType:
    identity: Mapping[str, JsonValue] = checkpoint.manifest.identity or {}
    precision = identity.get("precision")
    if job is not None:
        precision = job.plan.identity.precision.model_dump(mode="json")
    return file_type_of(precision if isinstance(precision, dict) else {})


def _parameters(
    checkpoint: OpenCheckpoint, weights: Weights | None, reporter: Reporter
) -> tuple[Weights, ParametersInState]:
    done_bytes = 0

    def count(size_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += size_bytes
        reporter.progress("writing", done_bytes, parameters.size_bytes)
        reporter.check_control()

    try:
        has_mean = bool(parameters_in_state(checkpoint.state, "ema").tensors)
        if weights == "ema" and not has_mean:
            raise CheckpointError(
                f"{checkpoint.folder} has no running mean (EMA), because use_ema is off in its "
                "run: take the live weights, with --weights live"
            )
        taken: Weights = weights or ("ema" if has_mean else "live")
        parameters = parameters_in_state(checkpoint.state, taken, count)
        if not parameters.tensors:
            raise NotAStateError("it has no weights")
    except NOT_A_STATE as error:
        raise not_the_state(checkpoint, error) from error
    return taken, parameters
