"""Read a checkpoint into memory, after the checks of ``checkpoint.identity``."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer_core.checkpoint.identity import CheckpointIdentity, check_checkpoint
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
    """By the parameters' names; empty where the plan has no EMA."""


def read_checkpoint(
    folder: Path, run: CheckpointIdentity, *, last_step: int | None = None
) -> Checkpoint:
    """Check and read the checkpoint in ``folder``.

    Raises CheckpointError as ``check_checkpoint`` does, and where its tensors cannot be read.
    """
    manifest = check_checkpoint(folder, run, last_step=last_step)
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


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
