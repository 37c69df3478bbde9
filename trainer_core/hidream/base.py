"""Loads the base model of a run in the form in which the run multiplies it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import HiDreamImageTransformer2DModel
from pydantic import JsonValue
from torch import nn

from trainer_core.adapters.full import stays_in_place
from trainer_core.config.plan import MatmulKind, Plan
from trainer_core.config.plan.frozen import digest_of
from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import empty_transformer, fill_from_folder
from trainer_core.hidream.stacks import linear_stacks
from trainer_core.precision.base_weights import (
    WEIGHTS,
    allocate,
    fill,
    linears_of,
    source_targets,
    state_targets,
)
from trainer_core.precision.compute import Compute
from trainer_core.precision.eight_bits import ROUNDING_VERSION, rounding_targets
from trainer_core.precision.linear8 import dtype8_of, hold_in_8bit
from trainer_core.precision.quanto import quantizing_targets
from trainer_core.weights.files import kept_name
from trainer_core.weights.kept import KeptWeights

Source = Literal["published", "kept"]
"""``published``: the base model's own files. ``kept``: 8-bit weights of an earlier run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBase:
    """A base model on its device, in eval mode."""

    transformer: HiDreamImageTransformer2DModel
    preparation: tuple[str, ...]
    """The steps that prepared it, in order."""
    source: Source


def load_base(
    folder: Path,
    plan: Plan,
    compute: Compute,
    matmul: MatmulKind,
    kept: KeptWeights | None = None,
    *,
    on_host: Collection[str] = (),
) -> LoadedBase:
    """Load the transformer of a run straight to its device.

    - 8-bit products: linears are rounded to 8 bits as their weights arrive. The rounded weights
      are kept for the next run, which reads half the bytes.
    - int8 by quanto: linears are quantised as their weights arrive, on the device that the plan
      names.
    - Else weights are cast.

    Weights that are multiplied together lie together in memory, as ``linear_stacks`` says, unless
    they are moved later, into one tensor or by DeepSpeed.

    Args:
        folder: the base model's folder. Its weight files may be missing if the weights are kept.
        plan: of the run.
        compute: device and types.
        matmul: how the run multiplies with the base.
        kept: where 8-bit weights are kept; None: nowhere.
        on_host: paths of frozen linears whose weights go to the CPU, and later to pinned memory.

    Raises:
        BaseModelError: a tensor is missing, unexpected or damaged.
    """
    model = empty_transformer(folder, compute.weights)
    dtype8 = dtype8_of(matmul)
    if dtype8 is not None:
        digest = plan.identity.base.digest
        return _load_in_8_bits(
            model, folder, digest, dtype8, device=compute.device, kept=kept, on_host=on_host
        )
    if plan.identity.precision.base == "int8-quanto":
        done = _fill_quantized(model, folder, plan, compute.device)
    else:
        stacks = linear_stacks(model) if stays_in_place(plan) else ()
        allocate_base(model, compute.device, stacks, on_host)
        fill_from_folder(source_targets(model), folder, compute.device)
        done = (f"moved to {compute.device.type}",)
    return LoadedBase(transformer=model, preparation=done, source="published")


def _fill_quantized(
    model: nn.Module, folder: Path, plan: Plan, device: torch.device
) -> tuple[str, ...]:
    via = plan.operation.quantize_via
    reading = torch.device("cpu") if via == "cpu" else device
    linears = [path for path, _ in linears_of(model.requires_grad_(False))]
    allocate(model, device, without={f"{path}.weight" for path in linears})
    fill_from_folder(quantizing_targets(model, device), folder, reading)
    steps = (f"quantized {len(linears)} linears on {reading.type}", f"moved to {device.type}")
    return steps if via == "cpu" else steps[::-1]


def _load_in_8_bits(
    model: HiDreamImageTransformer2DModel,
    folder: Path,
    digest: str,
    dtype8: torch.dtype,
    *,
    device: torch.device,
    kept: KeptWeights | None,
    on_host: Collection[str],
) -> LoadedBase:
    count = hold_in_8bit(model.requires_grad_(False), torch.device("meta"), dtype8)
    key = _key(model, digest)
    allocate_base(model, device, linear_stacks(model), on_host)
    steps: tuple[str, ...] = (
        f"moved to {device.type}",
        f"{count} linears held in 8 bits",
    )
    if kept is not None and _fill_from_kept(model, kept, key, device):
        return LoadedBase(transformer=model, preparation=steps, source="kept")
    fill_from_folder(rounding_targets(model), folder, device)
    reason = None if kept is None else kept.keep(key, model.state_dict())
    if reason is not None:
        steps = (*steps, f"8-bit weights are not kept: {reason}")
    return LoadedBase(transformer=model, preparation=steps, source="published")


def allocate_base(
    model: nn.Module,
    device: torch.device,
    stacks: Sequence[Sequence[str]],
    on_host: Collection[str],
) -> None:
    """As ``allocate``, with the weights of the linears ``on_host`` on the CPU."""
    names = model.state_dict().keys()
    away = {f"{path}.{name}" for path in on_host for name in WEIGHTS} & names
    allocate(model, device, stacks=stacks, without=away)
    if away:
        allocate(model, torch.device("cpu"), stacks=stacks, without=names - away)


def _fill_from_kept(model: nn.Module, kept: KeptWeights, key: str, device: torch.device) -> bool:
    """Whether a whole entry was read; a damaged one is deleted."""
    stored = kept.find(key)
    if stored is None:
        return False
    try:
        fill(state_targets(model), stored, device, source=str(kept.folder / key))
    except (BaseModelError, OSError):
        kept.discard(key)
        return False
    return True


def _key(model: nn.Module, digest: str) -> str:
    """Of the base model, and of the form in which ``model`` holds it."""
    form: dict[str, JsonValue] = {
        name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in model.state_dict().items()
    }
    return kept_name(digest, digest_of([form, ROUNDING_VERSION]))
