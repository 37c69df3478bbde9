"""Loading the parts of HiDream-I1 from a local folder in diffusers' layout.

Nothing is fetched, nothing is unpickled, no code of the folder runs. The tiny model and the real
one go through the same lines.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImageTransformer2DModel,
)
from transformers import (
    AutoTokenizer,
    CLIPTextModelWithProjection,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from trainer_core.errors import BaseModelError

Precision = Literal["no_change", "int8-quanto"]
Part = TypeVar("Part")

_LOCAL: Final[dict[str, Any]] = {"local_files_only": True}
_WEIGHTS: Final[dict[str, Any]] = {"local_files_only": True, "use_safetensors": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoders:
    """The four encoders with their tokenizers, in eval mode, without gradients."""

    clip_l: CLIPTextModelWithProjection
    clip_g: CLIPTextModelWithProjection
    t5: T5EncoderModel
    llama: LlamaForCausalLM
    tokenizer_clip_l: PreTrainedTokenizerBase
    tokenizer_clip_g: PreTrainedTokenizerBase
    tokenizer_t5: PreTrainedTokenizerBase
    tokenizer_llama: PreTrainedTokenizerBase
    """Pads with its end token, as the pipeline has it."""


def load_transformer(folder: Path, dtype: torch.dtype) -> HiDreamImageTransformer2DModel:
    """The denoiser, in eval mode as diffusers returns it; training sets ``train()`` itself.

    Weights go to ``dtype`` as they are read, so the peak is one model and one file. Raises
    BaseModelError where the folder lacks it or asks for ``force_inference_output``.
    """
    model = _load(
        folder,
        "transformer",
        lambda path: HiDreamImageTransformer2DModel.from_pretrained(path, dtype=dtype, **_WEIGHTS),
    )
    if model.config.force_inference_output:
        # It would send the experts through diffusers' no_grad path: no gradient, and no error.
        raise BaseModelError(f"{folder}: force_inference_output cannot be trained")
    return model


def load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """The picture encoder and decoder, eval, frozen; raises BaseModelError."""
    vae = _load(
        folder,
        "vae",
        lambda path: AutoencoderKL.from_pretrained(path, dtype=dtype, **_WEIGHTS),
    )
    if vae.config.shift_factor is None:
        raise BaseModelError(f"{folder / 'vae'}: shift_factor is not set")
    return vae.eval().requires_grad_(False)


def load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """The sampler that the folder names; raises BaseModelError."""
    return _load(
        folder,
        "scheduler",
        lambda path: FlowMatchEulerDiscreteScheduler.from_pretrained(path, **_LOCAL),
    )


def load_text_encoders(
    folder: Path,
    dtype: torch.dtype,
    *,
    text_encoder_3: Precision = "no_change",
    text_encoder_4: Precision = "no_change",
    device: torch.device | None = None,
) -> TextEncoders:
    """All four encoders; T5 (3) and Llama (4) optionally with int8 weights.

    Args:
        folder: the base model's folder.
        dtype: of weights and embeddings.
        text_encoder_3: precision of T5.
        text_encoder_4: precision of Llama.
        device: where the encoders go, one after the other; None leaves them on the CPU.

    Raises:
        BaseModelError: the folder lacks a part.
    """
    home = device or torch.device("cpu")
    llama_tokenizer = _load_tokenizer(folder, "tokenizer_4")
    llama_tokenizer.pad_token = llama_tokenizer.eos_token
    return TextEncoders(
        clip_l=_encoder(folder, "text_encoder", CLIPTextModelWithProjection, dtype).to(home),
        clip_g=_encoder(folder, "text_encoder_2", CLIPTextModelWithProjection, dtype).to(home),
        t5=_encoder(folder, "text_encoder_3", T5EncoderModel, dtype, text_encoder_3).to(home),
        llama=_encoder(folder, "text_encoder_4", LlamaForCausalLM, dtype, text_encoder_4).to(home),
        tokenizer_clip_l=_load_tokenizer(folder, "tokenizer"),
        tokenizer_clip_g=_load_tokenizer(folder, "tokenizer_2"),
        tokenizer_t5=_load_tokenizer(folder, "tokenizer_3"),
        tokenizer_llama=llama_tokenizer,
    )


def _encoder(
    folder: Path, name: str, cls: Any, dtype: torch.dtype, precision: Precision = "no_change"
) -> Any:
    encoder = _load(
        folder,
        name,
        lambda path: cls.from_pretrained(path, dtype=dtype, trust_remote_code=False, **_WEIGHTS),
    ).eval()
    if precision == "int8-quanto":
        _quantize_int8(encoder)
    return encoder.requires_grad_(False)


def _quantize_int8(module: torch.nn.Module) -> None:
    # precision lies above hidream in the layers; encoders need only these two calls of quanto.
    from optimum.quanto import freeze, qint8, quantize  # noqa: PLC0415 - slow, rarely needed

    quantize(module, weights=qint8)
    freeze(module)


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    return _load(
        folder,
        name,
        lambda path: AutoTokenizer.from_pretrained(path, trust_remote_code=False, **_LOCAL),
    )


def _load(folder: Path, name: str, load: Callable[[Path], Part]) -> Part:
    """One part, or a BaseModelError that names the folder and the part."""
    path = folder / name
    if not path.is_dir():
        raise BaseModelError(f"the base model at {folder} lacks the folder {name!r}")
    try:
        return load(path)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise BaseModelError(f"{path} cannot be loaded: {error}") from error
