"""`reverie runs validate`, `clone` and `diff`: before a run, a run again, and what differs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli import estimates, output
from services.cli.config_options import Config, Setting, settings_of
from services.cli.connection import CommandError, Invocation
from services.cli.notices import EveryNotice, print_notices, ungrouped
from services.cli.run_options import RunId
from services.cli.runs import print_submitted
from trainer_core.in_words import duration

if TYPE_CHECKING:
    from services.client.shapes import Difference, Differences
    from services.client.validation_shapes import BucketCrops, Data, Memory, Validation

VALIDATE_EXAMPLES: Final = """Examples:

reverie runs validate --config examples/demo

reverie runs validate --config my/config.json --dataset photos=ds_… --set max_train_steps=500"""
CLONE_EXAMPLES: Final = """Examples:

reverie runs clone run_… --set learning_rate=1e-4

reverie runs clone run_… --changes changes.json"""
_SHOWN_CHARACTERS: Final = 60


def validate(
    ctx: typer.Context,
    *,
    config: Config,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKEND=DATASET", help="What an image backend reads: ds_…. Repeatable."
        ),
    ] = None,
    setting: Setting = None,
    every: EveryNotice = False,
    as_json: output.Json = False,
) -> None:
    """Ask the service what a run would be. Nothing is pushed, stored or started.

    Shown: all mistakes, how the run fits each GPU class, its pictures and what is cached of them,
    quotas, what it would wait for, and how long it would take. Give datasets by their ids: a
    folder is not pushed for this. Without them, what depends on pictures is left out.

    Exit status: 0 if the service would accept the run, 1 if not. `reverie validate` does the same
    on this machine, without a service.
    """
    from services.cli.documents import read_documents
    from services.cli.run_sources import parse_sources, tell_before_sending
    from services.cli.run_start import local_start, with_start
    from trainer_core.config.simpletuner.local_backends import as_local, sources_of

    invocation: Invocation = ctx.obj
    sources = parse_sources(dataset or [])
    datasets = {backend: each for backend, each in sources.items() if isinstance(each, str)}
    if len(datasets) < len(sources):
        raise typer.BadParameter("name a dataset (ds_…), not a folder", param_hint="--dataset")
    documents = read_documents(config, settings_of(setting), Path.cwd(), invocation.env)
    tell_before_sending(documents)
    body = documents.body
    request = dict(body)
    request["data_backends"] = as_local(
        body["data_backends"], sources_of(body["config"], body["data_backends"])
    )
    if (start := local_start(documents, Path.cwd())) is not None:
        output.print_note(f"init_lora: {start} is not pushed for this; left out.")
        request = with_start(request, None)
    if datasets:
        request["datasets"] = datasets
    with invocation.connect() as client:
        found = client.validate_run(request)
    if as_json:
        output.print_json(found)
    else:
        _print_validation(found, every=every)
    if not found["is_valid"]:
        raise typer.Exit(1)


def clone(
    ctx: typer.Context,
    run_id: RunId,
    *,
    setting: Setting = None,
    changes: Annotated[
        Path | None,
        typer.Option(
            exists=True, metavar="FILE", help="A JSON Merge Patch of the run's whole request."
        ),
    ] = None,
    as_json: output.Json = False,
) -> None:
    """Queue a new run from the request of another one, with changes."""
    invocation: Invocation = ctx.obj
    patch = {} if changes is None else _read_patch(changes)
    if settings := settings_of(setting):
        patch["config"] = {**patch.get("config", {}), **settings}
    with invocation.connect() as client:
        run = client.clone_run(run_id, patch)
    if as_json:
        output.print_json(run)
        return
    print_submitted(run)
    _print_differences(run["diff"])


def diff(
    ctx: typer.Context,
    run_id: RunId,
    against: Annotated[str, typer.Argument(metavar="OTHER", help="run_…")],
    as_json: output.Json = False,
) -> None:
    """Show what differs between two runs: in what was sent, and in the plans."""
    invocation: Invocation = ctx.obj
    with invocation.connect() as client:
        found = client.diff_runs(run_id, against=against)
    if as_json:
        output.print_json(found)
    else:
        _print_differences(found)


def _read_patch(file: Path) -> dict[str, Any]:
    from trainer_core.documents import load_document

    patch = load_document(file)
    if not isinstance(patch, dict):
        raise CommandError(f"{file} has to hold an object")
    if not isinstance(patch.get("config", {}), dict):
        raise CommandError(f"config in {file} has to be an object")
    return patch


def _print_differences(found: "Differences") -> None:
    rows = [
        *_rows("request", found["request"]),
        *_rows("plan", found["plan"]),
    ]
    if rows:
        output.print_table(("IN", "OPTION", "BEFORE", "AFTER"), rows)
    else:
        output.print_note("nothing differs")


def _rows(document: str, found: "list[Difference]") -> Iterator[tuple[str, ...]]:
    for each in found:
        yield document, each["option"], _short(each["before"]), _short(each["after"])


def _short(value: Any) -> str:
    text = "-" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _print_validation(found: "Validation", *, every: bool) -> None:
    print_notices(ungrouped(found["notices"]), every=every)
    for problem in found["problems"]:
        output.print_error(f"{problem['pointer']}: {problem['message']} [{problem['code']}]")
    waiting, encoding_s = found["waiting"], found["encoding_s"]
    output.print_facts(
        {
            "valid": "yes" if found["is_valid"] else "no",
            "steps": found["max_steps"],
            "trains": f"{found['trainable_parameters']:,} parameters"
            if found["trainable_parameters"] is not None
            else None,
            "takes": estimates.in_words(found["estimate"]),
            "encoding": duration(encoding_s["p50"]) if encoding_s else None,
            "waits": waiting["message"] if waiting else None,
            "plan": found["plan_digest"],
        }
    )
    if found["data"] is not None:
        _print_data(found["data"])
    if found["memory"] is not None:
        _print_memory(found["memory"])
    for quota in found["quota"]:
        if quota["effect"] != "none":
            output.print_note(
                f"quota {quota['quota']}: {quota['used']:,g} of {quota['limit']:,g}, "
                f"the run {'waits' if quota['effect'] == 'waits' else 'is refused'}"
            )
    for each in found["unknown"]:
        output.print_note(f"not known: {each['field']}: {each['reason']}")


def _print_data(data: "Data") -> None:
    for problem in data["problems"]:
        output.print_error(f"{problem['pointer']}: {problem['message']} [{problem['code']}]")
    for warning in data["warnings"]:
        output.print_note(f"warning: {warning}")
    if (cache := data["cache"]) is not None and "num_entries" in cache:  # an older service has none
        stored, needed = cache["num_entries_stored"], cache["num_entries"]
        output.print_facts({"cached": f"{stored} of {needed} pictures and captions"})
    rows = [
        (
            each["backend"],
            each["role"],
            f"{each['width_px']} x {each['height_px']}",
            each["num_images"],
            each["samples_per_epoch"],
            *_crop_cells(each["crops"]),
        )
        for each in data["buckets"] or []
    ]
    if rows:
        columns = ("BACKEND", "ROLE", "BUCKET", "IMAGES", "AN EPOCH", "CUT AWAY", "ENLARGED")
        output.print_table(columns, rows)


def _crop_cells(crops: "BucketCrops | None") -> tuple[str, str]:
    if crops is None:
        return "not known", "not known"
    cut = f"{100 * crops['loss_mean']:.0f} %, at most {100 * crops['loss_worst']:.0f} %"
    if crops["enlarged_worst"] is None:
        return cut, ""
    return cut, f"{crops['num_enlarged']}, at most {crops['enlarged_worst']:.2g} times"


def _print_memory(memory: "Memory") -> None:
    rows = [
        (
            each["gpu_class"],
            "-" if each["memory_bytes"] is None else output.size(each["memory_bytes"]),
            "-"
            if each["peak_estimate_bytes"] is None
            else output.size(each["peak_estimate_bytes"]),
            "not known" if each["fits"] is None else "yes" if each["fits"] else "no",
            each["refusal"] or each["sharding"] or "",
        )
        for each in memory["gpu_classes"]
    ]
    output.print_table(("GPU CLASS", "MEMORY", "PEAK", "FITS", ""), rows)
