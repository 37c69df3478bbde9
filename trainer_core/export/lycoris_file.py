"""Write a trained LoKr; ``lycoris_layout`` has the format."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainer_core.config.plan import LokrAdapter
from trainer_core.export.folding import folded
from trainer_core.export.lycoris_layout import (
    CONFIG_NAME,
    lycoris_alphas,
    lycoris_config,
    lycoris_layout,
)
from trainer_core.export.origin import ADAPTER_NAME, Origin


def write_lycoris_files(
    folder: Path,
    parameters: Mapping[str, torch.Tensor],
    adapter: LokrAdapter,
    origin: Origin,
) -> None:
    """Write adapter and config into an existing folder; the metadata contain the config too.

    Args:
        parameters: ``<path>.w1`` and so on, trained or averaged.

    Raises KeyError where a module lacks its matrices.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    layout = lycoris_layout(adapter, shapes, lambda name: float(parameters[name].detach()))
    alphas = {name: torch.tensor(alpha) for name, alpha in lycoris_alphas(adapter).items()}
    config = json.dumps(lycoris_config(adapter, shapes.keys()), indent=2)
    save_file(
        {**folded(parameters, layout), **alphas},
        folder / ADAPTER_NAME,
        metadata={
            **origin.as_metadata(modules=len(adapter.modules)),
            "lycoris_config": config,
        },
    )
    (folder / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
