"""`reverie runs`: submit, look, watch, cancel."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from services.cli import output
from services.cli.connection import Invocation

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.shapes import Failure, Run, RunRequest

app = typer.Typer(no_args_is_help=True, help="Training runs.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="run_…")]
_DATASET_ID: Final = re.compile(r"ds_[0-9a-f]{32}")


_SUBMIT_EXAMPLES: Final = """Examples:

reverie runs submit --config examples/demo --watch

reverie runs submit --config my/config.json --dataset photos=ds_… --set max_train_steps=500"""


@app.command("submit", epilog=_SUBMIT_EXAMPLES)
def submit(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path,
        typer.Option(
            exists=True, metavar="DIR|FILE", help="SimpleTuner's config.json, or its folder."
        ),
    ],
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND=DATASET|DIR",
            help="What a data backend reads: ds_…, or a folder that is pushed first; else the "
            "folder that its instance_data_dir names. Repeatable.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace an option of config.json. Repeatable."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Queue a run from SimpleTuner's files, exactly as they are."""
    from services.cli.documents import parse_settings, read_documents  # noqa: PLC0415

    invocation: Invocation = ctx.obj
    sources = _parse_datasets(dataset or [])
    try:
        settings = parse_settings(setting or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
    documents = read_documents(config, settings, Path.cwd())
    for file in documents.used:
        output.print_note(f"{file.option:<20} {file.path}")
    with invocation.connect() as client:
        datasets = _push_folders(client, {**documents.folders, **sources})
        request: RunRequest = {**documents.body, "datasets": datasets}  # type: ignore[typeddict-item]  # read from files; the service checks it
        run = client.submit_run(request)
        if not as_json:
            _print_submitted(run)
        if watch:
            run = _watch(client, run["id"], on_stderr=as_json)
    if as_json:
        output.print_json(run)
    if watch:
        raise typer.Exit(_exit_code(run))


@app.command("list")
def list_runs(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    after: Annotated[str | None, typer.Option(help="Go on behind this id.")] = None,
    as_json: Json = False,
) -> None:
    """Show runs, newest first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_runs(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            run["id"],
            run["status"],
            run["stage"] or "-",
            f"{run['step']}/{run['max_steps']}",
            output.when(run["created_at"]),
        )
        for run in page.data
    ]
    output.print_table(("ID", "STATUS", "STAGE", "STEP", "CREATED"), rows)
    if page.has_more:
        output.print_note(f"more: reverie runs list --after {page.next_cursor}")


@app.command("show")
def show(ctx: typer.Context, run_id: RunId, as_json: Json = False) -> None:
    """Show one run: where it stands, its attempts, checkpoints and publications."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.get_run(run_id)
        if as_json:
            output.print_json(run)
            return
        checkpoints = client.list_checkpoints(run_id)
        publications = client.list_publications(run_id=run_id).data
    output.print_facts(_facts(run))
    for attempt in run["attempts"]:
        steps = f"steps {attempt['from_step']} to {attempt['last_step']}"
        ended = attempt["outcome"] or "under way"
        output.print_facts(
            {f"attempt {attempt['fence']}": f"{ended}, {steps}{_why(attempt['reason'])}"}
        )
    for checkpoint in checkpoints:
        stored = output.size(checkpoint["size_bytes"])
        output.print_facts({"checkpoint": f"step {checkpoint['step']}, {stored}"})
    for publication in publications:
        where = publication["location"] or publication["error"] or ""
        output.print_facts({"publication": f"{publication['status']} {where}".strip()})
    for warning in run["warnings"]:
        output.print_note(f"warning: {warning}")


@app.command("watch")
def watch(ctx: typer.Context, run_id: RunId) -> None:
    """Follow a run to its end; Ctrl-C leaves it running. Exit code 0 only where it succeeded."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = _watch(client, run_id, on_stderr=False)
    raise typer.Exit(_exit_code(run))


@app.command("cancel")
def cancel(ctx: typer.Context, run_id: RunId, as_json: Json = False) -> None:
    """Ask for a run's end; one that trains writes a checkpoint first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.cancel_run(run_id)
    if as_json:
        output.print_json(run)
    else:
        output.print_facts({"run": run["id"], "status": run["status"]})


def _parse_datasets(pairs: Sequence[str]) -> dict[str, str | Path]:
    """Backend id → dataset id or local folder; wrong usage where a text is neither."""
    sources: dict[str, str | Path] = {}
    for pair in pairs:
        backend, equals, source = pair.partition("=")
        if not (backend and equals and source):
            raise typer.BadParameter(
                f"{pair!r} is not BACKEND=DATASET, with a backend's id from the data backends file",
                param_hint="--dataset",
            )
        if backend in sources:
            raise typer.BadParameter(f"{backend} is given twice", param_hint="--dataset")
        if _DATASET_ID.fullmatch(source):
            sources[backend] = source
        elif Path(source).expanduser().is_dir():
            sources[backend] = Path(source).expanduser()
        else:
            raise typer.BadParameter(
                f"{source!r} is neither a dataset (ds_…) nor a folder", param_hint="--dataset"
            )
    return sources


def _push_folders(client: "Client", sources: Mapping[str, str | Path]) -> dict[str, str]:
    """Every source as a dataset id; a folder that two backends read is pushed once."""
    from services.cli.datasets import push_shown  # noqa: PLC0415

    pushed: dict[Path, str] = {}
    datasets: dict[str, str] = {}
    for backend, source in sources.items():
        if isinstance(source, str):
            datasets[backend] = source
            continue
        folder = source.resolve()
        if folder not in pushed:
            pushed[folder] = push_shown(client, source, None)["id"]
            output.print_note(f"{backend:<20} {source} pushed as {pushed[folder]}")
        datasets[backend] = pushed[folder]
    return datasets


def _watch(client: "Client", run_id: str, *, on_stderr: bool) -> "Run":
    from services.cli.watch import watch_run  # noqa: PLC0415

    out, err = output.consoles()
    return watch_run(client, run_id, err if on_stderr else out)


def _print_submitted(run: "Run") -> None:
    for warning in run["warnings"]:
        output.print_note(f"warning: {warning}")
    output.print_facts({"run": run["id"], "status": run["status"], "steps": run["max_steps"]})


def _facts(run: "Run") -> dict[str, object]:
    stage = f" / {run['stage']}" if run["stage"] else ""
    return {
        "run": run["id"],
        "status": f"{run['status']}{stage}",
        "reason": _why(run["status_reason"]).removeprefix(": ") or None,
        "step": f"{run['step']} of {run['max_steps']}",
        "saved": f"step {run['checkpoint_step']}" if run["checkpoint_step"] else None,
        "model": run["plan"].get("identity", {}).get("base", {}).get("name"),
        "plan": run["plan_digest"],
        "datasets": ", ".join(f"{b} = {d}" for b, d in run["datasets"].items()) or None,
        "created": output.when(run["created_at"]),
        "started": output.when(run["started_at"]),
        "finished": output.when(run["finished_at"]),
    }


def _why(failure: "Failure | None") -> str:
    return f": {failure['message']} [{failure['code']}]" if failure else ""


def _exit_code(run: "Run") -> int:
    return 0 if run["status"] == "succeeded" else 1
