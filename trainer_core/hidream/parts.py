"""The parts of a base model that encode images and captions, loaded one by one."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol

import torch
from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import Quantization
from trainer_core.data.token_counts import EncoderName
from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import (
    TextEncoder,
    load_text_encoder,
    load_vae,
)
from trainer_core.hidream.text import MAX_TOKENS, llama_of, pooled_of, t5_of
from trainer_core.hidream.vae import encode_images

PartName = Literal["vae"] | EncoderName
Part = Callable[[Any], tuple[torch.Tensor, ...]]
"""The VAE: one image [1, 3, H, W] with values in [-1, 1] → `mean` and `std`. A text encoder: one
caption → its output, batch first. All on the CPU."""

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PRECISIONS: Final[dict[JsonValue, Quantization]] = {
    "no_change": "no_change",
    "int8-quanto": "int8-quanto",
}
_OUTPUTS: Final[Mapping[EncoderName, Callable[[TextEncoder, list[str]], torch.Tensor]]] = {
    "text_encoder_1": pooled_of,
    "text_encoder_2": pooled_of,
    "text_encoder_3": t5_of,
    "text_encoder_4": llama_of,
}


class Parts(Protocol):
    """Where parts come from. ``encoder`` is that of ``trainer_core.data.index.Encoding``."""

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError if an encoding is of other parts."""

    def load(self, name: PartName, encoder: Mapping[str, JsonValue]) -> Part:
        """Load a part; it is freed with what is returned. Raises BaseModelError."""


class ModelParts:
    """The parts of one base model, loaded to one device."""

    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._base = base
        self._device = device

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError where an encoding has another base digest or token count."""
        if encoder.get("base_digest") != self._base.digest:
            raise BaseModelError(
                f"{self._base.name} has digest {self._base.digest}, the entries were planned for "
                f"{encoder.get('base_digest')}"
            )
        if encoder.get("max_tokens", MAX_TOKENS) != MAX_TOKENS:
            raise BaseModelError(
                f"captions have {MAX_TOKENS} tokens in this version, not {encoder['max_tokens']}"
            )

    def load(self, name: PartName, encoder: Mapping[str, JsonValue]) -> Part:
        """As ``Parts.load``. Moments are fp32, embeddings of the encoding's compute type."""
        dtype = _dtype(encoder)
        if name == "vae":
            vae = load_vae(self._base.folder, dtype).to(self._device)
            return lambda image_1CHW: encode_images(vae, image_1CHW)
        text_encoder = load_text_encoder(
            self._base.folder,
            name,
            dtype,
            precision=_precision(encoder, name),
            device=self._device,
        )
        output = _OUTPUTS[name]
        cpu = torch.device("cpu")
        return lambda text: (output(text_encoder, [text]).to(cpu, dtype),)


def _dtype(encoder: Mapping[str, JsonValue]) -> torch.dtype:
    compute = encoder.get("compute")
    if not isinstance(compute, str) or compute not in _DTYPES:
        raise BaseModelError(f"compute type {compute!r} is not one of {sorted(_DTYPES)}")
    return _DTYPES[compute]


def _precision(encoder: Mapping[str, JsonValue], name: EncoderName) -> Quantization:
    wanted = encoder.get(name, "no_change")
    if not isinstance(wanted, str) or wanted not in _PRECISIONS:
        raise BaseModelError(f"{name} is {wanted!r}, not one of {sorted(map(str, _PRECISIONS))}")
    return _PRECISIONS[wanted]
