"""Write the adapter file of trained parameters. Imports no torch."""

import array
import json
from pathlib import Path

from trainer_core.config.plan import Identity, LokrAdapter, LoraAdapter
from trainer_core.export.lora_layout import lora_layout, lora_metadata
from trainer_core.export.lycoris_layout import (
    CONFIG_NAME,
    lycoris_alphas,
    lycoris_config,
    lycoris_layout,
)
from trainer_core.export.origin import ADAPTER_NAME, LIVE_FOLDER, Origin, Weights
from trainer_core.export.safetensors_file import Parameters, write_safetensors


def write_adapter(
    folder: Path, adapter: LokrAdapter | LoraAdapter, parameters: Parameters, origin: Origin
) -> None:
    """Write the adapter into an existing folder, for LoKr with LyCORIS' config beside it.

    ``lycoris_layout`` and ``lora_layout`` have the formats. Raises KeyError where a parameter is
    missing, and OSError.
    """
    match adapter:
        case LokrAdapter():
            _write_lokr(folder, adapter, parameters, origin)
        case LoraAdapter():
            metadata = lora_metadata(adapter, origin)
            write_safetensors(folder / ADAPTER_NAME, lora_layout(adapter), parameters, metadata)


def write_adapters(
    folder: Path,
    identity: Identity,
    *,
    step: int,
    live: Parameters,
    ema: Parameters | None,
) -> None:
    """Write the adapters of a step into an existing folder; nothing for full rank.

    What a result has is in the folder itself; beside a running mean, ``ema``, the live weights are
    in a folder in it. Raises as ``write_adapter``.
    """
    if identity.adapter is None:
        return

    def origin(weights: Weights) -> Origin:
        return Origin(base_model=identity.base.name, step=step, weights=weights)

    if ema is None:
        write_adapter(folder, identity.adapter, live, origin("live"))
        return
    write_adapter(folder, identity.adapter, ema, origin("ema"))
    (folder / LIVE_FOLDER).mkdir()
    write_adapter(folder / LIVE_FOLDER, identity.adapter, live, origin("live"))


def _write_lokr(folder: Path, adapter: LokrAdapter, parameters: Parameters, origin: Origin) -> None:
    shapes = parameters.shapes

    def number(name: str) -> float:
        return array.array("f", bytes(parameters.read(name, 1.0)))[0]

    layout = lycoris_layout(adapter, shapes, number)
    config = json.dumps(lycoris_config(adapter, shapes.keys()), indent=2)
    metadata = {**origin.as_metadata(modules=len(adapter.modules)), "lycoris_config": config}
    file, alphas = folder / ADAPTER_NAME, lycoris_alphas(adapter)
    write_safetensors(file, layout, parameters, metadata, alphas)
    (folder / CONFIG_NAME).write_text(config + "\n", encoding="utf-8")
