"""The encoders of one base model, loaded when first needed and then kept."""

from collections.abc import Mapping
from typing import Final

import torch
from diffusers import AutoencoderKL
from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.config.plan import Quantization
from trainer_core.errors import BaseModelError
from trainer_core.hidream.loading import TextEncoders, load_text_encoders, load_vae
from trainer_core.hidream.text import MAX_TOKENS, encode_texts
from trainer_core.hidream.vae import encode_images

_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PRECISIONS: Final[dict[JsonValue, Quantization]] = {
    "no_change": "no_change",
    "int8-quanto": "int8-quanto",
}
_ENCODERS: Final = ("text_encoder_1", "text_encoder_2", "text_encoder_3", "text_encoder_4")
_TextKey = tuple[torch.dtype, tuple[Quantization, ...]]


class WarmEncoders:
    """Implements ``trainer_core.data.encode.Encoders`` for one base model on one device.

    The VAE is kept beside the text encoders (0.2 GB against 27 GB in the real model). The text
    encoders are kept in one set of precisions: a shard that needs another set loads them again.
    """

    def __init__(self, base: BaseModel, device: torch.device) -> None:
        self._base = base
        self._device = device
        self._vae: tuple[torch.dtype, AutoencoderKL] | None = None
        self._text: tuple[_TextKey, TextEncoders] | None = None

    def check(self, encoder: Mapping[str, JsonValue]) -> None:
        """Raise BaseModelError where a spec has another base digest or another token count."""
        if encoder.get("base_digest") != self._base.digest:
            raise BaseModelError(
                f"{self._base.name} has digest {self._base.digest}, the shard was planned for "
                f"{encoder.get('base_digest')}"
            )
        if encoder.get("max_tokens", MAX_TOKENS) != MAX_TOKENS:
            raise BaseModelError(
                f"captions have {MAX_TOKENS} tokens in this version, not {encoder['max_tokens']}"
            )

    def latents(
        self, encoder: Mapping[str, JsonValue], images_1CHW: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Posterior moments of one picture, fp32 on the CPU."""
        dtype = _dtype(encoder)
        if self._vae is None or self._vae[0] != dtype:
            self._vae = None  # free the old VAE before the new one is loaded
            self._vae = dtype, load_vae(self._base.folder, dtype).to(self._device)
        moments = encode_images(self._vae[1], images_1CHW)
        return {"mean": moments.mean, "std": moments.std}

    def text(self, encoder: Mapping[str, JsonValue], text: str) -> dict[str, torch.Tensor]:
        """Embeddings of one caption, in the spec's compute type, on the CPU."""
        dtype = _dtype(encoder)
        precisions = tuple(_precision(encoder, name) for name in _ENCODERS)
        embeddings = encode_texts(self._text_encoders((dtype, precisions)), [text])
        return embeddings.to(device=torch.device("cpu"), dtype=dtype).tensors()

    def _text_encoders(self, key: _TextKey) -> TextEncoders:
        if self._text is None or self._text[0] != key:
            self._text = None
            dtype, precisions = key
            encoders = load_text_encoders(
                self._base.folder,
                dtype,
                device=self._device,
                **dict(zip(_ENCODERS, precisions, strict=True)),
            )
            self._text = key, encoders
        return self._text[1]


def _dtype(encoder: Mapping[str, JsonValue]) -> torch.dtype:
    compute = encoder.get("compute")
    if not isinstance(compute, str) or compute not in _DTYPES:
        raise BaseModelError(f"compute type {compute!r} is not one of {sorted(_DTYPES)}")
    return _DTYPES[compute]


def _precision(encoder: Mapping[str, JsonValue], name: str) -> Quantization:
    wanted = encoder.get(name, "no_change")
    if not isinstance(wanted, str) or wanted not in _PRECISIONS:
        raise BaseModelError(f"{name} is {wanted!r}, not one of {sorted(map(str, _PRECISIONS))}")
    return _PRECISIONS[wanted]
