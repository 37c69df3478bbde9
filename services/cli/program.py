"""The commands of `reverie`. Each imports what it needs itself, so that help is quick."""

from typing import Annotated, Final

import typer

from services.cli import (
    admin,
    audit_log,
    batches,
    configure,
    datasets,
    deletions,
    export,
    generate,
    gpu_types,
    keys,
    members,
    merge,
    models,
    run_files,
    run_list,
    run_logs,
    run_metrics,
    run_plans,
    run_publish,
    run_samples,
    runs,
    secrets,
    tenant,
    train,
    usage,
    validate,
    webhooks,
    worker,
)
from services.cli.connection import Invocation
from services.cli.given_paths import Commands

_EXAMPLES: Final = """Examples:

reverie up

reverie configure

reverie validate --config examples/demo

reverie runs submit --config examples/demo --watch

reverie runs submit --help"""

app = typer.Typer(
    name="reverie",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLES,
    cls=Commands,
)
runs.app.command("list", epilog=run_list.EXAMPLE)(run_list.list_runs)
runs.app.command("validate", epilog=run_plans.VALIDATE_EXAMPLES)(run_plans.validate)
runs.app.command("clone", epilog=run_plans.CLONE_EXAMPLES)(run_plans.clone)
runs.app.command("diff")(run_plans.diff)
app.add_typer(datasets.app, name="datasets")
app.add_typer(runs.app, name="runs")
runs.app.command("logs")(run_logs.logs)
runs.app.command("metrics")(run_metrics.metrics)
runs.app.command("download", epilog=run_files.EXAMPLES)(run_files.download)
runs.app.command("samples", epilog=run_samples.EXAMPLES)(run_samples.samples)
runs.app.command("publish", epilog=run_publish.EXAMPLES)(run_publish.publish)
app.add_typer(batches.app, name="batches")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(members.app, name="members")
app.add_typer(secrets.app, name="secrets")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(audit_log.app, name="audit")
app.add_typer(tenant.app, name="tenant")
app.add_typer(admin.app, name="admin")
runs.app.command("delete")(deletions.delete_run)
datasets.app.command("delete")(deletions.delete_dataset)
app.command("deletion")(deletions.show_deletion)
app.command("gpu-types")(gpu_types.show)
app.command("usage", epilog=usage.EXAMPLE)(usage.usage)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("generate", epilog=generate.EXAMPLES)(generate.generate)
app.command("merge", epilog=merge.EXAMPLES)(merge.merge)
app.command("configure", epilog=configure.EXAMPLES)(configure.configure)
app.command("validate", epilog=validate.EXAMPLES)(validate.validate)
app.command("train", epilog=train.EPILOG)(train.train)
app.command("worker", epilog=worker.EXAMPLE)(worker.worker)


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="Address of the service (REVERIE_URL).", show_default=False)
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="A tenant's key (REVERIE_API_KEY).", show_default=False)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Fine-tune HiDream-I1: push images, submit runs, watch them.

    Without --url and --api-key, commands use the service that `reverie up` runs on this machine.
    """
    invocation: Invocation = ctx.obj
    invocation.url, invocation.api_key, invocation.is_debugging = url, api_key, debug


@app.command(
    "up",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def start_embedded(ctx: typer.Context) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from services.cli.up import up  # brings the whole service with it

    command = typer.Typer(
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
    )
    command.command("up")(up)
    command(ctx.args, prog_name="reverie up")
