"""The network that LyCORIS itself creates for a config, on the meta device."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from lycoris import LycorisNetwork, create_lycoris

_CLASS_STATE = (
    *("ENABLE_CONV", "TARGET_REPLACE_MODULE", "TARGET_REPLACE_NAME", "LORA_PREFIX"),
    *("MODULE_ALGO_MAP", "NAME_ALGO_MAP", "USE_FNMATCH", "TARGET_EXCLUDE_NAME"),
)
_NOTHING: dict[str, Any] = {
    "target_module": [],
    "target_name": [],
    "module_algo_map": {},
    "name_algo_map": {},
    "use_fnmatch": False,
    "exclude_name": [],
}


def meta_model(config: dict[str, Any]) -> HiDreamImageTransformer2DModel:
    """diffusers' transformer without memory."""
    with torch.device("meta"):
        return HiDreamImageTransformer2DModel(**config)


@contextmanager
def presets_put_back() -> Iterator[None]:
    """Restore LyCORIS' class attributes afterwards, in which it stores its preset."""
    before = {name: copy.deepcopy(getattr(LycorisNetwork, name)) for name in _CLASS_STATE}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(LycorisNetwork, name, value)


def made_by_lycoris(model: torch.nn.Module, lycoris: dict[str, Any]) -> LycorisNetwork:
    """The network for a config whose preset is an object with diffusers' names."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    options = {"algo": "lokr", **lycoris}
    del options["apply_preset"]
    with presets_put_back(), torch.device("meta"):
        LycorisNetwork.apply_preset({**_NOTHING, **lycoris["apply_preset"]})
        return create_lycoris(model, options.pop("multiplier", 1.0), **options)


def shapes_of(network: LycorisNetwork) -> dict[str, dict[str, tuple[int, ...]]]:
    """Name of each module → name of each parameter → shape."""
    return {
        lora.lora_name: {name: tuple(each.shape) for name, each in lora.named_parameters()}
        for lora in network.loras
    }
