"""One run on this machine, from SimpleTuner's files to its result, without the service.

Files are read and checked first, so that a mistake is reported within a second. Torch is imported
after that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from trainer_core.base_models.describe import home_of
from trainer_core.base_models.obtain import FoundBase, find_base
from trainer_core.config.plan import Plan
from trainer_core.config.plan.problems import PlanError, Problem, summary_of
from trainer_core.config.simpletuner.backend_pointers import pointers_to, repointed
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.model import base_name_of
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import Findings, Options, read_options
from trainer_core.config.simpletuner.start import Start, start_name_of
from trainer_core.config.simpletuner.steps import is_seed_drawn
from trainer_core.export.start_file import look_up_start
from trainer_core.local.attempt import Attempt
from trainer_core.local.data import find_data_folders
from trainer_core.local.folder import locked, restore_interrupted
from trainer_core.local.output import ControlledView, View, open_control, recorded_outcome
from trainer_core.local.publishing import Publishing, publish_nothing
from trainer_core.local.trackers import check_trackers
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.node_cache import node_cache_of
from trainer_core.progress import Reporter
from trainer_core.sources.fetching import fetch_source, sources_in
from trainer_core.sources.surroundings import Surroundings
from trainer_core.web.public_addresses import Network
from trainer_core.weights.start_adapter import FoundStart


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRun:
    """What to train, and where."""

    config: Mapping[str, JsonValue]
    lycoris_config: Mapping[str, JsonValue] | None
    data_backends: Sequence[JsonValue]
    prompt_library: Mapping[str, JsonValue] | None
    folders: tuple[Path, ...]
    """A relative path in the files is tried from each of these, in order."""
    output_dir: Path | None
    """None: the ``output_dir`` of the files."""
    cache_dir: Path | None
    """None: ``cache`` in the output folder."""
    events: Path | None
    """None: ``events.jsonl`` in the output folder."""
    control: Path | None
    """None: ``control`` in the output folder."""
    allowed: tuple[Network, ...] = ()
    """Networks that addresses in lists of pictures may lead to although they are not public."""
    ranks: int | None = None
    """How many processes train; None: one for each GPU that shares a step of an adapter evenly."""


def train_locally(
    run: LocalRun,
    env: Mapping[str, str],
    view: View,
    handle_signals: Callable[[Control], None],
    publishing: Publishing = publish_nothing,
) -> Path | None:
    """Train to the end; the folder of the result, or None if the run stopped on request.

    Cache entries and checkpoints stay in the output folder, so the same call resumes there.

    Args:
        run: configuration and folders.
        env: REVERIE_MODELS_DIR, REVERIE_HOME, REVERIE_NODE_CACHE_* and OMP_NUM_THREADS are read.
        view: shows progress, events and warnings.
        handle_signals: called once with the ``Control`` that a signal handler can stop the run by.
        publishing: publishes what the files ask for.

    Raises:
        PlanError: lists every mistake in the files.
        TrainerError: any other failure.
    """
    node_cache = node_cache_of(env)
    options = read_options(run.config, OPTIONS, "/config", Findings(), "local")
    found = find_base(base_name_of(options), env=env, folders=run.folders)
    start = look_up_start(start_name_of(options), run.folders)
    imported = _import(run, options, found, start)
    plan = imported.plan
    data_dirs = find_data_folders(plan, run.folders, imported.sources)
    check_trackers(plan)
    output_dir = output_dir_of(run, plan)
    start_file = start.path if isinstance(start, FoundStart) else None
    if start_file is not None:
        _check_elsewhere(start_file, output_dir)
        view.log(f"{'init_lora':<20} {start_file}")
    view.log(f"{'output':<20} {output_dir}")
    events_file = run.events or output_dir / "events.jsonl"
    with locked(output_dir), EventWriter(events_file) as events:
        control = open_control(run.control, output_dir)
        control.on_unknown(partial(events.warn, "unknown_control"))
        handle_signals(control)
        events.listen("the display", view.event)
        with recorded_outcome(events, control, output_dir):
            for text in summary_of(imported.notices):
                events.emit("warning", 0, {"code": "plan", "message": text})
            restore_interrupted(output_dir)
            attempt = Attempt(
                env=env,
                folders=run.folders,
                output_dir=output_dir,
                cache_dir=run.cache_dir or output_dir / "cache",
                node_cache=node_cache,
                control=control,
                events=events,
                reporter=ControlledView(view, control),
                publishing=publishing,
                start_from=start_file,
                seed_is_drawn=is_seed_drawn(options),
                ranks=run.ranks,
            )
            data_dirs |= _fetched(imported, run, env, attempt.reporter, events)
            try:
                return attempt.train(plan, found, data_dirs)
            except PlanError as error:
                pointers = pointers_to(plan.identity.backends, run.data_backends)
                raise PlanError(repointed(error.problems, pointers)) from error
    return None


def _fetched(
    imported: Imported,
    run: LocalRun,
    env: Mapping[str, str],
    reporter: Reporter,
    events: EventWriter,
) -> dict[str, Path]:
    """Backend id → the folder that its pictures are fetched to, of those that are elsewhere."""
    around = Surroundings(root=sources_in(home_of(env)), folders=run.folders, allowed=run.allowed)
    folders: dict[str, Path] = {}
    for id_, source in imported.sources.items():
        fetched = fetch_source(id_, source, around, reporter)
        folders[id_] = fetched.folder
        for note in fetched.notes:
            events.warn("unused_files", note)
    return folders


def _check_elsewhere(file: Path, output_dir: Path) -> None:
    """Raise PlanError where the run would delete or move what it starts from."""
    if file.resolve().is_relative_to(output_dir.resolve()):
        message = (
            f"init_lora names {file}, which is in the output folder of this run: give the "
            "run another output_dir (or --output)."
        )
        raise PlanError([Problem(pointer="/config/init_lora", code="conflict", message=message)])


def _import(
    run: LocalRun,
    options: Options,
    found: FoundBase,
    start: Start,
) -> Imported:
    return import_run(
        config=run.config,
        lycoris_config=run.lycoris_config,
        data_backends=run.data_backends,
        prompt_library=run.prompt_library,
        base_models={base_name_of(options): found.provisional()},
        source="local",
        start=start,
    )


def output_dir_of(run: LocalRun, plan: Plan) -> Path:
    """The run's output folder: that of ``run``, else of the files."""
    written = run.output_dir or plan.operation.output_dir
    assert written is not None  # every plan of a local run has one
    return Path(written).expanduser().absolute()
