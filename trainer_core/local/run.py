"""One run on this machine, from SimpleTuner's files to its result, without the service.

What only reads files comes first, so that a mistake is told in a second; torch is imported after.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from trainer_core.base_models.describe import BaseModel
from trainer_core.base_models.resolve import FoundBase, find_base
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.identity import check_checkpoint, checkpoint_identity
from trainer_core.config.plan import Base, Plan
from trainer_core.config.plan.frozen import digest_of
from trainer_core.config.plan.problems import PlanError, Problem
from trainer_core.config.simpletuner.importer import FLAVOURS, Imported, import_run
from trainer_core.config.simpletuner.options import OPTIONS
from trainer_core.config.simpletuner.reading import Findings, Options, read_options
from trainer_core.data.index import DataIndex
from trainer_core.data.indexing import build_index
from trainer_core.errors import OutOfMemoryError, TrainerError
from trainer_core.hidream.quiet import quieten_libraries
from trainer_core.local.data import LocalData, find_data_folders, scan
from trainer_core.local.folder import (
    COURSE,
    LATEST,
    Course,
    find_checkpoint,
    forget_course,
    lies_in,
    locked,
    mend,
    read_course,
    set_aside,
    write_course,
    write_whole,
)
from trainer_core.local.trackers import check_trackers, trackers
from trainer_core.local.view import View
from trainer_core.process.control import Control, StopRequestedError, Word
from trainer_core.process.events import EventWriter
from trainer_core.process.job import BadJobError, Job, read_job
from trainer_core.process.requests import error_facts
from trainer_core.progress import Reporter

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
    view.log(f"{'output':<20} {output_dir}")
    events_file = run.events or output_dir / "events.jsonl"
    with locked(output_dir), EventWriter(events_file) as events:
        control = _control(run, output_dir)
        control.on_unknown(partial(events.warn, "unknown_control"))
        heed_signals(control)
        events.listen("the display", view.event)
        with _outcome_told(events):
            for text in imported.warnings:
                events.emit("warning", 0, {"code": "plan", "message": text})
            mend(output_dir)
            desk, drawn = _Desk(view, control), options.integer("seed") <= 0
            attempt = Attempt(run, env, output_dir, control, events, desk, seed_is_drawn=drawn)
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

    def log(self, text: str) -> None:
        self._view.log(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self._view.progress(stage, done, total)

    def check_control(self) -> None:
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
    desk: Reporter
    seed_is_drawn: bool = False

    def go(self, plan: Plan, found: FoundBase, data_dirs: Mapping[str, Path]) -> Path | None:
        """As ``train_locally``."""
        wish = plan.operation.resume_from
        begun = read_course(self.output_dir)
        if begun is None or begun.wish != wish:
            self._find(wish)  # so that a missing one is told at once
        cache = self.run.cache_dir or self.output_dir / "cache"
        self._stage("scanning")
        data = scan(plan, data_dirs, cache / "pictures.json", self.desk)
        self._stage("base_model")
        base = found.bring(self.desk, plan.operation.text_encoder_4_source)
        plan = _with_base(plan, base)
        index = build_index(plan, data.items, base.transformer_config)
        course = Course(wish=wish, digest=self._digest_of(plan, index))
        goes_on = wish == LATEST or begun == course
        resume = self._find(LATEST) if goes_on else None
        if begun == course and resume is not None:
            self.desk.log(
                f"going on with what this resume_from_checkpoint began; delete "
                f"{self.output_dir / COURSE} to begin anew"
            )
        if resume is None and wish != LATEST:
            resume, goes_on = self._find(wish), False
        if self.seed_is_drawn:
            plan = _with_kept_seed(plan, resume, self.output_dir)
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
        from_step = self._accept(job)
        self._stage("caching")
        self._fill_cache(cache, plan, base, index, data)
        # Only now is anything of an earlier run touched.
        if not goes_on:
            forget_course(self.output_dir)
            self._make_way(resume, from_step)
            write_course(self.output_dir, course)
        elif resume is None:
            forget_course(self.output_dir)
        write_whole(self.output_dir / _JOB_NAME, job.model_dump_json() + "\n")
        with trackers(plan, self.output_dir, self.events, from_step=from_step):
            if not self._train(job):
                return None
        forget_course(self.output_dir)
        return job.result_dir

    def _find(self, wish: str) -> Path | None:
        return find_checkpoint(wish, self.output_dir, self.run.folders)

    def _digest_of(self, plan: Plan, index: DataIndex) -> str:
        """Of what has to be equal for a course to go on, where a drawn seed may be any."""
        drawn: dict[str, JsonValue] = {"seed": None} if self.seed_is_drawn else {}
        return digest_of([plan.guarded_identity() | drawn, index.digest()])

    def _accept(self, job: Job) -> int:
        """The step that the run goes on from; nothing is changed where it is refused."""
        if job.resume_from is None:
            return 0
        self.desk.log(f"{'resuming from':<20} {job.resume_from}")
        last_step = job.plan.identity.max_train_steps
        return check_checkpoint(
            Path(job.resume_from), checkpoint_identity(job), last_step=last_step
        ).step

    def _fill_cache(
        self, cache: Path, plan: Plan, base: BaseModel, index: DataIndex, data: LocalData
    ) -> None:
        quieten_libraries()  # they talk as soon as they are imported
        from trainer_core.local.cache import fill_cache  # noqa: PLC0415 - imports torch
        from trainer_core.precision.compute import choose_compute  # noqa: PLC0415 - the same

        device = choose_compute(plan.operation.device, plan.identity.precision).device
        encoded = fill_cache(cache, index, base, data.pictures, device=device, reporter=self.desk)
        kept = len(index.shards) - encoded
        self.desk.log(f"{'cache':<20} {cache}: {encoded} shards encoded, {kept} were there")

    def _make_way(self, resume: Path | None, from_step: int) -> None:
        """Let no other course lie in the way of the one that begins."""
        is_ours = resume is not None and lies_in(self.output_dir, resume)
        aside = set_aside(self.output_dir, after_step=from_step if is_ours else 0)
        if aside is not None:
            self.desk.log(f"later checkpoints of an earlier run are now in {aside}")

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


def _with_kept_seed(plan: Plan, resume: Path | None, output_dir: Path) -> Plan:
    """The seed that was drawn when the course began: or it could not go on."""
    identity = None if resume is None else read_manifest(resume).identity
    seed = None if identity is None else identity.get("seed")
    if seed is None and plan.operation.resume_from:  # none yet, or one of an older version
        with contextlib.suppress(BadJobError):
            seed = read_job(output_dir / _JOB_NAME).plan.identity.seed
    if not isinstance(seed, int):
        return plan
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"seed": seed})})
