"""One run on this machine, from SimpleTuner's files to its result, without the service.

What only reads files comes first, so that a mistake is told in a second; torch is imported after.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from trainer_core.config.base_models import BaseModel
from trainer_core.config.importer import FLAVOURS, Imported, import_run
from trainer_core.config.options import OPTIONS
from trainer_core.config.plan import Base, Plan
from trainer_core.config.problems import PlanError, Problem
from trainer_core.config.reading import Findings, Options, read_options
from trainer_core.data.index import DataIndex, build_index
from trainer_core.data.requests import error_facts
from trainer_core.engine.control import Control, StopRequestedError, Word
from trainer_core.engine.events import EventWriter
from trainer_core.engine.job import BadJobError, Job, read_job
from trainer_core.errors import OutOfMemoryError, TrainerError
from trainer_core.local.base import FoundBase, find_base
from trainer_core.local.data import LocalData, find_data_folders, scan
from trainer_core.local.output import (
    CHECKPOINTS,
    belongs_here,
    find_checkpoint,
    locked,
    set_aside,
    step_of,
)
from trainer_core.local.quiet import quieten_libraries
from trainer_core.local.trackers import check_trackers, trackers
from trainer_core.local.watch import View, Watch

_JOB_NAME: Final = "job.json"
_SHARD_WAIT_S: Final = 1.0
"""Every shard is there before training starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRun:
    """What one was asked to train, and where."""

    config: Mapping[str, JsonValue]
    lycoris_config: Mapping[str, JsonValue] | None
    data_backends: Sequence[JsonValue]
    prompt_library: Mapping[str, JsonValue] | None
    folders: tuple[Path, ...]
    """What a relative path in the files is tried from, in order."""
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
    heed_signals: Callable[[Control], None],
) -> Path | None:
    """Train to the end; the folder of the result, or None where the run stopped on request.

    What was encoded and every checkpoint stay in the output folder: the same call goes on there.

    Args:
        run: the work.
        env: REVERIE_MODELS_DIR, REVERIE_HOME and OMP_NUM_THREADS are looked at.
        view: is told what happens.
        heed_signals: called once with what a signal is to ask for a stop.

    Raises:
        PlanError: everything that is wrong with the files.
        TrainerError: anything else that went wrong, in words.
    """
    options = read_options(run.config, OPTIONS, "/config", Findings(), "local")
    found = find_base(
        _base_name(options),
        env=env,
        folders=run.folders,
    )
    imported = _import(run, options, found)
    plan = imported.plan
    data_dirs = find_data_folders(plan, run.folders)
    check_trackers(plan)
    output_dir = output_dir_of(run, plan)
    view.say(f"{'output':<20} {output_dir}")
    events_file = run.events or output_dir / "events.jsonl"
    with locked(output_dir), EventWriter(events_file) as events:
        control = _control(run, output_dir)
        heed_signals(control)
        events.listen("the display", view.event)
        with _outcome_told(events):
            for text in imported.warnings:
                events.emit("warning", 0, {"code": "plan", "message": text})
            if options.integer("seed") <= 0:
                plan = _with_kept_seed(plan, output_dir)
            attempt = Attempt(run, env, output_dir, control, events, _Desk(view, control))
            return attempt.go(plan, found, data_dirs)
    return None


def _base_name(options: Options) -> str:
    written = options.text("pretrained_model_name_or_path")
    return written or FLAVOURS[options.text("model_flavour") or "full"]


def _import(run: LocalRun, options: Options, found: FoundBase) -> Imported:
    return import_run(
        config=run.config,
        lycoris_config=run.lycoris_config,
        data_backends=run.data_backends,
        prompt_library=run.prompt_library,
        base_models={_base_name(options): found.provisional()},
        source="local",
    )


def output_dir_of(run: LocalRun, plan: Plan) -> Path:
    """Where the run writes; raises PlanError where neither it nor its files say."""
    written = run.output_dir or plan.operation.output_dir
    if written is None:
        message = "output_dir is missing: where is the run to write? Or give --output."
        raise PlanError([Problem(pointer="/config/output_dir", code="missing", message=message)])
    return Path(written).expanduser().absolute()


def _control(run: LocalRun, output_dir: Path) -> Control:
    file = output_dir / "control"
    if run.control is None:
        file.unlink(missing_ok=True)  # what it says was meant for an earlier run
    return Control(run.control or file)


@contextlib.contextmanager
def _outcome_told(events: EventWriter) -> Iterator[None]:
    """Whatever ends the run is the last event; only a stop that was asked for ends quietly."""
    try:
        yield
    except StopRequestedError:
        events.emit("stopped", events.last_step, {})
    except TrainerError as error:
        _fail(events, error)
        raise
    except KeyboardInterrupt:
        _fail(events, _InterruptedError("The run was interrupted at once, without a checkpoint."))
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's own
            known = OutOfMemoryError("The accelerator's memory is not enough for this.")
            _fail(events, known)
            raise known from error
        _fail(events, _InternalError(f"{type(error).__name__} in the training process"))
        raise


