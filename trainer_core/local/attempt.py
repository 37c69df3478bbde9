"""Train a plan on this machine, in an output folder that may hold an earlier run.

Files are read and checked first. Torch is imported after that.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from trainer_core.base_models.clip import find_clip
from trainer_core.base_models.describe import BaseModel, described_files
from trainer_core.base_models.obtain import FoundBase
from trainer_core.checkpoint.folders import read_manifest
from trainer_core.checkpoint.identity import check_checkpoint, checkpoint_identity
from trainer_core.config.plan import Base, Plan
from trainer_core.config.plan.shapes import hidream_linears
from trainer_core.data.index import DataIndex
from trainer_core.data.length import steps_on
from trainer_core.errors import CheckpointCorruptError, CheckpointError, NoWholeCheckpointError
from trainer_core.hidream.quiet import quieten_libraries
from trainer_core.local.contact_sheet import contact_sheets
from trainer_core.local.data import LocalData, scan
from trainer_core.local.folder import (
    JOB_NAME,
    delete_started_run,
    find_checkpoints,
    is_own_checkpoint,
    job_of,
    move_aside,
    read_started_run,
    replace_file,
    set_aside,
    write_started_run,
)
from trainer_core.local.kept import (
    run_digest,
    with_kept_order,
    with_kept_seed,
    with_started_order,
)
from trainer_core.local.picture_adapter import picture_adapter
from trainer_core.local.previews import preview_autoencoder, without_missing_autoencoder
from trainer_core.local.publishing import Publishing, publish_nothing
from trainer_core.local.ranks import (
    command_elsewhere,
    has_other_nodes,
    local_ranks,
    train_with_ranks,
)
from trainer_core.local.start import (
    LATEST,
    STARTED_RUN_NAME,
    Checkpoints,
    Damaged,
    Refuse,
    Resume,
    StartAnew,
    StartedRun,
    decide_start,
    refusal,
)
from trainer_core.local.trackers import trackers
from trainer_core.local.unusable import UnusableImagesError, note_unusable, usable_index
from trainer_core.process.control import Control
from trainer_core.process.cublas import fix_workspace
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job
from trainer_core.process.node_cache import NodeCache
from trainer_core.progress import Reporter

_ELSEWHERE: Final = "another output_dir (or --output), or set resume_from_checkpoint to nothing"
_OLDER_ORDER: Final = (
    "the run goes on in the order of samples that it began with, by the names of the files; new "
    "runs go by the content of the files"
)
_ENTRY_WAIT_S: Final = 1.0
"""All entries exist before training starts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Trains a plan in this process, or in several that it starts, in an output folder that the
    caller has locked."""

    env: Mapping[str, str]
    """OMP_NUM_THREADS and REVERIE_HOME are read."""
    folders: tuple[Path, ...]
    """A relative path to a checkpoint, a CLIP model, the previews' autoencoder or the pictures'
    adapter is tried from each of these, in order."""
    output_dir: Path
    cache_dir: Path
    node_cache: NodeCache | None
    control: Control
    events: EventWriter
    reporter: Reporter
    publishing: Publishing = publish_nothing
    start_from: Path | None = None
    """The checked file of ``init_lora``."""
    seed_is_drawn: bool = False
    """The files name no seed. The plan's seed is then random, and a resumed run keeps its own."""
    ranks: int | None = None
    """How many processes train; None: as ``local_ranks``."""

    def train(self, plan: Plan, found: FoundBase, data_dirs: Mapping[str, Path]) -> Path | None:
        """Train to the end; the folder of the result, or None if the run stopped on request.

        Files of an earlier run are changed only after the cache is complete.

        Args:
            plan: the run; its base model may still be provisional.
            found: the base model.
            data_dirs: backend id → folder of its images.

        Raises:
            TrainerError: any failure.
        """
        plan = without_missing_autoencoder(plan, self.folders, self.events.warn)
        while True:  # each turn without images that an earlier one could not encode
            try:
                return self._train(plan, found, data_dirs)
            except UnusableImagesError as error:  # they are left out, which changes the data
                note_unusable(self.cache_dir, error.reasons)
                self.reporter.log("images cannot be encoded: the run begins again without them")

    def _train(self, plan: Plan, found: FoundBase, data_dirs: Mapping[str, Path]) -> Path | None:
        ranks, request = local_ranks(plan, self.ranks, self.env), plan.operation.resume_from
        checkpoints = find_checkpoints(request, self.output_dir, self.folders)
        earlier = read_started_run(self.output_dir)
        if refused := refusal(request, checkpoints, earlier):
            raise _refused(refused)
        pictures = plan.operation.pictures
        clip_model = None if pictures is None else pictures.clip_model
        clip = None if clip_model is None else find_clip(clip_model, self.env, self.folders)

        self._report_stage("scanning")
        data = self._scan(plan, data_dirs)
        self._report_stage("base_model")
        base = found.obtain(self.reporter, plan.operation.text_encoder_4_source)
        clip_dir = None if clip is None else str(clip(self.reporter))
        plan = _with_base(plan, base)
        index = usable_index(plan, base, data, self.cache_dir, self.reporter)
        for warning in index.warnings:  # the training reports them too, but only after the encoding
            self.events.warn("data", warning)

        drawn = self.seed_is_drawn
        plan = with_started_order(plan, index, earlier, seed_is_drawn=drawn)
        this = StartedRun(request=request, digest=run_digest(plan, index, seed_is_drawn=drawn))
        while True:
            start = decide_start(request, checkpoints, earlier, this.digest)
            if isinstance(start, Refuse):
                raise _refused(start)
            try:
                job = self._job(plan, index, base, start.checkpoint, clip_dir)
                from_step = self._check_checkpoint(job)
                break
            except CheckpointCorruptError as error:
                if not isinstance(start, Resume):
                    raise
                checkpoints = checkpoints.without_newest(error.message)
        self._report_start(start, request, checkpoints, from_step)
        if job.plan.identity.sample_order == 1:
            self.reporter.log(_OLDER_ORDER)
        self._report_stage("caching")
        # Before the encoders: torch sets the workspace up at the first product.
        fix_workspace(plan.operation, os.environ)
        self._fill_cache(plan, base, index, data)

        self._prepare_folder(start, this, from_step, checkpoints.damaged)
        replace_file(self.output_dir / JOB_NAME, job.model_dump_json() + "\n")
        with self.publishing(job.plan, self.output_dir, self.events, self.reporter):
            self.events.listen("the contact sheet", contact_sheets(job.plan, self.output_dir))
            with trackers(plan, self.output_dir, self.events, from_step=from_step):
                if not self._run_training(job, ranks):
                    return None
            delete_started_run(self.output_dir)
        return job.result_dir

    def _scan(self, plan: Plan, data_dirs: Mapping[str, Path]) -> LocalData:
        own = (self.output_dir, self.cache_dir)
        data = scan(plan, data_dirs, self.cache_dir / "pictures.json", self.reporter, own)
        for note in data.notes:
            self.events.warn("unused_files", note)
        return data

    def _job(
        self,
        plan: Plan,
        index: DataIndex,
        base: BaseModel,
        checkpoint: Path | None,
        clip_dir: str | None,
    ) -> Job:
        if self.seed_is_drawn:
            plan = with_kept_seed(plan, checkpoint, self.output_dir)
        plan = with_kept_order(plan, checkpoint)
        return Job(
            plan=plan,
            index=index,
            base_model_dir=str(base.folder.absolute()),
            base_files=described_files(base.folder),
            shards_dir=str(self.cache_dir.absolute()),
            output_dir=str(self.output_dir),
            resume_from=None if checkpoint is None else str(checkpoint.absolute()),
            start_from=None if self.start_from is None else str(self.start_from.absolute()),
            clip_dir=clip_dir,
            preview_autoencoder=preview_autoencoder(plan, self.folders),
            picture_adapter=picture_adapter(
                plan, self.folders, hidream_linears(base.transformer_config)
            ),
            shard_wait_s=_ENTRY_WAIT_S,
            keep_checkpoints=plan.operation.checkpoints_total_limit,
            node_cache=self.node_cache,
        )

    def _check_checkpoint(self, job: Job) -> int:
        """The step that the run starts from; raises CheckpointError and changes nothing."""
        if job.resume_from is None:
            return 0
        checkpoint, earlier = Path(job.resume_from), job_of(Path(job.resume_from))
        try:
            return check_checkpoint(
                checkpoint,
                checkpoint_identity(job),
                last_step=steps_on(job.plan.identity, job.index),
                jobs=None if earlier is None else (job, earlier),
            ).step
        except CheckpointCorruptError:
            raise
        except CheckpointError as error:
            unlike = _about_start(job.plan, checkpoint, earlier)
            if unlike is None:
                raise
            raise CheckpointError(f"{error.message}. {unlike}") from error

    def _report_start(
        self, start: Resume | StartAnew, request: str, checkpoints: Checkpoints, from_step: int
    ) -> None:
        is_resumed = isinstance(start, Resume)
        if is_resumed and request != LATEST:
            self.reporter.log(
                f"resuming the run that this resume_from_checkpoint started; delete "
                f"{self.output_dir / STARTED_RUN_NAME} to start anew"
            )
        goes_on = f" The run goes on from step {from_step}." if is_resumed else ""
        for each in checkpoints.damaged:
            self.events.warn(CheckpointCorruptError.code, f"{each.why}.{goes_on}")
        if start.checkpoint is not None:
            self.reporter.log(f"{'resuming from':<20} {start.checkpoint}")
        elif is_resumed and (self.output_dir / JOB_NAME).exists():
            self.reporter.log("there is no checkpoint yet: starting at step 0")

    def _fill_cache(self, plan: Plan, base: BaseModel, index: DataIndex, data: LocalData) -> None:
        quieten_libraries()  # they print when they are imported
        from trainer_core.hidream.parts import ModelParts  # noqa: PLC0415 - imports torch
        from trainer_core.local.cache import fill_cache  # noqa: PLC0415 - the same
        from trainer_core.precision.compute import choose_compute  # noqa: PLC0415 - the same

        folder = self.cache_dir
        device = choose_compute(plan.operation.device, plan.identity.precision).device
        parts = ModelParts(base, device)
        encoded = fill_cache(folder, index, parts, data.images, self.reporter)
        kept = len(index.entries) - encoded
        self.reporter.log(f"{'cache':<20} {folder}: {encoded} entries encoded, {kept} found")

    def _prepare_folder(
        self,
        start: Resume | StartAnew,
        this: StartedRun,
        from_step: int,
        damaged: Sequence[Damaged],
    ) -> None:
        """Move damaged checkpoints aside and, before a new start, files of earlier runs."""
        if damaged:
            # Otherwise one would count as the newest, and a good one be deleted in its place.
            aside = move_aside(self.output_dir, [each.path for each in damaged])
            self.reporter.log(f"damaged checkpoints are now in {aside}")
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

    def _run_training(self, job: Job, ranks: int) -> bool:
        file = self.output_dir / JOB_NAME
        if has_other_nodes(self.env):
            told = command_elsewhere(file, self.output_dir, ranks)
            self.reporter.log(f"{'on other machines':<20} {told}")
        if ranks > 1 or has_other_nodes(self.env):
            self.reporter.log(f"{'ranks':<20} {ranks}")
            return train_with_ranks(file, self.output_dir, self.control, self.events, ranks)
        quieten_libraries()  # they print when they are imported
        from trainer_core.engine.determinism import set_determinism  # noqa: PLC0415 - imports torch
        from trainer_core.engine.loop import run_job  # noqa: PLC0415 - the same

        set_determinism(self.env, job.plan.operation)
        return run_job(job, self.events, self.control)

    def _report_stage(self, stage: str) -> None:
        self.events.emit("stage", 0, {"stage": stage})


