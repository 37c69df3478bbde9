"""A run while it trains: its constant part, and the part that changes with each step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue

from trainer_core.config.plan import Plan
from trainer_core.data.length import steps_of
from trainer_core.data.orders import sampler_of, samples_in_order
from trainer_core.data.sampler import Sampler
from trainer_core.engine.agreement import Agreement
from trainer_core.engine.pending import Pending
from trainer_core.engine.setup import LoadedRun
from trainer_core.engine.step import Backend
from trainer_core.engine.step_metrics import StepMetrics
from trainer_core.engine.throughput import Throughput
from trainer_core.export.adapter_tensors import ModuleTensors
from trainer_core.optim.schedule import learning_rate_at
from trainer_core.process.control import Control
from trainer_core.process.events import EventWriter
from trainer_core.process.job import Job
from trainer_core.validation.evaluation import EvaluationSet, evaluation_set
from trainer_core.validation.evaluations import Evaluations
from trainer_core.validation.fixed_loss import EvaluationSample, evaluation_samples
from trainer_core.validation.previews import Decoder

if TYPE_CHECKING:
    from trainer_core.validation.clip_score import ClipScorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The constant part of a run; ``open_run`` makes it."""

    job: Job
    loaded: LoadedRun
    events: EventWriter
    control: Control
    agreement: Agreement
    sampler: Sampler
    micro_batches_per_step: int
    """Micro-batches of all ranks in one optimizer step."""
    last_step: int
    """The number of optimizer steps."""
    evaluation_samples: tuple[EvaluationSample, ...]
    """Of the fixed validation loss."""
    evaluation_set: EvaluationSet | None
    """Of the evaluation loss; None: it is not measured."""

    @property
    def plan(self) -> Plan:
        return self.job.plan

    @property
    def backend(self) -> Backend:
        return self.loaded.backend

    def is_checkpoint_step(self, step: int) -> bool:
        """Whether a checkpoint falls on an optimizer step, counted from 1."""
        operation = self.plan.operation
        every = operation.checkpoint_epoch_interval
        ends_epochs = every is not None and self.sampler.timeline.ends_epoch(step, every=every)
        return ends_epochs or step % operation.checkpoint_step_interval == 0

    def is_picture_step(self, step: int) -> bool:
        """Whether pictures of the trained weights are due after an optimizer step."""
        pictures = self.plan.operation.pictures
        if pictures is None or step < max(1, pictures.after_step):
            return False
        timeline = self.sampler.timeline
        if timeline.epochs_by(step) < pictures.after_epoch:
            return False
        every, every_epochs = pictures.step_interval, pictures.epoch_interval
        if every is not None and step % every == 0:
            return True
        return every_epochs is not None and timeline.ends_epoch(step, every=every_epochs)

    def is_evaluation_step(self, step: int) -> bool:
        """Whether the evaluation loss is measured after a step; step 0 is before the first one."""
        plan = self.plan.operation.evaluation
        if plan is None:
            return False
        if step in (0, self.last_step):
            return True
        if plan.step_interval is not None and step % plan.step_interval == 0:
            return True
        every = plan.epoch_interval
        return every is not None and self.sampler.timeline.ends_epoch(
            step,
            every=Fraction(repr(every)),  # as written: 0.1 is a tenth, which no float is
        )

    def learning_rate(self, step: int) -> float:
        """The scheduled rate of an optimizer step, counted from 1."""
        identity = self.plan.identity
        peak = identity.optimizer.learning_rate
        return learning_rate_at(step, identity.schedule, peak, self.last_step)


@dataclass(kw_only=True, slots=True)
class PictureTimes:
    """What the pictures of this process have taken."""

    spent_s: float = 0.0
    expected_s: dict[tuple[int, int], float] = field(default_factory=dict)
    """Size in pixels → how long the last picture of it took."""
    adapter: Mapping[str, ModuleTensors] | None = None
    """The further adapter that the pictures show, by path; None: there is none."""
    adapter_sha256: str | None = None
    """Of its file."""


@dataclass(kw_only=True, slots=True)
class Scoring:
    """What scores the pictures of this process."""

    scorer: "ClipScorer | None" = None
    """None before the first picture."""
    digest: str | None = None
    """Of the model's files; None before it is needed."""
    training_ND: torch.Tensor | None = None
    """The embeddings of training pictures, each of length 1; None before the first picture, and
    where the device had too little memory for them."""
    has_failed: bool = False
    """Whether it failed once; nothing is scored then any more."""


@dataclass(kw_only=True, slots=True)
class PreviewState:
    """What this process makes previews with."""

    decode: Decoder | None = None
    """None before the first."""
    has_failed: bool = False
    """One could not be made, and no more are."""


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The part of a run that changes with each step. The tensors are in the backend."""

    throughput: Throughput
    step: int = 0
    """Optimizer steps whose numbers are read."""
    has_started: bool = False
    """Whether this process has taken a step."""
    saved_step: int = 0
    """Step of the newest checkpoint; 0: none."""
    loss: float | None = None
    """Training loss of the current step."""
    loss_before: dict[str, JsonValue] | None = None
    """Fixed validation loss before the first step, as its event reports it."""
    evaluations: Evaluations | None = None
    """Evaluation losses up to the current step; None before the first."""
    launched: Pending | None = None
    """The step after ``step``, once it is launched; ``complete_step`` reads it."""
    pending_event: StepMetrics | None = None
    """Metrics of the current step; None once they are reported."""
    pictures: PictureTimes = field(default_factory=PictureTimes)
    scoring: Scoring = field(default_factory=Scoring)
    previews: PreviewState = field(default_factory=PreviewState)


def open_run(job: Job, loaded: LoadedRun, events: EventWriter, control: Control) -> Run:
    identity = job.plan.identity
    sampler = sampler_of(identity, job.index)
    return Run(
        job=job,
        loaded=loaded,
        events=events,
        control=control,
        agreement=Agreement(control, loaded.backend.ranks),
        sampler=sampler,
        micro_batches_per_step=identity.micro_batches_per_step,
        last_step=steps_of(identity, sampler.timeline),
        evaluation_samples=evaluation_samples(
            job.index, identity.seed, samples_in_order(identity, job.index)
        ),
        evaluation_set=_evaluation_set(job),
    )


def _evaluation_set(job: Job) -> EvaluationSet | None:
    plan = job.plan.operation.evaluation
    if plan is None:
        return None
    regularisation = {each.id for each in job.plan.identity.backends if each.is_regularisation}
    return evaluation_set(plan, job.index, regularisation=regularisation)