class _InterruptedError(TrainerError):
    code = "interrupted"
    category = "user"
    retryable = True


class _InternalError(TrainerError):
    code = "internal_error"


def _fail(events: EventWriter, error: TrainerError) -> None:
    events.emit("failed", events.last_step, dict(error_facts(error)))


class _Desk:
    """A view and a control file as the one who looks on."""

    def __init__(self, view: View, control: Control) -> None:
        self._view, self._control = view, control

    def say(self, text: str) -> None:
        self._view.say(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._view.progress(stage, done, total)

    def heed(self) -> None:
        while self._control.word() is Word.PAUSE:
            self._control.wait()
        self._control.check()


@dataclass(frozen=True, slots=True)
class Attempt:
    """From a plan to its result, in this process."""

    run: LocalRun
    env: Mapping[str, str]
    output_dir: Path
    control: Control
    events: EventWriter
    desk: Watch

    def go(self, plan: Plan, found: FoundBase, data_dirs: Mapping[str, Path]) -> Path | None:
        """As ``train_locally``."""
        resume = find_checkpoint(plan.operation.resume_from, self.output_dir, self.run.folders)
        if resume is not None:
            self.desk.say(f"{'resuming from':<20} {resume}")
        cache = self.run.cache_dir or self.output_dir / "cache"
        self._stage("scanning")
        data = scan(plan, data_dirs, cache / "pictures.json", self.desk)
        self._stage("base_model")
        base = found.bring(self.desk, plan.operation.text_encoder_4_source)
        plan = _with_base(plan, base)
        index = build_index(plan, data.items, base.transformer_config)
        self._stage("caching")
        if resume is None or belongs_here(resume, plan, index):
            self._fill_cache(cache, plan, base, index, data)
        # else: the engine refuses it and names what differs; nothing is encoded for that.
        from_step = self._make_way(resume)
        job = Job(
            plan=plan,
            index=index,
            base_model_dir=str(base.folder.absolute()),
            shards_dir=str(cache.absolute()),
            output_dir=str(self.output_dir),
            resume_from=None if resume is None else str(resume.absolute()),
            shard_wait_s=_SHARD_WAIT_S,
            keep_checkpoints=plan.operation.checkpoints_total_limit,
        )
        _write(job, self.output_dir / _JOB_NAME)
        with trackers(plan, self.output_dir, self.events, from_step=from_step):
            return job.result_dir if self._train(job) else None

    def _fill_cache(
        self, cache: Path, plan: Plan, base: BaseModel, index: DataIndex, data: LocalData
    ) -> None:
        quieten_libraries()  # they talk as soon as they are imported
        from trainer_core.local.cache import fill_cache  # noqa: PLC0415 - imports torch
        from trainer_core.precision.compute import choose_compute  # noqa: PLC0415 - the same

        device = choose_compute(plan.operation.device, plan.identity.precision).device
        encoded = fill_cache(cache, index, base, data.pictures, device=device, watch=self.desk)
        kept = len(index.shards) - encoded
        self.desk.say(f"{'cache':<20} {cache}: {encoded} shards encoded, {kept} were there")

    def _make_way(self, resume: Path | None) -> int:
        """The step that the run goes on from, once no other course of it lies in the way."""
        from_step = 0 if resume is None else step_of(resume)
        is_ours = resume is not None and resume.parent == self.output_dir / CHECKPOINTS
        aside = set_aside(self.output_dir, after_step=from_step if is_ours else 0)
        if aside is not None:
            self.desk.say(f"later checkpoints of an earlier run are now in {aside}")
        return from_step

    def _train(self, job: Job) -> bool:
        quieten_libraries()  # they talk as soon as they are imported
        from trainer_core.engine.loop import run_job  # noqa: PLC0415 - imports torch
        from trainer_core.engine.setup import make_deterministic  # noqa: PLC0415 - the same

        make_deterministic(self.env)
        return run_job(job, self.events, self.control)

    def _stage(self, stage: str) -> None:
        self.events.emit("stage", 0, {"stage": stage})


def _with_base(plan: Plan, base: BaseModel) -> Plan:
    known = Base(name=base.name, digest=base.digest)
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"base": known})})


def _with_kept_seed(plan: Plan, output_dir: Path) -> Plan:
    """The seed that was drawn when the run began, where it began before: or it could not go on."""
    if not plan.operation.resume_from:
        return plan
    try:
        seed = read_job(output_dir / _JOB_NAME).plan.identity.seed
    except BadJobError:
        return plan
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"seed": seed})})


def _write(job: Job, path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(job.model_dump_json() + "\n", encoding="utf-8")
    draft.replace(path)
