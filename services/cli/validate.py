"""`reverie validate`: shows what a run would do, or every mistake in its files, before it runs."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli import output
from services.cli.config_options import Setting, settings_of
from services.cli.connection import Invocation
from services.cli.data_sheets import check_place, draw_contact_sheet, one_page_or_pages
from services.cli.notices import EveryNotice, print_notices
from services.cli.report_json import body_of, products_by_card
from services.cli.source_fetching import AllowNetwork, fetch_progress, networks_in
from trainer_core.in_words import counted

if TYPE_CHECKING:
    from services.cli.plan_report import Progress, Report
    from trainer_core.config.plan import Identity, Operation, Plan
    from trainer_core.memory.cards import CardRow
    from trainer_core.memory.report import Memory

EXAMPLES: Final = """Examples:

reverie validate --config config

reverie validate --config config/config.json --set pretrained_model_name_or_path=hidream-tiny

reverie validate --config config --set lycoris_config=other.json --set max_train_steps=500

reverie validate --config config --contact-sheet sheet.jpg

reverie validate --config config --json | jq .memory.total_bytes

reverie validate --config config --json | jq '.data.backends[].left_out'"""

_SLOW_FOLDER: Final = 2000
"""Images in a folder from which on a progress bar is shown."""


def validate(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path, typer.Option(metavar="DIR|FILE", help="SimpleTuner's config.json, or its folder.")
    ],
    setting: Setting = None,
    every: EveryNotice = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Read the headers of images only: sizes and buckets of 100,000 in a minute; "
            "damage and copies are not found.",
        ),
    ] = False,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            callback=one_page_or_pages,
            help="Draw what the model will see after the crop: a page of 48 images into a .jpg, "
            ".png or .webp file, or up to 25 pages into a folder.",
        ),
    ] = None,
    allow_network: AllowNetwork = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one line of JSON.")
    ] = False,
) -> None:
    """Resolve SimpleTuner's files and show the plan. Nothing is trained.

    It needs no GPU and no weights of the base model, and no network but for
    pictures that are elsewhere (a list of addresses, the Hub, a bucket, tar
    files): they are fetched as a run does, and kept for it.

    Shown: what is trained, with which optimizer, schedule and number of
    steps; the images in each bucket, and how much of them a crop cuts away;
    images that are left out, copies, and what else is odd about them; what
    cards of common sizes would recompute and offload, or how they would share
    all weights; the memory of each part; and what options do here that is not
    obvious. Those that make the run act differently are listed, the others are
    counted, unless --all asks for them.

    config.json names other files and image folders. A relative path is tried
    from the parent of config.json's folder, from that folder, and from the
    current folder. The files that were read are listed. Images are decoded
    and captions read as a run does, of very large folders a part.

    Exit status: 0 if a run could start, 1 if not, 2 for wrong usage. All
    errors are listed at once, each with its file and option.
    """
    from services.cli.plan_report import report_on

    if quick and contact_sheet is not None:
        raise typer.BadParameter("--quick decodes no image, so it has none for --contact-sheet")
    invocation: Invocation = ctx.obj
    settings = settings_of(setting)
    allowed = networks_in(allow_network)
    on_folders = partial(check_place, contact_sheet) if contact_sheet else lambda _: None
    with scanning() as on_progress, fetch_progress() as reporter:
        report = report_on(
            config,
            settings,
            working_dir=Path.cwd(),
            env=invocation.env,
            on_progress=on_progress,
            allowed=allowed,
            reporter=reporter,
            depth="headers" if quick else "pixels",
            on_folders=on_folders,
        )
    if not as_json:
        print_report(report, every=every)
    pages = [] if contact_sheet is None else draw_contact_sheet(contact_sheet, report.pictures)
    if as_json:
        body = {**body_of(report), "contact_sheet": [str(page) for page in pages]}
        sys.stdout.write(json.dumps(body) + "\n")
    if report.errors:
        raise typer.Exit(1)


@contextmanager
def scanning() -> "Iterator[Progress]":
    """A progress bar on stderr for large folders."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    _, err = output.consoles()
    columns = (TextColumn("scanning {task.description}"), BarColumn(), MofNCompleteColumn())
    bars = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    tasks: dict[str, Any] = {}

    def show(backend: str, done: int, total: int) -> None:
        if total < _SLOW_FOLDER:
            return
        bars.start()
        if backend not in tasks:
            tasks[backend] = bars.add_task(backend, total=total)
        bars.update(tasks[backend], completed=done)

    try:
        yield show
    finally:
        bars.stop()


