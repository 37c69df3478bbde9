"""Checkpoints back into memory, once it is sure whose they are and that they are whole."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer_core.checkpoint.differences import differences
from trainer_core.checkpoint.folders import facts_of, read_manifest
from trainer_core.checkpoint.layout import EMA, PARAMETER, STATE_NAME, CheckpointManifest
from trainer_core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint in memory, on the CPU."""

    manifest: CheckpointManifest
    parameters: dict[str, torch.Tensor]
    optimizer_state: dict[str, torch.Tensor]
    """By the keys of ``optim.state``."""
    ema: dict[str, torch.Tensor]
    """By the parameters' names; empty where the run keeps no mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Belongs:
    """What a run demands of a checkpoint that it goes on from."""

    identity_digest: str
    identity: dict[str, JsonValue]
    """See ``Plan.guarded_identity``."""
    data_digest: str
    base_digest: str


def read_checkpoint(folder: Path, run: Belongs) -> Checkpoint:
    """The checkpoint in ``folder``.

    Raises CheckpointError where it is torn (missing file, other size or SHA-256, unreadable) or
    belongs to another run; the message names all that differs.
    """
    manifest = read_manifest(folder)
    if differs := _differs(run, manifest):
        raise CheckpointError(f"{folder.name} cannot be resumed here: {'; '.join(differs)}")
    _check_files(folder, manifest)
    try:
        tensors = load_file(folder / STATE_NAME)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder.name}/{STATE_NAME} is not readable: {error}") from error
    parameters, ema = _below(PARAMETER, tensors), _below(EMA, tensors)
    others = tensors.keys() - {PARAMETER + name for name in parameters} - {EMA + n for n in ema}
    return Checkpoint(
        manifest=manifest,
        parameters=parameters,
        optimizer_state={key: tensors[key] for key in sorted(others)},
        ema=ema,
    )


def _differs(run: Belongs, manifest: CheckpointManifest) -> list[str]:
    """What of the checkpoint is not of this run, in words; empty where it belongs to it."""
    found: list[str] = []
    if run.identity_digest != manifest.identity_digest:
        fields = differences(run.identity, manifest.identity) if manifest.identity else []
        found += fields or [
            _digests("the plan's identity", run.identity_digest, manifest.identity_digest)
        ]
    if run.data_digest != manifest.data_digest:
        found.append(_digests("the data", run.data_digest, manifest.data_digest))
    if run.base_digest != manifest.base_digest:
        found.append(_digests("the base model", run.base_digest, manifest.base_digest))
    return found


def _digests(what: str, here: str, there: str) -> str:
    return f"{what}: {here[:12]} here, {there[:12]} in the checkpoint"


def _check_files(folder: Path, manifest: CheckpointManifest) -> None:
    if manifest.files.keys() != {STATE_NAME}:
        raise CheckpointError(f"{folder.name} holds {sorted(manifest.files)}")
    for name, facts in manifest.files.items():
        try:
            found = facts_of(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder.name}/{name}: {error.strerror}") from error
        if found != facts:
            raise CheckpointError(f"{folder.name}/{name} is not what its manifest says")


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
