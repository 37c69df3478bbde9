"""The trained adapter in LyCORIS' own file format."""

import json
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue
from safetensors.torch import save_file

from trainer_core.adapters.lokr import LokrNetwork
from trainer_core.config.plan import AdaptedModule, LokrAdapter

ADAPTER_NAME: Final = "pytorch_lora_weights.safetensors"
CONFIG_NAME: Final = "lycoris_config.json"


def lycoris_tensors(network: LokrNetwork, adapter: LokrAdapter) -> dict[str, torch.Tensor]:
    """``lycoris_<path with underscores>.{lokr_w1, lokr_w2, alpha}``, fp32 on the CPU.

    The scalar is folded into w1, because LyCORIS' loader knows none. ``alpha`` equals the rank, as
    LyCORIS writes it for full matrices: the scale is 1. The multiplier stays outside: it is the
    first argument of the loader.
    """
    tensors = {}
    for path, linear in network.linears.items():
        key = f"lycoris_{path.replace('.', '_')}"
        w1 = linear.full_w1().detach() * (linear.scalar.detach() * linear.scale)
        tensors[f"{key}.lokr_w1"] = w1.float().cpu().contiguous()
        tensors[f"{key}.lokr_w2"] = linear.full_w2().detach().float().cpu().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(adapter.linear_dim))
    return tensors


def lycoris_config(adapter: LokrAdapter) -> dict[str, JsonValue]:
    """A LyCORIS config that adapts exactly the same modules of diffusers' transformer.

    Every module is named: what the tenant wrote may have meant other class names, and LyCORIS adds
    all linears where ``target_module`` is left out.
    """
    preset: dict[str, JsonValue] = {
        "target_module": [],
        "target_name": [module.path for module in adapter.modules],
    }
    overrides = {
        module.path: _override(module)
        for module in adapter.modules
        if module.factor != adapter.factor
    }
    if overrides:
        preset["name_algo_map"] = dict(overrides)
    return {
        "algo": "lokr",
        "multiplier": adapter.multiplier,
        "linear_dim": adapter.linear_dim,
        "linear_alpha": adapter.linear_alpha,
        "full_matrix": True,
        "use_scalar": adapter.use_scalar,
        "factor": adapter.factor,
        "apply_preset": preset,
    }


def _override(module: AdaptedModule) -> dict[str, JsonValue]:
    return {"algo": "lokr", "factor": module.factor}


def write_lycoris_files(
    folder: Path, network: LokrNetwork, adapter: LokrAdapter, *, base_model: str, step: int
) -> None:
    """Adapter and config into an existing folder; the config also goes into the file's metadata."""
    config = json.dumps(lycoris_config(adapter), indent=2)
    save_file(
        lycoris_tensors(network, adapter),
        folder / ADAPTER_NAME,
        metadata={
            "format": "pt",
            "lycoris_config": config,
            "base_model": base_model,
            "step": str(step),
        },
    )
    (folder / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