def print_report(report: "Report", *, every: bool) -> None:
    """The report for a person; ``every``: also name the options that do nothing unexpected."""
    for file in report.used:
        output.print_note(f"{file.option:<20} {file.path}")
    print_notices(report.notices, every=every)
    for warning in report.warnings:
        output.print_note(f"warning: {warning}")
    for error in report.errors:
        where = " ".join(str(part) for part in (error.file, error.pointer) if part)
        output.print_error(f"{where}: {error.message} [{error.code}]")
    if report.plan is None or report.memory is None:
        return
    from services.cli.data_table import print_data

    output.print_facts(_facts(report, report.plan))
    if report.pictures.report is not None:
        print_data(report.pictures.report)
    if report.cards:
        sys.stdout.write(
            f"\nCards of capability {_fused_on(report.plan)}; others have no fused blocks to plan "
            "for:\n"
        )
        head = ("CARD", "PEAK", "HOLDS", "RECOMPUTED", "OFFLOADED", "LARGEST BATCH")
        output.print_table(head, [_card_cells(row) for row in report.cards], folds=True)
    if report.sharding:
        sys.stdout.write("\n")
        rows = [(f"{row.card_gib} GB", row.choice.reason) for row in report.sharding]
        output.print_table(("CARDS", "SHARDING"), rows, folds=True)
    sys.stdout.write("\n")
    parts = (f"MEMORY ON {report.memory.device}", "BYTES", "")
    output.print_table(parts, _memory(report.memory), folds=True)


def _fused_on(plan: "Plan") -> str:
    """Capabilities of the cards that compute the plan with fused blocks, in words."""
    from trainer_core.memory.cards import fused_on

    *others, last = fused_on(plan)
    return f"{', '.join(others)} and {last}" if others else last


def _facts(report: "Report", plan: "Plan") -> dict[str, object]:
    """Name of a fact → its text, None where there is nothing to show."""
    identity, operation = plan.identity, plan.operation
    return {
        "base": f"{identity.base.name}, {identity.precision.base}, {identity.precision.compute}",
        "products": _products(plan),
        "trains": f"{_kind(plan)}: {report.trainable_modules:,} modules, "
        f"{report.trainable_parameters:,} parameters",
        "starts from": _start(report, identity),
        "objective": _objective(identity),
        "full rank": _full_rank(plan),
        "optimizer": _optimizer(identity),
        "schedule": _schedule(identity),
        "clipping": f"by {identity.clip.method} at {identity.clip.limit:g}"
        if identity.clip
        else "none",
        "sharding": _sharding(operation),
        "ema": f"decay {identity.ema.decay:g}" if identity.ema else None,
        "steps": _steps(identity, report.steps),
        "checkpoints": _checkpoints(operation),
        "publishes": _publishes(operation),
        "resume": _resume(operation),
        "plan": report.plan_digest,
    }


def _full_rank(plan: "Plan") -> str | None:
    """How all weights are held and updated in one process; None for other runs."""
    operation = plan.operation
    if plan.identity.adapter is not None or operation.zero_stage is not None:
        return None
    is_bf16 = plan.identity.precision.trained == "bf16"
    held = "weights and state in bf16, rounded stochastically" if is_bf16 else "fp32 weights"
    when = "in the backward pass" if operation.release_gradients else "after the backward pass"
    return f"{held}; updated {when}"


def _start(report: "Report", identity: "Identity") -> str | None:
    """The adapter that the run starts from; None where it starts with one that changes nothing."""
    if identity.start_adapter is None:
        return None
    (file,) = (each.path for each in report.used if each.option == "init_lora")
    return f"{file} (SHA-256 {identity.start_adapter.sha256[:12]}…), at step 0"


def _publishes(operation: "Operation") -> str | None:
    publication = operation.publication
    if publication.hub_model_id is None:
        return None
    what = "the result and each checkpoint" if publication.checkpoints else "the result"
    return f"{what} to {publication.hub_model_id} on the Hub"


def _resume(operation: "Operation") -> str | None:
    """What a resume is worth; None on a CPU, where it always equals an unbroken run."""
    if operation.device == "cpu":
        return None
    if operation.deterministic:
        return "equals an unbroken run bit for bit"
    return "on a GPU as good as an unbroken run, but not bit for bit; see deterministic"


def _products(plan: "Plan") -> str:
    """How the base is multiplied on each class of card."""
    kinds: dict[str, list[str]] = {}
    for card, kind in products_by_card(plan).items():
        kinds.setdefault(kind or "refused", []).append(card)
    return "; ".join(f"{kind} on {', '.join(cards)}" for kind, cards in kinds.items())


def _objective(identity: "Identity") -> str:
    objective = identity.objective
    shift = "by the number of tokens" if objective.auto_shift else f"{objective.shift:g}"
    return (
        f"{objective.loss}, sigma {objective.sigma.name}, shift {shift}"
        + (f", balance {objective.balance_weight:g}" if objective.balance_weight else "")
        + (", padded as stock pipelines do" if objective.pad_compat else "")
    )


