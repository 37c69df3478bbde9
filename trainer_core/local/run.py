"""One run on this machine, from SimpleTuner's files to its result, without the service.

What only reads files comes first, so that a mistake is reported within a second. Torch is imported
after that.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.obtain import FoundBase, find_base
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.identity import check_checkpoint, checkpoint_identity
from trainer_core.config.plan import Base, Plan
from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.plan.problems import PlanError, Problem
from trainer_core.config.simpletuner.importer import Imported, import_run
from trainer_core.config.simpletuner.model import base_name_of
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import Findings, Options, read_options
from trainer_core.config.simpletuner.steps import is_seed_drawn
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.errors import CheckpointError
from trainer_core.hidream.quiet import quieten_libraries
from trainer_core.local.data import LocalData, find_data_folders, scan
from trainer_core.local.folder import (
    STARTED_RUN_NAME,
    delete_started_run,
    find_checkpoints,
    is_own_checkpoint,
    locked,
    read_started_run,
    replace_file,
    restore_interrupted,
    set_aside,
    write_started_run,
)
from trainer_core.local.output import ControlledView, View, open_control, recorded_outcome
from trainer_core.local.start import (
    LATEST,
    Checkpoints,
    Refuse,
    Resume,
    StartAnew,
    StartedRun,
    decide_start,
    refusal,
)
from trainer_core.local.trackers import check_trackers, trackers
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import BadJobError, Job, read_job
from trainer_core.progress import Reporter

_JOB_NAME: Final = "job.json"
_SHARD_WAIT_S: Final = 1.0
"""All shards exist before training starts."""


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


def train_locally(
    run: LocalRun,
    env: Mapping[str, str],
    view: View,
    handle_signals: Callable[[Control], None],
) -> Path | None:
    """Train to the end; the folder of the result, or None where the run stopped on request.

    Encoded shards and all checkpoints stay in the output folder: the same call resumes there.

    Args:
        run: the work.
        env: REVERIE_MODELS_DIR, REVERIE_HOME and OMP_NUM_THREADS are read.
        view: shows progress, events and warnings.
        handle_signals: called once, with the control through which a signal requests a stop.

    Raises:
        PlanError: everything that is wrong with the files.
        TrainerError: any other failure.
    """
    options = read_options(run.config, OPTIONS, "/config", Findings(), "local")
    found = find_base(base_name_of(options), env=env, folders=run.folders)
    imported = _import(run, options, found)
    plan = imported.plan
    data_dirs = find_data_folders(plan, run.folders)
    check_trackers(plan)
    output_dir = output_dir_of(run, plan)
    view.log(f"{'output':<20} {output_dir}")
    events_file = run.events or output_dir / "events.jsonl"
    with locked(output_dir), EventWriter(events_file) as events:
        control = open_control(run.control, output_dir)
        control.on_unknown(partial(events.warn, "unknown_control"))
        handle_signals(control)
        events.listen("the display", view.event)
        with recorded_outcome(events):
            for text in imported.warnings:
                events.emit("warning", 0, {"code": "plan", "message": text})
            restore_interrupted(output_dir)
            attempt = Attempt(
                run,
                env,
                output_dir,
                control,
                events,
                ControlledView(view, control),
                seed_is_drawn=is_seed_drawn(options),
            )
            return attempt.train(plan, found, data_dirs)
    return None


def _import(run: LocalRun, options: Options, found: FoundBase) -> Imported:
    return import_run(
        config=run.config,
        lycoris_config=run.lycoris_config,
        data_backends=run.data_backends,
        prompt_library=run.prompt_library,
        base_models={base_name_of(options): found.provisional()},
        source="local",
    )


def output_dir_of(run: LocalRun, plan: Plan) -> Path:
    """Where the run writes; raises PlanError where neither it nor its files name a folder."""
    written = run.output_dir or plan.operation.output_dir
    if written is None:
        message = "output_dir is missing: where is the run to write? Or give --output."
        raise PlanError([Problem(pointer="/config/output_dir", code="missing", message=message)])
    return Path(written).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class Attempt:
    """Carries a plan out in this process, in an output folder that it holds."""

    run: LocalRun
    env: Mapping[str, str]
    output_dir: Path
    control: Control
    events: EventWriter
    reporter: Reporter
    seed_is_drawn: bool = False
    """The files name no seed: the one of the plan is random, and a resumed run keeps its own."""

    def train(self, plan: Plan, found: FoundBase, data_dirs: Mapping[str, Path]) -> Path | None:
        """As ``train_locally``. Nothing of an earlier run is touched before the cache is full."""
        request = plan.operation.resume_from
        checkpoints = find_checkpoints(request, self.output_dir, self.run.folders)
        earlier = read_started_run(self.output_dir)
        if refused := refusal(request, checkpoints, earlier):
            raise CheckpointError(refused.reason)

        self._report_stage("scanning")
        data = scan(plan, data_dirs, self._cache_dir / "pictures.json", self.reporter)
        self._report_stage("base_model")
        base = found.obtain(self.reporter, plan.operation.text_encoder_4_source)
        plan = _with_base(plan, base)
        index = build_index(plan, data.items, base.transformer_config)

        this = StartedRun(request=request, digest=self._digest_of(plan, index))
        start = self._decide(this, checkpoints, earlier)
        job = self._job(plan, index, base, start.checkpoint)
        from_step = self._check_checkpoint(job)
        self._report_stage("caching")
        self._fill_cache(plan, base, index, data)

        self._prepare_folder(start, this, from_step)
        replace_file(self.output_dir / _JOB_NAME, job.model_dump_json() + "\n")
        with trackers(plan, self.output_dir, self.events, from_step=from_step):
            if not self._run_training(job):
                return None
        delete_started_run(self.output_dir)
        return job.result_dir

    @property
    def _cache_dir(self) -> Path:
        return self.run.cache_dir or self.output_dir / "cache"

    def _digest_of(self, plan: Plan, index: DataIndex) -> str:
        """Of the plan and the data; a drawn seed does not count."""
        drawn: dict[str, JsonValue] = {"seed": None} if self.seed_is_drawn else {}
        return digest_of([plan.guarded_identity() | drawn, index.digest()])

    def _decide(
        self, this: StartedRun, checkpoints: Checkpoints, earlier: StartedRun | None
    ) -> Resume | StartAnew:
        start = decide_start(this.request, checkpoints, earlier, this.digest)
        if isinstance(start, Refuse):
            raise CheckpointError(start.reason)
        if isinstance(start, Resume) and this.request != LATEST:
            self.reporter.log(
                f"resuming the run that this resume_from_checkpoint started; delete "
                f"{self.output_dir / STARTED_RUN_NAME} to start anew"
            )
        return start

    def _job(self, plan: Plan, index: DataIndex, base: BaseModel, checkpoint: Path | None) -> Job:
        if self.seed_is_drawn:
            plan = _with_kept_seed(plan, checkpoint, self.output_dir)
        return Job(
            plan=plan,
            index=index,
            base_model_dir=str(base.folder.absolute()),
            shards_dir=str(self._cache_dir.absolute()),
            output_dir=str(self.output_dir),
            resume_from=None if checkpoint is None else str(checkpoint.absolute()),
            shard_wait_s=_SHARD_WAIT_S,
            keep_checkpoints=plan.operation.checkpoints_total_limit,
        )

    def _check_checkpoint(self, job: Job) -> int:
        """The step that the run starts from; raises CheckpointError and changes nothing."""
        if job.resume_from is None:
            return 0
        self.reporter.log(f"{'resuming from':<20} {job.resume_from}")
        last_step = job.plan.identity.max_train_steps
        return check_checkpoint(
            Path(job.resume_from), checkpoint_identity(job), last_step=last_step
        ).step

    def _fill_cache(self, plan: Plan, base: BaseModel, index: DataIndex, data: LocalData) -> None:
        quieten_libraries()  # they print as soon as they are imported
        from trainer_core.local.cache import fill_cache  # noqa: PLC0415 - imports torch
        from trainer_core.precision.compute import choose_compute  # noqa: PLC0415 - the same

        folder, pictures = self._cache_dir, data.pictures
        device = choose_compute(plan.operation.device, plan.identity.precision).device
        encoded = fill_cache(folder, index, base, pictures, device=device, reporter=self.reporter)
        kept = len(index.shards) - encoded
        self.reporter.log(f"{'cache':<20} {folder}: {encoded} shards encoded, {kept} were there")

    def _prepare_folder(self, start: Resume | StartAnew, this: StartedRun, from_step: int) -> None:
        """Set aside what a new start supersedes, and record it as started."""
        match start:
            case StartAnew(checkpoint):
                delete_started_run(self.output_dir)
                self._set_aside(checkpoint, from_step)
                write_started_run(self.output_dir, this)
            case Resume(None):
                delete_started_run(self.output_dir)

    def _set_aside(self, checkpoint: Path | None, from_step: int) -> None:
        is_own = checkpoint is not None and is_own_checkpoint(self.output_dir, checkpoint)
        aside = set_aside(self.output_dir, after_step=from_step if is_own else 0)
        if aside is not None:
            self.reporter.log(f"later checkpoints of an earlier run are now in {aside}")

    def _run_training(self, job: Job) -> bool:
        quieten_libraries()  # they print as soon as they are imported
        from trainer_core.engine.loop import run_job  # noqa: PLC0415 - imports torch
        from trainer_core.engine.setup import make_deterministic  # noqa: PLC0415 - the same

        make_deterministic(self.env)
        return run_job(job, self.events, self.control)

    def _report_stage(self, stage: str) -> None:
        self.events.emit("stage", 0, {"stage": stage})


def _with_base(plan: Plan, base: BaseModel) -> Plan:
    known = Base(name=base.name, digest=base.digest)
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"base": known})})


def _with_kept_seed(plan: Plan, checkpoint: Path | None, output_dir: Path) -> Plan:
    """The plan with the seed that was drawn when its run started; another one could not resume."""
    identity = None if checkpoint is None else read_manifest(checkpoint).identity
    seed = None if identity is None else identity.get("seed")
    # There may be no checkpoint yet, or one of a version that stored no identity.
    if seed is None and plan.operation.resume_from:
        with contextlib.suppress(BadJobError):
            seed = read_job(output_dir / _JOB_NAME).plan.identity.seed
    if not isinstance(seed, int):
        return plan
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"seed": seed})})
