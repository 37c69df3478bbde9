"""`reverie runs download`: the files of a run's result or of a checkpoint, as local files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.export import WeightsName
from services.cli.run_options import RunId
from services.domain.visible_text import escaped

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.download import DownloadProgress, OnProgress

EXAMPLES: Final = """Examples:

reverie runs download run_… --to my-adapter

reverie runs download run_… --checkpoint 500 --adapter

reverie runs download run_… --checkpoint 500"""


def download(
    ctx: typer.Context,
    run_id: RunId,
    *,
    checkpoint: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEP", help="The checkpoint of this step, not the result."),
    ] = None,
    adapter: Annotated[
        bool,
        typer.Option(
            "--adapter",
            help="Only what is needed to use it: the adapter file, of LoKr with its "
            "lycoris_config.json.",
        ),
    ] = False,
    weights: Annotated[
        WeightsName | None,
        typer.Option(
            show_default="as the result",
            help="With --checkpoint and --adapter: the running mean (EMA), or the live weights.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default="a new folder, named by run, step and what is taken",
            help="Where to.",
        ),
    ] = None,
) -> None:
    """Download the result, or a checkpoint. Run it again to go on after an interruption.

    A checkpoint of LoKr or LoRA has its adapter file (those of older versions
    have none). It can be used while the run goes on. Every file is checked by
    its SHA-256.
    """
    if weights is not None and (checkpoint is None or not adapter):
        raise typer.BadParameter(
            "it chooses between the adapters of a checkpoint: add --checkpoint STEP --adapter",
            param_hint="--weights",
        )
    invocation: Invocation = ctx.obj
    folder, name = "result", run_id
    if checkpoint is not None:
        folder = f"checkpoints/step-{checkpoint:08d}"
        name += f"-step-{checkpoint:08d}"
    if adapter:
        name += "-adapter" if weights is None else f"-adapter-{weights}"
    place = to or Path(name)
    with invocation.connect() as client, noting_what_is_kept(place):
        files = download_shown(client, run_id, folder, place, adapter_only=adapter, weights=weights)
    for file in files:
        output.print_facts({output.size(file.stat().st_size): file})


def download_shown(
    client: "Client",
    run_id: str,
    folder: str,
    to: Path,
    *,
    adapter_only: bool = False,
    weights: WeightsName | None = None,
) -> list[Path]:
    """Download with a progress bar on stderr; raises what ``download_folder`` raises."""
    from services.client.download import download_adapter, download_folder

    with shown_progress() as show:
        if adapter_only:
            return download_adapter(client, run_id, folder, to, show, weights=weights)
        return download_folder(client, run_id, folder, to, show)


@contextmanager
def noting_what_is_kept(place: Path) -> Iterator[None]:
    """Says at an interruption how the download into ``place`` goes on."""
    try:
        yield
    except KeyboardInterrupt:
        output.print_note(f"What has come is kept in {place}: run the same command to go on.")
        raise


@contextmanager
def shown_progress() -> "Iterator[OnProgress]":
    """What shows a download's progress: a bar on stderr, where that is a terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    _, err = output.consoles()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def show(now: "DownloadProgress") -> None:
            progress.update(
                task,
                description=escaped(now.path.rpartition("/")[2]),
                completed=now.done_bytes,
                total=now.total_bytes,
            )

        yield show
