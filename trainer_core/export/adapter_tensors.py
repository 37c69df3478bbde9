"""The tensors of an adapter file, or of a checkpoint's adapter, module by module."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trainer_core.config.plan import AdaptedModule, LoraAdapter
from trainer_core.config.plan.shapes import LinearShape, lokr_scale
from trainer_core.errors import AdapterFileError
from trainer_core.weights.adapter_keys import ALPHA, Kind
from trainer_core.weights.entries import BadHeaderError, read_entries
from trainer_core.weights.lora_config import lora_config
from trainer_core.weights.start_adapter import (
    MAX_HEADER_BYTES,
    SCALAR,
    StateFile,
    stored_adapter,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleTensors:
    """The adapter of one linear layer."""

    matrices: Mapping[str, torch.Tensor]
    """``lokr_w1`` … ``lokr_w2_b``, or ``lora_A`` [rank, in] and ``lora_B`` [out, rank]; fp32."""
    scale: float
    """The change of the weight is scale · scalar times the product of the matrices."""
    scalar: float | None = None
    """LoKr's learned scalar; None where it is multiplied into ``lokr_w1``, as in adapter files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterTensors:
    kind: Kind
    modules: Mapping[str, ModuleTensors]
    """By path, in the model's order; never empty."""


def read_tensors(
    file: Path, linears: Sequence[LinearShape], state: StateFile | None = None
) -> AdapterTensors:
    """The adapter in ``file``; ``adapter_keys`` lists the names that are known.

    Alpha over rank comes from the file's ``alpha`` tensors or its metadata. A multiplier in the
    metadata is ignored.

    Args:
        file: safetensors.
        linears: linear layers of the base model; see ``hidream_linears``.
        state: set where the file is the state of a checkpoint.

    Raises:
        AdapterFileError: the file is missing, damaged or has another format, a tensor does not
            fit the base model, the number of modules differs from the metadata, or a value is not
            finite.
    """
    try:
        header = read_entries(file, limit_bytes=MAX_HEADER_BYTES)
    except BadHeaderError as error:
        raise AdapterFileError(str(error)) from error
    stored = stored_adapter(str(file), header, linears, state)
    tensors = _load(file, [name for parts in stored.modules.values() for name in parts.values()])
    config = lora_config(str(file), header.metadata)
    modules: dict[str, ModuleTensors] = {}
    for path, names in stored.modules.items():
        parts = {part: tensors[name] for part, name in names.items()}
        scalar = parts.pop(SCALAR, None)
        alpha = parts.pop(ALPHA, None)
        scale = (
            _file_scale(parts, None if alpha is None else float(alpha), config)
            if state is None
            else _state_scale(path, parts, state)
        )
        modules[path] = ModuleTensors(
            matrices=parts, scale=scale, scalar=None if scalar is None else float(scalar)
        )
        _check_finite(file, path, [*parts.values(), torch.tensor([scale, float(scalar or 0)])])
    return AdapterTensors(kind=stored.kind, modules=modules)


def _load(file: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name).float() for name in names}
    except (OSError, SafetensorError) as error:
        raise AdapterFileError(f"{file} cannot be read as safetensors: {error}") from error


def _file_scale(
    matrices: Mapping[str, torch.Tensor], alpha: float | None, config: Mapping[str, Any]
) -> float:
    """Alpha over rank, as lycoris 4.1.3 and peft take it."""
    if "lora_A" in matrices:
        rank = matrices["lora_A"].shape[0]
        if alpha is not None:
            return alpha / rank
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        return float(config.get("lora_alpha", rank)) / divisor
    ranks = [matrix.shape[0] for part, matrix in matrices.items() if part.endswith("_b")]
    return 1.0 if not ranks or alpha is None else alpha / ranks[-1]


def _state_scale(path: str, matrices: Mapping[str, torch.Tensor], state: StateFile) -> float:
    adapter = state.adapter
    if isinstance(adapter, LoraAdapter):
        return adapter.alpha / adapter.rank
    (module,) = (each for each in adapter.modules if each.path == path)
    return adapter.multiplier * _lokr_scale(module, matrices)


def _lokr_scale(module: AdaptedModule, matrices: Mapping[str, torch.Tensor]) -> float:
    shapes = {part.removeprefix("lokr_"): tuple(each.shape) for part, each in matrices.items()}
    return lokr_scale(module, shapes)


def _check_finite(file: Path, path: str, tensors: Sequence[torch.Tensor]) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise AdapterFileError(f"{file}: {path} holds values that are not finite")
