"""`reverie runs`: submit, list, show, watch; ``run_control`` has the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from services.cli import batches, estimates, output, run_control
from services.cli.batch_view import charged
from services.cli.config_options import Config, Setting, settings_of
from services.cli.connection import Invocation
from services.cli.run_limits import Deadline, MaxCost, MaxGpuHours, limit_facts, parse_limits
from services.cli.run_options import RunId
from services.cli.source_fetching import AllowNetwork, networks_in
from services.domain.priorities import Priority
from services.domain.sweeps import MAX_ROWS, Method
from trainer_core.in_words import duration

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.publication_shapes import Publication
    from services.client.run_output_shapes import Checkpoint
    from services.client.shapes import Failure, Relay, Run, RunRequest, Waiting

app = typer.Typer(no_args_is_help=True, help="Training runs.")
app.add_typer(run_control.app)

Sources = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BACKEND=DATASET|DIR",
        help="What an image backend reads: a dataset (ds_…), or a folder, which is pushed first. "
        "Without it: the folder that instance_data_dir names. Repeatable.",
    ),
]

_NOT_COUNTED: Final = "the steps of its epochs are counted when its data is read"

_SUBMIT_EXAMPLES: Final = """Examples:

reverie runs submit --config examples/demo --watch

reverie runs submit --config my/config.json --dataset photos=ds_… --set max_train_steps=500

reverie runs submit --config my --sweep learning_rate=1e-4,3e-4 --sweep lycoris_config.factor=8,16

