"""Read an adapter: the change that a LoKr or LoRA file makes to each linear layer.

Nothing is skipped. A key without a linear layer in the base model is an error, and so is a number
of modules that differs from the file's metadata. LyCORIS' loader ignores both silently.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError, safe_open

from trainer_core.config.plan.shapes import LinearShape
from trainer_core.errors import AdapterFileError
from trainer_core.export.lora_layout import METADATA_KEY
from trainer_core.export.lycoris_layout import PREFIX as LYCORIS_PREFIX

_LORA_PREFIXES: Final = ("transformer.", "diffusion_model.")
_LORA_PARTS: Final = {
    ".lora_A.weight": "lora_A",
    ".lora_down.weight": "lora_A",
    ".lora_B.weight": "lora_B",
    ".lora_up.weight": "lora_B",
    ".alpha": "alpha",
}
_LOKR_PARTS: Final = frozenset(
    f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
) | {"alpha"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleDelta:
    """The change of one linear layer as two factors; ``matrix`` computes their product."""

    kind: Literal["lokr", "lora"]
    left: torch.Tensor
    """LoKr: w1 [a, c]. LoRA: B [out, rank]. fp32."""
    right: torch.Tensor
    """LoKr: w2 [K, D]. LoRA: A [rank, in]. fp32."""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        (rows, columns), (below, across) = self.left.shape, self.right.shape
        return (rows * below, columns * across) if self.kind == "lokr" else (rows, across)

    def matrix(self) -> torch.Tensor:
        """The change of the weight: [out, in], fp32 on the CPU."""
        left = self.left * self.scale
        return torch.kron(left, self.right) if self.kind == "lokr" else left @ self.right


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """A complete adapter; each of its modules is a linear layer of the base model."""

    kind: Literal["lokr", "lora"]
    deltas: Mapping[str, ModuleDelta]
    """Path of the module in diffusers' transformer → its change; never empty."""


def read_adapter(file: Path, linears: Iterable[LinearShape]) -> AdapterFile:
    """The adapter in ``file``: LoKr as LyCORIS writes it, LoRA as diffusers or ComfyUI writes it.

    Alpha over rank is applied once, from the file's ``alpha`` tensors or its metadata. A multiplier
    in the metadata is ignored: the caller chooses the strength.

    Args:
        file: safetensors.
        linears: linear layers of the base model; see ``hidream_linears``.

    Raises:
        AdapterFileError: the file is missing or has another format, a key or a shape does not
            fit the base model, the number of modules differs from the metadata, or a value is
            not finite.
    """
    tensors, metadata = _read(file)
    shapes = {linear.path: (linear.out_features, linear.in_features) for linear in linears}
    if any(".lokr_" in key for key in tensors):
        kind: Literal["lokr", "lora"] = "lokr"
        deltas = _lokr_deltas(file, tensors, shapes)
    elif any(".lora_" in key for key in tensors):
        kind = "lora"
        deltas = _lora_deltas(file, tensors, metadata, shapes)
    else:
        raise AdapterFileError(f"{file} contains neither a LoKr nor a LoRA")
    _check_count(file, deltas, metadata)
    for path, delta in deltas.items():
        if delta.shape != shapes[path]:
            raise AdapterFileError(
                f"{file}: {path} would change a weight of {delta.shape}, the base model has "
                f"{shapes[path]}: the adapter was made for another model"
            )
        factors = (delta.left, delta.right, torch.tensor(delta.scale))
        if not all(factor.isfinite().all() for factor in factors):
            raise AdapterFileError(f"{file}: {path} holds values that are not finite")
    return AdapterFile(kind=kind, deltas=deltas)


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118 - not a dict
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise AdapterFileError(f"{file} cannot be read as safetensors: {error}") from error


def _lokr_deltas(
    file: Path, tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, ModuleDelta]:
    paths = {LYCORIS_PREFIX + path.replace(".", "_"): path for path in shapes}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if name not in paths or part not in _LOKR_PARTS:
            raise _foreign(file, key)
        parts.setdefault(paths[name], {})[part] = tensor
    return {path: _lokr_delta(file, path, parts[path]) for path in shapes if path in parts}


