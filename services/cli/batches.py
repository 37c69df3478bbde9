"""`reverie batches`: the runs that were submitted together."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import batch_view, output
from services.cli.connection import CommandError, Invocation

if TYPE_CHECKING:
    from services.client.batch_shapes import Batch, Comparison, Sweep
    from services.client.client import Client
    from services.client.shapes import RunRequest

app = typer.Typer(no_args_is_help=True, help="Runs that were submitted together.")

BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="bat_…")]


@app.command("list")
def list_batches(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Batches a page.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="BATCH", help="Show the batches older than this one.")
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Show batches, newest first. `reverie runs submit --sweep` makes one."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        page = client.list_batches(limit=limit, after=after)
    if as_json:
        output.print_json(asdict(page))
        return
    rows = [
        (
            batch["id"],
            batch["name"] or "-",
            batch["num_runs"],
            batch_view.status(batch["counts"]),
            output.of_steps(batch["step"], batch["max_steps"]),
            output.when(batch["created_at"]),
        )
        for batch in page.data
    ]
    output.print_table(("ID", "NAME", "RUNS", "STATUS", "STEP", "CREATED"), rows)
    if page.has_more:
        output.print_note(f"more: reverie batches list --after {page.next_cursor}")


@app.command("show")
def show(ctx: typer.Context, batch_id: BatchId, as_json: output.Json = False) -> None:
    """Show one batch: how far it is, and which rows of the request were refused."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        batch = client.get_batch(batch_id)
    if as_json:
        output.print_json(batch)
    else:
        print_batch(batch)


@app.command("compare")
def compare(ctx: typer.Context, batch_id: BatchId, as_json: output.Json = False) -> None:
    """Show its runs side by side: what differs, how far each is, its loss and what it cost."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        comparison = client.compare_batch(batch_id)
    if as_json:
        output.print_json(comparison)
        return
    rows = [batch_view.cells(run, comparison["options"]) for run in comparison["runs"]]
    output.print_table(batch_view.columns(comparison), rows)


@app.command("watch")
def watch(ctx: typer.Context, batch_id: BatchId) -> None:
    """Follow all its runs to their ends. Ctrl-C ends the watching, not the runs.

    The exit status is 0 only where every run succeeded.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        comparison = follow(client, batch_id, on_stderr=False)
    raise typer.Exit(exit_code(comparison))


@app.command("cancel")
def cancel(
    ctx: typer.Context,
    batch_id: BatchId,
    *,
    now: Annotated[bool, typer.Option("--now", help="Without a checkpoint.")] = False,
    as_json: output.Json = False,
) -> None:
    """Cancel all its runs that are not over. Those that train store a checkpoint first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        batch = client.cancel_batch(batch_id, now=now)
    if as_json:
        output.print_json(batch)
    else:
        output.print_facts({"batch": batch["id"], "status": batch_view.status(batch["counts"])})


def submit(
    client: "Client", base: "RunRequest", sweep: "Sweep", *, watch: bool, as_json: bool
) -> None:
    """Queue the runs of a sweep, show them, and end with the status of `reverie runs submit`."""
    batch = client.submit_batch({"base": base, "sweep": sweep})
    if not as_json:
        print_batch(batch)
    comparison = follow(client, batch["id"], on_stderr=as_json) if watch else None
    if as_json:
        output.print_json(comparison or batch)
    if batch["refused"]:
        number, total = len(batch["refused"]), batch["num_runs"] + len(batch["refused"])
        raise CommandError(f"{number} of {total} runs were refused; the others are queued")
    if comparison is not None:
        raise typer.Exit(exit_code(comparison))


def print_batch(batch: "Batch") -> None:
    """The batch on stdout, its runs, and on stderr the rows that were refused."""
    output.print_facts(batch_view.facts(batch))
    options = list(dict.fromkeys(name for run in batch["runs"] for name in run["options"]))
    rows = [
        (run["row"], run["run_id"], *batch_view.values(run["options"], options))
        for run in batch["runs"]
    ]
    output.print_table(("ROW", "RUN", *batch_view.heads(options)), rows)
    for line in batch_view.refusals(batch["refused"]):
        output.print_note(line)


def follow(client: "Client", batch_id: str, *, on_stderr: bool) -> "Comparison":
    """Show the batch until it is over."""
    from services.cli.batch_watch import watch_batch

    out, err = output.consoles()
    return watch_batch(client, batch_id, err if on_stderr else out)


def exit_code(comparison: "Comparison") -> int:
    return 0 if all(run["status"] == "succeeded" for run in comparison["runs"]) else 1