def _about_start(plan: Plan, checkpoint: Path, earlier: Job | None) -> str | None:
    """How the checkpoint's run started otherwise than this one, and the ways on; None: alike.

    ``earlier``: the job of the checkpoint's run, where it is known.
    """
    here = _start_in(plan)
    there = (read_manifest(checkpoint).identity or {}).get("start_adapter")
    if here == there:
        return None
    if there is None:
        return (
            f"The folder holds a run that did not start from init_lora: give this one {_ELSEWHERE}"
        )
    which = "init_lora, which this one does not name" if here is None else "another init_lora"
    is_known = earlier is not None and _start_in(earlier.plan) == there
    file = earlier.start_from if earlier is not None and is_known else None
    again = "as that run had it" if file is None else f"to {file}"
    return (
        f"The folder holds a run that started from {which}: to go on with it, set init_lora "
        f"{again}; otherwise give this one {_ELSEWHERE}"
    )


def _start_in(plan: Plan) -> JsonValue:
    return plan.guarded_identity().get("start_adapter")


def _refused(refuse: Refuse) -> CheckpointError:
    return (NoWholeCheckpointError if refuse.is_damage else CheckpointError)(refuse.reason)


def _with_base(plan: Plan, base: BaseModel) -> Plan:
    known = Base(name=base.name, digest=base.digest)
    return plan.model_copy(update={"identity": plan.identity.model_copy(update={"base": known})})
