"""`reverie datasets`: push folders of images and captions, list and show datasets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.config_options import Setting, settings_of
from services.cli.connection import CommandError, Invocation
from services.cli.source_fetching import AllowNetwork
from services.domain.ids import is_id

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.dataset_shapes import Dataset, DatasetChange, DatasetDiffTotals
    from services.client.push import OnProgress

app = typer.Typer(no_args_is_help=True, help="Datasets: uploaded folders of images and captions.")

_PUSH_EXAMPLES: Final = """Examples:

reverie datasets push examples/photos/train --name photos

reverie datasets push photos --based-on ds_0198c0de…

reverie datasets push old/pytorch_lora_weights.safetensors

reverie datasets push my/config --backend photos"""
_FETCH_EXAMPLES: Final = """Examples:

reverie datasets fetch my/config --backend photos

reverie datasets fetch my/config --backend photos --output photos"""

_IMPORT_EXAMPLES: Final = """Examples:

reverie datasets import my/config --backend photos --wait

reverie datasets show ds_0198c0de…"""

_LEFT_OUT_SHOWN: Final = 10

_Backend = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="DIR|FILE is a configuration: push what the pictures of this data backend are "
        "fetched from (a list of addresses, a dataset of the Hub, a bucket, tar files).",
    ),
]


@app.command("push", epilog=_PUSH_EXAMPLES)
def push(
    ctx: typer.Context,
    place: Annotated[Path, typer.Argument(exists=True, metavar="DIR|FILE")],
    *,
    name: Annotated[str | None, typer.Option(help="Default: its own name.")] = None,
    based_on: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="A dataset with most of these files: send the rest."),
    ] = None,
    backend: _Backend = None,
    setting: Setting = None,
    allow_network: AllowNetwork = None,
    as_json: output.Json = False,
) -> None:
    """Upload the images and .txt files of a folder; wait until the service has checked them.

    Or an adapter file (.safetensors), which init_lora of a run may name by the dataset's id. Or,
    with --backend, the pictures that a configuration fetches from elsewhere.
    """
    invocation: Invocation = ctx.obj
    if backend is not None:
        name = name or backend
        place = _fetched(invocation, place, backend, setting, allow_network)
    with invocation.connect() as client:
        dataset = push_shown(client, place, name, based_on=based_on)
    if based_on == dataset["id"]:
        output.print_note(f"{place} has the files of {based_on}; no dataset was made")
    if as_json:
        output.print_json(dataset)
    else:
        output.print_facts({"dataset": dataset["id"], "status": dataset["status"]})


@app.command("fetch", epilog=_FETCH_EXAMPLES)
def fetch(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, metavar="DIR|FILE")],
    *,
    backend: Annotated[str, typer.Option(metavar="ID", help="Id of the data backend.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="A new folder for the files; else they stay where runs on this machine find them.",
        ),
    ] = None,
    setting: Setting = None,
    allow_network: AllowNetwork = None,
) -> None:
    """Fetch the pictures and captions of a data backend that are elsewhere: a list of addresses,
    a dataset of the Hub, a bucket or tar files.

    The same command goes on after an interruption, and fetches only what is
    new where the source has changed. Runs on this machine fetch them by
    themselves.
    """
    folder = _fetched(ctx.obj, config, backend, setting, allow_network)
    if to is not None:
        from trainer_core.sources.copying import copy_files

        copy_files(folder, to)
    output.print_facts({"folder": to or folder})


def _fetched(
    invocation: Invocation,
    config: Path,
    backend: str,
    setting: list[str] | None,
    allow_network: list[str] | None,
) -> Path:
    """The folder of a backend's pictures, once they are fetched; raises CommandError."""
    from services.cli.documents import read_documents
    from services.cli.source_fetching import fetch_all, fetch_progress, networks_in, surroundings
    from trainer_core.config.simpletuner.local_backends import check_backend, sources_of
    from trainer_core.paths import search_folders

    documents = read_documents(config, settings_of(setting), Path.cwd(), invocation.env)
    body = documents.body
    problems = check_backend(body["config"], body["data_backends"], backend)
    if problems:
        raise CommandError("\n".join(problems))
    sources = sources_of(body["config"], body["data_backends"])
    if backend not in sources:
        where = documents.folders.get(backend)
        known = f"its folder is {where}" if where else f"of other backends: {', '.join(sources)}"
        raise CommandError(f"{backend} has no pictures elsewhere; {known}")
    folders = search_folders(documents.config_dir, Path.cwd())
    around = surroundings(invocation.env, folders, networks_in(allow_network))
    with fetch_progress() as reporter:
        found = fetch_all({backend: sources[backend]}, around, reporter)
    for warning in found.warnings:
        output.print_note(f"warning: {warning}")
    if backend in found.problems:
        raise CommandError(found.problems[backend])
    return found.folders[backend]


