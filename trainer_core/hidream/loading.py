"""Loading the parts of HiDream-I1 from a local folder in diffusers' layout.

Nothing is downloaded or unpickled, and no code from the folder runs. The same code loads the tiny
model and the real one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImageTransformer2DModel,
)
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    CLIPTextModelWithProjection,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from trainer_core.config.plan import Quantization
from trainer_core.data.token_counts import EncoderName
from trainer_core.errors import BaseModelError
from trainer_core.precision.base_weights import Target, allocate, fill, source_targets
from trainer_core.precision.quanto import quantize_frozen
from trainer_core.weights.headers import read_header
from trainer_core.weights.part import stored_tensors

Part = TypeVar("Part")

_TRANSFORMER: Final = "transformer"
_AGAIN: Final = "Put it back from a copy, or download the base model again"
_VOCABULARIES: Final = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
)
"""Files with the words of a tokenizer. Without any, transformers makes one that knows none."""
_LOCAL: Final[dict[str, Any]] = {"local_files_only": True}
_WEIGHTS: Final[dict[str, Any]] = {"local_files_only": True, "use_safetensors": True}


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One encoder with its tokenizer, in eval mode, without gradients."""

    module: Any
    tokenizer: PreTrainedTokenizerBase
    """Llama's uses its end token for padding, as diffusers' pipeline does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoders:
    """The four encoders."""

    clip_l: TextEncoder
    clip_g: TextEncoder
    t5: TextEncoder
    llama: TextEncoder


def load_transformer(
    folder: Path, dtype: torch.dtype, device: torch.device | None = None
) -> HiDreamImageTransformer2DModel:
    """The transformer, in eval mode; ``network.prepare`` sets train mode.

    Weights are cast to ``dtype`` on ``device`` (None: the CPU) while they are read, so peak memory
    is one model and a few tensors. Raises BaseModelError where a tensor is missing, unexpected or
    damaged, or the config sets ``force_inference_output``.
    """
    home = device or torch.device("cpu")
    transformer = empty_transformer(folder, dtype)
    allocate(transformer, home)
    fill_from_folder(source_targets(transformer), folder, home)
    return transformer


def empty_transformer(folder: Path, dtype: torch.dtype) -> HiDreamImageTransformer2DModel:
    """The transformer that the config describes, on the meta device, in eval mode.

    Raises BaseModelError where the config is missing, or sets ``force_inference_output``.
    """

    def build(path: Path) -> HiDreamImageTransformer2DModel:
        config = HiDreamImageTransformer2DModel.load_config(path, **_LOCAL)
        with torch.device("meta"):
            return HiDreamImageTransformer2DModel.from_config(config)

    model = _load(folder, _TRANSFORMER, build)
    if model.config.force_inference_output:
        # diffusers would run the experts without gradients, and report no error.
        raise BaseModelError(
            f"{folder}: a transformer with force_inference_output cannot be trained"
        )
    torch.nn.Module.to(model, dtype)  # diffusers' own method warns of a type given here
    return model.eval()


def fill_from_folder(targets: Mapping[str, Target], folder: Path, device: torch.device) -> None:
    """Read the transformer's published weights to ``device`` and put them into ``targets``.

    Raises BaseModelError where a tensor is missing, unexpected or damaged.
    """
    _load(
        folder,
        _TRANSFORMER,
        lambda path: fill(targets, stored_tensors(path), device, source=str(path)),
    )


def load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """The image encoder and decoder, in eval mode and frozen; raises BaseModelError."""
    vae = _load(
        folder,
        "vae",
        lambda path: AutoencoderKL.from_pretrained(path, dtype=dtype, **_WEIGHTS),
    )
    if vae.config.shift_factor is None:
        raise BaseModelError(f"{folder / 'vae'}: shift_factor is not set")
    return vae.eval().requires_grad_(False)


def load_tiny_decoder(folder: Path) -> AutoencoderTiny:
    """A Tiny AutoEncoder of diffusers, in fp32 on the CPU, in eval mode and frozen.

    Raises BaseModelError where the folder has none in safetensors.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # its first weights are random
            tiny = AutoencoderTiny.from_pretrained(folder, dtype=torch.float32, **_WEIGHTS)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(f"{folder}: no AutoencoderTiny in safetensors: {error}") from error
    return tiny.eval().requires_grad_(False)


