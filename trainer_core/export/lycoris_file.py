"""The trained LoKr in LyCORIS' own file format, which ComfyUI reads too.

At strength 1 the file is the adapter as it was trained, whoever reads it: scalar, alpha / dim and
multiplier are all folded into the smallest matrix. Readers do not agree on any of them: LyCORIS'
loader knows no scalar, its ``merge_to()`` drops the multiplier that the loader was given and takes
alpha / dim twice, and ComfyUI knows neither scalar nor multiplier.
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
"""The one that takes the scale: w1 is the smallest matrix, or the product of the smallest two."""


def lycoris_tensors(
    parameters: Mapping[str, torch.Tensor], adapter: LokrAdapter
) -> dict[str, torch.Tensor]:
    """``lycoris_<path with underscores>.{lokr_w1 …, alpha}``, fp32 on the CPU.

    ``alpha`` equals the rank of what is decomposed, so alpha / dim is 1 however often it is taken.

    Args:
        parameters: ``<path>.w1`` and so on, trained or averaged.
        adapter: with the modules that the file is to hold.

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
    """A LyCORIS config whose network takes the file's matrices and makes the same of them.

    Every module is named: what the tenant wrote may have meant other class names, and LyCORIS adds
    all linears where ``target_module`` is left out. Names are matched as shell patterns; as regular
    expressions ``to_q`` would take ``to_q_t`` along.
    """
    overrides: dict[str, JsonValue] = {}
    for module in adapter.modules:
        special = _special(adapter, module, is_decomposed=_is_decomposed(parameters, module.path))
        if special:
            overrides[module.path] = {"algo": "lokr", **special}
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
    """Adapter and config into an existing folder; the config also goes into the file's metadata."""
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


def _special(
    adapter: LokrAdapter, module: AdaptedModule, *, is_decomposed: bool
) -> dict[str, JsonValue]:
    """In what this module differs from the config's own entries."""
    # Where both matrices are full LyCORIS does not look at alpha; elsewhere the file says dim.
    alpha = float(module.dim) if is_decomposed else adapter.linear_alpha
    pairs: tuple[tuple[str, JsonValue, JsonValue], ...] = (
        ("factor", module.factor, adapter.factor),
        ("dim", module.dim, adapter.linear_dim),
        ("alpha", alpha, adapter.linear_alpha),
        ("full_matrix", module.full_matrix, adapter.full_matrix),
        ("decompose_both", module.decompose_both, adapter.decompose_both),
        ("use_scalar", module.use_scalar, adapter.use_scalar),
    )
    return {name: own for name, own, common in pairs if own != common}