@app.command("import", epilog=_IMPORT_EXAMPLES)
def import_(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(exists=True, metavar="DIR|FILE")],
    *,
    backend: Annotated[str, typer.Option(metavar="ID", help="Id of the data backend.")],
    name: Annotated[str | None, typer.Option(help="Default: the id of the backend.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    setting: Setting = None,
    as_json: output.Json = False,
) -> None:
    """Have the service fetch the pictures and captions of a data backend that are elsewhere.

    A list of addresses, a public dataset of the Hub, or tar files at
    addresses or there. Runs may name the dataset at once. What needs a token
    is fetched on this machine by `reverie datasets push CONFIG --backend ID`.
    """
    from services.cli.source_imports import source_to_import

    invocation: Invocation = ctx.obj
    sent = source_to_import(config, backend, settings_of(setting), invocation.env)
    with invocation.connect() as client:
        dataset = client.create_dataset(name or backend, source=sent.source, csv=sent.csv)
        if wait:
            from services.client.push import wait_ready

            if not as_json:
                output.print_note(f"importing into {dataset['id']}")
            # An import takes as long as its source, and goes on where the wait is interrupted.
            with _shown_progress() as show_progress:
                dataset = wait_ready(client, dataset["id"], float("inf"), show_progress)
    if as_json:
        output.print_json(dataset)
        return
    output.print_facts({"dataset": dataset["id"], "status": dataset["status"]})
    _show_rows_left_out(dataset)


def _show_rows_left_out(dataset: "Dataset") -> None:
    source = dataset.get("source")
    if source is not None and source["left_out"]:
        number = source["left_out"]
        rows = "1 row is" if number == 1 else f"{number} rows are"
        output.print_note(f"warning: {rows} left out, such as:")
        for row in source["left_out_rows"][:_LEFT_OUT_SHOWN]:
            output.print_note(f"  {row['message']}")


@app.command("list")
def list_datasets(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Datasets a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Show the datasets older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show datasets, newest first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_datasets(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [(d["id"], d["status"], output.when(d["created_at"]), d["name"]) for d in page.data]
    output.print_table(("ID", "STATUS", "CREATED", "NAME"), rows)
    if page.has_more:
        output.print_note(f"more: reverie datasets list --after {page.next_cursor}")


@app.command("show")
def show(
    ctx: typer.Context,
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="ds_…")],
    as_json: output.Json = False,
) -> None:
    """Show one dataset, which files cannot be used and, where it was rejected, why."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        dataset = client.get_dataset(dataset_id)
    if as_json:
        output.print_json(dataset)
        return
    output.print_facts(
        {
            "dataset": dataset["id"],
            "name": dataset["name"],
            "status": dataset["status"],
            "created": output.when(dataset["created_at"]),
            "files": dataset["num_files"],
            "digest": dataset["digest"],
            "based on": dataset["based_on"],
            "left out": dataset.get("num_left_out") or None,
            **_facts_of_source(dataset),
        }
    )
    if dataset["status"] != "rejected":
        show_left_out(dataset)
    _show_rows_left_out(dataset)
    for error in dataset["errors"]:
        output.print_note(f"  {error['pointer']}: {error['message']} [{error['code']}]")


def show_left_out(dataset: "Dataset") -> None:
    """Say which files of a dataset cannot be used, at most 20."""
    shown, number = dataset.get("left_out", []), dataset.get("num_left_out", 0)
    if number:  # a service of before tells neither
        files = (
            "1 file cannot be used and is"
            if number == 1
            else f"{number} files cannot be used and are"
        )
        output.print_note(f"{files} left out:")
    for problem in shown:
        output.print_note(f"  {problem['message']}")
    if number > len(shown):
        output.print_note(f"  and {number - len(shown)} more")


def _facts_of_source(dataset: "Dataset") -> dict[str, str]:
    source = dataset.get("source")
    if source is None:
        return {}
    total = "" if source["rows_total"] is None else f" of {source['rows_total']:,}"
    facts = {
        "import": f"{source['status']}, {source['rows_done']:,}{total} rows, "
        f"{source['pictures']:,} pictures, {output.size(source['fetched_bytes'])}"
    }
    if source["seconds_left"] is not None:
        facts["left"] = f"about {source['seconds_left'] / 60:.0f} min"
    return facts


@app.command("diff")
def diff(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="DATASET", help="ds_…")],
    new: Annotated[str, typer.Argument(metavar="DATASET|DIR", help="A later one, or a folder.")],
    as_json: output.Json = False,
) -> None:
    """Show which files are added, removed and changed from one dataset to another.

    Or to a folder on this machine, of which nothing is uploaded.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        changes, totals = _changes(client, old, new)
    if as_json:
        output.print_json({"before": old, "after": new, "totals": totals, "changes": changes})
        return
    rows = [(each["change"], output.size(each["size_bytes"]), each["path"]) for each in changes]
    if rows:
        output.print_table(("CHANGE", "SIZE", "PATH"), rows)
    output.print_note(", ".join(f"{number} {kind}" for kind, number in totals.items()))


def _changes(
    client: "Client", old: str, new: str
) -> "tuple[list[DatasetChange], DatasetDiffTotals]":
    """All changes by path, and how many files there are of each kind."""
    from services.client.folder_changes import changes_between, changes_in_folder

    folder = Path(new).expanduser()
    if not is_id(new, "ds") and folder.exists():
        found = changes_in_folder(client, old, folder)
        return found.changes, found.totals
    return changes_between(client, old, new)


def push_shown(
    client: "Client", place: Path, name: str | None, *, based_on: str | None = None
) -> "Dataset":
    """Push a folder or an adapter file, with a progress bar; raises what ``push_folder`` raises."""
    from services.client.folder import list_folder
    from services.client.push import push_folder
    from trainer_core.data.folder import notes_on

    for note in () if place.is_file() else notes_on(list_folder(place)):
        output.print_note(f"{place}: {note}")
    with _shown_progress() as show_progress:
        dataset = push_folder(client, place, name, show_progress, based_on=based_on)
    show_left_out(dataset)
    return dataset


@contextmanager
def _shown_progress() -> "Iterator[OnProgress]":
    """A bar on a terminal, for as long as the block runs."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    from services.client.push import PushProgress

    _, err = output.consoles()
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[sent]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=None, sent="")

        def show_progress(now: PushProgress) -> None:
            sent = output.size(now.sent_bytes) if now.sent_bytes else ""
            progress.update(
                task, description=now.stage, completed=now.done, total=now.total or None, sent=sent
            )

        yield show_progress
