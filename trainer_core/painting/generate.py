"""Paint pictures with a base model and an adapter, without the service.

The order needs the least memory: encode the prompts, release the encoders, load the transformer,
merge the adapter into its weights, quantise, sample.
"""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import HiDreamImageTransformer2DModel
from PIL import Image

from trainer_core.config.plan import Precision
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
from trainer_core.painting.options import PaintingOptions, Picture
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import Compute, choose_compute
from trainer_core.precision.quanto import quantize_frozen

_GRID_PX = 16


def generate(
    base: Path,
    adapter: Path | None,
    pictures: Sequence[Picture],
    options: PaintingOptions,
    log: Callable[[str], None],
) -> None:
    """Paint each picture and write it to its file.

    Everything that can be checked is checked before weights are loaded.

    Args:
        base: the base model's folder; its own scheduler and shift are used.
        adapter: a LoKr or LoRA file, or None.
        pictures: at least one.
        options: size, steps and the rest.
        log: called with one line before each stage.

    Raises:
        OutputError: the base model does not paint that size. Or a file cannot be written: a folder
            has its name, or a file has the name of its folder.
        AdapterFileError: the adapter cannot be read or was made for another model, or the
            multiplier is not finite.
        BaseModelError: the base model cannot be loaded.
        DeviceError: cuda is requested and there is none.
    """
    check_multiplier(options.multiplier)
    for picture in pictures:
        _check_file(picture.file)
    config = read_transformer_config(base)
    width_px, height_px = _size(options, max_area_px(config))
    adapter_file = None if adapter is None else read_adapter(adapter, hidream_linears(config))
    compute = choose_compute(options.device, _precision(options))
    texts = {options.negative_prompt, *(picture.prompt for picture in pictures)}
    log("encoding the prompts")
    embeddings = _encode(base, texts, options, compute)
    log("loading the transformer")
    transformer = _load(base, adapter_file, options, compute)
    vae = load_vae(base, torch.float32).to(compute.device)
    scheduler = load_scheduler(base)

    def on_device(text: str) -> TextEmbeddings:
        return embeddings[text].to(device=compute.device, dtype=compute.weights)

    for number, picture in enumerate(pictures, start=1):
        log(f"painting {picture.file.name} ({number} of {len(pictures)})")
        with torch.no_grad(), compute.context():
            image = sample_image(
                transformer,
                vae,
                scheduler,
                on_device(picture.prompt),
                on_device(options.negative_prompt),
                width_px=width_px,
                height_px=height_px,
                steps=options.steps,
                guidance=options.guidance,
                seed=options.seed,
            )
        _save(image, picture.file)


def _size(options: PaintingOptions, max_area: int) -> tuple[int, int]:
    side_px = int(max_area**0.5) // _GRID_PX * _GRID_PX
    width_px = options.width_px or options.height_px or side_px
    height_px = options.height_px or width_px
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


def _precision(options: PaintingOptions) -> Precision:
    text = options.text_encoder_precision
    return Precision(
        base=options.precision,
        compute="bf16",
        text_encoder_1="no_change",
        text_encoder_2="no_change",
        text_encoder_3=text,
        text_encoder_4=text,
    )


def _encode(
    base: Path, texts: set[str], options: PaintingOptions, compute: Compute
) -> dict[str, TextEmbeddings]:
    """Text → embeddings on the CPU; the encoders are released before this returns."""
    precision = options.text_encoder_precision
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
    gc.collect()  # modules refer to each other in cycles
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    return embeddings


def _load(
    base: Path, adapter: AdapterFile | None, options: PaintingOptions, compute: Compute
) -> HiDreamImageTransformer2DModel:
    """The transformer on its device: the adapter is merged first, then it is quantised."""
    transformer = load_transformer(base, compute.weights)
    if adapter is not None and options.multiplier != 0:
        merge_into(transformer, adapter, options.multiplier)
    quantize_frozen(transformer, options.precision)
    return transformer.to(compute.device)


def _check_file(file: Path) -> None:
    """Raise OutputError where a picture could not be written after all the work."""
    if file.is_dir():
        raise OutputError(f"{file} is a folder: name the file of the picture")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OutputError(f"{above} is a file: no picture can be put into it")


def _save(image: Image.Image, file: Path) -> None:
    """Write the picture; the file appears complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    image.save(draft, format="PNG")
    draft.replace(file)