def _lokr_delta(file: Path, path: str, parts: Mapping[str, torch.Tensor]) -> ModuleDelta:
    matrices = []
    rank: int | None = None
    for name in ("lokr_w1", "lokr_w2"):
        match [parts.get(name), parts.get(f"{name}_a"), parts.get(f"{name}_b")]:
            case [torch.Tensor() as whole, None, None]:
                matrices.append(_matrix(file, path, whole))
            case [None, torch.Tensor() as a, torch.Tensor() as b]:
                matrices.append(_product(file, path, a, b))
                rank = b.shape[0]
            case _:
                raise AdapterFileError(f"{file}: {path} lacks {name}, or has it twice")
    alpha = _alpha(file, path, parts["alpha"]) if "alpha" in parts else None
    scale = 1.0 if rank is None or alpha is None else alpha / rank
    return ModuleDelta(kind="lokr", left=matrices[0], right=matrices[1], scale=scale)


def _lora_deltas(
    file: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, ModuleDelta]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        path, part = _lora_place(key)
        if path not in shapes or part is None:
            raise _foreign(file, key)
        parts.setdefault(path, {})[part] = tensor
    config = _lora_config(file, metadata)
    return {path: _lora_delta(file, path, parts[path], config) for path in shapes if path in parts}


def _lora_delta(
    file: Path, path: str, parts: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> ModuleDelta:
    if not {"lora_A", "lora_B"} <= parts.keys():
        raise AdapterFileError(f"{file}: {path} lacks one of its two matrices")
    down, up = _matrix(file, path, parts["lora_A"]), _matrix(file, path, parts["lora_B"])
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise AdapterFileError(f"{file}: {path} has matrices of two ranks")
    if "alpha" in parts:
        scale = _alpha(file, path, parts["alpha"]) / rank
    else:
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        scale = config.get("lora_alpha", rank) / divisor
    return ModuleDelta(kind="lora", left=up, right=down, scale=scale)


def _lora_place(key: str) -> tuple[str, str | None]:
    """The module path and the part in a key; the part is None if the key is not a LoRA's."""
    for suffix, part in _LORA_PARTS.items():
        for prefix in _LORA_PREFIXES:
            if key.startswith(prefix) and key.endswith(suffix):
                return key[len(prefix) : -len(suffix)], part
    return key, None


def _lora_config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's LoraConfig from the metadata; empty if there is none."""
    try:
        # Integers are read as floats, so a huge one becomes infinite and is refused.
        packed = json.loads(metadata.get(METADATA_KEY, "{}"), parse_int=float)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file}: its {METADATA_KEY} is not JSON") from error
    if not isinstance(packed, dict):
        raise AdapterFileError(f"{file}: its {METADATA_KEY} is not an object")
    config = {name.removeprefix("transformer."): value for name, value in packed.items()}
    for name in ("alpha_pattern", "use_dora"):
        if config.get(name):
            raise AdapterFileError(f"{file}: {name} in its {METADATA_KEY} is not supported")
    if not isinstance(config.get("lora_alpha", 1.0), float):
        raise AdapterFileError(f"{file}: lora_alpha in its {METADATA_KEY} is not a number")
    return config


def _alpha(file: Path, path: str, tensor: torch.Tensor) -> float:
    if tensor.numel() != 1:
        raise AdapterFileError(f"{file}: {path} has an alpha of {tensor.numel()} numbers")
    return float(tensor)


def _check_count(
    file: Path, deltas: Mapping[str, ModuleDelta], metadata: Mapping[str, str]
) -> None:
    stated = metadata.get("modules")
    if stated is not None and stated != str(len(deltas)):
        raise AdapterFileError(f"{file} holds {len(deltas)} modules and says that it has {stated}")


def _matrix(file: Path, path: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise AdapterFileError(f"{file}: {path} has a factor of shape {tuple(tensor.shape)}")
    return tensor


def _product(file: Path, path: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if _matrix(file, path, a).shape[1] != _matrix(file, path, b).shape[0]:
        raise AdapterFileError(f"{file}: {path} has factors that do not fit each other")
    return (a.double() @ b.double()).float()


def _foreign(file: Path, key: str) -> AdapterFileError:
    return AdapterFileError(
        f"{file}: {key} belongs to no linear layer of this base model, or to a kind of adapter "
        "that is not supported (LoKr and LoRA are)"
    )
