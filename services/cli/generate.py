"""`reverie generate`: pictures of a base model with an adapter in it."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from services.cli import output
from services.cli.adapter_option import ADAPTER_HELP, adapter_file
from services.cli.connection import CommandError
from services.cli.export import Weights

if TYPE_CHECKING:
    from trainer_core.painting.options import ImageRequest

EXAMPLES: Final = """Examples:

reverie generate --base hidream-tiny --prompt "a cat" --output cat.png

reverie generate --base HiDream-ai/HiDream-I1-Full --adapter result/pytorch_lora_weights.safetensors
--prompt "a cat" --width 832 --height 1216 --precision int8-quanto --output cat.png

reverie generate --base my/model --prompts config/user_prompt_library.json --output pictures/

Of a run that is still training, and of the result of a full-rank run:

reverie generate --base HiDream-ai/HiDream-I1-Full --adapter output/models-hidream
--prompt "a cat" --output cat.png

reverie generate --base output/full/result --prompt "a cat" --output cat.png"""

Quantization = Literal["no_change", "int8-quanto"]

_Base = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIR",
        help="The base model: as in `reverie models list`, a folder as diffusers writes it, "
        "hidream-tiny, or owner/name on the Hub. Or the result of a full-rank run, or another "
        "folder with a transformer alone.",
    ),
]
_PartsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        show_default="what it was trained from",
        help="The base model that has the other parts (VAE, text encoders, tokenizers, scheduler), "
        "where --base has a transformer alone.",
    ),
]
_Output = Annotated[
    Path,
    typer.Option(
        "--output",
        metavar="FILE.png|DIR",
        help="Where the picture goes; with --prompts, the folder that they go to. What is there is "
        "replaced.",
    ),
]
_Prompt = Annotated[
    str | None,
    typer.Option(help='What to paint; "" is the unconditional picture.', show_default=False),
]
_Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help='A prompt library instead: JSON {"nickname": "prompt", …}, one '
        'picture each, named by its nickname. A prompt may also be {"prompt": "…"}.',
    ),
]
_Adapter = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|DIR",
        show_default=False,
        help=ADAPTER_HELP,
    ),
]
_Multiplier = Annotated[
    float, typer.Option(help="Strength of the adapter: 1 as trained, 0 the base model.")
]
_NegativePrompt = Annotated[str, typer.Option(help="What guidance leads away from.")]
_Width = Annotated[
    int | None,
    typer.Option(
        min=16, metavar="PX", show_default="the base model's square", help="A multiple of 16."
    ),
]
_Height = Annotated[
    int | None,
    typer.Option(min=16, metavar="PX", show_default="as wide as high", help="A multiple of 16."),
]
_Steps = Annotated[int, typer.Option(min=1, help="Of the sampler.")]
_Guidance = Annotated[
    float,
    typer.Option(
        min=0,
        help="Classifier-free guidance; up to 1 there is none (for the "
        "distilled Dev and Fast models).",
    ),
]
_GuidanceRescale = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Keeps strong guidance from raising the contrast; 0: not at all."
    ),
]
_Seed = Annotated[int, typer.Option(min=0, help="Of the noise: the same seed, the same picture.")]
_Precision = Annotated[
    Quantization,
    typer.Option(help="Of the transformer; take what the run was trained with."),
]
_MixedPrecision = Annotated[
    Literal["bf16", "no"],
    typer.Option(help="Type of the computation; take what the run was trained with."),
]
_Sampler = Annotated[
    Literal["euler", "unipc", "lcm"] | None,
    typer.Option(show_default="what the base model names", help="The sampler."),
]
_Shift = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        show_default="the base model's own",
        help="Shift of the sampler's sigmas, as flow_schedule_shift.",
    ),
]
_TextEncoderPrecision = Annotated[Quantization, typer.Option(help="Of T5 and Llama.")]
_TextCachePrecision = Annotated[
    Literal["no_change", "fp8"],
    typer.Option(help="fp8 rounds the prompts as a run's text cache in 8 bits does."),
]
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where it is.")]


def generate(
    *,
    base: _Base,
    parts_from: _PartsFrom = None,
    output_: _Output,
    prompt: _Prompt = None,
    prompts: _Prompts = None,
    adapter: _Adapter = None,
    weights: Weights = None,
    multiplier: _Multiplier = 1.0,
    negative_prompt: _NegativePrompt = "",
    width: _Width = None,
    height: _Height = None,
    steps: _Steps = 30,
    guidance: _Guidance = 3.2,
    guidance_rescale: _GuidanceRescale = 0.0,
    seed: _Seed = 42,
    precision: _Precision = "no_change",
    text_encoder_precision: _TextEncoderPrecision = "no_change",
    text_cache_precision: _TextCachePrecision = "no_change",
    mixed_precision: _MixedPrecision = "bf16",
    sampler: _Sampler = None,
    shift: _Shift = None,
    device: _Device = "auto",
) -> None:
    """Generate images with a base model and an adapter, on this machine, without the service.

    The adapter is attached to the weights as in the run that trained it, so that
    the image equals a picture of that run with the same settings. The text
    encoders are released before the transformer is loaded: memory has to hold
    the larger of the two, not both.
    """
    from trainer_core.painting.options import PaintingOptions
    from trainer_core.paths import expanded

    pictures = _pictures(prompt, None if prompts is None else expanded(prompts), expanded(output_))
    _note_placeholders(pictures)
    options = PaintingOptions(
        negative_prompt=negative_prompt,
        width_px=width,
        height_px=height,
        steps=steps,
        guidance=guidance,
        guidance_rescale=guidance_rescale,
        seed=seed,
        multiplier=multiplier,
        precision=precision,
        text_encoder_precision=text_encoder_precision,
        text_cache=text_cache_precision,
        compute="bf16" if mixed_precision == "bf16" else "fp32",
        sampler=sampler,
        shift=shift,
        device=device,
    )
    if adapter is None and weights is not None:
        raise typer.BadParameter("it chooses between those of --adapter", param_hint="--weights")
    with contextlib.ExitStack() as stack:
        file = None if adapter is None else stack.enter_context(adapter_file(adapter, weights))
        transformer, parts = _folders_of(base, parts_from)
        from trainer_core.painting.generate import generate as paint  # imports torch

        paint(parts, file, pictures, options, output.print_note, transformer=transformer)
    for picture in pictures:
        typer.echo(picture.file)


def _folders_of(base: str, parts_from: str | None) -> tuple[Path, Path]:
    """The folder that has the transformer, and the one that has the other parts."""
    from trainer_core.base_models.obtain import obtain_base
    from trainer_core.local.trained_base import (
        check_parts,
        lone_transformer,
        name_of_base,
        parts_of,
    )

    working_dir = Path.cwd()
    alone = lone_transformer(base, os.environ, [working_dir])
    if alone is None:
        if parts_from is not None:
            name_of_base(base, os.environ, [working_dir])  # there may be no such base model
            raise CommandError(
                "--parts-from is for a --base with a transformer alone, and no folder with only "
                f"that is named {base}: leave --parts-from out"
            )
        folder = obtain_base(base, env=os.environ, folders=[working_dir]).folder
        return folder, folder
    if parts_from is None:
        parts = parts_of(alone, os.environ)
    else:
        parts = obtain_base(parts_from, env=os.environ, folders=[working_dir]).folder
    check_parts(alone.folder, parts)
    output.print_note(f"{alone.folder}: the other parts are those of {parts}")
    return alone.folder, parts


def _pictures(
    prompt: str | None, prompts: Path | None, output_: Path
) -> "tuple[ImageRequest, ...]":
    """One picture, or those of a prompt library; raises BadParameter, CommandError."""
    from trainer_core.painting.options import ImageRequest
    from trainer_core.painting.prompts import requests_of_library

    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give either --prompt or --prompts", param_hint="--prompt")
    if prompts is not None:
        return requests_of_library(prompts, output_)
    if output_.suffix.lower() != ".png":
        raise CommandError(f"{output_}: the name of the picture has to end in .png")
    return (ImageRequest(prompt=prompt or "", file=output_),)


def _note_placeholders(pictures: "Sequence[ImageRequest]") -> None:
    """Name every placeholder that a prompt still has; it may be a mistake, so it is no error."""
    from trainer_core.config.simpletuner.placeholders import unfilled_tokens

    for picture in pictures:
        for token in unfilled_tokens(picture.prompt):
            output.print_note(f"{picture.file.name}: the prompt still says {token}")
