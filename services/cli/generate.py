"""`reverie generate`: pictures of a base model with an adapter in it."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from services.cli import output
from services.cli.connection import CommandError

EXAMPLES: Final = """Examples:

reverie generate --base hidream-tiny --prompt "a cat" --output cat.png

reverie generate --base HiDream-ai/HiDream-I1-Full --adapter result/pytorch_lora_weights.safetensors
--prompt "a cat" --width 832 --height 1216 --precision int8-quanto --output cat.png

reverie generate --base my/model --prompts config/user_prompt_library.json --output pictures/"""

Quantization = Literal["no_change", "int8-quanto"]


def generate(
    *,
    base: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="The base model: as in `reverie models list`, a folder as diffusers writes it, "
            "hidream-tiny, or owner/name on the Hub.",
        ),
    ],
    output_: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="FILE.png|DIR",
            help="Where the picture goes; with "
            "--prompts, the folder that they go to. What is there is replaced.",
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(help='What to paint; "" is the unconditional picture.', show_default=False),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help='A prompt library instead: JSON {"nickname": "prompt", …}, one '
            'picture each, named by its nickname. A prompt may also be {"prompt": "…"}.',
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="A LoKr or LoRA file, such as a result's pytorch_lora_weights.safetensors.",
        ),
    ] = None,
    multiplier: Annotated[
        float, typer.Option(help="Strength of the adapter: 1 as trained, 0 the base model.")
    ] = 1.0,
    negative_prompt: Annotated[str, typer.Option(help="What guidance leads away from.")] = "",
    width: Annotated[
        int | None,
        typer.Option(
            min=16, metavar="PX", show_default="the base model's square", help="A multiple of 16."
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            min=16, metavar="PX", show_default="as wide as high", help="A multiple of 16."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the base model's own sampler.")] = 30,
    guidance: Annotated[
        float,
        typer.Option(
            min=0,
            help="Classifier-free guidance; up to 1 there is none (for the "
            "distilled Dev and Fast models).",
        ),
    ] = 3.2,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the noise: the same seed, the same picture.")
    ] = 42,
    precision: Annotated[
        Quantization,
        typer.Option(
            help="Of the transformer, quantised after the adapter is merged; take what "
            "the run was trained with."
        ),
    ] = "no_change",
    text_encoder_precision: Annotated[
        Quantization, typer.Option(help="Of T5 and Llama.")
    ] = "no_change",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where it is.")
    ] = "auto",
) -> None:
    """Paint with a base model and an adapter, on this machine, without the service.

    The adapter is merged into the weights before they are quantised. The text encoders are gone
    before the transformer comes: memory has to hold the larger of the two, not both.
    """
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give either --prompt or --prompts", param_hint="--prompt")
    from trainer_core.painting.prompts import Picture, pictures_of_library  # noqa: PLC0415

    if prompts is not None:
        pictures = pictures_of_library(prompts, output_)
    else:
        if output_.suffix.lower() != ".png":
            raise CommandError(f"{output_}: the name of the picture has to end in .png")
        pictures = (Picture(prompt=prompt or "", file=output_),)
    from trainer_core.base_models.obtain import obtain_base  # noqa: PLC0415
    from trainer_core.config.simpletuner.placeholders import unfilled_tokens  # noqa: PLC0415

    for picture in pictures:
        for token in unfilled_tokens(picture.prompt):
            output.print_note(f"{picture.file.name}: the prompt still says {token}")

    folder = obtain_base(base, env=os.environ, folders=[Path.cwd()]).folder
    from trainer_core.painting.generate import Rendering  # noqa: PLC0415 - brings torch with it
    from trainer_core.painting.generate import generate as paint  # noqa: PLC0415

    rendering = Rendering(
        negative_prompt=negative_prompt,
        width_px=width,
        height_px=height,
        steps=steps,
        guidance=guidance,
        seed=seed,
        multiplier=multiplier,
        precision=precision,
        text_encoder_precision=text_encoder_precision,
        device=device,
    )
    paint(folder, adapter, pictures, rendering, output.print_note)
    for picture in pictures:
        typer.echo(picture.file)