reverie runs submit --config my --sweep learning_rate=1e-5..1e-3:log --sweep-method random
--sweep-runs 10"""


@app.command("submit", epilog=_SUBMIT_EXAMPLES)
def submit(
    ctx: typer.Context,
    *,
    config: Config,
    dataset: Sources = None,
    setting: Setting = None,
    priority: Annotated[
        Priority, typer.Option(help="Which of your own waiting runs goes first.")
    ] = "normal",
    max_cost: MaxCost = None,
    max_gpu_hours: MaxGpuHours = None,
    deadline: Deadline = None,
    hub_secret: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Secret that publishes to hub_model_id; default: your only one."
        ),
    ] = None,
    wandb_secret: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Secret that relays metrics to Weights & Biases; default, with report_to wandb: "
            "your only one.",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=V1,V2,…",
            help="Queue a run for each value of an option; see --sweep-method for several options. "
            "LOW..HIGH[:log] is a range to draw from. Repeatable.",
        ),
    ] = None,
    sweep_method: Annotated[
        Method,
        typer.Option(help="All combinations, the n-th values together, or random draws."),
    ] = "grid",
    sweep_runs: Annotated[
        int | None, typer.Option(min=1, max=MAX_ROWS, help="How many random runs.")
    ] = None,
    sweep_seed: Annotated[int | None, typer.Option(min=0, help="Of the random draws.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    allow_network: AllowNetwork = None,
    as_json: output.Json = False,
) -> None:
    """Queue a run from SimpleTuner's files, exactly as they are; with --sweep several, as a batch.

    Pictures that are elsewhere (a list of addresses, the Hub, a bucket, tar
    files) are fetched into REVERIE_HOME on this machine first, and then pushed.

    A local file that init_lora names is pushed first; run_… names an earlier run.
    The exit status is 1 where some runs of a sweep were refused; the others are queued.
    """
    from services.cli.documents import read_documents
    from services.cli.run_sources import (
        check_before_push,
        parse_sources,
        push_sources,
        tell_before_sending,
    )
    from services.cli.run_start import local_start, push_start, with_start
    from services.cli.source_fetching import local_folders
    from services.cli.sweeps import parse_sweep
    from trainer_core.paths import search_folders

    invocation: Invocation = ctx.obj
    sources = parse_sources(dataset or [])
    settings = settings_of(setting)
    limits = parse_limits(max_cost=max_cost, max_gpu_hours=max_gpu_hours, deadline=deadline)
    swept = parse_sweep(sweep or [], method=sweep_method, num_runs=sweep_runs, seed=sweep_seed)
    documents = read_documents(config, settings, Path.cwd(), invocation.env)
    allowed = networks_in(allow_network)
    for file in documents.used:
        output.print_note(f"{file.option:<20} {file.path}")
    tell_before_sending(documents)
    fetched = local_folders(
        documents.body,
        search_folders(documents.config_dir, Path.cwd()),
        invocation.env,
        allowed,
        named=sources,
    )
    checked: dict[str, Any] = {**documents.body, **limits}
    if priority != "normal":
        checked["priority"] = priority
    if hub_secret is not None or wandb_secret is not None:
        checked["secrets"] = {"hub": hub_secret, "wandb": wandb_secret}
    start = local_start(documents, Path.cwd())
    with invocation.connect() as client:
        chosen = {**documents.folders, **fetched, **sources}
        if swept is None:  # rows of a sweep are refused one by one
            known = checked if start is None else with_start(checked, None)
            check_before_push(client, known, [*chosen.values(), start])
        if start is not None:
            checked = with_start(checked, push_start(client, start))
        request = cast("RunRequest", {**checked, "datasets": push_sources(client, chosen)})
        if swept is not None:
            batches.submit(client, request, swept, watch=watch, as_json=as_json)
            return
        run = client.submit_run(request)
        if not as_json:
            print_submitted(run)
        if watch:
            run = _watch(client, run["id"], on_stderr=as_json)
    if as_json:
        output.print_json(run)
    if watch:
        raise typer.Exit(_exit_code(run))


@app.command("show")
def show(ctx: typer.Context, run_id: RunId, as_json: output.Json = False) -> None:
    """Show one run: its status and step, its attempts, checkpoints and publications."""
    from services.client.pages import every

    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = client.get_run(run_id)
        if as_json:
            output.print_json(run)
            return
        checkpoints = list(every(lambda after: client.list_checkpoints(run_id, after=after)))
        publications = client.list_publications(run_id=run_id).data
    output.print_facts(_facts(run))
    for fact in _history(run, checkpoints, publications):
        output.print_facts(fact)
    for warning in run["warnings"]:
        output.print_note(f"warning: {warning}")


@app.command("watch")
def watch(ctx: typer.Context, run_id: RunId) -> None:
    """Follow a run until it is over or paused. Ctrl-C ends the watching, not the run.

    The exit status is 0 only where the run succeeded.
    """
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        run = _watch(client, run_id, on_stderr=False)
    raise typer.Exit(_exit_code(run))


def _watch(client: "Client", run_id: str, *, on_stderr: bool) -> "Run":
    from services.cli.watch import watch_run

    out, err = output.consoles()
    return watch_run(client, run_id, err if on_stderr else out)


def print_submitted(run: "Run") -> None:
    for warning in run["warnings"]:
        output.print_note(f"warning: {warning}")
    output.print_facts(
        {
            "run": run["id"],
            "status": run["status"],
            "steps": run["max_steps"] or _NOT_COUNTED,
            "takes": estimates.in_words(run["estimate"]),
        }
    )


def _facts(run: "Run") -> dict[str, object]:
    stage = f" / {run['stage']}" if run["stage"] else ""
    return {
        "run": run["id"],
        "status": f"{run['status']}{stage}",
        "reason": _why(run["status_reason"]).removeprefix(": ") or None,
        "waits": _waits(run["waiting"]),
        "step": f"{run['step']} of {run['max_steps']}" if run["max_steps"] else _NOT_COUNTED,
        "saved": f"step {run['checkpoint_step']}" if run["checkpoint_step"] else None,
        "model": run["base_model"],
        "plan": run["plan_digest"],
        "datasets": ", ".join(f"{b} = {d}" for b, d in run["datasets"].items()) or None,
        "priority": run["priority"],
        "batch": run["batch_id"],
        "charged": charged(run["charged_s"], run["cost_micros"], run["currency"]),
        "left": estimates.in_words(run["estimate"]),
        "wandb": _relay(run["relay"]),
        "cloned from": run["parent_run_id"],
        **limit_facts(run),
        "created": output.when(run["created_at"]),
        "started": output.when(run["started_at"]),
        "finished": output.when(run["finished_at"]),
    }


def _waits(waiting: "Waiting | None") -> str | None:
    if waiting is None:
        return None
    facts = [f"{waiting['message']} [{waiting['code']}]"]
    if waiting["position"] is not None:
        facts.append(f"place {waiting['position']} of your runs")
    if waiting["eta_s"] is not None:
        facts.append(f"starts in about {duration(waiting['eta_s'])}")
    return ", ".join(facts)


def _relay(relay: "Relay | None") -> str | None:
    if relay is None:
        return None
    step = "" if relay["step"] is None else f" to step {relay['step']}"
    return f"{relay['status']}{step} {relay['url'] or ''}".rstrip() + _why(relay["error"])


def _history(
    run: "Run", checkpoints: "list[Checkpoint]", publications: "list[Publication]"
) -> list[dict[str, object]]:
    """A line for each attempt, checkpoint and publication but those that a newer one replaced."""
    lines: list[dict[str, object]] = []
    for attempt in run["attempts"]:
        steps = f"steps {attempt['from_step']} to {attempt['last_step']}"
        outcome = attempt["outcome"] or "running"
        lines.append(
            {f"attempt {attempt['fence']}": f"{outcome}, {steps}{_why(attempt['reason'])}"}
        )
    for checkpoint in checkpoints:
        stored = output.size(checkpoint["size_bytes"])
        lines.append({"checkpoint": f"step {checkpoint['step']}, {stored}"})
    for publication in publications:
        if publication["error"] and publication["error"]["code"] == "superseded":
            continue
        where = publication["location"] or _why(publication["error"]).removeprefix(": ")
        step = publication["checkpoint_step"]
        what = "" if step is None else f"step {step}: "
        lines.append({"publication": f"{what}{publication['status']} {where}".strip()})
    return lines


def _why(failure: "Failure | None") -> str:
    return f": {failure['message']} [{failure['code']}]" if failure else ""


def _exit_code(run: "Run") -> int:
    return 0 if run["status"] == "succeeded" else 1
