"""`reverie merge`: an adapter added into the weights of its base model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from services.cli import output
from services.cli.adapter_option import ADAPTER_HELP, adapter_file
from services.cli.export import Weights

if TYPE_CHECKING:
    from trainer_core.export.merge import MergeReport

EXAMPLES: Final = """Examples:

reverie merge --base HiDream-ai/HiDream-I1-Full
--adapter result/pytorch_lora_weights.safetensors --output merged"""

_WORST_SHOWN: Final = 3


_Base = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIR",
        help="The base model: as in `reverie models list`, or its folder as diffusers writes it.",
    ),
]
_Adapter = Annotated[
    Path,
    typer.Option(
        metavar="FILE|DIR",
        help=ADAPTER_HELP,
    ),
]
_Output = Annotated[
    Path,
    typer.Option(
        "--output",
        metavar="DIR",
        help="A new or an empty folder: transformer/ and merge.json go into it.",
    ),
]
_Dtype = Annotated[
    Literal["bf16", "fp32"],
    typer.Option(
        help="Of the weights written. They are added in fp32; what the cast to bf16 takes away "
        "from the adapter is reported."
    ),
]
_Multiplier = Annotated[float, typer.Option(help="Strength of the adapter: 1 as trained.")]


def merge(
    *,
    base: _Base,
    adapter: _Adapter,
    output_: _Output,
    weights: Weights = None,
    dtype: _Dtype = "bf16",
    multiplier: _Multiplier = 1.0,
) -> None:
    """Write the base model's transformer with an adapter in it, as diffusers loads it.

    Load it with
    HiDreamImageTransformer2DModel.from_pretrained("DIR/transformer").
    To quantise it, merge first: a quantised base model is refused.
    """
    from trainer_core.base_models.obtain import transformer_folder
    from trainer_core.paths import expanded

    output_ = expanded(output_)
    folder = transformer_folder(base, env=os.environ, folders=[Path.cwd()])
    with adapter_file(adapter, weights) as file:
        report = _merge_shown(folder, file, output_, dtype, multiplier)
    output.print_note(
        f"merged {len(report.changed)} modules; the cast to {dtype} took {report.share:.2%} of the "
        "adapter's change"
    )
    for path, share in report.worst(_WORST_SHOWN):
        output.print_note(f"  {share:8.2%}  {path}")
    typer.echo(output_ / "transformer")


def _merge_shown(
    folder: Path, adapter: Path, output_: Path, dtype: Literal["bf16", "fp32"], multiplier: float
) -> "MergeReport":
    """Merge with a progress bar on stderr."""
    import torch
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    from trainer_core.export.merge import merge_folder

    _, err = output.consoles()
    columns = (TextColumn("merging"), BarColumn(), MofNCompleteColumn(), TextColumn("modules"))
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("merging", total=None)
        return merge_folder(
            folder,
            adapter,
            output_,
            dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[dtype],
            multiplier=multiplier,
            on_module=lambda done, total: progress.update(task, completed=done, total=total),
        )