def load_scheduler(folder: Path) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of the folder; raises BaseModelError."""
    return _load(
        folder,
        "scheduler",
        lambda path: FlowMatchEulerDiscreteScheduler.from_pretrained(path, **_LOCAL),
    )


def load_text_encoders(
    folder: Path,
    dtype: torch.dtype,
    *,
    text_encoder_1: Quantization = "no_change",
    text_encoder_2: Quantization = "no_change",
    text_encoder_3: Quantization = "no_change",
    text_encoder_4: Quantization = "no_change",
    device: torch.device | None = None,
) -> TextEncoders:
    """All four encoders, each optionally with int8 weights.

    They are loaded, quantised and moved one after the other, so host memory holds one at a time.

    Args:
        folder: the base model's folder.
        dtype: of weights and embeddings.
        text_encoder_1: precision of the smaller CLIP.
        text_encoder_2: precision of the larger CLIP.
        text_encoder_3: precision of T5.
        text_encoder_4: precision of Llama.
        device: the device of the encoders; None: the CPU.

    Raises:
        BaseModelError: the folder lacks a part.
    """

    def load(name: EncoderName, precision: Quantization) -> TextEncoder:
        return load_text_encoder(folder, name, dtype, precision=precision, device=device)

    return TextEncoders(
        clip_l=load("text_encoder_1", text_encoder_1),
        clip_g=load("text_encoder_2", text_encoder_2),
        t5=load("text_encoder_3", text_encoder_3),
        llama=load("text_encoder_4", text_encoder_4),
    )


_FOLDERS: Final[Mapping[EncoderName, tuple[str, str, Any]]] = {
    "text_encoder_1": ("text_encoder", "tokenizer", CLIPTextModelWithProjection),
    "text_encoder_2": ("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection),
    "text_encoder_3": ("text_encoder_3", "tokenizer_3", T5EncoderModel),
    "text_encoder_4": ("text_encoder_4", "tokenizer_4", LlamaForCausalLM),
}
"""Encoder → the folders of its weights and of its tokenizer, and its class."""


def load_text_encoder(
    folder: Path,
    name: EncoderName,
    dtype: torch.dtype,
    *,
    precision: Quantization = "no_change",
    device: torch.device | None = None,
) -> TextEncoder:
    """One of the four encoders; arguments and errors as of ``load_text_encoders``."""
    weights, tokens, cls = _FOLDERS[name]
    tokenizer = _load_tokenizer(folder, tokens)
    if name == "text_encoder_4":
        tokenizer.pad_token = tokenizer.eos_token

    def load(path: Path) -> Any:
        _require(path / "config.json")
        try:
            return cls.from_pretrained(path, dtype=dtype, trust_remote_code=False, **_WEIGHTS)
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise BaseModelError(f"{path}: the weights do not fit config.json. {_AGAIN}") from error

    # T5 has dropout: in train mode its embeddings would differ each time.
    module = _load(folder, weights, load).eval()
    quantize_frozen(module, precision)
    return TextEncoder(module.to(device or torch.device("cpu")), tokenizer)


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    def load(path: Path) -> PreTrainedTokenizerBase:
        _require(path / "tokenizer_config.json")
        if not any(all((path / file).is_file() for file in each) for each in _VOCABULARIES):
            _require(path / "tokenizer.json")
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **_LOCAL)

    return _load(folder, name, load)


def _require(file: Path) -> None:
    """Raise BaseModelError where a file is missing that transformers would replace by defaults."""
    if not file.is_file():
        raise BaseModelError(f"{file} is missing. {_AGAIN}")


def _load(folder: Path, name: str, load: Callable[[Path], Part]) -> Part:
    """One part, or a BaseModelError that names the folder and the part."""
    path = folder / name
    if not path.is_dir():
        raise BaseModelError(f"the base model at {folder} lacks the folder {name!r}")
    try:
        return load(path)
    except (OSError, ValueError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        for file in sorted(path.glob("*.safetensors")):
            read_header(file)  # names the file that is cut off; the libraries name the folder
        raise BaseModelError(f"{path} cannot be loaded: {error}") from error
