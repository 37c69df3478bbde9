"""Pictures of a base model with an adapter in it, without the service.

The order is that of the least memory: encode the prompts, drop the encoders, load the transformer,
merge the adapter into its weights, quantise, sample.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import HiDreamImageTransformer2DModel
from PIL import Image

from trainer_core.config.plan import Precision, Quantization
from trainer_core.config.plan.shapes import hidream_linears, max_area_px
from trainer_core.errors import OutputError
from trainer_core.export.adapter_file import AdapterFile, read_adapter
from trainer_core.export.merge import check_multiplier, merge_into, read_transformer_config
from trainer_core.hidream.loading import (
    load_scheduler,
    load_text_encoders,
    load_transformer,
    load_vae,
)
from trainer_core.hidream.text import TextEmbeddings, encode_texts
from trainer_core.painting.prompts import Picture
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import Compute, choose_compute
from trainer_core.precision.quanto import quantize_frozen

_GRID_PX = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """How all pictures of one command are made."""

    negative_prompt: str
    width_px: int | None
    """None: of the largest square that the base model takes (real HiDream: 1024)."""
    height_px: int | None
    steps: int
    guidance: float
    seed: int
    """Of the noise, the same for each picture."""
    multiplier: float
    """Strength of the adapter: 1 as trained, 0 the base model."""
    precision: Quantization
    text_encoder_precision: Quantization
    """Of T5 and Llama."""
    device: Literal["auto", "cpu", "cuda"]


def generate(
    base: Path,
    adapter: Path | None,
    pictures: Sequence[Picture],
    rendering: Rendering,
    tell: Callable[[str], None],
) -> None:
    """Make each picture and write it to its file.

    All that can be known to fail does so before the first weights are loaded.

    Args:
        base: the base model's folder; its own scheduler and shift are used.
        adapter: a LoKr or LoRA file, or None.
        pictures: at least one.
        rendering: size, steps and the rest.
        tell: hears in words what is done next.

    Raises:
        OutputError: a size that the base model does not make, or a file that cannot be written
            because a folder has its name or a file that of its folder.
        AdapterFileError: the adapter cannot be read, or was made for another model; or the
            multiplier is not finite.
        BaseModelError: the base model cannot be loaded.
        DeviceError: cuda was asked for and is not there.
    """
    check_multiplier(rendering.multiplier)
    for picture in pictures:
        _check_file(picture.file)
    config = read_transformer_config(base)
    width_px, height_px = _size(rendering, max_area_px(config))
    read = None if adapter is None else read_adapter(adapter, hidream_linears(config))
    compute = choose_compute(rendering.device, _precision(rendering))
    prompts = [picture.prompt for picture in pictures]
    tell("encoding the prompts")
    embeddings = _encode(base, {*prompts, rendering.negative_prompt}, rendering, compute)
    tell("loading the transformer")
    transformer = _load(base, read, rendering, compute)
    vae = load_vae(base, torch.float32).to(compute.device)
    scheduler = load_scheduler(base)

    def placed(text: str) -> TextEmbeddings:
        return embeddings[text].to(device=compute.device, dtype=compute.weights)

    for number, picture in enumerate(pictures, start=1):
        tell(f"painting {picture.file.name} ({number} of {len(pictures)})")
        with torch.no_grad(), compute.context():
            image = sample_image(
                transformer,
                vae,
                scheduler,
                placed(picture.prompt),
                placed(rendering.negative_prompt),
                width_px=width_px,
                height_px=height_px,
                steps=rendering.steps,
                guidance=rendering.guidance,
                seed=rendering.seed,
            )
        _save(image, picture.file)


def _size(rendering: Rendering, max_area: int) -> tuple[int, int]:
    side_px = int(max_area**0.5) // _GRID_PX * _GRID_PX
    width_px = rendering.width_px or rendering.height_px or side_px
    height_px = rendering.height_px or width_px
    if width_px % _GRID_PX or height_px % _GRID_PX:
        raise OutputError(
            f"{width_px} by {height_px} px: both sides have to be multiples of {_GRID_PX}"
        )
    if width_px * height_px > max_area:
        raise OutputError(
            f"{width_px} by {height_px} px is more than this base model takes: as much as "
            f"{side_px} by {side_px}"
        )
    return width_px, height_px


def _precision(rendering: Rendering) -> Precision:
    text = rendering.text_encoder_precision
    return Precision(
        base=rendering.precision,
        compute="bf16",
        text_encoder_1="no_change",
        text_encoder_2="no_change",
        text_encoder_3=text,
        text_encoder_4=text,
    )


def _encode(
    base: Path, texts: set[str], rendering: Rendering, compute: Compute
) -> dict[str, TextEmbeddings]:
    """Embeddings by text, on the CPU; no encoder outlives this call."""
    precision = rendering.text_encoder_precision
    encoders = load_text_encoders(
        base,
        compute.weights,
        text_encoder_3=precision,
        text_encoder_4=precision,
        device=compute.device,
    )
    cpu = torch.device("cpu")
    embeddings = {
        text: encode_texts(encoders, [text]).to(device=cpu, dtype=compute.weights)
        for text in sorted(texts)
    }
    del encoders
    gc.collect()  # modules hold each other in circles
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    return embeddings


def _load(
    base: Path, adapter: AdapterFile | None, rendering: Rendering, compute: Compute
) -> HiDreamImageTransformer2DModel:
    """The transformer with the adapter in it, quantised after that, on its device."""
    transformer = load_transformer(base, compute.weights)
    if adapter is not None and rendering.multiplier != 0:
        merge_into(transformer, adapter, rendering.multiplier)
    quantize_frozen(transformer, rendering.precision)
    return transformer.to(compute.device)


def _check_file(file: Path) -> None:
    """Raise OutputError where a picture could not be put there after all the work."""
    if file.is_dir():
        raise OutputError(f"{file} is a folder: name the file of the picture")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OutputError(f"{above} is a file: no picture can be put into it")


def _save(image: Image.Image, file: Path) -> None:
    """The file appears complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    image.save(draft, format="PNG")
    draft.replace(file)
