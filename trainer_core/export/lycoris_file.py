"""Write a trained LoKr in LyCORIS' file format, which ComfyUI reads too.

At strength 1 every reader gets the adapter as trained, because scalar, alpha / dim and multiplier
are multiplied into the smallest matrix. Readers disagree on all three. LyCORIS' loader
ignores the scalar. Its ``merge_to()`` drops the loader's multiplier and applies alpha / dim twice.
ComfyUI ignores scalar and multiplier.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from trainer_core.config.plan import AdaptedModule, LokrAdapter
from trainer_core.config.plan.shapes import lokr_scale
from trainer_core.export.origin import ADAPTER_NAME, Origin

CONFIG_NAME: Final = "lycoris_config.json"
PREFIX: Final = "lycoris_"

_FACTORS: Final = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
_SCALED: Final = ("w1", "w1_a")
"""The factor that is scaled: w1, the smallest matrix, or w1_a, its first factor."""


def lycoris_tensors(
    parameters: Mapping[str, torch.Tensor], adapter: LokrAdapter
) -> dict[str, torch.Tensor]:
    """``lycoris_<path with underscores>.{lokr_w1 …, alpha}``, fp32 on the CPU.

    ``alpha`` equals the rank of a decomposed matrix, so alpha / dim is 1, and a reader may apply it
    twice.

    Args:
        parameters: ``<path>.w1`` and so on, trained or averaged.
        adapter: names the modules to write.

    Raises:
        KeyError: a module lacks its matrices.
    """
    tensors: dict[str, torch.Tensor] = {}
    for module in adapter.modules:
        key = PREFIX + module.path.replace(".", "_")
        factors = _factors_of(parameters, module.path)
        shapes = {name: tuple(factor.shape) for name, factor in factors.items()}
        scale = adapter.multiplier * lokr_scale(module, shapes)
        scalar = parameters.get(f"{module.path}.scalar")
        if scalar is not None:
            scale *= float(scalar.detach())
        for name, factor in factors.items():
            value = factor.detach().double().cpu()
            folded = value * scale if name in _SCALED else value
            tensors[f"{key}.lokr_{name}"] = folded.float().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(module.dim))
    return tensors


def lycoris_config(
    adapter: LokrAdapter, parameters: Mapping[str, torch.Tensor]
) -> dict[str, JsonValue]:
    """A LyCORIS config with which the file's matrices give the trained network.

    Every module is named, because the user's own patterns may match other classes in another model,
    and LyCORIS adapts all linear layers if ``target_module`` is missing. Names are matched as shell
    patterns: as a regular expression, ``to_q`` would match ``to_q_t`` too.
    """
    overrides: dict[str, JsonValue] = {}
    for module in adapter.modules:
        own = _overrides(adapter, module, is_decomposed=_is_decomposed(parameters, module.path))
        if own:
            overrides[module.path] = {"algo": "lokr", **own}
    preset: dict[str, JsonValue] = {
        "target_module": [],
        "target_name": [module.path for module in adapter.modules],
        "use_fnmatch": True,
    }
    if overrides:
        preset["name_algo_map"] = overrides
    return {
        "algo": "lokr",
        "multiplier": 1.0,  # folded
        "linear_dim": adapter.linear_dim,
        "linear_alpha": adapter.linear_alpha,
        "full_matrix": adapter.full_matrix,
        "decompose_both": adapter.decompose_both,
        "use_scalar": adapter.use_scalar,
        "factor": adapter.factor,
        "apply_preset": preset,
    }


def write_lycoris_files(
    folder: Path,
    parameters: Mapping[str, torch.Tensor],
    adapter: LokrAdapter,
    origin: Origin,
) -> None:
    """Write adapter and config into an existing folder; the metadata contain the config too."""
    config = json.dumps(lycoris_config(adapter, parameters), indent=2)
    save_file(
        lycoris_tensors(parameters, adapter),
        folder / ADAPTER_NAME,
        metadata={
            **origin.as_metadata(modules=len(adapter.modules)),
            "lycoris_config": config,
        },
    )
    (folder / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")


def _factors_of(parameters: Mapping[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
    found = {
        name: parameters[f"{path}.{name}"] for name in _FACTORS if f"{path}.{name}" in parameters
    }
    whole = {name.partition("_")[0] for name in found}
    if whole != {"w1", "w2"}:
        raise KeyError(f"{path}: no LoKr matrices, only {sorted(found)}")
    return found


def _is_decomposed(parameters: Mapping[str, torch.Tensor], path: str) -> bool:
    return f"{path}.w1_a" in parameters or f"{path}.w2_a" in parameters


def _overrides(
    adapter: LokrAdapter, module: AdaptedModule, *, is_decomposed: bool
) -> dict[str, JsonValue]:
    """The entries of this module that differ from the config's defaults."""
    # LyCORIS ignores alpha if both matrices are full; otherwise the file has alpha = dim.
    alpha = float(module.dim) if is_decomposed else adapter.linear_alpha
    pairs: tuple[tuple[str, JsonValue, JsonValue], ...] = (
        ("factor", module.factor, adapter.factor),
        ("dim", module.dim, adapter.linear_dim),
        ("alpha", alpha, adapter.linear_alpha),
        ("full_matrix", module.full_matrix, adapter.full_matrix),
        ("decompose_both", module.decompose_both, adapter.decompose_both),
        ("use_scalar", module.use_scalar, adapter.use_scalar),
    )
    return {name: value for name, value, common in pairs if value != common}
