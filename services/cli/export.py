"""`reverie export`: the adapter file, or the transformer, of a checkpoint."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from services.cli import output
from services.cli.byte_progress import byte_progress

EXAMPLES: Final = """Examples:

reverie export output/models-hidream

reverie export output/models-hidream --step 500 --weights live --output try/500.safetensors

reverie export output/models-hidream/checkpoints/step-00000500 --output try/500

Then, while the run goes on:

reverie generate --base HiDream-ai/HiDream-I1-Full --adapter try/500.safetensors --prompt "a cat"
--output cat.png"""

WeightsName = Literal["ema", "live"]

Weights = Annotated[
    WeightsName | None,
    typer.Option(
        show_default="as the result",
        help="Of a checkpoint: the running mean (EMA), which the result of a run with use_ema has, "
        "or the live weights.",
    ),
]
_Place = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT|FOLDER",
        help="A checkpoint, such as checkpoints/step-00000500, or the output folder of a run: then "
        "its newest whole checkpoint.",
    ),
]
_Step = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", show_default="the newest", help="The checkpoint of this step in FOLDER."
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FILE.safetensors|DIR",
        show_default="a name with step and weights, here",
        help="The adapter file; or a new folder with it as in a result. All weights of full rank "
        "need a folder.",
    ),
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file; a folder is never replaced.")
]
_Base = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        show_default="as the run says",
        help="The base model that the run was trained from. Needed only where neither the "
        "checkpoint nor job.json beside it says it.",
    ),
]


def export(
    *,
    place: _Place,
    step: _Step = None,
    weights: Weights = None,
    output_: _Output = None,
    overwrite: _Overwrite = False,
    base: _Base = None,
) -> None:
    """Write a checkpoint's weights as the run would have written them, had it ended there.

    The run may still be training: only complete checkpoints are read, and
    nothing in its folder is locked or changed. Of LoKr and LoRA this is the
    adapter file, of full rank the transformer as diffusers loads it. Every
    byte is compared with the checkpoint's manifest first. Needs no GPU.
    """
    from trainer_core.local.export import WEIGHTS_IN_WORDS, export_checkpoint
    from trainer_core.paths import expanded

    with byte_progress() as reporter:
        written = export_checkpoint(
            expanded(place).absolute(),
            step=step,
            weights=weights,
            base=base,
            output=None if output_ is None else expanded(output_),
            overwrite=overwrite,
            env=os.environ,
            reporter=reporter,
        )
    output.print_note(f"step {written.step}, {WEIGHTS_IN_WORDS[written.weights]}")
    typer.echo(written.path)
