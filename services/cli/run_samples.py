"""`reverie runs samples`: the pictures of a run, as a list, as local files, and on one page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli import output
from services.cli.connection import CommandError, Invocation
from services.cli.run_files import noting_what_is_kept, shown_progress
from services.cli.run_options import RunId

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.run_output_shapes import Sample
    from trainer_core.painting.contact_sheet import Picture

EXAMPLES: Final = """Examples:

reverie runs samples run_…

reverie runs samples run_… --to pictures

reverie runs samples run_… --sheet sheet.png

reverie runs samples run_… --preview coming.png

reverie runs samples run_… --step 500 --name cat --to pictures"""

_SHEET_SUFFIX: Final = ".png"
_ONE_NAME: Final = "sample"
"""Heading of the result's picture where a run has made no others."""


def samples(
    ctx: typer.Context,
    run_id: RunId,
    *,
    step: Annotated[int | None, typer.Option(min=0, help="Only those of this step.")] = None,
    name: Annotated[str | None, typer.Option(help="Only those of the prompt of this name.")] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Download them into this folder.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Put them on one page, a PNG: a row for each step, a column for each prompt, the "
            "base model first. Of many steps it shows some.",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what the picture that is being sampled is going to be, a PNG; with "
            "validation_preview.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100, help="Pictures to show, where none are downloaded.")
    ] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="PATH", help="Show the pictures after this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show the pictures that a run made, the newest first; download them, or put them on one page.

    It can be used while the run goes on. Every file is checked by its SHA-256,
    and one that is there already is not downloaded again.
    """
    if sheet is not None and sheet.suffix.lower() != _SHEET_SUFFIX:
        raise typer.BadParameter(
            f"{sheet} has to end in {_SHEET_SUFFIX}: the page is a PNG", param_hint="--sheet"
        )
    if preview is not None:
        _refuse_beside_preview(step=step, name=name, to=to, sheet=sheet, after=after)
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        if preview is not None:
            _write_preview(client, run_id, preview, as_json=as_json)
            return
        if to is None and sheet is None:
            asked = {"step": step, "name": name, "after": after}
            _show(client, run_id, limit=limit, asked=asked, as_json=as_json)
            return
        found = _every(client, run_id, step=step, name=name, after=after)
        if not found:
            raise CommandError(
                f"{run_id} has no such pictures: `reverie runs samples {run_id}` lists all"
            )
        files: list[Path] = []
        if to is not None:
            with noting_what_is_kept(to):
                files = _download(client, run_id, found, to)
        if sheet is not None:
            _draw(client, run_id, found, sheet, folder=to)
    if as_json:
        told = {"files": [str(path) for path in files], "sheet": str(sheet) if sheet else None}
        output.print_json(told)
        return
    for path in files:
        output.print_facts({output.size(path.stat().st_size): path})
    if sheet is not None:
        output.print_facts({"sheet": sheet})


def _show(
    client: "Client", run_id: str, *, limit: int, asked: dict[str, Any], as_json: bool
) -> None:
    page = client.list_samples(run_id, limit=limit, **asked)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            each["step"],
            each.get("name") or "-",
            each.get("weights") or "-",
            _size(each),
            "-" if each.get("seed") is None else each.get("seed"),
            each["path"],
        )
        for each in page.data
    ]
    output.print_table(("STEP", "NAME", "WEIGHTS", "SIZE", "SEED", "PATH"), rows)
    if page.has_more:
        output.print_note(f"more: the same command with --after {page.next_cursor}")


def _refuse_beside_preview(**others: object) -> None:
    given = [f"--{name}" for name, value in others.items() if value is not None]
    if given:
        raise typer.BadParameter(
            f"a run has one preview, and {', '.join(given)} does not act on it: leave it out, or "
            "make it a command of its own",
            param_hint="--preview",
        )


def _write_preview(client: "Client", run_id: str, file: Path, *, as_json: bool) -> None:
    from services.client.download import download_preview
    from trainer_core.disk import writing

    with writing(file):
        found = download_preview(client, run_id, file)
    if as_json:
        output.print_json(found)
        return
    done = f"step {found['sampler_step']} of {found['sampler_steps']} of its sampler"
    output.print_facts({"preview": file, "of": found["picture"], "after": done})


def _size(sample: "Sample") -> str:
    width_px, height_px = sample.get("width_px"), sample.get("height_px")
    return f"{width_px}x{height_px}" if width_px and height_px else "-"


def _every(
    client: "Client", run_id: str, *, step: int | None, name: str | None, after: str | None
) -> "list[Sample]":
    from services.client.call import MAX_PAGE
    from services.client.pages import every

    return list(
        every(
            lambda cursor: client.list_samples(
                run_id, limit=MAX_PAGE, step=step, name=name, after=cursor or after
            )
        )
    )


def _download(client: "Client", run_id: str, found: "Sequence[Sample]", to: Path) -> list[Path]:
    from services.client.download import download_samples

    with shown_progress() as show:
        return download_samples(client, run_id, found, to, show)


def _draw(
    client: "Client", run_id: str, found: "Sequence[Sample]", sheet: Path, *, folder: Path | None
) -> None:
    """Draw the page; of what it does not show nothing is downloaded, unless ``folder`` has it."""
    from services.client.download import sample_file
    from trainer_core.disk import writing
    from trainer_core.painting.contact_sheet import contact_sheet, shown_of
    from trainer_core.whole_file import draft_of

    with TemporaryDirectory(prefix="reverie-") as temporary:
        place = folder or Path(temporary)
        named = [each for each in found if each.get("name") is not None]
        chosen = sorted(named or found, key=lambda each: each["step"])
        pictures = _pictures(chosen, [place / sample_file(each["path"]) for each in chosen])
        if folder is None:
            shown = {each.image for each in shown_of(pictures)}
            needed = [each for each in found if place / sample_file(each["path"]) in shown]
            _download(client, run_id, needed, place)
        body = contact_sheet(pictures, title=run_id)
    with writing(sheet):
        sheet.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(sheet) as draft:
            draft.write_bytes(body)


def _pictures(samples: "Sequence[Sample]", files: Sequence[Path]) -> "list[Picture]":
    from trainer_core.painting.contact_sheet import Column, Picture, headings

    columns = [
        Column(
            name=each.get("name") or _ONE_NAME,
            width_px=each.get("width_px") or 0,
            height_px=each.get("height_px") or 0,
            seed=each.get("seed") or 0,
        )
        for each in samples
    ]
    named = headings(columns)
    return [
        Picture(
            step=each["step"],
            name=named[column],
            weights=each.get("weights") or "trained",
            image=file,
        )
        for each, column, file in zip(samples, columns, files, strict=True)
    ]