def _optimizer(identity: "Identity") -> str:
    from trainer_core.config.plan import HOST_ASKING_OPTIMIZERS

    optimizer = identity.optimizer
    first, second = optimizer.betas
    asks = optimizer.name in HOST_ASKING_OPTIMIZERS
    return (
        f"{optimizer.name}, rate {optimizer.learning_rate:g}, betas {first:g} {second:g}, "
        f"decay {optimizer.weight_decay:g}" + (", asks the host before each update" * asks)
    )


def _schedule(identity: "Identity") -> str:
    schedule = identity.schedule
    warmup = f", warm-up {counted(schedule.warmup_steps, 'step')}" if schedule.warmup_steps else ""
    period = f", period {counted(schedule.period_steps, 'step')}" if schedule.period_steps else ""
    return f"{schedule.name}{warmup}{period}"


def _steps(identity: "Identity", steps: int | None) -> str:
    batch, accumulated = identity.micro_batch_size, identity.accumulation_steps
    gpus = identity.world_size
    samples = batch * accumulated * gpus
    number = "not counted yet" if steps is None else f"{steps:,}"
    if (epochs := identity.num_train_epochs) is not None:
        number = f"{epochs:,} epoch{'s' * (epochs > 1)}: {number}"
    return (
        f"{number} of {samples} sample{'s' * (samples > 1)} "
        f"({batch} a batch, {accumulated} accumulated, on {gpus} GPU{'s' * (gpus > 1)})"
    )


def _sharding(operation: "Operation") -> str | None:
    if operation.zero_stage is None:
        return None
    if operation.zero_stage == "auto":
        return "by the lowest ZeRO stage that fits the cards"
    place = {"none": "", "cpu": ", offloaded to the CPU", "auto": ", offloaded where it has to be"}
    return f"ZeRO stage {operation.zero_stage}{place[operation.zero_offload]}"


def _checkpoints(operation: "Operation") -> str:
    every = operation.checkpoint_epoch_interval
    epochs = ""
    if every is not None:
        epochs = " and each epoch" if every == 1 else f" and {every} epochs"
    steps = operation.checkpoint_step_interval
    often = "each step" if steps == 1 else f"every {steps} steps"
    return f"{often}{epochs}, {operation.checkpoints_total_limit} kept"


def _kind(plan: "Plan") -> str:
    """The kind of training, with its rank or factors."""
    adapter = plan.identity.adapter
    if adapter is None:
        return "all weights"
    if adapter.kind == "lora":
        return f"LoRA of rank {adapter.rank}, alpha {adapter.alpha:g}"
    groups = sorted({module.factor for module in adapter.modules})
    return f"LoKr of factor {', '.join(str(factor) for factor in groups)}"


def _card_cells(row: "CardRow") -> tuple[object, ...]:
    planned = row.planned
    if planned is None:
        return f"{row.card_gib} GB", "does not fit", "", "", "", ""
    holds = "all weights, transposed too" if planned.keeps_transposed else "all weights"
    return (
        f"{row.card_gib} GB",
        output.size(planned.peak_bytes),
        "all but modulation, captions" if planned.streams_conditioning else holds,
        counted(len(planned.recomputed), "block"),
        counted(len(planned.offloaded), "block"),
        row.largest_batch,
    )


def _memory(memory: "Memory") -> Iterator[tuple[str, str, str]]:
    parts = {
        "base weights": memory.base_weights_bytes,
        "their scales": memory.base_scales_bytes,
        "adapter": memory.adapter_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer state": memory.optimizer_state_bytes,
        "fp32 weights of DeepSpeed": memory.master_weights_bytes,
        "buffers of DeepSpeed": memory.deepspeed_buffers_bytes,
        f"EMA, on {memory.ema_device}": memory.ema_bytes,
        "held while training": memory.held_bytes,
        "held by the host": memory.host_bytes,
        "added by an update": memory.update_bytes,
        "activations (estimate)": memory.activations_estimate_bytes,
        "training (estimate)": memory.total_bytes,
        "without checkpointing (estimate)": memory.held_bytes
        + memory.activations_without_checkpointing_estimate_bytes,
        "text encoder 1, while caching": memory.text_encoder_1_bytes,
        "text encoder 2, while caching": memory.text_encoder_2_bytes,
        "text encoder 3, while caching": memory.text_encoder_3_bytes,
        "text encoder 4, while caching": memory.text_encoder_4_bytes,
        "VAE, while caching": memory.vae_bytes,
    }
    for name, size_bytes in parts.items():
        if size_bytes:
            yield name, f"{size_bytes:,}", output.size(size_bytes)
