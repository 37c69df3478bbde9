"""Generate images with a base model and an adapter, without the service.

To need the least memory, the steps are: encode the prompts, release the text encoders, load the
transformer, quantise it, attach the adapter, sample. So an image has the same numbers as a picture
that a run makes of the same weights.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, HiDreamImageTransformer2DModel
from PIL import Image

from trainer_core.config.plan import Precision
from trainer_core.config.plan.shapes import hidream_linears, max_area_px
from trainer_core.data.text_rows import to_fp8
from trainer_core.disk import writing
from trainer_core.errors import OutputError
from trainer_core.export.adapter_file import read_modules
from trainer_core.export.adapter_tensors import ModuleTensors
from trainer_core.export.merge import check_multiplier, read_transformer_config
from trainer_core.hidream.balance import replace_gates
from trainer_core.hidream.loading import load_text_encoders, load_transformer, load_vae
from trainer_core.hidream.samplers import load_sampler
from trainer_core.hidream.text import TextEmbeddings, encode_texts
from trainer_core.painting.attach import attach_stored
from trainer_core.painting.options import ImageRequest, PaintingOptions, SamplingOptions
from trainer_core.painting.sampling import sample_image
from trainer_core.precision.compute import Compute, choose_compute
from trainer_core.precision.quanto import quantize_frozen

_GRID_PX = 16


def generate(
    base: Path,
    adapter: Path | None,
    requests: Sequence[ImageRequest],
    options: PaintingOptions,
    log: Callable[[str], None],
    *,
    transformer: Path | None = None,
) -> None:
    """Generate each image and write it to its file.

    Sizes, output files and the adapter are checked before any weights are loaded.

    Args:
        base: the base model's folder; its own scheduler and shift are used.
        adapter: a LoKr or LoRA file, or None.
        requests: prompts and files of the images; at least one.
        options: size, steps, strength and precision of all images.
        log: called with one line of text before each stage.
        transformer: the folder that holds ``transformer`` with its weights; None: ``base``.

    Raises:
        OutputError: the base model does not take the requested size, or a file cannot be written.
        AdapterFileError: the adapter cannot be read or was made for another model, or the
            multiplier is not finite.
        BaseModelError: the base model cannot be loaded.
        GpuMissingError: cuda is requested but not available.
    """
    check_multiplier(options.multiplier)
    for request in requests:
        _check_file(request.file)
    weights = transformer or base
    config = read_transformer_config(weights)
    sampling = _sampling_options(options, max_area_px(config))
    modules = None if adapter is None else read_modules(adapter, hidream_linears(config))
    compute = choose_compute(options.device, _precision(options))
    texts = {options.negative_prompt, *(request.prompt for request in requests)}
    log("encoding the prompts")
    embeddings = _encode(base, texts, options, compute)
    log("loading the transformer")
    models = _Models(
        transformer=_load(weights, modules, options, compute),
        vae=load_vae(base, torch.float32),
        base=base,
        compute=compute,
    )
    for number, request in enumerate(requests, start=1):
        log(f"generating {request.file.name} ({number} of {len(requests)})")
        prompt, negative = embeddings[request.prompt], embeddings[options.negative_prompt]
        _save(models.sample(prompt, negative, sampling), request.file)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Models:
    """What samples the images: the transformer on the device, the VAE on the CPU."""

    transformer: HiDreamImageTransformer2DModel
    vae: AutoencoderKL
    base: Path
    """The folder that has the sampler's configuration."""
    compute: Compute

    def sample(
        self, prompt: TextEmbeddings, negative: TextEmbeddings, options: SamplingOptions
    ) -> Image.Image:
        """One image; ``prompt`` and ``negative`` may be on any device."""
        embeddings, opposite = (
            text.to(device=self.compute.device, dtype=self.compute.weights)
            for text in (prompt, negative)
        )
        scheduler = load_sampler(self.base, options.sampler, options.shift)
        with torch.no_grad(), self.compute.context():
            return sample_image(
                self.transformer, self.vae, scheduler, embeddings, opposite, options=options
            )


def _sampling_options(options: PaintingOptions, max_area: int) -> SamplingOptions:
    """The options of each image; raises OutputError for a size that the base model does not take.

    ``max_area``: the largest area in pixels that the base model takes.
    """
    side_px = int(max_area**0.5) // _GRID_PX * _GRID_PX
    width_px = options.width_px or options.height_px or side_px
    height_px = options.height_px or width_px
    if width_px % _GRID_PX or height_px % _GRID_PX:
        raise OutputError(
            f"{width_px} by {height_px} px: both sides have to be multiples of {_GRID_PX}"
        )
    if width_px * height_px > max_area:
        raise OutputError(
            f"{width_px} by {height_px} px is more than this base model takes: at most the area "
            f"of {side_px} by {side_px}"
        )
    return SamplingOptions(
        width_px=width_px,
        height_px=height_px,
        steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
        sampler=options.sampler,
        shift=options.shift,
        guidance_rescale=options.guidance_rescale,
    )


def _precision(options: PaintingOptions) -> Precision:
    text = options.text_encoder_precision
    return Precision(
        base=options.precision,
        compute=options.compute,
        text_encoder_1="no_change",
        text_encoder_2="no_change",
        text_encoder_3=text,
        text_encoder_4=text,
    )


def _encode(
    base: Path, texts: set[str], options: PaintingOptions, compute: Compute
) -> dict[str, TextEmbeddings]:
    """Text → its embeddings on the CPU, as a run's cache has them.

    The text encoders are released before this returns.
    """
    precision = options.text_encoder_precision
    # As a cache builds them: in the type of the computation, also on a CPU.
    dtype = torch.bfloat16 if options.compute == "bf16" else torch.float32
    encoders = load_text_encoders(
        base,
        dtype,
        text_encoder_3=precision,
        text_encoder_4=precision,
        device=compute.device,
    )
    cpu = torch.device("cpu")
    embeddings = {
        text: encode_texts(encoders, [text]).to(device=cpu, dtype=dtype) for text in sorted(texts)
    }
    if options.text_cache == "fp8":
        embeddings = {
            text: TextEmbeddings.from_tensors(to_fp8(each.tensors()))
            for text, each in embeddings.items()
        }
    del encoders
    gc.collect()  # modules refer to each other in cycles
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    return embeddings


def _load(
    base: Path,
    modules: Mapping[str, ModuleTensors] | None,
    options: PaintingOptions,
    compute: Compute,
) -> HiDreamImageTransformer2DModel:
    """The transformer on its device as a run prepares it: quantised, then with the adapter."""
    transformer = load_transformer(base, compute.weights)
    quantize_frozen(transformer, options.precision)
    transformer.to(compute.device)
    replace_gates(transformer, has_loss=False)
    if modules is not None and options.multiplier != 0:
        attach_stored(transformer, modules, options.multiplier)
    return transformer


def _check_file(file: Path) -> None:
    """Raise OutputError if ``file`` cannot be written, before the long work starts."""
    if file.is_dir():
        raise OutputError(f"{file} is a folder: name a file for the image")
    existing = next(folder for folder in file.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise OutputError(f"{existing} is a file, not a folder: no image can be written below it")


def _save(image: Image.Image, file: Path) -> None:
    """Write the image as PNG. The file appears complete or not at all. Raises DiskError."""
    draft = file.with_name(f".{file.name}.draft")
    with writing(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(draft, format="PNG")
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
