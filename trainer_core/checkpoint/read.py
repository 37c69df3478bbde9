"""Checkpoints back into memory, once it is sure whose they are and that they are whole."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer_core.checkpoint.layout import MANIFEST_NAME, STATE_NAME, CheckpointManifest
from trainer_core.checkpoint.write import facts_of
from trainer_core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint in memory, on the CPU."""

    manifest: CheckpointManifest
    parameters: dict[str, torch.Tensor]
    optimizer_state: dict[str, torch.Tensor]
    """``<name>/<field>`` → tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Belongs:
    """What a run demands of a checkpoint that it goes on from."""

    identity_digest: str
    data_digest: str
    base_digest: str


def read_checkpoint(folder: Path, run: Belongs) -> Checkpoint:
    """The checkpoint in ``folder``.

    Raises CheckpointError where it is torn (missing file, other size or SHA-256, unreadable) or
    belongs to another run; the message names all that differs.
    """
    manifest = read_manifest(folder)
    differs = [
        f"{what} ({mine[:12]} in this run, {theirs[:12]} in the checkpoint)"
        for what, mine, theirs in (
            ("the plan's identity", run.identity_digest, manifest.identity_digest),
            ("the data", run.data_digest, manifest.data_digest),
            ("the base model", run.base_digest, manifest.base_digest),
        )
        if mine != theirs
    ]
    if differs:
        raise CheckpointError(f"{folder.name} cannot be resumed here: {'; '.join(differs)} differs")
    _check_files(folder, manifest)
    try:
        tensors = load_file(folder / STATE_NAME)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder.name}/{STATE_NAME} is not readable: {error}") from error
    return Checkpoint(
        manifest=manifest,
        parameters=_below("param/", tensors),
        optimizer_state=_below("optim/", tensors),
    )


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest alone; raises CheckpointError."""
    try:
        body = (folder / MANIFEST_NAME).read_bytes()
        return CheckpointManifest.model_validate_json(body)
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder.name} has no readable manifest: {error}") from error


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
