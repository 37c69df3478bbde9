"""`reverie runs`: pause, resume, cancel, set."""

from typing import Annotated

import typer

from services.cli import output
from services.cli.connection import Invocation
from services.cli.run_limits import Deadline, MaxCost, MaxGpuHours, limit_facts, parse_limits
from services.cli.run_options import RunId, print_state
from services.domain.priorities import Priority

app = typer.Typer()


@app.command("pause")
def pause(ctx: typer.Context, run_id: RunId, as_json: output.Json = False) -> None:
    """Pause a run: it stores a checkpoint, gives its worker back, and costs nothing meanwhile."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.pause_run(run_id)
    print_state(run, as_json=as_json)


@app.command("resume")
def resume(ctx: typer.Context, run_id: RunId, as_json: output.Json = False) -> None:
    """Let a paused run go on from its newest checkpoint, on the next free worker."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.resume_run(run_id)
    print_state(run, as_json=as_json)


@app.command("cancel")
def cancel(
    ctx: typer.Context,
    run_id: RunId,
    now: Annotated[bool, typer.Option("--now", help="Without a checkpoint.")] = False,
    as_json: output.Json = False,
) -> None:
    """Cancel a run. One that is training writes a checkpoint first."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.cancel_run(run_id, now=now)
    print_state(run, as_json=as_json)


@app.command("set")
def change(
    ctx: typer.Context,
    run_id: RunId,
    *,
    priority: Annotated[
        Priority | None, typer.Option(help="Which of your own waiting runs goes first.")
    ] = None,
    max_cost: MaxCost = None,
    max_gpu_hours: MaxGpuHours = None,
    deadline: Deadline = None,
    as_json: output.Json = False,
) -> None:
    """Change the priority or the limits of a run, also while it trains."""
    changes = parse_limits(max_cost=max_cost, max_gpu_hours=max_gpu_hours, deadline=deadline)
    if priority is not None:
        changes["priority"] = priority
    if not changes:
        raise typer.BadParameter("name what to change, such as --priority high")
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.change_run(run_id, changes)
    if as_json:
        output.print_json(run)
        return
    facts = {"run": run["id"], "status": run["status"], "priority": run.get("priority")}
    output.print_facts({**facts, **limit_facts(run)})
